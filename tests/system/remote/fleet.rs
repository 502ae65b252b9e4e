//! Fleets of every kind of mirror, with faults.

use std::fs;

use super::{Receiver, over, push, report, serves_tree, stand_in};
use crate::flaky_proxy::FlakyProxy;
use crate::harness::World;
use crate::trees::{Rng, Tree, seed};

#[test]
fn every_kind_of_mirror_gets_the_same_release() {
    let world = World::new();
    let receiver = Receiver::start(&world.path("web"));
    let ssh = stand_in(&world, "ssh", "");
    let places = [receiver.url(), format!("ssh://edge2{}", world.at("shell")), world.at("here")];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let mut rng = Rng::new(seed());
    let mut tree = Tree::random(&mut rng, 60);
    for round in 0..3 {
        tree.mutate(&mut rng);
        // Some mutations of the tree change nothing that is published.
        tree.put("round", format!("{round}"));
        world.write("tree", &tree);
        push(&world, &places, &over(&ssh)).expect(&[0]);
        for mirror in ["web", "shell", "here"] {
            assert!(serves_tree(&world, mirror), "{mirror}");
        }
    }
    // All kinds of mirrors answer the same requests.
    for command in ["status", "releases", "verify", "prune"] {
        world.run(&[&[command], &places[..], &over(&ssh)].concat()).expect(&[0]);
    }
    world.run(&[&["diff", places[0], places[1]], &over(&ssh)[..]].concat()).expect(&[0]);
    world.run(&[&["rollback"], &places[..], &over(&ssh)].concat()).expect(&[0]);
    let new = world.at("new");
    world.run(&["push", "--from", places[0], &new]).expect(&[0]);
    let served = ["web", "shell", "here", "new"].map(|mirror| world.served(mirror).name);
    assert!(served.iter().all(|release| *release == served[0]), "{served:?}");
}

#[cfg(debug_assertions)]
#[test]
fn killed_receiver_is_named_and_healed_by_the_next_push() {
    let world = World::new();
    let receiver = Receiver::start(&world.path("web"));
    let ssh = stand_in(&world, "ssh", "");
    let dying = stand_in(&world, "dying", "export HEADWATER_FAULT=kill@40");
    let places = [receiver.url(), format!("ssh://edge2{}", world.at("shell")), world.at("here")];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let mut rng = Rng::new(seed());
    let mut tree = Tree::random(&mut rng, 60);
    world.write("tree", &tree);
    push(&world, &places, &over(&ssh)).expect(&[0]);
    for _ in 0..30 {
        tree.mutate(&mut rng);
    }
    world.write("tree", &tree);
    let flags = [&over(&dying)[..], &["--require", "2", "--json"]].concat();
    let outcome = push(&world, &places, &flags).expect(&[3]);
    let report = report(&outcome);
    assert_eq!(report["mirrors"][1]["outcome"], "failed", "{report}");
    assert!(
        serves_tree(&world, "web") && serves_tree(&world, "here") && !serves_tree(&world, "shell")
    );
    push(&world, &places, &over(&ssh)).expect(&[0]);
    for mirror in ["web", "shell", "here"] {
        assert!(serves_tree(&world, mirror), "{mirror}");
    }
}

#[test]
fn large_content_has_separate_packs_and_is_sent_once() {
    let world = World::new();
    let receiver = Receiver::start(&world.path("web"));
    let mut rng = Rng::new(seed());
    let tree = (0..3).fold(Tree::small(), |tree, index| {
        tree.file(&format!("large{index}"), rng.bytes(24 << 20))
    });
    world.write("tree", &tree);
    // The proxy disrupts requests at random; each pack counts only once.
    let link = FlakyProxy::start(receiver.address(), 20, rng.next());
    let outcome = push(&world, &[&format!("http://{}/", link.address())], &["--json"]).expect(&[0]);
    let report = report(&outcome);
    let sent = report["mirrors"][0]["sent_bytes"].as_u64().unwrap();
    assert!((72 << 20..80 << 20).contains(&sent), "{report}");
    assert!(report["mirrors"][0]["sent_packs"].as_u64().unwrap() > 2, "{report}");
    assert!(serves_tree(&world, "web"));
}

#[test]
fn push_without_changes_costs_less_than_4_kb_per_mirror() {
    let world = World::new();
    let receiver = Receiver::start(&world.path("web"));
    let link = FlakyProxy::start(receiver.address(), 0, 0);
    let url = format!("http://{}/", link.address());
    world.write("tree", &Tree::random(&mut Rng::new(seed()), 300));
    push(&world, &[&url], &[]).expect(&[0]);
    for _ in 0..2 {
        let before = link.bytes();
        push(&world, &[&url], &[]).expect(&[0]);
        let cost = link.bytes() - before;
        assert!(0 < cost && cost < 4096, "{cost} bytes");
        fs::remove_dir_all(world.path("cache")).unwrap();
    }
}
