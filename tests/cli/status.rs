//! `headwater status`.

use serde_json::json;

use crate::harness::{World, column};

#[test]
fn current_mirror_is_healthy() {
    let world = World::with_mirror();
    world.ok("status ./www").says("1 of 1 mirror current").says("just now");
    let row = world.json("status ./www", 0)["mirrors"][0].clone();
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
    let world = World::with_tree();
    world.ok("push tree ./www ./old");
    for number in [2, 3] {
        world.write("tree/index.html", number.to_string());
        world.ok("push tree ./www");
    }
    world.write("file", "");
    world.mkdir("empty");
    let run = world.run("status ./www ./empty ./old ./file").code(1).says("1 of 4 mirrors current");
    assert!(run.stdout.contains("not a directory"));
    let rows = world.json("status ./www ./empty ./old ./file", 1)["mirrors"].clone();
    assert_eq!(column(&rows, "state"), ["unknown", "behind", "joining", "current"]);
    assert_eq!(column(&rows, "mirror"), ["./file", "./old", "./empty", "./www"]);
    assert_eq!(rows[1]["behind"], 2);
}

#[test]
fn two_releases_of_one_sequence_are_shown_as_diverged() {
    let world = World::with_mirror();
    world.write("tree/index.html", "other");
    world.ok("push tree ./data");
    let rows = world.json("status ./www ./data", 1)["mirrors"].clone();
    assert_eq!(column(&rows, "state"), ["diverged", "current"]);
    // With `--new-history`, a push to both mirrors makes them equal again.
    world.run("push tree ./www ./data").code(5).warns("different histories");
    world.ok("push tree ./www ./data --new-history");
    world.ok("status ./www ./data");
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn status_changes_nothing() {
    let world = World::with_mirror();
    world.mkdir("empty");
    let before = world.snapshot("");
    world.ok("status ./www");
    world.ok("releases ./www");
    world.run("status ./empty").code(1).says("joining");
    world.run("status ./nowhere").code(2).warns("./nowhere does not exist");
    assert_eq!(world.snapshot(""), before);
}

#[test]
fn status_polls_all_configured_mirrors_by_default() {
    let world = World::with_tree();
    world.write(
        "headwater.toml",
        "content = 'tree'\n[[mirror]]\nname='eu'\nurl='www'\n[[mirror]]\nname='us'\nurl='data'\n",
    );
    world.ok("push");
    let rows = world.json("status", 0)["mirrors"].clone();
    assert_eq!(column(&rows, "mirror"), ["eu", "us"]);
    assert_eq!(column(&world.json("status us", 0)["mirrors"], "location"), ["./data"]);
    world.run("status asia").code(2).warns("name a configured mirror (eu, us)");
    world.remove("headwater.toml");
    world.run("status").code(2).warns("headwater init");
}

#[test]
fn check_prints_one_line_with_plugin_metrics_and_exit_code() {
    let world = World::with_tree();
    world.ok("push tree ./www ./old");
    world
        .run("status ./www ./old --check")
        .code(0)
        .says("HEADWATER OK - 2 of 2 mirrors current | lag=0s;3600;86400;0");
    world.write("tree/index.html", "2");
    world.ok("push tree ./www");
    let line = "status ./www ./old --check";
    // Even on a slow machine, the lag is more than zero and less than a day.
    world.run(&format!("{line} --warn 1d --crit 2d")).code(0).says("behind=1;;;0");
    let mut run = world.run(&format!("{line} --warn 0s --crit 1d"));
    while run.stdout.contains(" OK ") {
        run = world.run(&format!("{line} --warn 0s --crit 1d"));
    }
    run.code(1).says("HEADWATER WARNING - 1 of 2 mirrors current, ./old behind by");
    let run = world.run(&format!("{line} --warn 0s --crit 0s")).code(2);
    assert_eq!(run.stdout.lines().count(), 1);
    world.write("file", "");
    world.run("status ./www ./file --check").code(1).says("./file unknown").says("unknown=1;;;0");
    world.run("status ./file --check").code(3).says("HEADWATER UNKNOWN - 0 of 1 mirror current");
    world.run("status --check").code(3).says("HEADWATER UNKNOWN - no mirror is named");
    world.run("status ./www --check --warn soon").code(2).warns("--warn");
}

#[test]
fn status_shows_the_last_activation_and_verification() {
    let world = World::with_mirror();
    let row = || world.json("status ./www", 0)["mirrors"][0].clone();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(row()["switched"].as_u64().unwrap().abs_diff(now) < 600);
    assert_eq!(row()["verified"], json!(null));
    world.ok("verify ./www --quick");
    assert_eq!(
        (&row()["verified"]["quick"], &row()["verified"]["faults"]),
        (&json!(true), &json!(0))
    );
    world.tamper("www/current/index.html", "by hand");
    world.run("verify ./www").code(1);
    assert!(row()["verified"]["faults"].as_u64().unwrap() > 0);
    world.run("status ./www --check").code(1).says("./www has");
    world.ok("repair ./www --from tree");
    assert_eq!(row()["verified"]["faults"], 0);
    // A record that cannot be read changes nothing else.
    world.write("www/.headwater/events.jsonl", "\u{0}rubbish\n{\"time\":");
    assert_eq!((&row()["state"], &row()["switched"]), (&json!("current"), &json!(null)));
    world.write("tree/index.html", "after");
    world.ok("push tree ./www");
    assert!(row()["switched"].as_u64().is_some());
}

#[test]
fn watch_polls_until_terminated() {
    let world = World::with_mirror();
    let mut child = world.start("status ./www --watch=1ms");
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
    world.run("status ./www --watch 5").code(2);
}

/// Starts a receiver with the sites `names`, below the workspace; returns its URL and the handle
/// that stops it.
fn receiver(world: &World, names: &[String], tokens: &str) -> (std::process::Child, String) {
    let tables: String =
        names.iter().map(|name| format!("[[site]]\nname='{name}'\ndir='{name}'\n")).collect();
    let file = format!("{}.toml", names[0]);
    let of_these = tokens.lines().find(|line| line.starts_with("sites")).unwrap();
    let sites: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let tokens = tokens.replace(of_these, &format!("sites = [{}]", sites.join(",")));
    world.write(&file, format!("listen='127.0.0.1:0'\n{tables}{tokens}"));
    let mut child = world.start(&format!("serve --config {file}"));
    let mut log = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let first: serde_json::Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
    std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
    (child, format!("http://{}", first["address"].as_str().unwrap()))
}

#[test]
#[ignore = "a figure, of a machine that does nothing else"]
fn status_of_a_hundred_mirrors_takes_less_than_a_second() {
    let world = World::with_tree();
    let names: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    let token = world.ok("token new --site m0 --allow push");
    let mut config = String::new();
    let mut receivers = Vec::new();
    // One receiver accepts 64 connections at once.
    for names in names.chunks(25) {
        let (child, url) = receiver(&world, names, &token.stderr);
        config.extend(
            names
                .iter()
                .map(|name| format!("[[mirror]]\nname='{name}-http'\nurl='{url}/{name}'\n")),
        );
        receivers.push(child);
    }
    names
        .iter()
        .for_each(|name| drop(world.ok(&format!("push tree ./{name} --site {name} --quiet"))));
    world.write("headwater.toml", config);
    let began = std::time::Instant::now();
    world
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
    let world = World::with_tree();
    let names = ["edge-fra-001", "edge-lon-001", "hub-east"];
    let mirror = |name: &str| format!("[[mirror]]\nname='{name}'\nurl='./{name}'\n");
    world.write("headwater.toml", format!("content='tree'\n{}", names.map(mirror).concat()));
    world.ok("push");
    let shown = |columns, line: &str| world.on_terminal(columns, line).end().lines;
    let lines = shown(80, "status");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("published")) && !lines.concat().contains("response"),
        "{lines:?}"
    );
    assert!(shown(80, "status --wide").concat().contains("response"));
    assert!(shown(200, "status").concat().contains("response"));
    // A pipe has no width.
    world.ok("status").says("response");
}

#[test]
fn disk_flag_shows_the_usage_of_each_mirror() {
    let world = World::with_mirror();
    let bytes: usize = world.files("tree").values().map(String::len).sum();
    world.ok("status ./www --disk").says("disk").says(&format!("{bytes} B"));
    assert_eq!(world.json("status ./www --disk", 0)["mirrors"][0]["usage"]["bytes"], bytes);
    assert!(world.json("status ./www", 0)["mirrors"][0]["usage"].is_null());
    assert!(!world.ok("status ./www").stdout.contains("disk"));
}
