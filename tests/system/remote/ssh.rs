//! Failures of ssh, with a replacement for the program, and pushes through a real sshd.

use std::path::Path;

use super::real_tree::{Sshd, new_key, public_key, ssh_command};
use super::{push, serves_tree, ssh_flags, stand_in};
use crate::harness::Sandbox;
use crate::trees::Tree;

/// Pushes through a stand-in that runs `before`; returns the outcome.
#[track_caller]
fn fails(before: &str, code: i32, words: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let ssh = stand_in(&sandbox, "ssh", before);
    let outcome =
        push(&sandbox, &[&format!("ssh://edge2{}", sandbox.path_text("shell"))], &ssh_flags(&ssh))
            .expect(&[code]);
    for word in words {
        assert!(outcome.stderr.contains(word), "no {word:?} in {outcome}");
    }
}

#[test]
fn ssh_failures_have_distinct_errors() {
    fails("echo 'Host key verification failed.' >&2; exit 255", 7, &["host key", "known_hosts"]);
    fails(
        "echo 'me@edge2: Permission denied (publickey).' >&2; exit 255",
        7,
        &["Permission denied"],
    );
    fails(
        "echo 'sh: headwater: not found' >&2; exit 127",
        4,
        &["no headwater receiver was found", "--receive-command"],
    );
    fails(
        "echo 'only sftp here'; exit 1",
        4,
        &["no headwater receiver was found", "only sftp here"],
    );
    fails("echo 'headwater receive 2 {}'; exit 0", 4, &["requires protocol version 2"]);
}

#[test]
fn silent_host_stops_at_the_deadline_and_affects_no_other() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    // One host that is silent from the start, and one that is silent after the first request.
    let banner = format!(
        concat!(
            r#"printf 'headwater receive 1 {{"headwater":"0.1.0","protocols":[1],"#,
            r#""sites":[{{"directory":"{}","base":"/"}}]}}\n'"#
        ),
        sandbox.path_text("shell")
    );
    for before in ["exec cat > /dev/null".to_owned(), format!("{banner}; exec cat > /dev/null")] {
        let ssh = stand_in(&sandbox, "ssh", &before);
        let url = format!("ssh://edge2{}", sandbox.path_text("shell"));
        let flags = [&ssh_flags(&ssh)[..], &["--deadline", "1500ms", "--require", "1"]].concat();
        let began = std::time::Instant::now();
        let outcome = push(&sandbox, &[&url, &sandbox.path_text("here")], &flags).expect(&[3]);
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{outcome}");
        assert!(outcome.stderr.contains("edge2"), "{outcome}");
        assert!(serves_tree(&sandbox, "here"));
    }
}

#[test]
fn control_characters_of_a_host_are_escaped() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let ssh = stand_in(&sandbox, "ssh", "printf '\\033[2Jowned\\n'; exit 1");
    let outcome =
        push(&sandbox, &[&format!("ssh://edge2{}", sandbox.path_text("shell"))], &ssh_flags(&ssh))
            .expect(&[4]);
    assert!(outcome.stderr.contains("owned") && !outcome.stderr.contains('\u{1b}'), "{outcome}");
}

#[test]
fn receiver_for_another_directory_or_site_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let receive = |directory: &str, site: &str| {
        let program = env!("CARGO_BIN_EXE_headwater");
        format!("exec {program} receive {} --site {site}", sandbox.path_text(directory))
    };
    for (before, words) in [
        (receive("other", "default"), "not "),
        (receive("shell", "news"), "failed: it holds site \"news\", not \"default\""),
    ] {
        let ssh = stand_in(&sandbox, "ssh", &before);
        let flags = [&ssh_flags(&ssh)[..], &["--site", "default"]].concat();
        let outcome =
            push(&sandbox, &[&format!("ssh://edge2{}", sandbox.path_text("shell"))], &flags);
        assert!(
            matches!(outcome.code(), Some(4 | 7)) && outcome.stderr.contains(words),
            "{outcome}"
        );
        assert!(!sandbox.path("shell").exists() && !sandbox.path("other").exists());
    }
}

