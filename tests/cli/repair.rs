//! `headwater repair`.

use std::fs;

use serde_json::json;

use crate::harness::World;

/// Damages nearly every part of a store.
fn damage(world: &World) {
    world.tamper(&world.object("www", "<h1>hello</h1>\n"), "garbage");
    world.remove(&world.object("www", "console.log(1)\n"));
    world.remove("www/current/app.js");
    world.write("www/current/stranger/x", "x");
    world.remove("www/current/docs/a.html");
    world.link("/etc/passwd", "www/current/docs/a.html");
}

#[test]
fn all_damage_is_repaired_from_the_tree() {
    let world = World::with_mirror();
    damage(&world);
    world.run("verify ./www").code(1);
    world.ok("repair ./www --from tree").says("2 objects fetched again, none left");
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www");
    world.ok("repair ./www --from tree").says("no fault");
    assert_eq!(world.current("www"), 1, "the release stays");
}

#[test]
fn all_damage_is_repaired_from_another_mirror() {
    let world = World::with_tree();
    world.ok("push tree ./www ./data");
    damage(&world);
    world.tamper(&world.inside("www", "manifests/")[0], "garbage");
    world.tamper(&world.inside("www", "releases/")[0], "garbage");
    let answer = world.json("repair ./www --from ./data", 0)["mirrors"][0].clone();
    assert_eq!((&answer["left"], &answer["objects"]), (&json!([]), &json!(2)));
    assert_eq!(world.served("www"), world.served("data"));
    world.ok("verify ./www");
}

#[test]
fn removed_store_directory_is_created_and_filled_again() {
    let world = World::with_tree();
    let receiver = format!(
        "exec '{}' receive '{}'",
        env!("CARGO_BIN_EXE_headwater"),
        world.path("www").display()
    );
    world.write("ssh.sh", receiver);
    world.write("headwater.toml", "[[mirror]]\nname='near'\nurl='./www'\n");
    let far = format!("[[mirror]]\nname='far'\nurl='ssh://edge1{}'\n", world.path("www").display());
    world.write("far.toml", format!("ssh_command='sh ssh.sh'\n{far}"));
    for flags in ["near --config headwater.toml", "far --config far.toml"] {
        for name in ["objects", "objects/0a", "slots", "incoming"] {
            world.ok(&format!("push tree {flags} --init --again"));
            world.remove(&format!("www/.headwater/{name}"));
            let words = format!(".headwater/{name} is missing");
            let hint = "hint: run `headwater repair MIRROR --from TREE|MIRROR`";
            world.run(&format!("verify {flags}")).code(1).warns(&words).warns(hint);
            // A dry run does not read every directory of objects.
            if name != "objects/0a" {
                world.run(&format!("status {flags}")).code(1).says(&words).warns(hint);
                world.run(&format!("push tree {flags}")).code(4).warns(&words).warns(hint);
            }
            world.ok(&format!("repair {flags} --from tree")).says(if name == "incoming" {
                "no fault"
            } else {
                ""
            });
            world.ok(&format!("verify {flags}"));
            world.ok(&format!("push tree {flags}"));
            assert_eq!(world.served("www"), world.files("tree"), "{name}");
        }
    }
}

#[test]
fn repair_does_not_move_current() {
    let world = World::with_mirror();
    let target = fs::read_link(world.path("www/current")).unwrap();
    let inode = world.meta("www/current/index.html");
    world.write("www/current/stranger", "x");
    world.ok("repair ./www --from tree");
    assert_eq!(fs::read_link(world.path("www/current")).unwrap(), target);
    assert_eq!(world.meta("www/current/index.html").modified().unwrap(), inode.modified().unwrap());
}

#[test]
fn content_missing_from_the_source_stays_damaged_and_is_named() {
    let world = World::with_mirror();
    world.tamper(&world.object("www", "<h1>hello</h1>\n"), "garbage");
    world.write("tree/index.html", "changed since");
    world.run("repair ./www --from tree").code(1).says("left").warns("another mirror");
    let left = world.json("repair ./www --from tree", 1)["mirrors"][0]["left"].clone();
    assert!(!left.as_array().unwrap().is_empty());
    // A corrupt source is not used: only content with the right hash is accepted.
    world.write("tree/index.html", "<h1>jello</h1>\n");
    world.run("repair ./www --from tree").code(1);
    world.write("tree/index.html", "<h1>hello</h1>\n");
    world.ok("repair ./www --from tree");
    world.ok("verify ./www");
}

#[test]
fn edited_slot_is_repaired_from_the_objects_of_the_store() {
    let world = World::with_mirror();
    world.remove("www/current/index.html");
    world.write("www/current/index.html", "edited by hand");
    world.run("verify ./www --quick").code(1).says("index.html: size differs");
    world.rename("tree/index.html", "elsewhere");
    world.ok("repair ./www --from tree");
    assert_eq!(world.read("www/current/index.html"), "<h1>hello</h1>\n");
}

#[test]
fn in_place_edit_damages_slot_and_object_and_both_are_repaired() {
    let world = World::with_mirror();
    // The slot and the object share an inode: an editor that writes in place changes both.
    world.tamper("www/current/index.html", "edited in place");
    world.run("verify ./www").code(1).says("objects/");
    world.ok("repair ./www --from tree");
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www");
}

#[test]
fn missing_repair_source_changes_nothing() {
    let world = World::with_mirror();
    world.write("www/current/stranger", "x");
    let before = world.snapshot("www");
    for source in ["./nowhere", "nowhere", "./tree/index.html"] {
        world.run(&format!("repair ./www --from {source}")).code(8);
    }
    world.run("repair ./www").code(2);
    world.run("repair --from tree").code(2);
    assert_eq!(world.snapshot("www"), before);
}
