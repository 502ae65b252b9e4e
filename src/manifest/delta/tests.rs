//! Tests of changes between any two manifests, and of hostile changes.

use std::collections::HashSet;
use std::io;

use super::*;
use crate::hash::ManifestId;
use crate::manifest::entry::{Entry, EntryKind, FileEntry};
use crate::manifest::{ManifestError, ManifestWriter};
use crate::tree_path::LinkTarget;
use crate::varint;
use proptest::prelude::*;

fn entry(path: &str, content: u8, kind: u8, mtime: u64, until: Option<u64>) -> Entry {
    let kind = if kind == 0 {
        EntryKind::Symlink(LinkTarget::new(&format!("t{content}")).unwrap())
    } else {
        let object = ObjectId::of(&[content]);
        EntryKind::File(FileEntry { object, size: u64::from(content), mtime, exec: kind == 1 })
    };
    Entry { path: TreePath::new(path).unwrap(), kind, until }
}

fn stream(entries: &[Entry]) -> impl Iterator<Item = Result<Entry, ManifestError>> {
    entries.iter().cloned().map(Ok)
}

fn id_of(entries: &[Entry]) -> ManifestId {
    let mut writer = ManifestWriter::new(io::sink());
    entries.iter().for_each(|entry| writer.push(entry).unwrap());
    writer.finish().unwrap().1.manifest
}

/// Limits that no change in these tests reaches.
const WIDE: ChangeLimits<'static> = ChangeLimits {
    encoded_bytes: 1 << 20,
    base_entries: None,
    entries: 1 << 20,
    reserve: &|_| true,
    is_cancelled: &|| false,
};

fn decode(
    change: &[u8],
    ids: &[(ObjectId, u64)],
    base: &[Entry],
) -> Result<ManifestId, ManifestError> {
    let needs = summarize(change, &WIDE)?;
    let copies = objects_at(&needs.base_entries, stream(base))?;
    Ok(apply(change, stream(base), ids, &copies, io::sink())?.1.manifest)
}

fn round_trip(base: &[Entry], new: &[Entry]) -> (ManifestDelta, Vec<(ObjectId, u64)>) {
    round_trip_beside(base, new, &HashSet::new())
}

fn round_trip_beside(
    base: &[Entry],
    new: &[Entry],
    held: &HashSet<ObjectId>,
) -> (ManifestDelta, Vec<(ObjectId, u64)>) {
    let change =
        encode_with_held(|| Ok(stream(base)), || Ok(stream(new)), Some(id_of(base)), 50, held)
            .unwrap();
    let ids: Vec<_> = change.wanted.iter().map(|one| (one.object, one.size)).collect();
    let needs = summarize(&*change.bytes, &WIDE).unwrap();
    assert_eq!(
        needs.head,
        DeltaHeader { base: Some(id_of(base)), created: 50, objects: ids.len() as u64 }
    );
    assert_eq!(needs.objects.len(), ids.len());
    assert_eq!(decode(&change.bytes, &ids, base).unwrap(), id_of(new));
    (change, ids)
}

#[test]
fn rename_and_copy_need_no_new_content() {
    let base = [entry("a", 1, 2, 5, None), entry("b", 2, 2, 5, None)];
    let new = [entry("c", 1, 2, 50, None), entry("d", 2, 1, 50, None), entry("e", 2, 2, 50, None)];
    assert!(round_trip(&base, &new).0.wanted.is_empty());
}

#[test]
fn sizes_and_times_from_two_to_the_53rd_are_refused() {
    // One new file with a size, mtime and `until`, in a release with a `created`.
    let change = |numbers: [u64; 4]| {
        let [created, size, mtime, until] = numbers;
        let mut plain = [&MAGIC[..], &[VERSION], &[0; 32]].concat();
        [created, 1].iter().for_each(|number| varint::push(*number, &mut plain));
        plain.extend([OP_ADD, 0, 1, b'a', NEXT_NEW | UNTIL]);
        [size, mtime, until].iter().for_each(|number| varint::push(*number, &mut plain));
        plain.push(OP_END);
        zstd::encode_all(&plain[..], 1).unwrap()
    };
    let most = varint::MAX_NUMBER;
    assert!(summarize(&change([most; 4])[..], &WIDE).is_ok());
    for (at, large) in (0..4).flat_map(|at| [(at, most + 1), (at, 1 << 63), (at, u64::MAX)]) {
        let mut numbers = [7; 4];
        numbers[at] = large;
        let change = change(numbers);
        assert!(summarize(&change[..], &WIDE).is_err(), "{numbers:?}");
        assert!(
            apply(
                &change[..],
                stream(&[]),
                &[(ObjectId::of(b""), 0)],
                &Default::default(),
                io::sink()
            )
            .is_err()
        );
    }
}

#[test]
fn extra_objects_are_named_and_need_no_content() {
    let base = [entry("a", 1, 2, 5, None)];
    let new =
        [entry("a", 2, 2, 50, None), entry("b", 3, 2, 50, None), entry("c", 2, 1, 9, Some(7))];
    let held = [2, 1].map(|content| ObjectId::of(&[content])).into();
    let (change, ids) = round_trip_beside(&base, &new, &held);
    assert_eq!(ids, [(ObjectId::of(&[3]), 3)]);
    let plain = zstd::decode_all(&change.bytes[..]).unwrap();
    let id = ObjectId::of(&[2]);
    assert_eq!(
        plain.windows(32).filter(|bytes| bytes == id.as_bytes()).count(),
        2,
        "once an entry"
    );
    let at = plain.windows(32).position(|bytes| bytes == id.as_bytes()).unwrap();
    let cut = zstd::encode_all(&plain[..at + 31], 1).unwrap();
    assert!(summarize(&cut[..], &WIDE).is_err());
}

