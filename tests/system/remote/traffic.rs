//! Network traffic: number of requests, rate, and number of concurrent mirrors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use headwater::receiver::SiteSettings;
use serde_json::Value;

use super::{Receiver, push, report, serves_tree, ssh_flags, stand_in};
use crate::flaky_proxy::{Disruption, FlakyProxy};
use crate::harness::{Sandbox, events};
use crate::trees::{Rng, Tree, seed};

/// Returns a proxy to `receiver`, and the requests that pass it.
fn counted(receiver: &Receiver) -> (FlakyProxy, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&lines);
    let link = FlakyProxy::watched(receiver.address(), move |line| {
        kept.lock().unwrap().push(line.to_owned());
    });
    (link, lines)
}

#[test]
fn push_makes_the_minimum_of_requests() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let (link, lines) = counted(&receiver);
    let url = format!("http://{}/", link.address());
    let tree = Tree::random(&mut Rng::new(1), 50);
    let update =
        ["GET /v1/state HTTP/1.1", "POST /v1/stage HTTP/1.1", "POST /v1/activate HTTP/1.1"];
    let settled = [&update[..], &["POST /v1/settle HTTP/1.1"]].concat();
    // The third tree needs several packs: the stage request carries all of them.
    for (round, size, wanted) in [
        (1, 9, &settled[..]),
        (1, 9, &update[..1]),
        (2, 9, &settled),
        (3, 20 << 20, &settled),
        (3, 20 << 20, &update[..1]),
    ] {
        let tree = tree
            .clone()
            .file("index.html", format!("round {round}"))
            .file("large", Rng::new(round).bytes(size));
        sandbox.write("tree", &tree);
        let outcome = push(&sandbox, &[&url], &["--json"]).expect(&[0]);
        assert_eq!(*std::mem::take(&mut *lines.lock().unwrap()), *wanted, "round {round}");
        let packs = report(&outcome)["mirrors"][0]["sent_packs"].as_u64().unwrap();
        assert_eq!(packs > 1, wanted.len() > 1 && size > 9, "{outcome}");
    }
    assert!(serves_tree(&sandbox, "web"));
}

#[test]
fn large_content_uses_the_fewest_possible_requests() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let (link, lines) = counted(&receiver);
    let url = format!("http://{}/", link.address());
    sandbox.write("tree", &Tree::small().file("large", Rng::new(seed()).bytes(70 << 20)));
    push(&sandbox, &[&url], &[]).expect(&[0]);
    let lines = lines.lock().unwrap();
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        count("POST /v1/stage "),
        2,
        "one request with the first packs, and one to complete the stage: {lines:?}"
    );
    assert!((1..=3).contains(&count("PUT /v1/packs/")), "{lines:?}");
    assert!(serves_tree(&sandbox, "web"));
}

#[test]
fn sending_rate_stays_below_the_limit() {
    const RATE: u32 = 500_000;
    let tree = Tree::small().file("large", Rng::new(seed()).bytes(600_000));
    let flag = &["--bwlimit", "500kB"][..];
    for (flags, of_all, of_mirror) in [
        (flag, "", ""),
        (&[], "", "bwlimit = '500kB'"),
        (&[], "bwlimit = '500kB'", ""),
        (&[], "bwlimit = '500kB'", "bwlimit = '1GB'"),
        (flag, "bwlimit = '1GB'", ""),
    ] {
        let sandbox = Sandbox::new();
        let receiver = Receiver::start(&sandbox.path("web"));
        sandbox.write("tree", &tree);
        let mirror = format!("[[mirror]]\nname = 'web'\nurl = '{}'\n{of_mirror}\n", receiver.url());
        let config = format!("content = 'tree'\n{of_all}\n{mirror}");
        fs::write(sandbox.path("headwater.toml"), config).unwrap();
        let began = Instant::now();
        let outcome = sandbox.run(&[&["push", "--json"], flags].concat()).expect(&[0]);
        let took = began.elapsed();
        let sent =
            u32::try_from(report(&outcome)["mirrors"][0]["sent_bytes"].as_u64().unwrap()).unwrap();
        assert!(sent > 600_000, "{outcome}");
        // The bytes of a tenth of a second are sent at once.
        let least = Duration::from_secs(1) * (sent - RATE / 10) / RATE;
        assert!(took >= least, "{took:?} for {sent} bytes");
        assert!(serves_tree(&sandbox, "web"));
    }
}

