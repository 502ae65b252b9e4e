//! Command lines of users of rsync and other programs, and flags that every command has.

use crate::harness::Workspace;

#[test]
fn push_dry_run_prints_a_plan() {
    let workspace = Workspace::with_tree();
    for flag in ["--dry-run", "-n"] {
        workspace
            .ok(&format!("push tree ./www {flag}"))
            .says("5 added")
            .says("release 1 would be made");
        assert!(!workspace.exists("www"), "{flag}");
    }
    assert_eq!(workspace.json("push tree ./www -n", 0)["headwater"], "plan");
    workspace.ok("plan tree ./www --dry-run");
}

#[test]
fn dry_run_of_other_commands_is_refused_with_an_alternative() {
    let workspace = Workspace::with_mirror();
    let before = workspace.fingerprint("www");
    for (line, instead) in [
        ("rollback ./www -n", "headwater releases"),
        ("heal ./www --dry-run", "headwater status"),
        ("prune ./www --dry-run", "headwater releases"),
        ("repair ./www --from tree -n", "headwater verify"),
        ("activate 1 ./www -n", "headwater releases"),
        ("abandon 1 ./www -n", "headwater releases"),
    ] {
        workspace.run(line).code(2).warns("nothing was done").warns(instead);
    }
    assert_eq!(workspace.fingerprint("www"), before);
}

#[test]
fn rsync_flags_print_a_note_and_the_push_continues() {
    let workspace = Workspace::with_tree();
    let run = workspace.ok("push -avz --delete --progress tree ./www");
    for flag in ["--archive", "--compress", "--delete", "--progress"] {
        assert_eq!(
            run.stderr.matches(&format!("note: {flag} is not needed")).count(),
            1,
            "{}",
            run.stderr
        );
    }
    let help = workspace.ok("push --help").stdout;
    assert!(
        !help.contains("--dry-run") && !help.contains("--delete") && help.contains("--verbose"),
        "{help}"
    );
}

#[test]
fn unsupported_url_schemes_are_refused_with_an_alternative() {
    let workspace = Workspace::with_tree();
    for (url, instead) in [
        ("s3://bucket/docs", "push to a directory and upload its `current`"),
        ("gs://bucket/docs", "push to a directory and upload its `current`"),
        ("rsync://host/docs", "write ssh://[user@]host"),
        ("sftp://me@host/srv/www", "write ssh://[user@]host"),
        ("nfs://host/export", "headwater serve"),
        ("gopher://host/x", "write a directory, https://"),
    ] {
        workspace
            .args(&["push", "tree", url])
            .code(2)
            .warns("URLs are not supported")
            .warns(instead);
    }
    workspace.run("push tree me@host:www").code(2).warns("ssh://[user@]host/absolute/path");
}

#[test]
fn every_command_accepts_quiet_and_verbose() {
    let workspace = Workspace::with_mirror();
    let help = workspace.ok("--help").stdout;
    let names: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.split_whitespace()
                .next()
                .filter(|_| line.starts_with("  ") && !line.starts_with("   "))
        })
        .filter(|name| *name != "help")
        .collect();
    assert!(names.len() > 18, "{names:?}");
    for name in names {
        let help = workspace.ok(&format!("{name} --help")).stdout;
        assert!(help.contains("-q, --quiet") && help.contains("-v, --verbose"), "{name}: {help}");
    }
    for (line, message) in [
        ("push tree ./www -v", "configuration: no headwater.toml here"),
        ("-v status ./www", "./www: serves release 1"),
        ("releases ./www --verbose", "./www: serves release 1"),
        ("verify ./www -v", "configuration:"),
    ] {
        workspace.ok(line).warns(message);
    }
    assert_eq!(workspace.ok("status ./www").stderr, "");
    workspace.run("status ./www -q -v").code(2);
    assert_eq!(workspace.ok("init -q").stdout, "");
}

#[test]
fn all_flag_lists_every_path() {
    let workspace = Workspace::with_mirror();
    (0..60).for_each(|number| workspace.write(&format!("tree/n/{number:02}"), format!("{number}")));
    let listed = |line: &str| {
        let run = workspace.ok(line);
        (run.stdout.matches("added    n/").count(), run.stdout.contains("--all lists every path"))
    };
    for line in ["plan tree ./www", "diff ./www tree"] {
        assert_eq!(listed(line), (50, true), "{line}");
        assert_eq!(listed(&format!("{line} --all")), (60, false), "{line}");
    }
}

#[test]
fn number_without_a_unit_is_refused_with_both_readings() {
    let workspace = Workspace::with_tree();
    workspace.run("push tree ./www --bwlimit 2000").code(2).warns("2000KiB").warns("2000B");
    workspace.run("push tree ./www --wait 60").code(2).warns("a number without a unit");
    let config = "[[mirror]]\nname='e'\nurl='https://h.example/d'\nbwlimit='2000'\n";
    workspace.write("headwater.toml", config);
    workspace.run("status").code(2).warns("2000KiB").warns("line 4");
}

#[test]
fn misspelled_names_are_refused_with_the_closest_match() {
    let workspace = Workspace::with_tree();
    let config = "content='tree'\n[[mirror]]\nname='edge-fra'\nurl='./a'\ngroup='europe'\n\
                  [[mirror]]\nname='hub'\nurl='./b'\n";
    workspace.write("headwater.toml", config);
    workspace.run("push egde-fra").code(8).warns("did you mean `edge-fra`?");
    workspace.run("status hubb").code(2).warns("did you mean `hub`?");
    workspace.run("status --only eurpoe").code(2).warns("did you mean `europe`?");
    workspace.write("headwater.toml", config.replace("group=", "gruop="));
    workspace.run("status").code(2).warns("unknown field `gruop`: did you mean `group`?");
    workspace.run("psh").code(2).warns("push");
}

#[test]
fn unknown_option_suggests_a_close_match_or_nothing() {
    let workspace = Workspace::with_tree();
    workspace.run("push tree ./www --exlude x").code(2).warns("'--exclude'");
    workspace.run("push tree ./www --max-delete 5").code(2).warns("`max_removed`");
    workspace.run("push tree ./www --token x").code(2).warns("'--token-file'");
    for option in ["--forse", "--backup"] {
        let run = workspace.run(&format!("push tree ./www {option}")).code(2);
        assert!(!run.stderr.contains("tip:"), "{}", run.stderr);
    }
}

#[test]
fn mirror_before_the_tree_is_refused() {
    let workspace = Workspace::with_mirror();
    for line in ["push ./www tree", "plan ./www ./tree", "push ./www tree ./other"] {
        let tree = line.split(' ').nth(2).unwrap();
        workspace
            .run(line)
            .code(2)
            .warns("\"./www\" is a mirror, but the first argument is the tree")
            .warns(&format!("hint: name the tree first, as in `headwater push {tree} ./www`"));
    }
    assert!(!workspace.exists("other"));
}
