//! Behaviour of all subcommands: help, completions, manual pages, exit codes for wrong usage,
//! colour.

use crate::harness::{Run, Workspace};

const COMMANDS: [&str; 15] = [
    "push",
    "plan",
    "diff",
    "status",
    "releases",
    "rollback",
    "verify",
    "repair",
    "prune",
    "serve",
    "receive",
    "token",
    "init",
    "completions",
    "man",
];

#[test]
fn help_lists_every_command_an_example_and_the_exit_codes() {
    let workspace = Workspace::new();
    let run = workspace.ok("--help").says("Exit codes").says("130");
    assert!(
        COMMANDS.iter().all(|command| run.stdout.contains(&format!("\n  {command} "))),
        "{}",
        run.stdout
    );
    for code in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130] {
        assert!(run.stdout.contains(&format!("\n  {code:>3}  ")), "{code}");
    }
    for command in COMMANDS {
        workspace
            .ok(&format!("{command} --help"))
            .says("Examples:")
            .says(&format!("headwater {command}"));
        workspace.ok(&format!("help {command}")).says("Examples:");
    }
    workspace.ok("--version").says("headwater 0.");
}

#[test]
fn push_help_lists_every_flag() {
    let help = Workspace::new().ok("push --help").stdout;
    for flag in [
        "--site",
        "--note",
        "--order",
        "--allow-older",
        "--again",
        "--superseded-ok",
        "--allow-shrink",
        "--keep-removed",
        "--expunge",
        "--require",
        "--jobs",
        "--wait",
        "--cache",
        "--json",
        "--quiet",
        "--events",
        "--from",
        "--config",
        "--exclude",
        "--allow-secrets",
        "--level",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}

#[test]
fn unwritable_result_names_its_destination() {
    let workspace = Workspace::with_mirror();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = workspace.command(&["status", "./www"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.starts_with("error: cannot write to stdout: No space left on device"),
        "{stderr}"
    );
}

#[test]
fn completions_exist_for_every_shell() {
    let workspace = Workspace::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        workspace.ok(&format!("completions {shell}")).says("rollback").says("superseded-ok");
    }
    workspace.run("completions tcsh").code(2);
}

#[test]
fn manual_has_a_page_for_each_command() {
    let workspace = Workspace::new();
    workspace.ok("man").says(".TH headwater").says("Exit codes").says("130");
    workspace.ok("man ./man1");
    assert!(workspace.exists("man1/headwater.1"));
    for command in COMMANDS {
        assert!(workspace.read(&format!("man1/headwater-{command}.1")).contains(command));
    }
}

#[test]
fn usage_error_exits_2_and_changes_nothing() {
    let workspace = Workspace::with_tree();
    let before = workspace.fingerprint("");
    for line in [
        "",
        "psh",
        "push",
        "push tree",
        "push tree www",
        "push tree ./www --frobnicate",
        "push tree ./www --site UPPER",
        "push tree ./www --order 7",
        "push tree ./www --keep-removed soon",
        "push tree ./www --require none",
        "push tree ./www --require 0",
        "push tree http://example.com/x",
        "push tree https://me:hush@example.com/x",
        "push tree ssh://-oProxyCommand=x/srv",
        "push tree ssh://example.com",
        "push tree gopher://x/y",
        "push https://example.com/x ./www",
        "push tree ./www --events ./no/such/directory/e",
        "status ./www ./www",
        "verify",
        "releases",
        "prune",
    ] {
        workspace.run(line).code(2);
    }
    assert_eq!(workspace.fingerprint(""), before);
}

#[test]
fn requiring_more_mirrors_than_exist_is_refused() {
    let workspace = Workspace::with_tree();
    let run = workspace.run("push tree ./www --require 2");
    assert!(!workspace.exists("www"));
    run.code(2).warns("--require");
}

#[test]
fn output_without_a_terminal_is_plain() {
    let workspace = Workspace::with_tree();
    // The harness checks every run for escape sequences; these commands would print colours.
    workspace.run("push nowhere ./www").code(8);
    workspace.run("psh").code(2);
    workspace.run_with(&[("NO_COLOR", "1")], "--help").code(0);
}

#[test]
fn closed_output_pipe_is_not_a_failure() {
    let workspace = Workspace::with_mirror();
    let mut child = workspace.start("releases ./www");
    drop(child.stdout.take());
    let run = Run::new(&["releases"], &child.wait_with_output().unwrap());
    assert!(!run.stderr.contains("anic"));
}

#[test]
fn events_can_be_written_to_a_device() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www --events /dev/stderr --quiet").warns("\"event\":\"activated\"");
    workspace.write("tree/index.html", "2");
    // A full disk under the event log does not stop a push.
    if workspace.path("/dev/full").exists() {
        workspace.ok("push tree ./www --events /dev/full").warns("events are missing");
    }
    assert_eq!(workspace.served("www"), workspace.files("tree"));
}

