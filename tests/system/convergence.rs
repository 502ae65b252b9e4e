//! G17, G20: after any sequence of events on two mirrors, the next push makes them equal, and every
//! intermediate step leaves a complete release.

use crate::checker::{self, Served};
use crate::harness::{Outcome, Sandbox};
use crate::trees::{Rng, Tree};

const MIRRORS: [&str; 2] = ["one", "two"];

/// Keeps paths that web pages may still request, and removes the rest at once. The default rules do
/// not keep pages and data.
fn check_retired(before: &Served, after: &Served) {
    const GO_AT_ONCE: [&str; 5] = [".html", ".htm", ".xml", ".json", ".txt"];
    for path in before.items.keys() {
        let name = path.rsplit('/').next().unwrap();
        let goes = GO_AT_ONCE.iter().any(|end| name.ends_with(end)) || !name.contains('.');
        let below = format!("{path}/");
        let conflicts = after.items.keys().any(|other| other.starts_with(&below))
            || path.match_indices('/').any(|(at, _)| after.items.contains_key(&path[..at]));
        let is_kept = after.items.contains_key(path);
        assert!(is_kept || goes || conflicts, "{path} is removed at once");
        assert!(!is_kept || !goes || after.items[path].is_live(), "{path} is kept");
    }
}

/// Does one random operation. Returns its description and how it ended.
fn random_operation(
    sandbox: &Sandbox,
    tree: &mut Tree,
    rng: &mut Rng,
) -> (String, Option<Outcome>) {
    let one = rng.pick(&MIRRORS);
    let other = if one == "one" { "two" } else { "one" };
    let (place, source) = (sandbox.path_text(one), sandbox.path_text(other));
    match rng.below(12) {
        0..=3 => {
            let changes: Vec<String> = (0..1 + rng.below(5)).map(|_| tree.mutate(rng)).collect();
            sandbox.write("tree", tree);
            (changes.join(", "), None)
        }
        4 | 5 => {
            let before = MIRRORS.map(|mirror| checker::state(&sandbox.path(mirror)).unwrap());
            let outcome = sandbox.push("tree", &MIRRORS, &["--again"]).expect(&[0]);
            let after = assert_equal_to_tree(sandbox);
            if let [Some(a), Some(b)] = before
                && a == b
            {
                check_retired(&a, &after);
            }
            ("push to both".into(), Some(outcome))
        }
        6 | 7 => (
            format!("push to {one}"),
            Some(sandbox.push("tree", &[one], &["--again"]).expect(&[0])),
        ),
        8 => {
            // Only a killed push staged a release above the current one: it was never live, so
            // nothing can be rolled back to it.
            let Some(current) = checker::state(&sandbox.path(one)).unwrap() else {
                return ("nothing".into(), None);
            };
            let records =
                checker::records(&sandbox.path(one)).into_values().map(|record| record.sequence);
            let sequences: Vec<u64> =
                records.filter(|&sequence| sequence <= current.record.sequence).collect();
            let to = rng.pick(&sequences).to_string();
            (
                format!("rollback {one} to {to}"),
                Some(sandbox.run(&["rollback", &place, "--to", &to]).expect(&[0])),
            )
        }
        9 => {
            let keep = (1 + rng.below(3)).to_string();
            let is_served = sandbox.path(one).join("current").exists();
            let outcome =
                is_served.then(|| sandbox.run(&["prune", &place, "--keep", &keep]).expect(&[0]));
            (format!("prune {one} to {keep}"), outcome)
        }
        10 => {
            // The source may be older or of another history: then a refusal is right, and the
            // served release stays complete.
            let outcome = sandbox.run(&["push", "--from", &source, &place, "--again"]);
            assert!(!matches!(outcome.code(), None | Some(101)), "{outcome}");
            (format!("push from {other} to {one}"), Some(outcome))
        }
        _ => kill_or_forget(sandbox, rng, one),
    }
}

