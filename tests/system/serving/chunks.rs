//! A stage request with packs that are built while it is sent: its length is not known in advance,
//! so it uses chunked encoding and marks its own end.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    Complete, Connection, PATIENCE, Receiver, activation, assert_serves, framed_pack, stage_body,
    wait_until,
};
use crate::origin::{Delivery, first_tree, noise};

const HEAD: &str = "POST /v1/stage HTTP/1.1\r\nhost: mirror\r\nheadwater-protocol: 1\r\n";
const LAST: &[u8] = b"0\r\n\r\n";

/// Returns the body in chunks of this many bytes, without the last one.
fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
    body.chunks(size).flat_map(chunk).collect()
}

/// Sends a stage request in chunks, without the last chunk.
fn send(connection: &mut Connection, body: &[u8], size: usize) {
    connection.send(HEAD.as_bytes());
    connection.send(b"transfer-encoding: chunked\r\n\r\n");
    connection.send(&chunks(body, size));
}

fn delivery() -> Delivery {
    let delivery =
        first_tree().file("big.bin", noise(60_000, 3), 1_700_000_001).release(1).bundle_from(None);
    assert!(delivery.packs.len() > 1);
    delivery
}

/// Returns the parts of a stage request before its packs.
fn without_packs(delivery: &Delivery) -> Vec<u8> {
    let whole = stage_body(delivery, &delivery.packs, Complete::Yes);
    let packs: usize = delivery.packs.iter().map(|pack| 36 + pack.bytes.len()).sum();
    whole[..whole.len() - packs - 36].to_vec()
}

#[test]
fn chunked_stage_is_accepted_with_any_chunk_size() {
    for size in [1, 7, 1000, 1 << 20] {
        let receiver = Receiver::open();
        let delivery = delivery();
        let mut connection = receiver.connect();
        send(&mut connection, &stage_body(&delivery, &delivery.packs, Complete::Yes), size);
        connection.send(LAST);
        assert_eq!(connection.answer().unwrap().ok(), json!({"staged": {"resent": 0}}));
        connection.ask("POST", "/v1/activate", &[], &activation(&delivery, None)).ok();
        assert_serves(&receiver.mirror(), 1);
        let bytes = stage_body(&delivery, &delivery.packs, Complete::Yes).len();
        assert!(
            receiver.logged().contains(&format!(r#""body_bytes":{bytes}"#)),
            "{}",
            receiver.logged()
        );
    }
}

#[test]
fn incomplete_packs_are_kept_until_the_rest_arrives() {
    let receiver = Receiver::open();
    let delivery = delivery();
    let mut connection = receiver.connect();
    send(&mut connection, &stage_body(&delivery, &delivery.packs[..1], Complete::No), 500);
    connection.send(LAST);
    assert_eq!(
        connection.answer().unwrap().ok(),
        json!({"held": [delivery.packs[0].id.to_string()]})
    );
    // Packs that the receiver has may be sent again.
    send(&mut connection, &stage_body(&delivery, &delivery.packs, Complete::Yes), 500);
    connection.send(LAST);
    assert_eq!(connection.answer().unwrap().ok(), json!({"staged": {"resent": 0}}));
}

#[test]
fn truncated_stage_keeps_its_packs_and_stays_incomplete() {
    let receiver = Receiver::open();
    let delivery = delivery();
    let body = stage_body(&delivery, &delivery.packs, Complete::Yes);
    let first = without_packs(&delivery).len() + 36 + delivery.packs[0].bytes.len();
    for end in [first + 50, body.len() - 36, body.len() - 1, body.len()] {
        let mut connection = receiver.connect();
        send(&mut connection, &body[..end], 700);
        // In the last round everything is sent except the last chunk.
        connection.stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        if let Some(answer) = connection.answer() {
            assert_eq!(answer.refusal().1, "malformed");
        }
        let held =
            receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No)).ok();
        assert!(
            held["held"].as_array().unwrap().contains(&json!(delivery.packs[0].id.to_string())),
            "{held}"
        );
        assert_eq!(receiver.ask("GET", "/v1/state", b"").ok()["staged"], json!(null));
    }
}

