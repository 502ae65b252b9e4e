//! Damaged, locked and overlapping mirrors: the error message, and that no data is lost.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;

use crate::harness::{Run, Workspace, assert_refused, of_kind};

#[test]
fn corrupt_object_is_found_and_repaired_from_the_tree() {
    let workspace = Workspace::with_mirror();
    let object = workspace.object("www", "<h1>hello</h1>\n");
    workspace.tamper(&object, "<h1>jello</h1>\n");
    workspace.run("verify ./www").code(1).says("content differs");
    workspace.ok("repair ./www --from tree");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.ok("verify ./www");
}

#[test]
fn missing_object_is_sent_whole_by_the_next_push() {
    let workspace = Workspace::with_mirror();
    workspace.remove(&workspace.object("www", "<h1>hello</h1>\n"));
    workspace.write("tree/app.js", "changed");
    let events = workspace.events("push tree ./www", 0);
    assert_eq!(of_kind(&events, "objects_resent")[0]["objects"], 1);
    workspace.ok("verify ./www");
}

#[test]
fn corrupt_manifest_is_replaced_by_a_full_push() {
    for damage in ["garbage", ""] {
        let workspace = Workspace::with_mirror();
        let served = workspace.served("www");
        workspace.tamper(&workspace.inside("www", "manifests/")[0], damage);
        workspace.run("verify ./www").code(1).says("manifests/");
        workspace.run("verify ./www --quick").code(1).says("manifests/");
        assert_eq!(workspace.served("www"), served);
        workspace.write("tree/index.html", "2");
        workspace.ok("push tree ./www").warns("damaged");
        assert_eq!(workspace.served("www"), workspace.files("tree"));
        workspace.write("tree/index.html", "3");
        workspace.ok("push tree ./www");
        assert_eq!(workspace.served("www"), workspace.files("tree"));
    }
}

#[test]
fn corrupt_manifest_is_replaced_by_a_push_of_the_same_content() {
    let workspace = Workspace::with_mirror();
    workspace.tamper(&workspace.inside("www", "manifests/")[0], "garbage");
    workspace.ok("push tree ./www").says("release 2");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    for number in 3..7 {
        workspace.write("tree/index.html", number.to_string());
        workspace.ok("push tree ./www");
    }
    workspace.ok("prune ./www");
    workspace.ok("verify ./www");
}

#[test]
fn missing_and_dirty_slots_are_rebuilt() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www");
    let slot = fs::read_dir(workspace.path("www/.headwater/slots"))
        .unwrap()
        .map(|slot| slot.unwrap().file_name().into_string().unwrap());
    let idle = slot.into_iter().find(|name| name.starts_with("1-")).unwrap();
    workspace.rename(&format!("www/.headwater/slots/{idle}"), "www/.headwater/slots/dirty");
    workspace.write("www/.headwater/slots/dirty/half/done", "x");
    workspace.write("tree/index.html", "3");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.ok("verify ./www");
    for entry in fs::read_dir(workspace.path("www/.headwater/slots")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with("3-") {
            workspace.remove(&format!("www/.headwater/slots/{name}"));
        }
    }
    workspace.write("tree/index.html", "4");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.ok("verify ./www");
}

#[test]
fn removed_live_slot_is_restored_by_the_next_push() {
    let workspace = Workspace::with_mirror();
    let slot = fs::read_link(workspace.path("www/current")).unwrap();
    workspace.remove(&format!("www/{}", slot.display()));
    workspace.run("verify ./www").code(1).says("missing");
    workspace.ok("repair ./www --from tree");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    workspace.remove(&format!("www/{}", slot.display()));
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn manual_edits_in_slots_never_reach_a_later_release() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www");
    // In the live slot: a replaced file, an added one, a removed one, and a directory in place of a
    // file.
    workspace.remove("www/current/app.js");
    workspace.write("www/current/app.js", "edited by hand!");
    workspace.write("www/current/stranger/new.html", "new");
    workspace.remove("www/current/docs/a.html");
    workspace.mkdir("www/current/docs/a.html/now/a/directory");
    for _ in 0..2 {
        workspace.write("tree/index.html", workspace.read("tree/index.html") + "!");
        workspace.ok("push tree ./www");
    }
    // By now both slots are rebuilt, and the served one equals the pushed tree.
    workspace.remove("tree/app.js");
    workspace.write("tree/app.js", "changed");
    workspace.ok("push tree ./www");
    let served = workspace.served("www");
    assert_eq!(served["app.js"], "changed");
    assert_eq!(served["index.html"], workspace.read("tree/index.html"));
}

#[test]
fn current_that_is_a_directory_is_not_replaced() {
    let workspace = Workspace::with_mirror();
    workspace.remove("www/current");
    workspace.write("www/current/index.html", "somebody's");
    workspace.write("tree/index.html", "2");
    workspace.run("push tree ./www").code(4).warns("current is not a symbolic link");
    assert_eq!(workspace.read("www/current/index.html"), "somebody's");
    workspace.run("status ./www").code(1).says("current is not a symbolic link");
    workspace.remove("www/current");
    workspace.link("/etc", "www/current");
    workspace.run("push tree ./www").code(4).warns("points to /etc, not to a slot");
}