#[test]
fn silent_ssh_is_ended_by_the_deadline_of_its_own_mirror() {
    for (flags, of_all, of_mirror) in [
        (&[][..], "", "deadline = '1s'"),
        (&[], "deadline = '1s'", ""),
        (&[], "deadline = '1h'", "deadline = '1s'"),
        (&["--deadline", "1s"], "deadline = '1h'", ""),
    ] {
        let sandbox = Sandbox::new();
        sandbox.write("tree", &Tree::small());
        let ssh = stand_in(&sandbox, "ssh", "exec sleep 100");
        let config = format!(
            "content = 'tree'\nrequire = 1\n{of_all}\n[[mirror]]\nname = 'edge2'\n\
             url = 'ssh://edge2{}'\n{of_mirror}\n[[mirror]]\nname = 'here'\nurl = '{}'\n",
            sandbox.path_text("shell"),
            sandbox.path_text("here")
        );
        std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
        let began = std::time::Instant::now();
        let outcome = sandbox.run(&[&["push"], flags, &ssh_flags(&ssh)[..]].concat()).expect(&[3]);
        assert!(
            outcome.stderr.contains("edge2") && outcome.stderr.contains("deadline"),
            "{outcome}"
        );
        assert!(began.elapsed() < std::time::Duration::from_secs(50), "{outcome}");
        assert!(serves_tree(&sandbox, "here"));
    }
}

#[test]
fn commands_of_each_mirror_run_in_the_right_process() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let note =
        |name: &str| format!("echo \"$*\" > '{}'", sandbox.path_text(&format!("{name}.log")));
    let ssh = ["top", "own", "flag"].map(|name| stand_in(&sandbox, name, &note(name)));
    let receive = ["top", "own", "flag"]
        .map(|name| format!("env RECEIVER={name} {}", env!("CARGO_BIN_EXE_headwater")));
    let mirror = |name: &str| {
        format!("[[mirror]]\nname = '{name}'\nurl = 'ssh://{name}{}'\n", sandbox.path_text(name))
    };
    let keys = |index: usize| {
        format!("ssh_command = \"{}\"\nreceive_command = '{}'\n", ssh[index], receive[index])
    };
    let config =
        [&keys(0), "content = 'tree'\n", &mirror("edge1"), &mirror("edge2"), &keys(1)].concat();
    std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
    let log = |name: &str| {
        std::fs::read_to_string(sandbox.path(format!("{name}.log"))).unwrap_or_default()
    };

    sandbox.run(&["push"]).expect(&[0]);
    for (name, directory) in [("top", "edge1"), ("own", "edge2")] {
        let expected = format!(
            "env RECEIVER={name} {} receive '{}'\n",
            env!("CARGO_BIN_EXE_headwater"),
            sandbox.path_text(directory)
        );
        assert_eq!(log(name), expected);
        assert!(serves_tree(&sandbox, directory), "{directory}");
        std::fs::remove_file(sandbox.path(format!("{name}.log"))).unwrap();
    }
    assert_eq!(log("flag"), "");

    sandbox.write("tree", &Tree::small().file("index.html", "2"));
    sandbox.run(&["push", "--ssh-command", &ssh[2], "--receive-command", &receive[2]]).expect(&[0]);
    assert!(serves_tree(&sandbox, "edge1") && serves_tree(&sandbox, "edge2"));
    assert!(log("flag").starts_with("env RECEIVER=flag "), "{}", log("flag"));
    assert_eq!((log("top"), log("own")), (String::new(), String::new()));
}

