//! `POST v1/signatures`, with valid and invalid requests.

use headwater::pack::{Signature, SignatureKey, SignatureShape};
use headwater::protocol::{MAX_SIGNED_OBJECTS, SignatureRequest};

use super::pushes::publish;
use super::{Receiver, assert_serves, head};
use crate::origin::{Tree, first_tree, noise};

const PATH: &str = "/v1/signatures";
const KEY: SignatureKey = SignatureKey::from_bytes(*b"question");

#[test]
fn signature_request_returns_one_frame_per_file() {
    let receiver = Receiver::open();
    let content = noise(50_000, 1);
    let release = Tree::default().file("a", content.clone(), 1).link("b", "a").release(1);
    let asked = vec![(0, 16), (1, 16), (5, 16)];
    let question =
        SignatureRequest { base: release.release.manifest, key: KEY, files: asked }.encode();
    // Without a store no file is present, and the request creates no store.
    assert_eq!(receiver.ask("POST", PATH, &question).body, [0; 3]);
    assert!(!receiver.mirror().exists());
    let mut connection = receiver.connect();
    publish(&mut connection, &release.bundle_from(None), None);
    let shape = SignatureShape::new(50_000, 16);
    let signature = Signature::of(&content, shape, KEY);
    let expected = [&[1][..], signature.encode(), &[0, 0]].concat();
    assert_eq!(connection.ask("POST", PATH, &[], &question).body, expected);
    // The connection is used again, and nothing was kept.
    assert_eq!(connection.ask("POST", PATH, &[], &question).body, expected);
    assert_eq!(connection.ask("POST", PATH, &[], &question[..40]).body, [0; 0]);
}

#[test]
fn oversized_and_invalid_signature_requests_are_refused() {
    let receiver = Receiver::open();
    let release = first_tree().release(1);
    publish(&mut receiver.connect(), &release.bundle_from(None), None);
    let refused = |body: &[u8]| receiver.ask("POST", PATH, body).refusal();
    let of = |count: u64| {
        let asked = (0..count).map(|entry| (entry, 30)).collect();
        SignatureRequest { base: release.release.manifest, key: KEY, files: asked }.encode()
    };
    let most = MAX_SIGNED_OBJECTS as u64;
    assert_eq!(receiver.ask("POST", PATH, &of(most)).body.len() as u64 / most, 1);
    for body in [&b""[..], &[1; 39], &[1; 41], &[&of(3)[..], &[0x80; 3]].concat(), &of(most + 1)] {
        assert_eq!(refused(body), (400, "malformed".to_owned()), "{} bytes", body.len());
    }
    for method in ["GET", "PUT"] {
        assert_eq!(receiver.ask(method, PATH, b"").status, 405);
    }
    // An announced length far beyond the limit: refused unread.
    let mut large = receiver.connect();
    large.send(&head("POST", PATH, &[], 1 << 40));
    assert_eq!(large.answer().unwrap().refusal(), (413, "too_large".to_owned()));
    assert_serves(&receiver.mirror(), 1);
}

#[test]
fn file_with_a_wrong_length_is_left_out_unread() {
    let receiver = Receiver::open();
    let release = Tree::default().file("a", noise(3000, 1), 1).file("b", noise(3000, 2), 1);
    let release = release.file("c", noise(3000, 3), 1).release(1);
    publish(&mut receiver.connect(), &release.bundle_from(None), None);
    let of = |asked: &[u64]| {
        let asked = asked.iter().map(|entry| (*entry, 12)).collect();
        let base = release.release.manifest;
        receiver.ask("POST", PATH, &SignatureRequest { base, key: KEY, files: asked }.encode())
    };
    assert_eq!(of(&[0, 1, 2]).body.len(), 3 * 10);
    // An object with another length than in the manifest is left out and not read.
    let object = release.file("b").object.to_string();
    let path = receiver.mirror().join(".headwater/objects").join(&object[..2]).join(&object);
    std::fs::remove_file(&path).unwrap();
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(of(&[0, 1, 2]).body.len(), 2 * 10 + 1);
}
