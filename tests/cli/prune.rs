//! `headwater prune`.

use std::fs::File;

use serde_json::json;

use crate::harness::{Run, World};

fn world() -> World {
    let world = World::with_tree();
    for number in 1..=5 {
        world.write("tree/index.html", format!("version {number}"));
        world.ok("push tree ./www");
    }
    world
}

fn sequences(world: &World) -> Vec<u64> {
    world.releases("./www").iter().map(|one| one["sequence"].as_u64().unwrap()).collect()
}

#[test]
fn dropped_releases_are_reported_and_kept_ones_stay_complete() {
    let world = world();
    assert_eq!(sequences(&world), [3, 4, 5]);
    world.ok("prune ./www").says("0 releases and 0 objects");
    // The idle slot shows release 4, so release 4 is kept.
    let pruned = world.json("prune ./www --keep 1", 0)["mirrors"][0].clone();
    assert_eq!((&pruned["releases"], &pruned["objects"]), (&json!(1), &json!(1)));
    assert_eq!(sequences(&world), [4, 5]);
    assert!(!world.exists(&world.object("www", "version 3")));
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www");
    world.ok("rollback ./www");
    assert_eq!(world.read("www/current/index.html"), "version 4");
}

#[test]
fn number_of_kept_releases_comes_from_the_configuration() {
    let world = World::with_tree();
    world.write("headwater.toml", "keep = 5\ncontent = 'tree'\n[[mirror]]\nname='eu'\nurl='www'\n");
    for number in 1..=7 {
        world.write("tree/index.html", format!("version {number}"));
        world.ok("push");
    }
    assert_eq!(sequences(&world), [3, 4, 5, 6, 7]);
    world.ok("prune --keep 2").says("eu: 3 releases");
    assert_eq!(sequences(&world), [6, 7]);
    for bad in ["0", "-1", "x"] {
        world.run(&format!("prune --keep {bad}")).code(2);
    }
}

#[test]
fn unreferenced_files_are_removed() {
    let world = world();
    let stray = world.object("www", "nobody needs this");
    world.write(&stray, "nobody needs this");
    world.write("www/.headwater/incoming/tmp/left-over", "x");
    world.write("www/.headwater/slots/dirty/half/done", "x");
    world.ok("prune ./www").says("1 object");
    assert!(!world.exists(&stray) && !world.exists("www/.headwater/slots/dirty"));
    assert!(world.inside("www", "incoming/tmp/").is_empty());
    world.ok("verify ./www");
}

#[test]
fn unreadable_kept_manifest_prevents_pruning() {
    let world = world();
    let stray = world.object("www", "stray");
    world.write(&stray, "stray");
    let manifests = world.inside("www", "manifests/");
    manifests.iter().for_each(|path| world.tamper(path, "garbage"));
    let before = world.inside("www", "objects/");
    world.run("prune ./www --keep 1").code(1).warns("headwater repair");
    assert_eq!(world.inside("www", "objects/"), before);
    assert!(world.exists(&stray));
}

#[test]
fn directory_that_is_not_a_mirror_is_left_alone() {
    let world = World::with_tree();
    let before = world.snapshot("tree");
    world
        .run("prune ./tree")
        .code(1)
        .warns("is not a mirror")
        .warns("hint: name the directory of a mirror");
    world.run("prune ./nowhere").code(2);
    assert_eq!(world.snapshot("tree"), before);
    assert!(!world.exists("nowhere"));
}

#[test]
fn staged_content_is_kept_until_activation() {
    let world = World::with_mirror();
    world.ok("push tree ./www ./data");
    world.write("tree/index.html", "2");
    world.ok("push tree ./www ./data");
    // Nearly the first content again: its objects are present, and only release 1 refers to them.
    world.write("tree/index.html", "<h1>hello</h1>\n");
    world.write("tree/new.html", "new");
    let lock = File::open(world.path("data/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    let child = world.start_until_staged("push tree ./www ./data");
    world.ok("prune ./www --keep 1").says("1 release");
    drop(lock);
    Run::new(&["push"], &child.wait_with_output().unwrap()).code(0);
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www ./data");
}

#[test]
fn leftovers_of_unfinished_pushes_are_reported_and_dropped() {
    let world = World::with_mirror();
    let leave = |key: &str| {
        world.write(&format!("www/.headwater/incoming/{}/parts/0", key.repeat(64)), "12345");
    };
    leave("a");
    leave("b");
    world.ok("status ./www").says("10 B of unfinished pushes");
    assert_eq!(world.json("status ./www", 0)["mirrors"][0]["incoming_bytes"], 10);
    world.ok("status ./www --metrics ./gauges");
    assert!(
        world.read("gauges").contains("headwater_mirror_incoming_bytes{"),
        "{}",
        world.read("gauges")
    );
    world.ok("prune ./www").says(", 2 unfinished pushes of 10 B dropped");
    assert!(world.inside("www", "incoming/").is_empty());
    assert!(!world.ok("status ./www").stdout.contains("unfinished"));
    // A push without changes cleans up leftovers too, but keeps the newest one: a push can resume
    // it.
    leave("a");
    leave("b");
    world.ok("push tree ./www").says("nothing new");
    assert_eq!(world.inside("www", "incoming/").len(), 1);
}

#[test]
fn mirror_list_command_runs_once() {
    let world = World::with_mirror();
    let list = r#"echo run >> runs; echo '{"name":"edge","url":"./www"}'"#;
    let list = format!("mirrors_from = ['sh', '-c', '''{list}''']\n");
    world.write("headwater.toml", list);
    for command in ["prune", "verify", "repair edge --from tree"] {
        world.ok(command);
        assert_eq!(world.read("runs"), "run\n", "{command}");
        world.remove("runs");
    }
}
