//! Mirrors that another user owns: users with read permission can read them, but not change them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::json;

use crate::harness::Workspace;
use crate::receiver::Receiver;

/// Commands that only read the mirror `./www`.
const READING_COMMANDS: [&str; 6] = [
    "status ./www",
    "releases ./www",
    "which index.html ./www",
    "diff ./tree ./www",
    "verify ./www",
    "verify ./www --quick",
];

/// Commands that change it.
const WRITING_COMMANDS: [&str; 7] = [
    "push tree ./www",
    "plan tree ./www",
    "push tree ./www --stage-only",
    "rollback ./www --to 1",
    "prune ./www",
    "repair ./www --from tree",
    "promote ./hub ./www",
];

/// A mirror with two releases, whose directory belongs to the user 12345.
fn given_away() -> Workspace {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www");
    workspace.ok("push --from ./www ./hub");
    std::os::unix::fs::chown(workspace.path("www"), Some(12_345), None).unwrap();
    workspace
}

#[test]
#[ignore = "needs root, which gives a mirror away"]
fn root_can_read_a_mirror_of_another_user() {
    let workspace = given_away();
    let before = workspace.fingerprint("www");
    for line in READING_COMMANDS {
        workspace.ok(line);
    }
    assert_eq!(workspace.fingerprint("www"), before, "nothing is written, not even an event");
    workspace.write("www/current/stranger", "x");
    workspace.run("verify ./www").code(1).says("stranger: is not ours");
}

#[test]
#[ignore = "needs root, which gives a mirror away"]
fn mirror_of_another_user_is_not_written() {
    let workspace = given_away();
    workspace.write("tree/index.html", "3");
    let before = workspace.fingerprint("www");
    for line in WRITING_COMMANDS {
        let run = workspace.run(line);
        let output = run.stdout.clone() + &run.stderr;
        assert!(
            output.contains("belongs to user id 12345, but headwater runs as user root"),
            "{line}: {output}"
        );
        assert_eq!(workspace.fingerprint("www"), before, "{line}");
    }
    workspace.run("push tree ./www").code(7).warns("as the user who owns");
    workspace.run("doctor ./www").code(1).says("FAILED").says("belongs to user id 12345");
    // An empty directory has an owner, too.
    workspace.mkdir("empty");
    std::os::unix::fs::chown(workspace.path("empty"), Some(12_345), None).unwrap();
    workspace.run("push tree ./empty").code(7).warns("belongs to user id 12345");
    assert_eq!(workspace.files("empty").len(), 0);
}

#[test]
#[ignore = "needs root, which gives a mirror away"]
fn push_detects_another_owner_before_sending() {
    let workspace = given_away();
    workspace.write("tree/index.html", "3");
    let events = workspace.events("push tree ./www ./hub", 7);
    let count = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!((count("mirror_failed"), count("pack_sent")), (1, 0), "{events:?}");
    assert_eq!(
        workspace.json("push tree ./www ./hub --require 1", 3)["mirrors"][0]["failure"],
        json!("other_owner")
    );
}

