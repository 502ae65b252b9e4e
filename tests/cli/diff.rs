//! `headwater diff`.

use serde_json::json;

use crate::harness::{World, column};

fn world() -> World {
    let world = World::with_mirror();
    world.write("tree/index.html", "2");
    world.remove("tree/docs/a.html");
    world.ok("push tree ./www");
    world
}

#[test]
fn mirror_and_its_tree_do_not_differ() {
    let world = World::with_mirror();
    for pair in ["./www tree", "tree ./www", "./www ./www", "tree ./tree", "./www:1 ./www"] {
        world.ok(&format!("diff {pair}")).says("5 same");
        assert_eq!(world.json(&format!("diff {pair}"), 0)["changes"], json!([]));
    }
}

#[test]
fn kept_release_is_selected_by_its_sequence() {
    let world = world();
    let run = world.ok("diff ./www:1 ./www");
    assert!(run.stdout.contains("removed  docs/a.html\nchanged  index.html\n"), "{}", run.stdout);
    world.ok("diff ./www:1 tree").says("changed  index.html");
    world.ok("diff ./www ./www:1").says("added    docs/a.html");
    let answer = world.json("diff ./www:1 ./www:2", 0);
    assert_eq!(column(&answer["changes"], "kind"), ["removed", "changed"]);
    assert_eq!((&answer["headwater"], &answer["same"]), (&json!("diff"), &json!(3)));
}

#[test]
fn retired_entries_are_not_a_difference() {
    let world = World::with_mirror();
    world.remove("tree/app.js");
    world.ok("push tree ./www");
    assert!(world.exists("www/current/app.js"));
    assert_eq!(world.json("diff ./www tree", 0)["changes"], json!([]));
    assert_eq!(column(&world.json("diff ./www:1 ./www", 0)["changes"], "kind"), ["retired"]);
}

#[test]
fn change_just_before_a_push_is_shown() {
    let world = world();
    world.write("tree/new", "x");
    world.ok("diff ./www tree").says("added    new");
    world.ok("diff tree ./www").says("removed  new");
}

#[test]
fn configured_mirror_names_are_accepted() {
    let world = world();
    world.write("headwater.toml", "[[mirror]]\nname='eu'\nurl='www'\n");
    world.ok("diff eu:1 eu").says("changed  index.html");
    world.ok("diff eu tree").says("4 same");
}

#[test]
fn missing_operand_is_named() {
    let world = world();
    world.run("diff ./www:9 tree").code(2).warns("keeps no release 9; it keeps 1, 2");
    world.run("diff ./nowhere tree").code(8);
    world.run("diff ./www nowhere").code(8).warns("nowhere");
    world.run("diff eu:3 tree").code(2).warns("no mirror named \"eu\"");
    world.run("diff ./www").code(2);
}
