//! Incoming pushes: valid ones in every form, and unexpected requests.

use std::fs;
use std::time::Duration;

use headwater::pack::{Level, Piece, encode_block};
use serde_json::{Value, json};

use super::{
    Complete, Connection, PATIENCE, Receiver, activation, assert_serves, framed_pack, head,
    pack_path, stage_body, wait_until,
};
use crate::origin::{Delivery, EncodedPack, Tree, Version, first_tree, noise, second_tree};

/// Stages with all packs in the request, and activates.
pub(super) fn publish(
    connection: &mut Connection,
    delivery: &Delivery,
    expected: Option<&Version>,
) {
    let body = stage_body(delivery, &delivery.packs, Complete::Yes);
    let staged = connection.ask("POST", "/v1/stage", &[], &body).ok();
    assert_eq!(staged, json!({"staged": {"resent": 0}}));
    let expected = expected.map(|expected| expected.name().to_string());
    connection.ask("POST", "/v1/activate", &[], &activation(delivery, expected.as_deref())).ok();
}

#[test]
fn update_takes_three_requests_on_one_connection() {
    let receiver = Receiver::open();
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let mut connection = receiver.connect();
    let state = connection.ask("GET", "/v1/state", &[], b"").ok();
    assert_eq!((&state["store"], &state["site"]), (&Value::Null, &json!("docs")));
    assert!(!receiver.mirror().exists(), "a state request creates nothing");
    publish(&mut connection, &first.bundle_from(None), None);
    connection.ask("POST", "/v1/settle", &[], br#"{"keep":3}"#).ok();
    publish(&mut connection, &second.bundle_from(Some(&first)), Some(&first));
    assert_serves(&receiver.mirror(), 2);
    let state = connection.ask("GET", "/v1/state", &[], b"");
    assert!(state.head.len() + state.body.len() < 2000, "{}{}", state.head, state.body.len());
    let state = state.ok();
    assert_eq!(state["current"], json!(second.name().to_string()));
    assert_eq!(state["releases"][0], json!(String::from_utf8(first.release.to_bytes()).unwrap()));
    assert_eq!((&state["may_push"], &state["unfinished"]), (&json!(true), &json!([])));
}

#[test]
fn every_request_can_be_repeated() {
    let receiver = Receiver::open();
    let release = first_tree().release(1);
    let delivery = release.bundle_from(None);
    let mut connection = receiver.connect();
    let open = stage_body(&delivery, &[], Complete::No);
    for _ in 0..2 {
        assert_eq!(connection.ask("POST", "/v1/stage", &[], &open).ok(), json!({"held": []}));
    }
    for pack in &delivery.packs {
        for _ in 0..2 {
            connection.ask("PUT", &pack_path(&delivery, pack), &[], &pack.bytes).ok();
        }
    }
    let held = connection.ask("POST", "/v1/stage", &[], &open).ok();
    assert_eq!(held["held"].as_array().unwrap().len(), delivery.packs.len());
    let whole = stage_body(&delivery, &[], Complete::Yes);
    for _ in 0..2 {
        let staged = connection.ask("POST", "/v1/stage", &[], &whole).ok();
        assert_eq!(staged, json!({"staged": {"resent": 0}}));
    }
    for _ in 0..2 {
        connection.ask("POST", "/v1/activate", &[], &activation(&delivery, None)).ok();
        connection.ask("POST", "/v1/settle", &[], br#"{"keep":3}"#).ok();
    }
    assert_serves(&receiver.mirror(), 1);
}

#[test]
fn packs_are_accepted_in_parallel_and_twice() {
    let receiver = Receiver::open();
    let delivery =
        first_tree().file("big.bin", noise(60_000, 3), 1_700_000_001).release(1).bundle_from(None);
    receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No)).ok();
    std::thread::scope(|scope| {
        for start in 0..4 {
            let (receiver, delivery) = (&receiver, &delivery);
            scope.spawn(move || {
                let mut connection = receiver.connect();
                for pack in delivery.packs.iter().skip(start / 2).step_by(2) {
                    connection.ask("PUT", &pack_path(delivery, pack), &[], &pack.bytes).ok();
                }
            });
        }
    });
    let staged = receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::Yes)).ok();
    assert_eq!(staged, json!({"staged": {"resent": 0}}));
}

