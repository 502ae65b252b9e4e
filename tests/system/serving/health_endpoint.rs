//! The health endpoint without a token: whether every site serves a release, and which one.

use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use super::pushes::publish;
use super::{Complete, Receiver, activation, stage_body};
use crate::origin::{Version, first_tree, second_tree};

/// Returns the status while this release is served.
fn status_of(receiver: &Receiver, version: &Version) -> Value {
    // Each activation creates the link anew.
    let switched = receiver.mirror().join("current").symlink_metadata().unwrap().mtime();
    json!({
        "site": "docs",
        "sequence": version.release.sequence,
        "release": version.name().to_string(),
        "published": version.release.created,
        "activated": switched,
    })
}

#[test]
fn site_is_ready_once_it_serves_a_release() {
    let receiver = Receiver::open();
    let ask = |path: &str| receiver.ask("GET", path, b"");
    let nothing = json!({
        "site": "docs", "sequence": null, "release": null, "published": null, "activated": null
    });
    let is_not_ready = || {
        assert_eq!(ask("/ready").refusal(), (503, "busy".to_owned()));
        assert_eq!(ask("/status.json").json(), nothing);
    };
    is_not_ready();
    let (first, second) = (first_tree().release(7), second_tree().release(9));
    let delivery = first.bundle_from(None);
    receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &delivery.packs, Complete::Yes)).ok();
    // A release that is present but not served does not count.
    is_not_ready();
    receiver.ask("POST", "/v1/activate", &activation(&delivery, None)).ok();
    assert_eq!(ask("/ready").ok(), json!({}));
    assert_eq!(ask("/status.json").json(), status_of(&receiver, &first));
    publish(&mut receiver.connect(), &second.bundle_from(Some(&first)), Some(&first));
    assert_eq!(ask("/ready").ok(), json!({}));
    assert_eq!(ask("/status.json").json(), status_of(&receiver, &second));
}

#[test]
fn site_whose_release_is_missing_is_not_ready() {
    let receiver = Receiver::open();
    publish(&mut receiver.connect(), &first_tree().release(1).bundle_from(None), None);
    receiver.ask("GET", "/ready", b"").ok();
    let served = receiver.mirror().join("current").canonicalize().unwrap();
    std::fs::rename(served, receiver.mirror().join("away")).unwrap();
    assert_eq!(receiver.ask("GET", "/ready", b"").status, 503);
}
