//! G4, G5: each change of the disk, or a sample of them, fails once, with a full disk and with a
//! broken one.

use crate::checker;
use crate::deltas::pages;
use crate::harness::{Outcome, Sandbox};
use crate::scenario::{Found, Kind, Scenario};
use crate::sweep;

/// Failures that are sampled for each kind of command.
const SAMPLES: usize = 24;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Checks that there was no false success, no panic, and no signal.
fn check(scenario: &Scenario, outcome: &Outcome, fault: &str) -> Found {
    let kind = scenario.kind;
    let side = scenario
        .check_reported(outcome)
        .unwrap_or_else(|faults| panic!("{kind:?}, {fault}: {faults:#?}\n{outcome}"));
    match outcome.code() {
        Some(0) => {}
        Some(101) | None => panic!("{kind:?}, {fault}: {outcome}"),
        Some(_) => assert!(
            !outcome.stderr.is_empty(),
            "{kind:?}, {fault}: failed without an error message\n{outcome}"
        ),
    }
    side
}

/// Lets each step fail in turn, with each of `errnos`. Returns how often the new release was served
/// although the command reported a failure.
fn fail_everywhere(kind: Kind, errnos: &[i32]) -> usize {
    let scenario = Scenario::new(kind);
    let places = ["mirror", "cache"];
    places.iter().for_each(|place| scenario.sandbox.save(place));
    let (steps, named) = scenario.steps_and_named();
    let mut late = 0;
    // Most steps of a first push create the 256 directories of objects, which are all alike.
    let is_alike =
        |step: &u64| steps > 300 && *step > 40 && *step < steps - 140 && !step.is_multiple_of(16);
    let steps = (1..=steps).filter(|step| !is_alike(step));
    let all: Vec<(u64, i32)> =
        steps.flat_map(|step| errnos.iter().map(move |errno| (step, *errno))).collect();
    for (step, errno) in sweep::points(&all, SAMPLES, |(step, _)| named.contains(&step)) {
        places.iter().for_each(|place| scenario.sandbox.restore(place));
        let fault = format!("errno={errno}@{step}");
        let outcome = scenario.run(Some(&fault));
        let side = check(&scenario, &outcome, &fault);
        late += usize::from(side == Found::New && outcome.code() != Some(0));
        scenario.finish().unwrap_or_else(|what| panic!("{kind:?}, {fault}: {what}"));
    }
    late
}

fn fails_cleanly(kind: Kind) {
    let late = fail_everywhere(kind, &[ENOSPC, EIO]);
    // Between the activation and the response only the sync of the activation may fail a push.
    // Pruned and expired content stays removed, whatever fails afterwards.
    assert!(
        matches!(kind, Kind::Prune | Kind::Expire) || late <= 4,
        "{kind:?}: {late} failures reported after the activation"
    );
}

#[test]
fn first_push_with_any_step_failing_fails_cleanly() {
    fails_cleanly(Kind::FirstPush);
}

#[test]
fn update_with_any_step_failing_serves_the_old_release() {
    fails_cleanly(Kind::Update);
}

#[test]
fn deletion_with_any_step_failing_serves_the_old_release() {
    fails_cleanly(Kind::Deletion);
}

#[test]
fn rollback_with_any_step_failing_serves_the_old_release() {
    fails_cleanly(Kind::Rollback);
}

#[test]
fn prune_with_any_step_failing_serves_the_same_release() {
    fails_cleanly(Kind::Prune);
    fails_cleanly(Kind::Expire);
}

#[test]
fn cache_without_space_for_a_file_causes_only_a_warning() {
    for kind in [Kind::FirstPush, Kind::Update, Kind::Rollback] {
        let scenario = Scenario::new(kind);
        ["mirror", "cache"].iter().for_each(|place| scenario.sandbox.save(place));
        let operations = scenario.run(Some("count")).expect(&[0]).operations();
        let is_creation =
            |operation: &str| matches!(operation, "create" | "create directory" | "write");
        let in_cache = operations.iter().filter(|(_, (operation, path))| {
            is_creation(operation) && path.starts_with(scenario.sandbox.path("cache"))
        });
        let mut tried = 0;
        for (step, (operation, path)) in in_cache {
            ["mirror", "cache"].iter().for_each(|place| scenario.sandbox.restore(place));
            // Threads may take a step more or less from run to run, so that another step fails.
            let outcome = scenario.run(Some(&format!("errno={ENOSPC}@{step}")));
            if outcome.stderr.contains("/mirror/") {
                continue;
            }
            tried += 1;
            assert_eq!(
                outcome.code(),
                Some(0),
                "{kind:?}, {operation} {}: {outcome}",
                path.display()
            );
            assert_eq!(scenario.check_reported(&outcome).unwrap(), Found::New, "{outcome}");
        }
        assert!(tried > 0, "{kind:?}");
    }
}

