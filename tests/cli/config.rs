//! `headwater.toml`, as seen by the commands that read it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::harness::{TREE, Workspace, column};

const MIRROR: &str = "\n[[mirror]]\nname = 'eu'\nurl = 'www'\n";

/// A workspace with this configuration and the small tree in `tree`.
fn workspace(config: &str) -> Workspace {
    let workspace = Workspace::with_tree();
    workspace.write("headwater.toml", format!("{config}{MIRROR}"));
    workspace
}

#[test]
fn site_content_and_mirrors_come_from_the_file_unless_flags_override() {
    let workspace = workspace("site = 'docs'\ncontent = 'tree'\n");
    workspace.ok("push").says("eu");
    assert_eq!(workspace.json("status eu", 0)["mirrors"][0]["site"], "docs");
    workspace.run("push --site other").code(7);
    workspace.ok("push --site other tree ./data");
    assert_eq!(workspace.json("status ./data", 0)["mirrors"][0]["site"], "other");
    workspace.write("another/index.html", "another");
    workspace.ok("push ./another eu --allow-shrink");
    assert_eq!(workspace.read("www/current/index.html"), "another");
}

#[test]
fn paths_are_relative_to_the_configuration_file() {
    let workspace = Workspace::with_tree();
    workspace.rename("tree", "project/tree");
    workspace.write("project/hw.toml", format!("content = 'tree'{MIRROR}"));
    workspace.ok("push --config project/hw.toml");
    assert_eq!(workspace.served("project/www"), workspace.files("project/tree"));
    workspace.run("push --config project/none.toml").code(2).warns("none.toml");
}

#[test]
fn several_trees_are_merged() {
    let workspace =
        workspace("[[content]]\npath = 'tree'\n[[content]]\npath = 'api/html'\nat = 'docs/api'\n");
    workspace.write("api/html/x.html", "x");
    workspace.link("../a.html", "api/html/up.html");
    // A link can lead from one tree into the other; its place in the merged tree counts.
    workspace.ok("push");
    let mut expected = workspace.files("tree");
    expected.extend([
        ("docs/api/x.html".to_owned(), "x".to_owned()),
        ("docs/api/up.html".to_owned(), "-> ../a.html".to_owned()),
    ]);
    assert_eq!(workspace.served("www"), expected);
    workspace.ok("push").says("nothing new");
}

#[test]
fn overlapping_trees_are_refused() {
    let workspace =
        workspace("[[content]]\npath = 'tree'\n[[content]]\npath = 'api'\nat = 'docs'\n");
    workspace.write("api/a.html", "another docs/a.html");
    workspace.run("push").code(8).warns("docs/a.html");
    workspace.remove("api/a.html");
    workspace.write("api/b.html", "b");
    workspace.write("tree/docs/b.html/c", "a directory there, a file here");
    workspace.run("push").code(8).warns("docs/b.html");
    assert!(!workspace.exists("www"));
    let same = "content = [{path = 'tree'}, {path = 'api'}]\n";
    workspace.write("headwater.toml", format!("{same}{MIRROR}"));
    workspace.run("push").code(2).warns("line 1").warns("at");
}

#[test]
fn exclude_settings_ignore_files_and_flags_combine() {
    let workspace = workspace("content = 'tree'\nexclude = ['*.map', '/drafts/']\n");
    for path in
        ["a.map", "drafts/x", "docs/drafts/y", "docs/z.tmp", "docs/keep.tmp", "node_modules/m.js"]
    {
        workspace.write(&format!("tree/{path}"), "x");
    }
    workspace.write("tree/.headwaterignore", "node_modules/\n");
    workspace.write("tree/docs/.headwaterignore", "*.tmp\n!keep.tmp\n");
    workspace.ok("push");
    let mut expected: Vec<&str> =
        TREE.iter().map(|(path, _)| *path).chain(["docs/drafts/y", "docs/keep.tmp"]).collect();
    expected.sort_unstable();
    assert_eq!(workspace.served("www").into_keys().collect::<Vec<_>>(), expected);
    workspace.args(&["push", "--exclude", "!a.map", "--exclude", "docs"]).code(0);
    let served = workspace.served("www");
    assert!(served.contains_key("a.map") && !served.contains_key("docs/a.html"), "{served:?}");
}

