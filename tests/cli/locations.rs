//! Locations of mirrors, and the detection of a mirror that is missing or was replaced.

use crate::harness::Workspace;

#[test]
fn mirror_on_an_unmounted_volume_is_not_filled() {
    let workspace = Workspace::with_tree();
    workspace.mkdir("volume");
    workspace.ok("push tree ./volume ./www");
    // The files below a mount point on which nothing is mounted.
    workspace.rename("volume", "mounted");
    workspace.mkdir("volume");
    workspace.write("tree/new.html", "new");
    let refused = workspace.run("push tree ./volume ./www").code(4);
    refused.says("./volume").warns("it has no store now, but headwater remembers").warns("--init");
    assert!(!workspace.exists("volume/.headwater"));
    // `--require` decides about the other mirrors.
    workspace.run("push tree ./volume ./www --require any").code(3);
    assert!(workspace.exists("www/current/new.html") && !workspace.exists("volume/.headwater"));
    workspace
        .run("plan tree ./volume ./www")
        .code(4)
        .warns("it has no store now, but headwater remembers");
    workspace
        .run("plan tree ./volume ./www --require any")
        .code(3)
        .warns("it has no store now, but headwater remembers");
    workspace.run("status ./volume").code(1).says("headwater remembers an earlier push to store");
    // Another store is refused, too.
    workspace.remove("volume");
    workspace.rename("mounted", "kept");
    workspace.ok("push tree ./other");
    workspace.rename("other", "volume");
    workspace
        .run("push tree ./volume ./www")
        .code(4)
        .warns("it has store")
        .warns("headwater remembers an earlier push to store");
    workspace.remove("volume");
    workspace.rename("kept", "volume");
    workspace.ok("push tree ./volume ./www");
    assert!(workspace.exists("volume/current/new.html"));
    workspace.remove("volume");
    workspace.ok("push tree ./volume ./www --init");
    workspace.ok("push tree ./volume ./www");
    assert!(workspace.exists("volume/current/new.html"));
}

#[test]
fn removed_mirror_is_remembered() {
    let workspace = Workspace::with_mirror();
    workspace.remove("www");
    for line in ["status ./www", "verify ./www", "releases ./www"] {
        let run = workspace
            .run(line)
            .code(2)
            .warns("error: ./www does not exist, but headwater remembers an earlier push to store");
        run.warns("to start a new store there, push with --init");
    }
    workspace.run("status ./other").code(2).warns("the first push creates a mirror");
    workspace.run("push tree ./www").code(4).warns("headwater remembers an earlier push to store");
    workspace.ok("push tree ./www --init");
    workspace.ok("status ./www");
}

#[test]
fn promote_requires_init_like_push() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./hub ./edge");
    workspace.write("tree/index.html", "new");
    workspace.ok("push tree ./hub");
    workspace.rename("edge", "mounted");
    workspace.mkdir("edge");
    for line in ["promote ./hub ./edge", "promote ./hub ./edge --dry-run", "push tree ./edge"] {
        workspace
            .run(line)
            .code(4)
            .warns("it has no store now, but headwater remembers")
            .warns("--init");
        assert!(!workspace.exists("edge/.headwater"), "{line}");
    }
    // A new mirror does not require `--init`.
    workspace.ok("promote ./hub ./new --dry-run");
    workspace.ok("promote ./hub ./new");
    workspace.ok("promote ./hub ./edge --init");
    workspace.ok("promote ./hub ./edge");
    assert_eq!(workspace.served("edge"), workspace.files("tree"));
}

#[test]
fn push_to_another_store_than_the_configured_one_is_refused() {
    let workspace = Workspace::with_mirror();
    let format = workspace.read("www/.headwater/format");
    let id = format.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let config = |id: &str| {
        format!("content = 'tree'\n[[mirror]]\nname = 'eu'\nurl = './www'\nstore = '{id}'\n")
    };
    workspace.write("headwater.toml", config(&id));
    workspace.ok("push");
    workspace.write("headwater.toml", config(&"0".repeat(32)));
    workspace.run("push").code(4).warns("the configuration names store 000");
    workspace.run("status").code(1).says("the configuration names store 000");
    workspace.write("headwater.toml", config("x"));
    workspace.run("push").code(2).warns("32 lower-case hexadecimal digits");
}

#[test]
fn missing_path_is_a_usage_error() {
    let workspace = Workspace::with_mirror();
    for command in [
        "status ./typo",
        "releases ./typo",
        "status ./www ./typo",
        "diff ./typo:1 ./www",
        "verify ./typo",
        "verify --quick ./www ./typo",
        "prune ./typo",
        "repair ./typo --from tree",
    ] {
        workspace.run(command).code(2).warns("./typo does not exist").warns("hint: check the path");
        assert_eq!(
            workspace
                .run(&format!("{command} --json"))
                .code(2)
                .stdout
                .matches("\"exit_code\":2")
                .count(),
            1
        );
    }
    assert!(!workspace.exists("typo"));
    workspace.mkdir("empty");
    workspace.run("status ./empty").code(1).says("joining");
}

#[test]
fn link_to_an_empty_directory_is_accepted_as_mirror() {
    let workspace = Workspace::with_tree();
    workspace.mkdir("real");
    workspace.link("real", "www");
    workspace.ok("push tree ./www");
    workspace.ok("push tree ./www");
    assert!(workspace.exists("real/current/index.html"));
    workspace.ok("verify ./www");
}

#[test]
fn mirror_inside_another_mirror_is_refused() {
    let workspace = Workspace::with_mirror();
    for (command, words) in [
        ("push tree ./www/.headwater/inner", "is inside the mirror"),
        ("plan tree ./www/.headwater/inner", "is inside the mirror"),
    ] {
        workspace.run(command).code(4).warns(words);
    }
    for command in ["push", "plan"] {
        workspace
            .run(&format!("{command} tree ./a ./a/b"))
            .code(2)
            .warns("the mirror ./a/b is inside the mirror ./a");
    }
    assert!(!workspace.exists("a"));
}
