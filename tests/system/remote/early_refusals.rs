//! Reasons to refuse a push are detected before content is sent: a plan reports them, and a store
//! with a different id is not filled.

use std::fs;

use headwater::receiver::{
    AuthPolicy, Permission, ReceiverSettings, SiteSettings, Token, TokenRecord,
};
use headwater::tree_path::Site;

use super::{Receiver, push, report, serves_tree};
use crate::harness::{Outcome, Sandbox, fingerprint};
use crate::trees::{Rng, Tree, seed};

/// Plans and pushes one tree to a receiver with these settings: both must fail in the same way, and
/// the plan changes nothing.
#[track_caller]
fn refused_alike(
    change: impl Fn(&mut ReceiverSettings),
    token: Option<&str>,
    code: i32,
    words: &str,
) {
    for is_published in [false, true] {
        let sandbox = Sandbox::new();
        if is_published {
            sandbox.publish(&Tree::small(), &["web"], &["--site", "docs"]);
        }
        let receiver = Receiver::with(&sandbox.path("web"), &change);
        let larger = Tree::small().file("large", Rng::new(seed()).bytes(2 << 20));
        sandbox.write("tree", &larger);
        let look = || sandbox.path("web").exists().then(|| fingerprint(&sandbox.path("web")));
        let before = look();
        let run = |command: &str, flags: &[&str]| {
            let (tree, url) = (sandbox.path_text("tree"), receiver.url());
            let mut program =
                sandbox.command(&[&[command, &tree, &url, "--site", "docs"], flags].concat());
            program.envs(token.map(|token| ("HEADWATER_TOKEN", token)));
            Outcome::of(&mut program)
        };
        let planned = run("plan", &[]).expect(&[code]);
        assert!(
            planned.stderr.contains(words) && planned.stderr.contains("would be refused"),
            "{planned}"
        );
        assert_eq!(look(), before, "{planned}");
        let plan = report(&run("plan", &["--json"]).expect(&[code]));
        assert!(plan["mirrors"][0]["error"].is_string() && plan["unmet"].is_string(), "{plan}");
        let pushed = report(&run("push", &["--json"]).expect(&[code]));
        assert_eq!(pushed["mirrors"][0]["outcome"], "failed", "{pushed}");
    }
}

fn site(change: impl Fn(&mut SiteSettings)) -> impl Fn(&mut ReceiverSettings) {
    move |settings| change(&mut settings.sites[0])
}

#[test]
fn plan_is_refused_if_the_push_lacks_space() {
    refused_alike(site(|site| site.min_free_bytes = u64::MAX / 2), None, 4, "bytes are free");
    refused_alike(site(|site| site.quota_bytes = Some(1 << 20)), None, 4, "the quota is 1048576");
    refused_alike(site(|site| site.quota_entries = Some(2)), None, 4, "the quota is 2");
}

#[test]
fn plan_is_refused_if_the_token_is_read_only() {
    let token = Token::random().unwrap();
    let text = token.reveal();
    let access = move |settings: &mut ReceiverSettings| {
        let (id, hash) = (token.id().clone(), token.hash());
        let docs = Site::new("docs").unwrap();
        settings.sites[0].name = Some(docs.clone());
        let record =
            TokenRecord { id, hash, sites: vec![docs], allow: Permission::Read, expires: None };
        settings.auth = AuthPolicy::Tokens(vec![record]);
    };
    refused_alike(access, Some(&text), 7, "may only read");
}

#[test]
fn plan_with_fewer_required_mirrors_names_the_failing_one() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::with(&sandbox.path("web"), site(|site| site.quota_bytes = Some(10)));
    sandbox.write("tree", &Tree::small());
    let tree = sandbox.path_text("tree");
    let places = [receiver.url(), sandbox.path_text("here")];
    let arguments =
        [&["plan", &*tree, &places[0], &places[1], "--site", "docs", "--require", "1"][..]]
            .concat();
    let planned = sandbox.run(&arguments).expect(&[3]);
    assert!(
        planned.stdout.contains("failed (no space)") && planned.stdout.contains("would be filled"),
        "{planned}"
    );
    let pushed = sandbox.run(&[&["push"], &arguments[1..]].concat()).expect(&[3]);
    assert!(
        pushed.stdout.contains("failed (no space)") && serves_tree(&sandbox, "here"),
        "{pushed}"
    );
}

#[test]
fn receiver_with_an_unmounted_volume_is_not_filled() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let (url, here) = (receiver.url(), sandbox.path_text("here"));
    let places = [&*url, &here];
    sandbox.write("tree", &Tree::small());
    push(&sandbox, &places, &[]).expect(&[0]);
    // The directory below the mount point while nothing is mounted; the receiver keeps running.
    fs::rename(sandbox.path("web"), sandbox.path("mounted")).unwrap();
    fs::create_dir(sandbox.path("web")).unwrap();
    sandbox.write("tree", &Tree::small().file("new.html", "new"));
    let is_untouched = || fs::read_dir(sandbox.path("web")).unwrap().count() == 0;
    for flags in [&[][..], &["--require", "any"]] {
        let code = if flags.is_empty() { 4 } else { 3 };
        let (tree, arguments) = (sandbox.path_text("tree"), [&places[..], flags].concat());
        for command in ["plan", "push"] {
            let outcome =
                sandbox.run(&[&[command, &tree], &arguments[..]].concat()).expect(&[code]);
            assert!(
                outcome.stderr.contains("it has no store now, but headwater remembers"),
                "{outcome}"
            );
            assert!(is_untouched(), "{outcome}");
        }
    }
    for arguments in [&["heal"][..], &["promote", &here]] {
        let outcome = sandbox.run(&[arguments, &[&url]].concat());
        assert!(
            outcome.code() != Some(0)
                && outcome.stderr.contains("it has no store now, but headwater remembers"),
            "{outcome}"
        );
        assert!(is_untouched(), "{outcome}");
    }
    // Another store is refused, too.
    fs::remove_dir(sandbox.path("web")).unwrap();
    push(&sandbox, &[&sandbox.path_text("other")], &[]).expect(&[0]);
    fs::rename(sandbox.path("other"), sandbox.path("web")).unwrap();
    let before = fingerprint(&sandbox.path("web"));
    let outcome = push(&sandbox, &places, &[]).expect(&[4]);
    assert!(
        outcome.stderr.contains("it has store") && outcome.stderr.contains("--init"),
        "{outcome}"
    );
    assert_eq!(fingerprint(&sandbox.path("web")), before);
    // When the volume is mounted again, the mirror is updated.
    fs::remove_dir_all(sandbox.path("web")).unwrap();
    fs::rename(sandbox.path("mounted"), sandbox.path("web")).unwrap();
    push(&sandbox, &places, &[]).expect(&[0]);
    assert!(serves_tree(&sandbox, "web"));
    // With `--init` a new mirror is created.
    fs::remove_dir_all(sandbox.path("web")).unwrap();
    push(&sandbox, &places, &["--init"]).expect(&[0]);
    push(&sandbox, &places, &[]).expect(&[0]);
    assert!(serves_tree(&sandbox, "web"));
}
