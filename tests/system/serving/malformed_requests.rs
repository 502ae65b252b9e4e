//! G25: byte sequences that no correct client sends, or sends that slowly.

use std::time::{Duration, Instant};

use headwater::receiver::TlsFiles;

use super::{Complete, Connection, Receiver, framed_pack, head, pack_path, stage_body};
use crate::origin::{first_tree, noise};

/// Short enough for a test to wait, long enough for a busy machine.
const SHORT_TIMEOUT: Duration = Duration::from_millis(300);
/// A timeout of [`SHORT_TIMEOUT`] has ended long before this.
const WELL_AFTER_TIMEOUT: Duration = Duration::from_secs(10);

fn with_short_timeouts() -> Receiver {
    Receiver::limited(|limits| {
        limits.first_byte = SHORT_TIMEOUT;
        limits.head = SHORT_TIMEOUT;
        limits.idle = SHORT_TIMEOUT;
        limits.body_idle = SHORT_TIMEOUT;
        limits.body = SHORT_TIMEOUT;
        limits.drain = SHORT_TIMEOUT;
    })
}

/// Sends a byte now and then until the other side closes the connection.
fn trickle(connection: &mut Connection, byte: u8) -> Duration {
    let began = Instant::now();
    let stream = connection.stream.get_ref();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    loop {
        use std::io::{ErrorKind, Read as _, Write as _};
        assert!(began.elapsed() < WELL_AFTER_TIMEOUT, "slow data extends the deadline");
        if connection.stream.get_mut().write_all(&[byte]).is_err() {
            return began.elapsed();
        }
        let mut answer = [0; 1024];
        match connection.stream.get_mut().read(&mut answer) {
            Ok(0) => return began.elapsed(),
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return began.elapsed();
            }
            _ => {}
        }
    }
}

#[test]
fn silent_connection_is_closed() {
    let receiver = with_short_timeouts();
    assert!(receiver.connect().time_to_end() >= SHORT_TIMEOUT);
}

#[test]
fn stalled_tls_handshake_is_closed() {
    let keys = crate::sandbox::directory();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsFiles { cert: keys.path().join("cert.pem"), key: keys.path().join("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let receiver = Receiver::new(|settings| {
        settings.tls = Some(files);
        settings.limits.first_byte = SHORT_TIMEOUT;
    });
    // Before the connections, because the receiver counts from when it accepts them.
    let began = Instant::now();
    let mut silent = receiver.connect();
    let mut half = receiver.connect();
    // The start of a TLS record that announces 512 bytes.
    half.send(b"\x16\x03\x01\x02\x00\x01");
    silent.time_to_end();
    assert!(began.elapsed() >= SHORT_TIMEOUT - SHORT_TIMEOUT / 10);
    assert!(half.time_to_end() < WELL_AFTER_TIMEOUT);
    assert!(receiver.logged().contains("no TLS in time"), "{}", receiver.logged());
}

#[test]
fn stage_with_wrong_pack_lengths_is_refused() {
    let receiver = Receiver::open();
    let delivery = first_tree().release(1).bundle_from(None);
    let body = stage_body(&delivery, &delivery.packs, Complete::Yes);
    let longer = [&body[..], b"x"].concat();
    for wrong in [&longer[..], &body[..body.len() - 1], &body[..3]] {
        assert_eq!(
            receiver.ask("POST", "/v1/stage", wrong).refusal(),
            (400, "malformed".to_owned())
        );
    }
    // In a sequence of packs, one that exceeds the end of the body.
    receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No)).ok();
    let pack = &delivery.packs[0];
    let longer = [&pack.bytes[..], b"x"].concat();
    let row = framed_pack(pack, &longer);
    let refused =
        receiver.ask("PUT", &format!("/v1/packs/{}", delivery.key), &row[..row.len() - 1]);
    assert_eq!(refused.refusal(), (400, "malformed".to_owned()));
    assert_eq!(
        receiver.ask("POST", "/v1/stage", &body).ok(),
        serde_json::json!({"staged": {"resent": 0}})
    );
}

