//! An interrupted push resumes where it stopped.

use std::fs;
use std::sync::atomic::Ordering;

use headwater::mirror::ErrorKind;

use crate::fixture::{Fixture, assert_serves, tree_at};
use crate::origin::{Delivery, TransferCounts, Version, first_tree, second_tree};

/// Interrupts the transfer after `packs` packs.
fn interrupt(fixture: &impl Fixture, delivery: &mut Delivery, packs: usize) {
    delivery.cut_after = Some(packs);
    let mirror = fixture.mirror();
    // Like a push: a mirror that has none of it gets everything in the stage request.
    mirror.state().unwrap();
    let error = delivery.stage(&*mirror).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
    delivery.cut_after = None;
}

fn second_onto(first: &Version) -> (Version, Delivery) {
    let second = second_tree().release(2);
    let delivery = second.bundle_from(Some(first));
    (second, delivery)
}

pub(crate) fn received_packs_are_not_requested_again<F: Fixture>() {
    let first = first_tree().release(1);
    let (second, mut delivery) = second_onto(&first);
    let count = delivery.packs.len();
    assert!(count >= 3, "the test needs several packs");
    for cut in 0..=count {
        let fixture = F::with(&[&first]);
        for packs in cut.saturating_sub(1)..=cut {
            interrupt(&fixture, &mut delivery, packs);
            assert_serves(&fixture, &first);
        }
        let seen = delivery.publish(&*fixture.mirror(), Some(first.name()));
        assert_eq!(
            seen,
            TransferCounts { sent: (count - cut) as u64, held: cut as u64, resent: 0 },
            "cut after {cut}"
        );
        assert_serves(&fixture, &second);
        assert_eq!(fixture.names(".headwater/incoming"), ["tmp"], "the quarantine is removed");
    }
}

pub(crate) fn late_packs_are_accepted<F: Fixture>() {
    let first = first_tree().release(1);
    let (second, delivery) = second_onto(&first);
    let count = delivery.packs.len();
    for late in 0..=count {
        let fixture = F::with(&[&first]);
        delivery.late_after.store(late, Ordering::SeqCst);
        let mirror = fixture.mirror();
        mirror.state().unwrap();
        let seen = delivery.publish(&*mirror, Some(first.name()));
        assert_eq!(
            seen,
            TransferCounts { sent: count as u64, held: 0, resent: 0 },
            "late after {late}"
        );
        assert_serves(&fixture, &second);
    }
}

pub(crate) fn packs_damaged_in_quarantine_are_requested_again<F: Fixture>() {
    let first = first_tree().release(1);
    let harms: [fn(&std::path::Path); 4] = [
        |file| fs::remove_file(file).unwrap(),
        |file| fs::write(file, b"").unwrap(),
        |file| {
            let mut bytes = fs::read(file).unwrap();
            bytes[7] ^= 1;
            fs::write(file, bytes).unwrap();
        },
        |file| fs::write(file, [fs::read(file).unwrap(), b"more".to_vec()].concat()).unwrap(),
    ];
    for harm in harms {
        for place in ["objects", "parts", "held"] {
            let fixture = F::with(&[&first]);
            let (second, mut delivery) = second_onto(&first);
            let packs = delivery.packs.len();
            interrupt(&fixture, &mut delivery, packs);
            let incoming = fixture.names(".headwater/incoming");
            let key = incoming.iter().find(|name| *name != "tmp").expect("there is a quarantine");
            let dir = fixture.store().join(format!(".headwater/incoming/{key}/{place}"));
            let files =
                tree_at(&dir).into_keys().map(|name| dir.join(name)).filter(|file| file.is_file());
            for file in files {
                crate::damage::make_writable(&file);
                harm(&file);
            }
            // Extra bytes after the content may cost one attempt, but never make a wrong release.
            if delivery.stage(&*fixture.mirror()).is_err() {
                assert_serves(&fixture, &first);
            }
            delivery.publish(&*fixture.mirror(), Some(first.name()));
            assert_serves(&fixture, &second);
        }
    }
}

pub(crate) fn later_release_of_the_same_content_resumes<F: Fixture>() {
    let first = first_tree().release(1);
    let fixture = F::with(&[&first]);
    let (_, mut delivery) = second_onto(&first);
    let packs = delivery.packs.len();
    interrupt(&fixture, &mut delivery, packs - 1);
    // Another process at a later time: other times, so another manifest and release.
    let later =
        second_tree().file("app.js", "let answer = 42;\n".repeat(150), 1_700_009_999).release(7);
    let again = later.bundle_from(Some(&first));
    assert_eq!(again.key, delivery.key);
    let seen = again.publish(&*fixture.mirror(), Some(first.name()));
    assert_eq!((seen.held, seen.sent), (packs as u64 - 1, 1));
    assert_serves(&fixture, &later);
}

pub(crate) fn different_bundle_under_the_same_key_fails_at_most_once<F: Fixture>() {
    let first = first_tree().release(1);
    let fixture = F::with(&[&first]);
    let (_, mut delivery) = second_onto(&first);
    let packs = delivery.packs.len();
    interrupt(&fixture, &mut delivery, packs);
    let other =
        second_tree().file("aaa.txt", "takes the first ordinal", 5).without("app.js").release(3);
    let mut bundle_from = other.bundle_from(Some(&first));
    bundle_from.key = delivery.key;
    if bundle_from.stage(&*fixture.mirror()).is_err() {
        assert_serves(&fixture, &first);
    }
    bundle_from.publish(&*fixture.mirror(), Some(first.name()));
    assert_serves(&fixture, &other);
}
