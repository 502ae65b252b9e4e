//! `headwater push`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::harness::{TREE, Workspace, of_kind};

#[test]
fn first_push_creates_all_mirrors_and_serves_the_tree() {
    let workspace = Workspace::with_tree();
    let run = workspace
        .ok("push tree ./www ./data")
        .says("release 1: 5 added")
        .says("none -> 1")
        .says("switched");
    assert!(run.stdout.contains("./www") && run.stdout.contains("./data"));
    for mirror in ["www", "data"] {
        assert_eq!(workspace.served(mirror), workspace.files("tree"));
        assert_eq!(workspace.current(mirror), 1);
        for (path, content) in TREE {
            assert_eq!(workspace.meta(&format!("{mirror}/current/{path}")).mode() & 0o777, 0o444);
            // `b3sum` can check an object.
            assert_eq!(workspace.read(&workspace.object(mirror, content)), content);
        }
    }
    workspace.ok("verify ./www ./data");
}

#[test]
fn second_push_sends_nothing_and_changes_nothing() {
    let workspace = Workspace::with_mirror();
    let before = workspace.fingerprint("www");
    workspace.ok("push tree ./www").says("nothing new: release 1").says("was current");
    let answer = workspace.json("push tree ./www", 0);
    assert_eq!(answer["is_new"], false);
    assert_eq!(
        (&answer["mirrors"][0]["outcome"], &answer["mirrors"][0]["sent_packs"]),
        (&json!("current"), &json!(0))
    );
    assert_eq!(workspace.fingerprint("www"), before);
}

#[test]
fn push_after_touching_every_file_sends_nothing() {
    let workspace = Workspace::with_mirror();
    for (path, content) in TREE {
        workspace.write(&format!("tree/{path}"), content);
    }
    let answer = workspace.json("push tree ./www", 0);
    assert_eq!((&answer["is_new"], &answer["sequence"]), (&json!(false), &json!(1)));
}

#[test]
fn only_changed_content_is_sent_and_gets_a_new_time() {
    let workspace = Workspace::with_mirror();
    let time = |path: &str| workspace.meta(&format!("www/current/{path}")).mtime();
    let (old_app, old_index, inode) =
        (time("app.js"), time("index.html"), workspace.meta("www/current/app.js").ino());
    workspace.write("tree/index.html", "<h1>other</h1>\n");
    let events = workspace.events("push tree ./www", 0);
    assert_eq!(of_kind(&events, "bundle_started")[0]["objects"], 1);
    assert_eq!(of_kind(&events, "bundle_started")[0]["bytes"], "<h1>other</h1>\n".len());
    assert_eq!(of_kind(&events, "pack_sent").len(), 1);
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    assert_eq!((time("app.js"), workspace.meta("www/current/app.js").ino()), (old_app, inode));
    assert!(time("index.html") > old_index);
}