#[test]
fn keep_removed_rules_apply_in_order_before_the_default() {
    let rules = "content = 'tree'\n[[keep_removed]]\nmatch = '/assets/deep/'\nfor = '0s'\n\
                 [[keep_removed]]\nmatch = '*.html'\nfor = '14d'\n";
    let workspace = workspace(rules);
    workspace.ok("push");
    for path in ["assets", "docs", "app.js"] {
        workspace.remove(&format!("tree/{path}"));
    }
    workspace.ok("push").says("3 retired, 1 removed");
    let kept: Vec<_> = workspace.served("www").into_keys().collect();
    assert_eq!(kept, ["app.js", "assets/style.css", "docs/a.html", "index.html"]);
}

#[test]
fn file_times_can_come_from_the_source() {
    let workspace = workspace("content = 'tree'\nmtime = 'source'\n");
    let file = fs::File::options().write(true).open(workspace.path("tree/app.js")).unwrap();
    file.set_modified(
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890),
    )
    .unwrap();
    workspace.ok("push");
    assert_eq!(workspace.meta("www/current/app.js").mtime(), 1_234_567_890);
    // A changed time alone is not a change, and does not change with other files.
    file.set_modified(
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_300_000_000),
    )
    .unwrap();
    workspace.ok("push").says("nothing new");
    workspace.write("tree/index.html", "2");
    workspace.ok("push");
    assert_eq!(workspace.meta("www/current/app.js").mtime(), 1_234_567_890);
    workspace.ok("verify eu");
}

#[test]
fn links_are_kept_followed_or_refused_as_configured() {
    let workspace = workspace("content = 'tree'\nsymlinks = 'refuse'\n");
    workspace.write("outside/o.html", "outside");
    workspace.link("index.html", "tree/home.html");
    workspace.link("../outside", "tree/out");
    workspace.run("push").code(8).warns("home.html").warns("out").warns("symlinks");
    workspace.write("headwater.toml", format!("content = 'tree'\nsymlinks = 'follow'\n{MIRROR}"));
    workspace.ok("push");
    let served = workspace.served("www");
    assert_eq!(
        (served["home.html"].as_str(), served["out/o.html"].as_str()),
        ("<h1>hello</h1>\n", "outside")
    );
    assert!(served.values().all(|content| !content.starts_with("->")));
    workspace.write("headwater.toml", format!("content = 'tree'\nsymlinks = 'keep'\n{MIRROR}"));
    workspace
        .run("push")
        .code(8)
        .warns("out is a symbolic link whose target ../outside leads out of the tree");
}

#[test]
fn names_invalid_on_windows_cause_a_warning_or_an_error() {
    let workspace = workspace("content = 'tree'\n");
    for name in ["aux.html", "a:b", "INDEX.html"] {
        workspace.write(&format!("tree/{name}"), "x");
    }
    workspace.ok("push").warns("warning: ");
    workspace.write("headwater.toml", format!("content = 'tree'\nnames = 'portable'\n{MIRROR}"));
    workspace.write("tree/new", "x");
    let run = workspace.run("push").code(8).warns("3 paths");
    for words in
        ["aux.html is the name of a device", "a:b has one of", "index.html differs from INDEX.html"]
    {
        assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
    }
}

#[test]
fn tree_that_lacks_a_must_have_path_is_refused() {
    let workspace =
        workspace("content = 'tree'\nmust_have = ['index.html', 'docs', 'search/index.json']\n");
    workspace.run("push").code(5).warns("lacks search/index.json").warns("must_have");
    assert!(!workspace.exists("www"));
    workspace.write("tree/search/index.json", "{}");
    workspace.ok("push");
}

