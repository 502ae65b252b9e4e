//! Scheduled work of a receiver.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use super::pushes::publish;
use super::{Receiver, assert_serves, wait_until};
use crate::origin::Tree;

#[test]
fn due_entries_are_removed_without_a_request() {
    let receiver =
        Receiver::limited(|limits| limits.maintenance_interval = Duration::from_millis(20));
    const UNTIL: u64 = 4_000_000_000;
    let tree = Tree::default().file("index.html", "1", 1_700_000_001).retired(
        "old/gone.js",
        "gone",
        1_700_000_001,
        UNTIL,
    );
    publish(&mut receiver.connect(), &tree.release(1).bundle_from(None), None);
    let gone = receiver.mirror().join("current/old/gone.js");
    assert!(gone.exists());
    let incoming = receiver.mirror().join(".headwater/incoming");
    let (week, day) = (incoming.join("a".repeat(64)), incoming.join("b".repeat(64)));
    for (place, days) in [(&week, 8), (&day, 1)] {
        fs::create_dir(place).unwrap();
        // Creating the lock changes the time of the directory, so it is created first.
        File::create(place.join("lock")).unwrap();
        File::open(place)
            .unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(days * 86_400))
            .unwrap();
    }
    // The state after a crash: the entry is due, and nothing was removed yet.
    fs::write(receiver.mirror().join(".headwater/expired"), format!("{{\"through\":{UNTIL}}}\n"))
        .unwrap();
    wait_until("the retired file is removed", || !gone.exists());
    wait_until("week-old leftovers are removed", || !week.exists());
    assert!(day.exists(), "a push of yesterday can still be resumed");
    wait_until("the removal is logged", || receiver.logged().contains(r#""event":"upkeep""#));
    assert_serves(&receiver.mirror(), 1);
    let state = receiver.ask("GET", "/v1/state", b"").ok();
    assert_eq!(
        (&state["next_expiry"], &state["expired_through"]),
        (&serde_json::Value::Null, &UNTIL.into())
    );
}
