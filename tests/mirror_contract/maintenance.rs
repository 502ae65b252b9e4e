//! Content that maintenance removes, and content that it keeps.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::mirror::ErrorKind;

use crate::fixture::{Fixture, assert_serves, faults};
use crate::origin::{Tree, Version, first_tree, second_tree, site};

/// A release with one object of its own and one that all releases share.
fn numbered(sequence: u64) -> Version {
    let own = format!("only in {sequence}");
    Tree::default().file("own.txt", own, sequence).file("shared.txt", "shared", 1).release(sequence)
}

fn publish_numbered<F: Fixture>(
    fixture: &F,
    sequences: std::ops::RangeInclusive<u64>,
    keep: usize,
) -> Vec<Version> {
    let versions: Vec<_> = sequences.map(numbered).collect();
    let mirror = fixture.mirror();
    let mut base: Option<&Version> = None;
    for version in &versions {
        version.bundle_from(base).publish(&*mirror, base.map(Version::name));
        mirror.clean_up(keep).unwrap();
        base = Some(version);
    }
    versions
}

fn kept<F: Fixture>(fixture: &F) -> Vec<u64> {
    fixture.mirror().state().unwrap().releases.iter().map(|release| release.sequence).collect()
}

pub(crate) fn clean_up_keeps_the_newest_releases<F: Fixture>() {
    for (keep, wanted) in
        [(0, vec![5, 6]), (1, vec![5, 6]), (3, vec![4, 5, 6]), (9, (1..=6).collect())]
    {
        let fixture = F::new();
        let versions = publish_numbered(&fixture, 1..=6, keep);
        // The idle slot shows the previous release, so its record stays regardless of `keep`.
        assert_eq!(kept(&fixture), wanted, "keep {keep}");
        assert_eq!(fixture.object_count(), wanted.len() + 1, "keep {keep}");
        let mirror = fixture.mirror();
        for version in &versions {
            let is_kept = wanted.contains(&version.release.sequence);
            assert_eq!(mirror.object(&version.file("own.txt").object, 0).is_ok(), is_kept);
            assert_eq!(mirror.manifest(&version.release.manifest).is_ok(), is_kept);
        }
        assert_serves(&fixture, &versions[5]);
        assert_eq!(
            mirror.clean_up(keep).unwrap().pruned.objects,
            0,
            "a second clean-up drops nothing"
        );
    }
}

pub(crate) fn clean_up_keeps_content_of_a_staged_release<F: Fixture>() {
    let fixture = F::new();
    let versions = publish_numbered(&fixture, 1..=4, 9);
    let mirror = fixture.mirror();
    // Uses content that only release 1 has, before the clean-up of an earlier push.
    let fifth = Tree::default().file("own.txt", "only in 1", 5).release(5);
    fifth.bundle_from(Some(&versions[3])).stage(&*mirror).unwrap();
    let pruned = fixture.mirror().clean_up(1).unwrap().pruned;
    assert!(pruned.releases >= 2, "{pruned:?}");
    mirror.activate(fifth.name(), Some(versions[3].name())).unwrap();
    assert_serves(&fixture, &fifth);
}

pub(crate) fn prune_drops_unreferenced_content<F: Fixture>() {
    let fixture = F::new();
    let versions = publish_numbered(&fixture, 1..=5, 9);
    let mirror = fixture.mirror();
    let garbage = Tree::default().file("garbage", "staged and abandoned", 1).release(6);
    garbage.bundle_from(Some(&versions[4])).stage(&*mirror).unwrap();
    mirror.abandon(garbage.name()).unwrap();
    // Content that only the abandoned release had is removed with it.
    assert_eq!(fixture.object_count(), 6);
    // The stage uses the idle slot, so only the current release is in a slot.
    let pruned = mirror.prune(2).unwrap();
    assert_eq!((pruned.releases, pruned.objects), (3, 3));
    assert_eq!(kept(&fixture), [4, 5]);
    assert_eq!(fixture.object_count(), 3);
    assert_eq!(fixture.names(".headwater/manifests").len(), 2);
    assert_eq!(mirror.prune(2).unwrap(), Default::default(), "a second prune drops nothing");
    assert_serves(&fixture, &versions[4]);
    // A kept release can be rolled back to.
    let back =
        Tree::default().file("own.txt", "only in 4", 7).file("shared.txt", "shared", 1).release(7);
    back.bundle_from(Some(&versions[4])).publish(&*mirror, Some(versions[4].name()));
    assert_serves(&fixture, &back);
}

