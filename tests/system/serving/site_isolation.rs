//! Isolation of the sites of a receiver: data sent with the token of one site cannot harm another.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headwater::hash::BundleKey;
use headwater::release::Release;
use headwater::tree_path::Site;
use headwater::varint;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use serde_json::{Value, json};

use super::program::Program;
use super::resource_use::peak_kib;
use super::{Answer, Complete, Connection, Receiver, activation, head, stage_body};
use crate::harness::Sandbox;
use crate::origin::{Delivery, Tree, Version, noise};

/// Operations of a manifest delta, as its format defines them.
const END: u8 = 0;
const KEEP: u8 = 1;
const ADD: u8 = 3;
/// The fields of a file with new content and the time of the release.
const NEW_FILE: u8 = 0x10 | 8;
/// The fields of a file with the content of an earlier new object.
const SAME_NEW_FILE: u8 = 0x20 | 8;

/// The maximum memory of a receiver under attack, in KiB.
const MAX_KIB: usize = 300 << 10;

/// Returns a manifest delta of these operations that announces `objects` new objects.
fn change_of(objects: u32, operations: &[u8]) -> Vec<u8> {
    let mut number = Vec::new();
    varint::push(objects.into(), &mut number);
    let plain = [b"HWMC\x01", &[0; 32][..], &[50], &number, operations, &[END]].concat();
    zstd::encode_all(&plain[..], 9).unwrap()
}

/// Returns a delta with 15 million new files without content: about four kilobytes that need
/// gigabytes of memory.
fn bomb() -> Vec<u8> {
    const FILES: u32 = 15_000_000;
    let file = [ADD, 0, 1, b'a', NEW_FILE, 0];
    change_of(FILES, &file.repeat(FILES as usize))
}

/// Returns a release of the site `other` with this many entries.
fn release_of(entries: u64, sequence: u64) -> Release {
    let mut release = Tree::default().file("a", "a", 1).release(sequence).release;
    release.site = Site::new("other").unwrap();
    release.entries = entries;
    release
}

/// Returns the body of a stage request for `release` with `change`, without packs.
fn stage_of(release: &Release, key: &str, change: &[u8]) -> Vec<u8> {
    let head = json!({
        "release": String::from_utf8(release.to_bytes()).unwrap(),
        "key": BundleKey::of(key.as_bytes()).to_string(),
        "base": Value::Null,
        "change_bytes": change.len(),
        "has_packs": false,
        "is_whole": false,
    });
    let head = head.to_string().into_bytes();
    [&u32::try_from(head.len()).unwrap().to_be_bytes()[..], &head, change].concat()
}

/// Sends the start of a stage request whose head has four MiB that never arrive.
fn begin_slow_head(connection: &mut Connection, base: &str, fields: &[(&str, &str)]) {
    connection.send(&head("POST", &format!("{base}v1/stage"), fields, 8 << 20));
    connection.send(&(4u32 << 20).to_be_bytes());
    connection.send(&[b' '; 1000]);
}

/// Starts a receiver of the site `other`, below the path of its name, and of `docs`.
fn two_sites(memory_bytes: u64) -> Receiver {
    Receiver::new(|settings| {
        let mut other = settings.sites[0].clone();
        other.name = Some(Site::new("other").unwrap());
        other.directory.set_file_name("other");
        other.base = "/other/".to_owned();
        settings.sites.insert(0, other);
        settings.limits.memory_bytes = memory_bytes;
    })
}

#[test]
fn unfinished_heads_take_no_memory_from_another_site() {
    let receiver = two_sites(24 << 20);
    let mut slow: Vec<Connection> = (0..3).map(|_| receiver.connect()).collect();
    for connection in &mut slow {
        begin_slow_head(connection, "/other/", &[("expect", "100-continue")]);
    }
    // When all of them are open, their own site has no memory left.
    super::wait_until("the memory of the other site is taken", || {
        let stage = stage_of(&release_of(1, 1), "full", &change_of(0, &[]));
        receiver.ask("POST", "/other/v1/stage", &stage).refusal() == (503, "busy".to_owned())
    });
    let first = Tree::default().file("index.html", "one", 1).release(1);
    super::pushes::publish(&mut receiver.connect(), &first.bundle_from(None), None);
    super::assert_serves(&receiver.mirror(), 1);
}

