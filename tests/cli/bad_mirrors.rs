//! Damaged, locked and overlapping mirrors: the error message, and that no data is lost.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;

use crate::harness::{Run, World, of_kind, refused};

#[test]
fn corrupt_object_is_found_and_repaired_from_the_tree() {
    let world = World::with_mirror();
    let object = world.object("www", "<h1>hello</h1>\n");
    world.tamper(&object, "<h1>jello</h1>\n");
    world.run("verify ./www").code(1).says("content differs");
    world.ok("repair ./www --from tree");
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www");
}

#[test]
fn missing_object_is_sent_whole_by_the_next_push() {
    let world = World::with_mirror();
    world.remove(&world.object("www", "<h1>hello</h1>\n"));
    world.write("tree/app.js", "changed");
    let events = world.events("push tree ./www", 0);
    assert_eq!(of_kind(&events, "objects_resent")[0]["objects"], 1);
    world.ok("verify ./www");
}

#[test]
fn corrupt_manifest_is_replaced_by_a_full_push() {
    for damage in ["garbage", ""] {
        let world = World::with_mirror();
        let served = world.served("www");
        world.tamper(&world.inside("www", "manifests/")[0], damage);
        world.run("verify ./www").code(1).says("manifests/");
        world.run("verify ./www --quick").code(1).says("manifests/");
        assert_eq!(world.served("www"), served);
        world.write("tree/index.html", "2");
        world.ok("push tree ./www").warns("damaged");
        assert_eq!(world.served("www"), world.files("tree"));
        world.write("tree/index.html", "3");
        world.ok("push tree ./www");
        assert_eq!(world.served("www"), world.files("tree"));
    }
}

#[test]
fn corrupt_manifest_is_replaced_by_a_push_of_the_same_content() {
    let world = World::with_mirror();
    world.tamper(&world.inside("www", "manifests/")[0], "garbage");
    world.ok("push tree ./www").says("release 2");
    assert_eq!(world.served("www"), world.files("tree"));
    for number in 3..7 {
        world.write("tree/index.html", number.to_string());
        world.ok("push tree ./www");
    }
    world.ok("prune ./www");
    world.ok("verify ./www");
}

#[test]
fn missing_and_dirty_slots_are_rebuilt() {
    let world = World::with_mirror();
    world.write("tree/index.html", "2");
    world.ok("push tree ./www");
    let slot = fs::read_dir(world.path("www/.headwater/slots"))
        .unwrap()
        .map(|slot| slot.unwrap().file_name().into_string().unwrap());
    let idle = slot.into_iter().find(|name| name.starts_with("1-")).unwrap();
    world.rename(&format!("www/.headwater/slots/{idle}"), "www/.headwater/slots/dirty");
    world.write("www/.headwater/slots/dirty/half/done", "x");
    world.write("tree/index.html", "3");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www");
    for entry in fs::read_dir(world.path("www/.headwater/slots")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with("3-") {
            world.remove(&format!("www/.headwater/slots/{name}"));
        }
    }
    world.write("tree/index.html", "4");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www");
}