#[test]
fn slow_request_head_is_closed() {
    let receiver = with_short_timeouts();
    let mut connection = receiver.connect();
    connection.send(b"GET /v1/state HTTP/1.1\r\nx: ");
    assert!(trickle(&mut connection, b'a') >= SHORT_TIMEOUT);
}

#[test]
fn idle_connection_is_closed_after_its_response() {
    let receiver = with_short_timeouts();
    let mut connection = receiver.connect();
    connection.ask("GET", "/v1/state", &[], b"").ok();
    assert!(connection.time_to_end() >= SHORT_TIMEOUT);
}

#[test]
fn pause_between_requests_may_exceed_the_head_timeout() {
    let receiver = Receiver::limited(|limits| limits.head = Duration::from_millis(50));
    let mut connection = receiver.connect();
    for _ in 0..2 {
        connection.ask("GET", "/v1/state", &[], b"").ok();
        super::sleep_for(Duration::from_millis(150));
    }
    connection.ask("GET", "/v1/state", &[], b"").ok();
}

#[test]
fn stalled_or_slow_body_is_closed() {
    let receiver = with_short_timeouts();
    for is_trickle in [false, true] {
        let mut connection = receiver.connect();
        connection.send(&head("POST", "/v1/prune", &[], 5_000));
        connection.send(b"{");
        let took =
            if is_trickle { trickle(&mut connection, b' ') } else { connection.time_to_end() };
        assert!(took < WELL_AFTER_TIMEOUT);
    }
    let delivery = first_tree().release(1).bundle_from(None);
    receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No)).ok();
    let pack = &delivery.packs[0];
    let mut connection = receiver.connect();
    connection.send(&head("PUT", &pack_path(&delivery, pack), &[], pack.bytes.len()));
    connection.send(&pack.bytes[..10]);
    assert_eq!(connection.answer().unwrap().status, 408);
    assert!(connection.time_to_end() < WELL_AFTER_TIMEOUT);
    receiver.ask("PUT", &pack_path(&delivery, pack), &pack.bytes).ok();
}

#[test]
fn client_that_does_not_read_is_closed() {
    let receiver = Receiver::limited(|limits| limits.write = SHORT_TIMEOUT);
    let content = noise(24 << 20, 1);
    let release = crate::origin::Tree::default().file("a", &content[..], 1_700_000_001).release(1);
    let mut delivery = release.bundle_from(None);
    // Each pack is within the limits of one block.
    delivery.packs = content
        .chunks(2 << 20)
        .enumerate()
        .map(|(index, bytes)| crate::origin::EncodedPack::raw(0, (index * (2 << 20)) as u64, bytes))
        .collect();
    let mut connection = receiver.connect();
    connection
        .ask("POST", "/v1/stage", &[], &stage_body(&delivery, &delivery.packs, Complete::Yes))
        .ok();
    connection.ask("POST", "/v1/activate", &[], &super::activation(&delivery, None)).ok();
    let object = headwater::hash::ObjectId::of(&content);
    let mut lazy = receiver.connect();
    lazy.send(&head("GET", &format!("/v1/objects/{object}"), &[], 0));
    // The receiver sends what fits into the buffers, and never the rest.
    super::sleep_for(SHORT_TIMEOUT * 5);
    assert!(lazy.answer().is_none(), "the receiver waited for ever");
}

