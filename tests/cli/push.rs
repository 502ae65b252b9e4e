//! `headwater push`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::harness::{TREE, World, of_kind};

#[test]
fn first_push_creates_all_mirrors_and_serves_the_tree() {
    let world = World::with_tree();
    let run = world
        .ok("push tree ./www ./data")
        .says("release 1: 5 added")
        .says("none -> 1")
        .says("switched");
    assert!(run.stdout.contains("./www") && run.stdout.contains("./data"));
    for mirror in ["www", "data"] {
        assert_eq!(world.served(mirror), world.files("tree"));
        assert_eq!(world.current(mirror), 1);
        for (path, content) in TREE {
            assert_eq!(world.meta(&format!("{mirror}/current/{path}")).mode() & 0o777, 0o444);
            // `b3sum` can check an object.
            assert_eq!(world.read(&world.object(mirror, content)), content);
        }
    }
    world.ok("verify ./www ./data");
}

#[test]
fn second_push_sends_nothing_and_changes_nothing() {
    let world = World::with_mirror();
    let before = world.snapshot("www");
    world.ok("push tree ./www").says("nothing new: release 1").says("was current");
    let answer = world.json("push tree ./www", 0);
    assert_eq!(answer["is_new"], false);
    assert_eq!(
        (&answer["mirrors"][0]["outcome"], &answer["mirrors"][0]["sent_packs"]),
        (&json!("current"), &json!(0))
    );
    assert_eq!(world.snapshot("www"), before);
}

#[test]
fn push_after_touching_every_file_sends_nothing() {
    let world = World::with_mirror();
    for (path, content) in TREE {
        world.write(&format!("tree/{path}"), content);
    }
    let answer = world.json("push tree ./www", 0);
    assert_eq!((&answer["is_new"], &answer["sequence"]), (&json!(false), &json!(1)));
}

#[test]
fn only_changed_content_is_sent_and_gets_a_new_time() {
    let world = World::with_mirror();
    let time = |path: &str| world.meta(&format!("www/current/{path}")).mtime();
    let (old_app, old_index, inode) =
        (time("app.js"), time("index.html"), world.meta("www/current/app.js").ino());
    world.write("tree/index.html", "<h1>other</h1>\n");
    let events = world.events("push tree ./www", 0);
    assert_eq!(of_kind(&events, "bundle_started")[0]["objects"], 1);
    assert_eq!(of_kind(&events, "bundle_started")[0]["bytes"], "<h1>other</h1>\n".len());
    assert_eq!(of_kind(&events, "pack_sent").len(), 1);
    assert_eq!(world.served("www"), world.files("tree"));
    assert_eq!((time("app.js"), world.meta("www/current/app.js").ino()), (old_app, inode));
    assert!(time("index.html") > old_index);
}

