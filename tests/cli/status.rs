//! `headwater status`.

use serde_json::json;

use crate::harness::{Workspace, column};

#[test]
fn current_mirror_is_healthy() {
    let workspace = Workspace::with_mirror();
    workspace.ok("status ./www").says("1 of 1 mirror current").says("just now");
    let row = workspace.json("status ./www", 0)["mirrors"][0].clone();
    assert_eq!(
        (&row["state"], &row["sequence"], &row["entries"]),
        (&json!("current"), &json!(1), &json!(5))
    );
    assert_eq!((&row["behind"], &row["lag"]), (&json!(0), &json!(0)));
    assert_eq!(row["release"].as_str().unwrap().len(), 64);
    assert!(row["free_bytes"].as_u64().is_some());
}

#[test]
fn worst_mirror_is_listed_first() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www ./old");
    for number in [2, 3] {
        workspace.write("tree/index.html", number.to_string());
        workspace.ok("push tree ./www");
    }
    workspace.write("file", "");
    workspace.mkdir("empty");
    let run =
        workspace.run("status ./www ./empty ./old ./file").code(1).says("1 of 4 mirrors current");
    assert!(run.stdout.contains("not a directory"));
    let rows = workspace.json("status ./www ./empty ./old ./file", 1)["mirrors"].clone();
    assert_eq!(column(&rows, "state"), ["unknown", "behind", "joining", "current"]);
    assert_eq!(column(&rows, "mirror"), ["./file", "./old", "./empty", "./www"]);
    assert_eq!(rows[1]["behind"], 2);
}

#[test]
fn two_releases_of_one_sequence_are_shown_as_diverged() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/index.html", "other");
    workspace.ok("push tree ./data");
    let rows = workspace.json("status ./www ./data", 1)["mirrors"].clone();
    assert_eq!(column(&rows, "state"), ["diverged", "current"]);
    // With `--new-history`, a push to both mirrors makes them equal again.
    workspace.run("push tree ./www ./data").code(5).warns("different histories");
    workspace.ok("push tree ./www ./data --new-history");
    workspace.ok("status ./www ./data");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn status_changes_nothing() {
    let workspace = Workspace::with_mirror();
    workspace.mkdir("empty");
    let before = workspace.fingerprint("");
    workspace.ok("status ./www");
    workspace.ok("releases ./www");
    workspace.run("status ./empty").code(1).says("joining");
    workspace.run("status ./nowhere").code(2).warns("./nowhere does not exist");
    assert_eq!(workspace.fingerprint(""), before);
}

#[test]
fn status_polls_all_configured_mirrors_by_default() {
    let workspace = Workspace::with_tree();
    workspace.write(
        "headwater.toml",
        "content = 'tree'\n[[mirror]]\nname='eu'\nurl='www'\n[[mirror]]\nname='us'\nurl='data'\n",
    );
    workspace.ok("push");
    let rows = workspace.json("status", 0)["mirrors"].clone();
    assert_eq!(column(&rows, "mirror"), ["eu", "us"]);
    assert_eq!(column(&workspace.json("status us", 0)["mirrors"], "location"), ["./data"]);
    workspace.run("status asia").code(2).warns("name a configured mirror (eu, us)");
    workspace.remove("headwater.toml");
    workspace.run("status").code(2).warns("headwater init");
}

#[test]
fn check_prints_one_line_with_plugin_metrics_and_exit_code() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www ./old");
    workspace
        .run("status ./www ./old --check")
        .code(0)
        .says("HEADWATER OK - 2 of 2 mirrors current | lag=0s;3600;86400;0");
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www");
    let line = "status ./www ./old --check";
    // Even on a slow machine, the lag is more than zero and less than a day.
    workspace.run(&format!("{line} --warn 1d --crit 2d")).code(0).says("behind=1;;;0");
    let mut run = workspace.run(&format!("{line} --warn 0s --crit 1d"));
    while run.stdout.contains(" OK ") {
        run = workspace.run(&format!("{line} --warn 0s --crit 1d"));
    }
    run.code(1).says("HEADWATER WARNING - 1 of 2 mirrors current, ./old behind by");
    let run = workspace.run(&format!("{line} --warn 0s --crit 0s")).code(2);
    assert_eq!(run.stdout.lines().count(), 1);
    workspace.write("file", "");
    workspace
        .run("status ./www ./file --check")
        .code(1)
        .says("./file unknown")
        .says("unknown=1;;;0");
    workspace
        .run("status ./file --check")
        .code(3)
        .says("HEADWATER UNKNOWN - 0 of 1 mirror current");
    workspace.run("status --check").code(3).says("HEADWATER UNKNOWN - no mirror is named");
    workspace.run("status ./www --check --warn soon").code(2).warns("--warn");
}