#[test]
fn large_pack_is_buffered_in_memory_or_on_disk() {
    for pack_bytes in [0, 1 << 20, 32 << 20] {
        a_large_pack_arrives(&Receiver::limited(|limits| limits.pack_bytes = pack_bytes));
    }
}

fn a_large_pack_arrives(receiver: &Receiver) {
    let content = noise(3 << 20, 9);
    let release = Tree::default().file("a.bin", &content[..], 1_700_000_001).release(1);
    let mut delivery = release.bundle_from(None);
    delivery.packs = vec![EncodedPack::raw(0, 0, &content)];
    publish(&mut receiver.connect(), &delivery, None);
    assert_serves(&receiver.mirror(), 1);
}

#[test]
fn damaged_pack_is_refused_and_the_stage_continues() {
    let receiver = Receiver::open();
    let delivery = first_tree().release(1).bundle_from(None);
    let mut connection = receiver.connect();
    connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::No)).ok();
    let pack = &delivery.packs[0];
    let mut flipped = pack.bytes.to_vec();
    flipped[20] ^= 4;
    let short = &pack.bytes[..pack.bytes.len() - 3];
    let other = &delivery.packs[1].bytes;
    for wrong in [&flipped, short, other, &b"<html>"[..], b""] {
        let refused = connection.ask("PUT", &pack_path(&delivery, pack), &[], wrong);
        assert_eq!(refused.refusal(), (400, "malformed".to_owned()));
    }
    for pack in &delivery.packs {
        connection.ask("PUT", &pack_path(&delivery, pack), &[], &pack.bytes).ok();
    }
    connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::Yes)).ok();
}

#[test]
fn packs_in_one_body_are_accepted_separately() {
    let receiver = Receiver::open();
    let delivery =
        first_tree().file("big.bin", noise(60_000, 3), 1_700_000_001).release(1).bundle_from(None);
    let path = format!("/v1/packs/{}", delivery.key);
    let row: Vec<Vec<u8>> =
        delivery.packs.iter().map(|pack| framed_pack(pack, &pack.bytes)).collect();
    let mut connection = receiver.connect();
    assert_eq!(
        connection.ask("PUT", &path, &[], &row.concat()).refusal(),
        (404, "unknown".to_owned())
    );
    connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::No)).ok();
    // The packs before the invalid one are accepted.
    let mut flipped = delivery.packs[1].bytes.to_vec();
    flipped[20] ^= 4;
    let long = [&delivery.packs[1].id.as_bytes()[..], &u32::MAX.to_be_bytes(), b"pack"].concat();
    for wrong in [
        framed_pack(&delivery.packs[1], &flipped),
        long,
        row[1][..35].to_vec(),
        row[1][..60].to_vec(),
    ] {
        let refused = connection.ask("PUT", &path, &[], &[row[0].clone(), wrong].concat());
        assert_eq!(refused.refusal().1, "malformed");
    }
    let held =
        connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::No)).ok();
    assert_eq!(held, json!({"held": [delivery.packs[0].id.to_string()]}));
    for _ in 0..2 {
        connection.ask("PUT", &path, &[], &row.concat()).ok();
    }
    let staged =
        connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::Yes)).ok();
    assert_eq!(staged, json!({"staged": {"resent": 0}}));
}