#[test]
fn stage_with_an_invalid_end_is_refused() {
    let receiver = Receiver::open();
    let delivery = delivery();
    let (before, pack) = (without_packs(&delivery), &delivery.packs[0]);
    let of_both = [&[1; 31][..], &[0; 5]].concat();
    for (what, packs) in [
        ("no end", framed_pack(pack, &pack.bytes)),
        ("an end that is neither", of_both),
        ("an end of neither kind", [&[2; 32][..], &[0; 4]].concat()),
        ("something behind the end", [&[0; 36][..], b"x"].concat()),
        ("a pack behind the end", [vec![0; 36], framed_pack(pack, &pack.bytes)].concat()),
        ("a head that is cut", vec![0; 20]),
        ("nothing at all", Vec::new()),
    ] {
        let mut connection = receiver.connect();
        send(&mut connection, &[before.clone(), packs].concat(), 900);
        connection.send(LAST);
        assert_eq!(connection.answer().unwrap().refusal(), (400, "malformed".to_owned()), "{what}");
    }
    let mut connection = receiver.connect();
    let long = [&pack.id.as_bytes()[..], &u32::MAX.to_be_bytes(), b"pack"].concat();
    send(&mut connection, &[before, long].concat(), 900);
    connection.send(LAST);
    assert_eq!(
        connection.answer().unwrap().refusal().1,
        "malformed",
        "a pack longer than the maximum"
    );
    let whole = stage_body(&delivery, &delivery.packs, Complete::Yes);
    assert_eq!(receiver.ask("POST", "/v1/stage", &whole).ok(), json!({"staged": {"resent": 0}}));
}

#[test]
fn too_many_packs_in_a_request_are_refused_unread() {
    let receiver = Receiver::open();
    let delivery = delivery();
    let mut connection = receiver.connect();
    let pack = &delivery.packs[0];
    // The receiver has them after the first time, so they cost only their bytes.
    let many = framed_pack(pack, &pack.bytes).repeat((64 << 20) / pack.bytes.len());
    let body = [without_packs(&delivery), many].concat();
    connection.send(HEAD.as_bytes());
    connection.send(b"transfer-encoding: chunked\r\n\r\n");
    connection.send(&chunks(&body, 1 << 20));
    assert_eq!(connection.answer().unwrap().refusal(), (400, "malformed".to_owned()));
}

#[test]
fn refused_stage_is_cut_despite_further_data() {
    let receiver = Receiver::limited(|limits| limits.drain = Duration::from_millis(300));
    let delivery =
        Delivery { base: Some(headwater::hash::ManifestId::of(b"unknown")), ..delivery() };
    let mut connection = receiver.connect();
    send(&mut connection, &stage_body(&delivery, &delivery.packs[..1], Complete::No), 4096);
    let began = Instant::now();
    // A hundred times the data that would extend the wait.
    while began.elapsed() < PATIENCE
        && std::io::Write::write_all(connection.stream.get_mut(), &chunks(&[7; 16 << 10], 16 << 10))
            .is_ok()
    {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn second_push_of_the_same_content_takes_over_a_stalled_stage() {
    let receiver = Receiver::open();
    let first = delivery();
    let body = stage_body(&first, &first.packs, Complete::Yes);
    let later =
        first_tree().file("big.bin", noise(60_000, 3), 1_700_000_001).release(2).bundle_from(None);
    assert_eq!(first.key, later.key);
    let mut connection = receiver.connect();
    send(&mut connection, &body[..body.len() - 36], 5000);
    wait_until("the packs have arrived", || {
        let held = receiver.ask("POST", "/v1/stage", &stage_body(&first, &[], Complete::No)).ok();
        held["held"].as_array().unwrap().len() == first.packs.len()
    });
    let take_over = || receiver.ask("POST", "/v1/stage", &stage_body(&later, &[], Complete::No));
    assert_eq!(take_over().refusal(), (423, "locked".to_owned()));
    wait_until("the stage has been idle for a while", || take_over().status == 200);
    connection.send(&chunks(&body[body.len() - 36..], 36));
    connection.send(LAST);
    assert_eq!(connection.answer().unwrap().refusal(), (404, "unknown".to_owned()));
    assert_eq!(receiver.ask("GET", "/v1/state", b"").ok()["staged"], json!(null));
}
