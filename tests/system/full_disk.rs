//! G5: no space, no inodes, no file descriptors, a file size limit: the error is clear, the old
//! release is still served, space is freed, and the next push needs no repair.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::checker::{self, Served};
use crate::harness::{Outcome, Sandbox, shell};
use crate::remote::Receiver;
use crate::remote::{ssh_flags, stand_in};
use crate::trees::{Rng, Tree};

/// Pushes under a limit that `sh` sets first.
fn push_limited(sandbox: &Sandbox, limit: &str) -> Outcome {
    push_limited_to(sandbox, limit, &[&sandbox.path_text("mirror")])
}

/// The same, to these mirrors.
fn push_limited_to(sandbox: &Sandbox, limit: &str, mirrors: &[&str]) -> Outcome {
    let mut command = Command::new("sh");
    sandbox.isolate(&mut command);
    command
        .arg("-c")
        .arg(format!("{limit}; exec \"$0\" \"$@\""))
        .arg(env!("CARGO_BIN_EXE_headwater"));
    Outcome::of(command.args(["push", &sandbox.path_text("tree")]).args(mirrors))
}

/// Creates a mirror with a release, and a larger tree to push.
fn prepare() -> (Sandbox, Served) {
    let sandbox = Sandbox::new();
    let old = sandbox.publish(&Tree::small(), &["mirror"], &[]);
    let mut rng = Rng::new(5);
    let larger = (0..40).fold(Tree::small(), |tree, number| {
        tree.file(&format!("more/{number}.bin"), rng.bytes(40_000))
    });
    sandbox.write("tree", &larger);
    (sandbox, old)
}

/// Checks that a reported success is true, or that a failure has an error message and left the old
/// release. Returns whether the push succeeded.
fn check_outcome(sandbox: &Sandbox, old: &Served, outcome: &Outcome) -> bool {
    let served = sandbox.served("mirror");
    let is_success = outcome.code() == Some(0);
    if is_success {
        checker::check_equals_tree(&served, &sandbox.path("tree")).unwrap();
    } else {
        assert_ne!(outcome.code(), Some(101), "{outcome}");
        assert_eq!(served, *old, "{outcome}");
    }
    is_success
}

#[test]
fn push_with_few_descriptors_succeeds_or_fails_clearly() {
    let mut failed = 0;
    for limit in [12, 16, 20, 24, 32, 40, 64, 256] {
        let (sandbox, old) = prepare();
        let outcome = push_limited(&sandbox, &format!("ulimit -n {limit}"));
        if !check_outcome(&sandbox, &old, &outcome) {
            failed += 1;
            assert!(outcome.stderr.contains("open files"), "{limit}: {outcome}");
            sandbox.push("tree", &["mirror"], &[]).expect(&[0]);
        }
        checker::check_equals_tree(&sandbox.served("mirror"), &sandbox.path("tree")).unwrap();
    }
    assert!(failed < 8, "even 256 descriptors do not suffice");
}

/// Enough files that their objects are in nearly all of the 256 directories of a store.
fn many_files(version: &str) -> Tree {
    (0..600).fold(Tree::default(), |tree, page| {
        tree.file(&format!("{page}.html"), format!("{version} {page}"))
    })
}

#[test]
fn twelve_directories_are_filled_with_few_descriptors() {
    let sandbox = Sandbox::new();
    let mirrors: Vec<String> = (0..12).map(|number| format!("mirror{number}")).collect();
    let places: Vec<String> = mirrors.iter().map(|mirror| sandbox.path_text(mirror)).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    // The second push uses the slots that the first one filled. The hard limit is no higher.
    for (version, limit) in [("one", "ulimit -S -n 1024"), ("two", "ulimit -n 256")] {
        sandbox.write("tree", &many_files(version));
        push_limited_to(&sandbox, limit, &places).expect(&[0]);
        for mirror in &mirrors {
            let served =
                std::fs::read_to_string(sandbox.path(format!("{mirror}/current/7.html"))).unwrap();
            assert_eq!(served, format!("{version} 7"), "{mirror}, {limit}");
        }
        checker::check_equals_tree(&sandbox.served("mirror11"), &sandbox.path("tree")).unwrap();
    }
}

#[test]
fn file_size_limit_fails_with_a_clear_error() {
    // In blocks of 512 bytes; with the signal ignored, as by some service managers, and with the
    // default action.
    for limit in ["trap '' XFSZ; ulimit -f 40", "ulimit -f 40"] {
        let (sandbox, old) = prepare();
        let outcome = push_limited(&sandbox, limit);
        assert!(!check_outcome(&sandbox, &old, &outcome) && outcome.code().is_some(), "{outcome}");
        assert!(outcome.stderr.contains("too large"), "{outcome}");
        sandbox.push("tree", &["mirror"], &[]).expect(&[0]);
        checker::check_equals_tree(&sandbox.served("mirror"), &sandbox.path("tree")).unwrap();
    }
}