#[test]
fn decompression_bombs_and_false_packs_end_the_stage() {
    let receiver = Receiver::open();
    let delivery = first_tree().release(1).bundle_from(None);
    let mut connection = receiver.connect();
    let bomb = {
        // 4 MiB of zeros in a few bytes, for an object of another size.
        let piece = Piece { ordinal: 0, offset: 0, length: 4 << 20 };
        EncodedPack::of(
            &encode_block(&[piece], &vec![0; 4 << 20], &[], &[], Level::Zstd(3)).unwrap(),
        )
    };
    assert!(bomb.bytes.len() < 1000);
    for wrong in
        [bomb, EncodedPack::raw(1000, 0, b"nobody's"), EncodedPack::raw(0, 1 << 40, b"behind")]
    {
        connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::No)).ok();
        let refused = connection.ask("PUT", &pack_path(&delivery, &wrong), &[], &wrong.bytes);
        assert_eq!(refused.refusal(), (400, "malformed".to_owned()));
        let closed = connection.ask("PUT", &pack_path(&delivery, &wrong), &[], &wrong.bytes);
        assert_eq!(closed.refusal(), (404, "unknown".to_owned()));
    }
    assert_eq!(fs::read_dir(receiver.mirror().join(".headwater/manifests")).unwrap().count(), 0);
    publish(&mut connection, &delivery, None);
    assert_serves(&receiver.mirror(), 1);
}

#[test]
fn manifest_that_differs_from_its_announcement_is_refused() {
    let receiver = Receiver::open();
    let release = first_tree().release(1);
    for spoil in [
        (|it| it.release.entries += 1) as fn(&mut Delivery),
        |it| it.release.bytes -= 1,
        |it| it.change = it.change[..it.change.len() - 5].into(),
        |it| it.change = (*b"not a change").into(),
        |it| it.packs.truncate(1),
    ] {
        let mut delivery = release.bundle_from(None);
        spoil(&mut delivery);
        let refused = receiver.ask(
            "POST",
            "/v1/stage",
            &stage_body(&delivery, &delivery.packs, Complete::Yes),
        );
        assert_eq!(refused.refusal(), (400, "malformed".to_owned()));
    }
    let sound = stage_body(&release.bundle_from(None), &[], Complete::No);
    for (at, byte) in [(0, 1), (3, 0), (4, b'['), (sound.len() / 2, b'"')] {
        let mut body = sound.clone();
        body[at] = byte;
        let refused = receiver.ask("POST", "/v1/stage", &body);
        assert!(matches!(refused.status, 400 | 413), "{refused:?}");
    }
    let state = receiver.ask("GET", "/v1/state", b"").ok();
    assert_eq!((&state["current"], &state["highest_sequence"]), (&Value::Null, &json!(0)));
}

#[test]
fn release_of_another_site_or_lower_rank_is_refused() {
    let receiver = Receiver::open();
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    publish(&mut receiver.connect(), &second.bundle_from(None), None);
    let older =
        receiver.ask("POST", "/v1/stage", &stage_body(&first.bundle_from(None), &[], Complete::No));
    assert_eq!(older.refusal(), (409, "conflict".to_owned()));
    let mut other = first_tree().release(3);
    other.release.site = headwater::tree_path::Site::new("other").unwrap();
    let other =
        receiver.ask("POST", "/v1/stage", &stage_body(&other.bundle_from(None), &[], Complete::No));
    assert_eq!(other.refusal(), (403, "other_site".to_owned()));
    let lost = receiver.ask("POST", "/v1/activate", &activation(&first.bundle_from(None), None));
    assert_eq!(lost.refusal(), (409, "conflict".to_owned()));
}

#[test]
fn release_over_the_quota_is_refused_before_its_content() {
    let receiver = Receiver::new(|settings| {
        settings.sites[0].quota_bytes = Some(5_000);
        settings.sites[0].quota_entries = Some(7);
    });
    let full = first_tree().release(1);
    assert!(full.release.bytes > 5_000 && full.release.entries > 7);
    let mut delivery = full.bundle_from(None);
    let ask = |delivery: &Delivery| {
        receiver.ask("POST", "/v1/stage", &stage_body(delivery, &[], Complete::No))
    };
    let refused = ask(&delivery);
    assert_eq!(refused.refusal(), (507, "no_space".to_owned()));
    assert_eq!(refused.json()["error"]["detail"], "quota");
    // A release with too small totals is detected by the entries and objects of its delta.
    (delivery.release.bytes, delivery.release.entries) = (10, 2);
    let refused = ask(&delivery);
    assert_eq!(refused.refusal(), (400, "malformed".to_owned()));
    let words = refused.json()["error"]["message"].to_string();
    assert!(words.contains("more new objects than the release has entries"), "{words}");
    let large = Tree::default().file("a", "a".repeat(6_000), 1_700_000_001).release(1);
    let mut belittled = large.bundle_from(None);
    belittled.release.bytes = 10;
    let refused = ask(&belittled);
    assert_eq!(refused.refusal(), (507, "no_space".to_owned()));
    assert_eq!(refused.json()["error"]["detail"], "quota");
    let small = Tree::default().file("a", "a", 1_700_000_001).release(1);
    let mut swollen = small.bundle_from(None);
    swollen.change = noise(50_000, 4).into();
    assert_eq!(ask(&swollen).refusal(), (507, "no_space".to_owned()));
    publish(&mut receiver.connect(), &small.bundle_from(None), None);
}

