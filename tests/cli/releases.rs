//! `headwater releases`.

use serde_json::json;

use crate::harness::Workspace;

#[test]
fn kept_releases_are_listed_newest_first_with_note_and_order() {
    let workspace = Workspace::with_tree();
    workspace.args(&["push", "tree", "./www", "--note", "the first", "--order", "build:7"]).code(0);
    workspace.write("tree/new.html", "1");
    workspace.ok("push tree ./www");
    workspace.ok("rollback ./www");
    let run = workspace
        .ok("releases ./www")
        .says("the first")
        .says("build:7")
        .says("back to 1")
        .says("* 3");
    let first = run.stdout.find("the first").unwrap();
    assert!(run.stdout.find("back to 1").unwrap() < first);
    let row = |text: &str| run.stdout.lines().find(|line| line.contains(text)).unwrap().to_owned();
    assert!(row("back to 1").contains("-1") && run.stdout.contains("+1"), "{}", run.stdout);
}

#[test]
fn empty_columns_are_left_out() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/new.html", "1");
    workspace.ok("push tree ./www");
    let shown = workspace.on_terminal(80, "releases ./www").end().code(0);
    assert!(shown.lines.iter().any(|line| line.ends_with("size  change")), "{shown}");
    ["prune frees", "orders", "note"].iter().for_each(|word| shown.never(word));
}

#[test]
fn json_has_the_stored_release_records() {
    let workspace = Workspace::with_mirror();
    let answer = workspace.json("releases ./www", 0)["mirrors"][0].clone();
    assert_eq!((&answer["mirror"], &answer["current"]), (&json!("./www"), &json!(1)));
    let kept: serde_json::Value =
        serde_json::from_str(&workspace.read(&workspace.inside("www", "releases/")[0])).unwrap();
    assert_eq!(answer["releases"], json!([kept]));
    assert_eq!((&kept["site"], &kept["entries"]), (&json!("default"), &json!(5)));
    assert_eq!(kept["bytes"], workspace.files("tree").values().map(String::len).sum::<usize>());
}

#[test]
fn mirror_without_releases_is_empty_and_other_directories_are_refused() {
    let workspace = Workspace::with_tree();
    workspace.mkdir("empty");
    workspace.ok("releases ./empty").says("./empty");
    workspace.run("releases ./nowhere").code(2).warns("./nowhere does not exist");
    workspace.write("file", "");
    workspace.run("releases ./file").code(1).says("not a directory");
    assert!(
        workspace.json("releases ./file", 1)["mirrors"][0]["error"]
            .as_str()
            .unwrap()
            .contains("not a directory")
    );
}

#[test]
fn predicted_prune_bytes_equal_the_freed_bytes() {
    let workspace = Workspace::with_tree();
    for number in 0..4 {
        workspace.write("tree/big.bin", format!("{number}").repeat(1_000 * (number + 1)));
        workspace.ok("push tree ./www --keep-removed 0s");
    }
    // Three releases are kept by default; the fourth push dropped one already.
    let usage = workspace.json("releases ./www", 0)["mirrors"][0]["usage"].clone();
    let freed = usage["prune"].as_array().unwrap().clone();
    assert_eq!((&freed[0]["keep"], &freed[0]["bytes"]), (&json!(2), &json!(2_000)), "{usage}");
    workspace
        .ok("releases ./www")
        .says("on disk; `headwater prune --keep 2` would free 2.0 kB")
        .says("prune frees");
    let pruned = workspace.json("prune ./www --keep 2", 0)["mirrors"][0].clone();
    assert_eq!(pruned["bytes"], freed[0]["bytes"]);
    let after = workspace.json("releases ./www", 0)["mirrors"][0]["usage"].clone();
    assert_eq!(after["bytes"].as_u64().unwrap(), usage["bytes"].as_u64().unwrap() - 2_000);
    assert_eq!(after["prune"], json!([]));
}

#[test]
fn commit_ids_in_notes_are_shortened_except_in_json() {
    let workspace = Workspace::with_tree();
    let hash = "0123456789abcdef0123456789abcdef01234567";
    workspace.args(&["push", "tree", "./www", "--note", &format!("{hash} main")]).code(0);
    let run = workspace.ok("releases ./www").says("0123456789ab main");
    assert!(!run.stdout.contains(hash));
    assert_eq!(workspace.releases("./www")[0]["note"], format!("{hash} main"));
}
