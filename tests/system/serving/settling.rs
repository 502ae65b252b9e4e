//! A receiver that settles by itself after a switch, if it is asked to.

use std::fs;

use serde_json::{Value, json};

use super::{Connection, Receiver, Whole, activation, assert_serves, stage_body, wait_until};
use crate::origin::{Delivery, Version, first_tree, second_tree};

/// Publishes with a wish for so many releases; answers what was said to it.
fn publish_settling(
    connection: &mut Connection,
    delivery: &Delivery,
    expected: Option<&Version>,
    keep: usize,
) -> Value {
    let body = stage_body(delivery, &delivery.packs, Whole::Yes);
    connection.ask("POST", "/v1/stage", &[], &body).ok();
    let expected = expected.map(|expected| expected.name().to_string());
    let mut wish: Value = serde_json::from_slice(&activation(delivery, expected.as_deref())).unwrap();
    wish["settle"] = json!(keep);
    connection.ask("POST", "/v1/activate", &[], &serde_json::to_vec(&wish).unwrap()).ok()
}

#[test]
fn the_second_slot_is_filled_and_old_releases_go_without_another_request() {
    let receiver = Receiver::open();
    let (first, second, third) = (first_tree().release(1), second_tree().release(2), first_tree().release(3));
    let mut connection = receiver.connect();
    let count = |directory: &str| fs::read_dir(receiver.mirror().join(".headwater").join(directory)).unwrap().count();
    let settles = json!({"settles": true});
    assert_eq!(publish_settling(&mut connection, &first.onto(None), None, 1), settles);
    wait_until("the second slot is there", || count("slots") == 2);
    assert_eq!(publish_settling(&mut connection, &second.onto(Some(&first)), Some(&first), 1), settles);
    assert_eq!(publish_settling(&mut connection, &third.onto(Some(&second)), Some(&second), 1), settles);
    // The second one is still in a slot.
    wait_until("the first release is gone", || count("releases") == 2);
    // Once that has the lock, the receiver is done.
    connection.ask("POST", "/v1/settle", &[], br#"{"keep":1}"#).ok();
    assert_eq!((count("slots"), count("releases")), (2, 2));
    assert_serves(&receiver.mirror(), 3);
}

#[test]
fn who_does_not_ask_for_it_settles_with_a_request_of_his_own() {
    let receiver = Receiver::open();
    let mut connection = receiver.connect();
    let first = first_tree().release(1).onto(None);
    connection.ask("POST", "/v1/stage", &[], &stage_body(&first, &first.packs, Whole::Yes)).ok();
    assert_eq!(connection.ask("POST", "/v1/activate", &[], &activation(&first, None)).ok(), json!({}));
    connection.ask("POST", "/v1/settle", &[], br#"{"keep":1}"#).ok();
    assert_eq!(fs::read_dir(receiver.mirror().join(".headwater/slots")).unwrap().count(), 2);
}