#[test]
fn removed_live_slot_is_restored_by_the_next_push() {
    let world = World::with_mirror();
    let slot = fs::read_link(world.path("www/current")).unwrap();
    world.remove(&format!("www/{}", slot.display()));
    world.run("verify ./www").code(1).says("missing");
    world.ok("repair ./www --from tree");
    assert_eq!(world.served("www"), world.files("tree"));
    world.remove(&format!("www/{}", slot.display()));
    world.write("tree/index.html", "2");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn manual_edits_in_slots_never_reach_a_later_release() {
    let world = World::with_mirror();
    world.write("tree/index.html", "2");
    world.ok("push tree ./www");
    // In the live slot: a replaced file, an added one, a removed one, and a directory in place of a
    // file.
    world.remove("www/current/app.js");
    world.write("www/current/app.js", "edited by hand!");
    world.write("www/current/stranger/new.html", "new");
    world.remove("www/current/docs/a.html");
    world.mkdir("www/current/docs/a.html/now/a/directory");
    for _ in 0..2 {
        world.write("tree/index.html", world.read("tree/index.html") + "!");
        world.ok("push tree ./www");
    }
    // By now both slots are rebuilt, and the served one equals the pushed tree.
    world.remove("tree/app.js");
    world.write("tree/app.js", "changed");
    world.ok("push tree ./www");
    let served = world.served("www");
    assert_eq!(served["app.js"], "changed");
    assert_eq!(served["index.html"], world.read("tree/index.html"));
}

#[test]
fn current_that_is_a_directory_is_not_replaced() {
    let world = World::with_mirror();
    world.remove("www/current");
    world.write("www/current/index.html", "somebody's");
    world.write("tree/index.html", "2");
    world.run("push tree ./www").code(4).warns("current is not a symbolic link");
    assert_eq!(world.read("www/current/index.html"), "somebody's");
    world.run("status ./www").code(1).says("current is not a symbolic link");
    world.remove("www/current");
    world.link("/etc", "www/current");
    world.run("push tree ./www").code(4).warns("points to /etc, not to a slot");
}

#[test]
fn overlapping_tree_mirror_or_cache_is_refused() {
    let world = World::with_tree();
    let before = world.snapshot("tree");
    let apart = |line: &str| {
        world.run(line).code(2).warns("overlap").warns("separate directories");
        assert_eq!(world.snapshot("tree"), before, "{line}");
    };
    apart("push tree ./tree/www");
    apart("push tree ./tree");
    apart("push tree ./tree/docs/../new");
    apart("push tree ./www --cache ./tree/cache");
    apart("push tree ./www --cache ./tree");
    apart("plan tree ./www --cache ./tree/cache");
    world.link("tree", "alias");
    apart("push ./alias ./tree/www");
    apart("push tree ./alias/www");
    assert!(!world.exists("www"));
    // The reverse: a tree inside a mirror.
    world.ok("push tree ./www");
    let before = world.snapshot("www");
    world.run("push ./www/current ./www").code(2).warns("overlap");
    world.run("push ./www/.headwater/objects ./www").code(2);
    assert_eq!(world.snapshot("www"), before);
}

#[test]
fn one_mirror_under_two_names_is_refused_even_before_it_exists() {
    let world = World::with_tree();
    let www = world.path("www").to_string_lossy().into_owned();
    world.link(".", "here");
    for pair in [
        ["./www", "./www"],
        ["./www", "./www/"],
        ["./www", &www],
        ["./www", "././www"],
        ["./www", "./here/www"],
        ["./www", "./tree/../www"],
        ["./www", &format!("file://{www}")],
    ] {
        let run = world
            .args(&["push", "tree", pair[0], pair[1]])
            .code(2)
            .warns("hint: name each mirror once");
        assert_eq!(run.stdout, "");
        assert!(!world.exists("www"), "{pair:?}");
    }
    world.ok("push tree ./www");
    symlink("www", world.path("alias")).unwrap();
    for second in ["./www/", &www, "./alias", "./here/www"] {
        world.args(&["push", "tree", "./www", second]).code(2);
    }
    world.ok("push tree ./alias").says("nothing new");
}

#[test]
fn rolled_back_content_is_refused_until_allowed() {
    let world = World::with_mirror();
    world.write("tree/index.html", "bad");
    world.ok("push tree ./www");
    world.ok("rollback ./www");
    refused(&world, "push tree ./www", 5, "was rolled back").warns("--again");
    world.run("plan tree ./www").code(5);
    // Similar but different content is accepted.
    world.write("tree/index.html", "good");
    world.ok("push tree ./www");
    world.write("tree/index.html", "bad");
    refused(&world, "push tree ./www", 5, "was rolled back");
    world.ok("push tree ./www --again");
    assert_eq!(world.read("www/current/index.html"), "bad");
    world.ok("push tree ./www");
}

#[test]
fn locked_mirror_is_reported_and_left_alone() {
    let world = World::with_mirror();
    world.ok("push tree ./www ./data");
    let lock = File::open(world.path("www/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    world.write("tree/index.html", "2");
    for line in ["push tree ./www", "prune ./www", "repair ./www --from tree"] {
        world
            .run(&format!("{line} --wait 0s"))
            .code(9)
            .warns("locked by another headwater")
            .warns("--wait");
    }
    assert_eq!(
        world.json("push tree ./www ./data --wait 0s --require 1", 3)["mirrors"][0]["failure"],
        "locked"
    );
    drop(lock);
    // A lock file that no process has locked does not block anyone.
    world.ok("push tree ./www --wait 0s");
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn interrupted_push_exits_130_on_a_complete_release() {
    let world = World::with_mirror();
    let lock = File::open(world.path("www/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    let old = world.served("www");
    world.write("tree/index.html", "2");
    // The lock holds the push until the signal has arrived.
    let child = world.start_until_staged("push tree ./www ./data");
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
    assert_eq!(world.served("www"), old);
    assert!(!world.exists("data/current"));
    world.ok("push tree ./www ./data");
    assert_eq!(world.served("data"), world.files("tree"));
}

#[test]
fn concurrent_pushes_leave_complete_releases_and_the_next_push_converges() {
    let world = World::with_tree();
    for number in 0..60 {
        world.write(&format!("other/{number}.html"), format!("other {number}"));
        world.write(&format!("tree/{number}.html"), format!("tree {number}"));
    }
    for round in 0..4 {
        world.write("tree/round", format!("a{round}"));
        world.write("other/round", format!("b{round}"));
        let push = |tree: &str| {
            world.start(&format!("push {tree} ./a ./b ./c --allow-shrink --keep-removed 0s"))
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
            let served = world.served(mirror);
            let Some(page) = served.get("0.html") else { continue };
            let word = &page[..4];
            assert!(
                (0..60).all(|number| served[&format!("{number}.html")].starts_with(word)),
                "{mirror}: {served:?}"
            );
        }
    }
    world.ok("push tree ./a ./b ./c --allow-shrink --keep-removed 0s --again");
    world.ok("status ./a ./b ./c");
    world.ok("verify ./a ./b ./c");
}

#[test]
fn planted_links_never_cause_writes_outside_the_mirror() {
    let world = World::with_mirror();
    world.write("precious/app.js", "precious");
    let slot = fs::read_link(world.path("www/current")).unwrap();
    let slot = format!("www/{}", slot.display());
    world.remove(&format!("{slot}/assets"));
    symlink(world.path("precious"), world.path(&format!("{slot}/assets"))).unwrap();
    let before = world.snapshot("precious");
    for number in 2..5 {
        world.write("tree/assets/app.js", number.to_string());
        world.write("tree/assets/style.css", number.to_string());
        world.ok("push tree ./www");
        assert_eq!(world.snapshot("precious"), before);
        // A push checks only what changed, so that its cost depends on the change. Repair restores
        // the rest.
        for path in ["assets/app.js", "assets/style.css"] {
            assert_eq!(world.read(&format!("www/current/{path}")), number.to_string());
        }
    }
    world.ok("repair ./www --from tree");
    assert_eq!(world.served("www"), world.files("tree"));
    assert_eq!(world.snapshot("precious"), before);
    assert_eq!(world.meta("precious/app.js").nlink(), 1);
}

/// Two mirrors that work, and `c`, whose path cannot be a mirror.
fn with_a_broken_one() -> World {
    let world = World::with_tree();
    let mirrors: String =
        ["a", "b", "c"].map(|name| format!("[[mirror]]\nname='{name}'\nurl='{name}'\n")).concat();
    world.write("headwater.toml", format!("content='tree'\n{mirrors}"));
    world.ok("push");
    world.write("tree/index.html", "two");
    world.ok("push");
    world.remove("c");
    world.write("c", "a file");
    world
}

#[test]
fn failure_is_one_line_on_stderr_and_its_kind_in_the_table() {
    let world = with_a_broken_one();
    let check = |run: &Run| {
        assert_eq!(run.stderr.matches("error: c failed: ").count(), 1, "{run:?}");
        assert_eq!(run.stderr.matches("is not a directory").count(), 1, "{run:?}");
        assert!(!run.stdout.contains("is not a directory"), "{run:?}");
    };
    world.write("tree/index.html", "three");
    for line in
        ["plan --require 2", "push --require 2", "push", "heal", "rollback --yes", "heal --quiet"]
    {
        let run = world.run(line);
        check(&run);
        let row = run.stdout.lines().find(|line| line.starts_with("c "));
        assert_eq!(row.is_some(), line != "heal --quiet", "{run:?}");
        assert!(row.is_none_or(|row| row.ends_with(" failed (bad place)")), "{run:?}");
    }
    world.write("tree/index.html", "four");
    world.run("push --stage-only --require 2").code(3);
    let run = world.run("abandon 5").code(3);
    check(&run);
    assert!(run.stdout.contains("c       failed\n"), "{run:?}");
    // Mirrors on different releases are polled again and again.
    world.ok("push tree ./a");
    check(&world.run("rollback a b c").code(2).warns("ambiguous"));
    // The JSON output contains the sentence.
    let answer = world.json("plan --require 2", 3);
    assert!(
        answer["mirrors"][2]["error"].as_str().unwrap().ends_with("is not a directory"),
        "{answer}"
    );
    let answer = world.json("heal", 3);
    assert!(
        answer["mirrors"][2]["error"].as_str().unwrap().ends_with("is not a directory"),
        "{answer}"
    );
}