#[test]
fn shared_ssh_command_gets_the_name_of_each_mirror() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let config = format!(
        "content = 'tree'\n[mirror_defaults]\nurl = 'ssh://{{name}}{}'\n\
         ssh_command = '/bin/sh {}'\nreceive_command = '{}'\n[[mirror]]\nname = 'edge1'\n\
         [[mirror]]\nname = 'edge2'\n",
        sandbox.path_text("{name}"),
        sandbox.path_text("ssh-{name}"),
        env!("CARGO_BIN_EXE_headwater")
    );
    std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
    let names = ["edge1", "edge2"];
    for name in names {
        stand_in(
            &sandbox,
            &format!("ssh-{name}"),
            &format!("echo login >> '{}'", sandbox.path_text(&format!("{name}.log"))),
        );
    }
    sandbox.run(&["push"]).expect(&[0]);
    for name in names {
        assert!(
            serves_tree(&sandbox, name) && sandbox.path(format!("{name}.log")).exists(),
            "{name}"
        );
    }
}

#[test]
fn receiver_accepts_a_relative_directory() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let program = env!("CARGO_BIN_EXE_headwater");
    let ssh = stand_in(
        &sandbox,
        "ssh",
        &format!("cd '{}' && exec {program} receive shell", sandbox.path_text("")),
    );
    push(&sandbox, &[&format!("ssh://edge2{}", sandbox.path_text("shell"))], &ssh_flags(&ssh))
        .expect(&[0]);
    assert!(serves_tree(&sandbox, "shell"));
}

#[test]
fn copy_between_ssh_mirrors_uses_one_login() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let url = format!("ssh://edge2{}", sandbox.path_text("shell"));
    let ssh =
        stand_in(&sandbox, "ssh", &format!("echo login >> '{}'", sandbox.path_text("logins")));
    push(&sandbox, &[&url], &ssh_flags(&ssh)).expect(&[0]);
    std::fs::remove_file(sandbox.path("logins")).unwrap();
    let here = sandbox.path_text("here");
    sandbox.run(&[&["push", "--from", &url, &here], &ssh_flags(&ssh)[..]].concat()).expect(&[0]);
    assert!(serves_tree(&sandbox, "here"));
    let logins = std::fs::read_to_string(sandbox.path("logins")).unwrap();
    assert_eq!(logins.lines().count(), 1, "{logins}");
}

#[test]
fn hook_failure_over_ssh_is_recorded_in_the_history() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let config = format!(
        "[[site]]\nname = 'default'\ndir = '{}'\n\
         post_activate = ['sh', '-c', 'echo lost the cache >&2; exit 3']\n",
        sandbox.path_text("shell")
    );
    std::fs::write(sandbox.path("serve.toml"), config).unwrap();
    let program = env!("CARGO_BIN_EXE_headwater");
    let receive = format!("exec {program} receive --config '{}'", sandbox.path_text("serve.toml"));
    let ssh = stand_in(&sandbox, "ssh", &receive);
    let outcome =
        push(&sandbox, &[&format!("ssh://edge2{}", sandbox.path_text("shell"))], &ssh_flags(&ssh))
            .expect(&[0]);
    assert!(
        outcome.stderr.contains("failed after release 1: sh: exit status: 3: lost the cache"),
        "{outcome}"
    );
    let history = std::fs::read_to_string(sandbox.path("shell/.headwater/events.jsonl")).unwrap();
    assert!(
        history.contains("hook_failed") && history.contains("exit status: 3: lost the cache"),
        "{history}"
    );
}