#[test]
fn ambiguous_request_heads_are_refused() {
    let receiver = Receiver::open();
    let version = "headwater-protocol: 1\r\n";
    for text in [
        format!("GET /v1/state HTTP/1.1\nhost: a\r\n{version}\r\n"),
        format!("GET /v1/state HTTP/1.1\r\nhost: a\n{version}\r\n"),
        format!("GET /v1/state HTTP/1.1\r\nhost: a\r\n folded\r\n{version}\r\n"),
        format!("GET /v1/state HTTP/1.1\r\nhost : a\r\n{version}\r\n"),
        format!("GET /v1/state HTTP/1.1\r\nhost: a\rb: c\r\n{version}\r\n"),
        format!(
            "POST /v1/prune HTTP/1.1\r\n{version}content-length: 10\r\ncontent-length: 10\r\n\r\n\
             {{\"keep\":1}}"
        ),
        format!(
            "POST /v1/prune HTTP/1.1\r\n{version}content-length: 10\r\ncontent-length: 11\r\n\r\n\
             {{\"keep\":1}}"
        ),
        format!("POST /v1/prune HTTP/1.1\r\n{version}content-length: +10\r\n\r\n{{\"keep\":1}}"),
        format!(
            "POST /v1/prune HTTP/1.1\r\n{version}content-length: 10\r\n\
             transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST /v1/prune HTTP/1.1\r\n{version}transfer-encoding: chunked\r\n\
             content-length: 10\r\n\r\n0\r\n\r\n"
        ),
        format!("POST /v1/prune HTTP/1.1\r\n{version}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!(
            "POST /v1/stage HTTP/1.1\r\n{version}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST /v1/stage HTTP/1.1\r\n{version}transfer-encoding:{}chunked\r\n\r\n",
            " ".repeat(50)
        ),
        format!("GET  /v1/state HTTP/1.1\r\n{version}\r\n"),
        format!("GET /v1/\0state HTTP/1.1\r\n{version}\r\n"),
        format!("GET /v1/state HTTP/3.1\r\n{version}\r\n"),
        format!("GET /v1/state HTTP/1.1\r\n{version}{}\r\n", "a: b\r\n".repeat(200)),
        format!("GET /v1/state HTTP/1.1\r\n{version}long: {}\r\n\r\n", "x".repeat(40_000)),
        format!("GET /{} HTTP/1.1\r\n{version}\r\n", "x".repeat(40_000)),
    ] {
        let mut connection = receiver.connect();
        connection.send(text.as_bytes());
        let answer = connection.answer();
        let status = answer.map(|answer| answer.status);
        assert!(
            matches!(status, None | Some(400 | 413 | 414 | 431 | 505)),
            "{status:?} to {text:.120}"
        );
        assert!(
            connection.time_to_end() < WELL_AFTER_TIMEOUT,
            "the connection stays open after {text:.120}"
        );
    }
    assert_eq!(receiver.ask("GET", "/healthz", b"").status, 200);
}

/// Returns valid requests, which the test changes.
fn sound_requests() -> Vec<Vec<u8>> {
    let delivery = first_tree().release(1).bundle_from(None);
    let stage = stage_body(&delivery, &delivery.packs, Complete::Yes);
    let pack = &delivery.packs[0];
    vec![
        head("GET", "/v1/state", &[], 0),
        [head("POST", "/v1/prune", &[], 10), b"{\"keep\":1}".to_vec()].concat(),
        [head("POST", "/v1/stage", &[], stage.len()), stage].concat(),
        [head("PUT", &pack_path(&delivery, pack), &[], pack.bytes.len()), pack.bytes.to_vec()]
            .concat(),
    ]
}

