//! Tests of the cache: round trips, damage and pruning.

use std::path::Path;

use super::prune::MAX_SEGMENTS;
use super::*;
use crate::pack::{BaseRange, EncodedBlock, Level, Piece, Sketch, encode_block};

fn open(path: &Path) -> ContentCache {
    ContentCache::open(Dir::open(path).unwrap()).unwrap()
}

fn noise(seed: u32, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A block of these contents, with the base `old`.
fn block_of(contents: &[&[u8]], old: &[u8]) -> EncodedBlock {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let piece =
        |(ordinal, content): (u32, &&[u8])| Piece { ordinal, offset: 0, length: length(content) };
    let pieces: Vec<_> = (0..).zip(contents).map(piece).collect();
    let base = BaseRange { entry: 0, offset: 0, length: length(old) };
    let bases = if old.is_empty() { vec![] } else { vec![base] };
    encode_block(&pieces, &contents.concat(), &bases, old, Level::default()).unwrap()
}

fn part(content: &[u8]) -> NewPart {
    let (id, size, sketch) = (ObjectId::of(content), content.len() as u64, Sketch::of(content));
    NewPart { id, size, offset: 0, length: u32::try_from(size).unwrap(), sketch }
}

/// Adds a segment with these contents, each in its own block.
fn add(path: &Path, contents: &[&[u8]]) {
    let mut draft = open(path).begin_segment().unwrap();
    for content in contents {
        draft.add(block_of(&[content], &[]).frame(), [part(content)], Vec::new(), 0).unwrap();
    }
    draft.finish().unwrap();
}

/// Adds a segment with `content` and the base `old`, all of which is in the cache.
fn add_against(path: &Path, content: &[u8], old: &[u8]) {
    let cache = open(path);
    let id = ObjectId::of(old);
    let depth = cache.find(|wanted| *wanted == id)[&id].depth() + 1;
    let block = block_of(&[content], old);
    assert_eq!(block.base_count(), 1);
    let base = CachedBase { id, offset: 0, length: u32::try_from(old.len()).unwrap() };
    let mut draft = cache.begin_segment().unwrap();
    draft.add(block.frame(), [part(content)], vec![base], depth).unwrap();
    draft.finish().unwrap();
}

fn read(cache: &ContentCache, content: &[u8]) -> Option<Vec<u8>> {
    let id = ObjectId::of(content);
    let kept = cache.find(|wanted| *wanted == id).remove(&id)?;
    assert_eq!(kept.record().sketch, Sketch::of(content));
    let mut bytes = Vec::new();
    cache.read(&kept, 0, u32::try_from(kept.record().size).unwrap(), &mut bytes).then_some(bytes)
}

fn ids(contents: &[&[u8]]) -> Vec<ObjectId> {
    let mut ids: Vec<_> = contents.iter().map(|content| ObjectId::of(content)).collect();
    ids.sort_unstable();
    ids
}

fn files(path: &Path) -> Vec<String> {
    let names = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|name| name.ends_with(SEGMENT_SUFFIX) || name.ends_with(DRAFT_SUFFIX))
        .collect();
    names.sort();
    names
}

#[test]
fn stored_object_is_found_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    add(dir.path(), &[b"one", &[7; 100_000]]);
    add(dir.path(), &[b"two"]);
    let cache = open(dir.path());
    for content in [&b"one"[..], &[7; 100_000], b"two"] {
        assert_eq!(read(&cache, content).as_deref(), Some(content));
    }
    assert_eq!(read(&cache, b"three"), None);
    assert!(cache.stored_bytes() < 1000, "{}", cache.stored_bytes());
}

#[test]
fn objects_can_share_and_span_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (b"small".as_slice(), noise(1, 5000));
    let mut draft = open(dir.path()).begin_segment().unwrap();
    let (head, tail) = large.split_at(3000);
    let whole = part(&large);
    draft
        .add(
            block_of(&[head], &[]).frame(),
            [NewPart { length: 3000, ..part(&large) }],
            Vec::new(),
            0,
        )
        .unwrap();
    let rest = NewPart { offset: 3000, length: 2000, ..whole };
    draft.add(block_of(&[tail, small], &[]).frame(), [rest, part(small)], Vec::new(), 0).unwrap();
    draft.finish().unwrap();
    let cache = open(dir.path());
    assert_eq!(read(&cache, small).as_deref(), Some(small));
    assert_eq!(read(&cache, &large).as_ref(), Some(&large));
    let id = ObjectId::of(&large);
    let kept = &cache.find(|wanted| *wanted == id)[&id];
    for (offset, length) in [(0, 10), (2990, 20), (2999, 1), (3000, 1), (4000, 1000), (17, 4983)] {
        let mut bytes = b"before".to_vec();
        assert!(cache.read(kept, offset as u64, length, &mut bytes));
        assert_eq!(bytes[6..], large[offset..offset + length as usize], "{length} from {offset}");
    }
    let mut bytes = b"before".to_vec();
    assert!(!cache.read(kept, 4999, 2, &mut bytes), "beyond its end");
    assert_eq!(bytes, b"before");
}