#[test]
fn overlapping_tree_mirror_or_cache_is_refused() {
    let workspace = Workspace::with_tree();
    let before = workspace.fingerprint("tree");
    let apart = |line: &str| {
        workspace.run(line).code(2).warns("overlap").warns("separate directories");
        assert_eq!(workspace.fingerprint("tree"), before, "{line}");
    };
    apart("push tree ./tree/www");
    apart("push tree ./tree");
    apart("push tree ./tree/docs/../new");
    apart("push tree ./www --cache ./tree/cache");
    apart("push tree ./www --cache ./tree");
    apart("plan tree ./www --cache ./tree/cache");
    workspace.link("tree", "alias");
    apart("push ./alias ./tree/www");
    apart("push tree ./alias/www");
    assert!(!workspace.exists("www"));
    // The reverse: a tree inside a mirror.
    workspace.ok("push tree ./www");
    let before = workspace.fingerprint("www");
    workspace.run("push ./www/current ./www").code(2).warns("overlap");
    workspace.run("push ./www/.headwater/objects ./www").code(2);
    assert_eq!(workspace.fingerprint("www"), before);
}

#[test]
fn one_mirror_under_two_names_is_refused_even_before_it_exists() {
    let workspace = Workspace::with_tree();
    let www = workspace.path("www").to_string_lossy().into_owned();
    workspace.link(".", "here");
    for pair in [
        ["./www", "./www"],
        ["./www", "./www/"],
        ["./www", &www],
        ["./www", "././www"],
        ["./www", "./here/www"],
        ["./www", "./tree/../www"],
        ["./www", &format!("file://{www}")],
    ] {
        let run = workspace
            .args(&["push", "tree", pair[0], pair[1]])
            .code(2)
            .warns("hint: name each mirror once");
        assert_eq!(run.stdout, "");
        assert!(!workspace.exists("www"), "{pair:?}");
    }
    workspace.ok("push tree ./www");
    symlink("www", workspace.path("alias")).unwrap();
    for second in ["./www/", &www, "./alias", "./here/www"] {
        workspace.args(&["push", "tree", "./www", second]).code(2);
    }
    workspace.ok("push tree ./alias").says("nothing new");
}

#[test]
fn rolled_back_content_is_refused_until_allowed() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "bad");
    workspace.ok("push tree ./www");
    workspace.ok("rollback ./www");
    assert_refused(&workspace, "push tree ./www", 5, "was rolled back").warns("--again");
    workspace.run("plan tree ./www").code(5);
    // Similar but different content is accepted.
    workspace.write("tree/index.html", "good");
    workspace.ok("push tree ./www");
    workspace.write("tree/index.html", "bad");
    assert_refused(&workspace, "push tree ./www", 5, "was rolled back");
    workspace.ok("push tree ./www --again");
    assert_eq!(workspace.read("www/current/index.html"), "bad");
    workspace.ok("push tree ./www");
}