#[test]
fn delta_of_one_changed_entry_is_small() {
    let base: Vec<_> = (0..20_000).map(|n| entry(&format!("dir/{n:05}"), 1, 2, 5, None)).collect();
    let mut new = base.clone();
    new[777] = entry("dir/00777", 9, 2, 50, None);
    let (change, _) = round_trip(&base, &new);
    assert!(change.bytes.len() < 120, "{}", change.bytes.len());
}

#[test]
fn damaged_delta_is_an_error_or_another_manifest() {
    let base =
        [entry("a", 1, 2, 5, None), entry("b", 2, 2, 5, None), entry("x/y", 3, 0, 5, Some(7))];
    let new =
        [entry("a", 4, 2, 50, None), entry("b/c", 2, 1, 50, Some(9)), entry("x/y", 3, 0, 5, None)];
    let (change, ids) = round_trip(&base, &new);
    let plain = zstd::decode_all(&change.bytes[..]).unwrap();
    for at in 0..plain.len() {
        for damage in [1u8, 0x80, 0xff] {
            let mut bytes = plain.clone();
            bytes[at] ^= damage;
            let packed = zstd::encode_all(&bytes[..], 1).unwrap();
            if let Ok(id) = decode(&packed, &ids, &base) {
                // The result lacks only the announced base, time and sizes; staging compares those.
                assert!(
                    id != id_of(&new)
                        || summarize(&packed[..], &WIDE).unwrap()
                            != summarize(&*change.bytes, &WIDE).unwrap(),
                    "byte {at}"
                );
            }
        }
        let cut = zstd::encode_all(&plain[..at], 1).unwrap();
        assert!(decode(&cut, &ids, &base).is_err(), "cut at {at}");
    }
    assert!(decode(&change.bytes[..change.bytes.len() - 1], &ids, &base).is_err());
}

/// A change with these operations, without new objects and without a base.
fn change_of(operations: &[u8]) -> Vec<u8> {
    let head: &[u8] = &[b"HWMC\x01".as_slice(), &[0; 32], &[50, 0]].concat();
    zstd::encode_all(&[head, operations, &[OP_END]].concat()[..], 1).unwrap()
}

#[test]
fn split_run_is_refused() {
    for run in [OP_KEEP, OP_DROP] {
        assert!(summarize(&change_of(&[run, 2])[..], &WIDE).is_ok());
        let error = summarize(&change_of(&[run, 1, run, 1])[..], &WIDE).unwrap_err();
        assert!(error.to_string().contains("a run is cut in two"), "{error}");
    }
    assert!(summarize(&change_of(&[OP_KEEP, 1, OP_DROP, 1, OP_KEEP, 1])[..], &WIDE).is_ok());
}

#[test]
fn delta_over_its_limits_is_refused_at_once() {
    let limits = ChangeLimits { base_entries: Some(10), entries: 5, ..WIDE };
    for (operations, words) in [
        (&[OP_DROP, 11][..], "past its base's end"),
        (&[OP_KEEP, 3, OP_DROP, 8], "past its base's end"),
        (&[OP_KEEP, 6], "more entries than the release has"),
        (
            &[OP_KEEP, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            "past its base's end",
        ),
    ] {
        let error = summarize(&change_of(operations)[..], &limits).unwrap_err();
        assert!(error.to_string().contains(words), "{operations:?}: {error}");
    }
    assert!(summarize(&change_of(&[OP_KEEP, 5, OP_DROP, 5])[..], &limits).is_ok());
}

#[test]
fn delta_with_more_objects_than_entries_is_refused_unread() {
    let head: &[u8] = &[b"HWMC\x01".as_slice(), &[0; 32], &[50, 6]].concat();
    let error =
        summarize(&zstd::encode_all(head, 1).unwrap()[..], &ChangeLimits { entries: 5, ..WIDE })
            .unwrap_err();
    assert!(error.to_string().contains("more new objects than the release has entries"), "{error}");
}

#[test]
fn cancelled_delta_read_stops() {
    let runs: Vec<u8> = [OP_KEEP, 1, OP_DROP, 1].repeat(10_000);
    let limits = ChangeLimits { is_cancelled: &|| true, ..WIDE };
    assert!(matches!(summarize(&change_of(&runs)[..], &limits), Err(ManifestError::Cancelled)));
    assert!(summarize(&change_of(&runs)[..], &WIDE).is_ok());
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (
        "[a-d]{1,2}(/[a-d]{1,2})?",
        0u8..6,
        0u8..4,
        prop_oneof![Just(5u64), Just(50)],
        proptest::option::of(1u64..9),
    );
    proptest::collection::btree_map("[a-d]{1,2}_[a-d]", one, 0..30).prop_map(|map| {
        map.into_iter()
            .map(|(path, (_, content, kind, mtime, until))| {
                entry(&path, content, kind, mtime, until)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn extra_objects_are_never_new(
        base in entries(),
        new in entries(),
        held in proptest::collection::hash_set(0u8..6, 0..6),
    ) {
        let held: HashSet<_> = held.into_iter().map(|content| ObjectId::of(&[content])).collect();
        let (change, _) = round_trip_beside(&base, &new, &held);
        prop_assert!(change.wanted.iter().all(|one| !held.contains(&one.object)));
    }

    #[test]
    fn random_manifest_is_rebuilt_from_a_random_base(base in entries(), new in entries()) {
        let (change, _) = round_trip(&base, &new);
        let held: HashSet<_> =
            base.iter().filter_map(|entry| entry.file().map(|file| file.object)).collect();
        prop_assert!(change.wanted.iter().all(|one| !held.contains(&one.object)));
    }
}
