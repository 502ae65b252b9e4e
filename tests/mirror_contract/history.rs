//! The history that a mirror records.

use std::fs;

use headwater::mirror::{Depth, EventKind};
use headwater::monitor::SilentMonitor;

use crate::fixture::{Fixture, assert_serves};
use crate::origin::{first_tree, second_tree};

fn recorded_events<F: Fixture>(fixture: &F) -> Vec<EventKind> {
    fixture.mirror().history().unwrap().into_iter().map(|happening| happening.kind).collect()
}

pub(crate) fn history_events_are_returned_in_order<F: Fixture>() {
    let fixture = F::new();
    let mirror = fixture.mirror();
    assert_eq!(mirror.history().unwrap(), [], "an absent mirror has no events");
    assert!(!fixture.store().exists(), "a history request created something");
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    first.bundle_from(None).publish(&*mirror, None);
    second.bundle_from(Some(&first)).publish(&*mirror, Some(first.name()));
    // Operations without an effect record no event.
    mirror.activate(second.name(), Some(first.name())).unwrap();
    let verified = mirror.verify(Depth::Quick, &SilentMonitor).unwrap();
    assert_eq!(verified.faults, []);
    let wanted = [
        EventKind::Switched { release: first.name(), from: None },
        EventKind::Switched { release: second.name(), from: Some(first.name()) },
        EventKind::Verified { quick: true, faults: 0 },
    ];
    let mut events = recorded_events(&fixture);
    // A verification whose response is lost is requested again.
    events.dedup();
    assert_eq!(events, wanted);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(mirror.history().unwrap().iter().all(|happening| now.abs_diff(happening.time) < 600));
}

pub(crate) fn torn_history_is_tolerated<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let log = fixture.store().join(".headwater/events.jsonl");
    let whole = fs::read(&log).unwrap();
    fs::write(&log, [&whole[..], b"{\"time\":1,\"event\":\"swit"].concat()).unwrap();
    second.bundle_from(Some(&first)).publish(&*fixture.mirror(), Some(first.name()));
    let switched = |from, release| EventKind::Switched { release, from };
    let wanted = [switched(None, first.name()), switched(Some(first.name()), second.name())];
    assert_eq!(recorded_events(&fixture), wanted);
    // A history that cannot be written does not stop an activation.
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    let third = first_tree().release(3);
    third.bundle_from(Some(&second)).publish(&*fixture.mirror(), Some(second.name()));
    assert_serves(&fixture, &third);
    assert!(fixture.mirror().history().is_err());
}