#[test]
fn manifest_delta_beyond_the_memory_limit_is_refused_unread() {
    let receiver = two_sites(200 << 20);
    let bomb = bomb();
    assert!(bomb.len() < 8 << 10, "{} bytes", bomb.len());
    let refused = receiver.ask(
        "POST",
        "/other/v1/stage",
        &stage_of(&release_of(15_000_000, 1), "bomb", &bomb),
    );
    assert_eq!(refused.refusal(), (413, "too_large".to_owned()));
    let words = refused.json()["error"]["message"].to_string();
    assert!(words.contains("bytes of memory"), "{words}");
    // A delta that needs little memory still must not decode to a hundred megabytes.
    let file = [&[ADD, 0, 0xe8, 7][..], &[b'a'; 1000], &[SAME_NEW_FILE, 0]].concat();
    let long = change_of(1, &[&[ADD, 0, 1, b'a', NEW_FILE, 1], &file.repeat(100_000)[..]].concat());
    let refused =
        receiver.ask("POST", "/other/v1/stage", &stage_of(&release_of(100_001, 1), "long", &long));
    assert_eq!(refused.refusal(), (400, "malformed".to_owned()));
}

#[test]
fn open_stages_with_large_deltas_leave_memory_for_other_sites() {
    let receiver = two_sites(48 << 20);
    let mut refused = 0;
    for number in 0..20u32 {
        // 50,000 new files each: about 7 MB of memory while the stage is open.
        let change = change_of(50_000, &names(number * 50_000, (number + 1) * 50_000));
        let stage = stage_of(&release_of(50_000, 1), &format!("open {number}"), &change);
        refused += usize::from(receiver.ask("POST", "/other/v1/stage", &stage).status != 200);
    }
    assert!(refused > 0, "the site can use all of the memory");
    let first = Tree::default().file("index.html", "one", 1).release(1);
    super::pushes::publish(&mut receiver.connect(), &first.bundle_from(None), None);
    super::assert_serves(&receiver.mirror(), 1);
}

/// Returns a token of this site, and its table for serve.toml.
fn token(sandbox: &Sandbox, site: &str) -> (String, String) {
    let made = sandbox.run(&["token", "new", "--site", site, "--allow", "push"]).expect(&[0]);
    (format!("Bearer {}", made.stdout.trim()), made.stderr)
}

/// The client of one site.
struct Client {
    address: SocketAddr,
    base: String,
    token: String,
}

impl Client {
    fn connect(&self) -> Connection {
        Connection::to(self.address)
    }

