//! `headwater rollback`.

use serde_json::json;

use crate::harness::{TREE, Workspace, column};

/// Two mirrors with the releases 1, 2 and 3.
fn workspace() -> Workspace {
    let workspace = Workspace::with_tree();
    for number in 1..=3 {
        workspace.write("tree/index.html", format!("version {number}"));
        workspace.write(&format!("tree/only{number}.html"), "x");
        workspace.ok("push tree ./www ./data");
    }
    workspace
}

#[test]
fn rollback_makes_a_new_release_with_the_previous_content() {
    let workspace = workspace();
    let before = workspace.meta("www/current/index.html").modified().unwrap();
    workspace.ok("rollback ./www ./data").says("release 4");
    for mirror in ["www", "data"] {
        assert_eq!(workspace.current(mirror), 4);
        assert_eq!(workspace.read(&format!("{mirror}/current/index.html")), "version 2");
        assert!(!workspace.exists(&format!("{mirror}/current/only3.html")));
    }
    assert!(
        workspace.meta("www/current/index.html").modified().unwrap() > before,
        "the time of the file rises, so caches notice the change"
    );
    let release = workspace.releases("./www").pop().unwrap();
    assert_eq!(
        (&release["rolled_back_to"], release["rejected"].as_array().unwrap().len()),
        (&json!(2), 1)
    );
    assert_eq!(release["rejected"][0]["sequence"], 3);
    // Three releases within a second have creation times ahead of the clock.
    assert_eq!(release["rejected"][0]["at"], release["created"]);
    let times = column(&json!(workspace.releases("./www")), "created");
    assert!(times.is_sorted_by(|earlier, later| earlier < later), "{times:?}");
    workspace.ok("verify ./www ./data");
    workspace.ok("status ./www ./data");
}

#[test]
fn rolled_back_content_is_refused_with_who_when_and_why() {
    let workspace = workspace();
    let ann = [("USER", "ann"), ("SUDO_USER", "")];
    let why = "rollback ./www ./data --note broken-menu";
    workspace.run_with(&ann, why).code(0);
    let run = workspace
        .run("push tree ./www ./data")
        .code(5)
        .warns("rolled back by ann@")
        .warns("release 3 with")
        .warns("--again");
    assert!(run.stderr.contains(": broken-menu") && run.stderr.contains(" at 2"), "{}", run.stderr);
    // Without these variables, as under cron, the name comes from the user database.
    workspace.ok("push tree ./www ./data --again");
    let unset = [("USER", ""), ("SUDO_USER", ""), ("LOGNAME", "")];
    workspace.run_with(&unset, "rollback ./www ./data").code(0);
    workspace.run("push tree ./www ./data").code(5).warns("rolled back by ");
    let ci = [("CI", "true"), ("JOB_NAME", "deploy"), ("BUILD_NUMBER", "9")];
    workspace.ok("push tree ./www ./data --again");
    workspace.run_with(&ci, "rollback ./www ./data").code(0);
    workspace
        .run("push tree ./www ./data")
        .code(5)
        .warns("release 7 with this content was rolled back by ci:deploy run 9 at 2");
}

/// Four configured mirrors with the releases 1 and 2; one of them cannot be read.
fn fleet() -> Workspace {
    let workspace = Workspace::with_tree();
    let mirror = |name: &str, group: &str| format!("[[mirror]]\nname='{name}'\ngroup='{group}'\n");
    let mirrors: String =
        [("a", "eu"), ("b", "eu"), ("c", "us"), ("d", "us")].map(|(n, g)| mirror(n, g)).concat();
    workspace.write(
        "headwater.toml",
        format!("content='tree'\n[mirror_defaults]\nurl='./{{name}}'\n{mirrors}"),
    );
    workspace.ok("push --note first");
    workspace.write("tree/index.html", "two");
    workspace.ok("push");
    workspace.rename("d", "moved");
    workspace.write("d", "a file");
    workspace
}

#[test]
fn rollback_without_names_reverts_all_mirrors_despite_a_dead_one() {
    let workspace = fleet();
    workspace.run("rollback").code(2).warns("c: release 2 -> content of release 1").warns("--yes");
    assert_eq!(workspace.current("a"), 2);
    let run =
        workspace.run("rollback --yes").code(3).warns("release 1, published ").warns(": first");
    assert!(run.stderr.contains("d: not available ("), "{}", run.stderr);
    for mirror in ["a", "b", "c"] {
        assert_eq!(
            (
                workspace.current(mirror),
                workspace.read(&format!("{mirror}/current/index.html")).len()
            ),
            (3, 15)
        );
    }
    // The same rollback again would revert one more release; the command in the hint does not.
    let hint = "`headwater push --from a d`";
    assert!(run.stderr.contains(hint) && !run.stderr.contains("again"), "{}", run.stderr);
    workspace.remove("d");
    workspace.rename("moved", "d");
    workspace.ok("push --from a d");
    assert_eq!((workspace.current("d"), workspace.current("a")), (3, 3));
}

#[test]
fn lagging_mirror_is_rolled_back_with_the_others_and_a_warning() {
    let workspace = fleet();
    workspace.write("tree/index.html", "three");
    workspace.run("push --require 3").code(3);
    workspace.remove("d");
    workspace.rename("moved", "d");
    assert_eq!((workspace.current("a"), workspace.current("d")), (3, 2));
    let run = workspace.ok("rollback --yes").warns("warning: d (on release 2-");
    assert_eq!(run.stderr.matches("did not decide").count(), 1, "{}", run.stderr);
    for mirror in ["a", "b", "c", "d"] {
        assert_eq!(workspace.current(mirror), 4);
        assert_eq!(workspace.read(&format!("{mirror}/current/index.html")), "two");
    }
}