#[test]
fn rate_flag_overrides_the_file() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    sandbox.write("tree", &Tree::small().file("large", Rng::new(seed()).bytes(600_000)));
    fs::write(sandbox.path("headwater.toml"), "bwlimit = '1kB'\n").unwrap();
    // At the configured rate it would take ten minutes.
    push(&sandbox, &[&receiver.url()], &["--bwlimit", "1GB", "--deadline", "2m"]).expect(&[0]);
    assert!(serves_tree(&sandbox, "web"));
}

/// Counts uploads that run at the same time.
#[derive(Default)]
pub(crate) struct ConcurrentUploads {
    here: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl ConcurrentUploads {
    /// Delays an upload until another one starts, or a timeout.
    pub(crate) fn hold(&self, patience: Duration) {
        let mut here = self.here.lock().unwrap();
        here.0 += 1;
        here.1 |= here.0 > 1;
        self.changed.notify_all();
        here =
            self.changed.wait_timeout_while(here, patience, |(_, have_met)| !*have_met).unwrap().0;
        here.0 -= 1;
    }
}

#[test]
fn content_is_sent_to_at_most_the_allowed_number_of_mirrors() {
    // If no other upload may start, the delay ends with the timeout; else it ends when another one
    // starts.
    let (one, two) = (Duration::from_millis(500), Duration::from_secs(60));
    for (flags, key, most, patience) in [
        (&["--max-parallel", "1"][..], "", 1, one),
        (&["--max-parallel", "2"], "", 2, two),
        (&[], "max_parallel = 1", 1, one),
        (&["--max-parallel", "2"], "max_parallel = 1", 2, two),
    ] {
        let sandbox = Sandbox::new();
        fs::write(sandbox.path("headwater.toml"), key).unwrap();
        sandbox.write("tree", &Tree::small());
        let receivers = ["one", "two"].map(|mirror| Receiver::start(&sandbox.path(mirror)));
        let meeting = Arc::new(ConcurrentUploads::default());
        let links = receivers.each_ref().map(|receiver| {
            let meeting = Arc::clone(&meeting);
            FlakyProxy::watched(receiver.address(), move |line| {
                if line.contains("/stage ") || line.contains("/packs") {
                    meeting.hold(patience);
                }
            })
        });
        let urls = links.each_ref().map(|link| format!("http://{}/", link.address()));
        push(&sandbox, &[&urls[0], &urls[1]], flags).expect(&[0]);
        assert_eq!(meeting.here.lock().unwrap().1, most == 2, "{flags:?}, {key}");
        assert!(serves_tree(&sandbox, "one") && serves_tree(&sandbox, "two"));
    }
}

#[test]
fn push_succeeds_despite_resets_and_delays() {
    for harm in [Disruption::Reset, Disruption::Delay] {
        let sandbox = Sandbox::new();
        sandbox.write("tree", &Tree::small());
        let receiver = Receiver::start(&sandbox.path("web"));
        let link = FlakyProxy::always(receiver.address(), harm);
        push(&sandbox, &[&format!("http://{}/", link.address())], &[]).expect(&[0]);
        assert!(serves_tree(&sandbox, "web"), "{harm:?}");
    }
}

#[test]
fn concurrent_pushes_of_one_tree_succeed_or_are_superseded() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let url = receiver.url();
    sandbox.write("tree", &Tree::small().file("large", Rng::new(seed()).bytes(40 << 20)));
    let begin = |cache| push(&sandbox, &[&url], &["--cache", cache]);
    std::thread::scope(|scope| {
        let pushes = ["one", "two"].map(|cache| scope.spawn(move || begin(cache)));
        let outcomes = pushes.map(|pushed| pushed.join().unwrap().expect(&[0, 6]));
        assert!(
            outcomes.iter().any(|outcome| outcome.code() == Some(0)),
            "{} {}",
            outcomes[0],
            outcomes[1]
        );
    });
    assert!(serves_tree(&sandbox, "web"));
}

