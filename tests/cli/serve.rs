//! `headwater serve`, `receive` and `token`: flags, files, and errors before the receiver listens.

use std::os::unix::fs::MetadataExt as _;

use crate::harness::Workspace;

const SITE: &str = "[[site]]\nname = \"docs\"\ndir = \"www\"\n";

#[test]
fn serve_without_an_auth_setting_is_refused() {
    let workspace = Workspace::new();
    workspace.run("serve www").code(2).warns("no token is configured").warns("token new");
    workspace.run("serve").code(2).warns("DIR");
    workspace.run("serve www --no-auth --token-file t.toml").code(2).warns("--token-file");
    workspace.run("serve www --token-file t.toml").code(2).warns("--site");
    let missing = workspace
        .run("serve www --site docs --token-file t.toml")
        .code(2)
        .warns("--token-file")
        .warns("t.toml");
    assert!(!missing.stderr.contains("--config"), "{}", missing.stderr);
    workspace.run("serve www --config serve.toml").code(2).warns("--config");
    assert!(!workspace.path("www").exists());
}

#[test]
fn public_address_without_tls_or_tokens_is_refused() {
    let workspace = Workspace::new();
    workspace.write("tokens.toml", "");
    let tokens = "serve www --site docs --token-file tokens.toml --listen 0.0.0.0:0";
    workspace.run(tokens).code(2).warns("neither TLS nor a proxy").warns("--behind-proxy");
    workspace
        .run("serve www --no-auth --listen 0.0.0.0:0")
        .code(2)
        .warns("does not require a token");
    workspace
        .run("serve www --no-auth --behind-proxy --listen [::]:0")
        .code(2)
        .warns("does not require a token");
    workspace.run("serve www --no-auth --listen 7447").code(2).warns("--listen");
}

