//! Peers that disconnect, send slowly or send out of order, and how the receiver recovers.

use std::fs;
use std::time::Duration;

use headwater::receiver::{Hook, Token};
use headwater::store::Store;
use rustix::process::Signal;
use serde_json::json;

use super::program::Program;
use super::pushes::publish;
use super::{Complete, Connection, Receiver, assert_serves, head, stage_body, wait_until};
use crate::harness::Sandbox;
use crate::origin::{Tree, first_tree, second_tree};
use crate::sandbox;

#[test]
fn slow_manifest_delta_holds_no_shared_memory() {
    let receiver = Receiver::open();
    let mut delivery = first_tree().release(1).bundle_from(None);
    delivery.change = vec![0; 32 << 20].into();
    let body = stage_body(&delivery, &[], Complete::No);
    let mut slow = receiver.connect();
    slow.send(&head("POST", "/v1/stage", &[("expect", "100-continue")], body.len()));
    assert_eq!(slow.answer().unwrap().status, 100);
    slow.send(&body[..1 << 20]);
    // The receiver buffers it in a file of the store, which it creates first.
    wait_until("the change begins to arrive", || {
        receiver.mirror().join(".headwater/format").exists()
    });
    publish(&mut receiver.connect(), &second_tree().release(2).bundle_from(None), None);
    assert_serves(&receiver.mirror(), 2);
}

#[test]
fn large_manifest_delta_is_read_from_disk() {
    let receiver = Receiver::open();
    let mut tree = Tree::default();
    for number in 0..2_000u32 {
        // Incompressible names.
        let name = blake3::hash(&number.to_le_bytes()).to_hex();
        tree = tree.file(
            &format!("{name}{}", name.chars().rev().collect::<String>()),
            &b"x"[..],
            1_700_000_001,
        );
    }
    let delivery = tree.release(1).bundle_from(None);
    assert!(delivery.change.len() > 64 * 1024, "{}", delivery.change.len());
    publish(&mut receiver.connect(), &delivery, None);
    assert_serves(&receiver.mirror(), 1);
}

#[test]
fn killed_pushes_do_not_block_the_next_one() {
    let receiver = Receiver::open();
    for number in 0..20u8 {
        let delivery = Tree::default()
            .file("a", &[number; 10][..], 1_700_000_001)
            .release(1)
            .bundle_from(None);
        let opened =
            receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No)).ok();
        assert_eq!(opened, json!({"held": []}));
    }
    publish(&mut receiver.connect(), &first_tree().release(1).bundle_from(None), None);
    assert_serves(&receiver.mirror(), 1);
}

#[test]
fn http_head_requests_are_answered() {
    let receiver = Receiver::open();
    for (path, status) in
        [("/healthz", "200"), ("/ready", "503"), ("/status.json", "200"), ("/v1/state", "405")]
    {
        let mut connection = receiver.connect();
        connection.send(&head("HEAD", path, &[("connection", "close")], 0));
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut connection.stream, &mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.ends_with("\r\n\r\n"),
            "{path}: {answer}"
        );
    }
}

