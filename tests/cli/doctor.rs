//! `headwater doctor`.

use std::io::{BufRead as _, BufReader};
use std::process::Child;

use serde_json::{Value, json};

use crate::harness::World;

/// Returns the only line of a mirror in the output of `doctor`, with its hint.
fn line_of(output: &str, mirror: &str) -> String {
    let prefix = format!("{mirror}: ");
    let mut lines = output.lines().skip_while(|line| !line.starts_with(&prefix)).peekable();
    let first = lines.next().unwrap_or_else(|| panic!("{mirror}: {output}"));
    let hint = lines.next_if(|line| line.starts_with("  hint: "));
    assert!(!lines.any(|line| line.starts_with(&prefix)), "{mirror}: {output}");
    first.to_owned() + hint.unwrap_or_default()
}

#[test]
fn each_mirror_has_a_line_and_nothing_changes() {
    let world = World::with_mirror();
    world.mkdir("empty");
    let away = "[[mirror]]\nname='away'\nurl='http://127.0.0.1:1/docs'\n";
    let unset =
        "[[mirror]]\nname='secret'\nurl='https://127.0.0.1:1/docs'\ntoken_env='NO_SUCH_TOKEN'\n";
    let mirror = |name: &str, url: &str| format!("[[mirror]]\nname='{name}'\nurl='{url}'\n");
    let here = [mirror("www", "./www"), mirror("new", "./new"), mirror("lost", "./no/such/place")]
        .concat();
    world.write("headwater.toml", format!("content='tree'\n{here}{away}{unset}"));
    let before = world.snapshot("www");
    let run = world.run("doctor").code(1);
    let line = |name: &str| line_of(&run.stdout, name);
    let www = line("www");
    assert!(
        www.contains("ok: serves release 1 of site default") && www.contains("writable, "),
        "{www}"
    );
    assert!(line("new").contains(
        "ok: empty: the first push fills it, the directory does not exist yet, writable, "
    ));
    assert!(line("lost").contains("FAILED") && line("lost").contains("hint: "));
    assert!(
        line("away").contains("FAILED: it cannot be reached")
            && line("away").contains("receiver runs")
    );
    assert!(line("secret").contains("NO_SUCH_TOKEN: this variable is not set"));
    assert_eq!(run.stderr, "");
    assert_eq!((world.snapshot("www"), world.exists("new")), (before, false));
    world.ok("doctor www new");
    assert_eq!(world.ok("doctor www --quiet").stdout, "");
    let answer = world.json("doctor", 1);
    assert_eq!(answer["mirrors"][3]["is_ok"], false);
    assert!(answer["mirrors"][3]["problems"][0]["hint"].is_string(), "{answer}");
}

#[test]
fn mirror_that_lost_its_store_is_reported_before_a_push() {
    let world = World::with_mirror();
    world.remove("www");
    world
        .run("doctor ./www")
        .code(1)
        .says("./www: FAILED: it has no store now, but headwater remembers")
        .says("--init");
    world.run("push tree ./www").code(4).warns("it has no store now, but headwater remembers");
    world.ok("push tree ./www --init");
    world.ok("doctor ./www");
}

#[test]
fn ssh_mirror_has_no_token_check() {
    let world = World::with_mirror();
    let receiver = format!(
        "exec '{}' receive '{}'",
        env!("CARGO_BIN_EXE_headwater"),
        world.path("www").display()
    );
    world.write("ssh.sh", receiver);
    let url = format!("ssh://edge1{}", world.path("www").display());
    let run = world
        .args(&["doctor", &url, "--ssh-command", "sh ssh.sh"])
        .code(0)
        .says("ssh lets this user push");
    assert!(!run.stdout.contains("token"), "{}", run.stdout);
}

#[cfg(debug_assertions)]
#[test]
fn clock_difference_is_a_warning_and_not_a_failure() {
    let world = World::with_mirror();
    let receiver = format!(
        "exec '{}' receive '{}'",
        env!("CARGO_BIN_EXE_headwater"),
        world.path("www").display()
    );
    world.write("ssh.sh", receiver);
    let command =
        format!("doctor ssh://edge1{} --ssh-command ./ssh.sh", world.path("www").display());
    world.chmod("ssh.sh", 0o755);
    world.write("ssh.sh", format!("#!/bin/sh\n{}", world.read("ssh.sh")));
    let run = world.run_with(&[("HEADWATER_FAULT", "clock+3600")], &command).code(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", run.stdout);
    assert!(lines[0].contains(": ok: serves release 1"), "{}", run.stdout);
    assert!(
        lines[1].contains(": warning: the clock of the mirror differs from this clock by 3"),
        "{}",
        run.stdout
    );
    assert!(lines[2].starts_with("  hint: set both clocks by NTP"), "{}", run.stdout);
    world.ok(&command).says("ok: serves release 1");
}

#[test]
fn token_file_readable_by_others_causes_one_warning() {
    let world = World::new();
    world.write("token", "hw_canary");
    world.chmod("token", 0o644);
    let run =
        world.run("doctor https://127.0.0.1:1/a https://127.0.0.1:1/b --token-file token").code(1);
    assert_eq!(
        run.stderr.matches("every user of this machine can read").count(),
        1,
        "{}",
        run.stderr
    );
}

#[test]
fn mirror_of_another_site_is_reported_before_a_push() {
    let world = World::with_mirror();
    world.run("doctor ./www --site docs").code(1).says("FAILED").says("--site");
}

/// A receiver that requires tokens. Dropping it stops it.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Writes the files `push`, `read` and `stray` with one token each. Returns the flag of a receiver
/// that knows the first two.
fn make_tokens(world: &World) -> &'static str {
    let token = |name: &str, right: &str| {
        let made = world.ok(&format!("token new --site docs --allow {right}"));
        world.write(name, &made.stdout);
        world.chmod(name, 0o600);
        made.stderr
    };
    token("stray", "push");
    let known = token("push", "push") + &token("read", "read");
    world.write("tokens.toml", known);
    "--token-file tokens.toml"
}

