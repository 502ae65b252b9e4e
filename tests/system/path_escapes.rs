//! G22: no file outside of the store and the tree is created, changed or read.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::checker;
use crate::corrupt_store::{forge, retired};
use crate::harness::{Outcome, World, fingerprint};
use crate::trees::Tree;

const SECRET: &str = "what nobody was to see";

/// Creates a mirror with two releases, and a directory outside it that looks like part of a store
/// and like part of a slot, so that a followed link has an effect.
fn prepare() -> World {
    let world = World::new();
    world.publish(&Tree::small(), &["mirror"], &[]);
    world.publish(&Tree::small().file("js/app.js", "let release = 2;"), &["mirror"], &[]);
    let outside = world.path("outside");
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
    world
}

/// Runs every command that reads or changes the mirror. None may touch files outside or panic, and
/// a push that succeeds must leave a valid mirror.
fn leaves_outside_alone(world: &World, what: &str) {
    // Files of kept releases may stay as they are.
    let known: BTreeSet<String> =
        checker::state(&world.path("mirror")).err().into_iter().flatten().collect();
    run_everything(world, what, &|outcome| {
        let faults = checker::state(&world.path("mirror")).err().unwrap_or_default();
        let new: Vec<_> = faults.into_iter().filter(|fault| !known.contains(fault)).collect();
        assert!(new.is_empty(), "{what}: success was told: {new:#?}\n{outcome}");
    });
}

/// The same; calls `judge` after each push and repair that succeeds.
fn run_everything(world: &World, what: &str, judge: &dyn Fn(&Outcome)) {
    let outside = world.path("outside");
    let before = fingerprint(&outside);
    let (mirror, tree) = (world.at("mirror"), world.at("tree"));
    let run = |arguments: &[&str]| {
        let outcome = world.run(arguments);
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
        world.write(
            "tree",
            &Tree::small().without("docs/v1/a.html").file("js/app.js", text).file("x/y.css", "y"),
        );
        let outcome = run(&["push", &tree, &mirror]);
        if outcome.code() == Some(0) {
            judge(&outcome);
        }
    }
    run(&["rollback", &mirror, "--to", "1"]);
    run(&["prune", &mirror, "--keep", "1"]);
    let outcome = run(&["repair", &mirror, "--from", &tree]);
    if outcome.code() == Some(0) {
        judge(&outcome);
    }
    assert_no_secret(world, "mirror", what);
}