    fn ask(
        &self,
        connection: &mut Connection,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Option<Answer> {
        let path = format!("{}{path}", self.base);
        let head = head(method, &path, &[("authorization", &self.token)], body.len());
        connection.stream.get_mut().write_all(&head).ok()?;
        connection.stream.get_mut().write_all(body).ok();
        connection.answer()
    }

    /// Publishes the releases with these sequences, each with one changed file. Returns the time
    /// that each took.
    fn publish(&self, sequences: Range<u64>) -> Vec<Duration> {
        let mut connection = self.connect();
        let mut last = (sequences.start > 1).then(|| page_tree(sequences.start - 1));
        let mut one = |sequence| {
            let next = page_tree(sequence);
            let delivery = next.bundle_from(last.as_ref());
            let began = Instant::now();
            self.publish_one(&mut connection, &delivery, last.as_ref());
            last = Some(next);
            began.elapsed()
        };
        sequences.map(&mut one).collect()
    }

    fn publish_one(
        &self,
        connection: &mut Connection,
        delivery: &Delivery,
        last: Option<&Version>,
    ) {
        let expected = last.map(|last| last.name().to_string());
        let mut ask = |path: &str, body: &[u8]| {
            self.ask(connection, "POST", path, body).expect("an answer").ok();
        };
        ask("v1/stage", &stage_body(delivery, &delivery.packs, Complete::Yes));
        ask("v1/activate", &activation(delivery, expected.as_deref()));
        ask("v1/settle", br#"{"keep":3}"#);
    }
}

/// Fifty pages, one of which changes with the sequence.
fn page_tree(sequence: u64) -> Version {
    let tree = (0..50).fold(Tree::default(), |tree, page| {
        let text = if page == sequence % 50 {
            format!("page {page} of {sequence}")
        } else {
            format!("page {page}")
        };
        tree.file(&format!("page{page:02}.html"), text.repeat(100), 1)
    });
    tree.release(sequence)
}

/// The parts of the hostile requests to one site.
struct Attack {
    client: Client,
    many_runs: Vec<u8>,
    bomb: Vec<u8>,
    large: Vec<u8>,
    garbage: Vec<u8>,
    requests: AtomicUsize,
}

impl Attack {
    /// Kinds of hostile requests, each with its own loop.
    const KINDS: usize = 8;
    /// This kind has eight loops.
    const SLOW_HEAD: usize = 3;

    fn new(client: Client) -> Self {
        Self {
            client,
            many_runs: change_of(0, &[KEEP, 1].repeat(128 << 10)),
            bomb: bomb(),
            large: change_of(50_000, &names(0, 50_000)),
            garbage: noise(1 << 20, 9),
            requests: AtomicUsize::new(0),
        }
    }

    /// Sends one request of this kind, and ignores the response.
    fn send(&self, kind: usize, number: u64) {
        let client = &self.client;
        let mut connection = client.connect();
        let mut ask =
            |method, path: &str, body: &[u8]| drop(client.ask(&mut connection, method, path, body));
        let key = BundleKey::of(b"none");
        match kind {
            0 => ask(
                "POST",
                "v1/stage",
                &stage_of(&release_of(15_000_000, number), "runs", &self.many_runs),
            ),
            1 => ask(
                "POST",
                "v1/stage",
                &stage_of(&release_of(15_000_000, number), "bomb", &self.bomb),
            ),
            2 => {
                let key = format!("large {}", number % 40);
                ask("POST", "v1/stage", &stage_of(&release_of(50_000, 1), &key, &self.large));
            }
            Self::SLOW_HEAD => {
                begin_slow_head(&mut connection, &client.base, &[("authorization", &client.token)]);
                super::sleep_for(Duration::from_millis(200));
            }
            4 => ask("POST", "v1/verify", br#"{"quick":false}"#),
            5 => ask("POST", "v1/holds", &self.garbage),
            6 => ask("PUT", &format!("v1/packs/{key}"), &self.garbage[..256 << 10]),
            _ => {
                let questions = b"GET /healthz HTTP/1.1\r\nhost: mirror\r\n\r\n".repeat(100);
                connection.stream.get_mut().write_all(&questions).ok();
                (0..100).for_each(|_| drop(connection.answer()));
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends requests of all kinds until `work` ends. The attacking threads have low priority,
    /// because their computing time is not what the test measures.
    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let ends = AtomicBool::new(false);
        let in_loop = |kind| {
            setpriority_process(Some(gettid()), 19).unwrap();
            (1..)
                .take_while(|_| !ends.load(Ordering::Relaxed))
                .for_each(|number| self.send(kind, number));
        };
        std::thread::scope(|scope| {
            for kind in (0..Self::KINDS).chain([Self::SLOW_HEAD; 7]) {
                scope.spawn(move || in_loop(kind));
            }
            let before = self.requests.load(Ordering::Relaxed);
            super::wait_until("the attack has started", || {
                self.requests.load(Ordering::Relaxed) > before + 50
            });
            let result = work();
            ends.store(true, Ordering::Relaxed);
            result
        })
    }
}

/// Operations that add files with these numbers, each with a new object of one byte.
fn names(from: u32, to: u32) -> Vec<u8> {
    let one =
        |file: u32| [&[ADD, 0, 8][..], format!("{file:08}").as_bytes(), &[NEW_FILE, 1]].concat();
    (from..to).flat_map(one).collect()
}

#[test]
#[ignore = "takes a minute, and its figures are of the machine"]
fn attacks_on_one_site_do_not_fail_or_slow_another() {
    const ROUNDS: u64 = 8;
    const RELEASES: u64 = 25;
    let sandbox = Sandbox::new();
    let (good, bad) = (token(&sandbox, "docs"), token(&sandbox, "other"));
    let sites = "[[site]]\nname = 'docs'\ndir = 'docs'\n[[site]]\nname = 'other'\ndir = 'other'\n";
    fs::write(sandbox.path("serve.toml"), format!("{sites}{}{}", good.1, bad.1)).unwrap();
    let server = Program::launch(&sandbox, &["--config", &sandbox.path_text("serve.toml")], "");
    let client = |base: &str, token: String| Client {
        address: server.address,
        base: base.to_owned(),
        token,
    };
    let (good, attack) = (client("/docs/", good.0), Attack::new(client("/other/", bad.0)));
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // Alternates, so that other load of the machine affects both measurements.
    for round in 0..ROUNDS {
        let first = 2 * round * RELEASES + 1;
        alone.extend(good.publish(first..first + RELEASES));
        beside.extend(attack.during(|| good.publish(first + RELEASES..first + 2 * RELEASES)));
    }
    super::assert_serves(&sandbox.path("docs"), 2 * ROUNDS * RELEASES);
    let peak = peak_kib(server.id());
    alone.sort_unstable();
    beside.sort_unstable();
    let at = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
    println!(
        "{} releases alone: median {:?}, p95 {:?}; as many beside {} hostile requests: median \
         {:?}, p95 {:?}; peak {peak} KiB",
        alone.len(),
        at(&alone, 50),
        at(&alone, 95),
        attack.requests.load(Ordering::Relaxed),
        at(&beside, 50),
        at(&beside, 95),
    );
    assert!(peak < MAX_KIB, "{peak} KiB");
    assert!(at(&beside, 50) < 2 * at(&alone, 50), "more than twice the usual time");
}
