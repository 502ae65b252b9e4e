//! `POST v1/holds`, with valid and invalid requests.

use serde_json::json;

use super::pushes::publish;
use super::{Receiver, assert_serves, head};
use crate::origin::first_tree;

/// The maximum of ids in one request.
const MAX_IDS: usize = 32 * 1024;

#[test]
fn holds_request_returns_one_bit_per_object() {
    let receiver = Receiver::open();
    let release = first_tree().release(1);
    let held: Vec<u8> =
        release.named_objects().iter().flat_map(|object| *object.as_bytes()).collect();
    assert_eq!(held.len(), 7 * 32);
    // Without a store no object is present, and the request creates no store.
    assert_eq!(receiver.ask("POST", "/v1/holds", &held).ok(), json!({"bits": "00"}));
    assert!(!receiver.mirror().exists());
    let mut connection = receiver.connect();
    publish(&mut connection, &release.bundle_from(None), None);
    assert_eq!(connection.ask("POST", "/v1/holds", &[], &held).ok(), json!({"bits": "7f"}));
    let body = [&[7; 64][..], &held, &[9; 32]].concat();
    assert_eq!(connection.ask("POST", "/v1/holds", &[], &body).ok(), json!({"bits": "fc01"}));
    assert_eq!(connection.ask("POST", "/v1/holds", &[], b"").ok(), json!({"bits": ""}));
    let most = connection.ask("POST", "/v1/holds", &[], &[5; 32 * MAX_IDS]).ok();
    assert_eq!(most["bits"].as_str().unwrap(), "0".repeat(MAX_IDS / 4));
}

#[test]
fn invalid_holds_requests_are_refused() {
    let receiver = Receiver::open();
    publish(&mut receiver.connect(), &first_tree().release(1).bundle_from(None), None);
    let refused = |body: &[u8]| receiver.ask("POST", "/v1/holds", body).refusal();
    for length in [1, 31, 33, 32 * MAX_IDS - 1] {
        assert_eq!(refused(&vec![1; length]), (400, "malformed".to_owned()), "{length} bytes");
    }
    assert_eq!(refused(&vec![1; 32 * MAX_IDS + 32]), (413, "too_large".to_owned()));
    assert_eq!(receiver.ask("GET", "/v1/holds", b"").status, 405);
    assert_eq!(receiver.ask("PUT", "/v1/holds", b"").status, 405);
    // An announced length far beyond the limit: refused unread.
    let mut large = receiver.connect();
    large.send(&head("POST", "/v1/holds", &[], 1 << 40));
    assert_eq!(large.answer().unwrap().refusal(), (413, "too_large".to_owned()));
    // A request that ends in the middle of an id.
    let mut cut = receiver.connect();
    cut.send(&head("POST", "/v1/holds", &[], 64));
    cut.send(&[1; 40]);
    cut.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(cut.answer().is_none_or(|answer| answer.kind() == "malformed"));
    assert_serves(&receiver.mirror(), 1);
    receiver.ask("GET", "/v1/state", b"").ok();
}