fn assert_no_secret(world: &World, mirror: &str, what: &str) {
    let secret = blake3::hash(SECRET.as_bytes()).to_hex().to_string();
    assert!(
        !checker::object_names(&world.path(mirror)).contains(&secret),
        "{what}: the secret was taken"
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
fn slots(world: &World) -> (PathBuf, PathBuf) {
    let live = world.path("mirror/current").canonicalize().unwrap();
    let mut others =
        fs::read_dir(live.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let idle = others.find(|path| *path != live).expect("two slots");
    (live, idle)
}

#[test]
fn slots_linked_outside_are_not_followed() {
    for is_live in [false, true] {
        let world = prepare();
        let (live, idle) = slots(&world);
        relink(if is_live { &live } else { &idle }, &world.path("outside"));
        leaves_outside_alone(&world, if is_live { "live slot" } else { "idle slot" });
    }
}

#[test]
fn links_inside_slots_are_not_followed() {
    for is_live in [false, true] {
        for name in ["js", "docs", "js/app.js"] {
            let world = prepare();
            let (live, idle) = slots(&world);
            let slot = if is_live { live } else { idle };
            relink(&slot.join(name), &world.path("outside").join(name));
            leaves_outside_alone(&world, name);
        }
    }
}

/// A push checks only what it changes, so its cost depends on the change. Other changes in the idle
/// slot are then served, and `verify --quick` finds them.
#[test]
fn links_that_a_push_leaves_are_found_by_quick_verify() {
    for is_live in [false, true] {
        let world = prepare();
        let (live, idle) = slots(&world);
        let slot = if is_live { live } else { idle };
        relink(&slot.join("index.html"), &world.path("outside/index.html"));
        run_everything(&world, "index.html", &|outcome| {
            if checker::check_store(&world.path("mirror")).is_err() {
                let current = fs::read_link(world.path("mirror/current/index.html"));
                let found = world.run(&["verify", "--quick", &world.at("mirror")]);
                assert_eq!(found.code() == Some(1), current.is_ok(), "{found}{outcome}");
            }
        });
    }
}

#[test]
fn store_paths_linked_outside_are_not_followed() {
    for name in ["objects", "manifests", "releases", "slots", "incoming", "lock", "format"] {
        let world = prepare();
        relink(&world.path("mirror/.headwater").join(name), &world.path("outside").join(name));
        leaves_outside_alone(&world, name);
    }
}

#[test]
fn store_directories_moved_outside_are_not_changed_there() {
    for name in ["objects", "manifests", "releases", "slots", "incoming", "incoming/tmp"] {
        let world = prepare();
        let place = world.path("mirror/.headwater").join(name);
        let moved = world.path("outside").join("moved");
        if fs::rename(&place, &moved).is_err() {
            fs::create_dir(&moved).unwrap();
        }
        relink(&place, &moved);
        leaves_outside_alone(&world, name);
    }
}

#[test]
fn object_directories_linked_outside_are_not_followed() {
    let world = prepare();
    let objects = world.path("mirror/.headwater/objects");
    for prefix in 0..=255 {
        relink(&objects.join(format!("{prefix:02x}")), &world.path("outside/objects/aa"));
    }
    leaves_outside_alone(&world, "objects/xx");
}

#[test]
fn store_that_is_a_link_is_not_followed() {
    let world = prepare();
    fs::rename(world.path("mirror/.headwater"), world.path("outside/store")).unwrap();
    symlink(world.path("outside/store"), world.path("mirror/.headwater")).unwrap();
    leaves_outside_alone(&world, ".headwater");
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
        let world = prepare();
        relink(&world.path("mirror/current"), Path::new(target));
        leaves_outside_alone(&world, target);
    }
    let world = prepare();
    relink(&world.path("mirror/current"), &world.path("outside"));
    leaves_outside_alone(&world, "absolute current");
}

#[test]
fn current_that_is_a_directory_or_a_file_is_not_removed() {
    let world = prepare();
    fs::remove_file(world.path("mirror/current")).unwrap();
    fs::create_dir(world.path("mirror/current")).unwrap();
    fs::write(world.path("mirror/current/mine"), "mine").unwrap();
    leaves_outside_alone(&world, "a directory");
    assert_eq!(fs::read_to_string(world.path("mirror/current/mine")).unwrap(), "mine");

    let world = prepare();
    fs::remove_file(world.path("mirror/current")).unwrap();
    fs::write(world.path("mirror/current"), "mine").unwrap();
    leaves_outside_alone(&world, "a file");
    assert_eq!(fs::read_to_string(world.path("mirror/current")).unwrap(), "mine");
}

#[test]
fn links_swapped_in_during_pushes_are_not_followed() {
    let world = prepare();
    let outside = world.path("outside");
    let before = fingerprint(&outside);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                swap_links(&world);
            }
        });
        for round in 0..40 {
            let tree = Tree::small().file("js/app.js", format!("let release = {round};"));
            let tree = if round % 2 == 0 {
                tree.without("docs/v1/a.html").without("docs/latest")
            } else {
                tree
            };
            world.write("tree", &tree);
            let outcome = world.push("tree", &["mirror"], &[]);
            assert!(!matches!(outcome.code(), None | Some(101)), "{outcome}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fingerprint(&outside), before);
    assert_no_secret(&world, "mirror", "swapped links");
}

/// Replaces the directories of every slot by links, and restores them.
fn swap_links(world: &World) {
    let Ok(slots) = fs::read_dir(world.path("mirror/.headwater/slots")) else { return };
    for slot in slots.flatten() {
        for name in ["js", "docs"] {
            let (place, aside) = (slot.path().join(name), slot.path().join("aside"));
            if place.symlink_metadata().is_ok_and(|meta| meta.is_dir())
                && fs::rename(&place, &aside).is_ok()
            {
                symlink(world.path("outside").join(name), &place).ok();
                std::thread::yield_now();
                fs::remove_file(&place).ok();
                fs::rename(&aside, &place).ok();
            }
        }
    }
}

#[test]
fn manifests_with_paths_outside_are_refused() {
    let absolute = |world: &World| world.at("outside/new.js");
    let paths: [&dyn Fn(&World) -> String; 6] = [
        &absolute,
        &|_| "../../../outside/new.js".into(),
        &|_| "../new.js".into(),
        &|_| "js/../../../../outside/new.js".into(),
        &|_| "docs/latest/new.js".into(),
        &|_| "x\\..\\new.js".into(),
    ];
    for path in paths {
        let world = prepare();
        let path = path(&world);
        forge(&world.path("mirror"), |forgery| {
            let like = forgery.lines.iter().find(|line| line.path == "js/app.js").unwrap().clone();
            forgery.lines.push(retired(&path, &like));
        });
        is_refused_as_source(&world, &path);
        leaves_outside_alone(&world, &path);
    }
}

#[test]
fn manifests_with_links_to_the_outside_are_refused() {
    for target in ["../../outside", "../../../outside/secret", "/etc/passwd", "v1/../../../outside"]
    {
        let world = prepare();
        forge(&world.path("mirror"), |forgery| {
            let line = forgery.lines.iter_mut().find(|line| line.path == "docs/latest").unwrap();
            line.symlink = Some(target.to_owned());
        });
        is_refused_as_source(&world, target);
        leaves_outside_alone(&world, target);
    }
}

/// Asserts that a mirror with a false manifest cannot fill another mirror.
fn is_refused_as_source(world: &World, what: &str) {
    let before = fingerprint(&world.path("outside"));
    let outcome = world.run(&["push", "--from", &world.at("mirror"), &world.at("fresh")]);
    assert!(!matches!(outcome.code(), None | Some(0 | 101)), "{what}: {outcome}");
    assert_eq!(fingerprint(&world.path("outside")), before, "{what}: {outcome}");
    let state = checker::state(&world.path("fresh"));
    assert!(matches!(state, Ok(None)), "{what}: {state:?}\n{outcome}");
}

#[test]
fn links_of_the_tree_to_the_outside_are_never_read() {
    let world = prepare();
    world.write("tree", &Tree::small());
    for target in ["../outside/secret", "../outside", "docs/../../outside/secret", "/etc/passwd"] {
        relink(&world.path("tree/leak.txt"), Path::new(target));
        for flags in [&[][..], &["--cache", &world.at("other")]] {
            let outcome = world.push("tree", &["fresh"], flags);
            assert!(!matches!(outcome.code(), None | Some(0 | 101)), "{target}: {outcome}");
            assert!(outcome.stderr.contains("leak.txt"), "{target}: {outcome}");
        }
    }
    assert_no_secret(&world, "fresh", "a link in the tree");
}
