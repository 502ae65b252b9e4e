//! Fleets: groups, waves, probes, frozen and joining mirrors, staging now and activating later.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::harness::{Run, Workspace, column};
use crate::web::Web;

/// Three mirrors below `web`, the first of them a canary, with `more` in the configuration.
fn fleet(workspace: &Workspace, web: &str, more: &str) {
    let mirrors = format!(
        "content='tree'\n[mirror_defaults]\nurl='{{name}}'\npublic_url='{web}/{{name}}/current'\n\
         [[mirror]]\nname='a'\ngroup='canary'\n[[mirror]]\nname='b'\n[[mirror]]\nname='c'\n{more}"
    );
    workspace.write("headwater.toml", mirrors);
}

fn wave(probe: &str) -> String {
    format!("[[wave]]\ngroups=['canary']\nsoak='20ms'\nprobe='{probe}'\n")
}

fn outcomes(answer: &Value) -> Vec<&str> {
    answer["mirrors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mirror| mirror["outcome"].as_str().unwrap())
        .collect()
}

fn on(workspace: &Workspace) -> [u64; 3] {
    ["a", "b", "c"].map(|mirror| workspace.current(mirror))
}

#[test]
fn release_that_passes_the_probe_continues_to_the_next_wave() {
    let workspace = Workspace::with_tree();
    let web = Web::of_files(workspace.path("."));
    fleet(&workspace, &web.url, &wave("index.html"));
    let answer = workspace.json("push", 0);
    assert_eq!(outcomes(&answer), ["activated"; 3]);
    assert!(answer["spread_ms"].is_u64(), "{answer}");
    assert_eq!(web.requests().len(), 1);
    assert_eq!(web.requests()[0].path, "/a/current/index.html");
    workspace.ok("push");
    assert_eq!(web.requests().len(), 1, "nothing was activated, so nothing is probed");
}

#[test]
fn bad_release_is_stopped_by_the_probe_and_reverted() {
    let workspace = Workspace::with_tree();
    let web = Web::of_files(workspace.path("."));
    // The public URL of the canary serves the content of another mirror.
    fleet(&workspace, &web.url, &wave(&format!("{}/b/current/index.html", web.url)));
    let answer = workspace.json("push", 3);
    assert_eq!(outcomes(&answer), ["activated", "skipped", "skipped"]);
    assert!(
        answer["reverted"]["error"].as_str().unwrap().contains("before the first one"),
        "{answer}"
    );
    fleet(&workspace, &web.url, "");
    workspace.ok("push");
    let before = workspace.served("a");
    fleet(&workspace, &web.url, &wave(&format!("{}/b/current/index.html", web.url)));
    workspace.write("tree/index.html", "worse");
    let answer = workspace.json("push", 4);
    assert_eq!(outcomes(&answer), ["reverted", "skipped", "skipped"]);
    assert!(
        answer["stopped"].as_str().unwrap().starts_with("wave 1: probe http://127.0.0.1:"),
        "{answer}"
    );
    assert_eq!(
        (answer["sequence"].as_u64(), answer["reverted"]["sequence"].as_u64()),
        (Some(2), Some(3))
    );
    assert_eq!(on(&workspace), [3, 1, 1]);
    assert_eq!(
        workspace.served("a").values().collect::<Vec<_>>(),
        before.values().collect::<Vec<_>>()
    );
    // The mirrors outside the wave serve the content to which the canary was reverted: they are
    // healthy.
    let rows = workspace.json("status", 0)["mirrors"].clone();
    assert_eq!(column(&rows, "state"), ["current"; 3]);
    assert_eq!(column(&rows, "behind"), ["0"; 3]);
    assert_eq!(workspace.ok("mirrorlist").stdout.lines().count(), 3);
    // The release that reverts the canary was made for the canary only.
    workspace.ok("heal").says("apart");
    assert_eq!(on(&workspace), [3, 1, 1]);
}

#[test]
fn content_reverted_by_a_probe_can_be_pushed_again() {
    let workspace = Workspace::with_tree();
    let web = Web::of_files(workspace.path("."));
    fleet(&workspace, &web.url, "");
    workspace.ok("push");
    fleet(&workspace, &web.url, &wave(&format!("{}/b/current/index.html", web.url)));
    workspace.write("tree/index.html", "two");
    let run = workspace
        .run("push")
        .code(4)
        .says("reverted: release 3")
        .warns("1 mirror served release 2 for a while");
    assert!(!format!("{}{}", run.stdout, run.stderr).contains("nothing was activated"), "{run:?}");
    assert!(workspace.releases("a").pop().unwrap()["rejected"].is_null());
    // The web server was at fault, not the content.
    fleet(&workspace, &web.url, &wave("index.html"));
    workspace.ok("push").says("release 4");
    assert_eq!(on(&workspace), [4, 4, 4]);
}

#[test]
fn probe_with_a_redirect_or_oversized_body_fails() {
    let workspace = Workspace::with_tree();
    let answers = |count: usize| match count {
        0 => (302, "location: /elsewhere\r\n".to_owned(), Vec::new()),
        _ => (200, String::new(), vec![b'x'; 100_000]),
    };
    let web = Web::start(move |count, _| answers(count));
    fleet(&workspace, &web.url, "");
    workspace.ok("push");
    fleet(&workspace, &web.url, &wave("index.html"));
    for (content, words) in [("2", "a redirect"), ("3", "larger than 1 bytes")] {
        workspace.write("tree/index.html", content);
        let answer = workspace.json("push", 4);
        assert!(answer["stopped"].as_str().unwrap().contains(words), "{answer}");
    }
    fleet(&workspace, &web.url, &wave("no/such.html"));
    workspace.write("tree/index.html", "4");
    workspace.run("push").code(5).warns("no/such.html").warns("[[wave]]");
}

#[test]
fn staged_release_is_activated_later() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push");
    workspace.write("tree/index.html", "two");
    workspace.ok("push --stage-only").says("headwater activate 2-").says("` serves it");
    assert_eq!(on(&workspace), [1, 1, 1]);
    assert_eq!(workspace.read("a/staged/index.html"), "two");
    workspace.ok("status").says("2 is staged");
    workspace.ok("releases a").says("staged 2").says("* 1");
    assert_eq!(workspace.json("releases a", 0)["mirrors"][0]["staged"]["sequence"], 2);
    workspace
        .run("activate 3")
        .code(2)
        .warns("no mirror has a staged release 3")
        .warns("name a staged release: 2-");
    workspace.ok("verify");
    workspace.ok("activate 2");
    assert_eq!(workspace.json("releases a", 0)["mirrors"][0].get("staged"), None);
    assert_eq!(on(&workspace), [2, 2, 2]);
    assert!(["a", "b", "c"].iter().all(|mirror| !workspace.exists(&format!("{mirror}/staged"))));
    workspace.ok("activate 2").says("nothing new");
}

