//! Read permission on served files: group and modes of a site, and the effect of a change of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use headwater::receiver::{ReceiverSettings, ServeError, ServedPermissions, Server, SiteSettings};
use headwater::store::{Depth, Fault, FaultKind, Store};
use serde_json::Value;

use super::pushes::publish;
use super::{Receiver, assert_serves};
use crate::harness::scratch;
use crate::origin::{Version, first_tree, second_tree};

/// A group that whoever runs this can give files to, and that is no default where that can be.
fn some_group() -> u32 {
    if rustix::process::geteuid().is_root() { 12_345 } else { rustix::process::getegid().as_raw() }
}

fn readers(file_mode: &str, dir_mode: &str, group: Option<u32>) -> ServedPermissions {
    let group = group.map(|group| group.to_string());
    ServedPermissions {
        group,
        file_mode: file_mode.parse().unwrap(),
        dir_mode: dir_mode.parse().unwrap(),
    }
}

/// Publishes through a receiver with these readers, and ends it.
fn push(mirror: &Path, readers: &ServedPermissions, release: &Version, onto: Option<&Version>) {
    let receiver = Receiver::new(|settings| {
        settings.sites[0].directory = mirror.to_owned();
        settings.sites[0].readers = Some(readers.clone());
    });
    let mut connection = receiver.connect();
    publish(&mut connection, &release.onto(onto), onto);
    connection.ask("POST", "/v1/settle", &[], br#"{"keep":3}"#).ok();
}

/// A mode and the id of a group.
type Kind = (u32, u32);

/// Modes and groups of the files and of the directories below `at`, each once.
fn kinds(at: &Path) -> (Vec<Kind>, Vec<Kind>) {
    let (mut files, mut directories, mut left) =
        (Vec::new(), Vec::new(), vec![at.canonicalize().unwrap()]);
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = (meta.mode() & 0o7777, meta.gid());
        if meta.is_dir() {
            directories.push(kind);
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_file() {
            files.push(kind);
        }
    }
    for kinds in [&mut files, &mut directories] {
        kinds.sort_unstable();
        kinds.dedup();
    }
    (files, directories)
}

fn faults(mirror: &Path) -> Vec<Fault> {
    let store = Store::open(mirror).unwrap();
    store.verify(Depth::Full, Duration::from_secs(5), &|| false).unwrap().faults
}

#[test]
fn group_and_modes_hold_from_the_next_release_on() {
    let dir = scratch();
    let mirror = dir.path().join("www");
    let (own, group) = (rustix::process::getegid().as_raw(), some_group());
    let (first, second, third) =
        (first_tree().release(1), second_tree().release(2), first_tree().release(3));
    push(&mirror, &ServedPermissions::default(), &first, None);
    assert_serves(&mirror, 1);
    let plain = fs::read(mirror.join(".headwater/format")).unwrap();
    assert!(!String::from_utf8_lossy(&plain).contains("eras"), "what is not set is not written");

    let closed = readers("0440", "0750", Some(group));
    push(&mirror, &closed, &second, Some(&first));
    assert_eq!(kinds(&mirror.join("current")).1, [(0o750, group)]);
    let (files, _) = kinds(&mirror.join("current"));
    assert!(files.iter().all(|kind| [(0o440, group), (0o550, group)].contains(kind)), "{files:?}");
    // The release before keeps what it had, and nothing of it is a fault.
    let left = mirror.join(".headwater/slots").join(first.name().to_string());
    assert_eq!(kinds(&left), (vec![(0o444, own), (0o555, own)], vec![(0o755, own)]));
    assert_eq!(faults(&mirror), []);
    let format: Value =
        serde_json::from_slice(&fs::read(mirror.join(".headwater/format")).unwrap()).unwrap();
    assert_eq!(format["eras"][0]["after"], 1);

    push(&mirror, &closed, &third, Some(&second));
    assert_eq!(
        kinds(&mirror.join("current")).1,
        [(0o750, group)],
        "also where the slot of the first one was"
    );
    assert_eq!(faults(&mirror), []);
}

#[test]
fn a_mode_that_was_changed_by_hand_is_found_and_mended() {
    let dir = scratch();
    let mirror = dir.path().join("www");
    let closed = readers("0440", "0750", Some(some_group()));
    push(&mirror, &closed, &first_tree().release(1), None);
    assert_eq!(faults(&mirror), []);
    let served = mirror.join("current/index.html");
    fs::set_permissions(&served, Permissions::from_mode(0o444)).unwrap();
    let found = faults(&mirror);
    assert!(
        !found.is_empty() && found.iter().all(|fault| fault.kind == FaultKind::Mode),
        "{found:?}"
    );
    struct Nothing;
    impl headwater::store::FetchRecords for Nothing {
        fn release(
            &self,
            _: headwater::release::ReleaseName,
        ) -> Option<headwater::release::Release> {
            None
        }
        fn manifest(
            &self,
            _: &headwater::hash::ManifestId,
        ) -> Option<Box<dyn std::io::Read + Send>> {
            None
        }
    }
    let store = Store::open(&mirror).unwrap();
    let repaired = store
        .repair(
            &|_: &headwater::hash::ObjectId| Err("no".into()),
            &Nothing,
            Duration::from_secs(5),
            &|| false,
        )
        .unwrap();
    assert_eq!(repaired.left, []);
    assert_eq!(fs::metadata(&served).unwrap().mode() & 0o7777, 0o440);
}

#[test]
fn a_group_that_files_cannot_be_given_to_is_told_at_the_start() {
    let dir = scratch();
    let mut site = SiteSettings::new(dir.path().join("www"), None);
    site.readers = Some(ServedPermissions {
        group: Some("no such group".to_owned()),
        ..ServedPermissions::default()
    });
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = ReceiverSettings::new(listen, vec![site], headwater::receiver::AuthPolicy::Open);
    let refused =
        Server::bind(&settings, std::sync::Arc::new(headwater::receiver::NoLog)).unwrap_err();
    assert!(matches!(refused, ServeError::Group { .. }), "{refused}");
}
