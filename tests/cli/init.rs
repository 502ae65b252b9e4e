//! `headwater init`.

use crate::harness::Workspace;

#[test]
fn init_never_replaces_an_existing_file() {
    let workspace = Workspace::new();
    workspace.ok("init").says("wrote headwater.toml").says("headwater push");
    let written = workspace.read("headwater.toml");
    for key in [
        "site",
        "content",
        "exclude",
        "keep",
        "keep_removed",
        "mtime",
        "symlinks",
        "names",
        "must_have",
        "max_removed",
        "mirror",
    ] {
        assert!(written.contains(key), "{key}");
    }
    workspace.write("headwater.toml", "# mine\n");
    workspace.run("init").code(2).warns("nothing was changed");
    assert_eq!(workspace.read("headwater.toml"), "# mine\n");
}

#[test]
fn push_after_init_needs_no_arguments() {
    let workspace = Workspace::with_tree();
    workspace.ok("init");
    workspace.rename("tree", "public");
    // Without a configured mirror nothing is published.
    for line in ["push", "plan", "status"] {
        workspace
            .run(line)
            .code(2)
            .warns("no mirror is named or configured")
            .warns("set a [[mirror]]");
    }
    let template = workspace.read("headwater.toml");
    let local = "#[[mirror]]\n#name = \"local\"\n#url = \"/srv/www\"\n";
    let config = template.replace(local, "[[mirror]]\nname = \"local\"\nurl = \"mirrors/www\"\n");
    assert_ne!(config, template);
    workspace.write("headwater.toml", config);
    workspace.mkdir("mirrors");
    workspace.ok("plan").says("would be filled");
    workspace.ok("push").says("release 1");
    workspace.ok("push").says("nothing new");
    workspace.ok("status");
    assert_eq!(workspace.served("mirrors/www"), workspace.files("public"));
}

#[test]
fn init_writes_to_a_given_path() {
    let workspace = Workspace::new();
    workspace.ok("init site.toml").says("--config site.toml");
    assert!(workspace.exists("site.toml") && !workspace.exists("headwater.toml"));
    workspace.run("init no/such/directory/x.toml").code(2);
    workspace.link("elsewhere", "link.toml");
    workspace.run("init link.toml").code(2);
    assert!(!workspace.exists("elsewhere"));
}
