//! Behaviour of all subcommands: help, completions, manual pages, exit codes for wrong usage,
//! colour.

use crate::harness::{Run, World};

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
    let world = World::new();
    let run = world.ok("--help").says("Exit codes").says("130");
    assert!(
        COMMANDS.iter().all(|command| run.stdout.contains(&format!("\n  {command} "))),
        "{}",
        run.stdout
    );
    for code in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130] {
        assert!(run.stdout.contains(&format!("\n  {code:>3}  ")), "{code}");
    }
    for command in COMMANDS {
        world
            .ok(&format!("{command} --help"))
            .says("Examples:")
            .says(&format!("headwater {command}"));
        world.ok(&format!("help {command}")).says("Examples:");
    }
    world.ok("--version").says("headwater 0.");
}

#[test]
fn push_help_lists_every_flag() {
    let help = World::new().ok("push --help").stdout;
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
    let world = World::with_mirror();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = world.command(&["status", "./www"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.starts_with("error: cannot write to stdout: No space left on device"),
        "{stderr}"
    );
}

#[test]
fn completions_exist_for_every_shell() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        world.ok(&format!("completions {shell}")).says("rollback").says("superseded-ok");
    }
    world.run("completions tcsh").code(2);
}

#[test]
fn manual_has_a_page_for_each_command() {
    let world = World::new();
    world.ok("man").says(".TH headwater").says("Exit codes").says("130");
    world.ok("man ./man1");
    assert!(world.exists("man1/headwater.1"));
    for command in COMMANDS {
        assert!(world.read(&format!("man1/headwater-{command}.1")).contains(command));
    }
}

#[test]
fn usage_error_exits_2_and_changes_nothing() {
    let world = World::with_tree();
    let before = world.snapshot("");
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
        world.run(line).code(2);
    }
    assert_eq!(world.snapshot(""), before);
}

#[test]
fn requiring_more_mirrors_than_exist_is_refused() {
    let world = World::with_tree();
    let run = world.run("push tree ./www --require 2");
    assert!(!world.exists("www"));
    run.code(2).warns("--require");
}

#[test]
fn output_without_a_terminal_is_plain() {
    let world = World::with_tree();
    // The harness checks every run for escape sequences; these commands would print colours.
    world.run("push nowhere ./www").code(8);
    world.run("psh").code(2);
    world.run_with(&[("NO_COLOR", "1")], "--help").code(0);
}

#[test]
fn closed_output_pipe_is_not_a_failure() {
    let world = World::with_mirror();
    let mut child = world.start("releases ./www");
    drop(child.stdout.take());
    let run = Run::new(&["releases"], &child.wait_with_output().unwrap());
    assert!(!run.stderr.contains("anic"));
}

#[test]
fn events_can_be_written_to_a_device() {
    let world = World::with_tree();
    world.ok("push tree ./www --events /dev/stderr --quiet").warns("\"event\":\"activated\"");
    world.write("tree/index.html", "2");
    // A full disk under the event log does not stop a push.
    if world.path("/dev/full").exists() {
        world.ok("push tree ./www --events /dev/full").warns("events are missing");
    }
    assert_eq!(world.served("www"), world.files("tree"));
}

#[test]
fn every_command_with_json_prints_one_object_only() {
    let world = World::with_tree();
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
        let answer = world.json(line, code);
        assert_eq!(answer["headwater"], line.split(' ').next().unwrap(), "{line}");
        assert_eq!(answer["version"], 1);
        if code == 8 {
            assert!(answer["error"].as_str().unwrap().contains("nowhere"), "{answer}");
        }
    }
}

#[test]
fn control_characters_in_names_and_arguments_are_escaped() {
    let world = World::with_tree();
    // The harness checks all of this output for raw control characters.
    let evil = "evil\x1b[2J\r\u{202e}x";
    world.mkdir(evil);
    world.args(&["push", &format!("./{evil}/none"), "./www"]).code(8);
    world.args(&["push", "tree", &format!("./{evil}/m")]).code(2);
    let odd = "odd\u{202e}x";
    world.mkdir(odd);
    world.args(&["push", "tree", &format!("./{odd}/no/parent")]).code(4);
    world.args(&["push", "tree", &format!("./{odd}/m")]).code(0);
    for command in ["status", "releases", "verify", "prune"] {
        world.args(&[command, &format!("./{odd}/m")]).code(0);
        world.args(&[command, &format!("./{odd}/m"), "--json"]).code(0);
    }
    world.args(&["diff", &format!("./{odd}/m"), "tree"]).code(0);
    world.args(&["diff", &format!("./{odd}/m:7"), "tree"]).code(2);
    world.args(&["push", odd, "./www"]).code(5).warns(".headwater").warns("--from");
    world.args(&["status", evil]).code(2);
    world.args(&["push", "tree", "./www", "--config", evil]).code(2);
    world.args(&["init", &format!("./{evil}/x.toml")]).code(0);
    world.write("bidi/a\u{202e}lmth.exe", "x");
    world.ok("push bidi ./other");
    world.ok("plan bidi ./third").says("\\u{202e}");
    world.write("headwater.toml", "\"a\\u001b[31mb\" = 1\n");
    world.run("status ./other").code(2);
}
