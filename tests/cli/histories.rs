//! Releases that are copied between mirrors, promoted releases, and releases of different
//! histories.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::Workspace;

/// Writes a tree of this version.
fn version(workspace: &Workspace, number: u64) {
    workspace.write("tree/index.html", format!("version {number}"));
}

fn newest(workspace: &Workspace, mirror: &str) -> Value {
    workspace.releases(mirror).pop().unwrap()
}

#[test]
fn copy_from_a_stale_hub_leaves_a_newer_edge_alone() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./hub ./stale ./edge");
    version(&workspace, 2);
    workspace.ok("push tree ./hub");
    workspace.ok("push --from ./hub ./edge").says("1 -> 2");
    let before = workspace.fingerprint("edge");
    for _ in 0..2 {
        let run = workspace
            .run("push --from ./stale ./edge")
            .code(6)
            .says("left alone: serves the newer release 2-");
        run.warns("./edge serves release 2-")
            .warns("newer than release 1")
            .warns("headwater promote");
    }
    let answer = workspace.json("push --from ./stale ./edge", 6);
    let mirror = &answer["mirrors"][0];
    assert_eq!(
        (&mirror["outcome"], &mirror["now"], &answer["is_new"]),
        (&json!("newer"), &json!(2), &json!(false))
    );
    assert!(mirror["serves"].as_str().unwrap().starts_with("2-"));
    workspace.ok("push --from ./stale ./edge --superseded-ok");
    workspace
        .run("plan --from ./stale ./edge")
        .code(6)
        .says("serves a newer release: would be left alone");
    workspace.ok("plan --from ./stale ./edge --superseded-ok");
    workspace.run("plan --from ./stale ./edge ./new").code(3);
    assert_eq!(workspace.fingerprint("edge"), before);
    // The other mirrors get the release.
    workspace.run("push --from ./stale ./edge ./new").code(3).says("left alone");
    assert_eq!((workspace.current("edge"), workspace.current("new")), (2, 1));
    workspace.ok("heal ./hub ./stale ./edge ./new");
    assert!(["hub", "stale", "edge", "new"].iter().all(|mirror| workspace.current(mirror) == 2));
}

#[test]
fn copy_with_a_note_is_refused() {
    let workspace = Workspace::with_mirror();
    workspace.run("push --from ./www ./new --note text").code(2).warns("headwater promote");
    assert!(!workspace.exists("new"));
}

#[test]
fn equal_sequences_of_one_history_converge_without_a_new_release() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./a ./b");
    version(&workspace, 2);
    workspace.ok("push tree ./a");
    version(&workspace, 3);
    workspace.ok("push tree ./b");
    let all = [newest(&workspace, "./a"), newest(&workspace, "./b")];
    workspace.ok("heal ./a ./b").says("copied to 1 mirror unchanged");
    assert_eq!(newest(&workspace, "./a"), newest(&workspace, "./b"));
    assert!(all.contains(&newest(&workspace, "./a")) && workspace.current("a") == 2);
    workspace.ok("verify ./a ./b");
}

#[test]
fn different_histories_are_refused_without_new_history_flag() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./old");
    version(&workspace, 2);
    workspace.ok("push tree ./other --cache other-cache");
    let history = |mirror: &str| newest(&workspace, mirror)["history"].as_str().unwrap().to_owned();
    let (old, other) = (history("./old"), history("./other"));
    assert_ne!(old, other);
    let before = [workspace.fingerprint("old"), workspace.fingerprint("other")];
    version(&workspace, 3);
    for line in ["push tree ./old ./other", "plan tree ./old ./other"] {
        let run = workspace.run(line).code(5).warns("different histories").warns("--new-history");
        run.warns("./old serves release 1")
            .warns("./other serves release 1")
            .warns(&old[..12])
            .warns(&other[..12]);
    }
    // If the other mirror is enough, the mirror that this origin has not pushed to fails alone.
    workspace
        .run("heal ./old ./other")
        .code(3)
        .warns("./other failed: it serves release 1")
        .warns("--new-history");
    assert_eq!([workspace.fingerprint("old"), workspace.fingerprint("other")], before);
    let run = workspace.run("push --from ./old ./other").code(4).warns("history");
    run.warns("promote").warns("--new-history");
    assert_eq!([workspace.fingerprint("old"), workspace.fingerprint("other")], before);
    workspace.ok("push tree ./old ./other --new-history").says("release 2");
    let (one, two) = (newest(&workspace, "./old"), newest(&workspace, "./other"));
    assert_eq!(one, two);
    let mut replaced = [json!(old), json!(other)];
    replaced.sort_unstable_by_key(Value::to_string);
    let mut listed = one["replaces"].as_array().unwrap().clone();
    listed.sort_unstable_by_key(Value::to_string);
    assert_eq!(listed, replaced);
    version(&workspace, 4);
    workspace.ok("push tree ./old ./other").says("release 3");
    assert_eq!(newest(&workspace, "./old")["history"], one["history"], "the history continues");
    workspace.ok("verify ./old ./other");
}