#[test]
#[ignore = "needs root, which runs the program as another user"]
fn user_with_read_permission_can_read_a_mirror() {
    let workspace = Workspace::with_tree();
    let push = workspace.command(&["push", "tree", "./www"]);
    // Regardless of the umask of the owner, readable content stays readable.
    let mut closed = Command::new("sh");
    closed
        .args(["-c", "umask 077; exec \"$0\" \"$@\""])
        .arg(push.get_program())
        .args(push.get_args());
    closed
        .current_dir(workspace.path(""))
        .envs(push.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(closed.output().unwrap().status.success());
    workspace.ok("verify ./www");
    let before = workspace.fingerprint("www");
    for line in READING_COMMANDS {
        workspace.run_as_nobody(line).code(0);
    }
    assert_eq!(workspace.fingerprint("www"), before);
    let denied = "belongs to user root, but headwater runs as user nobody";
    workspace.mkdir("cache");
    workspace.chmod("cache", 0o777);
    workspace.run_as_nobody("push tree ./www --cache cache").code(7).warns(denied);
    workspace.run_as_nobody("prune ./www").code(7).warns(denied);
}

#[test]
#[ignore = "needs root, which runs the program as another user"]
fn unreadable_mirror_is_permission_denied_and_not_damage() {
    let workspace = Workspace::with_mirror();
    let object = workspace.object("www", "<h1>hello</h1>\n");
    workspace.chmod(&object, 0o440);
    workspace.run("verify ./www").code(1).says("mode differs");
    workspace.run_as_nobody("verify ./www").code(7).warns("Permission denied");
    workspace.chmod("www", 0o750);
    workspace.run_as_nobody("status ./www").code(1).says("Permission denied");
    workspace.run_as_nobody("verify ./www").code(7).warns("Permission denied");
}

#[test]
#[ignore = "needs root, which runs the program as a user with few threads"]
fn thread_limit_causes_an_error_and_not_a_panic() {
    const USER: u32 = 54_321;
    let workspace = Workspace::with_mirror();
    workspace.ok("push --from ./www ./hub");
    let mut codes = BTreeMap::new();
    for limit in 1..=24 {
        workspace.write("tree/index.html", format!("version {limit}"));
        workspace.give_to(USER);
        let limit = format!("--nproc={limit}");
        let runner = ["prlimit", &limit];
        for line in [
            "push tree ./www ./hub",
            "plan tree ./www",
            "doctor ./www ./hub",
            "status ./www",
            "verify ./www",
        ] {
            let run = workspace.run_as(USER, &runner, line);
            let output = run.stdout.clone() + &run.stderr;
            assert!(!output.contains("panicked") && run.code != 101, "{limit} {line}: {output}");
            assert!(
                run.code == 0 || output.contains("cannot start a thread"),
                "{limit} {line}: {} {output}",
                run.code
            );
            codes.entry(line).or_insert_with(BTreeSet::new).insert(run.code);
        }
        workspace.run_as(USER, &[], "push tree ./www ./hub").code(0);
        workspace.ok("verify ./www ./hub");
    }
    assert!(codes["push tree ./www ./hub"].len() > 1, "the limit has no effect: {codes:?}");
}

#[test]
#[ignore = "needs root, which gives a mirror away"]
fn receiver_refuses_to_start_for_a_site_of_another_user() {
    let workspace = given_away();
    let token = workspace.ok("token new --site docs --allow push").stderr;
    let reader = workspace.ok("token new --site docs --allow read").stderr;
    workspace.write("tokens.toml", &token);
    workspace.mkdir("empty");
    std::os::unix::fs::chown(workspace.path("empty"), Some(12_345), None).unwrap();
    for line in ["serve ./www --no-auth", "serve empty --site docs --token-file tokens.toml"] {
        let directory = line.split(' ').nth(1).unwrap();
        workspace
            .run(&format!("{line} --listen 127.0.0.1:0"))
            .code(1)
            .warns("belongs to user id 12345, but headwater runs as user root")
            .warns(&format!("hint: run the receiver as the user who owns {directory}"));
    }
    // Reading commands do not require the owner.
    workspace.write("tokens.toml", reader);
    let line = "serve empty --site docs --token-file tokens.toml --listen 127.0.0.1:0";
    let mut receiver = workspace.start(line);
    let mut first = String::new();
    let stderr = receiver.stderr.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut first).unwrap();
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    assert!(first.contains("listening"), "{first}");
}

#[test]
#[ignore = "needs root, which gives a mirror away"]
fn doctor_and_push_report_a_receiver_without_write_permission() {
    let workspace = Workspace::with_tree();
    workspace.mkdir("docs");
    let receiver = Receiver::start(&workspace, "[[site]]\nname = 'docs'\ndir = 'docs'\n");
    workspace.write("headwater.toml", receiver.mirror("http"));
    workspace.ok("doctor").says("the token may push");
    std::os::unix::fs::chown(workspace.path("docs"), Some(12_345), None).unwrap();
    let run = workspace.run("doctor").code(1).says("FAILED").says("belongs to user id 12345");
    assert!(run.stdout.contains("hint: run the receiver as the user who owns"), "{}", run.stdout);
    let run = workspace.run("push tree").code(7).warns("belongs to user id 12345");
    assert!(run.stderr.contains("hint: run the receiver as the user who owns"), "{}", run.stderr);
    assert!(!run.stdout.contains("added"), "{}", run.stdout);
    assert_eq!(workspace.files("docs").len(), 0);
    workspace.run("plan tree").code(7).warns("hint: run the receiver as the user who owns");
}
