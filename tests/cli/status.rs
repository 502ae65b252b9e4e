//! `headwater status`.

use serde_json::json;

use crate::harness::{World, column};

#[test]
fn a_mirror_that_is_current_is_well() {
    let world = World::with_mirror();
    world.ok("status ./www").says("1 of 1 mirror current").says("just now");
    let row = world.json("status ./www", 0)["mirrors"][0].clone();
    assert_eq!((&row["state"], &row["sequence"], &row["entries"]), (&json!("current"), &json!(1), &json!(5)));
    assert_eq!((&row["behind"], &row["lag"]), (&json!(0), &json!(0)));
    assert_eq!(row["release"].as_str().unwrap().len(), 64);
    assert!(row["free_bytes"].as_u64().is_some());
}

#[test]
fn the_worst_comes_first() {
    let world = World::with_tree();
    world.ok("push tree ./www ./old");
    for number in [2, 3] {
        world.write("tree/index.html", number.to_string());
        world.ok("push tree ./www");
    }
    world.write("file", "");
    world.mkdir("empty");
    let run = world.run("status ./www ./empty ./old ./file").code(1).says("1 of 4 mirrors current");
    assert!(run.stdout.contains("not a directory"));
    let rows = world.json("status ./www ./empty ./old ./file", 1)["mirrors"].clone();
    assert_eq!(column(&rows, "state"), ["unknown", "behind", "empty", "current"]);
    assert_eq!(column(&rows, "mirror"), ["./file", "./old", "./empty", "./www"]);
    assert_eq!(rows[1]["behind"], 2);
}

#[test]
fn two_releases_of_one_sequence_are_told_apart() {
    let world = World::with_mirror();
    world.write("tree/index.html", "other");
    world.ok("push tree ./data");
    let rows = world.json("status ./www ./data", 1)["mirrors"].clone();
    assert_eq!(column(&rows, "state"), ["diverged", "current"]);
    // A push to both brings them together again.
    world.ok("push tree ./www ./data");
    world.ok("status ./www ./data");
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn a_status_changes_nothing() {
    let world = World::with_mirror();
    let before = world.snapshot("");
    world.ok("status ./www");
    world.ok("releases ./www");
    world.run("status ./nowhere").code(1).says("empty");
    assert_eq!(world.snapshot(""), before);
}

#[test]
fn all_configured_mirrors_are_asked_by_default() {
    let world = World::with_tree();
    world.write(
        "headwater.toml",
        "content = 'tree'\n[[mirror]]\nname='eu'\nurl='www'\n[[mirror]]\nname='us'\nurl='data'\n",
    );
    world.ok("push");
    let rows = world.json("status", 0)["mirrors"].clone();
    assert_eq!(column(&rows, "mirror"), ["eu", "us"]);
    assert_eq!(column(&world.json("status us", 0)["mirrors"], "location"), ["./data"]);
    world.run("status asia").code(2).warns("configured mirrors are: eu, us");
    world.remove("headwater.toml");
    world.run("status").code(2).warns("headwater init");
}
