//! `headwater rollback`.

use serde_json::json;

use crate::harness::{TREE, World, column};

/// Two mirrors with the releases 1, 2 and 3.
fn world() -> World {
    let world = World::with_tree();
    for number in 1..=3 {
        world.write("tree/index.html", format!("version {number}"));
        world.write(&format!("tree/only{number}.html"), "x");
        world.ok("push tree ./www ./data");
    }
    world
}

#[test]
fn rollback_makes_a_new_release_with_the_previous_content() {
    let world = world();
    let before = world.meta("www/current/index.html").modified().unwrap();
    world.ok("rollback ./www ./data").says("release 4");
    for mirror in ["www", "data"] {
        assert_eq!(world.current(mirror), 4);
        assert_eq!(world.read(&format!("{mirror}/current/index.html")), "version 2");
        assert!(!world.exists(&format!("{mirror}/current/only3.html")));
    }
    assert!(
        world.meta("www/current/index.html").modified().unwrap() > before,
        "caches see a change"
    );
    let release = world.releases("./www").pop().unwrap();
    assert_eq!(
        (&release["rolled_back_to"], release["rejected"].as_array().unwrap().len()),
        (&json!(2), 1)
    );
    assert_eq!(release["rejected"][0]["sequence"], 3);
    // Three releases within a second have creation times ahead of the clock.
    assert_eq!(release["rejected"][0]["at"], release["created"]);
    let times = column(&json!(world.releases("./www")), "created");
    assert!(times.is_sorted_by(|earlier, later| earlier < later), "{times:?}");
    world.ok("verify ./www ./data");
    world.ok("status ./www ./data");
}

#[test]
fn rolled_back_content_is_refused_with_who_when_and_why() {
    let world = world();
    let ann = [("USER", "ann"), ("SUDO_USER", "")];
    let why = "rollback ./www ./data --note broken-menu";
    world.run_with(&ann, why).code(0);
    let run = world
        .run("push tree ./www ./data")
        .code(5)
        .warns("rolled back by ann@")
        .warns("release 3 with")
        .warns("--again");
    assert!(run.stderr.contains(": broken-menu") && run.stderr.contains(" at 2"), "{}", run.stderr);
    // Without these variables, as under cron, the name comes from the user database.
    world.ok("push tree ./www ./data --again");
    let unset = [("USER", ""), ("SUDO_USER", ""), ("LOGNAME", "")];
    world.run_with(&unset, "rollback ./www ./data").code(0);
    world.run("push tree ./www ./data").code(5).warns("rolled back by ");
    let ci = [("CI", "true"), ("JOB_NAME", "deploy"), ("BUILD_NUMBER", "9")];
    world.ok("push tree ./www ./data --again");
    world.run_with(&ci, "rollback ./www ./data").code(0);
    world
        .run("push tree ./www ./data")
        .code(5)
        .warns("release 7 with this content was rolled back by ci:deploy run 9 at 2");
}

/// Four configured mirrors with the releases 1 and 2; one of them cannot be read.
fn fleet() -> World {
    let world = World::with_tree();
    let mirror = |name: &str, group: &str| format!("[[mirror]]\nname='{name}'\ngroup='{group}'\n");
    let mirrors: String =
        [("a", "eu"), ("b", "eu"), ("c", "us"), ("d", "us")].map(|(n, g)| mirror(n, g)).concat();
    world.write(
        "headwater.toml",
        format!("content='tree'\n[mirror_defaults]\nurl='./{{name}}'\n{mirrors}"),
    );
    world.ok("push --note first");
    world.write("tree/index.html", "two");
    world.ok("push");
    world.rename("d", "moved");
    world.write("d", "a file");
    world
}

#[test]
fn rollback_without_names_reverts_all_mirrors_despite_a_dead_one() {
    let world = fleet();
    world.run("rollback").code(2).warns("c: release 2 -> content of release 1").warns("--yes");
    assert_eq!(world.current("a"), 2);
    let run = world.run("rollback --yes").code(3).warns("release 1, published ").warns(": first");
    assert!(run.stderr.contains("d: not available ("), "{}", run.stderr);
    for mirror in ["a", "b", "c"] {
        assert_eq!(
            (world.current(mirror), world.read(&format!("{mirror}/current/index.html")).len()),
            (3, 15)
        );
    }
    // The same rollback again would revert one more release; the command in the hint does not.
    let hint = "`headwater push --from a d`";
    assert!(run.stderr.contains(hint) && !run.stderr.contains("again"), "{}", run.stderr);
    world.remove("d");
    world.rename("moved", "d");
    world.ok("push --from a d");
    assert_eq!((world.current("d"), world.current("a")), (3, 3));
}

#[test]
fn lagging_mirror_is_rolled_back_with_the_others_and_a_warning() {
    let world = fleet();
    world.write("tree/index.html", "three");
    world.run("push --require 3").code(3);
    world.remove("d");
    world.rename("moved", "d");
    assert_eq!((world.current("a"), world.current("d")), (3, 2));
    let run = world.ok("rollback --yes").warns("warning: d (on release 2-");
    assert_eq!(run.stderr.matches("did not decide").count(), 1, "{}", run.stderr);
    for mirror in ["a", "b", "c", "d"] {
        assert_eq!(world.current(mirror), 4);
        assert_eq!(world.read(&format!("{mirror}/current/index.html")), "two");
    }
}

