//! `headwater push`: its flags.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{TREE, Workspace, of_kind};

#[test]
fn keep_removed_applies_to_every_kind_of_file() {
    let workspace = Workspace::with_mirror();
    workspace.remove("tree/docs/a.html");
    workspace.ok("push tree ./www --keep-removed 1h").says("1 retired");
    assert!(workspace.exists("www/current/docs/a.html"));
    workspace.remove("tree/app.js");
    workspace.ok("push tree ./www --keep-removed 0s").says("1 removed");
    assert!(!workspace.exists("www/current/app.js"));
    assert!(
        workspace.exists("www/current/docs/a.html"),
        "a later push does not shorten the retirement"
    );
    workspace.ok("verify ./www");
}

#[test]
fn retired_file_that_returns_is_live_with_a_later_time() {
    let workspace = Workspace::with_mirror();
    let before = workspace.meta("www/current/app.js").mtime();
    workspace.remove("tree/app.js");
    workspace.ok("push tree ./www");
    workspace.write("tree/app.js", TREE[0].1);
    let answer = workspace.json("push tree ./www", 0);
    assert_eq!(
        (&answer["changes"]["added"], &answer["mirrors"][0]["sent_packs"]),
        (&json!(1), &json!(0))
    );
    assert!(workspace.meta("www/current/app.js").mtime() > before);
    assert!(workspace.releases("./www").pop().unwrap()["retired"].is_null());
}

#[test]
fn due_retired_entries_are_removed_without_a_release() {
    let workspace = Workspace::with_mirror();
    workspace.remove("tree/app.js");
    workspace.ok("push tree ./www --keep-removed 1s").says("1 retired");
    assert!(workspace.exists("www/current/app.js"));
    // The test cannot set the clock, so it repeats the push until the entry is due. That takes two
    // seconds more if several releases were made within a second.
    let begun = Instant::now();
    while workspace.exists("www/current/app.js") {
        assert!(begun.elapsed() < Duration::from_secs(60), "the entry is never removed");
        workspace.ok("push tree ./www");
    }
    assert_eq!(workspace.current("www"), 2);
    workspace.ok("push tree ./www").says("nothing new: release 2");
    workspace.ok("verify ./www");
}

#[test]
fn expunged_paths_are_removed_at_once() {
    let workspace = Workspace::with_mirror();
    workspace.remove("tree/assets");
    workspace.ok("push tree ./www").says("2 retired");
    workspace.ok("push tree ./www --expunge assets/deep --note takedown");
    let served = workspace.served("www");
    assert!(
        !served.contains_key("assets/deep/er/logo.svg") && served.contains_key("assets/style.css"),
        "{served:?}"
    );
    // Paths that the tree has would still be served.
    workspace.write("tree/index.html", "2");
    workspace
        .run("push tree ./www --expunge index.html")
        .code(5)
        .warns("index.html")
        .warns("remove the path from the tree");
    assert_ne!(workspace.read("www/current/index.html"), "2");
    workspace.run("push tree ./www --expunge ../x").code(2);
}

#[test]
fn broken_mirror_stops_the_push_unless_fewer_are_required() {
    let workspace = Workspace::with_tree();
    workspace.write("file", "not a mirror");
    let refused = workspace.json("push tree ./www ./file ./data", 4);
    let outcomes: Vec<_> =
        refused["mirrors"].as_array().unwrap().iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["skipped", "failed", "skipped"]);
    assert!(!workspace.exists("www") && !workspace.exists("data"), "nothing was sent");
    workspace.run("push tree ./www ./file ./data").code(4).warns("./file").warns("--require");

    for require in ["any", "1", "2"] {
        let answer =
            workspace.json(&format!("push tree ./www ./file ./data --require {require}"), 3);
        assert_eq!(answer["mirrors"][1]["failure"], "bad_place");
        assert_eq!(workspace.served("www"), workspace.files("tree"));
        assert_eq!(workspace.served("data"), workspace.files("tree"));
        workspace.write("tree/index.html", require);
    }
    workspace.run("push tree ./www ./file ./data --require 3").code(4);
    assert_ne!(workspace.served("www"), workspace.files("tree"));
    assert_eq!(workspace.read("file"), "not a mirror");
}

#[test]
fn lagging_mirror_gets_the_newest_release_unchanged() {
    let workspace = Workspace::with_mirror();
    workspace.ok("push tree ./www ./data").says("nothing new");
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www");
    let answer = workspace.json("push tree ./www ./data", 0);
    assert_eq!((&answer["is_new"], &answer["sequence"]), (&json!(false), &json!(2)));
    assert_eq!(
        (&answer["mirrors"][0]["outcome"], &answer["mirrors"][1]["outcome"]),
        (&json!("current"), &json!("activated"))
    );
    assert_eq!(workspace.served("data"), workspace.files("tree"));
    assert_eq!(workspace.releases("./www").last(), workspace.releases("./data").last());
}

