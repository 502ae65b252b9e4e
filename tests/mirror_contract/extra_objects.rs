//! Objects that a mirror has in addition to those of the base of a change.

use std::collections::HashSet;
use std::fs;

use headwater::hash::ObjectId;
use headwater::monitor::SilentMonitor;

use crate::damage::flip_byte;
use crate::fixture::{Fixture, assert_serves, tree_at, tree_of};
use crate::origin::{Tree, Version, first_tree, noise, second_tree};

/// More ids than one request can have.
const MORE_THAN_ONE_REQUEST: u64 = 40_000;

pub(crate) fn mirror_reports_which_objects_it_has<F: Fixture>() {
    let first = first_tree().release(1);
    let absent = F::new();
    let objects = first.named_objects();
    assert_eq!(
        absent.mirror().holds(&objects, &SilentMonitor).unwrap(),
        vec![false; objects.len()]
    );
    assert!(!absent.store().exists(), "a query creates no mirror");
    let fixture = F::with(&[&first]);
    let mirror = fixture.mirror();
    assert_eq!(mirror.holds(&objects, &SilentMonitor).unwrap(), vec![true; objects.len()]);
    assert!(mirror.holds(&[], &SilentMonitor).unwrap().is_empty());
    let [damaged, gone] = ["img/logo.bin", "index.html"].map(|path| first.file(path).object);
    flip_byte(&fixture.object_path(&damaged), 9);
    fs::remove_file(fixture.object_path(&gone)).unwrap();
    let mut asked: Vec<ObjectId> =
        (0..MORE_THAN_ONE_REQUEST).map(|number| ObjectId::of(&number.to_le_bytes())).collect();
    asked.extend(&objects);
    let held: HashSet<usize> = (0..)
        .zip(mirror.holds(&asked, &SilentMonitor).unwrap())
        .filter_map(|(at, is_held)| is_held.then_some(at))
        .collect();
    let whole =
        |at: &usize| objects.contains(&asked[*at]) && asked[*at] != damaged && asked[*at] != gone;
    assert_eq!(held, (0..asked.len()).filter(whole).collect());
}

/// Returns a release that shares content only with an older one, the two before it, and the shared
/// objects.
fn releases() -> ([Version; 2], Version, HashSet<ObjectId>) {
    let first = Tree::default().file("a", noise(3500, 1), 1).file("b", noise(900, 2), 1).release(1);
    let second = Tree::default().file("c", noise(900, 3), 2).release(2);
    let held = first.named_objects().into_iter().collect();
    let third = Tree::default().file("a", noise(3500, 1), 3).file("a2", noise(3500, 1), 4);
    let third = third
        .exec("b", noise(900, 2), 3)
        .file("c", noise(900, 3), 2)
        .file("d", noise(2500, 4), 3)
        .release(3);
    ([first, second], third, held)
}

pub(crate) fn objects_that_the_mirror_has_are_not_sent<F: Fixture>() {
    let ([first, second], third, held) = releases();
    // With a base that has none of the shared content, and without a base.
    for base in [Some(&second), None] {
        let fixture = F::with(&[&first, &second]);
        let held = if base.is_none() {
            held.iter().copied().chain(second.named_objects()).collect()
        } else {
            held.clone()
        };
        let delivery = third.bundle_with_extra(base, &held);
        assert_eq!(delivery.packs.len(), 1, "only the new file is sent");
        let seen = delivery.publish(&*fixture.mirror(), Some(second.name()));
        assert_eq!((seen.sent, seen.resent), (1, 0));
        assert_serves(&fixture, &third);
    }
}

pub(crate) fn objects_lost_since_the_query_are_requested<F: Fixture>() {
    let ([first, second], third, held) = releases();
    let harms: [fn(&std::path::Path); 2] = [
        |file| fs::remove_file(file).unwrap(),
        |file| {
            fs::remove_file(file).unwrap();
            fs::write(file, b"short").unwrap();
        },
    ];
    for harm in harms {
        let fixture = F::with(&[&first, &second]);
        let delivery = third.bundle_with_extra(Some(&second), &held);
        let lost = first.file("a").object;
        harm(&fixture.object_path(&lost));
        let seen = delivery.publish(&*fixture.mirror(), Some(second.name()));
        assert_eq!((seen.sent, seen.resent), (1, 1));
        assert_eq!(*delivery.asked.lock().unwrap(), [lost]);
        assert_serves(&fixture, &third);
    }
}

pub(crate) fn unavailable_object_id_is_refused<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let held = second.named_objects().into_iter().collect();
    let mut delivery = second.bundle_with_extra(Some(&first), &held);
    assert_eq!(delivery.packs.len(), 0);
    let lost = second.file("img/new.bin").object;
    // The origin does not have the object, or has other content for it.
    let content = delivery.objects.insert(lost, noise(4200, 99).into()).unwrap();
    delivery.stage(&*fixture.mirror()).unwrap_err();
    delivery.objects.remove(&lost);
    let error = delivery.stage(&*fixture.mirror()).unwrap_err();
    assert!(error.to_string().contains(&lost.to_string()), "{error}");
    assert_eq!(fixture.mirror().state().unwrap().current, Some(first.name()));
    assert!(tree_at(&fixture.store().join("current/")) == tree_of(&first));
    delivery.objects.insert(lost, content);
    delivery.publish(&*fixture.mirror(), Some(first.name()));
    assert_serves(&fixture, &second);
}
