//! The change between any two manifests, and what hostile ones come to.

use std::collections::HashSet;
use std::io;

use super::*;
use crate::hash::ManifestId;
use crate::manifest::entry::{Entry, FileEntry, Kind};
use crate::manifest::{ManifestError, ManifestWriter};
use crate::tree_path::LinkTarget;
use proptest::prelude::*;

fn entry(path: &str, content: u8, kind: u8, mtime: u64, until: Option<u64>) -> Entry {
    let kind = if kind == 0 {
        Kind::Symlink(LinkTarget::new(&format!("t{content}")).unwrap())
    } else {
        let object = ObjectId::of(&[content]);
        Kind::File(FileEntry { object, size: u64::from(content), mtime, exec: kind == 1 })
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

fn decode(change: &[u8], ids: &[(ObjectId, u64)], base: &[Entry]) -> Result<ManifestId, ManifestError> {
    let needs = needs(change)?;
    let copies = objects_at(&needs.base_entries, stream(base))?;
    Ok(apply(change, stream(base), ids, &copies, io::sink())?.1.manifest)
}

fn round_trip(base: &[Entry], new: &[Entry]) -> (Change, Vec<(ObjectId, u64)>) {
    round_trip_beside(base, new, &HashSet::new())
}

fn round_trip_beside(base: &[Entry], new: &[Entry], held: &HashSet<ObjectId>) -> (Change, Vec<(ObjectId, u64)>) {
    let change = encode_beside(|| Ok(stream(base)), || Ok(stream(new)), Some(id_of(base)), 50, held).unwrap();
    let ids: Vec<_> = change.wanted.iter().map(|one| (one.object, one.size)).collect();
    let needs = needs(&change.bytes).unwrap();
    assert_eq!(needs.head, Head { base: Some(id_of(base)), created: 50, objects: ids.len() as u64 });
    assert_eq!(needs.objects.len(), ids.len());
    assert_eq!(decode(&change.bytes, &ids, base).unwrap(), id_of(new));
    (change, ids)
}

#[test]
fn a_rename_and_a_copy_need_no_new_content() {
    let base = [entry("a", 1, 2, 5, None), entry("b", 2, 2, 5, None)];
    let new = [entry("c", 1, 2, 50, None), entry("d", 2, 1, 50, None), entry("e", 2, 2, 50, None)];
    assert!(round_trip(&base, &new).0.wanted.is_empty());
}

#[test]
fn what_is_held_beside_the_base_is_named_and_needs_no_content() {
    let base = [entry("a", 1, 2, 5, None)];
    let new = [entry("a", 2, 2, 50, None), entry("b", 3, 2, 50, None), entry("c", 2, 1, 9, Some(7))];
    let held = [2, 1].map(|content| ObjectId::of(&[content])).into();
    let (change, ids) = round_trip_beside(&base, &new, &held);
    assert_eq!(ids, [(ObjectId::of(&[3]), 3)]);
    let plain = zstd::decode_all(&change.bytes[..]).unwrap();
    let id = ObjectId::of(&[2]);
    assert_eq!(plain.windows(32).filter(|bytes| bytes == id.as_bytes()).count(), 2, "once an entry");
    let at = plain.windows(32).position(|bytes| bytes == id.as_bytes()).unwrap();
    let cut = zstd::encode_all(&plain[..at + 31], 1).unwrap();
    assert!(needs(&cut).is_err());
}

#[test]
fn a_change_of_one_in_many_is_small() {
    let base: Vec<_> = (0..20_000).map(|n| entry(&format!("dir/{n:05}"), 1, 2, 5, None)).collect();
    let mut new = base.clone();
    new[777] = entry("dir/00777", 9, 2, 50, None);
    let (change, _) = round_trip(&base, &new);
    assert!(change.bytes.len() < 120, "{}", change.bytes.len());
}

#[test]
fn damage_anywhere_is_an_error_or_another_manifest() {
    let base = [entry("a", 1, 2, 5, None), entry("b", 2, 2, 5, None), entry("x/y", 3, 0, 5, Some(7))];
    let new = [entry("a", 4, 2, 50, None), entry("b/c", 2, 1, 50, Some(9)), entry("x/y", 3, 0, 5, None)];
    let (change, ids) = round_trip(&base, &new);
    let plain = zstd::decode_all(&change.bytes[..]).unwrap();
    for at in 0..plain.len() {
        for damage in [1u8, 0x80, 0xff] {
            let mut bytes = plain.clone();
            bytes[at] ^= damage;
            let packed = zstd::encode_all(&bytes[..], 1).unwrap();
            if let Ok(id) = decode(&packed, &ids, &base) {
                // Only the announced base, the time and sizes are not in the result: whoever stages compares those.
                assert!(id != id_of(&new) || needs(&packed).unwrap() != needs(&change.bytes).unwrap(), "byte {at}");
            }
        }
        let cut = zstd::encode_all(&plain[..at], 1).unwrap();
        assert!(decode(&cut, &ids, &base).is_err(), "cut at {at}");
    }
    assert!(decode(&change.bytes[..change.bytes.len() - 1], &ids, &base).is_err());
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one =
        ("[a-d]{1,2}(/[a-d]{1,2})?", 0u8..6, 0u8..4, prop_oneof![Just(5u64), Just(50)], proptest::option::of(1u64..9));
    proptest::collection::btree_map("[a-d]{1,2}_[a-d]", one, 0..30).prop_map(|map| {
        map.into_iter()
            .map(|(path, (_, content, kind, mtime, until))| entry(&path, content, kind, mtime, until))
            .collect()
    })
}

proptest! {
    #[test]
    fn what_is_held_is_never_new(base in entries(), new in entries(), held in proptest::collection::hash_set(0u8..6, 0..6)) {
        let held: HashSet<_> = held.into_iter().map(|content| ObjectId::of(&[content])).collect();
        let (change, _) = round_trip_beside(&base, &new, &held);
        prop_assert!(change.wanted.iter().all(|one| !held.contains(&one.object)));
    }

    #[test]
    fn any_manifest_is_rebuilt_from_any_base(base in entries(), new in entries()) {
        let (change, _) = round_trip(&base, &new);
        let held: HashSet<_> = base.iter().filter_map(|entry| entry.file().map(|f| f.object)).collect();
        prop_assert!(change.wanted.iter().all(|one| !held.contains(&one.object)));
    }
}