#[test]
fn renamed_file_sends_no_content() {
    let workspace = Workspace::with_mirror();
    workspace.rename("tree/docs/a.html", "tree/manual/b.html");
    let answer = workspace.json("push tree ./www", 0);
    assert_eq!((&answer["is_new"], &answer["mirrors"][0]["sent_packs"]), (&json!(true), &json!(0)));
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn duplicate_files_share_an_inode() {
    let workspace = Workspace::with_tree();
    workspace.write("tree/copy/app.js", TREE[0].1);
    workspace.ok("push tree ./www");
    let inode = |path: &str| workspace.meta(path).ino();
    assert_eq!(inode("www/current/app.js"), inode("www/current/copy/app.js"));
    assert_eq!(inode("www/current/app.js"), inode(&workspace.object("www", TREE[0].1)));
}

#[test]
fn second_release_shares_unchanged_files_with_the_first() {
    let workspace = Workspace::with_mirror();
    let before = workspace.meta("www/current/app.js").ino();
    for number in 2..6 {
        workspace.write("tree/index.html", number.to_string());
        workspace.ok("push tree ./www");
        assert_eq!(workspace.meta("www/current/app.js").ino(), before);
    }
    assert_eq!(workspace.current("www"), 5);
}

#[test]
fn executable_bit_is_kept_and_changing_it_makes_a_release() {
    let workspace = Workspace::with_tree();
    workspace.write("tree/run.sh", "#!/bin/sh\n");
    workspace.chmod("tree/run.sh", 0o750);
    workspace.ok("push tree ./www");
    assert_eq!(workspace.meta("www/current/run.sh").mode() & 0o777, 0o555);
    workspace.chmod("tree/run.sh", 0o640);
    workspace.ok("push tree ./www").says("release 2: 1 changed");
    assert_eq!(workspace.meta("www/current/run.sh").mode() & 0o777, 0o444);
    workspace.ok("verify ./www");
}

#[test]
fn unusual_names_and_sizes_are_served() {
    let workspace = Workspace::with_tree();
    let deep = (0..60).map(|n| format!("d{n}")).collect::<Vec<_>>().join("/");
    let names = [
        "with space",
        "\"quoted'",
        "-rf",
        "ünïcødé 文件 🚰",
        "#",
        "*",
        "a:b",
        "~",
        "name.",
        &"x".repeat(255),
        &deep,
    ];
    names.iter().for_each(|name| workspace.write(&format!("tree/odd/{name}"), name));
    workspace.write("tree/empty", "");
    workspace.write("tree/odd/empty too.txt", "");
    workspace.write(
        "tree/large.bin",
        (0..5_000_000u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
            .collect::<Vec<_>>(),
    );
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    assert_eq!(
        fs::read(workspace.path("www/current/large.bin")).unwrap(),
        fs::read(workspace.path("tree/large.bin")).unwrap()
    );
    workspace.ok("verify ./www");
}

#[test]
fn links_inside_the_tree_stay_links() {
    let workspace = Workspace::with_tree();
    workspace.link("docs", "tree/latest");
    workspace.link("../index.html", "tree/docs/home.html");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    assert_eq!(workspace.read("www/current/latest/a.html"), "<h1>a</h1>\n");
}

#[test]
fn files_behind_a_changed_link_get_a_new_time() {
    let workspace = Workspace::with_tree();
    workspace.write("tree/v1/f.html", "same size 1");
    workspace.write("tree/v2/f.html", "same size 2");
    workspace.link("v1", "tree/latest");
    workspace.ok("push tree ./www");
    let old = fs::metadata(workspace.path("www/current/latest/f.html")).unwrap().mtime();
    workspace.remove("tree/latest");
    workspace.link("v2", "tree/latest");
    workspace.ok("push tree ./www");
    assert!(fs::metadata(workspace.path("www/current/latest/f.html")).unwrap().mtime() > old);
}

#[test]
fn file_that_becomes_a_directory_and_back_is_served_each_time() {
    let workspace = Workspace::with_tree();
    workspace.write("tree/thing.js", "a file");
    workspace.ok("push tree ./www");
    workspace.remove("tree/thing.js");
    workspace.write("tree/thing.js/inner.js", "a directory");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.remove("tree/thing.js");
    workspace.write("tree/thing.js", "a file again");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.remove("tree/thing.js");
    workspace.link("app.js", "tree/thing.js");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.ok("verify ./www");
}

#[test]
fn creation_time_strictly_increases_over_quick_pushes() {
    let workspace = Workspace::with_tree();
    for number in 0..4 {
        workspace.write("tree/index.html", number.to_string());
        workspace.ok("push tree ./www");
    }
    // Four and not three: the release in the idle slot is kept in addition to `keep`.
    let created: Vec<u64> = workspace
        .releases("./www")
        .iter()
        .map(|release| release["created"].as_u64().unwrap())
        .collect();
    assert!(created.len() >= 3 && created.is_sorted_by(|a, b| a < b), "{created:?}");
    let served = workspace.meta("www/current/index.html").mtime();
    assert_eq!(u64::try_from(served).unwrap(), *created.last().unwrap());
}

#[test]
fn same_size_edits_within_a_second_get_a_later_time() {
    let workspace = Workspace::with_mirror();
    let mut last = workspace.meta("www/current/app.js").mtime();
    // A, B, A again: a validator made of time and size must differ each time.
    for content in ["console.log(2)\n", "console.log(1)\n", "console.log(2)\n"] {
        workspace.write("tree/app.js", content);
        workspace.ok("push tree ./www");
        let time = workspace.meta("www/current/app.js").mtime();
        assert!(time > last);
        last = time;
    }
}

#[test]
fn site_is_fixed_by_the_first_push() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www --site docs");
    let before = workspace.fingerprint("www");
    workspace.write("tree/index.html", "changed");
    workspace
        .run("push tree ./www --site default")
        .code(7)
        .warns("holds site \"docs\", not \"default\"")
        .warns("--site");
    workspace.run("push tree ./www --site other").code(7);
    assert_eq!(workspace.fingerprint("www"), before);
    workspace.ok("push tree ./www --site docs").says("release 2");
    assert_eq!(workspace.json("status ./www", 0)["mirrors"][0]["site"], "docs");
}

#[test]
fn note_is_kept_on_one_line() {
    let workspace = Workspace::with_tree();
    workspace.args(&["push", "tree", "./www", "--note", "fix\nthe \x1b[31m typo"]).code(0);
    assert_eq!(workspace.releases("./www")[0]["note"], "fix the  [31m typo");
    workspace.write("tree/a", "1");
    workspace.args(&["push", "tree", "./www", "--note", &"é".repeat(2_000)]).code(0);
    assert_eq!(workspace.releases("./www")[1]["note"].as_str().unwrap().len(), 1_024);
}

#[test]
fn older_run_number_never_replaces_a_newer_one() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www --order build:7");
    let before = workspace.fingerprint("www");
    workspace.write("tree/index.html", "older");
    let run = workspace
        .run("push tree ./www --order build:6")
        .code(6)
        .warns("superseded")
        .warns("--allow-older");
    assert!(run.stderr.contains("6 of \"build\"") && run.stderr.contains('7'), "{}", run.stderr);
    assert_eq!(workspace.json("push tree ./www --order build:6", 6)["exit_code"], 6);
    let run = workspace.ok("push tree ./www --order build:6 --superseded-ok");
    assert!(run.stderr.contains("note: ") && !run.stderr.contains("error"), "{}", run.stderr);
    workspace.json("push tree ./www --order build:6 --superseded-ok", 0);
    workspace.run("plan tree ./www --order build:6").code(6);
    assert_eq!(workspace.fingerprint("www"), before);
    // The same run again, another stream, and an explicit permission are accepted.
    workspace.ok("push tree ./www --order build:7").says("release 2");
    workspace.write("tree/index.html", "other stream");
    workspace.ok("push tree ./www --order nightly:1").says("release 3");
    workspace.run("push tree ./www --order build:6").code(6);
    workspace.ok("push tree ./www --order build:6 --allow-older");
    let last = workspace.releases("./www").pop().unwrap();
    assert_eq!(last["orders"], json!({"build": 7, "nightly": 1}));
}