#[test]
fn renamed_file_sends_no_content() {
    let world = World::with_mirror();
    world.rename("tree/docs/a.html", "tree/manual/b.html");
    let answer = world.json("push tree ./www", 0);
    assert_eq!((&answer["is_new"], &answer["mirrors"][0]["sent_packs"]), (&json!(true), &json!(0)));
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn duplicate_files_share_an_inode() {
    let world = World::with_tree();
    world.write("tree/copy/app.js", TREE[0].1);
    world.ok("push tree ./www");
    let inode = |path: &str| world.meta(path).ino();
    assert_eq!(inode("www/current/app.js"), inode("www/current/copy/app.js"));
    assert_eq!(inode("www/current/app.js"), inode(&world.object("www", TREE[0].1)));
}

#[test]
fn second_release_shares_unchanged_files_with_the_first() {
    let world = World::with_mirror();
    let before = world.meta("www/current/app.js").ino();
    for number in 2..6 {
        world.write("tree/index.html", number.to_string());
        world.ok("push tree ./www");
        assert_eq!(world.meta("www/current/app.js").ino(), before);
    }
    assert_eq!(world.current("www"), 5);
}

#[test]
fn executable_bit_is_kept_and_changing_it_makes_a_release() {
    let world = World::with_tree();
    world.write("tree/run.sh", "#!/bin/sh\n");
    world.chmod("tree/run.sh", 0o750);
    world.ok("push tree ./www");
    assert_eq!(world.meta("www/current/run.sh").mode() & 0o777, 0o555);
    world.chmod("tree/run.sh", 0o640);
    world.ok("push tree ./www").says("release 2: 1 changed");
    assert_eq!(world.meta("www/current/run.sh").mode() & 0o777, 0o444);
    world.ok("verify ./www");
}

#[test]
fn unusual_names_and_sizes_are_served() {
    let world = World::with_tree();
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
    names.iter().for_each(|name| world.write(&format!("tree/odd/{name}"), name));
    world.write("tree/empty", "");
    world.write("tree/odd/empty too.txt", "");
    world.write(
        "tree/large.bin",
        (0..5_000_000u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
            .collect::<Vec<_>>(),
    );
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
    assert_eq!(
        fs::read(world.path("www/current/large.bin")).unwrap(),
        fs::read(world.path("tree/large.bin")).unwrap()
    );
    world.ok("verify ./www");
}

#[test]
fn links_inside_the_tree_stay_links() {
    let world = World::with_tree();
    world.link("docs", "tree/latest");
    world.link("../index.html", "tree/docs/home.html");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
    assert_eq!(world.read("www/current/latest/a.html"), "<h1>a</h1>\n");
}

#[test]
fn files_behind_a_changed_link_get_a_new_time() {
    let world = World::with_tree();
    world.write("tree/v1/f.html", "same size 1");
    world.write("tree/v2/f.html", "same size 2");
    world.link("v1", "tree/latest");
    world.ok("push tree ./www");
    let old = fs::metadata(world.path("www/current/latest/f.html")).unwrap().mtime();
    world.remove("tree/latest");
    world.link("v2", "tree/latest");
    world.ok("push tree ./www");
    assert!(fs::metadata(world.path("www/current/latest/f.html")).unwrap().mtime() > old);
}

#[test]
fn file_that_becomes_a_directory_and_back_is_served_each_time() {
    let world = World::with_tree();
    world.write("tree/thing.js", "a file");
    world.ok("push tree ./www");
    world.remove("tree/thing.js");
    world.write("tree/thing.js/inner.js", "a directory");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
    world.remove("tree/thing.js");
    world.write("tree/thing.js", "a file again");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
    world.remove("tree/thing.js");
    world.link("app.js", "tree/thing.js");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www");
}

#[test]
fn creation_time_strictly_increases_over_quick_pushes() {
    let world = World::with_tree();
    for number in 0..4 {
        world.write("tree/index.html", number.to_string());
        world.ok("push tree ./www");
    }
    // Four and not three: the release in the idle slot is kept in addition to `keep`.
    let created: Vec<u64> = world
        .releases("./www")
        .iter()
        .map(|release| release["created"].as_u64().unwrap())
        .collect();
    assert!(created.len() >= 3 && created.is_sorted_by(|a, b| a < b), "{created:?}");
    let served = world.meta("www/current/index.html").mtime();
    assert_eq!(u64::try_from(served).unwrap(), *created.last().unwrap());
}

#[test]
fn same_size_edits_within_a_second_get_a_later_time() {
    let world = World::with_mirror();
    let mut last = world.meta("www/current/app.js").mtime();
    // A, B, A again: a validator made of time and size must differ each time.
    for content in ["console.log(2)\n", "console.log(1)\n", "console.log(2)\n"] {
        world.write("tree/app.js", content);
        world.ok("push tree ./www");
        let time = world.meta("www/current/app.js").mtime();
        assert!(time > last);
        last = time;
    }
}

#[test]
fn site_is_fixed_by_the_first_push() {
    let world = World::with_tree();
    world.ok("push tree ./www --site docs");
    let before = world.snapshot("www");
    world.write("tree/index.html", "changed");
    world
        .run("push tree ./www --site default")
        .code(7)
        .warns("holds site \"docs\", not \"default\"")
        .warns("--site");
    world.run("push tree ./www --site other").code(7);
    assert_eq!(world.snapshot("www"), before);
    world.ok("push tree ./www --site docs").says("release 2");
    assert_eq!(world.json("status ./www", 0)["mirrors"][0]["site"], "docs");
}

#[test]
fn note_is_kept_on_one_line() {
    let world = World::with_tree();
    world.args(&["push", "tree", "./www", "--note", "fix\nthe \x1b[31m typo"]).code(0);
    assert_eq!(world.releases("./www")[0]["note"], "fix the  [31m typo");
    world.write("tree/a", "1");
    world.args(&["push", "tree", "./www", "--note", &"é".repeat(2_000)]).code(0);
    assert_eq!(world.releases("./www")[1]["note"].as_str().unwrap().len(), 1_024);
}

#[test]
fn older_run_number_never_replaces_a_newer_one() {
    let world = World::with_tree();
    world.ok("push tree ./www --order build:7");
    let before = world.snapshot("www");
    world.write("tree/index.html", "older");
    let run = world
        .run("push tree ./www --order build:6")
        .code(6)
        .warns("superseded")
        .warns("--allow-older");
    assert!(run.stderr.contains("6 of \"build\"") && run.stderr.contains('7'), "{}", run.stderr);
    assert_eq!(world.json("push tree ./www --order build:6", 6)["exit_code"], 6);
    let run = world.ok("push tree ./www --order build:6 --superseded-ok");
    assert!(run.stderr.contains("note: ") && !run.stderr.contains("error"), "{}", run.stderr);
    world.json("push tree ./www --order build:6 --superseded-ok", 0);
    world.run("plan tree ./www --order build:6").code(6);
    assert_eq!(world.snapshot("www"), before);
    // The same run again, another stream, and an explicit permission are accepted.
    world.ok("push tree ./www --order build:7").says("release 2");
    world.write("tree/index.html", "other stream");
    world.ok("push tree ./www --order nightly:1").says("release 3");
    world.run("push tree ./www --order build:6").code(6);
    world.ok("push tree ./www --order build:6 --allow-older");
    let last = world.releases("./www").pop().unwrap();
    assert_eq!(last["orders"], json!({"build": 7, "nightly": 1}));
}

#[test]
fn ci_run_provides_note_and_order() {
    let world = World::with_tree();
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
    world.run_with(&run("12"), "push tree ./www").code(0);
    let release = world.releases("./www").pop().unwrap();
    assert_eq!(
        (&release["note"], &release["orders"]),
        (&json!("abc123 main"), &json!({"github:me/site/deploy": 12}))
    );
    world.write("tree/index.html", "an old run that was slow");
    world.run_with(&run("11"), "push tree ./www").code(6);
    world.run_with(&run("11"), "push tree ./www --superseded-ok").code(0);
    assert_eq!(world.current("www"), 1);
    world.run_with(&run("13"), "push tree ./www --order mine:1 --note mine").code(0);
    let release = world.releases("./www").pop().unwrap();
    assert_eq!(release["note"], "mine");
    assert_eq!(release["orders"], json!({"github:me/site/deploy": 12, "mine": 1}));
}

#[test]
fn removal_of_most_of_a_large_tree_is_refused() {
    let world = World::with_tree();
    (0..210)
        .for_each(|number| world.write(&format!("tree/many/{number}.html"), number.to_string()));
    world.ok("push tree ./www");
    let before = world.snapshot("www");
    world.remove("tree/many");
    world
        .run("push tree ./www")
        .code(5)
        .warns("210 of 215 paths would be removed")
        .warns("--allow-shrink");
    assert_eq!(world.json("push tree ./www", 5)["exit_code"], 5);
    world.run("plan tree ./www").code(5);
    assert_eq!(world.snapshot("www"), before);
    world.ok("push tree ./www --allow-shrink");
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn secrets_are_refused_unless_allowed() {
    let world = World::with_tree();
    for path in [".env", ".git/config", "deep/id_rsa", ".env.local"] {
        world.write(&format!("tree/{path}"), "secret");
        world.run("push tree ./www").code(5).warns(path).warns("--allow-secrets");
        assert!(!world.exists("www"));
        world.ok(&format!("push tree ./other --exclude {path}"));
        assert!(!world.exists(&format!("other/current/{path}")));
        world.remove(&format!("tree/{path}"));
    }
    world.write("tree/.env", "meant");
    world.ok("push tree ./www --allow-secrets");
    assert_eq!(world.read("www/current/.env"), "meant");
}

#[test]
fn removed_assets_are_served_for_a_day_and_pages_are_not() {
    let world = World::with_mirror();
    world.remove("tree/app.js");
    world.remove("tree/docs/a.html");
    world.ok("push tree ./www").says("1 retired, 1 removed");
    assert!(world.exists("www/current/app.js") && !world.exists("www/current/docs"));
    let release = world.releases("./www").pop().unwrap();
    assert_eq!(release["retired"], 1);
    assert_eq!(
        release["until"].as_u64().unwrap(),
        release["created"].as_u64().unwrap() + 24 * 3600
    );
    // A retired entry causes no new release before it is due.
    world.ok("push tree ./www").says("nothing new");
}