pub(crate) fn clean_up_keeps_resumable_content<F: Fixture>() {
    let first = first_tree().release(1);
    let second = second_tree().release(2);
    let fixture = F::with(&[&first]);
    let mut delivery = second.bundle_from(Some(&first));
    delivery.cut_after = Some(2);
    delivery.stage(&*fixture.mirror()).unwrap_err();
    fixture.mirror().clean_up(1).unwrap();
    delivery.cut_after = None;
    assert_eq!(delivery.publish(&*fixture.mirror(), Some(first.name())).held, 2);
    assert_serves(&fixture, &second);
}

pub(crate) fn prune_drops_content_of_unfinished_pushes<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let mut fixture = F::with(&[&first]);
    let mut delivery = second.bundle_from(Some(&first));
    delivery.cut_after = Some(2);
    delivery.stage(&*fixture.mirror()).unwrap_err();
    assert!(fixture.mirror().state().unwrap().incoming_bytes > 0);
    // A receiver keeps a stage open for a while, because its origin may return.
    fixture.restart();
    let begun = Instant::now();
    while fixture.names(".headwater/incoming") != ["tmp"] {
        assert!(begun.elapsed() < Duration::from_secs(60), "the quarantine is never dropped");
        fixture.mirror().prune(1).unwrap();
    }
    assert_eq!(fixture.mirror().state().unwrap().incoming_bytes, 0);
    delivery.cut_after = None;
    assert_eq!(delivery.publish(&*fixture.mirror(), Some(first.name())).held, 0);
    assert_serves(&fixture, &second);
}

pub(crate) fn running_stage_survives_a_prune<F: Fixture>() {
    let first = first_tree().release(1);
    let second = second_tree().release(2);
    for is_full in [true, false] {
        // The stage relies on objects that only the dropped release has.
        let fixture = F::with(&[&first, &Tree::default().file("x", "x", 1).release(2)]);
        let middle = Tree::default().file("x", "x", 1).release(2);
        let third = second_tree().release(3);
        let mut delivery = third.bundle_from(Some(&middle));
        let other = fixture.mirror();
        delivery.before_pack = Some(Box::new(move || {
            let pruned =
                if is_full { other.prune(1).map(drop) } else { other.clean_up(1).map(drop) };
            pruned.expect("a stage that receives packs does not block a prune");
        }));
        delivery.publish(&*fixture.mirror(), Some(middle.name()));
        assert_serves(&fixture, &third);
    }
    // The same while the very first release is being staged.
    let fixture = F::new();
    let mut delivery = second.bundle_from(None);
    let other: Arc<_> = fixture.mirror();
    delivery.before_pack = Some(Box::new(move || {
        other.prune(1).expect("a prune without anything to drop succeeds");
    }));
    delivery.publish(&*fixture.mirror(), None);
    assert_serves(&fixture, &second);
}

pub(crate) fn stage_waiting_for_the_lock_leaves_nothing_for_prune<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let delivery = second.bundle_from(Some(&first));
    let lock = File::open(fixture.store().join(".headwater/lock")).unwrap();
    lock.lock().unwrap();
    let error = delivery.stage(&*fixture.handle(&site(), Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    // The owner of the lock may prune: a record that waits there for the lock would be lost.
    assert_eq!(fixture.names(".headwater/incoming/tmp"), [""; 0]);
    drop(lock);
    delivery.publish(&*fixture.mirror(), Some(first.name()));
    assert_eq!(faults(&*fixture.mirror()), []);
}