#[test]
fn every_command_with_json_prints_one_object_only() {
    let workspace = Workspace::with_tree();
    // The harness checks that the output is one object with the right exit code.
    for (line, code) in [
        ("push tree ./www", 0),
        ("plan tree ./www", 0),
        ("diff ./www tree", 0),
        ("status ./www", 0),
        ("releases ./www", 0),
        ("verify ./www", 0),
        ("repair ./www --from tree", 0),
        ("prune ./www", 0),
        ("push nowhere ./www", 8),
        ("plan nowhere ./www", 8),
        ("diff ./www nowhere", 8),
        ("repair ./www --from nowhere", 8),
        ("verify ./tree", 1),
        ("prune ./tree", 1),
        ("verify ./nowhere", 2),
        ("prune ./nowhere", 2),
        ("repair ./nowhere --from tree", 2),
        ("status ./nowhere", 2),
    ] {
        let answer = workspace.json(line, code);
        assert_eq!(answer["headwater"], line.split(' ').next().unwrap(), "{line}");
        assert_eq!(answer["version"], 1);
        if code == 8 {
            assert!(answer["error"].as_str().unwrap().contains("nowhere"), "{answer}");
        }
    }
}

#[test]
fn control_characters_in_names_and_arguments_are_escaped() {
    let workspace = Workspace::with_tree();
    // The harness checks all of this output for raw control characters.
    let evil = "evil\x1b[2J\r\u{202e}x";
    workspace.mkdir(evil);
    workspace.args(&["push", &format!("./{evil}/none"), "./www"]).code(8);
    workspace.args(&["push", "tree", &format!("./{evil}/m")]).code(2);
    let odd = "odd\u{202e}x";
    workspace.mkdir(odd);
    workspace.args(&["push", "tree", &format!("./{odd}/no/parent")]).code(4);
    workspace.args(&["push", "tree", &format!("./{odd}/m")]).code(0);
    for command in ["status", "releases", "verify", "prune"] {
        workspace.args(&[command, &format!("./{odd}/m")]).code(0);
        workspace.args(&[command, &format!("./{odd}/m"), "--json"]).code(0);
    }
    workspace.args(&["diff", &format!("./{odd}/m"), "tree"]).code(0);
    workspace.args(&["diff", &format!("./{odd}/m:7"), "tree"]).code(2);
    workspace.args(&["push", odd, "./www"]).code(5).warns(".headwater").warns("--from");
    workspace.args(&["status", evil]).code(2);
    workspace.args(&["push", "tree", "./www", "--config", evil]).code(2);
    workspace.args(&["init", &format!("./{evil}/x.toml")]).code(0);
    workspace.write("bidi/a\u{202e}lmth.exe", "x");
    workspace.ok("push bidi ./other");
    workspace.ok("plan bidi ./third").says("\\u{202e}");
    workspace.write("headwater.toml", "\"a\\u001b[31mb\" = 1\n");
    workspace.run("status ./other").code(2);
}
