//! The command that a mirror runs after a switch (`post_activate`), as the origin reports it.

use serde_json::json;

use crate::harness::{World, of_kind};
use crate::prometheus::check_gauges;
use crate::receiver::Receiver;

/// A receiver whose command fails while a file `broken` exists, and a configuration with the mirror
/// `edge1`.
fn world() -> (World, Receiver) {
    let world = World::with_tree();
    let broken = world.path("broken");
    let script = format!("if [ -e {0} ]; then cat {0} >&2; exit 3; fi", broken.display());
    let site =
        format!("[[site]]\nname = 'docs'\ndir = 'www'\npost_activate = ['sh', '-c', '{script}']\n");
    let receiver = Receiver::start(&world, &site);
    world.write(
        "headwater.toml",
        format!("content = 'tree'\nsite = 'docs'\n{}", receiver.mirror("http")),
    );
    (world, receiver)
}

const GAUGE: &str = "headwater_mirror_hook_failed{site=\"docs\",mirror=\"edge1\"}";
const FAILURE: &str = "exit status: 3: lost the cache";

#[test]
fn failed_hook_is_a_warning_and_keeps_the_exit_code() {
    let (world, _receiver) = world();
    let first = world.json("push", 0);
    assert_eq!(first["mirrors"][0]["hook"]["state"], "succeeded", "{first}");
    world.write("broken", "lost the cache\n");
    world.write("tree/index.html", "2");
    let warning =
        format!("warning: edge1: its post_activate command failed after release 2: sh: {FAILURE}");
    world.ok("push --metrics push.prom").says("switched").warns(&warning);
    // The metrics of the push include it, although the mirrors were polled before the command
    // ended.
    assert!(
        world.read("push.prom").contains(&format!("{GAUGE} 1\n")),
        "{}",
        world.read("push.prom")
    );
    // A push that activates nothing does not mention it.
    let again = world.json("push", 0);
    assert_eq!(again["mirrors"][0].get("hook"), None, "{again}");
    world.write("tree/index.html", "3");
    let events = world.events("push --quiet", 0);
    let failed = of_kind(&events, "hook_failed");
    assert_eq!((&failed[0]["mirror"], &failed[0]["sequence"]), (&json!("edge1"), &json!(3)));
}

#[test]
fn every_activating_command_warns_of_a_failed_hook() {
    let (world, _receiver) = world();
    world.ok("push");
    world.write("broken", "lost the cache\n");
    world.write("tree/index.html", "2");
    world.ok("push --stage-only");
    let hook = |line: &str| world.json(line, 0)["mirrors"][0]["hook"].clone();
    for (line, sequence) in [("activate 2", 2), ("rollback edge1", 3)] {
        let hook = hook(line);
        assert_eq!(
            (&hook["state"], &hook["reason"]),
            (&json!("failed"), &json!(format!("sh: {FAILURE}"))),
            "{line}"
        );
        assert!(
            hook["release"].as_str().unwrap().starts_with(&format!("{sequence}-")),
            "{line}: {hook}"
        );
    }
    world.write("tree/index.html", "4");
    world.ok("push ./tree ./other --site docs");
    world.ok("promote ./other edge1").warns("failed after release 4");
}

#[test]
fn status_shows_a_failed_hook_until_one_succeeds() {
    let (world, _receiver) = world();
    world.write("broken", "lost the cache\n");
    world.ok("push").warns(FAILURE);
    let failure = world.json("status", 0)["mirrors"][0]["hook_failure"].clone();
    assert_eq!(
        (&failure["sequence"], &failure["reason"]),
        (&json!(1), &json!(format!("sh: {FAILURE}")))
    );
    world
        .ok("status --metrics status.prom")
        .says("post_activate failed after release 1: sh: exit status: 3");
    check_gauges(&world.read("status.prom")).unwrap();
    assert!(
        world.read("status.prom").contains(&format!("{GAUGE} 1\n")),
        "{}",
        world.read("status.prom")
    );
    let line =
        "HEADWATER WARNING - 1 of 1 mirror current, edge1 has a failed post_activate command | ";
    world.run("status --check").code(1).says(line);
    world.remove("broken");
    world.write("tree/index.html", "2");
    world.ok("push --metrics status.prom");
    assert!(
        world.read("status.prom").contains(&format!("{GAUGE} 0\n")),
        "{}",
        world.read("status.prom")
    );
    assert_eq!(world.json("status", 0)["mirrors"][0].get("hook_failure"), None);
    world.run("status --check").code(0);
}