#[test]
fn minimum_free_space_is_respected() {
    let receiver = Receiver::new(|settings| settings.sites[0].min_free_bytes = u64::MAX / 2);
    let delivery = first_tree().release(1).bundle_from(None);
    let refused = receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No));
    assert_eq!(refused.refusal(), (507, "no_space".to_owned()));
}

#[test]
fn unrequested_packs_are_refused() {
    let receiver = Receiver::open();
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let mut connection = receiver.connect();
    publish(&mut connection, &first.bundle_from(None), None);
    connection.ask("POST", "/v1/settle", &[], br#"{"keep":3}"#).ok();
    let object = first.file("img/logo.bin").object;
    let path = format!("/v1/objects/{object}");
    let refused = connection.ask("PUT", &path, &[], &first.objects[&object]);
    assert_eq!(refused.refusal(), (409, "not_asked_for".to_owned()));
    for path in [
        format!("/v1/manifests/{}", first.release.manifest),
        format!("/v1/releases/{}", first.name()),
        pack_path(&second.bundle_from(None), &EncodedPack::raw(0, 0, b"x")),
    ] {
        assert!(matches!(connection.ask("PUT", &path, &[], b"x").status, 404 | 409), "{path}");
    }
    // Now the object is missing, and so it is requested.
    let hex = object.to_string();
    fs::remove_file(receiver.mirror().join(".headwater/objects").join(&hex[..2]).join(&hex))
        .unwrap();
    let delivery = second.bundle_from(Some(&first));
    let body = stage_body(&delivery, &delivery.packs, Complete::Yes);
    let lacking = connection.ask("POST", "/v1/stage", &[], &body).ok();
    assert_eq!(lacking, json!({"lacking": [hex]}));
    let wrong = vec![0; first.objects[&object].len()];
    assert_eq!(connection.ask("PUT", &path, &[], &wrong).refusal(), (400, "malformed".to_owned()));
    // Another length is refused unread.
    let lengthy = head("PUT", &path, &[("expect", "100-continue")], 1 << 40);
    connection.send(&lengthy);
    let refused = connection.answer().unwrap();
    assert_eq!(refused.refusal(), (400, "malformed".to_owned()), "{refused:?}");
    let mut connection = receiver.connect();
    connection.ask("PUT", &path, &[], &first.objects[&object]).ok();
    let staged =
        connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::Yes)).ok();
    assert_eq!(staged, json!({"staged": {"resent": 1}}));
    connection
        .ask("POST", "/v1/activate", &[], &activation(&delivery, Some(&first.name().to_string())))
        .ok();
    assert_serves(&receiver.mirror(), 2);
}