#[test]
fn rollback_without_names_accepts_only_and_skip() {
    let world = fleet();
    world.ok("rollback --only eu");
    assert_eq!(["a", "b", "c"].map(|mirror| world.current(mirror)), [3, 3, 2]);
    let world = fleet();
    world.run("rollback --skip us,a").code(2).warns("(1 mirror)");
    world.ok("rollback --skip us,a --yes");
    assert_eq!(["a", "b", "c"].map(|mirror| world.current(mirror)), [2, 3, 2]);
    world.rename("b", "x");
    world
        .run("rollback --only d")
        .code(4)
        .says("nothing was rolled back")
        .warns("run `headwater rollback` again");
}

#[test]
fn rollback_without_names_asks_on_a_terminal() {
    let world = fleet();
    for (keys, code, sequence) in [("\n", 130, 2), ("n\n", 130, 2), ("y\n", 3, 3)] {
        let mut terminal = world.on_terminal(100, "rollback");
        terminal.wait_for("[y/N]");
        terminal.press(keys);
        let shown = terminal.end().code(code);
        assert_eq!(world.current("a"), sequence, "{shown}");
    }
}

#[test]
fn rollback_sends_no_content() {
    let world = world();
    let answer = world.json("rollback ./www ./data --to 1", 0);
    assert_eq!(
        (&answer["mirrors"][0]["sent_packs"], &answer["mirrors"][1]["sent_packs"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(world.read("data/current/index.html"), "version 1");
}

#[test]
fn rollback_to_a_sequence_not_kept_is_a_usage_error() {
    let world = world();
    let before = world.snapshot("www");
    world
        .run("rollback ./www --to 99")
        .code(2)
        .warns("no mirror keeps a release 99")
        .warns("headwater releases");
    world.run("rollback ./www --to x").code(2);
    assert_eq!(world.snapshot("www"), before);
}

#[test]
fn rollback_of_mirrors_on_different_releases_requires_a_sequence() {
    let world = world();
    world.write("tree/index.html", "version 4");
    world.ok("push tree ./www");
    world.run("rollback ./www ./data").code(2).warns("ambiguous").warns("--to");
    world.ok("rollback ./www ./data --to 2");
    assert_eq!(
        (world.read("www/current/index.html"), world.read("data/current/index.html")),
        ("version 2".into(), "version 2".into())
    );
}

#[test]
fn sequence_kept_by_one_mirror_is_enough_for_all() {
    let world = world();
    world.ok("push --from ./www ./new");
    world.ok("rollback ./www ./data ./new --to 1");
    assert_eq!(world.read("new/current/index.html"), "version 1");
    world.ok("verify ./new");
}

#[test]
fn rollback_of_the_first_release_is_refused() {
    let world = World::with_mirror();
    world.run("rollback ./www").code(2).warns("there is nothing to go back to");
    world.run("rollback ./nowhere").code(2).warns("no mirror has a release");
    assert!(!world.exists("nowhere"));
}

#[test]
fn second_rollback_undoes_the_first() {
    let world = world();
    world.ok("rollback ./www ./data");
    world.ok("rollback ./www ./data --to 3");
    assert_eq!(world.read("www/current/index.html"), "version 3");
    // The rollback published this content again, so pushing it makes no new release.
    world.ok("push tree ./www ./data").says("nothing new: release 5");
}

#[test]
fn paths_removed_by_a_rollback_are_retired() {
    let world = World::with_mirror();
    world.write("tree/new.js", "new");
    world.ok("push tree ./www");
    world.ok("rollback ./www").says("1 retired");
    assert_eq!(world.read("www/current/new.js"), "new");
    world.ok("rollback ./www --to 2");
    world.ok("rollback ./www --to 3 --keep-removed 0s");
    assert!(!world.exists("www/current/new.js"));
    assert_eq!(world.served("www").len(), TREE.len());
}

#[test]
fn guard_rails_and_ci_order_do_not_block_a_rollback() {
    let world = world();
    world.write("headwater.toml", "must_have = ['only3.html']\nmax_removed = 0\n");
    world.ok("rollback ./www ./data --to 1");
    let ci = [("CI", "true"), ("JOB_NAME", "deploy"), ("BUILD_NUMBER", "1")];
    world.run_with(&ci, "rollback ./www ./data --to 3").code(0);
    assert!(world.releases("./www").pop().unwrap()["orders"].is_null());
}

#[test]
fn rollback_uses_the_site_of_the_mirrors() {
    let world = World::with_tree();
    world.ok("push tree ./www --site docs");
    world.write("tree/index.html", "2");
    world.ok("push tree ./www --site docs");
    assert_eq!(world.json("rollback ./www", 0)["headwater"], "rollback");
    assert_eq!(world.read("www/current/index.html"), "<h1>hello</h1>\n");
    world.run("rollback ./www --site other").code(7).warns("holds site \"docs\"");
    world.write("file", "");
    world.run("rollback ./file").code(4).warns("not a directory");
}