#[test]
fn push_without_space_sends_no_content() {
    const QUOTA: u64 = 10 << 20;
    let limits: [fn(&mut SiteSettings); 2] =
        [|site| site.min_free_bytes = u64::MAX / 2, |site| site.quota_bytes = Some(QUOTA)];
    for (limit, is_published) in
        [(limits[0], false), (limits[0], true), (limits[1], false), (limits[1], true)]
    {
        let sandbox = Sandbox::new();
        if is_published {
            sandbox.publish(&Tree::small(), &["web"], &["--site", "docs"]);
        }
        let receiver =
            Receiver::with(&sandbox.path("web"), |settings| limit(&mut settings.sites[0]));
        let (link, lines) = counted(&receiver);
        sandbox.write("tree", &Tree::small().file("large", Rng::new(seed()).bytes(20 << 20)));
        let url = format!("http://{}/", link.address());
        let outcome = push(&sandbox, &[&url], &["--json", "--site", "docs"]).expect(&[4]);
        let mirror = &report(&outcome)["mirrors"][0];
        assert_eq!(
            (&mirror["failure"], &mirror["sent_packs"]),
            (&"no_space".into(), &0.into()),
            "{outcome}"
        );
        assert!(
            link.bytes() < 100_000,
            "{} bytes were sent to a receiver without space",
            link.bytes()
        );
        assert_eq!(lines.lock().unwrap().last().unwrap(), "POST /v1/stage HTTP/1.1");
    }
}

/// Checks the events of a push about packs that are being sent to a mirror. Returns how often the
/// progress of a pack changed.
fn moves(events: &[Value], mirror: &str) -> usize {
    let of = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let sealed = events.iter().filter(|event| event["event"] == "pack_sealed");
    let size: BTreeMap<String, u64> =
        sealed.map(|event| (of(event, "pack"), event["bytes"].as_u64().unwrap())).collect();
    let total: u64 = size.values().sum();
    let (mut moving, mut sent, mut moves) = (BTreeMap::new(), BTreeSet::new(), 0);
    for event in events.iter().filter(|event| event["mirror"] == mirror) {
        let pack = of(event, "pack");
        match event["event"].as_str().unwrap() {
            "pack_advanced" => {
                let bytes = event["bytes"].as_u64().unwrap();
                assert!(bytes <= size[&pack] && !sent.contains(&pack), "{event}");
                moving.insert(pack, bytes);
                moves += 1;
            }
            "pack_sent" => assert!(
                sent.insert(pack.clone()) && moving.remove(&pack) <= Some(size[&pack]),
                "{event}"
            ),
            _ => {}
        }
        let done = moving.values().sum::<u64>() + sent.iter().map(|pack| size[pack]).sum::<u64>();
        assert!(done <= total, "{done} of {total} bytes: {event}");
    }
    assert!(
        moving.is_empty() && sent.len() == size.len(),
        "{mirror}: {} of {} packs",
        sent.len(),
        size.len()
    );
    moves
}

#[test]
fn progress_is_reported_while_a_pack_is_sent() {
    let sandbox = Sandbox::new();
    let mut rng = Rng::new(seed());
    sandbox.write(
        "tree",
        &Tree::small().file("large", rng.bytes(30 << 20)).file("larger", rng.bytes(40 << 20)),
    );
    let ssh = stand_in(&sandbox, "ssh", "");
    let (calm, harmed) =
        (Receiver::start(&sandbox.path("calm")), Receiver::start(&sandbox.path("harmed")));
    // Every request is interrupted at first, so packs are sent again.
    let link = FlakyProxy::always(harmed.address(), Disruption::CutRequest);
    let places = [
        calm.url(),
        format!("http://{}/", link.address()),
        format!("ssh://edge2{}", sandbox.path_text("shell")),
    ];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    push(&sandbox, &places, &[&ssh_flags(&ssh)[..], &["--events", "events.jsonl"]].concat())
        .expect(&[0]);
    let events = events(&sandbox.path("events.jsonl"));
    for place in places {
        // 70 MiB in steps of at least 256 KiB, where a pack may end within a step.
        let moves = moves(&events, place);
        assert!(moves > 150, "{place}: {moves}");
    }
    assert!(["calm", "harmed", "shell"].iter().all(|mirror| serves_tree(&sandbox, mirror)));
}