#[test]
fn manifests_and_objects_can_be_read_from_any_offset() {
    let receiver = Receiver::open();
    let first = first_tree().release(1);
    let mut connection = receiver.connect();
    publish(&mut connection, &first.bundle_from(None), None);
    let manifest =
        connection.ask("GET", &format!("/v1/manifests/{}", first.release.manifest), &[], b"");
    assert_eq!(zstd::decode_all(&manifest.body[..]).unwrap(), first.manifest);
    let object = first.file("img/logo.bin").object;
    let (path, content) = (format!("/v1/objects/{object}"), &first.objects[&object]);
    assert_eq!(&connection.ask("GET", &path, &[], b"").body, &**content);
    for offset in [0, 1, 3_499, 3_500] {
        let part = connection.ask("GET", &path, &[("range", &format!("bytes={offset}-"))], b"");
        assert_eq!((part.status, &part.body[..]), (206, &content[offset..]));
    }
    for wrong in ["bytes=3501-", "bytes=-5", "bytes=0-1", "lines=1-"] {
        assert_eq!(connection.ask("GET", &path, &[("range", wrong)], b"").status, 416, "{wrong}");
    }
    let absent = format!("/v1/objects/{}", "0".repeat(64));
    assert_eq!(connection.ask("GET", &absent, &[], b"").refusal(), (404, "unknown".to_owned()));
}

#[test]
fn interrupted_pack_upload_resumes() {
    let receiver = Receiver::open();
    let delivery = first_tree().release(1).bundle_from(None);
    let mut connection = receiver.connect();
    connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::No)).ok();
    connection
        .ask("PUT", &pack_path(&delivery, &delivery.packs[0]), &[], &delivery.packs[0].bytes)
        .ok();
    let pack = &delivery.packs[1];
    connection.send(&head("PUT", &pack_path(&delivery, pack), &[], pack.bytes.len()));
    connection.send(&pack.bytes[..pack.bytes.len() / 2]);
    drop(connection);
    // Another process on another day: another release with the same content.
    let mut later = first_tree().release(1);
    later.release.began += 86_400_000;
    let again = later.bundle_from(None);
    assert_eq!(again.key, delivery.key);
    let stage = || receiver.ask("POST", "/v1/stage", &stage_body(&again, &[], Complete::No));
    wait_until("the stage has been idle for a while", || stage().status == 200);
    assert_eq!(stage().ok(), json!({"held": [delivery.packs[0].id.to_string()]}));
    for pack in &again.packs[1..] {
        receiver.ask("PUT", &pack_path(&again, pack), &pack.bytes).ok();
    }
    receiver.ask("POST", "/v1/stage", &stage_body(&again, &[], Complete::Yes)).ok();
    receiver.ask("POST", "/v1/activate", &activation(&again, None)).ok();
    assert_serves(&receiver.mirror(), 1);
}

#[test]
fn abandoned_stage_is_closed_and_kept_on_disk() {
    let receiver = Receiver::limited(|limits| limits.stage_idle = Duration::from_millis(100));
    let delivery = first_tree().release(1).bundle_from(None);
    receiver
        .ask("POST", "/v1/stage", &stage_body(&delivery, &delivery.packs[..1], Complete::No))
        .ok();
    let pack = &delivery.packs[1];
    // A damaged pack has a different error than a pack without an open stage, and does not keep a
    // stage open for long.
    let is_closed = || {
        super::sleep_for(Duration::from_millis(300));
        receiver.ask("PUT", &pack_path(&delivery, pack), b"x").status == 404
    };
    wait_until("the stage is closed", is_closed);
    let held = receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No)).ok();
    assert_eq!(held, json!({"held": [delivery.packs[0].id.to_string()]}));
}

#[test]
fn slow_pack_keeps_its_stage_open() {
    let receiver = Receiver::limited(|limits| limits.stage_idle = Duration::from_millis(200));
    let delivery = first_tree().release(1).bundle_from(None);
    receiver.ask("POST", "/v1/stage", &stage_body(&delivery, &[], Complete::No)).ok();
    let pack = &delivery.packs[0];
    let mut connection = receiver.connect();
    connection.send(&head("PUT", &pack_path(&delivery, pack), &[], pack.bytes.len()));
    for part in pack.bytes.chunks(pack.bytes.len() / 12) {
        super::sleep_for(Duration::from_millis(50));
        connection.send(part);
    }
    connection.answer().unwrap().ok();
}

