//! Fleets of every kind of mirror, with faults.

use std::fs;

use super::{Receiver, push, report, serves_tree, ssh_flags, stand_in};
use crate::flaky_proxy::FlakyProxy;
use crate::harness::Sandbox;
use crate::trees::{Rng, Tree, seed};

#[test]
fn every_kind_of_mirror_gets_the_same_release() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let ssh = stand_in(&sandbox, "ssh", "");
    let places = [
        receiver.url(),
        format!("ssh://edge2{}", sandbox.path_text("shell")),
        sandbox.path_text("here"),
    ];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let mut rng = Rng::new(seed());
    let mut tree = Tree::random(&mut rng, 60);
    for round in 0..3 {
        tree.mutate(&mut rng);
        // Some mutations of the tree change nothing that is published.
        tree.put("round", format!("{round}"));
        sandbox.write("tree", &tree);
        push(&sandbox, &places, &ssh_flags(&ssh)).expect(&[0]);
        for mirror in ["web", "shell", "here"] {
            assert!(serves_tree(&sandbox, mirror), "{mirror}");
        }
    }
    // All kinds of mirrors answer the same requests.
    for command in ["status", "releases", "verify", "prune"] {
        sandbox.run(&[&[command], &places[..], &ssh_flags(&ssh)].concat()).expect(&[0]);
    }
    sandbox.run(&[&["diff", places[0], places[1]], &ssh_flags(&ssh)[..]].concat()).expect(&[0]);
    sandbox.run(&[&["rollback"], &places[..], &ssh_flags(&ssh)].concat()).expect(&[0]);
    let new = sandbox.path_text("new");
    sandbox.run(&["push", "--from", places[0], &new]).expect(&[0]);
    let served = ["web", "shell", "here", "new"].map(|mirror| sandbox.served(mirror).name);
    assert!(served.iter().all(|release| *release == served[0]), "{served:?}");
}

#[cfg(debug_assertions)]
#[test]
fn killed_receiver_is_named_and_healed_by_the_next_push() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let ssh = stand_in(&sandbox, "ssh", "");
    let dying = stand_in(&sandbox, "dying", "export HEADWATER_FAULT=kill@40");
    let places = [
        receiver.url(),
        format!("ssh://edge2{}", sandbox.path_text("shell")),
        sandbox.path_text("here"),
    ];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let mut rng = Rng::new(seed());
    let mut tree = Tree::random(&mut rng, 60);
    sandbox.write("tree", &tree);
    push(&sandbox, &places, &ssh_flags(&ssh)).expect(&[0]);
    for _ in 0..30 {
        tree.mutate(&mut rng);
    }
    sandbox.write("tree", &tree);
    let flags = [&ssh_flags(&dying)[..], &["--require", "2", "--json"]].concat();
    let outcome = push(&sandbox, &places, &flags).expect(&[3]);
    let report = report(&outcome);
    assert_eq!(report["mirrors"][1]["outcome"], "failed", "{report}");
    assert!(
        serves_tree(&sandbox, "web")
            && serves_tree(&sandbox, "here")
            && !serves_tree(&sandbox, "shell")
    );
    push(&sandbox, &places, &ssh_flags(&ssh)).expect(&[0]);
    for mirror in ["web", "shell", "here"] {
        assert!(serves_tree(&sandbox, mirror), "{mirror}");
    }
}

#[test]
fn large_content_has_separate_packs_and_is_sent_once() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let mut rng = Rng::new(seed());
    let tree = (0..3).fold(Tree::small(), |tree, index| {
        tree.file(&format!("large{index}"), rng.bytes(24 << 20))
    });
    sandbox.write("tree", &tree);
    // The proxy disrupts requests at random; each pack counts only once.
    let link = FlakyProxy::start(receiver.address(), 20, rng.next());
    let outcome =
        push(&sandbox, &[&format!("http://{}/", link.address())], &["--json"]).expect(&[0]);
    let report = report(&outcome);
    let sent = report["mirrors"][0]["sent_bytes"].as_u64().unwrap();
    assert!((72 << 20..80 << 20).contains(&sent), "{report}");
    assert!(report["mirrors"][0]["sent_packs"].as_u64().unwrap() > 2, "{report}");
    assert!(serves_tree(&sandbox, "web"));
}

#[test]
fn push_without_changes_costs_less_than_4_kb_per_mirror() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let link = FlakyProxy::start(receiver.address(), 0, 0);
    let url = format!("http://{}/", link.address());
    sandbox.write("tree", &Tree::random(&mut Rng::new(seed()), 300));
    push(&sandbox, &[&url], &[]).expect(&[0]);
    for _ in 0..2 {
        let before = link.bytes();
        push(&sandbox, &[&url], &[]).expect(&[0]);
        let cost = link.bytes() - before;
        assert!(0 < cost && cost < 4096, "{cost} bytes");
        fs::remove_dir_all(sandbox.path("cache")).unwrap();
    }
}
