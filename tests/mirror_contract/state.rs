//! The state that a mirror reports, and the creation of a mirror.

use std::fs;
use std::io::Read as _;
use std::sync::Barrier;
use std::time::Duration;

use headwater::mirror::ErrorKind;
use headwater::tree_path::Site;

use headwater::hash::ObjectId;
use headwater::mirror::{Effort, ObjectPart};
use headwater::monitor::SilentMonitor;

use crate::fixture::{Fixture, assert_serves};
use crate::origin::{first_tree, second_tree};

pub(crate) fn absent_mirror_is_empty_and_stays_absent<F: Fixture>() {
    let fixture = F::new();
    let mirror = fixture.mirror();
    for _ in 0..2 {
        let state = mirror.state().unwrap();
        assert_eq!(
            (state.store, state.site, state.current, state.highest_sequence),
            (None, None, None, 0)
        );
        assert!(state.releases.is_empty());
    }
    let release = first_tree().release(1);
    assert!(mirror.manifest(&release.release.manifest).is_err());
    assert!(mirror.object(&release.file("app.js").object, 0).is_err());
    assert!(mirror.activate(release.name(), None).is_err());
    assert!(!fixture.store().exists(), "a state request created something");
}

pub(crate) fn mirror_of_another_site_is_refused<F: Fixture>() {
    let first = first_tree().release(1);
    let fixture = F::with(&[&first]);
    let news = Site::new("news").unwrap();
    let other = fixture.handle(&news, Duration::ZERO);
    assert_eq!(other.state().unwrap_err().kind(), ErrorKind::OtherSite);
    assert_eq!(other.activate(first.name(), None).unwrap_err().kind(), ErrorKind::OtherSite);
    let mut second = second_tree().release(2).bundle_from(Some(&first));
    second.release.site = news;
    for mirror in [&other, &fixture.mirror()] {
        assert_eq!(second.stage(&**mirror).unwrap_err().kind(), ErrorKind::OtherSite);
    }
    assert_serves(&fixture, &first);
}

pub(crate) fn concurrent_creation_makes_one_mirror<F: Fixture>() {
    let (one, other) = (first_tree().release(1), second_tree().release(2));
    for _ in 0..20 {
        let fixture = F::new();
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            let create = |version| {
                let (mirror, start) = (fixture.mirror(), &start);
                move || {
                    start.wait();
                    crate::origin::Version::bundle_from(version, None)
                        .stage(&*mirror)
                        .map(|_| mirror.state().unwrap().store)
                }
            };
            let threads = [scope.spawn(create(&one)), scope.spawn(create(&other))];
            let [one, other] =
                threads.map(|thread| thread.join().unwrap().expect("both are staged"));
            assert!(one.is_some());
            assert_eq!(one, other, "two mirrors were created at one location");
        });
    }
}

pub(crate) fn manifests_and_objects_read_back_unchanged<F: Fixture>() {
    let first = first_tree().release(1);
    let second = second_tree().release(2);
    let fixture = F::with(&[&first, &second]);
    let mirror = fixture.mirror();
    for version in [&first, &second] {
        let mut bytes = Vec::new();
        mirror.manifest(&version.release.manifest).unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == version.manifest);
        for id in version.named_objects() {
            let content = &version.objects[&id];
            let length = content.len();
            for offset in [0, length / 2, length] {
                let mut bytes = Vec::new();
                mirror.object(&id, offset as u64).unwrap().read_to_end(&mut bytes).unwrap();
                assert!(bytes == content[offset..], "from {offset}");
            }
        }
    }
    let unknown = crate::origin::Tree::default().file("x", "unknown", 1).release(9);
    assert!(mirror.manifest(&unknown.release.manifest).is_err());
    assert!(mirror.object(&unknown.file("x").object, 0).is_err());
    let state = mirror.state().unwrap();
    assert_eq!(state.releases, [first.release, second.release]);
    assert_eq!((state.highest_sequence, state.site), (2, Some(crate::origin::site())));
    assert!(
        fs::read_dir(fixture.store()).unwrap().count() == 2,
        "there are files beside .headwater and current"
    );
}

pub(crate) fn object_parts_are_returned_in_the_requested_order<F: Fixture>() {
    let first = first_tree().release(1);
    let absent = F::new();
    let part = |object: ObjectId, offset: u64, length: u64| ObjectPart { object, offset, length };
    let unknown = part(ObjectId::of(b"unknown"), 0, 7);
    assert!(absent.mirror().read_parts(&[unknown], Effort::Patient, &SilentMonitor).is_err());
    assert!(!absent.store().exists(), "reading creates no mirror");
    let fixture = F::with(&[&first]);
    let mirror = fixture.mirror();
    assert!(mirror.read_parts(&[], Effort::Once, &SilentMonitor).unwrap().is_empty());
    let mut parts = Vec::new();
    let mut wanted = Vec::new();
    for id in first.named_objects().into_iter().rev() {
        let content = &first.objects[&id];
        let size = content.len() as u64;
        for (offset, length) in [(0, size), (size / 2, size - size / 2), (size, 0), (0, 0)] {
            let (start, count) =
                (usize::try_from(offset).unwrap(), usize::try_from(length).unwrap());
            parts.extend([part(id, offset, length), unknown]);
            wanted.extend([Some(content[start..start + count].to_vec()), None]);
        }
        for (offset, length) in [(0, size + 1), (size + 1, 0), (1, u64::MAX), (u64::MAX, 1)] {
            parts.push(part(id, offset, length));
            wanted.push(None);
        }
    }
    // More parts than one request can have.
    while parts.len() < 10_000 {
        parts.push(unknown);
        wanted.push(None);
    }
    assert!(mirror.read_parts(&parts, Effort::Patient, &SilentMonitor).unwrap() == wanted);
}