#[test]
fn receiver_with_a_file_size_limit_returns_a_clear_error() {
    let (sandbox, old) = prepare();
    let ssh = stand_in(&sandbox, "ssh", "ulimit -f 40");
    let (tree, place) =
        (sandbox.path_text("tree"), format!("ssh://edge{}", sandbox.path_text("mirror")));
    let push =
        || sandbox.run(&[&["push", &*tree, &place, "--jobs", "1"], &ssh_flags(&ssh)[..]].concat());
    let outcome = push().expect(&[4]);
    assert!(
        outcome.stderr.contains("too large") && outcome.stderr.contains("LimitFSIZE"),
        "{outcome}"
    );
    assert_eq!(sandbox.served("mirror"), old);
    stand_in(&sandbox, "ssh", "");
    push().expect(&[0]);
    checker::check_equals_tree(&sandbox.served("mirror"), &sandbox.path("tree")).unwrap();
}

/// A small file system in memory.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, options: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        shell(
            "mount",
            &["-t", "tmpfs", "-o", options, "tmpfs"]
                .map(OsStr::new)
                .iter()
                .copied()
                .chain([path.as_os_str()])
                .collect::<Vec<_>>(),
        );
        Self(path.to_owned())
    }

    fn remount(&self, options: &str) {
        shell("mount", &["-o".as_ref(), format!("remount,{options}").as_ref(), self.0.as_os_str()]);
    }

    /// Returns the bytes and inodes in use.
    fn used(&self) -> (u64, u64) {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        ((stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_files - stat.f_ffree)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// Pushes content that does not fit; nothing may change. Then frees space and pushes again.
fn overflows(options: &str, room: &str, words: &[&str]) {
    let sandbox = Sandbox::new();
    let small = Small::mount(&sandbox.path("disk"), options);
    let old = sandbox.publish(&Tree::small(), &["disk/mirror"], &[]);
    let before = small.used();
    let mut rng = Rng::new(5);
    let larger = (0..900).fold(Tree::small(), |tree, number| {
        tree.file(&format!("more/{number}.bin"), rng.bytes(4000))
    });
    sandbox.write("tree", &larger);
    for _ in 0..3 {
        let planned = sandbox
            .run(&["plan", &sandbox.path_text("tree"), &sandbox.path_text("disk/mirror")])
            .expect(&[4]);
        assert!(words.iter().all(|word| planned.stderr.contains(word)), "{words:?}: {planned}");
        let outcome = sandbox.push("tree", &["disk/mirror"], &[]).expect(&[4]);
        assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{words:?}: {outcome}");
        assert_eq!(sandbox.served("disk/mirror"), old);
        let after = small.used();
        assert!(
            after.0 <= before.0 + 64 * 1024 && after.1 <= before.1 + 8,
            "{before:?} became {after:?}"
        );
    }
    small.remount(room);
    sandbox.push("tree", &["disk/mirror"], &[]).expect(&[0]);
    checker::check_equals_tree(&sandbox.served("disk/mirror"), &sandbox.path("tree")).unwrap();
}

#[test]
#[ignore = "needs root"]
fn full_disk_is_reported_before_writing() {
    overflows("size=3m", "size=30m", &["space"]);
}

#[test]
#[ignore = "needs root"]
fn disk_without_free_inodes_is_reported_before_writing() {
    overflows("size=30m,nr_inodes=1800", "nr_inodes=7000", &["inodes"]);
}

#[test]
#[ignore = "needs root"]
fn disk_that_fills_during_a_push_is_freed_again() {
    let sandbox = Sandbox::new();
    let small = Small::mount(&sandbox.path("disk"), "size=40m");
    let old = sandbox.publish(&Tree::small(), &["disk/mirror"], &[]);
    let mut rng = Rng::new(5);
    let larger = (0..8).fold(Tree::small(), |tree, number| {
        tree.file(&format!("more/{number}.bin"), rng.bytes(1 << 20))
    });
    sandbox.write("tree", &larger);
    let before = small.used();
    // Every write fails from here on, as if another process had taken the last block since the
    // check.
    let arguments = ["push", &sandbox.path_text("tree"), &sandbox.path_text("disk/mirror")];
    let outcome = sandbox.run_with_fault("errno=28@write", &arguments);
    if cfg!(debug_assertions) {
        let outcome = outcome.expect(&[4]);
        assert!(outcome.stderr.contains("space"), "{outcome}");
        assert_eq!(sandbox.served("disk/mirror"), old);
        assert!(small.used().0 <= before.0 + 64 * 1024, "{before:?} became {:?}", small.used());
    }
    sandbox.push("tree", &["disk/mirror"], &[]).expect(&[0]);
    checker::check_equals_tree(&sandbox.served("disk/mirror"), &sandbox.path("tree")).unwrap();
}

#[test]
#[ignore = "needs root"]
fn leftovers_of_another_push_are_dropped_for_space() {
    for is_remote in [false, true] {
        let sandbox = Sandbox::new();
        let _small = Small::mount(&sandbox.path("disk"), "size=60m");
        sandbox.publish(&Tree::small(), &["disk/mirror"], &["--site", "docs"]);
        let left = sandbox.path("disk/mirror/.headwater/incoming").join("a".repeat(64));
        std::fs::create_dir_all(left.join("parts")).unwrap();
        std::fs::write(left.join("parts/0"), vec![1; 40 << 20]).unwrap();
        sandbox.write("tree", &Tree::small().file("large", Rng::new(5).bytes(20 << 20)));
        let receiver = Receiver::with(&sandbox.path("disk/mirror"), |settings| {
            settings.sites[0].min_free_bytes = 1 << 20;
        });
        let place = if is_remote { receiver.url() } else { sandbox.path_text("disk/mirror") };
        sandbox.run(&["push", &sandbox.path_text("tree"), &place, "--site", "docs"]).expect(&[0]);
        checker::check_equals_tree(&sandbox.served("disk/mirror"), &sandbox.path("tree")).unwrap();
        assert!(!left.exists(), "{place}");
    }
}

/// Fills a file system: its bytes with one file, its inodes with empty files.
fn fill(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let mut large = std::fs::File::create(dir.join("large")).unwrap();
    while std::io::Write::write_all(&mut large, &[1; 4096]).is_ok() {}
    let create = |number: u32| std::fs::File::create(dir.join(number.to_string()));
    (0..).take_while(|number| create(*number).is_ok()).for_each(drop);
}

#[test]
#[ignore = "needs root"]
fn file_can_be_removed_from_a_mirror_on_a_full_disk() {
    for is_remote in [false, true] {
        let sandbox = Sandbox::new();
        let small = Small::mount(&sandbox.path("disk"), "size=100m,nr_inodes=9000");
        let leaked =
            |version: &str| Tree::small().file("leaked.txt", "a secret").file("page", version);
        sandbox.publish(&leaked("1"), &["disk/mirror"], &["--site", "docs"]);
        sandbox.publish(&leaked("2"), &["disk/mirror"], &["--site", "docs"]);
        fill(&sandbox.path("disk/other"));
        let (stat, path) = (rustix::fs::statvfs(&small.0).unwrap(), sandbox.path("disk/mirror"));
        assert_eq!((stat.f_bavail, stat.f_favail), (0, 0), "the disk is full");
        sandbox.write("tree", &Tree::small().file("page", "2"));
        let receiver = Receiver::with(&path, |settings| settings.sites[0].min_free_bytes = 1 << 20);
        let place = if is_remote { receiver.url() } else { sandbox.path_text("disk/mirror") };
        let push = [
            "push",
            &sandbox.path_text("tree"),
            &place,
            "--site",
            "docs",
            "--expunge",
            "leaked.txt",
        ];
        sandbox.run(&push).expect(&[0]);
        assert!(!path.join("current/leaked.txt").exists());
        checker::check_equals_tree(&sandbox.served("disk/mirror"), &sandbox.path("tree")).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn full_cache_disk_is_a_warning_and_the_push_continues() {
    let sandbox = Sandbox::new();
    let _small = Small::mount(&sandbox.path("small"), "size=1m,nr_inodes=500");
    let cache = ["--cache", &sandbox.path_text("small/cache")];
    let run = |arguments: &[&str]| sandbox.run(&[arguments, &cache].concat());
    let (tree, mirror) = (sandbox.path_text("tree"), sandbox.path_text("mirror"));
    sandbox.write("tree", &Tree::small());
    run(&["push", &tree, &mirror]).expect(&[0]);
    fill(&sandbox.path("small/other"));
    sandbox.write("tree", &Tree::small().file("page", "2"));
    for arguments in [
        &["plan", &*tree, &mirror][..],
        &["push", &tree, &mirror],
        &["push", &tree, &sandbox.path_text("new")],
    ] {
        let outcome = run(arguments).expect(&[0]);
        assert!(outcome.stderr.contains("warning: there is no cache: cannot "), "{outcome}");
    }
    for mirror in ["mirror", "new"] {
        checker::check_equals_tree(&sandbox.served(mirror), &sandbox.path("tree")).unwrap();
    }
    let outcome = run(&["rollback", &mirror, "--to", "1"]).expect(&[0]);
    assert!(outcome.stderr.contains("warning: there is no cache"), "{outcome}");
    checker::check_store(&sandbox.path("mirror")).unwrap();
}
