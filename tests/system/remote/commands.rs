//! Every command for a directory also works for a mirror on another machine: plan, stage, activate,
//! abandon, which, repair.

use std::fs;

use serde_json::{Value, json};

use super::extra_objects::Pair;
use super::{report, serves_tree};
use crate::harness::{Outcome, fingerprint};
use crate::trees::Tree;

const MIRRORS: [&str; 2] = ["one", "two"];

fn tree(version: &str) -> Tree {
    Tree::small().file("index.html", version)
}

/// Creates two mirrors that serve version 1, and writes version 2 of the tree.
fn published() -> Pair {
    let pair = Pair::new();
    for version in ["1", "2"] {
        pair.sandbox.write("tree", &tree(version));
        if version == "1" {
            push(&pair, &[]).expect(&[0]);
        }
    }
    pair
}

fn push(pair: &Pair, flags: &[&str]) -> Outcome {
    pair.ask(&["push", &pair.sandbox.path_text("tree")], flags)
}

#[track_caller]
fn check(pair: &Pair, serves: bool, sequence: u64) {
    for mirror in MIRRORS {
        assert_eq!(serves_tree(&pair.sandbox, mirror), serves, "{mirror}");
        assert_eq!(pair.sandbox.served(mirror).record.sequence, sequence, "{mirror}");
    }
}

fn of_each<'r>(report: &'r Value, key: &str) -> [&'r Value; 2] {
    [0, 1].map(|index| &report["mirrors"][index][key])
}

#[test]
fn plan_of_remote_mirrors_matches_the_push() {
    let pair = published();
    let tree = pair.sandbox.path_text("tree");
    let look = || MIRRORS.map(|mirror| fingerprint(&pair.sandbox.path(mirror)));
    let before = look();
    let plan = report(&pair.ask(&["plan", &tree], &["--json"]).expect(&[0]));
    assert_eq!(look(), before, "a plan changes nothing");
    assert_eq!((&plan["sequence"], &plan["changes"][0]["path"]), (&json!(2), &json!("index.html")));
    let pushed = report(&push(&pair, &["--json"]).expect(&[0]));
    for (planned, sent) in
        of_each(&plan, "send_bytes").into_iter().zip(of_each(&pushed, "sent_bytes"))
    {
        let (planned, sent) = (planned.as_u64().unwrap(), sent.as_u64().unwrap());
        // The plan includes the manifest delta.
        assert!(0 < sent && sent <= planned && planned - sent < 1_000, "{planned} {sent}");
    }
    check(&pair, true, 2);
}

#[test]
fn release_staged_on_remote_mirrors_is_activated_later() {
    let pair = published();
    push(&pair, &["--stage-only"]).expect(&[0]);
    check(&pair, false, 1);
    for mirror in MIRRORS {
        assert_eq!(fs::read(pair.sandbox.path(mirror).join("staged/index.html")).unwrap(), b"2");
    }
    let activated = report(&pair.ask(&["activate", "2"], &["--json"]).expect(&[0]));
    assert_eq!(of_each(&activated, "outcome"), ["activated"; 2]);
    check(&pair, true, 2);
}

#[test]
fn release_staged_on_remote_mirrors_is_abandoned() {
    let pair = published();
    push(&pair, &["--stage-only"]).expect(&[0]);
    let abandoned = report(&pair.ask(&["abandon", "2"], &["--json"]).expect(&[0]));
    assert_eq!(of_each(&abandoned, "outcome"), ["abandoned"; 2]);
    assert!(
        MIRRORS.iter().all(|mirror| pair
            .sandbox
            .path(mirror)
            .join("staged")
            .symlink_metadata()
            .is_err())
    );
    pair.ask(&["activate", "2"], &[]).expect(&[2]);
    check(&pair, false, 1);
    push(&pair, &[]).expect(&[0]);
    MIRRORS.iter().for_each(|mirror| assert!(serves_tree(&pair.sandbox, mirror), "{mirror}"));
}

#[test]
fn remote_mirrors_report_the_content_of_a_path() {
    let pair = published();
    let which = |path: &str| report(&pair.ask(&["which", path], &["--json"]));
    let object = |content: &str| json!(blake3::hash(content.as_bytes()).to_hex().to_string());
    let first = which("index.html");
    assert_eq!(of_each(&first, "object"), [&object("1"); 2], "{first}");
    push(&pair, &[]).expect(&[0]);
    let second = which("/");
    assert_eq!(of_each(&second, "object"), [&object("2"); 2], "{second}");
    assert_eq!(of_each(&second, "since"), [&json!(2); 2], "{second}");
    assert_eq!(of_each(&which("no/such"), "object"), [&Value::Null; 2]);
}

#[test]
fn remote_mirrors_are_repaired_from_the_tree() {
    let pair = published();
    push(&pair, &[]).expect(&[0]);
    let hex = blake3::hash(b"2").to_hex();
    for mirror in MIRRORS {
        let object = pair.sandbox.path(format!("{mirror}/.headwater/objects/{}/{hex}", &hex[..2]));
        for path in [object, pair.sandbox.path(format!("{mirror}/current/index.html"))] {
            fs::remove_file(&path).unwrap();
            fs::write(&path, "garbage").unwrap();
        }
    }
    pair.ask(&["verify"], &[]).expect(&[1]);
    let tree = pair.sandbox.path_text("tree");
    let repaired = report(&pair.ask(&["repair"], &["--from", &tree, "--json"]).expect(&[0]));
    assert_eq!(of_each(&repaired, "objects"), [&json!(1); 2], "{repaired}");
    assert_eq!(of_each(&repaired, "left"), [&json!([]); 2], "{repaired}");
    check(&pair, true, 2);
    pair.ask(&["verify"], &[]).expect(&[0]);
}