/// Starts a receiver of the site docs; returns it with its URL.
fn receiver(world: &World, directory: &str, flag: &str) -> (Receiver, String) {
    let mut child =
        world.start(&format!("serve ./{directory} --site docs --listen 127.0.0.1:0 {flag}"));
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
    std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
    (Receiver(child), format!("http://{}/", first["address"].as_str().unwrap()))
}

#[test]
fn read_only_token_unknown_token_and_wrong_site_are_reported() {
    let world = World::with_tree();
    let flag = make_tokens(&world);
    let names = ["push", "read", "stray"];
    let receivers = names.map(|name| receiver(&world, &format!("web-{name}"), flag));
    let mirror = |(name, (_, url)): (&str, &(Receiver, String))| {
        format!("[[mirror]]\nname='{name}'\nurl='{url}'\ntoken_file='{name}'\n")
    };
    let mirrors: String = names.into_iter().zip(&receivers).map(mirror).collect();
    world.write("headwater.toml", format!("content='tree'\nsite='docs'\n{mirrors}"));
    for is_published in [false, true] {
        if is_published {
            world.ok("push --only push");
        }
        let run = world.run("doctor").code(1);
        let line = |name: &str| line_of(&run.stdout, name);
        let serves = if is_published { "serves release 1 of site docs" } else { "empty: " };
        assert!(
            line("push").contains(&format!("ok: {serves}"))
                && line("push").contains("the token may push")
        );
        let read = line("read");
        assert!(
            read.contains("FAILED: the token may only read") && read.contains("--allow push"),
            "{read}"
        );
        let stray = line("stray");
        assert!(stray.contains("FAILED") && stray.contains("HEADWATER_TOKEN"), "{stray}");
        let answer = world.json("doctor", 1);
        assert_eq!(
            [0, 1, 2].map(|index| &answer["mirrors"][index]["is_ok"]),
            [&json!(true), &json!(false), &json!(false)]
        );
        world.ok("doctor push");
        // The receiver has the site docs.
        let run =
            world.run("doctor push --site blog").code(1).says("push: FAILED: ").says("\"docs\"");
        assert!(run.stdout.contains("--site"), "{}", run.stdout);
    }
    // No token appears in the output.
    let secrets = names.map(|name| world.read(name).trim().to_owned());
    let shown = world.run("doctor --verbose").code(1);
    assert!(
        !secrets
            .iter()
            .any(|secret| (shown.stdout.clone() + &shown.stderr).contains(secret.as_str()))
    );
}

#[test]
fn wrong_receiver_path_names_only_the_sites_of_the_token() {
    let world = World::with_tree();
    let sites = "[[site]]\nname = 'docs'\ndir = 'docs'\n[[site]]\nname = 'blog'\ndir = 'blog'\n";
    let receiver = crate::receiver::Receiver::start(&world, sites);
    let wrong = receiver.mirror("http").replace("/docs", "/dosc");
    world.write("headwater.toml", &wrong);
    let run = world.run("doctor").code(1).says("no site is served at this path");
    assert!(run.stdout.contains("this token is for /docs/"), "{}", run.stdout);
    assert!(run.stdout.contains("hint: check that the path of the URL"), "{}", run.stdout);
    assert!(!run.stdout.contains("blog"), "{}", run.stdout);
    // Without a valid token nothing is disclosed.
    world.write("headwater.toml", wrong.replace("token_file = 'token'\n", ""));
    let stranger = world.ok("token new --site docs --allow push").stdout;
    for token in ["", stranger.trim()] {
        let run = world.run_with(&[("HEADWATER_TOKEN", token)], "doctor").code(1);
        assert!(run.stdout.contains("no site is served at this path"), "{}", run.stdout);
        assert!(!run.stdout.contains("/docs/ "), "{}", run.stdout);
        assert!(!run.stdout.contains("this token is for"), "{}", run.stdout);
    }
}