#[test]
fn removal_beyond_the_configured_limit_is_refused() {
    let workspace = workspace("content = 'tree'\nmax_removed = 1\n");
    workspace.ok("push");
    workspace.remove("tree/assets");
    workspace.run("push").code(5).warns("2 of 5 paths would be removed").warns("--allow-shrink");
    workspace.write("headwater.toml", format!("content = 'tree'\nmax_removed = 2\n{MIRROR}"));
    workspace.ok("push");
    workspace.write("headwater.toml", format!("content = 'tree'\nmax_removed = '10%'\n{MIRROR}"));
    (0..300).for_each(|number| workspace.write(&format!("tree/n{number}.html"), "x"));
    workspace.ok("push");
    (0..120).for_each(|number| workspace.remove(&format!("tree/n{number}.html")));
    workspace.run("push").code(5).warns("120 of 303");
    workspace.ok("push --allow-shrink");
}

#[test]
fn config_error_names_line_and_column_and_changes_nothing() {
    for (config, place, words) in [
        ("content = 'tree'\nsitte = 'x'\n", "line 2, column 1", "sitte"),
        ("content = 'tree'\nkeep = 0\n", "line 2, column 8", ""),
        ("content = 'tree'\nmtime = 'never'\n", "line 2, column 9", "push"),
        ("content = 'tree'\nmax_removed = '200%'\n", "line 2, column 15", "100%"),
        ("content = 'tree'\nmust_have = ['../x']\n", "line 2, column 14", ".."),
        ("content = 'tree'\nexclude = ['[z-a]']\n", "line 2, column 12", ""),
        (
            "content = 'tree'\n[[keep_removed]]\nmatch = '*.js'\nfor = 'soon'\n",
            "line 4, column 7",
            "soon",
        ),
        ("content = 'tree'\n[[mirror]]\nname = 'eu'\n", "line 2", "url"),
        ("content = 'tree'\n[[mirror]]\nname = 'a b'\nurl = '/x'\n", "line 3, column 8", "name"),
        (
            "content = 'tree'\n[[mirror]]\nname = 'a'\nurl = 'x'\n[[mirror]]\nname = 'b'\n\
             url = 'x/'\n",
            "line 7, column 7",
            "same url",
        ),
        (
            "content = 'tree'\n[[mirror]]\nname = 'a'\nurl = 'x'\nurls = 'y'\n",
            "line 5, column 1",
            "urls",
        ),
        ("content = \n", "line 1", ""),
        ("site = 'UPPER'\n", "line 1, column 8", "a-z"),
    ] {
        let workspace = Workspace::with_tree();
        workspace.write("headwater.toml", config);
        let run = workspace
            .run("push tree ./www")
            .code(2)
            .warns(place)
            .warns("headwater.toml")
            .warns("hint");
        assert!(run.stderr.contains(words), "{config}: {}", run.stderr);
        assert!(!workspace.exists("www"));
        for command in ["status", "verify", "plan tree ./www", "rollback ./www", "prune"] {
            workspace.run(command).code(2).warns(place);
        }
    }
}

#[test]
fn argument_that_is_both_mirror_and_directory_is_refused() {
    let workspace = workspace("content = 'tree'\n");
    workspace.write("eu/index.html", "x");
    workspace.run("push eu").code(2).warns("also a directory").warns("./eu");
    workspace.ok("push tree eu");
    workspace.run("push ./www").code(2).warns("the first argument is the tree");
    workspace.run("push us").code(8).warns("eu");
    workspace.run("push tree us").code(2).warns("eu");
}

#[test]
fn json_has_the_configured_mirror_names() {
    let workspace = workspace("content = 'tree'\n");
    let answer = workspace.json("push", 0);
    assert_eq!(column(&answer["mirrors"], "mirror"), ["eu"]);
    assert_eq!(column(&answer["mirrors"], "location"), ["./www"]);
    assert_eq!(answer["mirrors"][0]["now"], json!(1));
}

#[test]
fn config_in_a_parent_directory_is_found_and_named() {
    let workspace = workspace("content = 'tree'\n");
    workspace.mkdir("sub/deep");
    let run = |directory: &str, line: &str| {
        let args: Vec<&str> = line.split_whitespace().collect();
        let output =
            workspace.command(&args).current_dir(workspace.path(directory)).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = run("sub/deep", "push");
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stderr.matches("using ../../headwater.toml").count(), 1, "{stderr}");
    assert_eq!(workspace.served("www"), workspace.files("tree"));
    assert_eq!(run("sub/deep", "push --quiet"), (Some(0), String::new()));
    assert!(!run(".", "push").1.contains("using "));
    // The file of an enclosing directory does not apply inside a repository.
    workspace.mkdir("sub/.git");
    let (code, stderr) = run("sub/deep", "push");
    assert!(code != Some(0) && !stderr.contains("using "), "{stderr}");
}

