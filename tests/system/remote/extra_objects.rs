//! Objects that a mirror has in addition to its base are not sent again, and its report about them
//! affects only what is sent.

use std::fs;

use super::{Receiver, report, serves_tree, ssh_flags, stand_in};
use crate::harness::{Outcome, Sandbox};
use crate::trees::{Rng, Tree};

/// The content of one file, which is larger than everything else that is sent.
const LARGE: usize = 1_200_000;

fn large(seed: u64) -> Vec<u8> {
    Rng::new(seed).bytes(LARGE)
}

/// A site with `version` in the name and the content of a large file.
fn tree(version: u64) -> Tree {
    let tree = (0..40).fold(Tree::default(), |tree, page| {
        tree.file(&format!("{page}.html"), format!("page {page}"))
    });
    tree.file("index.html", format!("version {version}"))
        .file(&format!("app.{version}.js"), large(version))
}

/// A mirror behind a receiver, and one behind `ssh`.
pub(super) struct Pair {
    pub(super) sandbox: Sandbox,
    receiver: Receiver,
    ssh: String,
}

impl Pair {
    pub(super) fn new() -> Self {
        let sandbox = Sandbox::new();
        let receiver = Receiver::start(&sandbox.path("one"));
        let ssh = stand_in(&sandbox, "ssh", "");
        Self { sandbox, receiver, ssh }
    }

    /// Runs a command on both.
    pub(super) fn ask(&self, command: &[&str], flags: &[&str]) -> Outcome {
        let (url, two) =
            (self.receiver.url(), format!("ssh://edge2{}", self.sandbox.path_text("two")));
        self.sandbox.run(&[command, &[&url, &two], flags, &ssh_flags(&self.ssh)].concat())
    }

    /// Publishes without the cache of the origin; returns the bytes that each mirror was sent.
    #[track_caller]
    fn run(&self, command: &[&str], flags: &[&str]) -> Vec<u64> {
        fs::remove_dir_all(self.sandbox.path("cache")).unwrap();
        let report = report(&self.ask(command, &[&["--json"], flags].concat()).expect(&[0]));
        report["mirrors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mirror| mirror["sent_bytes"].as_u64().unwrap())
            .collect()
    }

    #[track_caller]
    fn publish(&self, tree: &Tree, flags: &[&str]) -> Vec<u64> {
        self.sandbox.write("tree", tree);
        self.run(
            &["push", &self.sandbox.path_text("tree")],
            &[flags, &["--again", "--allow-shrink"]].concat(),
        )
    }

    #[track_caller]
    fn check(&self) {
        for mirror in ["one", "two"] {
            assert!(serves_tree(&self.sandbox, mirror), "{mirror}");
            self.sandbox.run(&["verify", &self.sandbox.path_text(mirror)]).expect(&[0]);
        }
    }
}

#[track_caller]
fn check_little(sent: &[u64]) {
    assert!(sent.len() == 2 && sent.iter().all(|bytes| *bytes < 20_000), "{sent:?}");
}

#[test]
fn staged_content_never_served_is_not_sent_again() {
    let pair = Pair::new();
    pair.publish(&tree(1), &[]);
    let staged = pair.publish(&tree(2), &["--stage-only"]);
    assert!(staged.iter().all(|bytes| *bytes > LARGE as u64), "{staged:?}");
    check_little(&pair.publish(&tree(2).file("more.html", "more"), &[]));
    pair.check();
}

#[test]
fn content_of_older_releases_is_not_sent_again() {
    let pair = Pair::new();
    for version in [1, 2] {
        let sent = pair.publish(&tree(version), &[]);
        assert!(sent.iter().all(|bytes| *bytes > LARGE as u64), "{sent:?}");
    }
    // The same tree again, whose content is no longer in the current release.
    check_little(&pair.publish(&tree(1), &["--keep-removed", "0s"]));
    pair.check();
    // And back, from kept releases.
    check_little(&pair.run(&["rollback", "--to", "2"], &[]));
    for mirror in ["one", "two"] {
        assert!(
            fs::read(pair.sandbox.path(format!("{mirror}/current/app.2.js"))).unwrap() == large(2)
        );
        pair.sandbox.run(&["verify", &pair.sandbox.path_text(mirror)]).expect(&[0]);
    }
}

#[test]
fn mirror_without_a_base_gets_only_missing_content() {
    let pair = Pair::new();
    pair.publish(&tree(1), &[]);
    // No manifest can be read on any mirror, and one mirror has lost content, too.
    for mirror in ["one", "two"] {
        let manifests =
            fs::read_dir(pair.sandbox.path(format!("{mirror}/.headwater/manifests"))).unwrap();
        manifests.for_each(|manifest| fs::write(manifest.unwrap().path(), "damaged").unwrap());
    }
    let hex = blake3::hash(&large(1)).to_hex();
    fs::remove_file(pair.sandbox.path(format!("two/.headwater/objects/{}/{hex}", &hex[..2])))
        .unwrap();
    let sent = pair.publish(&tree(1).file("more.html", "more"), &[]);
    assert!(sent[0] < 20_000 && sent[1] > LARGE as u64, "{sent:?}");
    // Damage of the previous release is left to `repair`.
    for mirror in ["one", "two"] {
        for path in ["0.html", "index.html", "app.1.js", "more.html"] {
            let read = |at: String| fs::read(pair.sandbox.path(at)).unwrap();
            assert!(
                read(format!("{mirror}/current/{path}")) == read(format!("tree/{path}")),
                "{mirror}: {path}"
            );
        }
    }
}

#[test]
fn copy_and_heal_do_not_send_content_of_kept_releases() {
    let pair = Pair::new();
    for version in [1, 2] {
        pair.publish(&tree(version), &["--keep-removed", "0s"]);
    }
    // A hub of the same history publishes the content of release 1 again, then that of release 2.
    let (hub, tree_path) = (pair.sandbox.path_text("hub"), pair.sandbox.path_text("tree"));
    pair.sandbox.run(&["push", "--from", &pair.receiver.url(), &hub]).expect(&[0]);
    let publish_at_hub = |version| {
        pair.sandbox.write("tree", &tree(version));
        let flags = ["--again", "--allow-shrink", "--keep-removed", "0s"];
        pair.sandbox.run(&[&["push", &*tree_path, &hub][..], &flags].concat()).expect(&[0]);
    };
    publish_at_hub(1);
    check_little(&pair.run(&["push", "--from", &hub], &[]));
    pair.check();
    publish_at_hub(2);
    let sent = pair.run(&["heal", &hub], &[]);
    assert_eq!(sent.len(), 3, "{sent:?}");
    check_little(&sent[1..]);
    pair.check();
}
