//! `headwater repair`.

use std::fs;

use serde_json::json;

use crate::harness::Workspace;

/// Damages nearly every part of a store.
fn damage(workspace: &Workspace) {
    workspace.tamper(&workspace.object("www", "<h1>hello</h1>\n"), "garbage");
    workspace.remove(&workspace.object("www", "console.log(1)\n"));
    workspace.remove("www/current/app.js");
    workspace.write("www/current/stranger/x", "x");
    workspace.remove("www/current/docs/a.html");
    workspace.link("/etc/passwd", "www/current/docs/a.html");
}

#[test]
fn all_damage_is_repaired_from_the_tree() {
    let workspace = Workspace::with_mirror();
    damage(&workspace);
    workspace.run("verify ./www").code(1);
    workspace.ok("repair ./www --from tree").says("2 objects fetched again, none left");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.ok("verify ./www");
    workspace.ok("repair ./www --from tree").says("no fault");
    assert_eq!(workspace.current("www"), 1, "the release stays");
}

#[test]
fn all_damage_is_repaired_from_another_mirror() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www ./data");
    damage(&workspace);
    workspace.tamper(&workspace.inside("www", "manifests/")[0], "garbage");
    workspace.tamper(&workspace.inside("www", "releases/")[0], "garbage");
    let answer = workspace.json("repair ./www --from ./data", 0)["mirrors"][0].clone();
    assert_eq!((&answer["left"], &answer["objects"]), (&json!([]), &json!(2)));
    assert_eq!(workspace.served("www"), workspace.served("data"));
    workspace.ok("verify ./www");
}

#[test]
fn removed_store_directory_is_created_and_filled_again() {
    let workspace = Workspace::with_tree();
    let receiver = format!(
        "exec '{}' receive '{}'",
        env!("CARGO_BIN_EXE_headwater"),
        workspace.path("www").display()
    );
    workspace.write("ssh.sh", receiver);
    workspace.write("headwater.toml", "[[mirror]]\nname='near'\nurl='./www'\n");
    let far =
        format!("[[mirror]]\nname='far'\nurl='ssh://edge1{}'\n", workspace.path("www").display());
    workspace.write("far.toml", format!("ssh_command='sh ssh.sh'\n{far}"));
    for flags in ["near --config headwater.toml", "far --config far.toml"] {
        for name in ["objects", "objects/0a", "slots", "incoming"] {
            workspace.ok(&format!("push tree {flags} --init --again"));
            workspace.remove(&format!("www/.headwater/{name}"));
            let words = format!(".headwater/{name} is missing");
            let hint = "hint: run `headwater repair MIRROR --from TREE|MIRROR`";
            workspace.run(&format!("verify {flags}")).code(1).warns(&words).warns(hint);
            // A dry run does not read every directory of objects.
            if name != "objects/0a" {
                workspace.run(&format!("status {flags}")).code(1).says(&words).warns(hint);
                workspace.run(&format!("push tree {flags}")).code(4).warns(&words).warns(hint);
            }
            workspace.ok(&format!("repair {flags} --from tree")).says(if name == "incoming" {
                "no fault"
            } else {
                ""
            });
            workspace.ok(&format!("verify {flags}"));
            workspace.ok(&format!("push tree {flags}"));
            assert_eq!(workspace.served("www"), workspace.files("tree"), "{name}");
        }
    }
}

#[test]
fn repair_does_not_move_current() {
    let workspace = Workspace::with_mirror();
    let target = fs::read_link(workspace.path("www/current")).unwrap();
    let inode = workspace.meta("www/current/index.html");
    workspace.write("www/current/stranger", "x");
    workspace.ok("repair ./www --from tree");
    assert_eq!(fs::read_link(workspace.path("www/current")).unwrap(), target);
    assert_eq!(
        workspace.meta("www/current/index.html").modified().unwrap(),
        inode.modified().unwrap()
    );
}

#[test]
fn content_missing_from_the_source_stays_damaged_and_is_named() {
    let workspace = Workspace::with_mirror();
    workspace.tamper(&workspace.object("www", "<h1>hello</h1>\n"), "garbage");
    workspace.write("tree/index.html", "changed since");
    workspace.run("repair ./www --from tree").code(1).says("left").warns("another mirror");
    let left = workspace.json("repair ./www --from tree", 1)["mirrors"][0]["left"].clone();
    assert!(!left.as_array().unwrap().is_empty());
    // A corrupt source is not used: only content with the right hash is accepted.
    workspace.write("tree/index.html", "<h1>jello</h1>\n");
    workspace.run("repair ./www --from tree").code(1);
    workspace.write("tree/index.html", "<h1>hello</h1>\n");
    workspace.ok("repair ./www --from tree");
    workspace.ok("verify ./www");
}

#[test]
fn edited_slot_is_repaired_from_the_objects_of_the_store() {
    let workspace = Workspace::with_mirror();
    workspace.remove("www/current/index.html");
    workspace.write("www/current/index.html", "edited by hand");
    workspace.run("verify ./www --quick").code(1).says("index.html: size differs");
    workspace.rename("tree/index.html", "elsewhere");
    workspace.ok("repair ./www --from tree");
    assert_eq!(workspace.read("www/current/index.html"), "<h1>hello</h1>\n");
}

#[test]
fn in_place_edit_damages_slot_and_object_and_both_are_repaired() {
    let workspace = Workspace::with_mirror();
    // The slot and the object share an inode: an editor that writes in place changes both.
    workspace.tamper("www/current/index.html", "edited in place");
    workspace.run("verify ./www").code(1).says("objects/");
    workspace.ok("repair ./www --from tree");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.ok("verify ./www");
}

#[test]
fn missing_repair_source_changes_nothing() {
    let workspace = Workspace::with_mirror();
    workspace.write("www/current/stranger", "x");
    let before = workspace.fingerprint("www");
    for source in ["./nowhere", "nowhere", "./tree/index.html"] {
        workspace.run(&format!("repair ./www --from {source}")).code(8);
    }
    workspace.run("repair ./www").code(2);
    workspace.run("repair --from tree").code(2);
    assert_eq!(workspace.fingerprint("www"), before);
}
