//! Repairs over a connection: what the receiver requests, and what it accepts.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::pushes::publish;
use super::{Connection, Receiver, assert_serves};
use crate::origin::{Tree, first_tree};

#[test]
fn repair_requests_missing_content_and_restores_it() {
    let receiver = Receiver::open();
    let first = first_tree().release(1);
    let mut connection = receiver.connect();
    publish(&mut connection, &first.bundle_from(None), None);
    let inner = receiver.mirror().join(".headwater");
    let object = first.file("img/logo.bin").object;
    let hex = object.to_string();
    // A new inode: the slot shares the old one.
    let file = inner.join("objects").join(&hex[..2]).join(&hex);
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"rotten").unwrap();
    fs::remove_file(inner.join(format!("manifests/{}.zst", first.release.manifest))).unwrap();
    fs::remove_file(inner.join(format!("releases/{}.json", first.name()))).unwrap();
    let put = |connection: &mut Connection, wants: &Value| {
        for id in wants["objects"].as_array().unwrap() {
            assert_eq!(id, &json!(hex));
            connection.ask("PUT", &format!("/v1/objects/{hex}"), &[], &first.objects[&object]).ok();
        }
        for id in wants["manifests"].as_array().unwrap() {
            let bytes = zstd::encode_all(&first.manifest[..], 3).unwrap();
            connection
                .ask("PUT", &format!("/v1/manifests/{}", id.as_str().unwrap()), &[], &bytes)
                .ok();
        }
        for name in wants["releases"].as_array().unwrap() {
            let path = format!("/v1/releases/{}", name.as_str().unwrap());
            connection.ask("PUT", &path, &[], &first.release.to_bytes()).ok();
        }
    };
    let mut rounds = 0;
    loop {
        let repairing = connection.ask("POST", "/v1/repair", &[], b"{}").ok();
        if repairing["left"].as_array().unwrap().is_empty() {
            break;
        }
        put(&mut connection, &repairing["wants"]);
        rounds += 1;
        assert!(rounds < 6, "{repairing}");
    }
    assert_eq!(rounds, 3, "the record, then its manifest, then the object");
    let verified = connection.ask("POST", "/v1/verify", &[], b"{}").ok();
    assert_eq!(verified["faults"], json!([]));
    assert_serves(&receiver.mirror(), 1);
}

#[test]
fn repair_uploads_respect_the_quota_and_failed_ones_leave_nothing() {
    const SIZE: usize = 300_000;
    let receiver = Receiver::new(|settings| settings.sites[0].quota_bytes = Some(1_000_000));
    let paths = ["a", "b", "c"];
    let sized = |tree: Tree, path: &&str| tree.file(path, vec![path.as_bytes()[0]; SIZE], 7);
    let first = paths.iter().fold(Tree::default(), sized).release(1);
    let mut connection = receiver.connect();
    publish(&mut connection, &first.bundle_from(None), None);
    let objects = paths.map(|path| first.file(path).object.to_string());
    for object in &objects {
        let file = receiver.mirror().join(".headwater/objects").join(&object[..2]).join(object);
        fs::remove_file(&file).unwrap();
        fs::write(&file, b"rotten").unwrap();
    }
    let repairing = connection.ask("POST", "/v1/repair", &[], b"{}").ok();
    assert_eq!(repairing["wants"]["objects"].as_array().unwrap().len(), 3);
    // However often this is repeated, refused uploads take no space on the disk or of the quota.
    for round in 0..12 {
        let path = format!("/v1/objects/{}", objects[round % 3]);
        let refused = connection.ask("PUT", &path, &[], &vec![1; SIZE]);
        assert_eq!(refused.refusal(), (400, "malformed".to_owned()), "{round}");
    }
    let kept = open_unnamed_bytes(&receiver.mirror());
    assert!(kept < 2 * SIZE as u64, "{kept} bytes are kept");
    for (path, object) in paths.iter().zip(&objects) {
        let content = vec![path.as_bytes()[0]; SIZE];
        // Content that was already received is not kept twice.
        for _ in 0..3 {
            connection.ask("PUT", &format!("/v1/objects/{object}"), &[], &content).ok();
        }
    }
    let repaired = connection.ask("POST", "/v1/repair", &[], b"{}").ok();
    assert_eq!((&repaired["left"], &repaired["objects"]), (&json!([]), &json!(3)));
}

/// Returns the bytes of unnamed files that this process has open below `place`.
fn open_unnamed_bytes(place: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let open = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let below = open.filter(|path| fs::read_link(path).is_ok_and(|file| file.starts_with(place)));
    let metas = below.filter_map(|path| fs::metadata(path).ok());
    metas.filter(|meta| meta.is_file() && meta.nlink() == 0).map(|meta| meta.blocks() * 512).sum()
}
