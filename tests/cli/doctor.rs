//! `headwater doctor`.

use std::io::{BufRead as _, BufReader};
use std::process::Child;

use serde_json::{Value, json};

use crate::harness::Workspace;

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
    let workspace = Workspace::with_mirror();
    workspace.mkdir("empty");
    let away = "[[mirror]]\nname='away'\nurl='http://127.0.0.1:1/docs'\n";
    let unset =
        "[[mirror]]\nname='secret'\nurl='https://127.0.0.1:1/docs'\ntoken_env='NO_SUCH_TOKEN'\n";
    let mirror = |name: &str, url: &str| format!("[[mirror]]\nname='{name}'\nurl='{url}'\n");
    let here = [mirror("www", "./www"), mirror("new", "./new"), mirror("lost", "./no/such/place")]
        .concat();
    workspace.write("headwater.toml", format!("content='tree'\n{here}{away}{unset}"));
    let before = workspace.fingerprint("www");
    let run = workspace.run("doctor").code(1);
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
            && line("away").contains("receiver is running")
    );
    assert!(line("secret").contains("NO_SUCH_TOKEN: this variable is not set"));
    assert_eq!(run.stderr, "");
    assert_eq!((workspace.fingerprint("www"), workspace.exists("new")), (before, false));
    workspace.ok("doctor www new");
    assert_eq!(workspace.ok("doctor www --quiet").stdout, "");
    let answer = workspace.json("doctor", 1);
    assert_eq!(answer["mirrors"][3]["is_ok"], false);
    assert!(answer["mirrors"][3]["problems"][0]["hint"].is_string(), "{answer}");
}

#[test]
fn mirror_that_lost_its_store_is_reported_before_a_push() {
    let workspace = Workspace::with_mirror();
    workspace.remove("www");
    workspace
        .run("doctor ./www")
        .code(1)
        .says("./www: FAILED: it has no store now, but headwater remembers")
        .says("--init");
    workspace.run("push tree ./www").code(4).warns("it has no store now, but headwater remembers");
    workspace.ok("push tree ./www --init");
    workspace.ok("doctor ./www");
}

#[test]
fn ssh_mirror_has_no_token_check() {
    let workspace = Workspace::with_mirror();
    let receiver = format!(
        "exec '{}' receive '{}'",
        env!("CARGO_BIN_EXE_headwater"),
        workspace.path("www").display()
    );
    workspace.write("ssh.sh", receiver);
    let url = format!("ssh://edge1{}", workspace.path("www").display());
    let run = workspace
        .args(&["doctor", &url, "--ssh-command", "sh ssh.sh"])
        .code(0)
        .says("ssh lets this user push");
    assert!(!run.stdout.contains("token"), "{}", run.stdout);
}

