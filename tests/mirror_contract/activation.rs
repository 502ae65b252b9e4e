//! Activation of a release: when it succeeds, and when it is refused.

use std::fs::File;
use std::time::{Duration, Instant};

use headwater::hash::HistoryId;
use headwater::mirror::{Depth, ErrorKind, MirrorError};
use headwater::monitor::SilentMonitor;
use headwater::release::MAX_TIME;

use crate::fixture::{Fixture, assert_serves};
use crate::origin::{CompleteSource, Tree, first_tree, second_tree, site};

fn is_conflict(result: Result<(), MirrorError>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::Conflict)
}

pub(crate) fn activation_is_compare_and_set<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::new();
    let mirror = fixture.mirror();
    first.bundle_from(None).stage(&*mirror).unwrap();
    assert!(is_conflict(mirror.activate(first.name(), Some(second.name()))));
    assert_eq!(mirror.state().unwrap().current, None);
    mirror.activate(first.name(), None).unwrap();
    second.bundle_from(Some(&first)).stage(&*mirror).unwrap();
    for wrong in [None, Some(second.name()), Some(second_tree().release(1).name())] {
        assert!(is_conflict(mirror.activate(second.name(), wrong)), "{wrong:?}");
        assert_serves(&fixture, &first);
    }
    mirror.activate(second.name(), Some(first.name())).unwrap();
    assert_serves(&fixture, &second);
}

pub(crate) fn lower_rank_is_refused<F: Fixture>() {
    let base = first_tree().release(5);
    let fixture = F::with(&[&base]);
    let mirror = fixture.mirror();
    for (sequence, created) in [(1, MAX_TIME), (4, MAX_TIME), (5, base.release.created - 1)] {
        let mut other = second_tree().release(sequence);
        other.release.created = created;
        let error = other.bundle_from(Some(&base)).stage(&*mirror).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(is_conflict(mirror.activate(other.name(), Some(base.name()))));
    }
    assert_serves(&fixture, &base);
    // A release that was staged before a higher one became current.
    let (seventh, eighth) =
        (second_tree().release(7), Tree::default().file("x", "8", 8).release(8));
    seventh.bundle_from(Some(&base)).stage(&*mirror).unwrap();
    eighth.bundle_from(Some(&base)).publish(&*mirror, Some(base.name()));
    assert!(is_conflict(mirror.activate(seventh.name(), Some(eighth.name()))));
    assert_serves(&fixture, &eighth);
}

pub(crate) fn higher_rank_of_equal_sequence_is_accepted<F: Fixture>() {
    let base = first_tree().release(5);
    let fixture = F::with(&[&first_tree().without("empty.txt").release(4), &base]);
    let mirror = fixture.mirror();
    let mut other = second_tree().release(5);
    other.release.created = base.release.created + 1;
    other.bundle_from(Some(&base)).stage(&*mirror).unwrap();
    assert_eq!(mirror.state().unwrap().staged, Some(other.release.clone()));
    assert_serves(&fixture, &base);
    mirror.activate(other.name(), Some(base.name())).unwrap();
    assert_serves(&fixture, &other);
    let state = mirror.state().unwrap();
    assert_eq!((state.current, state.staged), (Some(other.name()), None));
    assert!(state.releases.contains(&base.release), "a release that was served stays kept");
    // The old release is refused.
    assert!(is_conflict(base.bundle_from(Some(&other)).stage(&*mirror).map(drop)));
    assert!(is_conflict(mirror.activate(base.name(), Some(other.name()))));
    assert_serves(&fixture, &other);
}

pub(crate) fn other_history_is_refused_unless_it_replaces_the_current_one<F: Fixture>() {
    let base = first_tree().release(5);
    let fixture = F::with(&[&base]);
    let mirror = fixture.mirror();
    let mut foreign = second_tree().release(9);
    foreign.release.history = HistoryId::from_bytes([0x22; 16]);
    let error = foreign.bundle_from(Some(&base)).stage(&*mirror).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherHistory, "{error}");
    for text in ["222222222222", "111111111111", &base.name().to_string()] {
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_serves(&fixture, &base);
    foreign.release.replaces = vec![base.release.history];
    foreign.bundle_from(Some(&base)).publish(&*mirror, Some(base.name()));
    assert_serves(&fixture, &foreign);
    // The replaced history stays older for ever.
    let late = first_tree().release(99);
    assert!(is_conflict(late.bundle_from(Some(&foreign)).stage(&*mirror).map(drop)));
    assert_serves(&fixture, &foreign);
}

