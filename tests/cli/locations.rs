//! Locations of mirrors, and the detection of a mirror that is missing or was replaced.

use crate::harness::World;

#[test]
fn mirror_on_an_unmounted_volume_is_not_filled() {
    let world = World::with_tree();
    world.mkdir("volume");
    world.ok("push tree ./volume ./www");
    // The files below a mount point on which nothing is mounted.
    world.rename("volume", "mounted");
    world.mkdir("volume");
    world.write("tree/new.html", "new");
    let refused = world.run("push tree ./volume ./www").code(4);
    refused.says("./volume").warns("it has no store now, but headwater remembers").warns("--init");
    assert!(!world.exists("volume/.headwater"));
    // `--require` decides about the other mirrors.
    world.run("push tree ./volume ./www --require any").code(3);
    assert!(world.exists("www/current/new.html") && !world.exists("volume/.headwater"));
    world
        .run("plan tree ./volume ./www")
        .code(4)
        .warns("it has no store now, but headwater remembers");
    world
        .run("plan tree ./volume ./www --require any")
        .code(3)
        .warns("it has no store now, but headwater remembers");
    world.run("status ./volume").code(1).says("headwater remembers an earlier push to store");
    // Another store is refused, too.
    world.remove("volume");
    world.rename("mounted", "kept");
    world.ok("push tree ./other");
    world.rename("other", "volume");
    world
        .run("push tree ./volume ./www")
        .code(4)
        .warns("it has store")
        .warns("headwater remembers an earlier push to store");
    world.remove("volume");
    world.rename("kept", "volume");
    world.ok("push tree ./volume ./www");
    assert!(world.exists("volume/current/new.html"));
    world.remove("volume");
    world.ok("push tree ./volume ./www --init");
    world.ok("push tree ./volume ./www");
    assert!(world.exists("volume/current/new.html"));
}

#[test]
fn removed_mirror_is_remembered() {
    let world = World::with_mirror();
    world.remove("www");
    for line in ["status ./www", "verify ./www", "releases ./www"] {
        let run = world
            .run(line)
            .code(2)
            .warns("error: ./www does not exist, but headwater remembers an earlier push to store");
        run.warns("to start a new store there, push with --init");
    }
    world.run("status ./other").code(2).warns("the first push creates a mirror");
    world.run("push tree ./www").code(4).warns("headwater remembers an earlier push to store");
    world.ok("push tree ./www --init");
    world.ok("status ./www");
}

#[test]
fn promote_requires_init_like_push() {
    let world = World::with_tree();
    world.ok("push tree ./hub ./edge");
    world.write("tree/index.html", "new");
    world.ok("push tree ./hub");
    world.rename("edge", "mounted");
    world.mkdir("edge");
    for line in ["promote ./hub ./edge", "promote ./hub ./edge --dry-run", "push tree ./edge"] {
        world
            .run(line)
            .code(4)
            .warns("it has no store now, but headwater remembers")
            .warns("--init");
        assert!(!world.exists("edge/.headwater"), "{line}");
    }
    // A new mirror does not require `--init`.
    world.ok("promote ./hub ./new --dry-run");
    world.ok("promote ./hub ./new");
    world.ok("promote ./hub ./edge --init");
    world.ok("promote ./hub ./edge");
    assert_eq!(world.served("edge"), world.files("tree"));
}

#[test]
fn push_to_another_store_than_the_configured_one_is_refused() {
    let world = World::with_mirror();
    let format = world.read("www/.headwater/format");
    let id = format.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let config = |id: &str| {
        format!("content = 'tree'\n[[mirror]]\nname = 'eu'\nurl = './www'\nstore = '{id}'\n")
    };
    world.write("headwater.toml", config(&id));
    world.ok("push");
    world.write("headwater.toml", config(&"0".repeat(32)));
    world.run("push").code(4).warns("the configuration names store 000");
    world.run("status").code(1).says("the configuration names store 000");
    world.write("headwater.toml", config("x"));
    world.run("push").code(2).warns("32 lower-case hexadecimal digits");
}

#[test]
fn missing_path_is_a_usage_error() {
    let world = World::with_mirror();
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
        world.run(command).code(2).warns("./typo does not exist").warns("hint: check the path");
        assert_eq!(
            world
                .run(&format!("{command} --json"))
                .code(2)
                .stdout
                .matches("\"exit_code\":2")
                .count(),
            1
        );
    }
    assert!(!world.exists("typo"));
    world.mkdir("empty");
    world.run("status ./empty").code(1).says("joining");
}

#[test]
fn link_to_an_empty_directory_is_accepted_as_mirror() {
    let world = World::with_tree();
    world.mkdir("real");
    world.link("real", "www");
    world.ok("push tree ./www");
    world.ok("push tree ./www");
    assert!(world.exists("real/current/index.html"));
    world.ok("verify ./www");
}

#[test]
fn mirror_inside_another_mirror_is_refused() {
    let world = World::with_mirror();
    for (command, words) in [
        ("push tree ./www/.headwater/inner", "is inside the mirror"),
        ("plan tree ./www/.headwater/inner", "is inside the mirror"),
    ] {
        world.run(command).code(4).warns(words);
    }
    for command in ["push", "plan"] {
        world
            .run(&format!("{command} tree ./a ./a/b"))
            .code(2)
            .warns("the mirror ./a/b is inside the mirror ./a");
    }
    assert!(!world.exists("a"));
}
