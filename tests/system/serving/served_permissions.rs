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
use crate::origin::{Version, first_tree, second_tree};
use crate::sandbox;

/// Returns a group to which the current user can assign files, and not the default group if
/// possible.
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

/// Publishes through a receiver with these permissions, and stops it.
fn push(
    mirror: &Path,
    readers: &ServedPermissions,
    release: &Version,
    bundle_from: Option<&Version>,
) {
    let receiver = Receiver::new(|settings| {
        settings.sites[0].directory = mirror.to_owned();
        settings.sites[0].served_permissions = Some(readers.clone());
    });
    let mut connection = receiver.connect();
    publish(&mut connection, &release.bundle_from(bundle_from), bundle_from);
    connection.ask("POST", "/v1/settle", &[], br#"{"keep":3}"#).ok();
}

/// A mode and the id of a group.
type Kind = (u32, u32);

/// Returns the distinct modes and groups of the files and of the directories below `at`.
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

fn format(mirror: &Path) -> Value {
    serde_json::from_slice(&fs::read(mirror.join(".headwater/format")).unwrap()).unwrap()
}

/// Asserts that all files below `at` have mode 0440 or 0550, all directories 0750, and all `group`.
#[track_caller]
fn assert_closed(at: &Path, group: u32) {
    let (files, directories) = kinds(at);
    assert_eq!(directories, [(0o750, group)]);
    assert!(files.iter().all(|kind| [(0o440, group), (0o550, group)].contains(kind)), "{files:?}");
}

#[test]
fn changed_group_and_modes_apply_to_all_releases_with_the_next_push() {
    let dir = sandbox::directory();
    let mirror = dir.path().join("www");
    let group = some_group();
    let (first, second, third) =
        (first_tree().release(1), second_tree().release(2), first_tree().release(3));
    push(&mirror, &ServedPermissions::default(), &first, None);
    assert_serves(&mirror, 1);
    assert_eq!(format(&mirror).get("permissions"), None, "unset permissions are not written");

    let closed = readers("0440", "0750", Some(group));
    push(&mirror, &closed, &second, Some(&first));
    assert_closed(&mirror.join("current"), group);
    assert_closed(&mirror.join(".headwater/slots").join(first.name().to_string()), group);
    assert_eq!(faults(&mirror), []);
    let kept = format(&mirror);
    assert_eq!(
        (kept["permissions"]["file_mode"].as_str(), kept.get("changing")),
        (Some("0440"), None)
    );

    push(&mirror, &readers("0444", "0755", None), &third, Some(&second));
    // The checker only supports the default modes.
    assert_serves(&mirror, 3);
    assert_eq!(faults(&mirror), []);
}

#[test]
fn interrupted_mode_change_is_completed_by_the_next_push() {
    let dir = sandbox::directory();
    let mirror = dir.path().join("www");
    let closed = readers("0440", "0750", Some(some_group()));
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    push(&mirror, &closed, &first, None);
    // The change to the default was recorded, and some files have the new modes.
    let mut changing = format(&mirror);
    changing.as_object_mut().unwrap().remove("permissions");
    changing["changing"] = true.into();
    fs::write(mirror.join(".headwater/format"), changing.to_string()).unwrap();
    let served = mirror.join("current/index.html");
    fs::set_permissions(&served, Permissions::from_mode(0o444)).unwrap();
    assert_eq!(faults(&mirror), []);
    // A receiver without configured permissions completes it.
    let receiver = Receiver::new(|settings| settings.sites[0].directory = mirror.clone());
    publish(&mut receiver.connect(), &second.bundle_from(Some(&first)), Some(&first));
    assert_eq!(format(&mirror).get("changing"), None);
    assert_serves(&mirror, 2);
    assert_eq!(faults(&mirror), []);
}

#[test]
fn manually_changed_mode_is_found_and_repaired() {
    let dir = sandbox::directory();
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
    assert_eq!(repaired.remaining, []);
    assert_eq!(fs::metadata(&served).unwrap().mode() & 0o7777, 0o440);
}

#[test]
fn unusable_group_is_reported_at_startup() {
    let dir = sandbox::directory();
    let mut site = SiteSettings::new(dir.path().join("www"), None);
    site.served_permissions = Some(ServedPermissions {
        group: Some("no such group".to_owned()),
        ..ServedPermissions::default()
    });
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = ReceiverSettings::new(listen, vec![site], headwater::receiver::AuthPolicy::Open);
    let refused =
        Server::bind(&settings, std::sync::Arc::new(headwater::receiver::NoLog)).unwrap_err();
    assert!(matches!(refused, ServeError::Group { .. }), "{refused}");
}