fn kill_or_forget(sandbox: &Sandbox, rng: &mut Rng, mirror: &str) -> (String, Option<Outcome>) {
    if rng.chance(50) {
        std::fs::remove_dir_all(sandbox.path("cache")).ok();
        return ("lose the cache".into(), None);
    }
    let fault = format!("kill@{}", 1 + rng.below(150));
    let outcome = sandbox.run_with_fault(
        &fault,
        &["push", &sandbox.path_text("tree"), &sandbox.path_text(mirror), "--again"],
    );
    assert!(outcome.was_killed() || outcome.code() == Some(0), "{outcome}");
    (format!("{fault} of a push to {mirror}"), Some(outcome))
}

/// Asserts that both mirrors serve the same release, which equals the tree.
fn assert_equal_to_tree(sandbox: &Sandbox) -> Served {
    let [one, two] = MIRRORS.map(|mirror| sandbox.served(mirror));
    assert_eq!(one, two);
    checker::check_equals_tree(&one, &sandbox.path("tree")).unwrap();
    one
}

fn check_convergence(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let sandbox = Sandbox::new();
    let mut tree = Tree::random(&mut rng, 15);
    // Both mirrors share a history: mirrors of different histories never converge by themselves.
    sandbox.publish(&tree, &MIRRORS, &[]);
    let mut operations = Vec::new();
    for _ in 0..steps {
        let (what, outcome) = random_operation(&sandbox, &mut tree, &mut rng);
        operations.push(what);
        for mirror in MIRRORS {
            let output = || outcome.as_ref().map_or_else(String::new, ToString::to_string);
            let state = checker::state(&sandbox.path(mirror));
            assert!(
                state.is_ok(),
                "seed {seed}, {operations:#?}\n{mirror}: {state:#?}\n{}",
                output()
            );
        }
    }
    let outcome = sandbox.push("tree", &MIRRORS, &["--again"]);
    assert_eq!(outcome.code(), Some(0), "seed {seed}, {operations:#?}\n{outcome}");
    assert_equal_to_tree(&sandbox);
    let again = sandbox.push("tree", &MIRRORS, &[]);
    assert_eq!(again.code(), Some(0), "seed {seed}, {operations:#?}\n{again}");
    MIRRORS
        .iter()
        .for_each(|mirror| drop(sandbox.run(&["verify", &sandbox.path_text(mirror)]).expect(&[0])));
}

#[test]
fn mirrors_with_random_histories_converge() {
    let seed = crate::trees::seed();
    (0..6).for_each(|round| check_convergence(seed.wrapping_add(round), 25));
}

#[test]
fn diverged_mirrors_converge() {
    let sandbox = Sandbox::new();
    let tree = |text: &str| Tree::default().file("index.html", text);
    sandbox.publish(&tree("1"), &MIRRORS, &[]);
    sandbox.publish(&tree("one"), &["one"], &[]);
    let two = sandbox.publish(&tree("two"), &["two"], &[]);
    assert_eq!(sandbox.served("one").record.sequence, two.record.sequence, "both have sequence 2");
    sandbox.publish(&tree("two"), &MIRRORS, &[]);
    assert_equal_to_tree(&sandbox);
}

#[test]
fn lagging_mirror_gets_the_release_of_a_newer_one() {
    let sandbox = Sandbox::new();
    let tree = |text: &str| Tree::default().file("index.html", text);
    sandbox.publish(&tree("1"), &MIRRORS, &[]);
    sandbox.publish(&tree("2"), &["one"], &[]);
    let ahead = sandbox.publish(&tree("3"), &["one"], &[]);
    sandbox
        .run(&["push", "--from", &sandbox.path_text("one"), &sandbox.path_text("two")])
        .expect(&[0]);
    assert_eq!(sandbox.served("two"), ahead, "the same release, not one with equal content");
    let agreed = assert_equal_to_tree(&sandbox);
    assert_eq!(
        sandbox.publish(&tree("3"), &MIRRORS, &[]),
        agreed,
        "without changes there is no new release"
    );
}

#[test]
#[ignore = "minutes"]
fn mirrors_with_long_random_histories_converge() {
    let seed = crate::trees::seed();
    (0..60).for_each(|round| check_convergence(seed.wrapping_add(round), 60));
}