#[test]
fn serve_toml_is_checked_before_listening() {
    let workspace = Workspace::new();
    workspace.run("serve --config serve.toml").code(2).warns("serve.toml");
    for (text, words) in [
        (format!("{SITE}kep = 3\n"), "serve.toml line 4, column 1: unknown field `kep`"),
        (String::new(), "there is no site"),
        (format!("listen = \"0.0.0.0:0\"\n{SITE}"), "neither TLS nor a proxy"),
        (format!("listen = \"127.0.0.1:0\"\n{SITE}"), "no token is configured"),
        (format!("tls = {{ cert = \"c.pem\", key = \"k.pem\" }}\n{SITE}"), "c.pem"),
    ] {
        workspace.write("serve.toml", &text);
        workspace.run("serve --config serve.toml").code(2).warns(words);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    workspace
        .run(&format!("serve www --no-auth --listen {address}"))
        .code(1)
        .warns("cannot listen on");
}

#[test]
fn new_token_is_printed_once_and_its_hash_is_stored() {
    let workspace = Workspace::new();
    workspace.write("serve.toml", SITE);
    let run = workspace.ok("token new --site docs --allow push --expires 90d --config serve.toml");
    let token = run.stdout.trim().to_owned();
    let parsed = headwater::receiver::Token::parse(&token).expect("stdout contains only the token");
    assert!(
        run.stderr.contains(&parsed.hash().to_hex().to_string())
            && !run.stderr.contains(&token[12..])
    );
    assert!(run.stderr.contains("SIGHUP") && !run.stderr.contains("restart"), "{}", run.stderr);
    // The printed lines can be appended unchanged.
    workspace.write("serve.toml", format!("{SITE}{}", run.stderr));
    let settings = headwater::config::serve::load(&workspace.path("serve.toml")).unwrap();
    let headwater::receiver::AuthPolicy::Tokens(tokens) = settings.auth else {
        panic!("no tokens")
    };
    assert_eq!(tokens.len(), 1);
    assert!(tokens[0].expires.is_some() && tokens[0].hash == parsed.hash());
    let another = workspace.ok("token new --site docs --allow read").stdout;
    assert_ne!(another.trim(), token);
}

#[test]
fn token_is_added_only_if_the_file_stays_valid() {
    let workspace = Workspace::new();
    let new = "token new --site docs --allow push --append";
    workspace.write("serve.toml", SITE.trim_end());
    workspace.chmod("serve.toml", 0o640);
    let inode = workspace.meta("serve.toml").ino();
    let run =
        workspace.ok(&format!("{new} serve.toml")).warns("added to serve.toml").warns("SIGHUP");
    let token = headwater::receiver::Token::parse(run.stdout.trim())
        .expect("stdout contains only the token");
    assert!(!run.stderr.contains("hash"), "{}", run.stderr);
    workspace.ok(&format!("{new} serve.toml"));
    let meta = workspace.meta("serve.toml");
    assert_eq!((meta.ino(), meta.mode() & 0o777), (inode, 0o640));
    let settings = headwater::config::serve::load(&workspace.path("serve.toml")).unwrap();
    let headwater::receiver::AuthPolicy::Tokens(tokens) = settings.auth else {
        panic!("no tokens")
    };
    assert_eq!((tokens.len(), tokens[0].hash), (2, token.hash()));
    // A token file can be empty.
    workspace.write("tokens.toml", "");
    workspace.ok(&format!("{new} tokens.toml"));
    workspace.ok(&format!("{new} tokens.toml"));
    assert_eq!(
        headwater::config::serve::load_tokens(&workspace.path("tokens.toml")).unwrap().len(),
        2
    );
    // An error is printed on stderr, prints no token, and changes no file.
    workspace.write("unset.toml", "# [[site]]\n# name = 'docs'\n");
    workspace.write("broken.toml", "listen = \n");
    for (file, words) in [
        ("missing.toml", "cannot add the token to missing.toml"),
        ("unset.toml", "unset.toml has no [[site]] docs"),
        ("broken.toml", "broken.toml line 1"),
    ] {
        let before = workspace.files("");
        let run = workspace.run(&format!("{new} {file}")).code(2).warns(words);
        assert_eq!((&*run.stdout, workspace.files("")), ("", before));
    }
    let before = workspace.read("serve.toml");
    workspace.run("token new --site docs --alow push --append serve.toml").code(2).warns("--allow");
    assert_eq!(workspace.read("serve.toml"), before);
}

#[test]
fn token_without_site_or_permission_is_refused() {
    let workspace = Workspace::new();
    workspace.write("serve.toml", SITE);
    workspace
        .run("token new --site blog --allow push --config serve.toml")
        .code(2)
        .warns("no [[site]] blog");
    workspace.run("token new --site docs --allow all").code(2).warns("push");
    workspace.run("token new --site docs").code(2).warns("--allow");
    workspace.run("token new --allow push").code(2).warns("--site");
    workspace.run("token new --site docs --allow push --expires soon").code(2).warns("--expires");
    workspace.run("token").code(2);
}

#[test]
fn receive_ends_with_its_client_and_refuses_foreign_directories() {
    let workspace = Workspace::new();
    let run = workspace.ok("receive www --site docs");
    assert!(
        run.stdout.starts_with("headwater receive 1 {") && run.stdout.ends_with("}\n"),
        "{}",
        run.stdout
    );
    assert!(!workspace.path("www").exists(), "a state request creates nothing");
    workspace.write("full/file", "not ours");
    workspace.run("receive full").code(1).warns("cannot serve full").warns("is not a mirror");
    workspace
        .run("serve full --no-auth --listen 127.0.0.1:0")
        .code(1)
        .warns("cannot serve full")
        .warns("is not a mirror");
    workspace.run("receive").code(2).warns("DIR");
    workspace.write("serve.toml", format!("{SITE}[[site]]\nname = \"blog\"\ndir = \"blog\"\n"));
    let run = workspace.ok("receive --config serve.toml");
    assert!(
        run.stdout.contains("\"/docs/\"") && run.stdout.contains("\"/blog/\""),
        "{}",
        run.stdout
    );
}