#[test]
fn ci_run_provides_note_and_order() {
    let workspace = Workspace::with_tree();
    let run = |number: &'static str| {
        [
            ("CI", "true"),
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_REPOSITORY", "me/site"),
            ("GITHUB_WORKFLOW", "deploy"),
            ("GITHUB_RUN_NUMBER", number),
            ("GITHUB_SHA", "abc123"),
            ("GITHUB_REF_NAME", "main"),
        ]
    };
    workspace.run_with(&run("12"), "push tree ./www").code(0);
    let release = workspace.releases("./www").pop().unwrap();
    assert_eq!(
        (&release["note"], &release["orders"]),
        (&json!("abc123 main"), &json!({"github:me/site/deploy": 12}))
    );
    workspace.write("tree/index.html", "an old run that was slow");
    workspace.run_with(&run("11"), "push tree ./www").code(6);
    workspace.run_with(&run("11"), "push tree ./www --superseded-ok").code(0);
    assert_eq!(workspace.current("www"), 1);
    workspace.run_with(&run("13"), "push tree ./www --order mine:1 --note mine").code(0);
    let release = workspace.releases("./www").pop().unwrap();
    assert_eq!(release["note"], "mine");
    assert_eq!(release["orders"], json!({"github:me/site/deploy": 12, "mine": 1}));
}

#[test]
fn removal_of_most_of_a_large_tree_is_refused() {
    let workspace = Workspace::with_tree();
    (0..210).for_each(|number| {
        workspace.write(&format!("tree/many/{number}.html"), number.to_string());
    });
    workspace.ok("push tree ./www");
    let before = workspace.fingerprint("www");
    workspace.remove("tree/many");
    workspace
        .run("push tree ./www")
        .code(5)
        .warns("210 of 215 paths would be removed")
        .warns("--allow-shrink");
    assert_eq!(workspace.json("push tree ./www", 5)["exit_code"], 5);
    workspace.run("plan tree ./www").code(5);
    assert_eq!(workspace.fingerprint("www"), before);
    workspace.ok("push tree ./www --allow-shrink");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn secrets_are_refused_unless_allowed() {
    let workspace = Workspace::with_tree();
    for path in [".env", ".git/config", "deep/id_rsa", ".env.local"] {
        workspace.write(&format!("tree/{path}"), "secret");
        workspace.run("push tree ./www").code(5).warns(path).warns("--allow-secrets");
        assert!(!workspace.exists("www"));
        workspace.ok(&format!("push tree ./other --exclude {path}"));
        assert!(!workspace.exists(&format!("other/current/{path}")));
        workspace.remove(&format!("tree/{path}"));
    }
    workspace.write("tree/.env", "meant");
    workspace.ok("push tree ./www --allow-secrets");
    assert_eq!(workspace.read("www/current/.env"), "meant");
}

#[test]
fn removed_assets_are_served_for_a_day_and_pages_are_not() {
    let workspace = Workspace::with_mirror();
    workspace.remove("tree/app.js");
    workspace.remove("tree/docs/a.html");
    workspace.ok("push tree ./www").says("1 retired, 1 removed");
    assert!(workspace.exists("www/current/app.js") && !workspace.exists("www/current/docs"));
    let release = workspace.releases("./www").pop().unwrap();
    assert_eq!(release["retired"], 1);
    assert_eq!(
        release["until"].as_u64().unwrap(),
        release["created"].as_u64().unwrap() + 24 * 3600
    );
    // A retired entry causes no new release before it is due.
    workspace.ok("push tree ./www").says("nothing new");
}