#[test]
fn invalid_http_is_logged() {
    let receiver = Receiver::open();
    let mut connection = receiver.connect();
    connection.send(b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n");
    connection.time_to_end();
    wait_until("the invalid request is logged", || {
        receiver.logged().contains(r#""event":"turned_away""#)
    });
}

#[test]
fn unauthenticated_requests_write_few_log_lines() {
    let receiver = Receiver::open();
    publish(&mut receiver.connect(), &first_tree().release(1).bundle_from(None), None);
    let logged = |word: &str| receiver.logged().lines().filter(|line| line.contains(word)).count();
    let mut connection = receiver.connect();
    for path in ["/healthz", "/ready", "/status.json"] {
        // Many requests on one connection, as fast as they are answered.
        connection.send(&head("GET", path, &[], 0).repeat(200));
        (0..200).for_each(|_| assert_eq!(connection.answer().unwrap().status, 200));
    }
    assert_eq!(["/healthz", "/ready", "status.json"].map(logged), [0; 3]);
    connection.send(&head("GET", "/nothing", &[], 0).repeat(1000));
    (0..1000).for_each(|_| assert_eq!(connection.answer().unwrap().refusal().0, 404));
    let lines = logged("/nothing");
    assert!((10..100).contains(&lines), "{lines} of 1,000 are logged");
    // Authorized requests are logged regardless of others.
    let before = logged("/v1/state");
    (0..60).for_each(|_| drop(connection.ask("GET", "/v1/state", &[], b"").ok()));
    assert_eq!(logged("/v1/state") - before, 60);
}

#[test]
fn sighup_reloads_the_tokens() {
    let sandbox = Sandbox::new();
    let new_token = || {
        let made = sandbox.run(&["token", "new", "--site", "docs", "--allow", "push"]).expect(&[0]);
        (made.stdout.trim().to_owned(), made.stderr)
    };
    let ((first, first_table), (second, second_table)) = (new_token(), new_token());
    assert!(Token::parse(&first).is_some() && Token::parse(&second).is_some());
    let file = sandbox.path("tokens.toml");
    fs::write(&file, &first_table).unwrap();
    let program = Program::start(
        &sandbox,
        &["--site", "docs", "--token-file", &sandbox.path_text("tokens.toml")],
        "",
    );
    let status = |token: &str| {
        let bearer = format!("Bearer {token}");
        Connection::to(program.address)
            .ask("GET", "/v1/state", &[("authorization", &bearer)], b"")
            .status
    };
    assert_eq!((status(&first), status(&second)), (200, 401));
    fs::write(&file, &second_table).unwrap();
    program.signal(Signal::HUP);
    wait_until("the second token is accepted", || status(&second) == 200);
    assert_eq!(status(&first), 401);
    // An unreadable file changes nothing; the third reload shows that the second one has ended.
    fs::write(&file, "[[token]]\nid = 1\n").unwrap();
    program.signal(Signal::HUP);
    let (third, third_table) = new_token();
    assert_eq!(status(&second), 200);
    fs::write(&file, format!("{second_table}{third_table}")).unwrap();
    program.signal(Signal::HUP);
    wait_until("the third token is accepted", || status(&third) == 200);
    assert_eq!(status(&second), 200);
}

#[test]
fn hook_missed_by_a_kill_runs_at_the_next_start() {
    let dir = sandbox::directory();
    let (mirror, hook_log) = (dir.path().join("www"), dir.path().join("log"));
    let release = first_tree().release(1);
    let start = |is_hooked: bool| {
        Receiver::new(|settings| {
            let site = &mut settings.sites[0];
            site.directory.clone_from(&mirror);
            let script = format!("echo $HEADWATER_RELEASE >> '{}'", hook_log.display());
            let hook = Hook {
                command: vec!["sh".to_owned(), "-c".to_owned(), script],
                timeout: std::time::Duration::from_secs(20),
            };
            site.post_activate = is_hooked.then_some(hook);
        })
    };
    publish(&mut start(false).connect(), &release.bundle_from(None), None);
    let store = Store::open(&mirror).unwrap();
    // A record of a release that is not current belongs to an activation that never happened.
    for (noted, lines) in
        [("9-0000000000000000".parse().unwrap(), 0), (release.name(), 1), (release.name(), 2)]
    {
        store.record_switch(noted, Duration::ZERO).unwrap();
        let receiver = start(true);
        receiver.ask("GET", "/healthz", b"").ok();
        let found = || fs::read_to_string(&hook_log).map_or(0, |text| text.lines().count());
        wait_until("the hook has run", || found() == lines);
        wait_until("the record of the pending hook is removed", || {
            store.pending_switch().unwrap().is_none()
        });
    }
    assert_eq!(
        fs::read_to_string(&hook_log).unwrap().lines().next().unwrap(),
        release.name().to_string()
    );
    // A hook that was not interrupted runs once, at once.
    let second = second_tree().release(2);
    let receiver = start(true);
    publish(&mut receiver.connect(), &second.bundle_from(Some(&release)), Some(&release));
    wait_until("the hook has run", || fs::read_to_string(&hook_log).unwrap().lines().count() == 3);
    wait_until("the record of the pending hook is removed", || {
        !mirror.join(".headwater/switched").exists()
    });
}
