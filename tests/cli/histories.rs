//! Releases that are copied between mirrors, promoted releases, and releases of different
//! histories.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::World;

/// Writes a tree of this version.
fn version(world: &World, number: u64) {
    world.write("tree/index.html", format!("version {number}"));
}

fn newest(world: &World, mirror: &str) -> Value {
    world.releases(mirror).pop().unwrap()
}

#[test]
fn copy_from_a_stale_hub_leaves_a_newer_edge_alone() {
    let world = World::with_tree();
    world.ok("push tree ./hub ./stale ./edge");
    version(&world, 2);
    world.ok("push tree ./hub");
    world.ok("push --from ./hub ./edge").says("1 -> 2");
    let before = world.snapshot("edge");
    for _ in 0..2 {
        let run = world
            .run("push --from ./stale ./edge")
            .code(6)
            .says("left alone: serves the newer release 2-");
        run.warns("./edge serves release 2-")
            .warns("newer than release 1")
            .warns("headwater promote");
    }
    let answer = world.json("push --from ./stale ./edge", 6);
    let mirror = &answer["mirrors"][0];
    assert_eq!(
        (&mirror["outcome"], &mirror["now"], &answer["is_new"]),
        (&json!("newer"), &json!(2), &json!(false))
    );
    assert!(mirror["serves"].as_str().unwrap().starts_with("2-"));
    world.ok("push --from ./stale ./edge --superseded-ok");
    world
        .run("plan --from ./stale ./edge")
        .code(6)
        .says("serves a newer release: would be left alone");
    world.ok("plan --from ./stale ./edge --superseded-ok");
    world.run("plan --from ./stale ./edge ./new").code(3);
    assert_eq!(world.snapshot("edge"), before);
    // The other mirrors get the release.
    world.run("push --from ./stale ./edge ./new").code(3).says("left alone");
    assert_eq!((world.current("edge"), world.current("new")), (2, 1));
    world.ok("heal ./hub ./stale ./edge ./new");
    assert!(["hub", "stale", "edge", "new"].iter().all(|mirror| world.current(mirror) == 2));
}

#[test]
fn copy_with_a_note_is_refused() {
    let world = World::with_mirror();
    world.run("push --from ./www ./new --note text").code(2).warns("headwater promote");
    assert!(!world.exists("new"));
}

#[test]
fn equal_sequences_of_one_history_converge_without_a_new_release() {
    let world = World::with_tree();
    world.ok("push tree ./a ./b");
    version(&world, 2);
    world.ok("push tree ./a");
    version(&world, 3);
    world.ok("push tree ./b");
    let all = [newest(&world, "./a"), newest(&world, "./b")];
    world.ok("heal ./a ./b").says("copied to 1 mirror unchanged");
    assert_eq!(newest(&world, "./a"), newest(&world, "./b"));
    assert!(all.contains(&newest(&world, "./a")) && world.current("a") == 2);
    world.ok("verify ./a ./b");
}

#[test]
fn different_histories_are_refused_without_new_history_flag() {
    let world = World::with_tree();
    world.ok("push tree ./old");
    version(&world, 2);
    world.ok("push tree ./other --cache other-cache");
    let history = |mirror: &str| newest(&world, mirror)["history"].as_str().unwrap().to_owned();
    let (old, other) = (history("./old"), history("./other"));
    assert_ne!(old, other);
    let before = [world.snapshot("old"), world.snapshot("other")];
    version(&world, 3);
    for line in ["push tree ./old ./other", "plan tree ./old ./other"] {
        let run = world.run(line).code(5).warns("different histories").warns("--new-history");
        run.warns("./old serves release 1")
            .warns("./other serves release 1")
            .warns(&old[..12])
            .warns(&other[..12]);
    }
    // If the other mirror is enough, the mirror that this origin has not pushed to fails alone.
    world
        .run("heal ./old ./other")
        .code(3)
        .warns("./other failed: it serves release 1")
        .warns("--new-history");
    assert_eq!([world.snapshot("old"), world.snapshot("other")], before);
    let run = world.run("push --from ./old ./other").code(4).warns("history");
    run.warns("promote").warns("--new-history");
    assert_eq!([world.snapshot("old"), world.snapshot("other")], before);
    world.ok("push tree ./old ./other --new-history").says("release 2");
    let (one, two) = (newest(&world, "./old"), newest(&world, "./other"));
    assert_eq!(one, two);
    let mut replaced = [json!(old), json!(other)];
    replaced.sort_unstable_by_key(Value::to_string);
    let mut listed = one["replaces"].as_array().unwrap().clone();
    listed.sort_unstable_by_key(Value::to_string);
    assert_eq!(listed, replaced);
    version(&world, 4);
    world.ok("push tree ./old ./other").says("release 3");
    assert_eq!(newest(&world, "./old")["history"], one["history"], "it goes on");
    world.ok("verify ./old ./other");
}

