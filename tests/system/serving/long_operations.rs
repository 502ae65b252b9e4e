//! Long operations: the work continues and its result is reported, even if the client disconnects.

use std::fs;
use std::io::BufRead as _;
use std::time::Duration;

use super::pushes::publish;
use super::{Complete, PATIENCE, Receiver, activation, head, stage_body, wait_until};
use crate::origin::first_tree;

#[test]
fn hook_runs_after_the_client_disconnects() {
    let receiver = Receiver::new(|settings| {
        let site = &mut settings.sites[0];
        let script = format!("touch {}.ran", site.directory.display());
        let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
        site.post_activate = Some(headwater::receiver::Hook { command, timeout: PATIENCE });
        settings.limits.lock_wait = PATIENCE;
        settings.limits.keepalive_after = Duration::from_millis(50);
        settings.limits.keepalive_interval = Duration::from_millis(50);
    });
    let delivery = first_tree().release(1).bundle_from(None);
    receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &delivery.packs, Complete::Yes)).ok();
    let lock = fs::File::open(receiver.mirror().join(".headwater/lock")).unwrap();
    lock.lock().unwrap();
    let mut connection = receiver.connect();
    let body = activation(&delivery, None);
    connection.send(&head("POST", "/v1/activate", &[], body.len()));
    connection.send(&body);
    // It waits for the lock now.
    assert!(!connection.stream.fill_buf().unwrap().is_empty());
    drop(connection);
    wait_until("the receiver detects the disconnect", || {
        receiver.logged().contains(r#""status":499"#)
    });
    drop(lock);
    wait_until("the release is current", || receiver.mirror().join("current").exists());
    wait_until("the hook has run", || receiver.mirror().with_extension("ran").exists());
}

#[test]
fn finished_long_operation_is_logged() {
    let receiver = Receiver::limited(|limits| {
        limits.lock_wait = PATIENCE;
        limits.keepalive_after = Duration::from_millis(50);
    });
    publish(&mut receiver.connect(), &first_tree().release(1).bundle_from(None), None);
    let lock = fs::File::open(receiver.mirror().join(".headwater/lock")).unwrap();
    lock.lock().unwrap();
    let mut connection = receiver.connect();
    connection.send(&head("POST", "/v1/prune", &[], 10));
    connection.send(br#"{"keep":1}"#);
    assert!(!connection.stream.fill_buf().unwrap().is_empty());
    drop(lock);
    connection.answer().unwrap().ok();
    let logged = || receiver.logged().contains(r#""path":"/v1/prune","status":200"#);
    wait_until("the end of the request is logged", logged);
}

#[test]
fn spare_slot_is_filled_after_clean_up_and_failures_are_logged() {
    let receiver = Receiver::new(|settings| settings.limits.lock_wait = Duration::from_millis(10));
    publish(&mut receiver.connect(), &first_tree().release(1).bundle_from(None), None);
    let slots = || fs::read_dir(receiver.mirror().join(".headwater/slots")).unwrap().count();
    receiver.ask("POST", "/v1/settle", br#"{"keep":1}"#).ok();
    wait_until("there is a second slot", || slots() == 2);
    // If the slot cannot be filled, that is logged, and the next clean-up fills it.
    let other = Receiver::new(|settings| settings.limits.lock_wait = Duration::from_millis(10));
    publish(&mut other.connect(), &first_tree().release(1).bundle_from(None), None);
    let current = fs::canonicalize(other.mirror().join("current")).unwrap();
    let record = format!("releases/{}.json", current.file_name().unwrap().to_str().unwrap());
    let (record, aside) =
        (other.mirror().join(".headwater").join(record), other.mirror().with_extension("aside"));
    fs::rename(&record, &aside).unwrap();
    other.ask("POST", "/v1/settle", br#"{"keep":1}"#).ok();
    wait_until("the failure is logged", || {
        other.logged().contains("its second slot is not filled")
    });
    fs::rename(&aside, &record).unwrap();
    other.ask("POST", "/v1/settle", br#"{"keep":1}"#).ok();
    wait_until("there is a second slot", || {
        fs::read_dir(other.mirror().join(".headwater/slots")).unwrap().count() == 2
    });
}
