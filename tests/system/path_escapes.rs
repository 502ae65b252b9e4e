//! G22: no file outside of the store and the tree is created, changed or read.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::checker;
use crate::corrupt_store::{forge, retired};
use crate::harness::{Outcome, Sandbox, fingerprint};
use crate::trees::Tree;

const SECRET: &str = "what nobody was to see";

/// Creates a mirror with two releases, and a directory outside it that looks like part of a store
/// and like part of a slot, so that a followed link has an effect.
fn prepare() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.publish(&Tree::small(), &["mirror"], &[]);
    sandbox.publish(&Tree::small().file("js/app.js", "let release = 2;"), &["mirror"], &[]);
    let outside = sandbox.path("outside");
    for name in [
        "js",
        "docs",
        "objects/aa",
        "releases",
        "manifests",
        "slots",
        "incoming/tmp",
        "parts",
        "held",
    ] {
        fs::create_dir_all(outside.join(name)).unwrap();
    }
    for name in [
        "secret",
        "js/app.js",
        "index.html",
        "lock",
        "format",
        "docs/old.html",
        "objects/aa/secret",
    ] {
        fs::write(outside.join(name), SECRET).unwrap();
    }
    sandbox
}

/// Runs every command that reads or changes the mirror. None may touch files outside or panic, and
/// a push that succeeds must leave a valid mirror.
fn assert_outside_unchanged(sandbox: &Sandbox, what: &str) {
    // Files of kept releases may stay as they are.
    let known: BTreeSet<String> =
        checker::state(&sandbox.path("mirror")).err().into_iter().flatten().collect();
    run_everything(sandbox, what, &|outcome| {
        let faults = checker::state(&sandbox.path("mirror")).err().unwrap_or_default();
        let new: Vec<_> = faults.into_iter().filter(|fault| !known.contains(fault)).collect();
        assert!(new.is_empty(), "{what}: a false success was reported: {new:#?}\n{outcome}");
    });
}

/// The same; calls `check_success` after each push and repair that succeeds.
fn run_everything(sandbox: &Sandbox, what: &str, check_success: &dyn Fn(&Outcome)) {
    let outside = sandbox.path("outside");
    let before = fingerprint(&outside);
    let (mirror, tree) = (sandbox.path_text("mirror"), sandbox.path_text("tree"));
    let run = |arguments: &[&str]| {
        let outcome = sandbox.run(arguments);
        assert!(!matches!(outcome.code(), None | Some(101)), "{what}: {outcome}");
        assert_eq!(fingerprint(&outside), before, "{what}: {outcome}");
        outcome
    };
    run(&["status", &mirror]);
    run(&["releases", &mirror]);
    run(&["verify", &mirror]);
    run(&["verify", "--quick", &mirror]);
    run(&["plan", &tree, &mirror]);
    for round in 3..6 {
        let text = format!("let release = {round};");
        sandbox.write(
            "tree",
            &Tree::small().without("docs/v1/a.html").file("js/app.js", text).file("x/y.css", "y"),
        );
        let outcome = run(&["push", &tree, &mirror]);
        if outcome.code() == Some(0) {
            check_success(&outcome);
        }
    }
    run(&["rollback", &mirror, "--to", "1"]);
    run(&["prune", &mirror, "--keep", "1"]);
    let outcome = run(&["repair", &mirror, "--from", &tree]);
    if outcome.code() == Some(0) {
        check_success(&outcome);
    }
    assert_no_secret(sandbox, "mirror", what);
}

fn assert_no_secret(sandbox: &Sandbox, mirror: &str, what: &str) {
    let secret = blake3::hash(SECRET.as_bytes()).to_hex().to_string();
    assert!(
        !checker::object_names(&sandbox.path(mirror)).contains(&secret),
        "{what}: the secret was read"
    );
}

/// Replaces `place` by a link.
fn relink(place: &Path, target: &Path) {
    if place.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        fs::remove_dir_all(place).unwrap();
    } else {
        fs::remove_file(place).ok();
    }
    symlink(target, place).unwrap();
}

