//! G1, G3, G18: kill -9 before every single change of the disk, or before a sample of them.

use crate::checker;
use crate::harness::Sandbox;
use crate::scenario::{Found, Kind, Scenario};
use crate::sweep;
use crate::trees::Tree;

/// Steps that are sampled for each kind of command.
const SAMPLES: usize = 24;

/// Kills the command before each of its steps, checks the result, and runs the command again.
/// Returns the number of steps, or the first fault.
fn kill_everywhere(kind: Kind) -> Result<u64, String> {
    let scenario = Scenario::new(kind);
    let places = ["mirror", "cache"];
    places.iter().for_each(|place| scenario.sandbox.save(place));
    let (steps, named) = scenario.steps_and_named();
    let mut sides = Vec::new();
    let all: Vec<u64> = (1..=steps).collect();
    let points = sweep::points(&all, SAMPLES, |step| named.contains(&step));
    // Threads may take a step more or less from run to run; the loop ends when no kill happens.
    for step in points.into_iter().chain(steps + 1..=steps + 50) {
        places.iter().for_each(|place| scenario.sandbox.restore(place));
        let outcome = scenario.run(Some(&format!("kill@{step}")));
        let fail =
            |what: String| format!("{kind:?}, kill at step {step} of {steps}: {what}\n{outcome}");
        if !outcome.was_killed() {
            assert_eq!(outcome.code(), Some(0), "{outcome}");
            assert!(step + 4 >= steps, "step {step} of {steps} was not reached");
            break;
        }
        let side =
            scenario.check_reported(&outcome).map_err(|faults| fail(format!("{faults:#?}")))?;
        scenario.finish().map_err(fail)?;
        sides.push(side);
    }
    assert!(sides.contains(&Found::New), "{kind:?}: no kill came after the activation");
    assert!(
        kind == Kind::Prune || sides[0] != Found::New,
        "{kind:?}: no kill came before the activation"
    );
    Ok(steps)
}

fn assert_survives_kills(kind: Kind) {
    match kill_everywhere(kind) {
        Ok(steps) => println!("{kind:?}: {steps} steps"),
        Err(fault) => panic!("{fault}"),
    }
}

#[test]
fn first_push_killed_at_any_step_leaves_nothing_or_everything() {
    assert_survives_kills(Kind::FirstPush);
}

#[test]
fn update_killed_at_any_step_leaves_the_old_or_new_release() {
    assert_survives_kills(Kind::Update);
}

#[test]
fn deletion_killed_at_any_step_leaves_the_old_or_new_release() {
    assert_survives_kills(Kind::Deletion);
}

#[test]
fn rollback_killed_at_any_step_leaves_the_old_or_new_release() {
    assert_survives_kills(Kind::Rollback);
}

#[test]
fn prune_killed_at_any_step_serves_the_same_release() {
    assert_survives_kills(Kind::Prune);
}

#[test]
fn expiry_killed_at_any_step_keeps_entries_not_due_and_resumes() {
    assert_survives_kills(Kind::Expire);
}

#[test]
fn repair_killed_at_any_step_causes_no_more_damage() {
    assert_survives_kills(Kind::Repair);
}

#[test]
fn abandoned_release_is_never_partly_served() {
    let sandbox = Sandbox::new();
    let mirror = sandbox.path_text("mirror");
    sandbox.publish(&Tree::small(), &["mirror"], &[]);
    sandbox.write("tree", &Tree::small().file("new.html", "new"));
    let staged = ["push", &sandbox.path_text("tree"), &mirror, "--stage-only", "--json"];
    sandbox.run(&staged).expect(&[0]);
    let old = sandbox.served("mirror");
    let name = std::fs::read_link(sandbox.path("mirror/staged")).unwrap();
    let name = name.file_name().unwrap().to_str().unwrap();
    sandbox.save("mirror");
    for step in 1.. {
        sandbox.restore("mirror");
        let abandoned =
            sandbox.run_with_fault(&format!("kill@{step}"), &["abandon", name, &mirror]);
        // In any case an activation serves the complete release, or the old one stays.
        let activated = sandbox.run(&["activate", name, &mirror]);
        let served = sandbox.served("mirror");
        let is_new = activated.code() == Some(0);
        assert_eq!(served != old, is_new, "step {step}: {abandoned}\n{activated}");
        if is_new {
            checker::check_equals_tree(&served, &sandbox.path("tree")).unwrap();
        }
        if !abandoned.was_killed() {
            assert!(step > 4 && !is_new, "{abandoned}");
            break;
        }
    }
}

#[test]
fn non_atomic_link_replacement_is_detected() {
    let scenario = Scenario::new(Kind::Update);
    scenario.sandbox.save("mirror");
    let steps = scenario.steps();
    let is_gone = |step: u64| {
        scenario.sandbox.restore("mirror");
        scenario.run(Some(&format!("unlink-before-rename,kill@{step}")));
        scenario.check_served().is_err()
            && scenario.mirror.join("current").symlink_metadata().is_err()
    };
    assert!((1..=steps + 20).rev().any(is_gone), "the harness detects no fault");
}

#[test]
fn prune_leaves_only_content_of_kept_releases() {
    let scenario = Scenario::new(Kind::Prune);
    scenario.run(None).expect(&[0]);
    let records = checker::records(&scenario.mirror);
    let needed = records
        .values()
        .flat_map(|record| checker::manifest(&scenario.mirror, &record.manifest).unwrap());
    let needed = needed.filter_map(|line| line.object).collect();
    assert_eq!(checker::object_names(&scenario.mirror), needed);
}
