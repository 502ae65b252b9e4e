//! Secrets and unwanted files in a tree: which are refused, which are allowed, which cause a
//! warning.

use crate::harness::{Workspace, assert_refused};

const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n";

#[test]
fn private_key_is_found_by_content_even_if_cached() {
    let workspace = Workspace::with_mirror();
    workspace.write("tree/docs/chain.txt", KEY);
    for _ in 0..3 {
        assert_refused(&workspace, "push tree ./www", 5, "docs/chain.txt").warns("allow_secrets");
    }
    workspace.run("plan tree ./www").code(5).warns("docs/chain.txt");
    workspace.write("tree/docs/chain.txt", format!("<pre>{KEY}"));
    workspace.ok("push tree ./www");
}

#[test]
fn secret_files_are_refused_by_name_and_examples_are_accepted() {
    let workspace = Workspace::with_mirror();
    for name in [
        ".git-credentials",
        ".npmrc",
        ".pypirc",
        "vault.kdbx",
        ".docker/config.json",
        "server.key",
        ".Env",
    ] {
        workspace.write(&format!("tree/a/{name}"), "x");
        assert_refused(&workspace, "push tree ./www", 5, &format!("a/{name}"));
        workspace.remove("tree/a");
    }
    for name in [".env.example", ".env.sample", ".env.template", ".env.dist"] {
        workspace.write(&format!("tree/{name}"), "TOKEN=\n");
    }
    workspace.ok("push tree ./www");
    assert!(workspace.exists("www/current/.env.example"));
}

#[test]
fn allow_secrets_setting_accepts_matching_paths() {
    let workspace = Workspace::with_tree();
    workspace.write("tree/demo/server.key", KEY);
    workspace.write("tree/demo/other.key", KEY);
    let config = |lines: &str| format!("content = 'tree'\nallow_secrets = [{lines}]\n");
    workspace.write("headwater.toml", config("'/demo/server.key'"));
    workspace.run("push ./tree ./www").code(5).warns("demo/other.key");
    workspace.write("headwater.toml", config("'*.key'"));
    workspace.ok("push ./tree ./www");
    workspace.write("headwater.toml", config("''"));
    workspace.run("push ./tree ./www").code(2).warns("line 2").warns("the pattern is empty");
}

#[test]
fn clutter_causes_one_warning_with_the_exclude_setting() {
    let workspace = Workspace::with_tree();
    for name in [
        ".DS_Store",
        "docs/.DS_Store",
        "Thumbs.db",
        "index.html~",
        ".index.html.swp",
        "node_modules/a/b.js",
    ] {
        workspace.write(&format!("tree/{name}"), "x");
    }
    let run = workspace.ok("push tree ./www");
    let lines: Vec<&str> =
        run.stderr.lines().filter(|line| line.contains("not meant for visitors")).collect();
    let patterns = r#"exclude = ["*~", ".*.swp", ".DS_Store", "Thumbs.db", "node_modules/"]"#;
    assert!(lines.len() == 1 && lines[0].contains(patterns), "{}", run.stderr);
    let pattern = patterns.split_once(" = ").unwrap().1;
    workspace.write("headwater.toml", format!("content = 'tree'\nexclude = {pattern}\n"));
    let run = workspace.ok("push ./tree ./www");
    assert!(
        !run.stderr.contains("not meant for visitors")
            && !workspace.exists("www/current/.DS_Store"),
        "{}",
        run.stderr
    );
}

#[test]
fn misplaced_token_is_not_repeated_in_output() {
    let workspace = Workspace::with_mirror();
    let token = "hw_0123abcd_5ec2e7aa00112233";
    for line in [
        "status TOKEN",
        "status TOKEN --json",
        "push tree TOKEN",
        "push TOKEN ./www",
        "push TOKEN TOKEN --json",
        "push tree https://TOKEN@edge1.example/docs",
        "push tree https://edge1.example/docs?token=TOKEN",
        "push tree gopher://edge1.example/TOKEN",
        "push tree TOKEN:/srv/www",
        "push tree ./www --site TOKEN",
        "push tree ./www --require TOKEN",
        "push tree ./www --TOKEN",
        "push tree ./www --token-file TOKEN",
        "push tree ./www --config TOKEN",
        "status --only TOKEN",
        "TOKEN",
        "rollback ./www --to TOKEN",
        "diff TOKEN ./www",
    ] {
        let run = workspace.run(&line.replace("TOKEN", token));
        assert!(
            !format!("{}{}", run.stdout, run.stderr).contains("5ec2e7"),
            "{line}: {}{}",
            run.stdout,
            run.stderr
        );
    }
    for text in [
        "site = 'TOKEN '",
        "tokn = 'TOKEN'",
        "token = TOKEN",
        "[[mirror]]\nname = 'a'\nurl = 'https://h/TOKEN'",
        "[[mirror]]\nname = 'a'\nurl = '/x'\nTOKEN = 1",
        "[[mirror]]\nname = 'TOKEN/'\nurl = '/x'",
        "[purge]\nurl = 'https://h/TOKEN'\nbase = 'https://h'",
        "keep = 'TOKEN'",
    ] {
        workspace.write("headwater.toml", text.replace("TOKEN", token));
        for line in ["status", "status --json", "status ./www -v"] {
            let run = workspace.run(line);
            assert!(
                !format!("{}{}", run.stdout, run.stderr).contains("5ec2e7"),
                "{text}: {}{}",
                run.stdout,
                run.stderr
            );
        }
    }
}
