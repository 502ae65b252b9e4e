//! Delta compression of blocks in whole pushes: only changed parts of files are sent, and damage to
//! the cache or to a mirror costs bandwidth, never content.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Outcome, Sandbox};
use crate::remote::{Receiver, push, report, serves_tree, ssh_flags, stand_in};
use crate::trees::{Rng, Tree};

/// The level at which blocks use old content even for a directory mirror.
const LEVEL: [&str; 5] = ["--json", "--level", "3", "--again", "--allow-shrink"];

/// Returns pages that share only one line, which contains the version.
pub(crate) fn pages(version: &str) -> Tree {
    let mut rng = Rng::new(11);
    (0..120).fold(Tree::default(), |tree, number| {
        let words: String = rng.bytes(1500).iter().map(|byte| format!("{byte:02x}")).collect();
        let (head, tail) = words.split_at(700);
        tree.file(
            &format!("docs/{number}.html"),
            format!("<p>{head}\n<footer>{version}</footer>\n{tail}\n"),
        )
    })
}

/// Mirrors behind one receiver each, and the origin.
struct Fleet {
    sandbox: Sandbox,
    mirrors: Vec<&'static str>,
    receivers: Vec<Receiver>,
}

impl Fleet {
    fn new(mirrors: &[&'static str]) -> Self {
        let sandbox = Sandbox::new();
        let receivers =
            mirrors.iter().map(|mirror| Receiver::start(&sandbox.path(mirror))).collect();
        Self { sandbox, mirrors: mirrors.to_vec(), receivers }
    }

    /// Creates the fleet and pushes the first version.
    fn begun(mirrors: &[&'static str]) -> Self {
        let fleet = Self::new(mirrors);
        fleet.publish("1");
        fleet
    }

    fn urls(&self) -> Vec<String> {
        self.receivers.iter().map(Receiver::url).collect()
    }

    /// Pushes the written tree.
    #[track_caller]
    fn push(&self, fault: &str, flags: &[&str]) -> Pushed {
        let (tree, urls) = (self.sandbox.path_text("tree"), self.urls());
        let places: Vec<&str> = urls.iter().map(|url| &**url).collect();
        let arguments = [&["push", &tree], &places[..], flags].concat();
        let outcome = match fault {
            "" => self.sandbox.run(&arguments),
            _ => self.sandbox.run_with_fault(fault, &arguments),
        };
        Pushed::new(outcome)
    }

    /// Pushes the written tree, and asserts that all mirrors serve exactly that.
    #[track_caller]
    fn push_with(&self, fault: &str, flags: &[&str]) -> Pushed {
        let pushed = self.push(fault, flags);
        self.mirrors.iter().for_each(|mirror| {
            assert!(serves_tree(&self.sandbox, mirror), "{mirror}: {}", pushed.outcome);
        });
        pushed
    }

    /// Pushes a version of the pages.
    #[track_caller]
    fn publish(&self, version: &str) -> Pushed {
        self.sandbox.write("tree", &pages(version));
        self.push_with("", &["--json"])
    }

    /// Returns the files in which the cache keeps old content.
    fn kept(&self) -> Vec<PathBuf> {
        let list = |dir: PathBuf| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let of_sites = list(self.sandbox.path("cache/headwater")).map(|site| site.join("content"));
        let all: Vec<PathBuf> = of_sites.filter(|dir| dir.exists()).flat_map(list).collect();
        assert!(
            all.iter().all(|path| !path.to_string_lossy().ends_with(".draft")),
            "left behind: {all:?}"
        );
        all.into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "content"))
            .collect()
    }
}

/// A push that succeeded.
struct Pushed {
    outcome: Outcome,
    report: Value,
}

impl Pushed {
    #[track_caller]
    fn new(outcome: Outcome) -> Self {
        let outcome = outcome.expect(&[0]);
        let report = report(&outcome);
        Self { outcome, report }
    }

