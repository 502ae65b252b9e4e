//! `headwater serve`, `receive` and `token`: flags, files, and errors before the receiver listens.

use std::os::unix::fs::MetadataExt as _;

use crate::harness::World;

const SITE: &str = "[[site]]\nname = \"docs\"\ndir = \"www\"\n";

#[test]
fn serve_without_an_auth_setting_is_refused() {
    let world = World::new();
    world.run("serve www").code(2).warns("no token is configured").warns("token new");
    world.run("serve").code(2).warns("DIR");
    world.run("serve www --no-auth --token-file t.toml").code(2).warns("--token-file");
    world.run("serve www --token-file t.toml").code(2).warns("--site");
    let missing = world
        .run("serve www --site docs --token-file t.toml")
        .code(2)
        .warns("--token-file")
        .warns("t.toml");
    assert!(!missing.stderr.contains("--config"), "{}", missing.stderr);
    world.run("serve www --config serve.toml").code(2).warns("--config");
    assert!(!world.path("www").exists());
}

#[test]
fn public_address_without_tls_or_tokens_is_refused() {
    let world = World::new();
    world.write("tokens.toml", "");
    let tokens = "serve www --site docs --token-file tokens.toml --listen 0.0.0.0:0";
    world.run(tokens).code(2).warns("neither TLS nor a proxy").warns("--behind-proxy");
    world.run("serve www --no-auth --listen 0.0.0.0:0").code(2).warns("does not require a token");
    world
        .run("serve www --no-auth --behind-proxy --listen [::]:0")
        .code(2)
        .warns("does not require a token");
    world.run("serve www --no-auth --listen 7447").code(2).warns("--listen");
}

#[test]
fn serve_toml_is_checked_before_listening() {
    let world = World::new();
    world.run("serve --config serve.toml").code(2).warns("serve.toml");
    for (text, words) in [
        (format!("{SITE}kep = 3\n"), "serve.toml line 4, column 1: unknown field `kep`"),
        (String::new(), "there is no site"),
        (format!("listen = \"0.0.0.0:0\"\n{SITE}"), "neither TLS nor a proxy"),
        (format!("listen = \"127.0.0.1:0\"\n{SITE}"), "no token is configured"),
        (format!("tls = {{ cert = \"c.pem\", key = \"k.pem\" }}\n{SITE}"), "c.pem"),
    ] {
        world.write("serve.toml", &text);
        world.run("serve --config serve.toml").code(2).warns(words);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    world.run(&format!("serve www --no-auth --listen {address}")).code(1).warns("cannot listen on");
}

#[test]
fn new_token_is_printed_once_and_its_hash_is_stored() {
    let world = World::new();
    world.write("serve.toml", SITE);
    let run = world.ok("token new --site docs --allow push --expires 90d --config serve.toml");
    let token = run.stdout.trim().to_owned();
    let parsed =
        headwater::receiver::Token::parse(&token).expect("stdout is the token and nothing else");
    assert!(
        run.stderr.contains(&parsed.hash().to_hex().to_string())
            && !run.stderr.contains(&token[12..])
    );
    assert!(run.stderr.contains("SIGHUP") && !run.stderr.contains("restart"), "{}", run.stderr);
    // The printed lines can be appended unchanged.
    world.write("serve.toml", format!("{SITE}{}", run.stderr));
    let settings = headwater::config::serve::load(&world.path("serve.toml")).unwrap();
    let headwater::receiver::AuthPolicy::Tokens(tokens) = settings.access else {
        panic!("no tokens")
    };
    assert_eq!(tokens.len(), 1);
    assert!(tokens[0].expires.is_some() && tokens[0].hash == parsed.hash());
    let another = world.ok("token new --site docs --allow read").stdout;
    assert_ne!(another.trim(), token);
}

#[test]
fn token_is_added_only_if_the_file_stays_valid() {
    let world = World::new();
    let new = "token new --site docs --allow push --append";
    world.write("serve.toml", SITE.trim_end());
    world.chmod("serve.toml", 0o640);
    let inode = world.meta("serve.toml").ino();
    let run = world.ok(&format!("{new} serve.toml")).warns("added to serve.toml").warns("SIGHUP");
    let token = headwater::receiver::Token::parse(run.stdout.trim()).expect("only the token");
    assert!(!run.stderr.contains("hash"), "{}", run.stderr);
    world.ok(&format!("{new} serve.toml"));
    let meta = world.meta("serve.toml");
    assert_eq!((meta.ino(), meta.mode() & 0o777), (inode, 0o640));
    let settings = headwater::config::serve::load(&world.path("serve.toml")).unwrap();
    let headwater::receiver::AuthPolicy::Tokens(tokens) = settings.access else {
        panic!("no tokens")
    };
    assert_eq!((tokens.len(), tokens[0].hash), (2, token.hash()));
    // A token file can be empty.
    world.write("tokens.toml", "");
    world.ok(&format!("{new} tokens.toml"));
    world.ok(&format!("{new} tokens.toml"));
    assert_eq!(headwater::config::serve::load_tokens(&world.path("tokens.toml")).unwrap().len(), 2);
    // An error is printed on stderr, prints no token, and changes no file.
    world.write("unset.toml", "# [[site]]\n# name = 'docs'\n");
    world.write("broken.toml", "listen = \n");
    for (file, words) in [
        ("missing.toml", "cannot add the token to missing.toml"),
        ("unset.toml", "unset.toml has no [[site]] docs"),
        ("broken.toml", "broken.toml line 1"),
    ] {
        let before = world.files("");
        let run = world.run(&format!("{new} {file}")).code(2).warns(words);
        assert_eq!((&*run.stdout, world.files("")), ("", before));
    }
    let before = world.read("serve.toml");
    world.run("token new --site docs --alow push --append serve.toml").code(2).warns("--allow");
    assert_eq!(world.read("serve.toml"), before);
}

#[test]
fn token_without_site_or_permission_is_refused() {
    let world = World::new();
    world.write("serve.toml", SITE);
    world
        .run("token new --site blog --allow push --config serve.toml")
        .code(2)
        .warns("no [[site]] blog");
    world.run("token new --site docs --allow all").code(2).warns("push");
    world.run("token new --site docs").code(2).warns("--allow");
    world.run("token new --allow push").code(2).warns("--site");
    world.run("token new --site docs --allow push --expires soon").code(2).warns("--expires");
    world.run("token").code(2);
}

#[test]
fn receive_ends_with_its_client_and_refuses_foreign_directories() {
    let world = World::new();
    let run = world.ok("receive www --site docs");
    assert!(
        run.stdout.starts_with("headwater receive 1 {") && run.stdout.ends_with("}\n"),
        "{}",
        run.stdout
    );
    assert!(!world.path("www").exists(), "asking makes nothing");
    world.write("full/file", "not ours");
    world.run("receive full").code(1).warns("cannot serve full").warns("is not a mirror");
    world
        .run("serve full --no-auth --listen 127.0.0.1:0")
        .code(1)
        .warns("cannot serve full")
        .warns("is not a mirror");
    world.run("receive").code(2).warns("DIR");
    world.write("serve.toml", format!("{SITE}[[site]]\nname = \"blog\"\ndir = \"blog\"\n"));
    let run = world.ok("receive --config serve.toml");
    assert!(
        run.stdout.contains("\"/docs/\"") && run.stdout.contains("\"/blog/\""),
        "{}",
        run.stdout
    );
}