#[test]
fn replaced_history_at_a_higher_sequence_ends_with_a_push_not_heal() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./a ./b");
    for number in 2..5 {
        version(&workspace, number);
        workspace.ok("push tree ./a");
    }
    version(&workspace, 9);
    workspace.ok("push tree ./b --new-history");
    assert_eq!((workspace.current("a"), workspace.current("b")), (4, 2));
    let before = [workspace.fingerprint("a"), workspace.fingerprint("b")];
    let run = workspace.run("heal ./a ./b").code(3).says("left alone: serves the newer release 4-");
    run.warns("./a serves release 4-")
        .warns("push a tree or run `headwater promote` to make a release that is newer than both");
    assert_eq!(
        [workspace.fingerprint("a"), workspace.fingerprint("b")],
        before,
        "heal makes no release"
    );
    workspace.ok("push tree ./a ./b").says("release 5: ");
    assert_eq!(newest(&workspace, "./a"), newest(&workspace, "./b"));
    workspace.ok("heal ./a ./b").says("nothing new");
    workspace.ok("verify ./a ./b");
}

#[test]
fn promote_makes_a_release_in_the_destination_history() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www");
    version(&workspace, 2);
    workspace.write("tree/new.html", "new");
    workspace.ok("push tree ./staging --site staging --cache staging-cache");
    let before = newest(&workspace, "./www");
    workspace.ok("promote ./staging ./www --dry-run").says("release 2 would be made");
    assert_eq!(newest(&workspace, "./www"), before);
    let answer = workspace.json("promote ./staging ./www --note approved --order ci:7", 0);
    assert_eq!((&answer["headwater"], &answer["is_new"]), (&json!("promote"), &json!(true)));
    let after = newest(&workspace, "./www");
    assert_eq!(
        (&after["sequence"], &after["note"], &after["site"]),
        (&json!(2), &json!("approved"), &json!("default"))
    );
    assert_eq!((&after["history"], &after["orders"]["ci"]), (&before["history"], &json!(7)));
    assert_eq!(workspace.read("www/current/index.html"), "version 2");
    // Orders and guard rails apply as for a tree; the same content makes no new release.
    workspace.run("promote ./staging ./www --order ci:6").code(6);
    workspace.ok("promote ./staging ./www").says("nothing new");
    workspace.write("tree/.env", "SECRET=1");
    workspace.ok("push tree ./staging --site staging --cache staging-cache --allow-secrets");
    workspace.run("promote ./staging ./www").code(5).warns(".env");
    workspace.run("promote ./staging").code(2);
    workspace.run("promote ./nowhere ./www").code(8);
    workspace.ok("verify ./www ./staging");
}

#[test]
fn copy_that_races_a_push_never_makes_a_release() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./d ./h");
    for round in 2..14 {
        version(&workspace, round);
        let start = |line: &str| {
            let arguments: Vec<&str> = line.split_whitespace().collect();
            workspace
                .command(&arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let racers = [start("push tree ./d ./h"), start("push --from ./d ./h --cache copy-cache")];
        let outputs = racers.map(|racer| racer.wait_with_output().unwrap());
        let codes = [0, 1].map(|index| outputs[index].status.code().unwrap());
        assert!(codes[0] == 0 && matches!(codes[1], 0 | 6), "{outputs:#?}");
        for mirror in ["d", "h"] {
            assert_eq!(workspace.current(mirror), round, "{outputs:#?}");
            assert_eq!(
                workspace.read(&format!("{mirror}/current/index.html")),
                format!("version {round}")
            );
        }
    }
}

#[test]
fn new_history_on_one_of_two_mirrors_reaches_both_with_the_next_push() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./a ./b --cache here");
    version(&workspace, 2);
    workspace.ok("push tree ./b --new-history --cache there");
    version(&workspace, 3);
    workspace.ok("push tree ./a ./b --cache here");
    assert_eq!(newest(&workspace, "./a")["release"], newest(&workspace, "./b")["release"]);
}

#[test]
fn stale_cache_does_not_publish_content_rolled_back_elsewhere() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./a ./b --cache old");
    for number in [2, 3] {
        version(&workspace, number);
        workspace.ok("push tree ./b --cache new");
    }
    workspace.ok("rollback ./b --yes --cache new");
    workspace.run("push tree ./a ./b --cache old").code(5).warns("rolled back");
}

#[test]
fn rollback_ignores_a_release_that_only_one_of_three_mirrors_keeps() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./a --cache here --init");
    version(&workspace, 2);
    workspace.ok("push tree ./a --cache elsewhere");
    version(&workspace, 3);
    workspace.ok("push tree ./a ./b ./c --cache here");
    workspace
        .run("rollback ./a ./b ./c --yes --cache here")
        .code(2)
        .warns("no kept release before 3");
    workspace
        .run("rollback ./a ./b ./c --to 2 --yes --cache here")
        .code(2)
        .warns("only ./a keeps a release 2");
    workspace.ok("rollback ./a --to 2 --yes --cache here");
}
