//! `headwater init`.

use crate::harness::World;

#[test]
fn init_never_replaces_an_existing_file() {
    let world = World::new();
    world.ok("init").says("wrote headwater.toml").says("headwater push");
    let written = world.read("headwater.toml");
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
    world.write("headwater.toml", "# mine\n");
    world.run("init").code(2).warns("nothing was changed");
    assert_eq!(world.read("headwater.toml"), "# mine\n");
}

#[test]
fn push_after_init_needs_no_arguments() {
    let world = World::with_tree();
    world.ok("init");
    world.rename("tree", "public");
    // Without a configured mirror nothing is published.
    for line in ["push", "plan", "status"] {
        world.run(line).code(2).warns("no mirror is named or configured").warns("set a [[mirror]]");
    }
    let template = world.read("headwater.toml");
    let local = "#[[mirror]]\n#name = \"local\"\n#url = \"/srv/www\"\n";
    let config = template.replace(local, "[[mirror]]\nname = \"local\"\nurl = \"mirrors/www\"\n");
    assert_ne!(config, template);
    world.write("headwater.toml", config);
    world.mkdir("mirrors");
    world.ok("plan").says("would be filled");
    world.ok("push").says("release 1");
    world.ok("push").says("nothing new");
    world.ok("status");
    assert_eq!(world.served("mirrors/www"), world.files("public"));
}

#[test]
fn init_writes_to_a_given_path() {
    let world = World::new();
    world.ok("init site.toml").says("--config site.toml");
    assert!(world.exists("site.toml") && !world.exists("headwater.toml"));
    world.run("init no/such/directory/x.toml").code(2);
    world.link("elsewhere", "link.toml");
    world.run("init link.toml").code(2);
    assert!(!world.exists("elsewhere"));
}