#[test]
fn staged_release_can_be_abandoned_or_replaced() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push");
    workspace.write("tree/index.html", "two");
    workspace.ok("push --stage-only");
    let answer = workspace.json("abandon 2", 0);
    assert_eq!(outcomes(&answer), ["abandoned"; 3]);
    assert!(!workspace.exists("a/staged"));
    workspace
        .run("activate 2")
        .code(2)
        .warns("no mirror has a staged release 2")
        .warns("--stage-only");
    workspace.ok("push --stage-only");
    let staged = workspace.read("a/staged/index.html");
    workspace.write("tree/index.html", "three");
    workspace.ok("push");
    assert_eq!(
        (staged.as_str(), workspace.read("a/current/index.html").as_str()),
        ("two", "three")
    );
    assert!(!workspace.exists("a/staged"), "a later push supersedes it");
    // A staged release of another push is left alone.
    workspace.write("a/staged", "mine");
    workspace.write("tree/index.html", "four");
    workspace.ok("push");
    assert_eq!(workspace.read("a/staged"), "mine");
}

#[test]
fn frozen_mirrors_stay_unchanged_and_joining_ones_are_filled() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push --only a,b");
    workspace.write("tree/index.html", "two");
    // Three mirrors are required, and one of them is only joining.
    workspace.ok("push --require 3");
    assert_eq!(on(&workspace), [2, 2, 2]);
    workspace.write(
        "headwater.toml",
        workspace.read("headwater.toml").replace("name='b'\n", "name='b'\nfrozen=true\n"),
    );
    workspace.write("tree/index.html", "three");
    let answer = workspace.json("push", 0);
    assert_eq!(outcomes(&answer), ["activated", "activated", "frozen"]);
    assert_eq!(on(&workspace), [3, 2, 3]);
    workspace.run("push --only b").code(2).warns("every mirror is frozen").warns("until");
    workspace.write(
        "headwater.toml",
        workspace.read("headwater.toml").replace("frozen=true", "frozen=true\nuntil=2001-01-01"),
    );
    workspace.ok("heal").says("release 3 was copied to 1 mirror");
    assert_eq!(on(&workspace), [3, 3, 3]);
    // A mirror that is frozen because it is broken causes no alarm.
    workspace
        .write("headwater.toml", workspace.read("headwater.toml").replace("until=2001-01-01", ""));
    workspace.remove("b");
    workspace.write("b", "a file");
    let row = workspace.json("status", 0)["mirrors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["mirror"] == "b")
        .cloned();
    let row = row.unwrap();
    assert_eq!((row["state"].as_str(), row["error"].is_string()), (Some("frozen"), true), "{row}");
}