#[test]
fn locked_mirror_is_reported_and_left_alone() {
    let workspace = Workspace::with_mirror();
    workspace.ok("push tree ./www ./data");
    let lock = File::open(workspace.path("www/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    workspace.write("tree/index.html", "2");
    for line in ["push tree ./www", "prune ./www", "repair ./www --from tree"] {
        workspace
            .run(&format!("{line} --wait 0s"))
            .code(9)
            .warns("locked by another headwater")
            .warns("--wait");
    }
    assert_eq!(
        workspace.json("push tree ./www ./data --wait 0s --require 1", 3)["mirrors"][0]["failure"],
        "locked"
    );
    drop(lock);
    // A lock file that no process has locked does not block anyone.
    workspace.ok("push tree ./www --wait 0s");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn interrupted_push_exits_130_on_a_complete_release() {
    let workspace = Workspace::with_mirror();
    let lock = File::open(workspace.path("www/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    let old = workspace.served("www");
    workspace.write("tree/index.html", "2");
    // The lock holds the push until the signal has arrived.
    let child = workspace.start_until_staged("push tree ./www ./data");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    // A caught signal is no longer pending once its handler has run.
    let pending = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    while pending()
        .lines()
        .any(|line| line.starts_with("ShdPnd") && !line.ends_with("0000000000000000"))
    {
        std::thread::yield_now();
    }
    drop(lock);
    let run = Run::new(&["push"], &child.wait_with_output().unwrap()).code(130);
    assert_eq!(run.stdout, "");
    assert_eq!(workspace.served("www"), old);
    assert!(!workspace.exists("data/current"));
    workspace.ok("push tree ./www ./data");
    assert_eq!(workspace.served("data"), workspace.files("tree"));
}

#[test]
fn concurrent_pushes_leave_complete_releases_and_the_next_push_converges() {
    let workspace = Workspace::with_tree();
    for number in 0..60 {
        workspace.write(&format!("other/{number}.html"), format!("other {number}"));
        workspace.write(&format!("tree/{number}.html"), format!("tree {number}"));
    }
    for round in 0..4 {
        workspace.write("tree/round", format!("a{round}"));
        workspace.write("other/round", format!("b{round}"));
        let push = |tree: &str| {
            workspace.start(&format!("push {tree} ./a ./b ./c --allow-shrink --keep-removed 0s"))
        };
        let children = [push("tree"), push("other")];
        let codes: Vec<i32> = children
            .into_iter()
            .map(|child| child.wait_with_output().unwrap().status.code().unwrap())
            .collect();
        // The error of the losing push, and that no mirror lags afterwards, are tested in
        // tests/system. This test checks only that releases are complete.
        assert!(codes.iter().all(|code| matches!(code, 0 | 3 | 4 | 6)), "{codes:?}");
        assert!(codes.iter().any(|code| matches!(code, 0 | 3)), "{codes:?}");
        for mirror in ["a", "b", "c"] {
            let served = workspace.served(mirror);
            let Some(page) = served.get("0.html") else { continue };
            let word = &page[..4];
            assert!(
                (0..60).all(|number| served[&format!("{number}.html")].starts_with(word)),
                "{mirror}: {served:?}"
            );
        }
    }
    workspace.ok("push tree ./a ./b ./c --allow-shrink --keep-removed 0s --again");
    workspace.ok("status ./a ./b ./c");
    workspace.ok("verify ./a ./b ./c");
}

#[test]
fn planted_links_never_cause_writes_outside_the_mirror() {
    let workspace = Workspace::with_mirror();
    workspace.write("precious/app.js", "precious");
    let slot = fs::read_link(workspace.path("www/current")).unwrap();
    let slot = format!("www/{}", slot.display());
    workspace.remove(&format!("{slot}/assets"));
    symlink(workspace.path("precious"), workspace.path(&format!("{slot}/assets"))).unwrap();
    let before = workspace.fingerprint("precious");
    for number in 2..5 {
        workspace.write("tree/assets/app.js", number.to_string());
        workspace.write("tree/assets/style.css", number.to_string());
        workspace.ok("push tree ./www");
        assert_eq!(workspace.fingerprint("precious"), before);
        // A push checks only what changed, so that its cost depends on the change. Repair restores
        // the rest.
        for path in ["assets/app.js", "assets/style.css"] {
            assert_eq!(workspace.read(&format!("www/current/{path}")), number.to_string());
        }
    }
    workspace.ok("repair ./www --from tree");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    assert_eq!(workspace.fingerprint("precious"), before);
    assert_eq!(workspace.meta("precious/app.js").nlink(), 1);
}

/// Two mirrors that work, and `c`, whose path cannot be a mirror.
fn with_a_broken_one() -> Workspace {
    let workspace = Workspace::with_tree();
    let mirrors: String =
        ["a", "b", "c"].map(|name| format!("[[mirror]]\nname='{name}'\nurl='{name}'\n")).concat();
    workspace.write("headwater.toml", format!("content='tree'\n{mirrors}"));
    workspace.ok("push");
    workspace.write("tree/index.html", "two");
    workspace.ok("push");
    workspace.remove("c");
    workspace.write("c", "a file");
    workspace
}

#[test]
fn failure_is_one_line_on_stderr_and_its_kind_in_the_table() {
    let workspace = with_a_broken_one();
    let check = |run: &Run| {
        assert_eq!(run.stderr.matches("error: c failed: ").count(), 1, "{run:?}");
        assert_eq!(run.stderr.matches("is not a directory").count(), 1, "{run:?}");
        assert!(!run.stdout.contains("is not a directory"), "{run:?}");
    };
    workspace.write("tree/index.html", "three");
    for line in
        ["plan --require 2", "push --require 2", "push", "heal", "rollback --yes", "heal --quiet"]
    {
        let run = workspace.run(line);
        check(&run);
        let row = run.stdout.lines().find(|line| line.starts_with("c "));
        assert_eq!(row.is_some(), line != "heal --quiet", "{run:?}");
        assert!(row.is_none_or(|row| row.ends_with(" failed (bad place)")), "{run:?}");
    }
    workspace.write("tree/index.html", "four");
    workspace.run("push --stage-only --require 2").code(3);
    let run = workspace.run("abandon 5").code(3);
    check(&run);
    assert!(run.stdout.contains("c       failed\n"), "{run:?}");
    // Mirrors on different releases are polled again and again.
    workspace.ok("push tree ./a");
    check(&workspace.run("rollback a b c").code(2).warns("ambiguous"));
    // The JSON output contains the sentence.
    let answer = workspace.json("plan --require 2", 3);
    assert!(
        answer["mirrors"][2]["error"].as_str().unwrap().ends_with("is not a directory"),
        "{answer}"
    );
    let answer = workspace.json("heal", 3);
    assert!(
        answer["mirrors"][2]["error"].as_str().unwrap().ends_with("is not a directory"),
        "{answer}"
    );
}
