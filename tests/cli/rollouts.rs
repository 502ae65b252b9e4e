//! Rollouts that fail between the first mirror and the last: a failed switch, an interrupt by the
//! user, a probe that hangs, a malformed list, mirrors whose releases have diverged.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Run, Workspace, assert_refused, column};

/// Three mirrors, the first of them a canary, with `more` in the configuration.
fn fleet(workspace: &Workspace, more: &str) {
    let mirrors = "content='tree'\n[mirror_defaults]\nurl='{name}'\n[[mirror]]\nname='a'\n\
                   group='canary'\n[[mirror]]\nname='b'\n[[mirror]]\nname='c'\n";
    workspace.write("headwater.toml", format!("{more}\n{mirrors}"));
}

/// The same fleet with a wave for the canary.
fn fleet_with_wave(workspace: &Workspace, wave: &str) {
    fleet(workspace, "");
    workspace.write(
        "headwater.toml",
        workspace.read("headwater.toml") + "[[wave]]\ngroups=['canary']\n" + wave,
    );
}

fn outcomes(answer: &Value) -> Vec<String> {
    column(&answer["mirrors"], "outcome")
}

fn on(workspace: &Workspace) -> [u64; 3] {
    ["a", "b", "c"].map(|mirror| workspace.current(mirror))
}

#[test]
fn failed_switch_reverts_the_others_if_configured() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "");
    workspace.ok("push");
    let before = workspace.served("a");
    workspace.write("tree/index.html", "two");
    workspace.ok("push --stage-only");
    // The release is staged there too, and then another process takes the lock.
    let lock = File::open(workspace.path("c/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    let answer = workspace.json("activate 2 --on-failure revert --wait 0s", 4);
    assert_eq!(outcomes(&answer), ["reverted", "reverted", "failed"], "{answer}");
    assert_eq!(answer["stopped"], "1 of 3 mirrors did not switch");
    assert_eq!(
        (answer["sequence"].as_u64(), answer["reverted"]["sequence"].as_u64()),
        (Some(2), Some(3))
    );
    assert_eq!(on(&workspace), [3, 3, 1]);
    for mirror in ["a", "b", "c"] {
        assert_eq!(workspace.served(mirror), before, "{mirror}");
    }
    lock.unlock().unwrap();
    // By default the failed mirror is left behind instead.
    workspace.write("tree/index.html", "three");
    workspace.ok("push --stage-only");
    lock.lock().unwrap();
    let answer = workspace.json("activate 4 --wait 0s", 3);
    assert_eq!(outcomes(&answer), ["activated", "activated", "failed"], "{answer}");
    assert_eq!(on(&workspace), [4, 4, 1]);
    drop(lock);
    workspace.ok("heal");
    assert_eq!(on(&workspace), [4, 4, 4]);
}

#[test]
fn interrupted_soak_leaves_only_the_wave_on_the_release() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "");
    workspace.ok("push");
    fleet_with_wave(&workspace, "soak='1h'\n");
    workspace.write("tree/index.html", "two");
    let mut child = workspace.start("push --json --events events.jsonl");
    while !fs::read_to_string(workspace.path("events.jsonl"))
        .unwrap_or_default()
        .contains("\"activated\"")
    {
        assert!(child.try_wait().unwrap().is_none(), "the push ended before it activated a mirror");
        std::thread::yield_now();
    }
    assert!(
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success()
    );
    let answer = Run::new(&["push"], &child.wait_with_output().unwrap()).code(130).json();
    assert_eq!(outcomes(&answer)[0], "activated", "{answer}");
    assert!(
        answer["stopped"].as_str().unwrap().contains("wave 1: stopped during the soak"),
        "{answer}"
    );
    assert!(answer["reverted"].is_null(), "{answer}");
    assert_eq!(on(&workspace), [2, 1, 1]);
    fleet(&workspace, "");
    workspace.ok("push").says("release 2 was copied to 2 mirrors unchanged");
    assert_eq!(on(&workspace), [2, 2, 2]);
}

#[test]
fn hanging_probe_fails_after_its_timeout() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "");
    workspace.ok("push");
    // The kernel accepts the connection, and nothing ever responds.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    fleet_with_wave(
        &workspace,
        &format!("probe='http://{}/index.html'\n", deaf.local_addr().unwrap()),
    );
    workspace.write("tree/index.html", "two");
    let began = Instant::now();
    let answer = workspace.json("push", 4);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(outcomes(&answer), ["reverted", "skipped", "skipped"], "{answer}");
    assert!(
        answer["stopped"].as_str().unwrap().starts_with("wave 1: probe http://127.0.0.1:"),
        "{answer}"
    );
    assert_eq!(on(&workspace), [3, 1, 1]);
}

/// A fleet whose mirrors a shell script lists.
fn listed_by(workspace: &Workspace, script: &str) {
    workspace.write("list.sh", script);
    workspace.write("headwater.toml", "content='tree'\nmirrors_from=['sh', 'list.sh']\n");
}

#[test]
fn invalid_mirror_list_stops_the_push_with_the_reason() {
    let workspace = Workspace::with_tree();
    listed_by(&workspace, "echo '{\"name\":\"a\",\"url\":\"a\"}'");
    workspace.ok("push");
    for (script, words) in [
        (
            "echo '{\"name\":\"a\",\"url\":\"a\"}'; echo 'no such fleet' >&2; exit 3",
            "no such fleet",
        ),
        ("echo '<html>login</html>'", "not a JSON object"),
        ("printf '\\377\\376'", "not UTF-8"),
        ("yes | head -c 2000000", "larger than 1 MiB"),
        ("echo '{\"name\":\"a\",\"url\":\"a\"}'; echo '{\"name\":\"a\",\"url\":\"b\"}'", "\"a\""),
        ("kill -9 $$", "signal: 9"),
    ] {
        listed_by(&workspace, script);
        workspace.write("tree/index.html", script);
        for command in ["push", "status", "heal"] {
            assert_refused(&workspace, command, 2, words);
        }
        assert_eq!(workspace.current("a"), 1);
    }
}

#[test]
#[ignore = "takes half a minute"]
fn mirror_list_command_that_hangs_is_stopped_after_30_seconds() {
    let workspace = Workspace::with_tree();
    listed_by(&workspace, "sleep 600");
    assert_refused(&workspace, "push", 2, "did not end within 30 s");
}

#[test]
fn two_names_for_one_store_are_refused_before_sending() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "");
    workspace.ok("push --only a,b");
    workspace.link("a", "c");
    workspace.write("tree/index.html", "two");
    workspace
        .run("push")
        .code(2)
        .warns("./a and ./c are the same mirror")
        .warns("name each mirror once");
    assert_eq!(["a", "b"].map(|mirror| workspace.current(mirror)), [1, 1]);
}

#[test]
fn mirrors_on_partial_releases_converge_with_the_next_push() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "");
    workspace.ok("push");
    workspace.write("tree/index.html", "two");
    workspace.ok("push --skip c");
    workspace.write("tree/index.html", "three");
    workspace.ok("push --only c");
    assert_eq!(on(&workspace), [2, 2, 2]);
    // Each release was made for some of the mirrors only.
    assert_eq!(column(&workspace.json("status", 0)["mirrors"], "state"), ["apart"; 3]);
    workspace.ok("heal");
    assert_eq!(on(&workspace), [2, 2, 2]);
    workspace.ok("push");
    assert_eq!(on(&workspace), [3, 3, 3]);
    let served = ["a", "b", "c"].map(|mirror| workspace.served(mirror));
    assert!(served.iter().all(|one| *one == workspace.files("tree")));
}