    fn sum(&self, key: &str) -> u64 {
        self.report["mirrors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mirror| mirror[key].as_u64().unwrap())
            .sum()
    }

    /// Asserts that the push sent only deltas.
    #[track_caller]
    fn check_small(&self) {
        let (sent, new) = (self.sum("sent_bytes"), self.sum("new_bytes"));
        assert!(sent > 0 && sent * 20 < new, "{sent} bytes for {new}: {}", self.outcome);
    }

    /// Asserts that the push sent the changed blocks: it used block signatures of a mirror.
    #[track_caller]
    fn check_signed(&self) {
        let (sent, new) = (self.sum("sent_bytes"), self.sum("new_bytes"));
        let is_signed = sent * 4 < new && sent * 20 > new;
        assert!(is_signed, "{sent} bytes for {new}: {}", self.outcome);
    }

    /// Asserts that the push sent files whole, or large parts of them.
    #[track_caller]
    fn check_large(&self) {
        let (sent, new) = (self.sum("sent_bytes"), self.sum("new_bytes"));
        assert!(sent * 4 > new, "{sent} bytes for {new}: {}", self.outcome);
    }
}

/// The response time of a mirror does not change the packs.
#[test]
fn slow_mirror_gets_the_same_packs() {
    let sent = |before: &str, name: &str| {
        let sandbox = Sandbox::new();
        let (ssh, program) =
            (format!("ssh://edge{}", sandbox.path_text("far")), stand_in(&sandbox, "ssh", before));
        for version in ["1", "2"] {
            sandbox.write("tree", &pages(version));
            // Under load the link may be measured as slow, and a slow link gets a higher level.
            let flags = ["--json", "--events", name, "--level", "3"];
            let flags = [&flags[..], &ssh_flags(&program)].concat();
            let pushed = Pushed::new(push(&sandbox, &[&ssh], &flags));
            assert!(serves_tree(&sandbox, "far"), "{}", pushed.outcome);
            if version == "2" {
                pushed.check_small();
            }
        }
        let events = crate::harness::events(&sandbox.path(name));
        let packs = events.iter().filter(|event| event["event"] == "pack_sent");
        packs.map(|event| event["pack"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let slow = sent("sleep 1", "slow.events");
    assert!(!slow.is_empty());
    assert_eq!(slow, sent("", "quick.events"));
}

#[test]
fn only_changed_ranges_of_files_are_sent() {
    let fleet = Fleet::begun(&["one", "two"]);
    let second = fleet.publish("2");
    second.check_small();
    assert_eq!(second.sum("new_bytes"), 2 * second.report["new_bytes"].as_u64().unwrap());
    assert!(!fleet.kept().is_empty());
    // The text output and the plan say so, too.
    fleet.sandbox.write("tree", &pages("3"));
    let (tree, urls) = (fleet.sandbox.path_text("tree"), fleet.urls());
    let planned = report(&fleet.sandbox.run(&["plan", &tree, &urls[0], "--json"]).expect(&[0]));
    let plan = &planned["mirrors"][0];
    assert_eq!(
        (plan["bases"]["same_path"].as_u64(), plan["bases"]["none"].as_u64()),
        (Some(120), Some(0))
    );
    assert!(
        plan["send_bytes"].as_u64().unwrap() * 20 < plan["content_bytes"].as_u64().unwrap(),
        "{plan}"
    );
    let shown = fleet.sandbox.run(&["plan", &tree, &urls[0]]).expect(&[0]);
    assert!(shown.stdout.contains("deltas: 120 from the same path"), "{shown}");
    let pushed = push(&fleet.sandbox, &[&urls[0], &urls[1]], &[]).expect(&[0]);
    assert!(pushed.stdout.contains(" of new content"), "{pushed}");
}

#[test]
fn other_checkouts_and_heal_use_the_cached_content() {
    let fleet = Fleet::begun(&["one", "two"]);
    let urls = fleet.urls();
    fleet.sandbox.write("tree", &pages("2"));
    push(&fleet.sandbox, &[&urls[0]], &[]).expect(&[0]);
    let healed = Pushed::new(fleet.sandbox.run(&["heal", &urls[0], &urls[1], "--json"]));
    healed.check_small();
    assert!(serves_tree(&fleet.sandbox, "two"), "{}", healed.outcome);
    fleet.sandbox.write("checkout", &pages("3"));
    let checkout = fleet.sandbox.path_text("checkout");
    let pushed = fleet.sandbox.run(&["push", &checkout, &urls[0], &urls[1], "--json"]);
    Pushed::new(pushed).check_small();
}

#[test]
fn push_without_compression_sends_no_deltas() {
    let fleet = Fleet::begun(&["one"]);
    fleet.sandbox.write("tree", &pages("2"));
    let raw = fleet.push_with("", &["--json", "--level", "raw"]);
    assert!(raw.sum("sent_bytes") >= raw.sum("new_bytes"), "{}", raw.outcome);
    // Content that was sent whole is kept in the cache, too.
    fleet.publish("3").check_small();
}

#[test]
fn damaged_mirror_object_is_reported_and_sent_again() {
    let fleet = Fleet::begun(&["one", "two"]);
    let second = fleet.publish("2");
    second.check_small();
    let page = fs::read(fleet.sandbox.path("tree/docs/7.html")).unwrap();
    let hex = blake3::hash(&page).to_hex().to_string();
    let object = fleet.sandbox.path("one/.headwater/objects").join(&hex[..2]).join(&hex);
    let mut bytes = page;
    bytes[1000] ^= 1;
    fs::remove_file(&object).unwrap();
    fs::write(&object, bytes).unwrap();
    fleet.sandbox.write("tree", &pages("3"));
    let third = fleet.push("", &["--json"]);
    assert!(
        third.outcome.stderr.contains(&format!("object {hex} is damaged or missing")),
        "{}",
        third.outcome
    );
    assert!(third.outcome.stderr.contains("sending anew what builds on them"), "{}", third.outcome);
    let sent = |index: usize| third.report["mirrors"][index]["sent_bytes"].as_u64().unwrap();
    assert!(sent(0) > sent(1), "the damaged content was sent whole: {}", third.outcome);
    third.check_small();
    assert!(
        third.report["mirrors"]
            .as_array()
            .unwrap()
            .iter()
            .all(|mirror| mirror["outcome"] == "activated")
    );
    // The previous release lacks the object now, and `verify` reports that, until a mirror that has
    // the object provides it.
    let (one, two) = (fleet.sandbox.path_text("one"), fleet.sandbox.path_text("two"));
    let verified = fleet.sandbox.run(&["verify", &one]).expect(&[1]);
    assert!(verified.stdout.contains(&hex), "{verified}");
    fleet.sandbox.run(&["repair", &one, "--from", &two]).expect(&[0]);
    fleet.sandbox.run(&["verify", &one, &two]).expect(&[0]);
    assert!(fleet.mirrors.iter().all(|mirror| serves_tree(&fleet.sandbox, mirror)));
}

/// A kind of damage to a file of the cache, with its name.
type CacheDamage = (&'static str, fn(&Path));

fn spoil(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_cache_is_reported_and_costs_only_bytes() {
    let harms: [CacheDamage; 5] = [
        ("content", |path| (0..60).for_each(|part| spoil(path, |end| part * end / 80))),
        ("table", |path| spoil(path, |end| end - 60)),
        ("end", |path| spoil(path, |end| end - 1)),
        ("cut", |path| fs::File::options().write(true).open(path).unwrap().set_len(5000).unwrap()),
        ("gone", |path| fs::remove_file(path).unwrap()),
    ];
    let fleet = Fleet::begun(&["one"]);
    for (round, (name, harm)) in harms.iter().enumerate() {
        let kept = fleet.kept();
        assert!(!kept.is_empty(), "{name}");
        kept.iter().for_each(|path| harm(path));
        let pushed = fleet.publish(&format!("after {name} {round}"));
        // Damage of the content itself is found only when a block is built.
        if *name == "content" {
            pushed.check_large();
        } else {
            pushed.check_signed();
        }
        assert_eq!(
            pushed.outcome.stderr.contains("the cache of old content"),
            *name != "gone",
            "{}",
            pushed.outcome
        );
        let next = fleet.publish(&format!("next {round}"));
        next.check_small();
        assert!(
            !next.outcome.stderr.contains("cache of old content"),
            "reported twice: {}",
            next.outcome
        );
    }
}

#[cfg(debug_assertions)]
#[test]
fn full_cache_disk_is_reported_and_costs_only_bytes() {
    let fleet = Fleet::begun(&["one"]);
    fleet.sandbox.write("tree", &pages("2"));
    let full = fleet.push_with("errno=28@write", &["--json"]);
    assert!(full.outcome.stderr.contains("not kept for the next push"), "{}", full.outcome);
    full.check_small();
    fleet.publish("3").check_signed();
    fleet.publish("4").check_small();
}

#[test]
fn disabled_cache_keeps_no_content() {
    let fleet = Fleet::new(&["one"]);
    fs::write(fleet.sandbox.path("headwater.toml"), "[cache]\ncontent = \"0\"\n").unwrap();
    fleet.publish("1");
    fleet.publish("2").check_signed();
    assert!(fleet.kept().is_empty());
}

/// Makes changes of the kinds for which bases are used, and others.
fn change(tree: &mut Tree, rng: &mut Rng) {
    let page = |(path, node): (&String, &crate::trees::Node)| {
        (path.starts_with("docs") && matches!(node, crate::trees::Node::File { .. }))
            .then(|| path.clone())
    };
    let paths: Vec<String> = tree.nodes.iter().filter_map(page).collect();
    if paths.is_empty() {
        // A directory that became a file, and was removed.
        return drop(tree.mutate(rng));
    }
    let path = rng.pick(&paths);
    let content = |tree: &Tree| match &tree.nodes[&path] {
        crate::trees::Node::File { bytes, .. } => bytes.clone(),
        crate::trees::Node::Link(_) => unreachable!("pages are files"),
    };
    let mut bytes = content(tree);
    match rng.below(7) {
        // An edit inside a file.
        0 | 1 => {
            let at = rng.below(bytes.len() + 1);
            bytes.splice(at..at, format!("inserted {}", rng.next()).into_bytes());
            tree.put(&path, bytes);
        }
        // A rename, with an edit or without.
        2 => {
            tree.nodes.remove(&path);
            if rng.chance(50) {
                bytes.truncate(bytes.len() / 2);
            }
            tree.put(&format!("docs-moved-{}.html", rng.next()), bytes);
        }
        // A file name with a hash, as made by a bundler.
        3 => {
            bytes.extend_from_slice(b"// edited");
            tree.put(&format!("docs-app.{:08x}.js", rng.next() & 0xffff_ffff), bytes);
        }
        // A copy.
        4 => tree.put(&format!("docs-copy-{}.html", rng.next()), bytes),
        // A new file made of two others.
        5 => {
            let other = rng.pick(&paths);
            if let crate::trees::Node::File { bytes: more, .. } = &tree.nodes[&other] {
                bytes.extend_from_slice(more);
            }
            tree.put(&format!("docs-both-{}.html", rng.next()), bytes);
        }
        _ => drop(tree.mutate(rng)),
    }
}

/// Pushes a series of changes to a directory, a mirror behind a receiver and one behind `ssh`, at
/// times without the cache.
fn stays_identical(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let fleet = Fleet::new(&["one", "two"]);
    let (directory, url) = (fleet.sandbox.path_text("www"), fleet.receivers[0].url());
    let (ssh, program) = (
        format!("ssh://edge2{}", fleet.sandbox.path_text("far")),
        stand_in(&fleet.sandbox, "ssh", ""),
    );
    let flags = [&LEVEL[..], &ssh_flags(&program)].concat();
    let mut tree = pages("1");
    let random = Tree::random(&mut rng, 10);
    tree.nodes.extend(random.nodes);
    for step in 0..steps {
        (0..1 + rng.below(12)).for_each(|_| change(&mut tree, &mut rng));
        fleet.sandbox.write("tree", &tree);
        if rng.chance(25) {
            fs::remove_dir_all(fleet.sandbox.path("cache/headwater")).ok();
        }
        // A lagging mirror has another base than the others.
        let (places, mirrors): (Vec<&str>, &[&str]) = match rng.below(3) {
            0 => (vec![&directory, &ssh], &["www", "far"]),
            1 => (vec![&url, &ssh], &["one", "far"]),
            _ => (vec![&directory, &url], &["www", "one"]),
        };
        let outcome = push(&fleet.sandbox, &places, &flags);
        assert_eq!(outcome.code(), Some(0), "seed {seed}, step {step}: {outcome}");
        mirrors.iter().for_each(|mirror| {
            assert!(serves_tree(&fleet.sandbox, mirror), "seed {seed}, step {step}");
        });
    }
    fleet.sandbox.write("tree", &tree.file("end.html", "end"));
    push(&fleet.sandbox, &[&directory, &url, &fleet.receivers[1].url(), &ssh], &flags).expect(&[0]);
    for mirror in ["www", "one", "two", "far"] {
        assert!(serves_tree(&fleet.sandbox, mirror), "seed {seed}: {mirror}");
        fleet.sandbox.run(&["verify", &fleet.sandbox.path_text(mirror)]).expect(&[0]);
    }
}

#[test]
fn random_changes_to_old_content_arrive_byte_for_byte() {
    let seed = crate::trees::seed();
    (0..3).for_each(|round| stays_identical(seed.wrapping_add(round), 8));
}