#[test]
fn one_of_two_senders_wins_and_the_other_gets_an_error() {
    let receiver = Receiver::open();
    let base = first_tree().release(1);
    publish(&mut receiver.connect(), &base.bundle_from(None), None);
    let versions =
        [second_tree().release(2), first_tree().file("new", "x", 1_700_000_003).release(2)];
    let outcomes: Vec<u16> = std::thread::scope(|scope| {
        let send = |version: &Version| {
            let delivery = version.bundle_from(Some(&base));
            let staged = receiver.ask(
                "POST",
                "/v1/stage",
                &stage_body(&delivery, &delivery.packs, Complete::Yes),
            );
            if staged.status != 200 {
                return staged.status;
            }
            let expected = base.name().to_string();
            receiver.ask("POST", "/v1/activate", &activation(&delivery, Some(&expected))).status
        };
        let senders: Vec<_> =
            versions.iter().map(|version| scope.spawn(move || send(version))).collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    let won = outcomes.iter().filter(|status| **status == 200).count();
    assert!(won == 1 && outcomes.iter().all(|status| matches!(status, 200 | 409)), "{outcomes:?}");
    assert_serves(&receiver.mirror(), 2);
}

#[test]
fn locked_mirror_reports_the_lock_after_keepalives() {
    let receiver = Receiver::limited(|limits| {
        limits.lock_wait = Duration::from_millis(400);
        limits.keepalive_after = Duration::from_millis(50);
        limits.keepalive_interval = Duration::from_millis(50);
    });
    let first = first_tree().release(1);
    publish(&mut receiver.connect(), &first.bundle_from(None), None);
    let lock = fs::File::open(receiver.mirror().join(".headwater/lock")).unwrap();
    lock.lock().unwrap();
    let late = receiver.ask("POST", "/v1/prune", br#"{"keep":1}"#);
    assert_eq!((late.status, late.kind().as_str()), (200, "locked"));
    assert!(late.body.starts_with(b"\n\n"), "{late:?}");
    let logged =
        || receiver.logged().contains(r#""path":"/v1/prune","status":423,"kind":"locked""#);
    wait_until("the final status is logged", logged);
    drop(lock);
    receiver.ask("POST", "/v1/prune", br#"{"keep":1}"#).ok();
}

#[test]
fn receiver_settings_decide_kept_releases_and_the_hook() {
    let receiver = Receiver::new(|settings| {
        let site = &mut settings.sites[0];
        site.keep = Some(1);
        let script = format!(
            "echo $HEADWATER_SITE $HEADWATER_RELEASE > {}.ran; exit 3",
            site.directory.display()
        );
        let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
        site.post_activate = Some(headwater::receiver::Hook { command, timeout: PATIENCE });
    });
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let mut connection = receiver.connect();
    publish(&mut connection, &first.bundle_from(None), None);
    connection.ask("POST", "/v1/settle", &[], br#"{"keep":100}"#).ok();
    let ran = receiver.mirror().with_extension("ran");
    let expected = format!("docs {}\n", first.name());
    wait_until("the hook has run", || fs::read_to_string(&ran).is_ok_and(|text| text == expected));
    wait_until("the failure of the hook is logged", || {
        receiver.logged().contains(r#""event":"hook_failed""#)
    });
    publish(&mut connection, &second.bundle_from(Some(&first)), Some(&first));
    let third = first_tree().release(3);
    publish(&mut connection, &third.bundle_from(Some(&second)), Some(&second));
    connection.ask("POST", "/v1/settle", &[], br#"{"keep":100}"#).ok();
    let state = connection.ask("GET", "/v1/state", &[], b"").ok();
    assert!(state["releases"].as_array().unwrap().len() < 3, "{state}");
}

#[test]
fn endless_hook_is_ended() {
    let receiver = Receiver::new(|settings| {
        let command = ["sleep", "1000"].map(str::to_owned).to_vec();
        let timeout = Duration::from_millis(100);
        settings.sites[0].post_activate = Some(headwater::receiver::Hook { command, timeout });
    });
    publish(&mut receiver.connect(), &first_tree().release(1).bundle_from(None), None);
    wait_until("the hook is ended", || receiver.logged().contains("did not end within 0.1 s"));
}
