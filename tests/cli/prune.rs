//! `headwater prune`.

use std::fs::File;

use serde_json::json;

use crate::harness::{Run, Workspace};

fn workspace() -> Workspace {
    let workspace = Workspace::with_tree();
    for number in 1..=5 {
        workspace.write("tree/index.html", format!("version {number}"));
        workspace.ok("push tree ./www");
    }
    workspace
}

fn sequences(workspace: &Workspace) -> Vec<u64> {
    workspace.releases("./www").iter().map(|one| one["sequence"].as_u64().unwrap()).collect()
}

#[test]
fn dropped_releases_are_reported_and_kept_ones_stay_complete() {
    let workspace = workspace();
    assert_eq!(sequences(&workspace), [3, 4, 5]);
    workspace.ok("prune ./www").says("0 releases and 0 objects");
    // The idle slot shows release 4, so release 4 is kept.
    let pruned = workspace.json("prune ./www --keep 1", 0)["mirrors"][0].clone();
    assert_eq!((&pruned["releases"], &pruned["objects"]), (&json!(1), &json!(1)));
    assert_eq!(sequences(&workspace), [4, 5]);
    assert!(!workspace.exists(&workspace.object("www", "version 3")));
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.ok("verify ./www");
    workspace.ok("rollback ./www");
    assert_eq!(workspace.read("www/current/index.html"), "version 4");
}

#[test]
fn number_of_kept_releases_comes_from_the_configuration() {
    let workspace = Workspace::with_tree();
    workspace
        .write("headwater.toml", "keep = 5\ncontent = 'tree'\n[[mirror]]\nname='eu'\nurl='www'\n");
    for number in 1..=7 {
        workspace.write("tree/index.html", format!("version {number}"));
        workspace.ok("push");
    }
    assert_eq!(sequences(&workspace), [3, 4, 5, 6, 7]);
    workspace.ok("prune --keep 2").says("eu: 3 releases");
    assert_eq!(sequences(&workspace), [6, 7]);
    for bad in ["0", "-1", "x"] {
        workspace.run(&format!("prune --keep {bad}")).code(2);
    }
}

#[test]
fn unreferenced_files_are_removed() {
    let workspace = workspace();
    let stray = workspace.object("www", "nobody needs this");
    workspace.write(&stray, "nobody needs this");
    workspace.write("www/.headwater/incoming/tmp/left-over", "x");
    workspace.write("www/.headwater/slots/dirty/half/done", "x");
    workspace.ok("prune ./www").says("1 object");
    assert!(!workspace.exists(&stray) && !workspace.exists("www/.headwater/slots/dirty"));
    assert!(workspace.inside("www", "incoming/tmp/").is_empty());
    workspace.ok("verify ./www");
}

#[test]
fn unreadable_kept_manifest_prevents_pruning() {
    let workspace = workspace();
    let stray = workspace.object("www", "stray");
    workspace.write(&stray, "stray");
    let manifests = workspace.inside("www", "manifests/");
    manifests.iter().for_each(|path| workspace.tamper(path, "garbage"));
    let before = workspace.inside("www", "objects/");
    workspace.run("prune ./www --keep 1").code(1).warns("headwater repair");
    assert_eq!(workspace.inside("www", "objects/"), before);
    assert!(workspace.exists(&stray));
}

#[test]
fn directory_that_is_not_a_mirror_is_left_alone() {
    let workspace = Workspace::with_tree();
    let before = workspace.fingerprint("tree");
    workspace
        .run("prune ./tree")
        .code(1)
        .warns("is not a mirror")
        .warns("hint: name the directory of a mirror");
    workspace.run("prune ./nowhere").code(2);
    assert_eq!(workspace.fingerprint("tree"), before);
    assert!(!workspace.exists("nowhere"));
}

#[test]
fn staged_content_is_kept_until_activation() {
    let workspace = Workspace::with_mirror();
    workspace.ok("push tree ./www ./data");
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www ./data");
    // Nearly the first content again: its objects are present, and only release 1 refers to them.
    workspace.write("tree/index.html", "<h1>hello</h1>\n");
    workspace.write("tree/new.html", "new");
    let lock = File::open(workspace.path("data/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    let child = workspace.start_until_staged("push tree ./www ./data");
    workspace.ok("prune ./www --keep 1").says("1 release");
    drop(lock);
    Run::new(&["push"], &child.wait_with_output().unwrap()).code(0);
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.ok("verify ./www ./data");
}

#[test]
fn leftovers_of_unfinished_pushes_are_reported_and_dropped() {
    let workspace = Workspace::with_mirror();
    let leave = |key: &str| {
        workspace.write(&format!("www/.headwater/incoming/{}/parts/0", key.repeat(64)), "12345");
    };
    leave("a");
    leave("b");
    workspace.ok("status ./www").says("10 B of unfinished pushes");
    assert_eq!(workspace.json("status ./www", 0)["mirrors"][0]["incoming_bytes"], 10);
    workspace.ok("status ./www --metrics ./gauges");
    assert!(
        workspace.read("gauges").contains("headwater_mirror_incoming_bytes{"),
        "{}",
        workspace.read("gauges")
    );
    workspace.ok("prune ./www").says(", 2 unfinished pushes of 10 B dropped");
    assert!(workspace.inside("www", "incoming/").is_empty());
    assert!(!workspace.ok("status ./www").stdout.contains("unfinished"));
    // A push without changes cleans up leftovers too, but keeps the newest one: a push can resume
    // it.
    leave("a");
    leave("b");
    workspace.ok("push tree ./www").says("nothing new");
    assert_eq!(workspace.inside("www", "incoming/").len(), 1);
}

#[test]
fn mirror_list_command_runs_once() {
    let workspace = Workspace::with_mirror();
    let list = r#"echo run >> runs; echo '{"name":"edge","url":"./www"}'"#;
    let list = format!("mirrors_from = ['sh', '-c', '''{list}''']\n");
    workspace.write("headwater.toml", list);
    for command in ["prune", "verify", "repair edge --from tree"] {
        workspace.ok(command);
        assert_eq!(workspace.read("runs"), "run\n", "{command}");
        workspace.remove("runs");
    }
}
