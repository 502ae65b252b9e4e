//! Block signatures of the objects of a mirror.

use std::fs;

use headwater::hash::ManifestId;
use headwater::manifest::EntryKind;
use headwater::mirror::{ErrorKind, SignatureRequest};
use headwater::monitor::SilentMonitor;
use headwater::pack::{Signature, SignatureKey, SignatureShape};

use crate::fixture::Fixture;
use crate::origin::{Tree, Version, noise};
use crate::staging::Cancelled;

const KEY: SignatureKey = SignatureKey::from_bytes(*b"contract");
const NEW_BITS: u8 = 20;

fn release() -> Version {
    Tree::default()
        .file("a", noise(70_000, 1), 1)
        .file("b", Vec::new(), 1)
        .file("c", noise(2048, 2), 1)
        .link("d", "a")
        .file("e", noise(700_001, 3), 1)
        .release(1)
}

/// Returns all entries of a release, and the signatures that a mirror should return.
fn question(release: &Version) -> (SignatureRequest, Vec<u64>, Vec<Option<Signature>>) {
    let mut asked = Vec::new();
    let (mut sizes, mut expected) = (Vec::new(), Vec::new());
    for (position, entry) in (0..).zip(&release.entries) {
        let content = match &entry.kind {
            EntryKind::File(file) => release.objects[&file.object].to_vec(),
            EntryKind::Symlink(_) => Vec::new(),
        };
        let shape = SignatureShape::new(content.len() as u64, NEW_BITS);
        asked.push((position, NEW_BITS));
        sizes.push(content.len() as u64);
        expected.push((!content.is_empty()).then(|| Signature::of(&content, shape, KEY)));
    }
    let base = release.release.manifest;
    (SignatureRequest { base, key: KEY, files: asked }, sizes, expected)
}

pub(crate) fn signatures_match_the_requested_files<F: Fixture>() {
    let release = release();
    let mirror = F::with(&[&release]);
    let mirror = mirror.mirror();
    let (mut question, mut sizes, expected) = question(&release);
    assert_eq!(mirror.signatures(&question, &sizes, &SilentMonitor).unwrap(), expected);
    // Some of the files, and one that does not exist.
    question.files = vec![question.files[2], question.files[4], (17, NEW_BITS)];
    sizes = vec![sizes[2], sizes[4], 9];
    let some = [expected[2].clone(), expected[4].clone(), None];
    assert_eq!(mirror.signatures(&question, &sizes, &SilentMonitor).unwrap(), some);
    question.files.clear();
    assert_eq!(mirror.signatures(&question, &[], &SilentMonitor).unwrap(), []);
}

pub(crate) fn signatures_of_absent_files_are_left_out<F: Fixture>() {
    let release = release();
    let (question, sizes, mut expected) = question(&release);
    let absent = F::new();
    let asked = absent.mirror().signatures(&question, &sizes, &SilentMonitor).unwrap();
    assert_eq!(asked, vec![None; sizes.len()]);
    assert!(!absent.store().exists(), "a signature request creates no mirror");
    let fixture = F::with(&[&release]);
    let mirror = fixture.mirror();
    let unknown = SignatureRequest { base: ManifestId::of(b"unknown"), ..question.clone() };
    let asked = mirror.signatures(&unknown, &sizes, &SilentMonitor).unwrap();
    assert_eq!(asked, vec![None; sizes.len()]);
    // A missing object, and one with another length than the manifest says.
    fs::remove_file(fixture.object_path(&release.file("a").object)).unwrap();
    let path = fixture.object_path(&release.file("c").object);
    fs::remove_file(&path).unwrap();
    fs::write(&path, noise(2049, 2)).unwrap();
    (expected[0], expected[2]) = (None, None);
    assert_eq!(mirror.signatures(&question, &sizes, &SilentMonitor).unwrap(), expected);
}

pub(crate) fn cancelled_signature_request_stops<F: Fixture>() {
    let release = release();
    let fixture = F::with(&[&release]);
    let (question, sizes, _) = question(&release);
    let error = fixture.mirror().signatures(&question, &sizes, &Cancelled).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
