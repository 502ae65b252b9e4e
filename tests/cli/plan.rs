//! `headwater plan`.

use serde_json::json;

use crate::harness::{Workspace, column, of_kind};

#[test]
fn plan_changes_nothing_on_disk() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "2");
    workspace.remove("tree/app.js");
    let before = workspace.fingerprint("");
    workspace.ok("plan tree ./www ./new --cache ./tmp/cache");
    workspace.remove("tmp");
    // The push changes the times of directories in which it temporarily created something, such as
    // that of the workspace.
    let without_root = |lines: Vec<String>| lines[1..].to_vec();
    assert_eq!(without_root(workspace.fingerprint("")), without_root(before));
    workspace.ok("plan tree ./www");
    assert!(!workspace.exists("new"));
    assert_eq!(workspace.fingerprint("www"), workspace.fingerprint("www"));
}

#[test]
fn plan_lists_paths_with_their_changes() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "2");
    workspace.write("tree/new.html", "new");
    workspace.remove("tree/app.js");
    workspace.rename("tree/docs/a.html", "tree/docs/b.html");
    let run = workspace.ok("plan tree ./www").says("release 2 would be made");
    for line in [
        "changed  index.html",
        "added    new.html",
        "retired  app.js",
        "renamed  docs/b.html (from docs/a.html)",
    ] {
        assert!(run.stdout.contains(line), "{line}: {}", run.stdout);
    }
    let plan = workspace.json("plan tree ./www", 0);
    assert_eq!(
        column(&plan["changes"], "path"),
        ["app.js", "docs/b.html", "index.html", "new.html"]
    );
    assert_eq!(column(&plan["changes"], "kind"), ["retired", "renamed", "changed", "added"]);
    assert_eq!(
        (&plan["same"], &plan["is_new"], &plan["sequence"]),
        (&json!(2), &json!(true), &json!(2))
    );
}

/// Returns the text after `words` on a line of stdout.
fn after<'r>(stdout: &'r str, words: &str) -> &'r str {
    stdout
        .lines()
        .find_map(|line| line.strip_prefix(words))
        .unwrap_or_else(|| panic!("no {words:?} in {stdout}"))
}