#[test]
fn failed_sync_prevents_activation() {
    for kind in [Kind::FirstPush, Kind::Update, Kind::Rollback] {
        for op in ["sync", "sync file system"] {
            let scenario = Scenario::new(kind);
            let fault = format!("errno={EIO}@{op}");
            let outcome = scenario.run(Some(&fault));
            let side = check(&scenario, &outcome, &fault);
            assert_ne!(outcome.code(), Some(0), "{kind:?}, {op}: {outcome}");
            assert_ne!(
                side,
                Found::New,
                "{kind:?}, {op}: activated content that is not durable\n{outcome}"
            );
            scenario.finish().unwrap();
        }
    }
}

#[test]
fn permanently_failing_operation_serves_the_old_release() {
    for op in [
        "create",
        "create directory",
        "write",
        "link",
        "rename",
        "create link",
        "set time of",
        "set mode of",
    ] {
        for errno in [ENOSPC, EIO] {
            let scenario = Scenario::new(Kind::Update);
            let fault = format!("errno={errno}@{op}");
            let outcome = scenario.run(Some(&fault));
            check(&scenario, &outcome, &fault);
            scenario.finish().unwrap();
        }
    }
}

/// G3, G14: a read error says nothing about the content.
#[cfg(debug_assertions)]
#[test]
fn unreadable_content_is_not_treated_as_damaged() {
    const EACCES: i32 = 13;
    const EMFILE: i32 = 24;
    let sandbox = Sandbox::new();
    sandbox.publish(&pages("1"), &["mirror"], &[]);
    sandbox.publish(&pages("2"), &["mirror"], &[]);
    let mirror = sandbox.path("mirror");
    let names = |of: &str| {
        let entries = std::fs::read_dir(mirror.join(".headwater").join(of)).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    let all =
        || (checker::object_names(&mirror), names("manifests"), names("releases"), names("slots"));
    let before = all();
    let place = sandbox.path_text("mirror");
    for errno in [EIO, EACCES, EMFILE] {
        for part in ["open:/objects/", "read:/objects/", "open:/manifests/", "open:/releases/"] {
            let fault = format!("errno={errno}@{part}");
            for command in [
                &["verify", &*place][..],
                &["repair", &place, "--from", &sandbox.path_text("tree")],
            ] {
                let outcome = sandbox.run_with_fault(&fault, command);
                let words = format!("{}{}", outcome.stdout, outcome.stderr);
                assert!(
                    ![Some(0), Some(101), None].contains(&outcome.code()),
                    "{fault}: {outcome}"
                );
                assert!(
                    !words.contains("differs") && !words.contains("missing"),
                    "{fault}: {outcome}"
                );
            }
            assert_eq!(all(), before, "{fault}");
        }
    }
    // A push of content that the mirror keeps, but does not serve, reads its objects.
    for errno in [EIO, EACCES, EMFILE] {
        for (part, content) in [("open:/objects/", "1"), ("read:/objects/", "2")] {
            sandbox.write("tree", &pages(content));
            let fault = format!("errno={errno}@{part}");
            let outcome =
                sandbox.run_with_fault(&fault, &["push", &sandbox.path_text("tree"), &place]);
            assert!(![Some(101), None].contains(&outcome.code()), "{fault}: {outcome}");
            let has = checker::object_names(&mirror);
            assert!(before.0.iter().all(|name| has.contains(name)), "{fault}: {outcome}");
        }
    }
    sandbox.run(&["verify", &place]).expect(&[0]);
    sandbox.write("tree", &pages("3"));
    sandbox.push("tree", &["mirror"], &[]).expect(&[0]);
    checker::check_equals_tree(&sandbox.served("mirror"), &sandbox.path("tree")).unwrap();
}
