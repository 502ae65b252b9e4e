//! Retired entries that have expired are no longer served, without a new release.

use std::fs;

use headwater::mirror::{Depth, Mirror};
use headwater::monitor::SilentMonitor;

use crate::fixture::{Fixture, assert_serves, faults};
use crate::origin::{CompleteSource, Tree, Version};

/// Two times far in the future.
const EARLY: u64 = 4_000_000_000;
const LATE: u64 = 4_100_000_000;

fn tree() -> Tree {
    let tree = Tree::default().file("index.html", "<h1>one</h1>\n", 1_700_000_001);
    tree.retired("old/deep/early.js", "early\n", 1_700_000_001, EARLY).retired(
        "old/late.js",
        "late\n",
        1_700_000_001,
        LATE,
    )
}

/// Creates a mirror whose expiry mark says that the first entry is due, as after a crash before
/// anything was removed. So the test does not wait for a clock.
fn due<F: Fixture>() -> (F, Version) {
    let first = tree().release(1);
    let fixture = F::with(&[&first]);
    assert_serves(&fixture, &first);
    assert_eq!(fixture.mirror().state().unwrap().next_expiry, Some(EARLY));
    fs::write(fixture.store().join(".headwater/expired"), format!("{{\"through\":{EARLY}}}\n"))
        .unwrap();
    (fixture, first)
}

fn is_sound(mirror: &dyn Mirror) {
    assert_eq!(mirror.verify(Depth::Quick, &SilentMonitor).unwrap().faults, []);
    assert_eq!(faults(mirror), []);
}

fn serves(fixture: &impl Fixture, path: &str) -> bool {
    fixture.store().join("current").join(path).exists()
}

pub(crate) fn due_entries_are_removed_by_clean_up_and_prune<F: Fixture>() {
    for is_pruned in [false, true] {
        let (fixture, first) = due::<F>();
        let mirror = fixture.mirror();
        let state = mirror.state().unwrap();
        assert_eq!((state.next_expiry, state.expired_through), (Some(EARLY), EARLY));
        is_sound(&*mirror);
        assert!(serves(&fixture, "old/deep/early.js"));
        if is_pruned { mirror.prune(3).map(drop) } else { mirror.clean_up(3).map(drop) }.unwrap();
        assert!(!serves(&fixture, "old/deep") && serves(&fixture, "old/late.js"));
        is_sound(&*mirror);
        let state = mirror.state().unwrap();
        assert_eq!((state.next_expiry, state.expired_through), (Some(LATE), EARLY));
        assert_eq!(state.current, Some(first.name()), "expiry makes no release");
        assert!(
            mirror.object(&first.file("old/deep/early.js").object, 0).is_ok(),
            "the release stays complete"
        );
    }
}

pub(crate) fn expired_entries_are_not_restored<F: Fixture>() {
    let (fixture, first) = due::<F>();
    let mirror = fixture.mirror();
    mirror.clean_up(3).unwrap();
    fs::remove_file(fixture.store().join("current/index.html")).unwrap();
    let repaired = mirror.repair(&CompleteSource(vec![first.clone()]), &SilentMonitor).unwrap();
    assert_eq!(repaired.remaining, []);
    assert!(serves(&fixture, "index.html") && !serves(&fixture, "old/deep"));
    is_sound(&*mirror);
    // A release of an origin with a slow clock contains the entry again.
    let second = tree().file("new.html", "new\n", 1_700_000_002).release(2);
    second.bundle_from(Some(&first)).publish(&*mirror, Some(first.name()));
    assert!(
        serves(&fixture, "new.html")
            && serves(&fixture, "old/late.js")
            && !serves(&fixture, "old/deep")
    );
    is_sound(&*mirror);
    // An entry that returns to the tree is served again.
    let third = tree().file("old/deep/early.js", "early\n", 1_700_000_003).release(3);
    third.bundle_from(Some(&second)).publish(&*mirror, Some(second.name()));
    assert_serves(&fixture, &third);
}