#[cfg(debug_assertions)]
#[test]
fn clock_difference_is_a_warning_and_not_a_failure() {
    let workspace = Workspace::with_mirror();
    let receiver = format!(
        "exec '{}' receive '{}'",
        env!("CARGO_BIN_EXE_headwater"),
        workspace.path("www").display()
    );
    workspace.write("ssh.sh", receiver);
    let command =
        format!("doctor ssh://edge1{} --ssh-command ./ssh.sh", workspace.path("www").display());
    workspace.chmod("ssh.sh", 0o755);
    workspace.write("ssh.sh", format!("#!/bin/sh\n{}", workspace.read("ssh.sh")));
    let run = workspace.run_with(&[("HEADWATER_FAULT", "clock+3600")], &command).code(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", run.stdout);
    assert!(lines[0].contains(": ok: serves release 1"), "{}", run.stdout);
    assert!(
        lines[1].contains(": warning: the mirror's clock differs from this machine's clock by 3"),
        "{}",
        run.stdout
    );
    assert!(lines[2].starts_with("  hint: set both clocks with NTP"), "{}", run.stdout);
    workspace.ok(&command).says("ok: serves release 1");
}

#[test]
fn token_file_readable_by_others_causes_one_warning() {
    let workspace = Workspace::new();
    workspace.write("token", "hw_canary");
    workspace.chmod("token", 0o644);
    let run = workspace
        .run("doctor https://127.0.0.1:1/a https://127.0.0.1:1/b --token-file token")
        .code(1);
    assert_eq!(
        run.stderr.matches("every user on this machine can read").count(),
        1,
        "{}",
        run.stderr
    );
}

#[test]
fn mirror_of_another_site_is_reported_before_a_push() {
    let workspace = Workspace::with_mirror();
    workspace.run("doctor ./www --site docs").code(1).says("FAILED").says("--site");
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
fn make_tokens(workspace: &Workspace) -> &'static str {
    let token = |name: &str, right: &str| {
        let made = workspace.ok(&format!("token new --site docs --allow {right}"));
        workspace.write(name, &made.stdout);
        workspace.chmod(name, 0o600);
        made.stderr
    };
    token("stray", "push");
    let known = token("push", "push") + &token("read", "read");
    workspace.write("tokens.toml", known);
    "--token-file tokens.toml"
}

/// Starts a receiver of the site docs; returns it with its URL.
fn receiver(workspace: &Workspace, directory: &str, flag: &str) -> (Receiver, String) {
    let mut child =
        workspace.start(&format!("serve ./{directory} --site docs --listen 127.0.0.1:0 {flag}"));
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
    std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
    (Receiver(child), format!("http://{}/", first["address"].as_str().unwrap()))
}

#[test]
fn read_only_token_unknown_token_and_wrong_site_are_reported() {
    let workspace = Workspace::with_tree();
    let flag = make_tokens(&workspace);
    let names = ["push", "read", "stray"];
    let receivers = names.map(|name| receiver(&workspace, &format!("web-{name}"), flag));
    let mirror = |(name, (_, url)): (&str, &(Receiver, String))| {
        format!("[[mirror]]\nname='{name}'\nurl='{url}'\ntoken_file='{name}'\n")
    };
    let mirrors: String = names.into_iter().zip(&receivers).map(mirror).collect();
    workspace.write("headwater.toml", format!("content='tree'\nsite='docs'\n{mirrors}"));
    for is_published in [false, true] {
        if is_published {
            workspace.ok("push --only push");
        }
        let run = workspace.run("doctor").code(1);
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
        let answer = workspace.json("doctor", 1);
        assert_eq!(
            [0, 1, 2].map(|index| &answer["mirrors"][index]["is_ok"]),
            [&json!(true), &json!(false), &json!(false)]
        );
        workspace.ok("doctor push");
        // The receiver has the site docs.
        let run = workspace
            .run("doctor push --site blog")
            .code(1)
            .says("push: FAILED: ")
            .says("\"docs\"");
        assert!(run.stdout.contains("--site"), "{}", run.stdout);
    }
    // No token appears in the output.
    let secrets = names.map(|name| workspace.read(name).trim().to_owned());
    let shown = workspace.run("doctor --verbose").code(1);
    assert!(
        !secrets
            .iter()
            .any(|secret| (shown.stdout.clone() + &shown.stderr).contains(secret.as_str()))
    );
}

#[test]
fn wrong_receiver_path_names_only_the_sites_of_the_token() {
    let workspace = Workspace::with_tree();
    let sites = "[[site]]\nname = 'docs'\ndir = 'docs'\n[[site]]\nname = 'blog'\ndir = 'blog'\n";
    let receiver = crate::receiver::Receiver::start(&workspace, sites);
    let wrong = receiver.mirror("http").replace("/docs", "/dosc");
    workspace.write("headwater.toml", &wrong);
    let run = workspace.run("doctor").code(1).says("no site is served at this path");
    assert!(run.stdout.contains("this token is for /docs/"), "{}", run.stdout);
    assert!(run.stdout.contains("hint: check that the path in the URL"), "{}", run.stdout);
    assert!(!run.stdout.contains("blog"), "{}", run.stdout);
    // Without a valid token nothing is disclosed.
    workspace.write("headwater.toml", wrong.replace("token_file = 'token'\n", ""));
    let unknown_token = workspace.ok("token new --site docs --allow push").stdout;
    for token in ["", unknown_token.trim()] {
        let run = workspace.run_with(&[("HEADWATER_TOKEN", token)], "doctor").code(1);
        assert!(run.stdout.contains("no site is served at this path"), "{}", run.stdout);
        assert!(!run.stdout.contains("/docs/ "), "{}", run.stdout);
        assert!(!run.stdout.contains("this token is for"), "{}", run.stdout);
    }
}