#[test]
fn unmet_requirement_names_the_command_that_finishes_the_push() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push");
    workspace.write("tree/index.html", "two");
    // The mirror responds, but nothing can be written to it.
    workspace.remove("c/.headwater/objects/00");
    let run = workspace
        .run("push --wait 0s")
        .code(4)
        .warns("hint: run `headwater activate 2-")
        .warns("the 2 of 3 mirrors");
    assert_eq!(on(&workspace), [1, 1, 1]);
    drop(run);
    workspace.run("activate 2 --require 2 --wait 0s").code(3);
    assert_eq!(on(&workspace), [2, 2, 1]);
    workspace.mkdir("c/.headwater/objects/00");
    workspace.ok("heal");
    assert_eq!(on(&workspace), [2, 2, 2]);
    workspace
        .run("push --require 4")
        .code(2)
        .warns("4 mirrors are required, but the push is to 3 mirrors");
    workspace.run("push --require 101%").code(2);
}

#[test]
fn failed_mirror_suggests_a_requirement_that_can_be_met() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push");
    workspace.rename("c", "moved");
    workspace.write("c", "a file");
    workspace.write("tree/index.html", "two");
    let run = workspace.run("push").code(4).warns("or use `--require 2`");
    assert!(
        run.stdout.contains("all 3 mirrors are required, but only 2 are available"),
        "{}",
        run.stdout
    );
    workspace.run("push --require 2").code(3);
    assert_eq!(["a", "b"].map(|mirror| workspace.current(mirror)), [2, 2]);
    workspace
        .run("push --only c")
        .code(4)
        .warns("hint: fix the failures and push again; nothing was activated\n");
    assert!(workspace.ok("init other.toml").stdout.contains("other.toml"));
    assert!(workspace.read("other.toml").contains("With five mirrors, 4\n# allows one to be down"));
}