#[test]
fn plan_counts_equal_those_of_the_push() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/new.html", "new");
    workspace.write("tree/index.html", "2");
    workspace.rename("tree/app.js", "tree/app.2.js");
    workspace.remove("tree/assets/style.css");
    for mirrors in ["./www", "./www ./new"] {
        let planned = workspace.ok(&format!("plan tree {mirrors}"));
        let summary = after(&planned.stdout, "release 2 would be made: ");
        assert_eq!(summary, "1 added, 1 changed, 1 renamed, 1 retired, 2 same");
        assert!(planned.stdout.contains("2 retired, served until "), "{}", planned.stdout);
    }
    let plan = workspace.json("plan tree ./www ./new", 0);
    assert_eq!(column(&plan["changes"], "kind"), ["renamed", "retired", "changed", "added"]);
    let pushed = workspace.ok("push tree ./www").says("2 retired, served until ");
    assert_eq!(
        after(&pushed.stdout, "release 2: "),
        "1 added, 1 changed, 1 renamed, 1 retired, 2 same"
    );
    workspace.ok("diff ./www:1 ./www").says("\n1 added, 1 changed, 1 renamed, 1 retired, 2 same\n");
    let answer = workspace.json("rollback ./www", 0);
    assert_eq!(
        (&answer["changes"]["renamed"], &answer["changes"]["still_served"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn plan_bytes_equal_those_sent_by_the_push() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/large.txt", "some words\n".repeat(10_000));
    workspace.write("tree/index.html", "2");
    for flags in ["--level raw", "--level 3", ""] {
        let planned = workspace.json(&format!("plan tree ./www {flags}"), 0)["mirrors"][0].clone();
        let pushed = workspace.json(&format!("push tree ./www {flags}"), 0)["mirrors"][0].clone();
        let (planned, sent) =
            (planned["send_bytes"].as_u64().unwrap(), pushed["sent_bytes"].as_u64().unwrap());
        // The plan includes the manifest delta, a few hundred bytes; the bytes of packs are exact.
        assert!(sent <= planned && planned - sent < 1_000, "{flags}: {planned} {sent}");
        workspace.write("tree/large.txt", format!("other words {flags}\n").repeat(10_000));
    }
}

#[test]
fn plan_without_changes_says_so() {
    let workspace = Workspace::with_mirror();
    workspace.ok("plan tree ./www").says("nothing to do: release 1");
    let plan = workspace.json("plan tree ./www", 0);
    assert_eq!((&plan["is_new"], &plan["changes"]), (&json!(false), &json!([])));
    assert_eq!(
        (&plan["mirrors"][0]["is_current"], &plan["mirrors"][0]["send_bytes"]),
        (&json!(true), &json!(0))
    );
}

#[test]
fn plan_shows_what_a_lagging_mirror_lacks() {
    let workspace = Workspace::with_mirror();
    workspace.ok("plan tree ./www ./data").says("would be filled").says("would be copied");
    let plan = workspace.json("plan tree ./www ./data", 0);
    assert_eq!(plan["mirrors"][1]["objects"], 5);
    assert_eq!(plan["mirrors"][1]["serves"], json!(null));
    workspace.ok("plan --from ./www ./data").says("would be filled");
}

#[test]
fn plan_names_a_broken_mirror_with_its_reason() {
    let workspace = Workspace::with_mirror();
    workspace.write("file", "");
    workspace.write("tree/index.html", "2");
    workspace
        .run("plan tree ./www ./file")
        .code(4)
        .warns("./file is not a directory")
        .warns("--require");
    let plan = workspace.json("plan tree ./www ./file --require 1", 3);
    assert!(plan["mirrors"][1]["error"].as_str().unwrap().contains("not a directory"));
}

#[test]
fn plan_reports_a_build_stamp_in_every_page() {
    let workspace = Workspace::with_tree();
    let page = |number: usize, stamp: &str| {
        format!("<html>{}<!-- built {stamp} --></html>", "text ".repeat(number + 9))
    };
    (0..20).for_each(|number| {
        workspace.write(&format!("tree/p{number}.html"), page(number, "Monday"));
    });
    workspace.ok("push tree ./www");
    (0..20).for_each(|number| {
        workspace.write(&format!("tree/p{number}.html"), page(number, "Friday"));
    });
    workspace
        .ok("plan tree ./www")
        .says("20 of 20 changed .html files differ only in one place (a build stamp?)")
        .says("Fri");
    assert_eq!(workspace.json("plan tree ./www", 0)["churn"][0]["near_one_spot"], 20);
}

#[test]
fn plan_lists_fifty_paths_and_counts_the_rest() {
    let workspace = Workspace::with_tree();
    (0..60).for_each(|number| workspace.write(&format!("tree/n{number}"), "x"));
    let run = workspace.ok("plan tree ./www").says("… and 15 more").says("65 added");
    assert_eq!(run.stdout.lines().filter(|line| line.starts_with("added ")).count(), 50);
    assert_eq!(workspace.json("plan tree ./www", 0)["changes"].as_array().unwrap().len(), 65);
}

/// Five mirrors: a canary with its own wave, two in a group, a joining one and a frozen one.
fn fleet(more: &str) -> Workspace {
    let workspace = Workspace::with_tree();
    let mirror = |name: &str, more: &str| format!("[[mirror]]\nname='{name}'\n{more}\n");
    let mirrors = mirror("b", "group='eu'")
        + &mirror("c", "group='eu'")
        + &mirror("new", "")
        + &mirror("a", "group='canary'");
    let common = "content='tree'\n[mirror_defaults]\nurl='{name}'\n\
                  public_url='https://{name}.example/docs'\n";
    let wave = "[[wave]]\ngroups=['canary']\nsoak='10m'\nprobe='index.html'\n";
    workspace.ok("push tree ./a ./b ./c ./cold");
    workspace.write("tree/index.html", "2");
    workspace.write(
        "headwater.toml",
        format!("{more}{common}{mirrors}{}{wave}", mirror("cold", "frozen=true")),
    );
    workspace
}

#[test]
fn plan_shows_the_order_of_activation() {
    let workspace = fleet("");
    let run = workspace.ok("plan").says("would switch once all 3 mirrors are ready:\n");
    for line in [
        "  1. a; soak 10 min; probe https://a.example/docs/index.html\n",
        "  2. b, c, new together\n",
        "a failed probe would revert its wave and stop the push\n",
        "joins: would be filled, and the push would not wait for it\n",
        "is frozen: would not change\n",
        "canary ",
    ] {
        assert!(run.stdout.contains(line), "{line}: {}", run.stdout);
    }
    let plan = workspace.json("plan", 0);
    assert_eq!(column(&plan["mirrors"], "mirror"), ["b", "c", "new", "a", "cold"]);
    assert_eq!(column(&plan["mirrors"], "wave"), ["2", "2", "2", "1", "null"]);
    assert_eq!(column(&plan["mirrors"], "group"), ["eu", "eu", "null", "canary", "null"]);
    assert_eq!(column(&plan["mirrors"], "is_frozen"), ["false", "false", "false", "false", "true"]);
    assert_eq!(column(&plan["mirrors"], "is_joining"), ["false", "false", "true", "false", "null"]);
    let schedule = &plan["schedule"];
    assert_eq!(
        (&schedule["required"], &schedule["counted"], &schedule["lead"]),
        (&json!(3), &json!(3), &json!("a"))
    );
    assert_eq!((&schedule["goal"], &schedule["on_failure"]), (&json!("activate"), &json!("leave")));
    assert_eq!(
        schedule["waves"],
        json!([
            {
                "number": 1,
                "mirrors": ["a"],
                "soak_seconds": 600,
                "probes": ["https://a.example/docs/index.html"]
            },
            { "number": 2, "mirrors": ["b", "c", "new"], "soak_seconds": 0, "probes": [] },
        ])
    );
    assert!(!workspace.exists("new"));
}

#[test]
fn plan_applies_the_options_of_the_push() {
    let workspace = fleet("on_failure='revert'\nrequire='60%'\n");
    workspace
        .ok("plan")
        .says("once 2 of 3 mirrors are ready")
        .says("a failed probe or a failed switch would revert all mirrors");
    let staged = workspace
        .ok("plan --stage-only --skip canary")
        .says("would switch at `headwater activate`, once");
    assert!(!staged.stdout.contains("probe https"), "{}", staged.stdout);
    assert_eq!(workspace.json("plan --stage-only", 0)["schedule"]["goal"], "stage");
    // The plan names the mirror that leads the push.
    let lead =
        workspace.json("plan --skip canary", 0)["schedule"]["lead"].as_str().unwrap().to_owned();
    let events = workspace.events("push --skip canary --on-failure leave", 0);
    assert_eq!(of_kind(&events, "activated")[0]["mirror"], lead);
    workspace.ok("push --from b ./a --stage-only").says(" ./a` serves it").says(" ./a` drops it");
    workspace.ok("plan --from b ./a").says("is already staged");
    // A single mirror has no order.
    let alone = workspace.ok("plan --only b");
    assert!(!alone.stdout.contains("would switch"), "{}", alone.stdout);
    workspace.remove("tree/index.html");
    workspace.run("plan").code(5).warns("a probe of a wave requests");
    workspace.ok("plan --skip canary");
}