#[test]
fn cache_directory_comes_from_the_file_unless_a_flag_overrides() {
    let workspace = Workspace::with_tree();
    workspace.rename("tree", "project/tree");
    workspace
        .write("project/hw.toml", format!("content = 'tree'\n[cache]\ndir = 'cache'\n{MIRROR}"));
    workspace.ok("push --config project/hw.toml --cache ./flag");
    assert!(workspace.exists("flag/stores") && !workspace.exists("project/cache"));
    workspace.ok("push --config project/hw.toml");
    assert!(workspace.exists("project/cache/stores"));
    workspace.ok("status --config project/hw.toml --html status.html");
    assert!(
        workspace.exists("project/cache/last-seen.json")
            && !workspace.exists("home/cache/headwater")
    );
    // `status` uses what the cache knows about the store of a mirror.
    workspace.remove("project/www");
    workspace.ok("push project/tree ./project/www --cache ./other");
    assert_eq!(
        workspace.json("status --config project/hw.toml", 1)["mirrors"][0]["state"],
        "unknown"
    );
}

#[test]
fn level_comes_from_the_file_unless_a_flag_overrides() {
    let text = "the same words again and again\n".repeat(5_000);
    let sent = |key: &str, flags: &str| {
        let workspace = workspace(&format!("content = 'tree'\n{key}\n"));
        workspace.write("tree/words.txt", &text);
        workspace.json(&format!("push {flags}"), 0)["mirrors"][0]["sent_bytes"].as_u64().unwrap()
    };
    let raw = sent("", "");
    assert!(raw > text.len() as u64, "{raw}");
    for (key, flags, is_small) in [
        ("level = 9", "", true),
        ("level = '9'", "", true),
        ("level = 'raw'", "", false),
        ("level = 'raw'", "--level 9", true),
        ("level = 9", "--level raw", false),
        ("level = 9", "--level auto", false),
    ] {
        let sent = sent(key, flags);
        assert_eq!(sent < raw / 10, is_small, "{key} {flags}: {sent} of {raw}");
    }
}

#[test]
fn lock_wait_comes_from_the_file_unless_a_flag_overrides() {
    let workspace = workspace("content = 'tree'\nwait = '0s'\n");
    workspace.ok("push");
    let lock = fs::File::open(workspace.path("www/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    workspace.write("tree/index.html", "2");
    let began = std::time::Instant::now();
    let all = ["push", "prune", "repair eu --from tree"];
    for line in all {
        workspace.run(line).code(9).warns("locked by another headwater");
    }
    // A run that used the file and not the flag would wait an hour.
    workspace.write("headwater.toml", format!("content = 'tree'\nwait = '1h'\n{MIRROR}"));
    for line in all {
        workspace.run(&format!("{line} --wait 0s")).code(9);
    }
    assert!(
        began.elapsed() < std::time::Duration::from_secs(50),
        "the default is a minute: {:?}",
        began.elapsed()
    );
}

#[test]
fn error_in_command_settings_is_shown_with_its_line() {
    let workspace = workspace("content = 'tree'\n");
    for (line, words) in [
        ("jobs = 0", "a whole number from 1"),
        ("level = 20", "write `auto`, `raw`, or a number from 1 to 19"),
        ("wait = '60'", "a number without a unit"),
        ("max_parallel = 0", "a whole number from 1"),
        ("bwlimit = '2000'", "2000KiB"),
        ("deadline = 'soon'", "no duration"),
        ("ssh_command = ''", "the command names no program"),
        ("receive_command = ''", "write a command on one line"),
        ("jbos = 2", "did you mean `jobs`?"),
    ] {
        workspace.write("headwater.toml", format!("content = 'tree'\n{line}\n{MIRROR}"));
        workspace
            .run("push")
            .code(2)
            .warns("headwater.toml line 2")
            .warns(&format!("2 | {line}"))
            .warns(words);
    }
    assert!(!workspace.exists("www"));
}
