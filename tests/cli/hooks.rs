//! The command that a mirror runs after a switch (`post_activate`), as the origin reports it.

use serde_json::json;

use crate::harness::{Workspace, of_kind};
use crate::prometheus::check_gauges;
use crate::receiver::Receiver;

/// A receiver whose command fails while a file `broken` exists, and a configuration with the mirror
/// `edge1`.
fn workspace() -> (Workspace, Receiver) {
    let workspace = Workspace::with_tree();
    let broken = workspace.path("broken");
    let script = format!("if [ -e {0} ]; then cat {0} >&2; exit 3; fi", broken.display());
    let site =
        format!("[[site]]\nname = 'docs'\ndir = 'www'\npost_activate = ['sh', '-c', '{script}']\n");
    let receiver = Receiver::start(&workspace, &site);
    workspace.write(
        "headwater.toml",
        format!("content = 'tree'\nsite = 'docs'\n{}", receiver.mirror("http")),
    );
    (workspace, receiver)
}

const GAUGE: &str = "headwater_mirror_hook_failed{site=\"docs\",mirror=\"edge1\"}";
const FAILURE: &str = "exit status: 3: lost the cache";

#[test]
fn failed_hook_is_a_warning_and_keeps_the_exit_code() {
    let (workspace, _receiver) = workspace();
    let first = workspace.json("push", 0);
    assert_eq!(first["mirrors"][0]["hook"]["state"], "succeeded", "{first}");
    workspace.write("broken", "lost the cache\n");
    workspace.write("tree/index.html", "2");
    let warning =
        format!("warning: edge1: its post_activate command failed after release 2: sh: {FAILURE}");
    workspace.ok("push --metrics push.prom").says("switched").warns(&warning);
    // The metrics of the push include it, although the mirrors were polled before the command
    // ended.
    assert!(
        workspace.read("push.prom").contains(&format!("{GAUGE} 1\n")),
        "{}",
        workspace.read("push.prom")
    );
    // A push that activates nothing does not mention it.
    let again = workspace.json("push", 0);
    assert_eq!(again["mirrors"][0].get("hook"), None, "{again}");
    workspace.write("tree/index.html", "3");
    let events = workspace.events("push --quiet", 0);
    let failed = of_kind(&events, "hook_failed");
    assert_eq!((&failed[0]["mirror"], &failed[0]["sequence"]), (&json!("edge1"), &json!(3)));
}

#[test]
fn every_activating_command_warns_of_a_failed_hook() {
    let (workspace, _receiver) = workspace();
    workspace.ok("push");
    workspace.write("broken", "lost the cache\n");
    workspace.write("tree/index.html", "2");
    workspace.ok("push --stage-only");
    let hook = |line: &str| workspace.json(line, 0)["mirrors"][0]["hook"].clone();
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
    workspace.write("tree/index.html", "4");
    workspace.ok("push ./tree ./other --site docs");
    workspace.ok("promote ./other edge1").warns("failed after release 4");
}

#[test]
fn status_shows_a_failed_hook_until_one_succeeds() {
    let (workspace, _receiver) = workspace();
    workspace.write("broken", "lost the cache\n");
    workspace.ok("push").warns(FAILURE);
    let failure = workspace.json("status", 0)["mirrors"][0]["hook_failure"].clone();
    assert_eq!(
        (&failure["sequence"], &failure["reason"]),
        (&json!(1), &json!(format!("sh: {FAILURE}")))
    );
    workspace
        .ok("status --metrics status.prom")
        .says("post_activate failed after release 1: sh: exit status: 3");
    check_gauges(&workspace.read("status.prom")).unwrap();
    assert!(
        workspace.read("status.prom").contains(&format!("{GAUGE} 1\n")),
        "{}",
        workspace.read("status.prom")
    );
    let line =
        "HEADWATER WARNING - 1 of 1 mirror current, edge1 has a failed post_activate command | ";
    workspace.run("status --check").code(1).says(line);
    workspace.remove("broken");
    workspace.write("tree/index.html", "2");
    workspace.ok("push --metrics status.prom");
    assert!(
        workspace.read("status.prom").contains(&format!("{GAUGE} 0\n")),
        "{}",
        workspace.read("status.prom")
    );
    assert_eq!(workspace.json("status", 0)["mirrors"][0].get("hook_failure"), None);
    workspace.run("status --check").code(0);
}
