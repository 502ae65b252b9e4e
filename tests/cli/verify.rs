//! `headwater verify`.

use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::harness::{Workspace, column};

#[test]
fn intact_mirror_has_no_faults() {
    let workspace = Workspace::with_mirror();
    workspace.ok("verify ./www").says("./www: 5 objects, ").says("checked: no fault");
    workspace.ok("verify ./www --quick").says("5 slot entries checked: no fault");
    let run = workspace.ok("verify ./www --quiet");
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
}

#[test]
fn flipped_bit_is_found_in_every_file() {
    for prefix in ["objects/", "manifests/", "releases/", "slots/"] {
        let workspace = Workspace::with_mirror();
        let path = &workspace.inside("www", prefix)[0];
        // The modification time is restored, so only the bytes differ.
        let time = workspace.meta(path).modified().unwrap();
        let mut bytes = std::fs::read(workspace.path(path)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        workspace.chmod(path, 0o644);
        std::fs::write(workspace.path(path), &bytes).unwrap();
        let file = std::fs::File::options().write(true).open(workspace.path(path)).unwrap();
        file.set_modified(time).unwrap();
        if prefix == "objects/" || prefix == "slots/" {
            workspace.chmod(path, 0o444);
        }
        let name = path.strip_prefix("www/").unwrap();
        let run =
            workspace.run("verify ./www").code(1).says("content differs").warns("headwater repair");
        assert!(prefix == "slots/" || run.stdout.contains(name), "{name}: {}", run.stdout);
        let faults = workspace.json("verify ./www", 1)["mirrors"][0]["faults"].clone();
        assert!(column(&faults, "kind").contains(&"content".to_owned()), "{faults}");
    }
}

#[test]
fn manual_edits_are_found_by_quick_verify() {
    let workspace = Workspace::with_mirror();
    workspace.remove("www/current/app.js");
    workspace.write("www/current/app.js", "longer than it was before");
    workspace.chmod("www/current/app.js", 0o444);
    workspace.remove("www/current/index.html");
    workspace.write("www/current/index.html", "<h1>jello</h1>\n");
    workspace.chmod("www/current/index.html", 0o444);
    let file = std::fs::File::open(workspace.path("www/current/index.html")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    workspace.remove("www/current/docs/a.html");
    workspace.write("www/current/new.php", "<?php");
    workspace.remove("www/current/assets/style.css");
    workspace.link("/etc/passwd", "www/current/assets/style.css");
    workspace.chmod("www/current/assets/deep/er/logo.svg", 0o666);
    for flag in ["", "--quick"] {
        let run = workspace.run(&format!("verify ./www {flag}")).code(1);
        for line in [
            "app.js: size differs",
            "index.html: time differs",
            "docs/a.html: missing",
            "docs: is not ours",
            "new.php: is not ours",
            "assets/style.css: is a different kind of file",
            "assets/deep/er/logo.svg: mode differs",
        ] {
            assert!(run.stdout.contains(line), "{line}: {}", run.stdout);
        }
        assert!(run.stdout.contains(&format!("slots/{}", "1-")), "{}", run.stdout);
    }
    let answer = workspace.json("verify ./www --quick", 1);
    assert_eq!(
        (&answer["headwater"], &answer["mirrors"][0]["entries"]),
        (&json!("verify"), &json!(5))
    );
}

#[test]
fn missing_files_of_the_store_are_named() {
    let workspace = Workspace::with_mirror();
    workspace.remove(&workspace.object("www", "<h1>hello</h1>\n"));
    workspace.run("verify ./www").code(1).says("objects/").says("missing");
    workspace.remove(&workspace.inside("www", "manifests/")[0]);
    workspace.run("verify ./www").code(1).says("manifests/").says("missing");
    workspace.remove(&workspace.inside("www", "releases/")[0]);
    workspace.run("verify ./www").code(1).says("releases/1-").says("missing");
}

#[test]
fn control_characters_in_unexpected_names_are_escaped() {
    let workspace = Workspace::with_mirror();
    workspace.write("www/current/evil\x1b[2J\nname", "x");
    workspace.run("verify ./www").code(1).says("\\u{1b}");
    workspace.json("verify ./www", 1);
}

#[test]
fn one_bad_mirror_does_not_hide_the_result_of_others() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www ./data");
    workspace.write("data/current/stranger", "x");
    workspace.write("file", "");
    workspace
        .run("verify ./file ./www ./data")
        .code(1)
        .says("./www: ")
        .says("no fault")
        .says("stranger")
        .warns("./file");
    let rows = workspace.json("verify ./file ./www ./data", 1)["mirrors"].clone();
    assert!(rows[0]["error"].is_string() && rows[1]["faults"] == json!([]));
    assert_eq!(column(&rows[2]["faults"], "kind"), ["stranger"]);
}

#[test]
fn verify_changes_only_its_history_event() {
    let workspace = Workspace::with_mirror();
    let fingerprints = || {
        let lines = workspace.fingerprint("").into_iter();
        lines.filter(|line| !line.contains("/.headwater/events.jsonl ")).collect::<Vec<_>>()
    };
    workspace.write("www/current/stranger", "x");
    let before = fingerprints();
    workspace.run("verify ./www").code(1);
    workspace.run("verify ./www --quick").code(1);
    assert_eq!(fingerprints(), before);
    workspace
        .run("verify ./tree")
        .code(1)
        .warns("is not a mirror")
        .warns("hint: name the directory of a mirror");
    workspace.run("verify ./nowhere").code(2).warns("error: ./nowhere does not exist");
    assert_eq!(fingerprints(), before);
}

#[test]
fn staged_first_release_is_not_a_fault() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www --stage-only");
    workspace.ok("verify ./www").says("no fault");
    workspace.ok("push tree ./www");
    workspace.remove("www/current");
    workspace.run("verify ./www").code(1).says("current");
}