#[test]
fn copy_fills_new_and_lagging_mirrors_without_the_tree() {
    let workspace = Workspace::with_mirror();
    workspace.remove("tree/app.js");
    workspace.ok("push tree ./www");
    let served = workspace.served("www");
    workspace.rename("tree", "gone");
    workspace.ok("push --from ./www ./data");
    assert_eq!(workspace.served("data"), served);
    assert_eq!(workspace.releases("./www").last(), workspace.releases("./data").last());
    workspace.rename("gone", "tree");
    workspace.write("tree/index.html", "3");
    workspace.ok("push tree ./www");
    workspace.remove("tree");
    workspace.ok("push --from ./www ./data").says("2 -> 3");
    assert_eq!(workspace.served("data"), workspace.served("www"));
    workspace.ok("push --from ./data ./www").says("nothing new");
    workspace.ok("verify ./www ./data");
}

#[test]
fn copy_uses_the_site_of_the_source_mirror() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www --site docs");
    workspace.ok("push --from ./www ./data");
    assert_eq!(workspace.json("status ./data", 0)["mirrors"][0]["site"], "docs");
}

#[test]
fn copy_from_a_source_without_a_release_is_missing_content() {
    let workspace = Workspace::with_tree();
    workspace.mkdir("empty");
    for source in ["./tree", "./empty", "./nowhere"] {
        workspace.run(&format!("push --from {source} ./www")).code(8);
        assert!(!workspace.exists("www"), "{source}");
    }
}

#[test]
fn jobs_and_levels_do_not_change_served_content() {
    let workspace = Workspace::with_tree();
    let text = "the same words again and again\n".repeat(5_000);
    workspace.write("tree/words.txt", &text);
    let sent = |mirror: &str, flags: &str| {
        let answer = workspace.json(&format!("push tree ./{mirror} {flags}"), 0);
        assert_eq!(workspace.served(mirror), workspace.files("tree"));
        answer["mirrors"][0]["sent_bytes"].as_u64().unwrap()
    };
    let (raw, three) = (sent("raw", "--level raw --jobs 1"), sent("three", "--level 3 --jobs 4"));
    let best = sent("best", "--level 19 -j 2");
    assert!(raw > text.len() as u64 && three < raw / 10 && best < raw / 10, "{raw} {three} {best}");
    assert_eq!(sent("auto", "--level auto"), raw, "content for a directory is not compressed");
    for bad in ["--level 20", "--level fast", "--jobs 0", "--jobs x"] {
        workspace.run(&format!("push tree ./www {bad}")).code(2);
    }
    for line in
        ["push tree ./www --jobs 0", "push tree ./www --max-parallel 0", "prune ./www --keep 0"]
    {
        workspace.run(line).code(2).warns("at least 1");
    }
}

#[test]
fn cache_avoids_reading_files_and_can_be_lost() {
    let workspace = Workspace::with_tree();
    let hashed = |line: &str| {
        let events = workspace.events(line, 0);
        of_kind(&events, "scan_finished")[0]["hashed_files"].as_u64().unwrap()
    };
    assert_eq!(hashed("push tree ./www --cache ./cache"), 5);
    let caches = workspace.files("cache");
    let stat_cache = caches.keys().find(|path| path.starts_with("stat-cache-")).unwrap().clone();
    let is_kept = |path: &str| {
        path.starts_with("stat-cache-") || path == "lock" || path.starts_with("stores/")
    };
    assert!(caches.keys().all(|path| is_kept(path)), "the push left files behind: {caches:?}");
    // Files written in the second of the scan are read again; older files are not.
    for (path, _) in TREE {
        let file =
            fs::File::options().write(true).open(workspace.path(&format!("tree/{path}"))).unwrap();
        file.set_modified(
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000),
        )
        .unwrap();
    }
    hashed("push tree ./www --cache ./cache");
    workspace.tamper(&format!("cache/{stat_cache}"), "damaged");
    assert_eq!(hashed("push tree ./www --cache ./cache"), 5);
    workspace.remove("cache");
    assert_eq!(hashed("push tree ./www --cache ./cache"), 5);
    assert_eq!(workspace.current("www"), 1);
    workspace.ok("push tree ./www");
    assert!(workspace.exists("home/cache/headwater"), "the default is in the XDG cache");
}

#[test]
fn excluded_paths_are_not_served() {
    let workspace = Workspace::with_tree();
    workspace.write("tree/a.map", "map");
    workspace.write("tree/docs/draft.html", "draft");
    workspace.write("tree/.headwaterignore", "draft.*\n");
    workspace
        .args(&["push", "tree", "./www", "--exclude", "*.map", "--exclude", "/assets/"])
        .code(0);
    let paths: Vec<_> = workspace.served("www").into_keys().collect();
    assert_eq!(paths, ["app.js", "docs/a.html", "index.html"]);
    workspace.run("push tree ./www --exclude [z-a]").code(2);
}

