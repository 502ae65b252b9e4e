//! Rollouts that fail between the first mirror and the last: a failed switch, an interrupt by the
//! user, a probe that hangs, a malformed list, mirrors whose releases have diverged.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Run, World, column, refused};

/// Three mirrors, the first of them a canary, with `more` in the configuration.
fn fleet(world: &World, more: &str) {
    let mirrors = "content='tree'\n[mirror_defaults]\nurl='{name}'\n[[mirror]]\nname='a'\n\
                   group='canary'\n[[mirror]]\nname='b'\n[[mirror]]\nname='c'\n";
    world.write("headwater.toml", format!("{more}\n{mirrors}"));
}

/// The same fleet with a wave for the canary.
fn fleet_with_wave(world: &World, wave: &str) {
    fleet(world, "");
    world.write(
        "headwater.toml",
        world.read("headwater.toml") + "[[wave]]\ngroups=['canary']\n" + wave,
    );
}

fn outcomes(answer: &Value) -> Vec<String> {
    column(&answer["mirrors"], "outcome")
}

fn on(world: &World) -> [u64; 3] {
    ["a", "b", "c"].map(|mirror| world.current(mirror))
}

#[test]
fn failed_switch_reverts_the_others_if_configured() {
    let world = World::with_tree();
    fleet(&world, "");
    world.ok("push");
    let before = world.served("a");
    world.write("tree/index.html", "two");
    world.ok("push --stage-only");
    // The release is staged there too, and then another process takes the lock.
    let lock = File::open(world.path("c/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    let answer = world.json("activate 2 --on-failure revert --wait 0s", 4);
    assert_eq!(outcomes(&answer), ["reverted", "reverted", "failed"], "{answer}");
    assert_eq!(answer["stopped"], "1 of 3 mirrors did not switch");
    assert_eq!(
        (answer["sequence"].as_u64(), answer["reverted"]["sequence"].as_u64()),
        (Some(2), Some(3))
    );
    assert_eq!(on(&world), [3, 3, 1]);
    for mirror in ["a", "b", "c"] {
        assert_eq!(world.served(mirror), before, "{mirror}");
    }
    lock.unlock().unwrap();
    // By default the failed mirror is left behind instead.
    world.write("tree/index.html", "three");
    world.ok("push --stage-only");
    lock.lock().unwrap();
    let answer = world.json("activate 4 --wait 0s", 3);
    assert_eq!(outcomes(&answer), ["activated", "activated", "failed"], "{answer}");
    assert_eq!(on(&world), [4, 4, 1]);
    drop(lock);
    world.ok("heal");
    assert_eq!(on(&world), [4, 4, 4]);
}

#[test]
fn interrupted_soak_leaves_only_the_wave_on_the_release() {
    let world = World::with_tree();
    fleet(&world, "");
    world.ok("push");
    fleet_with_wave(&world, "soak='1h'\n");
    world.write("tree/index.html", "two");
    let mut child = world.start("push --json --events events.jsonl");
    while !fs::read_to_string(world.path("events.jsonl"))
        .unwrap_or_default()
        .contains("\"activated\"")
    {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it switched anything");
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
    assert_eq!(on(&world), [2, 1, 1]);
    fleet(&world, "");
    world.ok("push").says("release 2 was copied to 2 mirrors unchanged");
    assert_eq!(on(&world), [2, 2, 2]);
}

#[test]
fn hanging_probe_fails_after_its_timeout() {
    let world = World::with_tree();
    fleet(&world, "");
    world.ok("push");
    // The kernel accepts the connection, and nothing ever responds.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    fleet_with_wave(&world, &format!("probe='http://{}/index.html'\n", deaf.local_addr().unwrap()));
    world.write("tree/index.html", "two");
    let began = Instant::now();
    let answer = world.json("push", 4);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(outcomes(&answer), ["reverted", "skipped", "skipped"], "{answer}");
    assert!(
        answer["stopped"].as_str().unwrap().starts_with("wave 1: probe http://127.0.0.1:"),
        "{answer}"
    );
    assert_eq!(on(&world), [3, 1, 1]);
}

/// A fleet whose mirrors a shell script lists.
fn listed_by(world: &World, script: &str) {
    world.write("list.sh", script);
    world.write("headwater.toml", "content='tree'\nmirrors_from=['sh', 'list.sh']\n");
}

#[test]
fn invalid_mirror_list_stops_the_push_with_the_reason() {
    let world = World::with_tree();
    listed_by(&world, "echo '{\"name\":\"a\",\"url\":\"a\"}'");
    world.ok("push");
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
        listed_by(&world, script);
        world.write("tree/index.html", script);
        for command in ["push", "status", "heal"] {
            refused(&world, command, 2, words);
        }
        assert_eq!(world.current("a"), 1);
    }
}

#[test]
#[ignore = "takes half a minute"]
fn mirror_list_command_that_hangs_is_stopped_after_30_seconds() {
    let world = World::with_tree();
    listed_by(&world, "sleep 600");
    refused(&world, "push", 2, "did not end within 30 s");
}

#[test]
fn two_names_for_one_store_are_refused_before_sending() {
    let world = World::with_tree();
    fleet(&world, "");
    world.ok("push --only a,b");
    world.link("a", "c");
    world.write("tree/index.html", "two");
    world
        .run("push")
        .code(2)
        .warns("./a and ./c are the same mirror")
        .warns("name each mirror once");
    assert_eq!(["a", "b"].map(|mirror| world.current(mirror)), [1, 1]);
}

#[test]
fn mirrors_on_partial_releases_converge_with_the_next_push() {
    let world = World::with_tree();
    fleet(&world, "");
    world.ok("push");
    world.write("tree/index.html", "two");
    world.ok("push --skip c");
    world.write("tree/index.html", "three");
    world.ok("push --only c");
    assert_eq!(on(&world), [2, 2, 2]);
    // Each release was made for some of the mirrors only.
    assert_eq!(column(&world.json("status", 0)["mirrors"], "state"), ["apart"; 3]);
    world.ok("heal");
    assert_eq!(on(&world), [2, 2, 2]);
    world.ok("push");
    assert_eq!(on(&world), [3, 3, 3]);
    let served = ["a", "b", "c"].map(|mirror| world.served(mirror));
    assert!(served.iter().all(|one| *one == world.files("tree")));
}