/// Returns the served slot, and the other one.
fn slots(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let live = sandbox.path("mirror/current").canonicalize().unwrap();
    let mut others =
        fs::read_dir(live.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let idle = others.find(|path| *path != live).expect("two slots");
    (live, idle)
}

#[test]
fn slots_linked_outside_are_not_followed() {
    for is_live in [false, true] {
        let sandbox = prepare();
        let (live, idle) = slots(&sandbox);
        relink(if is_live { &live } else { &idle }, &sandbox.path("outside"));
        assert_outside_unchanged(&sandbox, if is_live { "live slot" } else { "idle slot" });
    }
}

#[test]
fn links_inside_slots_are_not_followed() {
    for is_live in [false, true] {
        for name in ["js", "docs", "js/app.js"] {
            let sandbox = prepare();
            let (live, idle) = slots(&sandbox);
            let slot = if is_live { live } else { idle };
            relink(&slot.join(name), &sandbox.path("outside").join(name));
            assert_outside_unchanged(&sandbox, name);
        }
    }
}

/// A push checks only what it changes, so its cost depends on the change. Other changes in the idle
/// slot are then served, and `verify --quick` finds them.
#[test]
fn links_that_a_push_leaves_are_found_by_quick_verify() {
    for is_live in [false, true] {
        let sandbox = prepare();
        let (live, idle) = slots(&sandbox);
        let slot = if is_live { live } else { idle };
        relink(&slot.join("index.html"), &sandbox.path("outside/index.html"));
        run_everything(&sandbox, "index.html", &|outcome| {
            if checker::check_store(&sandbox.path("mirror")).is_err() {
                let current = fs::read_link(sandbox.path("mirror/current/index.html"));
                let found = sandbox.run(&["verify", "--quick", &sandbox.path_text("mirror")]);
                assert_eq!(found.code() == Some(1), current.is_ok(), "{found}{outcome}");
            }
        });
    }
}

#[test]
fn store_paths_linked_outside_are_not_followed() {
    for name in ["objects", "manifests", "releases", "slots", "incoming", "lock", "format"] {
        let sandbox = prepare();
        relink(&sandbox.path("mirror/.headwater").join(name), &sandbox.path("outside").join(name));
        assert_outside_unchanged(&sandbox, name);
    }
}

#[test]
fn store_directories_moved_outside_are_not_changed_there() {
    for name in ["objects", "manifests", "releases", "slots", "incoming", "incoming/tmp"] {
        let sandbox = prepare();
        let place = sandbox.path("mirror/.headwater").join(name);
        let moved = sandbox.path("outside").join("moved");
        if fs::rename(&place, &moved).is_err() {
            fs::create_dir(&moved).unwrap();
        }
        relink(&place, &moved);
        assert_outside_unchanged(&sandbox, name);
    }
}

#[test]
fn object_directories_linked_outside_are_not_followed() {
    let sandbox = prepare();
    let objects = sandbox.path("mirror/.headwater/objects");
    for prefix in 0..=255 {
        relink(&objects.join(format!("{prefix:02x}")), &sandbox.path("outside/objects/aa"));
    }
    assert_outside_unchanged(&sandbox, "objects/xx");
}

#[test]
fn store_that_is_a_link_is_not_followed() {
    let sandbox = prepare();
    fs::rename(sandbox.path("mirror/.headwater"), sandbox.path("outside/store")).unwrap();
    symlink(sandbox.path("outside/store"), sandbox.path("mirror/.headwater")).unwrap();
    assert_outside_unchanged(&sandbox, ".headwater");
}

#[test]
fn current_linked_outside_is_not_followed() {
    let targets = [
        "../outside",
        "/",
        ".headwater/slots/../../../outside",
        ".headwater/slots/dirty",
        "missing",
    ];
    for target in targets {
        let sandbox = prepare();
        relink(&sandbox.path("mirror/current"), Path::new(target));
        assert_outside_unchanged(&sandbox, target);
    }
    let sandbox = prepare();
    relink(&sandbox.path("mirror/current"), &sandbox.path("outside"));
    assert_outside_unchanged(&sandbox, "absolute current");
}

#[test]
fn current_that_is_a_directory_or_a_file_is_not_removed() {
    let sandbox = prepare();
    fs::remove_file(sandbox.path("mirror/current")).unwrap();
    fs::create_dir(sandbox.path("mirror/current")).unwrap();
    fs::write(sandbox.path("mirror/current/mine"), "mine").unwrap();
    assert_outside_unchanged(&sandbox, "a directory");
    assert_eq!(fs::read_to_string(sandbox.path("mirror/current/mine")).unwrap(), "mine");

    let sandbox = prepare();
    fs::remove_file(sandbox.path("mirror/current")).unwrap();
    fs::write(sandbox.path("mirror/current"), "mine").unwrap();
    assert_outside_unchanged(&sandbox, "a file");
    assert_eq!(fs::read_to_string(sandbox.path("mirror/current")).unwrap(), "mine");
}

#[test]
fn links_swapped_in_during_pushes_are_not_followed() {
    let sandbox = prepare();
    let outside = sandbox.path("outside");
    let before = fingerprint(&outside);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                swap_links(&sandbox);
            }
        });
        for round in 0..40 {
            let tree = Tree::small().file("js/app.js", format!("let release = {round};"));
            let tree = if round % 2 == 0 {
                tree.without("docs/v1/a.html").without("docs/latest")
            } else {
                tree
            };
            sandbox.write("tree", &tree);
            let outcome = sandbox.push("tree", &["mirror"], &[]);
            assert!(!matches!(outcome.code(), None | Some(101)), "{outcome}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fingerprint(&outside), before);
    assert_no_secret(&sandbox, "mirror", "swapped links");
}

/// Replaces the directories of every slot by links, and restores them.
fn swap_links(sandbox: &Sandbox) {
    let Ok(slots) = fs::read_dir(sandbox.path("mirror/.headwater/slots")) else { return };
    for slot in slots.flatten() {
        for name in ["js", "docs"] {
            let (place, aside) = (slot.path().join(name), slot.path().join("aside"));
            if place.symlink_metadata().is_ok_and(|meta| meta.is_dir())
                && fs::rename(&place, &aside).is_ok()
            {
                symlink(sandbox.path("outside").join(name), &place).ok();
                std::thread::yield_now();
                fs::remove_file(&place).ok();
                fs::rename(&aside, &place).ok();
            }
        }
    }
}

#[test]
fn manifests_with_paths_outside_are_refused() {
    let absolute = |sandbox: &Sandbox| sandbox.path_text("outside/new.js");
    let paths: [&dyn Fn(&Sandbox) -> String; 6] = [
        &absolute,
        &|_| "../../../outside/new.js".into(),
        &|_| "../new.js".into(),
        &|_| "js/../../../../outside/new.js".into(),
        &|_| "docs/latest/new.js".into(),
        &|_| "x\\..\\new.js".into(),
    ];
    for path in paths {
        let sandbox = prepare();
        let path = path(&sandbox);
        forge(&sandbox.path("mirror"), |forgery| {
            let like = forgery.lines.iter().find(|line| line.path == "js/app.js").unwrap().clone();
            forgery.lines.push(retired(&path, &like));
        });
        is_refused_as_source(&sandbox, &path);
        assert_outside_unchanged(&sandbox, &path);
    }
}

#[test]
fn manifests_with_links_to_the_outside_are_refused() {
    for target in ["../../outside", "../../../outside/secret", "/etc/passwd", "v1/../../../outside"]
    {
        let sandbox = prepare();
        forge(&sandbox.path("mirror"), |forgery| {
            let line = forgery.lines.iter_mut().find(|line| line.path == "docs/latest").unwrap();
            line.symlink = Some(target.to_owned());
        });
        is_refused_as_source(&sandbox, target);
        assert_outside_unchanged(&sandbox, target);
    }
}

/// Asserts that a mirror with a false manifest cannot fill another mirror.
fn is_refused_as_source(sandbox: &Sandbox, what: &str) {
    let before = fingerprint(&sandbox.path("outside"));
    let outcome =
        sandbox.run(&["push", "--from", &sandbox.path_text("mirror"), &sandbox.path_text("fresh")]);
    assert!(!matches!(outcome.code(), None | Some(0 | 101)), "{what}: {outcome}");
    assert_eq!(fingerprint(&sandbox.path("outside")), before, "{what}: {outcome}");
    let state = checker::state(&sandbox.path("fresh"));
    assert!(matches!(state, Ok(None)), "{what}: {state:?}\n{outcome}");
}

#[test]
fn links_of_the_tree_to_the_outside_are_never_read() {
    let sandbox = prepare();
    sandbox.write("tree", &Tree::small());
    for target in ["../outside/secret", "../outside", "docs/../../outside/secret", "/etc/passwd"] {
        relink(&sandbox.path("tree/leak.txt"), Path::new(target));
        for flags in [&[][..], &["--cache", &sandbox.path_text("other")]] {
            let outcome = sandbox.push("tree", &["fresh"], flags);
            assert!(!matches!(outcome.code(), None | Some(0 | 101)), "{target}: {outcome}");
            assert!(outcome.stderr.contains("leak.txt"), "{target}: {outcome}");
        }
    }
    assert_no_secret(&sandbox, "fresh", "a link in the tree");
}