pub(crate) fn only_a_staged_release_can_be_activated<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let mirror = fixture.mirror();
    assert!(is_conflict(mirror.activate(second.name(), Some(first.name()))));
    let mut delivery = second.bundle_from(Some(&first));
    delivery.cut_after = Some(1);
    delivery.stage(&*mirror).unwrap_err();
    assert!(is_conflict(mirror.activate(second.name(), Some(first.name()))));
    assert_serves(&fixture, &first);
}

pub(crate) fn activating_the_current_release_again_does_nothing<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first, &second]);
    for expected in [None, Some(first.name()), Some(second.name())] {
        fixture.mirror().activate(second.name(), expected).unwrap();
        assert_serves(&fixture, &second);
    }
}

pub(crate) fn abandoned_release_cannot_be_activated<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let mirror = fixture.mirror();
    let delivery = second.bundle_from(Some(&first));
    delivery.stage(&*mirror).unwrap();
    for _ in 0..2 {
        mirror.abandon(second.name()).unwrap();
        assert!(is_conflict(mirror.activate(second.name(), Some(first.name()))));
        assert_eq!(mirror.state().unwrap().highest_sequence, 1);
        assert_serves(&fixture, &first);
    }
    assert!(is_conflict(mirror.abandon(first.name())), "the current release stays");
    delivery.publish(&*mirror, Some(first.name()));
    assert!(is_conflict(mirror.abandon(first.name())), "a release that was served stays");
    assert_serves(&fixture, &second);
}

pub(crate) fn later_of_two_stages_takes_the_slot<F: Fixture>() {
    let first = first_tree().release(1);
    for sequence in [2, 3] {
        let fixture = F::with(&[&first]);
        let (one, other) = (fixture.mirror(), fixture.mirror());
        let earlier = second_tree().release(2);
        let later = Tree::default().file("later.txt", "later", 1_700_000_003).release(sequence);
        earlier.bundle_from(Some(&first)).stage(&*one).unwrap();
        later.bundle_from(Some(&first)).stage(&*other).unwrap();
        assert!(is_conflict(one.activate(earlier.name(), Some(first.name()))));
        assert_serves(&fixture, &first);
        other.activate(later.name(), Some(first.name())).unwrap();
        assert_serves(&fixture, &later);
        assert!(is_conflict(one.activate(earlier.name(), Some(first.name()))));
        let state = one.state().unwrap();
        assert_eq!(
            state.releases,
            [first.release.clone(), later.release.clone()],
            "the losing release was never served"
        );
    }
}

pub(crate) fn locked_mirror_reports_the_lock_and_can_be_read<F: Fixture>() {
    const WAIT: Duration = Duration::from_millis(60);
    let (first, second, third) =
        (first_tree().release(1), second_tree().release(2), first_tree().release(3));
    let fixture = F::with(&[&first]);
    let delivery = second.bundle_from(Some(&first));
    delivery.stage(&*fixture.mirror()).unwrap();
    let hasty = fixture.handle(&site(), WAIT);
    let lock = File::open(fixture.store().join(".headwater/lock")).unwrap();
    lock.lock().unwrap();
    let began = Instant::now();
    let failures = [
        third.bundle_from(Some(&first)).stage(&*hasty).map(drop),
        hasty.activate(second.name(), Some(first.name())),
        hasty.abandon(second.name()),
        hasty.clean_up(3).map(drop),
        hasty.prune(3).map(drop),
        hasty.verify(Depth::Full, &SilentMonitor).map(drop),
        hasty.repair(&CompleteSource(vec![]), &SilentMonitor).map(drop),
    ]
    .map(|result| result.unwrap_err().kind());
    assert_eq!(failures, [ErrorKind::Locked; 7]);
    assert!(began.elapsed() >= WAIT * 7, "each attempt waited for the lock");
    assert_eq!(hasty.state().unwrap().current, Some(first.name()));
    assert!(hasty.manifest(&first.release.manifest).is_ok());
    assert!(hasty.object(&first.file("app.js").object, 0).is_ok());
    drop(lock);
    // Content received by the locked mirror need not be sent again.
    let late = third.bundle_from(Some(&first));
    assert_eq!(late.stage(&*hasty).unwrap().sent, 0);
    hasty.activate(third.name(), Some(first.name())).unwrap();
    assert_serves(&fixture, &third);
}
