//! Retired files are served until their time is over, and removed then.

use serde_json::json;

use crate::harness::Workspace;

/// A workspace with mirrors on which release 2 retires `app.js` for a day.
fn workspace(mirrors: &str) -> Workspace {
    let workspace = Workspace::with_tree();
    workspace.ok(&format!("push tree {mirrors}"));
    workspace.remove("tree/app.js");
    workspace.ok(&format!("push tree {mirrors}")).says("1 retired, served until 2");
    workspace
}

/// Runs a line with the clock two days ahead.
#[cfg(debug_assertions)]
fn later(workspace: &Workspace, line: &str) -> crate::harness::Run {
    workspace.run_with(&[("HEADWATER_FAULT", "clock+172800")], line)
}

#[test]
fn report_shows_how_long_retired_entries_are_served() {
    let workspace = Workspace::with_mirror();
    workspace.remove("tree/app.js");
    let planned = workspace
        .ok("plan tree ./www")
        .says("1 retired, served until 2")
        .says("(--expunge PATH removes a path now)");
    assert!(planned.stdout.contains("Z (--expunge"), "{}", planned.stdout);
    let plan = workspace.json("plan tree ./www", 0);
    assert!(
        plan["first_until"].as_u64().is_some() && plan["first_until"] == plan["last_until"],
        "{plan}"
    );
    workspace.remove("tree/assets/style.css");
    workspace.write("headwater.toml", "[[keep_removed]]\nmatch = '*.css'\nfor = '14d'\n");
    let report = workspace.json("push tree ./www", 0);
    let until = |key: &str| report["changes"][key].as_u64().unwrap();
    assert_eq!(until("last_until") - until("first_until"), 13 * 86_400);
    // An entry retired earlier is not counted again.
    workspace.remove("tree/assets");
    let run = workspace.ok("push tree ./www").says("1 retired, served until ");
    assert!(!run.stdout.contains(" to 2"), "{}", run.stdout);
    // Without retired entries there is no such line.
    workspace.write("tree/index.html", "2");
    assert!(!workspace.ok("push tree ./www").stdout.contains("served until"));
}

#[cfg(debug_assertions)]
#[test]
fn due_entries_leave_every_mirror_without_a_new_release() {
    for line in ["push tree ./www ./data", "heal ./www ./data", "prune ./www ./data"] {
        let workspace = workspace("./www ./data");
        workspace.ok(line);
        assert!(workspace.exists("www/current/app.js"), "{line}: the entry is not due yet");
        let run = later(&workspace, line).code(0);
        for mirror in ["www", "data"] {
            assert!(
                !workspace.exists(&format!("{mirror}/current/app.js")),
                "{line}: {}",
                run.stdout
            );
            assert_eq!(workspace.current(mirror), 2, "{line}");
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
        workspace.ok("verify ./www ./data");
        workspace.write("tree/index.html", "3");
        workspace.ok("push tree ./www ./data");
        assert!(
            !workspace.exists("www/current/app.js") && !workspace.exists("data/current/app.js")
        );
        workspace.ok("verify ./www ./data");
    }
}

#[cfg(debug_assertions)]
#[test]
fn expired_entries_are_not_reported_as_served() {
    let workspace = workspace("./www");
    later(&workspace, "prune ./www").code(0).says("1 retired file is no longer served");
    let found = workspace.json("which app.js ./www", 1)["mirrors"][0].clone();
    assert_eq!((&found["object"], &found["sequence"]), (&json!(null), &json!(2)));
    workspace.ok("push tree ./new");
    assert_eq!(workspace.json("diff ./new ./www", 0)["changes"], json!([]));
    // A new mirror filled from there gets all other entries: a due entry is due on every mirror.
    later(&workspace, "push --from ./www ./other").code(0);
    assert!(
        workspace.exists("other/current/index.html") && !workspace.exists("other/current/app.js")
    );
    workspace.ok("verify ./www ./other");
}

#[test]
fn expired_entries_are_listed_below_the_result_on_a_terminal() {
    let workspace = workspace("./www");
    // The state after a crash: the entry is due, and nothing was removed yet.
    workspace.write("www/.headwater/expired", "{\"through\":4000000000}\n");
    let shown = workspace.on_terminal(80, "push tree ./www").end().code(0);
    shown.once("nothing new: release 2");
    shown.once("./www: 1 retired file is no longer served");
    assert!(!workspace.exists("www/current/app.js"));
}