#[test]
fn one_ssh_login_accepts_pushes_of_several_sites() {
    let sandbox = Sandbox::new();
    let sites = ["docs", "blog"];
    let config = sites
        .map(|site| format!("[[site]]\nname = '{site}'\ndir = '{}'\n", sandbox.path_text(site)))
        .concat();
    std::fs::write(sandbox.path("serve.toml"), config).unwrap();
    let program = env!("CARGO_BIN_EXE_headwater");
    let ssh = stand_in(
        &sandbox,
        "ssh",
        &format!("exec {program} receive --config {}", sandbox.path_text("serve.toml")),
    );
    let push = |mirror: &str, site: &str| {
        let flags = [&ssh_flags(&ssh)[..], &["--site", site]].concat();
        push(&sandbox, &[&format!("ssh://edge2{}", sandbox.path_text(mirror))], &flags)
    };
    for round in 1..=2 {
        for site in sites {
            sandbox.write("tree", &Tree::small().file("index.html", format!("{site} {round}")));
            push(site, site).expect(&[0]);
            assert!(serves_tree(&sandbox, site), "{site}");
        }
    }
    let before = sites.map(|site| sandbox.served(site));
    assert_eq!(
        before.each_ref().map(|served| (&*served.record.site, served.record.sequence)),
        [("docs", 2), ("blog", 2)]
    );
    sandbox.write("tree", &Tree::small());
    let refused = push("blog", "docs").expect(&[7]);
    assert!(refused.stderr.contains("holds site \"blog\", not \"docs\""), "{refused}");
    assert_eq!(sites.map(|site| sandbox.served(site)), before);
}

#[cfg(debug_assertions)]
#[test]
fn mode_change_failing_at_any_step_leaves_no_fault() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let push = |modes: &str, fault: &str| {
        let config =
            format!("[[site]]\nname = 'default'\ndir = '{}'\n{modes}", sandbox.path_text("shell"));
        std::fs::write(sandbox.path("serve.toml"), config).unwrap();
        let receive = format!(
            "export HEADWATER_FAULT={fault}\nexec {} receive --config '{}'",
            env!("CARGO_BIN_EXE_headwater"),
            sandbox.path_text("serve.toml")
        );
        let ssh = stand_in(&sandbox, "ssh", &receive);
        push(&sandbox, &[&format!("ssh://edge2{}", sandbox.path_text("shell"))], &ssh_flags(&ssh))
    };
    let (open, closed) =
        ("file_mode = '0444'\ndir_mode = '0755'\n", "file_mode = '0440'\ndir_mode = '0750'\n");
    push(open, "").expect(&[0]);
    sandbox.write("tree", &Tree::small().file("index.html", "second"));
    let mut interrupted = 0;
    for step in (1..50).step_by(3) {
        // Each push has other modes, while files may still have the modes of an earlier push.
        let modes = if step % 2 == 0 { open } else { closed };
        push(modes, &format!("errno=5@{step}"));
        let format = std::fs::read_to_string(sandbox.path("shell/.headwater/format")).unwrap();
        interrupted += u32::from(format.contains("changing"));
        sandbox.run(&["verify", &sandbox.path_text("shell")]).expect(&[0]);
    }
    assert!(interrupted > 5, "{interrupted} changes were interrupted");
    push(open, "").expect(&[0]);
    assert!(serves_tree(&sandbox, "shell"));
}

#[test]
#[ignore = "needs openssh-server, and root to run it"]
fn push_works_over_a_real_sshd() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let sshd = Sshd::start(&sandbox);
    new_key(&sandbox, "wrong");
    let wrong = push_with_key(&sandbox, &sshd.url, "wrong");
    assert!(
        wrong.stderr.contains("`host_key` pins: it has SHA256:")
            && !wrong.stderr.contains("/proc/"),
        "{wrong}"
    );
    wrong.expect(&[7]);
    for _ in 0..2 {
        push_with_key(&sandbox, &sshd.url, "host").expect(&[0]);
    }
    assert!(serves_tree(&sandbox, "shell"));
    assert!(Path::new(&sandbox.path_text("shell")).join("current").exists());
}

fn push_with_key(sandbox: &Sandbox, url: &str, host: &str) -> crate::harness::Outcome {
    let key = public_key(sandbox, host);
    let config =
        format!("content = 'tree'\n[[mirror]]\nname = 'edge'\nurl = '{url}'\nhost_key = '{key}'\n");
    std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
    sandbox.run(&["push", "--ssh-command", &ssh_command(sandbox)])
}
