//! Contents there and back, damage, and what pruning leaves.

use std::path::Path;

use super::*;
use crate::pack::Sketch;

fn open(path: &Path) -> ContentCache {
    ContentCache::open(Dir::open(path).unwrap()).unwrap()
}

/// Adds one segment with these contents.
fn add(path: &Path, contents: &[&[u8]]) {
    let draft = open(path).begin().unwrap();
    let mut records = Vec::new();
    let mut offset = 0;
    for content in contents {
        draft.write_at(content, offset).unwrap();
        let (id, size, sketch) = (ObjectId::of(content), content.len() as u64, Sketch::of(content));
        records.push(Record { id, offset, size, sketch });
        offset += size;
    }
    draft.finish(&records).unwrap();
}

fn read(cache: &ContentCache, content: &[u8]) -> Option<Vec<u8>> {
    let id = ObjectId::of(content);
    let kept = cache.find(|wanted| *wanted == id).remove(&id)?;
    let mut bytes = vec![0; usize::try_from(kept.record().size).unwrap()];
    cache.read_at(&kept, &mut bytes, 0).unwrap();
    assert_eq!(kept.record().sketch, Sketch::of(content));
    Some(bytes)
}

fn ids(contents: &[&[u8]]) -> Vec<ObjectId> {
    let mut ids: Vec<_> = contents.iter().map(|content| ObjectId::of(content)).collect();
    ids.sort_unstable();
    ids
}

fn files(path: &Path) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(ENDING) || name.ends_with(DRAFT)).collect();
    names.sort();
    names
}

#[test]
fn what_was_put_in_is_found_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    add(dir.path(), &[b"one", b"", &[7; 100_000]]);
    add(dir.path(), &[b"two"]);
    let cache = open(dir.path());
    for content in [&b"one"[..], b"", &[7; 100_000], b"two"] {
        assert_eq!(read(&cache, content).as_deref(), Some(content));
    }
    assert_eq!(read(&cache, b"three"), None);
    assert_eq!(cache.content_bytes(), 100_006);
}

#[test]
fn a_segment_that_is_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let draft = open(dir.path()).begin().unwrap();
    draft.write_at(b"half", 0).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    drop(draft);
    assert_eq!(files(dir.path()), [""; 0]);
    // Of a push that was killed.
    std::fs::write(dir.path().join("000000000001-x.content.draft"), "half").unwrap();
    let under_way = open(dir.path()).begin().unwrap();
    open(dir.path()).prune(&[], 100).unwrap();
    assert_eq!(files(dir.path()), std::slice::from_ref(&under_way.draft));
}

#[test]
fn every_damaged_byte_of_a_table_is_noticed_and_the_file_goes() {
    let dir = tempfile::tempdir().unwrap();
    add(dir.path(), &[b"0123456789"]);
    let path = dir.path().join(&files(dir.path())[0]);
    let whole = std::fs::read(&path).unwrap();
    for at in 10..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let cache = open(dir.path());
        assert_eq!(read(&cache, b"0123456789"), None, "byte {at}");
        assert_eq!(cache.damaged(), 1, "byte {at}");
        cache.prune(&[ids(&[b"0123456789"])], 100).unwrap();
        assert_eq!(files(dir.path()), [""; 0], "byte {at}");
    }
    for end in 0..whole.len() {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(open(dir.path()).damaged(), 1, "{end} bytes");
    }
}

#[test]
fn pruning_keeps_what_releases_need_within_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c, d) = ([1; 100], [2; 100], [3; 100], [4; 100]);
    add(dir.path(), &[&a, &b, &c]);
    add(dir.path(), &[&d]);
    let left = |releases: &[Vec<ObjectId>], most| {
        open(dir.path()).prune(releases, most).unwrap();
        let cache = open(dir.path());
        [&a, &b, &c, &d].map(|content| read(&cache, &content[..]).is_some())
    };
    let (new, old) = (ids(&[&a, &d]), ids(&[&a, &b, &c]));
    assert_eq!(left(&[new.clone(), old.clone()], 1000), [true; 4]);
    // Too much for both: the older one goes, and the first segment is written anew.
    assert_eq!(left(&[new.clone(), old], 399), [true, false, false, true]);
    assert_eq!(open(dir.path()).content_bytes(), 200);
    // Too much even for one: the newest segment stays.
    let kept = left(&[new], 100);
    assert_eq!(kept.iter().filter(|is_kept| **is_kept).count(), 1);
    assert_eq!(left(&[], 1000), [false; 4]);
}

#[test]
fn what_is_distrusted_goes_with_its_segment() {
    let dir = tempfile::tempdir().unwrap();
    add(dir.path(), &[b"good", b"bad"]);
    add(dir.path(), &[b"other"]);
    let cache = open(dir.path());
    let id = ObjectId::of(b"bad");
    cache.distrust(&cache.find(|wanted| *wanted == id)[&id]);
    assert_eq!(cache.damaged(), 1);
    cache.prune(&[ids(&[b"good", b"bad", b"other"])], 1000).unwrap();
    let cache = open(dir.path());
    assert_eq!((read(&cache, b"good"), read(&cache, b"other")), (None, Some(b"other".to_vec())));
}
