//! `headwater verify`.

use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::harness::{World, column};

#[test]
fn intact_mirror_has_no_faults() {
    let world = World::with_mirror();
    world.ok("verify ./www").says("./www: 5 objects, ").says("checked: no fault");
    world.ok("verify ./www --quick").says("5 slot entries checked: no fault");
    let run = world.ok("verify ./www --quiet");
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
}

#[test]
fn flipped_bit_is_found_in_every_file() {
    for prefix in ["objects/", "manifests/", "releases/", "slots/"] {
        let world = World::with_mirror();
        let path = &world.inside("www", prefix)[0];
        // The modification time is restored, so only the bytes differ.
        let time = world.meta(path).modified().unwrap();
        let mut bytes = std::fs::read(world.path(path)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        world.chmod(path, 0o644);
        std::fs::write(world.path(path), &bytes).unwrap();
        let file = std::fs::File::options().write(true).open(world.path(path)).unwrap();
        file.set_modified(time).unwrap();
        if prefix == "objects/" || prefix == "slots/" {
            world.chmod(path, 0o444);
        }
        let name = path.strip_prefix("www/").unwrap();
        let run =
            world.run("verify ./www").code(1).says("content differs").warns("headwater repair");
        assert!(prefix == "slots/" || run.stdout.contains(name), "{name}: {}", run.stdout);
        let faults = world.json("verify ./www", 1)["mirrors"][0]["faults"].clone();
        assert!(column(&faults, "kind").contains(&"content".to_owned()), "{faults}");
    }
}

#[test]
fn manual_edits_are_found_by_quick_verify() {
    let world = World::with_mirror();
    world.remove("www/current/app.js");
    world.write("www/current/app.js", "longer than it was before");
    world.chmod("www/current/app.js", 0o444);
    world.remove("www/current/index.html");
    world.write("www/current/index.html", "<h1>jello</h1>\n");
    world.chmod("www/current/index.html", 0o444);
    let file = std::fs::File::open(world.path("www/current/index.html")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    world.remove("www/current/docs/a.html");
    world.write("www/current/new.php", "<?php");
    world.remove("www/current/assets/style.css");
    world.link("/etc/passwd", "www/current/assets/style.css");
    world.chmod("www/current/assets/deep/er/logo.svg", 0o666);
    for flag in ["", "--quick"] {
        let run = world.run(&format!("verify ./www {flag}")).code(1);
        for line in [
            "app.js: size differs",
            "index.html: time differs",
            "docs/a.html: missing",
            "docs: is not ours",
            "new.php: is not ours",
            "assets/style.css: is another kind of file",
            "assets/deep/er/logo.svg: mode differs",
        ] {
            assert!(run.stdout.contains(line), "{line}: {}", run.stdout);
        }
        assert!(run.stdout.contains(&format!("slots/{}", "1-")), "{}", run.stdout);
    }
    let answer = world.json("verify ./www --quick", 1);
    assert_eq!(
        (&answer["headwater"], &answer["mirrors"][0]["entries"]),
        (&json!("verify"), &json!(5))
    );
}

#[test]
fn missing_files_of_the_store_are_named() {
    let world = World::with_mirror();
    world.remove(&world.object("www", "<h1>hello</h1>\n"));
    world.run("verify ./www").code(1).says("objects/").says("missing");
    world.remove(&world.inside("www", "manifests/")[0]);
    world.run("verify ./www").code(1).says("manifests/").says("missing");
    world.remove(&world.inside("www", "releases/")[0]);
    world.run("verify ./www").code(1).says("releases/1-").says("missing");
}

#[test]
fn control_characters_in_unexpected_names_are_escaped() {
    let world = World::with_mirror();
    world.write("www/current/evil\x1b[2J\nname", "x");
    world.run("verify ./www").code(1).says("\\u{1b}");
    world.json("verify ./www", 1);
}

#[test]
fn one_bad_mirror_does_not_hide_the_result_of_others() {
    let world = World::with_tree();
    world.ok("push tree ./www ./data");
    world.write("data/current/stranger", "x");
    world.write("file", "");
    world
        .run("verify ./file ./www ./data")
        .code(1)
        .says("./www: ")
        .says("no fault")
        .says("stranger")
        .warns("./file");
    let rows = world.json("verify ./file ./www ./data", 1)["mirrors"].clone();
    assert!(rows[0]["error"].is_string() && rows[1]["faults"] == json!([]));
    assert_eq!(column(&rows[2]["faults"], "kind"), ["stranger"]);
}

#[test]
fn verify_changes_only_its_history_event() {
    let world = World::with_mirror();
    let snapshot = || {
        let lines = world.snapshot("").into_iter();
        lines.filter(|line| !line.contains("/.headwater/events.jsonl ")).collect::<Vec<_>>()
    };
    world.write("www/current/stranger", "x");
    let before = snapshot();
    world.run("verify ./www").code(1);
    world.run("verify ./www --quick").code(1);
    assert_eq!(snapshot(), before);
    world
        .run("verify ./tree")
        .code(1)
        .warns("is not a mirror")
        .warns("hint: name the directory of a mirror");
    world.run("verify ./nowhere").code(2).warns("error: ./nowhere does not exist");
    assert_eq!(snapshot(), before);
}

#[test]
fn staged_first_release_is_not_a_fault() {
    let world = World::with_tree();
    world.ok("push tree ./www --stage-only");
    world.ok("verify ./www").says("no fault");
    world.ok("push tree ./www");
    world.remove("www/current");
    world.run("verify ./www").code(1).says("current");
}
