//! `headwater releases`.

use serde_json::json;

use crate::harness::World;

#[test]
fn kept_releases_are_listed_newest_first_with_note_and_order() {
    let world = World::with_tree();
    world.args(&["push", "tree", "./www", "--note", "the first", "--order", "build:7"]).code(0);
    world.write("tree/new.html", "1");
    world.ok("push tree ./www");
    world.ok("rollback ./www");
    let run =
        world.ok("releases ./www").says("the first").says("build:7").says("back to 1").says("* 3");
    let first = run.stdout.find("the first").unwrap();
    assert!(run.stdout.find("back to 1").unwrap() < first);
    let row = |text: &str| run.stdout.lines().find(|line| line.contains(text)).unwrap().to_owned();
    assert!(row("back to 1").contains("-1") && run.stdout.contains("+1"), "{}", run.stdout);
}

#[test]
fn empty_columns_are_left_out() {
    let world = World::with_mirror();
    world.write("tree/new.html", "1");
    world.ok("push tree ./www");
    let shown = world.on_terminal(80, "releases ./www").end().code(0);
    assert!(shown.lines.iter().any(|line| line.ends_with("size  change")), "{shown}");
    ["prune frees", "orders", "note"].iter().for_each(|word| shown.never(word));
}

#[test]
fn json_has_the_stored_release_records() {
    let world = World::with_mirror();
    let answer = world.json("releases ./www", 0)["mirrors"][0].clone();
    assert_eq!((&answer["mirror"], &answer["current"]), (&json!("./www"), &json!(1)));
    let kept: serde_json::Value =
        serde_json::from_str(&world.read(&world.inside("www", "releases/")[0])).unwrap();
    assert_eq!(answer["releases"], json!([kept]));
    assert_eq!((&kept["site"], &kept["entries"]), (&json!("default"), &json!(5)));
    assert_eq!(kept["bytes"], world.files("tree").values().map(String::len).sum::<usize>());
}

#[test]
fn mirror_without_releases_is_empty_and_other_directories_are_refused() {
    let world = World::with_tree();
    world.mkdir("empty");
    world.ok("releases ./empty").says("./empty");
    world.run("releases ./nowhere").code(2).warns("./nowhere does not exist");
    world.write("file", "");
    world.run("releases ./file").code(1).says("not a directory");
    assert!(
        world.json("releases ./file", 1)["mirrors"][0]["error"]
            .as_str()
            .unwrap()
            .contains("not a directory")
    );
}

#[test]
fn predicted_prune_bytes_equal_the_freed_bytes() {
    let world = World::with_tree();
    for number in 0..4 {
        world.write("tree/big.bin", format!("{number}").repeat(1_000 * (number + 1)));
        world.ok("push tree ./www --keep-removed 0s");
    }
    // Three releases are kept by default; the fourth push dropped one already.
    let usage = world.json("releases ./www", 0)["mirrors"][0]["usage"].clone();
    let freed = usage["prune"].as_array().unwrap().clone();
    assert_eq!((&freed[0]["keep"], &freed[0]["bytes"]), (&json!(2), &json!(2_000)), "{usage}");
    world
        .ok("releases ./www")
        .says("on disk; `headwater prune --keep 2` would free 2.0 kB")
        .says("prune frees");
    let pruned = world.json("prune ./www --keep 2", 0)["mirrors"][0].clone();
    assert_eq!(pruned["bytes"], freed[0]["bytes"]);
    let after = world.json("releases ./www", 0)["mirrors"][0]["usage"].clone();
    assert_eq!(after["bytes"].as_u64().unwrap(), usage["bytes"].as_u64().unwrap() - 2_000);
    assert_eq!(after["prune"], json!([]));
}

#[test]
fn commit_ids_in_notes_are_shortened_except_in_json() {
    let world = World::with_tree();
    let hash = "0123456789abcdef0123456789abcdef01234567";
    world.args(&["push", "tree", "./www", "--note", &format!("{hash} main")]).code(0);
    let run = world.ok("releases ./www").says("0123456789ab main");
    assert!(!run.stdout.contains(hash));
    assert_eq!(world.releases("./www")[0]["note"], format!("{hash} main"));
}