#[test]
fn replaced_history_at_a_higher_sequence_ends_with_a_push_not_heal() {
    let world = World::with_tree();
    world.ok("push tree ./a ./b");
    for number in 2..5 {
        version(&world, number);
        world.ok("push tree ./a");
    }
    version(&world, 9);
    world.ok("push tree ./b --new-history");
    assert_eq!((world.current("a"), world.current("b")), (4, 2));
    let before = [world.snapshot("a"), world.snapshot("b")];
    let run = world.run("heal ./a ./b").code(3).says("left alone: serves the newer release 4-");
    run.warns("./a serves release 4-")
        .warns("push a tree or run `headwater promote` to make a release that is newer than both");
    assert_eq!([world.snapshot("a"), world.snapshot("b")], before, "it makes no release");
    world.ok("push tree ./a ./b").says("release 5: ");
    assert_eq!(newest(&world, "./a"), newest(&world, "./b"));
    world.ok("heal ./a ./b").says("nothing new");
    world.ok("verify ./a ./b");
}

#[test]
fn promote_makes_a_release_in_the_destination_history() {
    let world = World::with_tree();
    world.ok("push tree ./www");
    version(&world, 2);
    world.write("tree/new.html", "new");
    world.ok("push tree ./staging --site staging --cache staging-cache");
    let before = newest(&world, "./www");
    world.ok("promote ./staging ./www --dry-run").says("release 2 would be made");
    assert_eq!(newest(&world, "./www"), before);
    let answer = world.json("promote ./staging ./www --note approved --order ci:7", 0);
    assert_eq!((&answer["headwater"], &answer["is_new"]), (&json!("promote"), &json!(true)));
    let after = newest(&world, "./www");
    assert_eq!(
        (&after["sequence"], &after["note"], &after["site"]),
        (&json!(2), &json!("approved"), &json!("default"))
    );
    assert_eq!((&after["history"], &after["orders"]["ci"]), (&before["history"], &json!(7)));
    assert_eq!(world.read("www/current/index.html"), "version 2");
    // Orders and guard rails apply as for a tree; the same content makes no new release.
    world.run("promote ./staging ./www --order ci:6").code(6);
    world.ok("promote ./staging ./www").says("nothing new");
    world.write("tree/.env", "SECRET=1");
    world.ok("push tree ./staging --site staging --cache staging-cache --allow-secrets");
    world.run("promote ./staging ./www").code(5).warns(".env");
    world.run("promote ./staging").code(2);
    world.run("promote ./nowhere ./www").code(8);
    world.ok("verify ./www ./staging");
}

#[test]
fn copy_that_races_a_push_never_makes_a_release() {
    let world = World::with_tree();
    world.ok("push tree ./d ./h");
    for round in 2..14 {
        version(&world, round);
        let start = |line: &str| {
            let arguments: Vec<&str> = line.split_whitespace().collect();
            world.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let racers = [start("push tree ./d ./h"), start("push --from ./d ./h --cache copy-cache")];
        let outputs = racers.map(|racer| racer.wait_with_output().unwrap());
        let codes = [0, 1].map(|index| outputs[index].status.code().unwrap());
        assert!(codes[0] == 0 && matches!(codes[1], 0 | 6), "{outputs:#?}");
        for mirror in ["d", "h"] {
            assert_eq!(world.current(mirror), round, "{outputs:#?}");
            assert_eq!(
                world.read(&format!("{mirror}/current/index.html")),
                format!("version {round}")
            );
        }
    }
}

#[test]
fn new_history_on_one_of_two_mirrors_reaches_both_with_the_next_push() {
    let world = World::with_tree();
    world.ok("push tree ./a ./b --cache here");
    version(&world, 2);
    world.ok("push tree ./b --new-history --cache there");
    version(&world, 3);
    world.ok("push tree ./a ./b --cache here");
    assert_eq!(newest(&world, "./a")["release"], newest(&world, "./b")["release"]);
}

#[test]
fn stale_cache_does_not_publish_content_rolled_back_elsewhere() {
    let world = World::with_tree();
    world.ok("push tree ./a ./b --cache old");
    for number in [2, 3] {
        version(&world, number);
        world.ok("push tree ./b --cache new");
    }
    world.ok("rollback ./b --yes --cache new");
    world.run("push tree ./a ./b --cache old").code(5).warns("rolled back");
}

#[test]
fn rollback_ignores_a_release_that_only_one_of_three_mirrors_keeps() {
    let world = World::with_tree();
    world.ok("push tree ./a --cache here --init");
    version(&world, 2);
    world.ok("push tree ./a --cache elsewhere");
    version(&world, 3);
    world.ok("push tree ./a ./b ./c --cache here");
    world.run("rollback ./a ./b ./c --yes --cache here").code(2).warns("no kept release before 3");
    world
        .run("rollback ./a ./b ./c --to 2 --yes --cache here")
        .code(2)
        .warns("only ./a keeps a release 2");
    world.ok("rollback ./a --to 2 --yes --cache here");
}
