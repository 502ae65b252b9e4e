//! An unusable cache: which commands work without it, and which fail.

use std::fs;

use crate::harness::{Run, Workspace, of_kind};

/// A workspace with two releases on `./www`, one on `./hub`, and a file at the path of the cache.
fn without_cache() -> Workspace {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www ./hub");
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./www");
    workspace.remove("home/cache");
    workspace.write("home/cache", "");
    workspace.mkdir("tmp");
    workspace
}

fn run(workspace: &Workspace, line: &str) -> Run {
    let temporary = workspace.path("tmp");
    let run = workspace.run_with(&[("TMPDIR", temporary.to_str().unwrap())], line);
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0, "{line} leaves files behind");
    run
}

#[test]
fn push_without_a_usable_cache_continues_and_warns_once() {
    let workspace = without_cache();
    workspace.write("tree/index.html", "3");
    for line in [
        "plan tree ./www",
        "push tree ./www ./hub",
        "rollback ./www ./hub",
        "push --from ./www ./new",
        "promote ./www ./new --note again",
        "heal ./www ./hub",
        "push tree ./www ./hub --again --stage-only",
        "activate 5 ./www ./hub",
    ] {
        let run = run(&workspace, line)
            .code(0)
            .warns("there is no cache: cannot create directory")
            .warns("home/cache/");
        let warnings = run.stderr.lines().filter(|line| line.starts_with("warning: ")).count();
        assert_eq!(warnings, 1, "{line}: {}", run.stderr);
    }
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    for line in
        ["status ./www ./hub", "releases ./www", "diff ./tree ./www", "verify ./www", "prune ./www"]
    {
        let run = run(&workspace, line).code(0);
        assert!(!run.stderr.contains("warning: "), "{line}: {}", run.stderr);
    }
}

#[test]
fn cache_warning_is_an_event() {
    let workspace = without_cache();
    workspace.write("tree/index.html", "3");
    let events = workspace.events("push tree ./www", 0);
    let warned = of_kind(&events, "warned");
    assert_eq!(warned.len(), 1, "{events:?}");
    assert!(warned[0]["message"].as_str().unwrap().contains("home/cache"), "{events:?}");
}

#[test]
fn tree_that_contains_the_temporary_directory_is_refused() {
    let workspace = without_cache();
    workspace.write("tree/tmp/file", "");
    let temporary = workspace.path("tree/tmp");
    let before = workspace.files("tree");
    let run = workspace.run_with(&[("TMPDIR", temporary.to_str().unwrap())], "push tree ./www");
    run.code(2).warns("overlap");
    assert_eq!(workspace.files("tree"), before);
}