#[test]
fn delta_against_older_content_is_small_and_readable() {
    let dir = tempfile::tempdir().unwrap();
    let first = noise(1, 50_000);
    let second = [&first[..], b"and more"].concat();
    // The first content again, with the later one as its base.
    let third = [b"more before", &second[..]].concat();
    add(dir.path(), &[&first]);
    let bytes = open(dir.path()).stored_bytes();
    add_against(dir.path(), &second, &first);
    add_against(dir.path(), &third, &second);
    add_against(dir.path(), &first, &third);
    let cache = open(dir.path());
    assert!(cache.stored_bytes() < bytes + 1000);
    for content in [&third, &second, &first] {
        assert_eq!(read(&cache, content).as_ref(), Some(content));
    }
    let id = ObjectId::of(&first);
    assert_eq!(cache.find(|wanted| *wanted == id)[&id].depth(), 3);
}

#[test]
fn damaged_file_is_removed_with_its_dependent_objects() {
    let dir = tempfile::tempdir().unwrap();
    let first = noise(1, 50_000);
    let second = [&first[..], b"and more"].concat();
    let third = [&second[..], b"and still more"].concat();
    add(dir.path(), &[&first]);
    add_against(dir.path(), &second, &first);
    add_against(dir.path(), &third, &second);
    let all = [ids(&[&first, &second, &third])];
    let names = files(dir.path());
    let flip = |name: &str| {
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&names[1]);
    let cache = open(dir.path());
    assert_eq!(
        [&first, &second, &third].map(|content| read(&cache, content).is_some()),
        [true, false, false]
    );
    assert_eq!(cache.damaged(), 1);
    cache.prune(&all, 1 << 20).unwrap();
    assert_eq!(files(dir.path()), names[..1], "nothing can be read of the last any more");
    let cache = open(dir.path());
    assert_eq!((cache.damaged(), read(&cache, &first)), (0, Some(first)));
}

#[test]
fn merged_segments_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let mut contents = vec![noise(0, 200_000)];
    add(dir.path(), &[&contents[0]]);
    for round in 1..=40u32 {
        let old = &contents[round as usize - 1];
        let new = [&round.to_le_bytes(), &old[..]].concat();
        match round % 3 {
            0 => add(dir.path(), &[&new]),
            _ => add_against(dir.path(), &new, old),
        }
        contents.push(new);
        if !open(dir.path()).needs_no_pruning(u64::MAX) {
            let newest: Vec<&[u8]> = contents.iter().rev().take(5).map(Vec::as_slice).collect();
            open(dir.path()).prune(&[ids(&newest)], u64::MAX).unwrap();
            let cache = open(dir.path());
            assert!(
                cache.segment_count() <= MAX_SEGMENTS && cache.needs_no_pruning(u64::MAX),
                "{} in round {round}",
                cache.segment_count()
            );
            newest
                .iter()
                .for_each(|content| assert_eq!(read(&cache, content).as_deref(), Some(*content)));
            assert_eq!(read(&cache, &contents[0]), None, "nothing needs it");
        }
    }
    assert!(files(dir.path()).len() < 20);
}

#[test]
fn unfinished_segment_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut draft = open(dir.path()).begin_segment().unwrap();
    draft.add(block_of(&[b"half"], &[]).frame(), [part(b"half")], Vec::new(), 0).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    drop(draft);
    assert_eq!(files(dir.path()), [""; 0]);
    // A draft of a killed push.
    std::fs::write(dir.path().join("000000000001-x.content.draft"), "half").unwrap();
    let under_way = open(dir.path()).begin_segment().unwrap();
    open(dir.path()).prune(&[], 100).unwrap();
    let left = files(dir.path());
    assert_eq!(left.len(), 1);
    under_way.finish().unwrap();
    assert_eq!(files(dir.path()), [left[0].strip_suffix(DRAFT_SUFFIX).unwrap()]);
}

#[test]
fn damage_to_any_table_byte_is_detected_and_removes_the_file() {
    let dir = tempfile::tempdir().unwrap();
    add(dir.path(), &[b"0123456789"]);
    let path = dir.path().join(&files(dir.path())[0]);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
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
fn prune_keeps_content_of_releases_within_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    // They are incompressible, so each takes its full size.
    let [a, b, c, d] = [1, 2, 3, 4].map(|seed| noise(seed, 100));
    add(dir.path(), &[&a, &b, &c]);
    add(dir.path(), &[&d]);
    let left = |releases: &[Vec<ObjectId>], most| {
        open(dir.path()).prune(releases, most).unwrap();
        let cache = open(dir.path());
        [&a, &b, &c, &d].map(|content| read(&cache, content).is_some())
    };
    let (new, old) = (ids(&[&a, &d]), ids(&[&a, &b, &c]));
    assert_eq!(left(&[new.clone(), old.clone()], 1000), [true; 4]);
    // Too little room for both: the older one is dropped and the first segment rewritten.
    assert_eq!(left(&[new.clone(), old], 399), [true, false, false, true]);
    assert_eq!(open(dir.path()).stored_bytes(), 200);
    // Too little room even for one: one segment remains.
    let kept = left(&[new], 100);
    assert_eq!(kept.iter().filter(|is_kept| **is_kept).count(), 1);
    assert_eq!(left(&[], 1000), [false; 4]);
}