#[test]
fn other_mirrors_switch_before_a_silent_mirror_times_out() {
    let workspace = Workspace::with_tree();
    // The kernel accepts the connection, and nothing ever responds.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/docs", silent.local_addr().unwrap());
    workspace.write(
        "headwater.toml",
        format!(
            "content='tree'\n[[mirror]]\nname='a'\nurl='a'\n[[mirror]]\nname='b'\nurl='b'\n\
        [[mirror]]\nname='far'\nurl='{url}'\n"
        ),
    );
    workspace.ok("push --only a,b");
    workspace.write("tree/index.html", "two");
    let mut push = workspace.start("push --require 2 --json --events events.jsonl");
    let events = || fs::read_to_string(workspace.path("events.jsonl")).unwrap_or_default();
    while events().matches("\"activated\"").count() < 2 {
        assert!(
            push.try_wait().unwrap().is_none(),
            "the push ended before it activated both mirrors"
        );
        std::thread::yield_now();
    }
    assert!(events().contains(r#""event":"answer_overdue","mirror":"far""#), "{}", events());
    assert!(!events().contains("mirror_failed"), "{}", events());
    drop(silent);
    let run =
        Run::new(&["push"], &push.wait_with_output().unwrap()).code(3).warns("waiting for far");
    assert_eq!(outcomes(&run.json()), ["activated", "activated", "failed"]);
}

#[test]
fn partial_release_is_neither_spread_nor_replaced_by_heal() {
    let ann = [("USER", "ann"), ("SUDO_USER", "")];
    for (command, content) in [("push --only a", "three"), ("rollback a", "one")] {
        let workspace = Workspace::with_tree();
        fleet(&workspace, "http://127.0.0.1:1", "");
        workspace.write("tree/index.html", "one");
        workspace.ok("push");
        workspace.write("tree/index.html", "two");
        workspace.ok("push");
        workspace.write("tree/index.html", "three");
        workspace.run_with(&ann, command).code(0);
        for _ in 0..2 {
            let answer = workspace.json("heal", 0);
            assert_eq!(outcomes(&answer), ["apart", "current", "current"], "{command}: {answer}");
        }
        assert_eq!(on(&workspace), [3, 2, 2]);
        assert_eq!(workspace.read("a/current/index.html"), content);
        let row = workspace.json("status", 0)["mirrors"][0].clone();
        assert_eq!(
            (row["mirror"].as_str(), row["state"].as_str()),
            (Some("a"), Some("apart")),
            "{row}"
        );
        let verb = command.split(' ').next().unwrap();
        let why = row["apart"].as_str().unwrap();
        assert!(why.starts_with(&format!("made for a only: {verb} by ann@")), "{why}");
        workspace.ok("status").says("2 of 3 mirrors current, 1 apart").says("made for a only");
        workspace.ok("status --check").says("1 apart");
        assert!(workspace.releases("b").iter().all(|release| release["partial"].is_null()));
        // A lagging mirror gets the release that was made for all of them.
        workspace.remove("c");
        // The cache remembers which store it had.
        workspace.remove("home");
        workspace.ok("heal");
        assert_eq!(on(&workspace), [3, 2, 2]);
        // The next push to all mirrors ends this, even if the content of the apart mirror does not
        // change.
        workspace.write("tree/index.html", content);
        workspace.ok("push --again");
        assert_eq!(on(&workspace), [4, 4, 4]);
        assert_eq!(column(&workspace.json("status", 0)["mirrors"], "state"), ["current"; 3]);
    }
}

#[test]
fn newer_release_for_all_reaches_the_apart_mirror() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push");
    workspace.write("tree/index.html", "two");
    workspace.ok("push --only a");
    workspace.write("tree/index.html", "three");
    let lock = std::fs::File::open(workspace.path("a/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    workspace.run("push --require any --wait 0s").code(3);
    drop(lock);
    assert_eq!(on(&workspace), [2, 3, 3]);
    workspace.ok("heal");
    assert_eq!(on(&workspace), [3, 3, 3]);
}

#[test]
fn fleet_with_all_mirrors_apart_is_healthy() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push");
    workspace.write("tree/index.html", "two");
    workspace.ok("push --only a,b");
    workspace.ok("push --only c");
    let answer = workspace.json("heal", 0);
    assert_eq!(outcomes(&answer), ["apart"; 3]);
    workspace.ok("heal").says("no mirror serves a release for all");
    assert_eq!(on(&workspace), [2, 2, 2]);
    workspace.ok("status");
    workspace.ok("push");
    assert_eq!(on(&workspace), [3, 3, 3]);
}

#[test]
fn release_on_the_first_wave_only_is_not_spread_by_heal() {
    let workspace = Workspace::with_tree();
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push");
    fleet(&workspace, "http://127.0.0.1:1", "[[wave]]\ngroups=['canary']\nsoak='1h'\n");
    workspace.write("tree/index.html", "two");
    let mut push = workspace.start_until_staged("push");
    while workspace.current("a") != 2 {
        assert!(
            push.try_wait().unwrap().is_none(),
            "the push ended before it activated the canary"
        );
        std::thread::yield_now();
    }
    let answer = workspace.json("heal", 0);
    assert_eq!(outcomes(&answer), ["apart", "current", "current"], "{answer}");
    push.kill().unwrap();
    push.wait().unwrap();
    workspace.ok("heal");
    assert_eq!(on(&workspace), [2, 1, 1]);
    fleet(&workspace, "http://127.0.0.1:1", "");
    workspace.ok("push");
    assert_eq!(on(&workspace), [2, 2, 2]);
}

#[test]
fn release_of_one_mirror_alone_is_not_spread_by_heal() {
    let workspace = Workspace::with_tree();
    let mirrors = ["a", "b", "c"].map(|name| format!("[[mirror]]\nname='{name}'\nurl='{name}'\n"));
    workspace.write("headwater.toml", mirrors.concat());
    workspace.ok("push tree");
    // The owner of `a`, who does not know the fleet, publishes there in the same history.
    workspace.write("theirs.toml", "");
    workspace.write("theirs/index.html", "theirs");
    workspace.ok("push theirs ./a --cache elsewhere --config theirs.toml --allow-shrink");
    let run = workspace.run("heal");
    run.warns("`headwater heal --from a` copies it");
    assert_eq!(
        (workspace.read("b/current/index.html"), on(&workspace)),
        (workspace.read("tree/index.html"), [2, 1, 1])
    );
    workspace.ok("heal --from a");
    assert_eq!(
        (workspace.read("c/current/index.html"), on(&workspace)),
        ("theirs".to_owned(), [2, 2, 2])
    );
    // A machine without records of the fleet copies the newest release that it sees.
    workspace.write("theirs/index.html", "theirs again");
    workspace.ok("push theirs ./a --cache elsewhere --config theirs.toml");
    workspace.ok("heal --cache unknown");
    assert_eq!(on(&workspace), [3, 3, 3]);
}
