//! G6: a pack that arrived complete is not sent again, whichever origin pushes next.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::checker;
use crate::harness::{Sandbox, events};
use crate::trees::{Rng, Tree};

/// Incompressible content for several packs.
fn large(rng: &mut Rng) -> Tree {
    (0..14).fold(Tree::small(), |tree, number| {
        let length = 3_500_000 + rng.below(1_000_000);
        tree.file(&format!("large/{number}.bin"), rng.bytes(length))
    })
}

/// Returns the pack ids in events of this kind.
fn packs(path: &Path, kind: &str) -> BTreeSet<String> {
    let of_kind = |event: &serde_json::Value| event["event"] == kind;
    events(path)
        .iter()
        .filter(|event| of_kind(event))
        .map(|event| event["pack"].as_str().unwrap().into())
        .collect()
}

/// Returns the packs that are recorded in the quarantine of a mirror.
fn held_on_disk(mirror: &Path) -> BTreeSet<String> {
    let Ok(keys) = fs::read_dir(mirror.join(".headwater/incoming")) else { return BTreeSet::new() };
    let held = keys.filter_map(|key| fs::read_dir(key.unwrap().path().join("held")).ok());
    let names = held.flatten().map(|name| name.unwrap().file_name().into_string().unwrap());
    // A record that does not have its final name yet does not count.
    names.filter(|name| name.len() == 64).collect()
}

#[test]
fn complete_packs_are_not_sent_again_by_another_origin() {
    let sandbox = Sandbox::new();
    let mut rng = Rng::new(crate::trees::seed());
    sandbox.write("tree", &large(&mut rng));
    sandbox
        .push("tree", &["whole"], &["--events", &sandbox.path_text("whole.events")])
        .expect(&[0]);
    let all = packs(&sandbox.path("whole.events"), "pack_sent");
    assert!(all.len() >= 3, "the test needs several packs: {all:?}");
    let content = sandbox.served("whole").record.content;
    crate::harness::copy(&sandbox.path("tree"), &sandbox.path("copy"));
    let count = sandbox.run_with_fault(
        "count",
        &["push", &sandbox.path_text("tree"), &sandbox.path_text("counted")],
    );
    let steps = count.expect(&[0]).steps();
    fs::remove_dir_all(sandbox.path("counted")).unwrap();

    let mut resumed = 0;
    // Packs arrive in the last third of the steps: before that, directories are created.
    for part in 0..6 {
        fs::remove_dir_all(sandbox.path("mirror")).ok();
        fs::remove_dir_all(sandbox.path("elsewhere")).ok();
        let fault = format!("kill@{}", steps * (62 + 4 * part) / 100);
        let cut = sandbox.run_with_fault(
            &fault,
            &["push", &sandbox.path_text("tree"), &sandbox.path_text("mirror")],
        );
        assert!(cut.was_killed(), "{fault}: {cut}");
        let held = held_on_disk(&sandbox.path("mirror"));
        // Once objects get their final names, the packs in quarantine are no longer complete.
        let is_arriving = checker::object_names(&sandbox.path("mirror")).is_empty();

        let log = sandbox.path(format!("{part}.events"));
        let flags = ["--events", log.to_str().unwrap(), "--cache", &sandbox.path_text("elsewhere")];
        sandbox.push("copy", &["mirror"], &flags).expect(&[0]);
        if is_arriving && !held.is_empty() {
            assert_eq!(packs(&log, "pack_held"), held, "{fault}");
            assert_eq!(packs(&log, "pack_sent"), &all - &held, "{fault}");
            resumed += 1;
        }
        let served = sandbox.served("mirror");
        assert_eq!(served.record.content, content, "{fault}");
        checker::check_equals_tree(&served, &sandbox.path("tree")).unwrap();
    }
    assert!(resumed >= 2, "no interruption came between two packs");
}