#[test]
fn receiver_survives_random_requests() {
    use proptest::prelude::{Strategy as _, any};
    let receiver = with_short_timeouts();
    let requests = sound_requests();
    let edits_to_make = (
        0..requests.len(),
        proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        any::<bool>(),
    );
    let changed_request = edits_to_make.prop_map(|(which, edits, cuts)| {
        let mut request = requests[which].clone();
        for (at, byte) in edits {
            let at = at % request.len();
            if cuts { request.truncate(at.max(1)) } else { request[at] = byte }
        }
        request
    });
    let config = proptest::test_runner::Config {
        cases: 100,
        failure_persistence: None,
        ..Default::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&changed_request, |request| {
            let mut connection = receiver.connect();
            std::io::Write::write_all(connection.stream.get_mut(), &request).ok();
            connection.stream.get_mut().shutdown(std::net::Shutdown::Write).ok();
            assert!(connection.time_to_end() < WELL_AFTER_TIMEOUT);
            assert_eq!(receiver.ask("GET", "/healthz", b"").status, 200);
            Ok(())
        })
        .unwrap();
    let logged = receiver.logged();
    assert!(!logged.contains("panic") && !logged.contains(r#""status":500"#), "{logged}");
    assert!(crate::checker::state(&receiver.mirror()).is_ok());
}

#[test]
fn body_without_a_length_is_refused() {
    let receiver = Receiver::open();
    let mut connection = receiver.connect();
    connection.send(
        b"POST /v1/prune HTTP/1.1\r\nheadwater-protocol: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    connection.send(b"a\r\n{\"keep\":1}\r\n0\r\n\r\n");
    assert_eq!(connection.answer().unwrap().status, 411);
    assert!(connection.time_to_end() < WELL_AFTER_TIMEOUT);
    for (path, length) in [
        ("/v1/prune", 70_000),
        ("/v1/stage", 4 << 30),
        (&*format!("/v1/packs/{0}/{0}", "a".repeat(64)), 33 << 20),
    ] {
        let mut connection = receiver.connect();
        connection
            .send(&head("POST", path, &[("expect", "100-continue")], length).replace_method(path));
        assert_eq!(connection.answer().unwrap().refusal(), (413, "too_large".to_owned()), "{path}");
    }
}

/// Packs use PUT, all other requests POST.
trait ReplaceMethod {
    fn replace_method(self, path: &str) -> Vec<u8>;
}

impl ReplaceMethod for Vec<u8> {
    fn replace_method(self, path: &str) -> Vec<u8> {
        let text = String::from_utf8(self).unwrap();
        if path.contains("/packs/") { text.replacen("POST", "PUT", 1).into() } else { text.into() }
    }
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    let receiver = Receiver::open();
    let delivery = first_tree().release(1).bundle_from(None);
    let pack = &delivery.packs[0];
    let expects = [("expect", "100-continue")];
    let mut connection = receiver.connect();
    connection.send(&head("PUT", &pack_path(&delivery, pack), &expects, pack.bytes.len()));
    assert_eq!(connection.answer().unwrap().refusal(), (404, "unknown".to_owned()));
    receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No)).ok();
    let mut connection = receiver.connect();
    connection.send(&head("PUT", &pack_path(&delivery, pack), &expects, pack.bytes.len()));
    assert_eq!(connection.answer().unwrap().status, 100);
    connection.send(&pack.bytes);
    connection.answer().unwrap().ok();
}

#[test]
fn refusal_reaches_clients_that_send_everything_first() {
    let receiver = Receiver::open();
    let mut connection = receiver.connect();
    let path = format!("/v1/packs/{0}/{0}", "a".repeat(64));
    for _ in 0..2 {
        let refused = connection.ask("PUT", &path, &[], &vec![7; 20 << 20]);
        assert_eq!(refused.refusal(), (404, "unknown".to_owned()), "the connection stays usable");
    }
}

#[test]
fn connections_are_limited_in_total_and_per_address() {
    for per_address in [2, 100] {
        let receiver = Receiver::limited(|limits| {
            limits.connections = if per_address == 2 { 100 } else { 2 };
            limits.connections_per_address = per_address;
        });
        let mut seated: Vec<Connection> = (0..2).map(|_| receiver.connect()).collect();
        seated.iter_mut().for_each(|one| drop(one.ask("GET", "/healthz", &[], b"").ok()));
        let mut third = receiver.connect();
        let refused = third.answer().unwrap();
        assert_eq!(refused.refusal(), (503, "busy".to_owned()));
        assert!(refused.head.contains("retry-after: 1"));
        drop(seated);
        super::wait_until("a connection is accepted again", || {
            let mut connection = receiver.connect();
            connection.send(&head("GET", "/healthz", &[], 0));
            connection.answer().is_some_and(|answer| answer.status == 200)
        });
    }
}

#[test]
fn many_idle_connections_do_not_block_others() {
    let receiver = Receiver::limited(|limits| {
        limits.connections = 400;
        limits.connections_per_address = 400;
    });
    let mut slow: Vec<Connection> = (0..300).map(|_| receiver.connect()).collect();
    slow.iter_mut().for_each(|one| one.send(b"GET /v1/state HTTP/1.1\r\nx: "));
    let mut connection = receiver.connect();
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let began = Instant::now();
            connection.ask("GET", "/v1/state", &[], b"").ok();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    assert!(times[198] < Duration::from_millis(250), "{:?}", times[198]);
    drop(slow);
}
