//! `headwater diff`.

use serde_json::json;

use crate::harness::{Workspace, column};

fn workspace() -> Workspace {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "2");
    workspace.remove("tree/docs/a.html");
    workspace.ok("push tree ./www");
    workspace
}

#[test]
fn mirror_and_its_tree_do_not_differ() {
    let workspace = Workspace::with_mirror();
    for pair in ["./www tree", "tree ./www", "./www ./www", "tree ./tree", "./www:1 ./www"] {
        workspace.ok(&format!("diff {pair}")).says("5 same");
        assert_eq!(workspace.json(&format!("diff {pair}"), 0)["changes"], json!([]));
    }
}

#[test]
fn kept_release_is_selected_by_its_sequence() {
    let workspace = workspace();
    let run = workspace.ok("diff ./www:1 ./www");
    assert!(run.stdout.contains("removed  docs/a.html\nchanged  index.html\n"), "{}", run.stdout);
    workspace.ok("diff ./www:1 tree").says("changed  index.html");
    workspace.ok("diff ./www ./www:1").says("added    docs/a.html");
    let answer = workspace.json("diff ./www:1 ./www:2", 0);
    assert_eq!(column(&answer["changes"], "kind"), ["removed", "changed"]);
    assert_eq!((&answer["headwater"], &answer["same"]), (&json!("diff"), &json!(3)));
}

#[test]
fn retired_entries_are_not_a_difference() {
    let workspace = Workspace::with_mirror();
    workspace.remove("tree/app.js");
    workspace.ok("push tree ./www");
    assert!(workspace.exists("www/current/app.js"));
    assert_eq!(workspace.json("diff ./www tree", 0)["changes"], json!([]));
    assert_eq!(column(&workspace.json("diff ./www:1 ./www", 0)["changes"], "kind"), ["retired"]);
}

#[test]
fn change_just_before_a_push_is_shown() {
    let workspace = workspace();
    workspace.write("tree/new", "x");
    workspace.ok("diff ./www tree").says("added    new");
    workspace.ok("diff tree ./www").says("removed  new");
}

#[test]
fn configured_mirror_names_are_accepted() {
    let workspace = workspace();
    workspace.write("headwater.toml", "[[mirror]]\nname='eu'\nurl='www'\n");
    workspace.ok("diff eu:1 eu").says("changed  index.html");
    workspace.ok("diff eu tree").says("4 same");
}

#[test]
fn missing_operand_is_named() {
    let workspace = workspace();
    workspace.run("diff ./www:9 tree").code(2).warns("keeps no release 9; it keeps 1, 2");
    workspace.run("diff ./nowhere tree").code(8);
    workspace.run("diff ./www nowhere").code(8).warns("nowhere");
    workspace.run("diff eu:3 tree").code(2).warns("no mirror named \"eu\"");
    workspace.run("diff ./www").code(2);
}
