//! Trees, mirrors and stores with something wrong: what is said, which code
//! ends the run, and that nothing was lost.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::harness::{Run, World, is_root, of_kind};

/// A push that must end with `code`, say `words` on stderr, and leave the mirror as it is.
#[track_caller]
fn refused(world: &World, line: &str, code: i32, words: &str) -> Run {
    let before = world.snapshot("www");
    let run = world.run(line).code(code).warns(words).warns("hint: ");
    assert_eq!(run.stdout, "");
    assert_eq!(world.json(line, code)["exit_code"], code);
    assert_eq!(world.snapshot("www"), before);
    run
}

#[test]
fn a_missing_tree_is_missing_content() {
    let world = World::with_mirror();
    world.rename("tree", "elsewhere");
    for tree in ["tree", "./tree", "elsewhere/none"] {
        refused(&world, &format!("push {tree} ./www"), 8, tree);
        world.run(&format!("plan {tree} ./www")).code(8);
    }
    world.write("file", "");
    refused(&world, "push ./file ./www", 8, "./file is no readable directory");
}

#[test]
fn an_empty_tree_is_refused_unless_it_is_meant() {
    let world = World::with_mirror();
    world.mkdir("empty/with/empty/directories");
    refused(&world, "push empty ./www", 5, "the tree is empty").warns("--allow-shrink");
    world.run("push empty ./new").code(5);
    assert!(!world.exists("new"));
    world.ok("push empty ./www --allow-shrink --keep-removed 0s");
    assert!(world.served("www").is_empty());
    world.ok("verify ./www");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn unreadable_files_and_directories_are_named_together() {
    let world = World::with_tree();
    world.run_unprivileged("push tree ./www").code(0);
    let served = world.served("www");
    world.write("tree/secret.html", "x");
    world.chmod("tree/secret.html", 0);
    world.chmod("tree/docs", 0);
    world
        .run_unprivileged("push tree ./www")
        .code(8)
        .warns("2 paths cannot be read: docs cannot be read (Permission denied")
        .warns("secret.html cannot be read")
        .warns("hint: make them readable");
    assert_eq!(world.served("www"), served);
    world.run_unprivileged("push tree ./www --exclude secret.html --exclude docs").code(0);
    world.chmod("tree/docs", 0o755);
    world.chmod("tree", 0);
    world.run_unprivileged("push tree ./www").code(8).warns("no readable directory");
    world.chmod("tree", 0o755);
}

#[test]
fn names_that_cannot_travel_are_named_together() {
    let world = World::with_mirror();
    let bad: [&[u8]; 5] = [b"caf\xe9.html", b"new\nline", b"back\\slash", b"esc\x1b[31mred", "c1\u{9b}31m".as_bytes()];
    for name in bad {
        fs::write(world.path("tree").join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let run = refused(&world, "push tree ./www", 8, "5 paths cannot be distributed");
    for shown in ["caf\\xe9.html is not UTF-8", "new\\x0aline", "back\\\\slash has a backslash", "esc\\x1b[31mred"] {
        assert!(run.stderr.contains(shown), "{shown}: {}", run.stderr);
    }
    // Left out, they are no obstacle.
    world
        .args(&[
            "push",
            "tree",
            "./www",
            "--exclude",
            "caf*",
            "--exclude",
            "new*",
            "--exclude",
            "back*",
            "--exclude",
            "esc*",
            "--exclude",
            "c1*",
        ])
        .code(0);
}

#[test]
fn links_that_leave_the_tree_are_refused_also_through_another() {
    let world = World::with_mirror();
    world.write("outside/secret", "secret");
    for target in ["/etc/passwd", "../outside/secret", "docs/../../outside/secret"] {
        world.link(target, "tree/leak");
        refused(&world, "push tree ./www", 8, "leak");
        world.remove("tree/leak");
    }
    // `docs/up` stays inside, and from there `..` would leave it by one more.
    world.link("..", "tree/docs/up");
    world.link("docs/up/../outside/secret", "tree/leak");
    refused(&world, "push tree ./www", 8, "leak").warns("escape");
    world.remove("tree/leak");
    world.ok("push tree ./www");
    assert_eq!(world.read("www/current/docs/up/index.html"), "<h1>hello</h1>\n");
}

#[test]
fn links_in_a_loop_are_refused() {
    let world = World::with_mirror();
    world.link("b", "tree/a");
    world.link("a", "tree/b");
    world.link("self", "tree/self");
    refused(&world, "push tree ./www", 8, "3 paths cannot be distributed");
    world.write("headwater.toml", "symlinks = 'follow'\n");
    refused(&world, "push tree ./www", 8, "self");
    for name in ["a", "b", "self"] {
        world.remove(&format!("tree/{name}"));
    }
    // A directory that contains itself, when links are followed.
    world.link("..", "tree/docs/up");
    refused(&world, "push tree ./www", 8, "docs/up");
}

#[test]
fn a_fifo_a_socket_and_a_device_are_refused_at_once() {
    let world = World::with_mirror();
    mknodat(CWD, world.path("tree/pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.path("tree/socket")).unwrap();
    refused(&world, "push tree ./www", 8, "pipe is a fifo").warns("socket is a socket");
    world.ok("push tree ./www --exclude pipe --exclude socket");
}

#[test]
fn a_file_in_the_mirrors_place_is_left_alone() {
    let world = World::with_tree();
    world.write("file", "precious");
    world.write("www/index.html", "not ours");
    for place in ["./file", "./file/below", "./no/parent"] {
        world.run(&format!("push tree {place}")).code(4).warns("a mirror is a directory");
    }
    assert_eq!(world.read("file"), "precious");
    assert!(!world.exists("no"));
}

#[test]
fn a_broken_place_never_stops_the_other_mirrors() {
    let world = World::with_tree();
    world.write("file", "precious");
    world.link("loop", "loop");
    for place in ["./file", "./file/below", "./no/parent", "./loop", "./loop/below"] {
        world.write("tree/index.html", place);
        world.run(&format!("push tree ./www {place} --require 1")).code(3);
        assert_eq!(world.served("www"), world.files("tree"), "{place}");
    }
}

#[test]
fn a_directory_with_other_files_is_left_alone_and_the_way_beside_it_is_told() {
    let world = World::with_tree();
    world.write("site/index.html", "an existing web root");
    let before = world.snapshot("site");
    let run = world.run("push tree ./site").code(4).warns("it was not touched").warns("beside it").warns("current");
    assert!(run.stderr.contains("README"));
    assert_eq!(world.snapshot("site"), before);
    world.run("push tree ./site ./www --require 1").code(3);
    assert_eq!((world.snapshot("site"), world.served("www")), (before, world.files("tree")));
}

#[test]
fn an_empty_directory_and_an_unfinished_creation_become_mirrors() {
    let world = World::with_tree();
    world.mkdir("empty");
    world.mkdir("unfinished/.headwater/objects/00");
    world.ok("push tree ./empty ./unfinished");
    assert_eq!(world.served("unfinished"), world.files("tree"));
    world.ok("verify ./empty ./unfinished");
    // Files beside it are not ours, and stay.
    world.write("empty/robots.txt", "mine");
    world.write("tree/index.html", "2");
    world.ok("push tree ./empty");
    assert_eq!(world.read("empty/robots.txt"), "mine");
}

#[test]
fn a_mirror_that_may_not_be_written_denies() {
    let world = World::with_tree();
    world.run_unprivileged("push tree ./www").code(0);
    let served = world.served("www");
    world.write("tree/index.html", "2");
    world.chmod("www/.headwater/incoming", 0o555);
    world.run_unprivileged("push tree ./www").code(7).warns("Permission denied").warns("needs to write");
    world.chmod("www/.headwater/incoming", 0o755);
    world.mkdir("closed");
    world.chmod("closed", 0o555);
    world.run_unprivileged("push tree ./closed/www").code(7);
    world.chmod("closed", 0);
    world.run_unprivileged("push tree ./closed/www").code(7);
    world.run_unprivileged("push tree ./closed/www ./other --require 1").code(3);
    world.chmod("closed", 0o755);
    assert_eq!(world.served("www"), served);
    world.run_unprivileged("push tree ./www").code(0);
}

/// Root may give a store away, and then must not write to it; nobody else can.
#[test]
fn a_mirror_of_another_user_denies() {
    let world = World::with_mirror();
    world.write("tree/index.html", "2");
    if !is_root() {
        // The nearest thing that everybody has: a directory of root.
        world.run("push tree /usr").code(7).warns("belongs to user id 0");
        return;
    }
    std::os::unix::fs::chown(world.path("www"), Some(12_345), None).unwrap();
    let before = world.snapshot("www");
    world.run("push tree ./www").code(7).warns("belongs to user id 12345").warns("as the user who owns");
    assert_eq!(world.snapshot("www"), before);
}

/// The disk says no, whoever asks: the debug build makes the errors of the system itself.
#[test]
fn a_full_or_read_only_disk_leaves_the_old_release() {
    let world = World::with_mirror();
    let old = world.served("www");
    world.write("tree/index.html", "2");
    for (errno, code, hint) in [(28, 4, "free some space"), (30, 7, "needs to write")] {
        for operation in ["create link", "rename", "sync file system"] {
            let fault = format!("errno={errno}@{operation}");
            world.run_with(&[("HEADWATER_FAULT", &fault)], "push tree ./www").code(code).warns(hint);
            assert_eq!((world.served("www"), world.current("www")), (old.clone(), 1), "{fault}");
        }
    }
    world.ok("verify ./www");
    world.ok("push tree ./www");
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn a_store_of_a_newer_format_is_not_touched() {
    let world = World::with_mirror();
    let format = world.read("www/.headwater/format");
    world.tamper("www/.headwater/format", &format.replace("\"version\":1", "\"version\":2"));
    world.write("tree/index.html", "2");
    let before = world.snapshot("www");
    world.run("push tree ./www").code(4).warns("format 2, newer than this headwater knows").warns("upgrade");
    for line in
        ["status ./www", "releases ./www", "verify ./www", "prune ./www", "rollback ./www", "repair ./www --from tree"]
    {
        let run = world.run(line);
        assert!((run.stdout.clone() + &run.stderr).contains("newer"), "{line}: {run:?}");
    }
    assert_eq!(world.snapshot("www"), before);
    for damaged in ["", "{}", "not json", "{\"headwater\":\"other\",\"version\":1}"] {
        world.tamper("www/.headwater/format", damaged);
        let before = world.snapshot("www");
        world.run("push tree ./www").code(4).warns("damaged");
        assert_eq!(world.snapshot("www"), before);
    }
}

#[test]
fn a_torn_release_record_stops_no_push() {
    let world = World::with_mirror();
    world.write("tree/index.html", "2");
    world.ok("push tree ./www ./data");
    for record in ["{\"headwater\":\"release\",", ""] {
        let path = world.inside("www", "releases/2-")[0].clone();
        world.tamper(&path, record);
        world.run("status ./www").code(1).says("unknown").says("damaged");
        world.run("verify ./www").code(1).says("releases/2-");
        let served = world.served("www");
        world.ok("repair ./www --from ./data");
        assert_eq!(world.served("www"), served);
        world.ok("verify ./www");
    }
    let path = world.inside("www", "releases/2-")[0].clone();
    world.tamper(&path, "torn");
    world.write("tree/index.html", "3");
    world.ok("push tree ./www").says("release 3");
    assert_eq!(world.served("www"), world.files("tree"));
    for number in 4..8 {
        world.write("tree/index.html", number.to_string());
        world.ok("push tree ./www");
    }
    world.ok("verify ./www");
}

#[test]
fn a_corrupt_object_is_found_and_mended_by_the_tree() {
    let world = World::with_mirror();
    let object = world.object("www", "<h1>hello</h1>\n");
    world.tamper(&object, "<h1>jello</h1>\n");
    world.run("verify ./www").code(1).says("content differs");
    world.ok("repair ./www --from tree");
    assert_eq!(world.served("www"), world.files("tree"));
    world.ok("verify ./www");
}

#[test]
fn a_missing_object_is_sent_whole_by_the_next_push() {
    let world = World::with_mirror();
    world.remove(&world.object("www", "<h1>hello</h1>\n"));
    world.write("tree/app.js", "changed");
    let events = world.events("push tree ./www", 0);
    assert_eq!(of_kind(&events, "objects_resent")[0]["objects"], 1);
    world.ok("verify ./www");
}

#[test]
fn a_corrupt_manifest_is_healed_by_a_push_that_sends_all_anew() {
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
fn a_push_of_the_same_content_heals_a_corrupt_manifest_too() {
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
fn missing_and_dirty_slots_are_made_anew() {
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
fn a_live_slot_that_is_gone_comes_back_with_the_next_push() {
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
fn hand_edits_in_slots_never_reach_a_later_release() {
    let world = World::with_mirror();
    world.write("tree/index.html", "2");
    world.ok("push tree ./www");
    // The live slot: a file replaced, one added, one gone, a directory in a file's place.
    world.remove("www/current/app.js");
    world.write("www/current/app.js", "edited by hand!");
    world.write("www/current/stranger/new.html", "new");
    world.remove("www/current/docs/a.html");
    world.mkdir("www/current/docs/a.html/now/a/directory");
    for _ in 0..2 {
        world.write("tree/index.html", world.read("tree/index.html") + "!");
        world.ok("push tree ./www");
    }
    // Both slots were made anew by now, and the served one is what was pushed.
    world.remove("tree/app.js");
    world.write("tree/app.js", "changed");
    world.ok("push tree ./www");
    let served = world.served("www");
    assert_eq!(served["app.js"], "changed");
    assert_eq!(served["index.html"], world.read("tree/index.html"));
}

#[test]
fn a_current_that_is_a_directory_is_not_replaced() {
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
fn tree_mirror_and_cache_lie_apart() {
    let world = World::with_tree();
    let before = world.snapshot("tree");
    let apart = |line: &str| {
        world.run(line).code(2).warns("contain one another").warns("apart");
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
    // The other way round: a tree inside of a mirror.
    world.ok("push tree ./www");
    let before = world.snapshot("www");
    world.run("push ./www/current ./www").code(2).warns("contain one another");
    world.run("push ./www/.headwater/objects ./www").code(2);
    assert_eq!(world.snapshot("www"), before);
}

#[test]
fn one_mirror_under_two_names_is_refused_also_before_it_exists() {
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
        let run = world.args(&["push", "tree", pair[0], pair[1]]).code(2).warns("hint: name each mirror once");
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
fn content_that_was_rolled_back_is_refused_until_it_is_wanted_again() {
    let world = World::with_mirror();
    world.write("tree/index.html", "bad");
    world.ok("push tree ./www");
    world.ok("rollback ./www");
    refused(&world, "push tree ./www", 5, "was rolled back").warns("--again");
    world.run("plan tree ./www").code(5);
    // What is like it but not the same may go.
    world.write("tree/index.html", "good");
    world.ok("push tree ./www");
    world.write("tree/index.html", "bad");
    refused(&world, "push tree ./www", 5, "was rolled back");
    world.ok("push tree ./www --again");
    assert_eq!(world.read("www/current/index.html"), "bad");
    world.ok("push tree ./www");
}

#[test]
fn a_locked_mirror_is_told_and_left() {
    let world = World::with_mirror();
    let lock = File::open(world.path("www/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    world.write("tree/index.html", "2");
    for line in ["push tree ./www", "prune ./www", "repair ./www --from tree"] {
        world.run(&format!("{line} --wait 0s")).code(9).warns("locked by another headwater").warns("--wait");
    }
    assert_eq!(world.json("push tree ./www ./data --wait 0s --require 1", 3)["mirrors"][0]["failure"], "locked");
    drop(lock);
    // Not held, a lock file is no obstacle, whoever left it.
    world.ok("push tree ./www --wait 0s");
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn an_interrupted_push_ends_with_130_and_on_a_whole_release() {
    let world = World::with_mirror();
    let lock = File::open(world.path("www/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    let old = world.served("www");
    world.write("tree/index.html", "2");
    // The lock holds it where it is, the signal comes, and then it may go on.
    let child = world.start_until_staged("push tree ./www ./data");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    // Caught signals are no longer pending once the handler ran.
    let pending = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    while pending().lines().any(|line| line.starts_with("ShdPnd") && !line.ends_with("0000000000000000")) {
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
fn two_pushes_at_once_leave_whole_releases_and_the_next_push_brings_all_together() {
    let world = World::with_tree();
    for number in 0..60 {
        world.write(&format!("other/{number}.html"), format!("other {number}"));
        world.write(&format!("tree/{number}.html"), format!("tree {number}"));
    }
    for round in 0..4 {
        world.write("tree/round", format!("a{round}"));
        world.write("other/round", format!("b{round}"));
        let push = |tree: &str| world.start(&format!("push {tree} ./a ./b ./c --allow-shrink --keep-removed 0s"));
        let children = [push("tree"), push("other")];
        let codes: Vec<i32> =
            children.into_iter().map(|child| child.wait_with_output().unwrap().status.code().unwrap()).collect();
        // What the loser is told, and that no mirror stays behind, is for tests/system: here it is only wholeness.
        assert!(codes.iter().all(|code| matches!(code, 0 | 3 | 4 | 6)), "{codes:?}");
        assert!(codes.iter().any(|code| matches!(code, 0 | 3)), "{codes:?}");
        for mirror in ["a", "b", "c"] {
            let served = world.served(mirror);
            let Some(page) = served.get("0.html") else { continue };
            let word = &page[..4];
            assert!((0..60).all(|number| served[&format!("{number}.html")].starts_with(word)), "{mirror}: {served:?}");
        }
    }
    world.ok("push tree ./a ./b ./c --allow-shrink --keep-removed 0s --again");
    world.ok("status ./a ./b ./c");
    world.ok("verify ./a ./b ./c");
}

#[test]
fn nothing_outside_of_the_mirror_is_written_through_planted_links() {
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
        // What was not changed is not looked at: work goes with the change. Repair mends it.
        for path in ["assets/app.js", "assets/style.css"] {
            assert_eq!(world.read(&format!("www/current/{path}")), number.to_string());
        }
    }
    world.ok("repair ./www --from tree");
    assert_eq!(world.served("www"), world.files("tree"));
    assert_eq!(world.snapshot("precious"), before);
    assert_eq!(world.meta("precious/app.js").nlink(), 1);
}
