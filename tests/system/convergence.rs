//! G17, G20: after any sequence of events on two mirrors, the next push makes them equal, and every
//! intermediate step leaves a complete release.

use crate::checker::{self, Served};
use crate::harness::{Outcome, World};
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
        assert!(is_kept || goes || conflicts, "{path} is gone at once");
        assert!(!is_kept || !goes || after.items[path].is_live(), "{path} is kept");
    }
}

/// Does one random operation. Returns its description and how it ended.
fn happen(world: &World, tree: &mut Tree, rng: &mut Rng) -> (String, Option<Outcome>) {
    let one = rng.pick(&MIRRORS);
    let other = if one == "one" { "two" } else { "one" };
    let (place, source) = (world.at(one), world.at(other));
    match rng.below(12) {
        0..=3 => {
            let changes: Vec<String> = (0..1 + rng.below(5)).map(|_| tree.mutate(rng)).collect();
            world.write("tree", tree);
            (changes.join(", "), None)
        }
        4 | 5 => {
            let before = MIRRORS.map(|mirror| checker::state(&world.path(mirror)).unwrap());
            let outcome = world.push("tree", &MIRRORS, &["--again"]).expect(&[0]);
            let after = agree(world);
            if let [Some(a), Some(b)] = before
                && a == b
            {
                check_retired(&a, &after);
            }
            ("push to both".into(), Some(outcome))
        }
        6 | 7 => {
            (format!("push to {one}"), Some(world.push("tree", &[one], &["--again"]).expect(&[0])))
        }
        8 => {
            // Only a killed push staged a release above the current one: it was never live, so
            // nothing can be rolled back to it.
            let Some(current) = checker::state(&world.path(one)).unwrap() else {
                return ("nothing".into(), None);
            };
            let records =
                checker::records(&world.path(one)).into_values().map(|record| record.sequence);
            let sequences: Vec<u64> =
                records.filter(|&sequence| sequence <= current.record.sequence).collect();
            let to = rng.pick(&sequences).to_string();
            (
                format!("rollback {one} to {to}"),
                Some(world.run(&["rollback", &place, "--to", &to]).expect(&[0])),
            )
        }
        9 => {
            let keep = (1 + rng.below(3)).to_string();
            let is_served = world.path(one).join("current").exists();
            let outcome =
                is_served.then(|| world.run(&["prune", &place, "--keep", &keep]).expect(&[0]));
            (format!("prune {one} to {keep}"), outcome)
        }
        10 => {
            // The source may be older or of another history: then a refusal is right, and the
            // served release stays complete.
            let outcome = world.run(&["push", "--from", &source, &place, "--again"]);
            assert!(!matches!(outcome.code(), None | Some(101)), "{outcome}");
            (format!("push from {other} to {one}"), Some(outcome))
        }
        _ => kill_or_forget(world, rng, one),
    }
}

fn kill_or_forget(world: &World, rng: &mut Rng, mirror: &str) -> (String, Option<Outcome>) {
    if rng.chance(50) {
        std::fs::remove_dir_all(world.path("cache")).ok();
        return ("lose the cache".into(), None);
    }
    let fault = format!("kill@{}", 1 + rng.below(150));
    let outcome =
        world.run_with_fault(&fault, &["push", &world.at("tree"), &world.at(mirror), "--again"]);
    assert!(outcome.was_killed() || outcome.code() == Some(0), "{outcome}");
    (format!("{fault} of a push to {mirror}"), Some(outcome))
}

/// Asserts that both mirrors serve the same release, which equals the tree.
fn agree(world: &World) -> Served {
    let [one, two] = MIRRORS.map(|mirror| world.served(mirror));
    assert_eq!(one, two);
    checker::check_equals_tree(&one, &world.path("tree")).unwrap();
    one
}

fn converges(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let world = World::new();
    let mut tree = Tree::random(&mut rng, 15);
    // Both mirrors share a history: mirrors of different histories never converge by themselves.
    world.publish(&tree, &MIRRORS, &[]);
    let mut story = Vec::new();
    for _ in 0..steps {
        let (what, outcome) = happen(&world, &mut tree, &mut rng);
        story.push(what);
        for mirror in MIRRORS {
            let told = || outcome.as_ref().map_or_else(String::new, ToString::to_string);
            let state = checker::state(&world.path(mirror));
            assert!(state.is_ok(), "seed {seed}, {story:#?}\n{mirror}: {state:#?}\n{}", told());
        }
    }
    let outcome = world.push("tree", &MIRRORS, &["--again"]);
    assert_eq!(outcome.code(), Some(0), "seed {seed}, {story:#?}\n{outcome}");
    agree(&world);
    let again = world.push("tree", &MIRRORS, &[]);
    assert_eq!(again.code(), Some(0), "seed {seed}, {story:#?}\n{again}");
    MIRRORS.iter().for_each(|mirror| drop(world.run(&["verify", &world.at(mirror)]).expect(&[0])));
}

#[test]
fn mirrors_with_random_histories_converge() {
    let seed = crate::trees::seed();
    (0..6).for_each(|round| converges(seed.wrapping_add(round), 25));
}

#[test]
fn diverged_mirrors_converge() {
    let world = World::new();
    let tree = |text: &str| Tree::default().file("index.html", text);
    world.publish(&tree("1"), &MIRRORS, &[]);
    world.publish(&tree("one"), &["one"], &[]);
    let two = world.publish(&tree("two"), &["two"], &[]);
    assert_eq!(
        world.served("one").record.sequence,
        two.record.sequence,
        "both are the second release"
    );
    world.publish(&tree("two"), &MIRRORS, &[]);
    agree(&world);
}

#[test]
fn lagging_mirror_gets_the_release_of_a_newer_one() {
    let world = World::new();
    let tree = |text: &str| Tree::default().file("index.html", text);
    world.publish(&tree("1"), &MIRRORS, &[]);
    world.publish(&tree("2"), &["one"], &[]);
    let ahead = world.publish(&tree("3"), &["one"], &[]);
    world.run(&["push", "--from", &world.at("one"), &world.at("two")]).expect(&[0]);
    assert_eq!(world.served("two"), ahead, "the very same release, not one like it");
    let agreed = agree(&world);
    assert_eq!(world.publish(&tree("3"), &MIRRORS, &[]), agreed, "nothing new, no release");
}

#[test]
#[ignore = "minutes"]
fn mirrors_with_long_random_histories_converge() {
    let seed = crate::trees::seed();
    (0..60).for_each(|round| converges(seed.wrapping_add(round), 60));
}