#[test]
fn status_shows_the_last_activation_and_verification() {
    let workspace = Workspace::with_mirror();
    let row = || workspace.json("status ./www", 0)["mirrors"][0].clone();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(row()["switched"].as_u64().unwrap().abs_diff(now) < 600);
    assert_eq!(row()["verified"], json!(null));
    workspace.ok("verify ./www --quick");
    assert_eq!(
        (&row()["verified"]["quick"], &row()["verified"]["faults"]),
        (&json!(true), &json!(0))
    );
    workspace.tamper("www/current/index.html", "by hand");
    workspace.run("verify ./www").code(1);
    assert!(row()["verified"]["faults"].as_u64().unwrap() > 0);
    workspace.run("status ./www --check").code(1).says("./www has");
    workspace.ok("repair ./www --from tree");
    assert_eq!(row()["verified"]["faults"], 0);
    // A record that cannot be read changes nothing else.
    workspace.write("www/.headwater/events.jsonl", "\u{0}rubbish\n{\"time\":");
    assert_eq!((&row()["state"], &row()["switched"]), (&json!("current"), &json!(null)));
    workspace.write("tree/index.html", "after");
    workspace.ok("push tree ./www");
    assert!(row()["switched"].as_u64().is_some());
}

#[test]
fn watch_polls_until_terminated() {
    let workspace = Workspace::with_mirror();
    let mut child = workspace.start("status ./www --watch=1ms");
    let mut looks = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for _ in 0..3 {
        assert!(looks.any(|line| line.unwrap().contains("1 of 1 mirror current")));
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    looks.by_ref().map_while(Result::ok).for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    workspace.run("status ./www --watch 5").code(2);
}

/// Starts a receiver with the sites `names`, below the workspace; returns its URL and the handle
/// that stops it.
fn receiver(
    workspace: &Workspace,
    names: &[String],
    tokens: &str,
) -> (std::process::Child, String) {
    let tables: String =
        names.iter().map(|name| format!("[[site]]\nname='{name}'\ndir='{name}'\n")).collect();
    let file = format!("{}.toml", names[0]);
    let of_these = tokens.lines().find(|line| line.starts_with("sites")).unwrap();
    let sites: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let tokens = tokens.replace(of_these, &format!("sites = [{}]", sites.join(",")));
    workspace.write(&file, format!("listen='127.0.0.1:0'\n{tables}{tokens}"));
    let mut child = workspace.start(&format!("serve --config {file}"));
    let mut log = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let first: serde_json::Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
    std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
    (child, format!("http://{}", first["address"].as_str().unwrap()))
}

#[test]
#[ignore = "a figure, of a machine that does nothing else"]
fn status_of_a_hundred_mirrors_takes_less_than_a_second() {
    let workspace = Workspace::with_tree();
    let names: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    let token = workspace.ok("token new --site m0 --allow push");
    let mut config = String::new();
    let mut receivers = Vec::new();
    // One receiver accepts 64 connections at once.
    for names in names.chunks(25) {
        let (child, url) = receiver(&workspace, names, &token.stderr);
        config.extend(
            names
                .iter()
                .map(|name| format!("[[mirror]]\nname='{name}-http'\nurl='{url}/{name}'\n")),
        );
        receivers.push(child);
    }
    names
        .iter()
        .for_each(|name| drop(workspace.ok(&format!("push tree ./{name} --site {name} --quiet"))));
    workspace.write("headwater.toml", config);
    let began = std::time::Instant::now();
    workspace
        .run_with(&[("HEADWATER_TOKEN", token.stdout.trim())], "status")
        .code(0)
        .says("100 of 100 mirrors current");
    let took = began.elapsed();
    for mut receiver in receivers {
        receiver.kill().unwrap();
        receiver.wait().unwrap();
    }
    println!("100 mirrors over HTTP: {took:?}");
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}

#[test]
fn status_fits_80_columns() {
    let workspace = Workspace::with_tree();
    let names = ["edge-fra-001", "edge-lon-001", "hub-east"];
    let mirror = |name: &str| format!("[[mirror]]\nname='{name}'\nurl='./{name}'\n");
    workspace.write("headwater.toml", format!("content='tree'\n{}", names.map(mirror).concat()));
    workspace.ok("push");
    let shown = |columns, line: &str| workspace.on_terminal(columns, line).end().lines;
    let lines = shown(80, "status");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("published")) && !lines.concat().contains("response"),
        "{lines:?}"
    );
    assert!(shown(80, "status --wide").concat().contains("response"));
    assert!(shown(200, "status").concat().contains("response"));
    // A pipe has no width.
    workspace.ok("status").says("response");
}

#[test]
fn disk_flag_shows_the_usage_of_each_mirror() {
    let workspace = Workspace::with_mirror();
    let bytes: usize = workspace.files("tree").values().map(String::len).sum();
    workspace.ok("status ./www --disk").says("disk").says(&format!("{bytes} B"));
    assert_eq!(workspace.json("status ./www --disk", 0)["mirrors"][0]["usage"]["bytes"], bytes);
    assert!(workspace.json("status ./www", 0)["mirrors"][0]["usage"].is_null());
    assert!(!workspace.ok("status ./www").stdout.contains("disk"));
}
