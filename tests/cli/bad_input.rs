//! Damaged or invalid trees, mirrors and stores: the error message, the exit code, and that no data
//! is lost.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::harness::{Workspace, assert_refused};

#[test]
fn missing_tree_is_reported_as_missing_content() {
    let workspace = Workspace::with_mirror();
    workspace.rename("tree", "elsewhere");
    for tree in ["tree", "./tree", "elsewhere/none"] {
        assert_refused(&workspace, &format!("push {tree} ./www"), 8, tree);
        workspace.run(&format!("plan {tree} ./www")).code(8);
    }
    workspace.write("file", "");
    assert_refused(&workspace, "push ./file ./www", 8, "./file is not a readable directory");
}

#[test]
fn empty_tree_is_refused_unless_allowed() {
    let workspace = Workspace::with_mirror();
    workspace.mkdir("empty/with/empty/directories");
    assert_refused(&workspace, "push empty ./www", 5, "the tree is empty").warns("--allow-shrink");
    workspace.run("push empty ./new").code(5);
    assert!(!workspace.exists("new"));
    workspace.ok("push empty ./www --allow-shrink --keep-removed 0s");
    assert!(workspace.served("www").is_empty());
    workspace.ok("verify ./www");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn unreadable_files_and_directories_are_all_reported() {
    let workspace = Workspace::with_tree();
    workspace.run_unprivileged("push tree ./www").code(0);
    let served = workspace.served("www");
    workspace.write("tree/secret.html", "x");
    workspace.chmod("tree/secret.html", 0);
    workspace.chmod("tree/docs", 0);
    workspace
        .run_unprivileged("push tree ./www")
        .code(8)
        .warns("2 paths cannot be read:\n  docs cannot be read (Permission denied")
        .warns("secret.html cannot be read")
        .warns("hint: make these paths readable");
    assert_eq!(workspace.served("www"), served);
    workspace.run_unprivileged("push tree ./www --exclude secret.html --exclude docs").code(0);
    workspace.chmod("tree/docs", 0o755);
    workspace.chmod("tree", 0);
    workspace.run_unprivileged("push tree ./www").code(8).warns("not a readable directory");
    workspace.chmod("tree", 0o755);
}

#[test]
fn unsupported_names_are_all_reported() {
    let workspace = Workspace::with_mirror();
    let bad: [&[u8]; 5] = [
        b"caf\xe9.html",
        b"new\nline",
        b"back\\slash",
        b"esc\x1b[31mred",
        "c1\u{9b}31m".as_bytes(),
    ];
    for name in bad {
        fs::write(workspace.path("tree").join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let run = assert_refused(&workspace, "push tree ./www", 8, "5 paths cannot be distributed");
    for shown in [
        "caf\\xe9.html is not UTF-8",
        "new\\u{a}line",
        "back\\\\slash has a backslash",
        "esc\\u{1b}[31mred",
    ] {
        assert!(run.stderr.contains(shown), "{shown}: {}", run.stderr);
    }
    let lines: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(lines.len(), 5, "{}", run.stderr);
    let answer = workspace.json("push tree ./www", 8);
    assert_eq!(answer["error"], "5 paths cannot be distributed");
    assert_eq!(answer["paths"].as_array().unwrap().len(), 5, "{answer}");
    // Excluded files are accepted.
    workspace
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
fn links_that_leave_the_tree_directly_or_through_a_link_are_refused() {
    let workspace = Workspace::with_mirror();
    workspace.write("outside/secret", "secret");
    for target in ["/etc/passwd", "../outside/secret", "docs/../../outside/secret"] {
        workspace.link(target, "tree/leak");
        assert_refused(&workspace, "push tree ./www", 8, "leak");
        workspace.remove("tree/leak");
    }
    // `docs/up` stays inside the tree, and `..` after it would leave the tree.
    workspace.link("..", "tree/docs/up");
    workspace.link("docs/up/../outside/secret", "tree/leak");
    assert_refused(&workspace, "push tree ./www", 8, "leak").warns("lead out");
    workspace.remove("tree/leak");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.read("www/current/docs/up/index.html"), "<h1>hello</h1>\n");
}

#[test]
fn many_bad_paths_are_listed_up_to_a_limit() {
    let workspace = Workspace::with_mirror();
    for number in 10..34 {
        workspace.write(&format!("tree/bad\u{1b}{number}"), "x");
    }
    for command in ["push tree ./www", "plan tree ./www"] {
        let run = workspace
            .run(command)
            .code(8)
            .warns("error: 24 paths cannot be distributed:\n  bad\\u{1b}10 ");
        let lines: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("  ")).collect();
        assert_eq!((lines.len(), lines[10]), (11, "  and 14 more"), "{}", run.stderr);
        let answer = workspace.json(command, 8);
        assert_eq!(answer["paths"][10], "and 14 more", "{answer}");
        assert_eq!(answer["error"], "24 paths cannot be distributed");
    }
}

#[test]
fn link_loop_is_refused() {
    let workspace = Workspace::with_mirror();
    workspace.link("b", "tree/a");
    workspace.link("a", "tree/b");
    workspace.link("self", "tree/self");
    assert_refused(&workspace, "push tree ./www", 8, "3 paths cannot be distributed");
    workspace.write("headwater.toml", "symlinks = 'follow'\n");
    assert_refused(&workspace, "push tree ./www", 8, "self");
    for name in ["a", "b", "self"] {
        workspace.remove(&format!("tree/{name}"));
    }
    // A directory that contains itself if links are followed.
    workspace.link("..", "tree/docs/up");
    assert_refused(&workspace, "push tree ./www", 8, "docs/up");
}

#[test]
fn fifo_socket_and_device_are_refused_without_blocking() {
    let workspace = Workspace::with_mirror();
    mknodat(CWD, workspace.path("tree/pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(workspace.path("tree/socket")).unwrap();
    assert_refused(&workspace, "push tree ./www", 8, "pipe is a fifo").warns("socket is a socket");
    workspace.ok("push tree ./www --exclude pipe --exclude socket");
}

#[test]
fn file_at_the_mirror_path_is_left_alone() {
    let workspace = Workspace::with_tree();
    workspace.write("file", "precious");
    workspace.write("www/index.html", "not ours");
    for place in ["./file", "./file/below", "./no/parent"] {
        workspace.run(&format!("push tree {place}")).code(4).warns("create its parent");
    }
    assert_eq!(workspace.read("file"), "precious");
    assert!(!workspace.exists("no"));
}

#[test]
fn mirror_given_as_tree_is_refused_with_suggested_commands() {
    let workspace = Workspace::with_mirror();
    workspace
        .run("push ./www ./data")
        .code(8)
        .warns("headwater's own directory")
        .warns("`headwater promote`");
    assert!(!workspace.exists("data"));
}

#[test]
fn unusable_mirror_path_does_not_stop_other_mirrors() {
    let workspace = Workspace::with_tree();
    workspace.write("file", "precious");
    workspace.link("loop", "loop");
    for place in ["./file", "./file/below", "./no/parent", "./loop", "./loop/below"] {
        workspace.write("tree/index.html", place);
        workspace.run(&format!("push tree ./www {place} --require 1")).code(3);
        assert_eq!(workspace.served("www"), workspace.files("tree"), "{place}");
    }
}

#[test]
fn foreign_directory_is_left_alone_with_a_suggestion() {
    let workspace = Workspace::with_tree();
    workspace.write("site/index.html", "an existing web root");
    let before = workspace.fingerprint("site");
    let run = workspace
        .run("push tree ./site")
        .code(4)
        .warns("headwater left this one unchanged")
        .warns("push to a new directory NEW")
        .warns("current");
    assert!(run.stderr.contains("docs/tutorial.md"));
    assert_eq!(workspace.fingerprint("site"), before);
    workspace.run("push tree ./site ./www --require 1").code(3);
    assert_eq!(
        (workspace.fingerprint("site"), workspace.served("www")),
        (before, workspace.files("tree"))
    );
}

#[test]
fn empty_directory_and_unfinished_creation_become_mirrors() {
    let workspace = Workspace::with_tree();
    workspace.mkdir("empty");
    workspace.mkdir("unfinished/.headwater/objects/00");
    workspace.ok("push tree ./empty ./unfinished");
    assert_eq!(workspace.served("unfinished"), workspace.files("tree"));
    workspace.ok("verify ./empty ./unfinished");
    // Foreign files beside the store stay.
    workspace.write("empty/robots.txt", "mine");
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./empty");
    assert_eq!(workspace.read("empty/robots.txt"), "mine");
}

#[test]
fn unwritable_mirror_is_reported_as_permission_denied() {
    let workspace = Workspace::with_tree();
    workspace.run_unprivileged("push tree ./www").code(0);
    let served = workspace.served("www");
    workspace.write("tree/index.html", "2");
    workspace.chmod("www/.headwater/incoming", 0o555);
    workspace
        .run_unprivileged("push tree ./www")
        .code(7)
        .warns("Permission denied")
        .warns("write permission for a push");
    workspace.chmod("www/.headwater/incoming", 0o755);
    workspace.mkdir("closed");
    workspace.chmod("closed", 0o555);
    workspace.run_unprivileged("push tree ./closed/www").code(7);
    workspace.chmod("closed", 0);
    workspace.run_unprivileged("push tree ./closed/www").code(7);
    workspace.run_unprivileged("push tree ./closed/www ./other --require 1").code(3);
    workspace.chmod("closed", 0o755);
    assert_eq!(workspace.served("www"), served);
    workspace.run_unprivileged("push tree ./www").code(0);
}

/// The disk fails for every user, root included: debug builds simulate the errors of the system.
#[test]
fn push_to_full_or_read_only_disk_keeps_the_old_release() {
    let workspace = Workspace::with_mirror();
    let old = workspace.served("www");
    workspace.write("tree/index.html", "2");
    for (errno, code, hint) in [(28, 4, "free some space"), (30, 4, "is read-only")] {
        for operation in ["create link", "rename", "sync file system"] {
            let fault = format!("errno={errno}@{operation}");
            workspace
                .run_with(&[("HEADWATER_FAULT", &fault)], "push tree ./www")
                .code(code)
                .warns(hint);
            assert_eq!(
                (workspace.served("www"), workspace.current("www")),
                (old.clone(), 1),
                "{fault}"
            );
        }
    }
    workspace.ok("verify ./www");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn store_of_format_0_is_reported_as_damaged() {
    let workspace = Workspace::with_mirror();
    let format = workspace.read("www/.headwater/format");
    workspace.tamper("www/.headwater/format", &format.replace("\"version\":1", "\"version\":0"));
    let run = workspace.run("push tree ./www").code(4).warns("its version is 0");
    assert!(!run.stderr.contains("upgrade"), "{}", run.stderr);
}

#[test]
fn store_of_a_newer_format_is_left_unchanged() {
    let workspace = Workspace::with_mirror();
    let format = workspace.read("www/.headwater/format");
    workspace.tamper("www/.headwater/format", &format.replace("\"version\":1", "\"version\":2"));
    workspace.write("tree/index.html", "2");
    let before = workspace.fingerprint("www");
    workspace
        .run("push tree ./www")
        .code(4)
        .warns("format 2, but this headwater supports only format 1")
        .warns("upgrade");
    for line in [
        "status ./www",
        "releases ./www",
        "verify ./www",
        "prune ./www",
        "rollback ./www",
        "repair ./www --from tree",
    ] {
        let run = workspace.run(line);
        assert!((run.stdout.clone() + &run.stderr).contains("store format 2"), "{line}: {run:?}");
    }
    assert_eq!(workspace.fingerprint("www"), before);
    for damaged in ["", "{}", "not json", "{\"headwater\":\"other\",\"version\":1}"] {
        workspace.tamper("www/.headwater/format", damaged);
        let before = workspace.fingerprint("www");
        workspace.run("push tree ./www").code(4).warns("damaged");
        assert_eq!(workspace.fingerprint("www"), before);
    }
}

#[test]
fn push_succeeds_despite_a_torn_release_record() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www ./data");
    for record in ["{\"headwater\":\"release\",", ""] {
        let path = workspace.inside("www", "releases/2-")[0].clone();
        workspace.tamper(&path, record);
        workspace.run("status ./www").code(1).says("unknown").says("damaged");
        workspace.run("verify ./www").code(1).says("releases/2-");
        let served = workspace.served("www");
        workspace.ok("repair ./www --from ./data");
        assert_eq!(workspace.served("www"), served);
        workspace.ok("verify ./www");
    }
    let path = workspace.inside("www", "releases/2-")[0].clone();
    workspace.tamper(&path, "torn");
    workspace.write("tree/index.html", "3");
    workspace.ok("push tree ./www").says("release 3");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    for number in 4..8 {
        workspace.write("tree/index.html", number.to_string());
        workspace.ok("push tree ./www");
    }
    workspace.ok("verify ./www");
}

#[test]
fn rsync_style_location_is_refused_with_the_ssh_url() {
    let workspace = Workspace::with_tree();
    workspace.run("push tree edge2:/srv/www").code(2).warns("ssh://edge2/srv/www");
}

#[test]
fn location_with_a_control_character_is_refused() {
    let workspace = Workspace::with_tree();
    for (location, shown) in [
        ("./a\x1bb", "./a\\u{1b}b"),
        ("file:///srv/a\nb", "file:///srv/a\\u{a}b"),
        ("ssh://host/srv/a\x07", "ssh://host/srv/a\\u{7}"),
    ] {
        for command in [&["push", "tree", location][..], &["status", location]] {
            workspace.args(command).code(2).warns(&format!("error: \"{shown}\": "));
        }
        let serve = ["serve", location, "--no-auth", "--listen", "127.0.0.1:0"];
        workspace.args(&serve).code(2).warns(shown);
        workspace.args(&["receive", location]).code(2).warns(shown);
    }
    assert!(!workspace.exists("a\x1bb"));
}
