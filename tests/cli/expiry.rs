//! Retired files are served until their time is over, and removed then.

use serde_json::json;

use crate::harness::World;

/// A workspace with mirrors on which release 2 retires `app.js` for a day.
fn world(mirrors: &str) -> World {
    let world = World::with_tree();
    world.ok(&format!("push tree {mirrors}"));
    world.remove("tree/app.js");
    world.ok(&format!("push tree {mirrors}")).says("1 retired, served until 2");
    world
}

/// Runs a line with the clock two days ahead.
#[cfg(debug_assertions)]
fn later(world: &World, line: &str) -> crate::harness::Run {
    world.run_with(&[("HEADWATER_FAULT", "clock+172800")], line)
}

#[test]
fn report_shows_how_long_retired_entries_are_served() {
    let world = World::with_mirror();
    world.remove("tree/app.js");
    let planned = world
        .ok("plan tree ./www")
        .says("1 retired, served until 2")
        .says("(--expunge PATH removes a path now)");
    assert!(planned.stdout.contains("Z (--expunge"), "{}", planned.stdout);
    let plan = world.json("plan tree ./www", 0);
    assert!(
        plan["first_until"].as_u64().is_some() && plan["first_until"] == plan["last_until"],
        "{plan}"
    );
    world.remove("tree/assets/style.css");
    world.write("headwater.toml", "[[keep_removed]]\nmatch = '*.css'\nfor = '14d'\n");
    let report = world.json("push tree ./www", 0);
    let until = |key: &str| report["changes"][key].as_u64().unwrap();
    assert_eq!(until("last_until") - until("first_until"), 13 * 86_400);
    // An entry retired earlier is not counted again.
    world.remove("tree/assets");
    let run = world.ok("push tree ./www").says("1 retired, served until ");
    assert!(!run.stdout.contains(" to 2"), "{}", run.stdout);
    // Without retired entries there is no such line.
    world.write("tree/index.html", "2");
    assert!(!world.ok("push tree ./www").stdout.contains("served until"));
}

#[cfg(debug_assertions)]
#[test]
fn due_entries_leave_every_mirror_without_a_new_release() {
    for line in ["push tree ./www ./data", "heal ./www ./data", "prune ./www ./data"] {
        let world = world("./www ./data");
        world.ok(line);
        assert!(world.exists("www/current/app.js"), "{line}: it is not due yet");
        let run = later(&world, line).code(0);
        for mirror in ["www", "data"] {
            assert!(!world.exists(&format!("{mirror}/current/app.js")), "{line}: {}", run.stdout);
            assert_eq!(world.current(mirror), 2, "{line}");
        }
        if line.starts_with("push") {
            assert!(run.stdout.contains("nothing new: release 2"), "{}", run.stdout);
            assert!(
                run.stderr.contains("./www: 1 retired file is no longer served"),
                "{}",
                run.stderr
            );
        }
        // By the real clock the entry was removed too early; it is not restored.
        world.ok("verify ./www ./data");
        world.write("tree/index.html", "3");
        world.ok("push tree ./www ./data");
        assert!(!world.exists("www/current/app.js") && !world.exists("data/current/app.js"));
        world.ok("verify ./www ./data");
    }
}

#[cfg(debug_assertions)]
#[test]
fn expired_entries_are_not_reported_as_served() {
    let world = world("./www");
    later(&world, "prune ./www").code(0).says("1 retired file is no longer served");
    let found = world.json("which app.js ./www", 1)["mirrors"][0].clone();
    assert_eq!((&found["object"], &found["sequence"]), (&json!(null), &json!(2)));
    world.ok("push tree ./new");
    assert_eq!(world.json("diff ./new ./www", 0)["changes"], json!([]));
    // A new mirror filled from there gets all other entries: a due entry is due on every mirror.
    later(&world, "push --from ./www ./other").code(0);
    assert!(world.exists("other/current/index.html") && !world.exists("other/current/app.js"));
    world.ok("verify ./www ./other");
}

#[test]
fn expired_entries_are_listed_below_the_result_on_a_terminal() {
    let world = world("./www");
    // The state after a crash: the entry is due, and nothing was removed yet.
    world.write("www/.headwater/expired", "{\"through\":4000000000}\n");
    let shown = world.on_terminal(80, "push tree ./www").end().code(0);
    shown.once("nothing new: release 2");
    shown.once("./www: 1 retired file is no longer served");
    assert!(!world.exists("www/current/app.js"));
}