#[test]
fn json_is_one_object_with_an_outcome_per_mirror() {
    let workspace = Workspace::with_tree();
    let answer = workspace.json("push tree ./www ./data", 0);
    assert_eq!(
        (&answer["headwater"], &answer["version"], &answer["exit_code"]),
        (&json!("push"), &json!(1), &json!(0))
    );
    assert_eq!((&answer["site"], &answer["sequence"]), (&json!("default"), &json!(1)));
    assert_eq!(
        answer["changes"],
        json!({
            "added": 5, "changed": 0, "renamed": 0,
            "retired": 0, "still_served": 0, "removed": 0, "same": 0
        })
    );
    for (index, mirror) in ["./www", "./data"].iter().enumerate() {
        let row = &answer["mirrors"][index];
        assert_eq!(
            (&row["mirror"], &row["location"], &row["outcome"]),
            (&json!(mirror), &json!(mirror), &json!("activated"))
        );
        assert_eq!((&row["before"], &row["now"]), (&json!(null), &json!(1)));
    }
}

#[test]
fn quiet_push_prints_nothing_on_success() {
    let workspace = Workspace::with_tree();
    let run = workspace.ok("push tree ./www --quiet");
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    workspace.run("push missing ./www --quiet").code(8).warns("missing");
}

#[test]
fn events_cover_a_push_from_scan_to_activation() {
    let workspace = Workspace::with_tree();
    let events = workspace.events("push tree ./www", 0);
    assert_eq!(
        workspace.read("events.jsonl").lines().next(),
        Some(r#"{"headwater":"events","version":1}"#)
    );
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let order = [
        "scan_started",
        "scan_finished",
        "bundle_started",
        "pack_sealed",
        "pack_sent",
        "staged",
        "activated",
        "pruned",
    ];
    let places: Vec<_> =
        order.iter().map(|kind| kinds.iter().position(|one| one == kind).expect(kind)).collect();
    assert!(places.is_sorted(), "{kinds:?}");
    assert!(events.iter().all(|event| event["time"].as_str().unwrap().ends_with('Z')));
    assert_eq!(
        of_kind(&events, "pack_sealed")[0]["pack"],
        of_kind(&events, "pack_sent")[0]["pack"]
    );
    assert_eq!(of_kind(&events, "activated")[0]["sequence"], 1);
    let again = workspace.events("push tree ./www", 0);
    assert_eq!(
        (of_kind(&again, "pack_sent").len(), of_kind(&again, "already_current").len()),
        (0, 1)
    );
}

#[test]
fn interrupted_push_resumes() {
    let workspace = Workspace::with_tree();
    workspace.write("tree/large.txt", "content\n".repeat(20_000));
    let steps = workspace.run_with(&[("HEADWATER_FAULT", "count")], "push tree ./counted").code(0);
    let steps: u64 = steps
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("steps: "))
        .unwrap()
        .parse()
        .unwrap();
    let mut held = 0;
    // The first steps only create the directories of the store.
    for step in (steps / 2..steps).step_by(5) {
        let mirror = format!("m{step}");
        let kill = format!("kill@{step}");
        workspace.run_with(&[("HEADWATER_FAULT", &kill)], &format!("push tree ./{mirror}"));
        let events = workspace.events(&format!("push tree ./{mirror}"), 0);
        let (sent, kept) =
            (of_kind(&events, "pack_sent").len(), of_kind(&events, "pack_held").len());
        assert!(sent + kept <= 1, "{events:?}");
        held += kept;
        assert_eq!(workspace.served(&mirror), workspace.files("tree"));
    }
    assert!(held > 0, "at least one kill came after the pack arrived");
}

/// A kill between creating and writing the record of a pack leaves it empty.
#[test]
fn empty_pack_record_is_ignored() {
    let workspace = Workspace::with_tree();
    let kill = |step: u64| {
        workspace
            .run_with(&[("HEADWATER_FAULT", &format!("kill@{step}"))], "push tree ./www")
            .code(-1)
    };
    let steps = workspace.run_with(&[("HEADWATER_FAULT", "count")], "push tree ./counted").code(0);
    let steps: u64 = steps
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("steps: "))
        .unwrap()
        .parse()
        .unwrap();
    let held = |step: &u64| {
        if workspace.exists("www") {
            workspace.remove("www");
        }
        kill(*step);
        workspace.inside("www", "incoming/").into_iter().find(|path| path.contains("/held/"))
    };
    // The pack arrives after about two thirds of the steps, and stays until it is used.
    let record = (steps / 2..steps).find_map(|step| held(&step)).unwrap();
    workspace.chmod(&record, 0o644);
    workspace.write(&record, "");
    workspace.ok("push tree ./www");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn three_releases_and_their_objects_are_kept() {
    let workspace = Workspace::with_tree();
    for number in 1..=8 {
        workspace.write("tree/index.html", format!("version {number}"));
        workspace.ok("push tree ./www");
    }
    let kept: Vec<u64> =
        workspace.releases("./www").iter().map(|one| one["sequence"].as_u64().unwrap()).collect();
    assert_eq!(kept, [6, 7, 8]);
    assert!(
        !workspace.exists(&workspace.object("www", "version 5"))
            && workspace.exists(&workspace.object("www", "version 6"))
    );
    assert_eq!(workspace.inside("www", "objects/").len(), 4 + 3);
    assert_eq!(workspace.inside("www", "manifests/").len(), 3);
    assert!(
        workspace.inside("www", "incoming/").iter().all(|path| path.ends_with("/lock")),
        "{:?}",
        workspace.inside("www", "incoming/")
    );
}