#[test]
fn rollback_without_names_accepts_only_and_skip() {
    let workspace = fleet();
    workspace.ok("rollback --only eu");
    assert_eq!(["a", "b", "c"].map(|mirror| workspace.current(mirror)), [3, 3, 2]);
    let workspace = fleet();
    workspace.run("rollback --skip us,a").code(2).warns("(1 mirror)");
    workspace.ok("rollback --skip us,a --yes");
    assert_eq!(["a", "b", "c"].map(|mirror| workspace.current(mirror)), [2, 3, 2]);
    workspace.rename("b", "x");
    workspace
        .run("rollback --only d")
        .code(4)
        .says("nothing was rolled back")
        .warns("run `headwater rollback` again");
}

#[test]
fn rollback_without_names_asks_on_a_terminal() {
    let workspace = fleet();
    for (keys, code, sequence) in [("\n", 130, 2), ("n\n", 130, 2), ("y\n", 3, 3)] {
        let mut terminal = workspace.on_terminal(100, "rollback");
        terminal.wait_for("[y/N]");
        terminal.press(keys);
        let shown = terminal.end().code(code);
        assert_eq!(workspace.current("a"), sequence, "{shown}");
    }
}

#[test]
fn rollback_sends_no_content() {
    let workspace = workspace();
    let answer = workspace.json("rollback ./www ./data --to 1", 0);
    assert_eq!(
        (&answer["mirrors"][0]["sent_packs"], &answer["mirrors"][1]["sent_packs"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(workspace.read("data/current/index.html"), "version 1");
}

#[test]
fn rollback_to_a_sequence_not_kept_is_a_usage_error() {
    let workspace = workspace();
    let before = workspace.fingerprint("www");
    workspace
        .run("rollback ./www --to 99")
        .code(2)
        .warns("no mirror keeps a release 99")
        .warns("headwater releases");
    workspace.run("rollback ./www --to x").code(2);
    assert_eq!(workspace.fingerprint("www"), before);
}

#[test]
fn rollback_of_mirrors_on_different_releases_requires_a_sequence() {
    let workspace = workspace();
    workspace.write("tree/index.html", "version 4");
    workspace.ok("push tree ./www");
    workspace.run("rollback ./www ./data").code(2).warns("ambiguous").warns("--to");
    workspace.ok("rollback ./www ./data --to 2");
    assert_eq!(
        (workspace.read("www/current/index.html"), workspace.read("data/current/index.html")),
        ("version 2".into(), "version 2".into())
    );
}

#[test]
fn sequence_kept_by_one_mirror_is_enough_for_all() {
    let workspace = workspace();
    workspace.ok("push --from ./www ./new");
    workspace.ok("rollback ./www ./data ./new --to 1");
    assert_eq!(workspace.read("new/current/index.html"), "version 1");
    workspace.ok("verify ./new");
}

#[test]
fn rollback_of_the_first_release_is_refused() {
    let workspace = Workspace::with_mirror();
    workspace.run("rollback ./www").code(2).warns("there is nothing to go back to");
    workspace.run("rollback ./nowhere").code(2).warns("no mirror has a release");
    assert!(!workspace.exists("nowhere"));
}

#[test]
fn second_rollback_undoes_the_first() {
    let workspace = workspace();
    workspace.ok("rollback ./www ./data");
    workspace.ok("rollback ./www ./data --to 3");
    assert_eq!(workspace.read("www/current/index.html"), "version 3");
    // The rollback published this content again, so pushing it makes no new release.
    workspace.ok("push tree ./www ./data").says("nothing new: release 5");
}

#[test]
fn paths_removed_by_a_rollback_are_retired() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/new.js", "new");
    workspace.ok("push tree ./www");
    workspace.ok("rollback ./www").says("1 retired");
    assert_eq!(workspace.read("www/current/new.js"), "new");
    workspace.ok("rollback ./www --to 2");
    workspace.ok("rollback ./www --to 3 --keep-removed 0s");
    assert!(!workspace.exists("www/current/new.js"));
    assert_eq!(workspace.served("www").len(), TREE.len());
}

#[test]
fn guard_rails_and_ci_order_do_not_block_a_rollback() {
    let workspace = workspace();
    workspace.write("headwater.toml", "must_have = ['only3.html']\nmax_removed = 0\n");
    workspace.ok("rollback ./www ./data --to 1");
    let ci = [("CI", "true"), ("JOB_NAME", "deploy"), ("BUILD_NUMBER", "1")];
    workspace.run_with(&ci, "rollback ./www ./data --to 3").code(0);
    assert!(workspace.releases("./www").pop().unwrap()["orders"].is_null());
}

#[test]
fn rollback_uses_the_site_of_the_mirrors() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www --site docs");
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www --site docs");
    assert_eq!(workspace.json("rollback ./www", 0)["headwater"], "rollback");
    assert_eq!(workspace.read("www/current/index.html"), "<h1>hello</h1>\n");
    workspace.run("rollback ./www --site other").code(7).warns("holds site \"docs\"");
    workspace.write("file", "");
    workspace.run("rollback ./file").code(4).warns("not a directory");
}
