//! Groups pieces of new objects into blocks.
//!
//! Pure and deterministic: the order of the input does not matter. All it knows about the bases is
//! their size.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::stable_name::hash_token;
use super::{Level, MAX_CONTENT_BYTES, MAX_RANGES, Piece};
use crate::tree_path::TreePath;

/// Content size of a raw block, in bytes. A larger block gains nothing, and blocks of this size
/// keep reader, network and writer busy at the same time.
const RAW_CONTENT_BYTES: usize = 1 << 20;

/// Content size of a block of small objects with bases, in bytes. Measured on 275 MB of changed
/// pages: 0.17 MB for 384 KiB, 0.19 MB for 512 KiB, 0.23 MB for 1 MiB, at the same speed.
const WITH_BASES_CONTENT_BYTES: u32 = 384 << 10;
/// Maximum total size of the bases of such a block, in bytes. An object with larger bases gets its
/// own block.
const MAX_SHARED_BASE_BYTES: u64 = 2 << 20;

/// A new object to be packed.
#[derive(Debug, Clone, Copy)]
pub struct ObjectToPack<'a> {
    /// Ordinal of the new object in the bundle, counted from 0. Each ordinal appears only once.
    pub ordinal: u32,
    /// Size of the object in bytes.
    pub size: u64,
    /// One of the object's paths.
    pub path: &'a TreePath,
    /// Total size of the object's bases in bytes; 0 if it has none.
    pub base_bytes: u64,
}

impl ObjectToPack<'_> {
    /// Whether the object or its bases are so large that the object should have its own block.
    const fn is_large(&self) -> bool {
        self.size > WITH_BASES_CONTENT_BYTES as u64 || self.base_bytes > MAX_SHARED_BASE_BYTES
    }
}

/// Groups `members` into blocks whose size suits `level`.
///
/// For compression, similar objects are placed next to each other: they are ordered by extension,
/// then by name without the hash token (`app.js` for `app.3fa9c1.js`), then by path. For raw
/// blocks, they are in path order, which is the order in which they are read. An object that fits
/// into one block is not divided. A larger one fills blocks of its own, and its rest shares one.
/// Objects with bases come last, in smaller blocks that they share only with each other; a large
/// one gets its own blocks. An empty object has no pieces.
#[must_use]
pub fn group<'m>(members: &'m [ObjectToPack<'m>], level: Level) -> Groups<'m> {
    let limit = match level {
        Level::Raw => RAW_CONTENT_BYTES,
        Level::Zstd(_) => MAX_CONTENT_BYTES,
    };
    group_within(members, level, limit)
}

/// Like [`group`], with at most `content_bytes` per block, clamped to 1..=[`MAX_CONTENT_BYTES`].
#[must_use]
pub fn group_within<'m>(
    members: &'m [ObjectToPack<'m>],
    level: Level,
    content_bytes: usize,
) -> Groups<'m> {
    let limit = content_bytes.clamp(1, MAX_CONTENT_BYTES);
    let mut order = match level {
        Level::Raw => path_order(members),
        Level::Zstd(_) => similarity_order(members),
    };
    // A stable sort, which keeps the order by similarity within both halves.
    order.sort_by_key(|index| members[*index as usize].base_bytes > 0);
    Groups { members, order, next: 0, offset: 0, limit: u32::try_from(limit).unwrap_or(u32::MAX) }
}

/// An iterator over the blocks of a bundle; see [`group`]. It holds 4 bytes per member (28 while it
/// is created).
#[derive(Debug, Clone)]
pub struct Groups<'m> {
    members: &'m [ObjectToPack<'m>],
    /// Indices into `members`.
    order: Vec<u32>,
    next: usize,
    /// The number of bytes of the next member that are in earlier blocks.
    offset: u64,
    limit: u32,
}

impl Iterator for Groups<'_> {
    type Item = Vec<Piece>;

    fn next(&mut self) -> Option<Vec<Piece>> {
        if self.peek()?.base_bytes > 0 { self.next_with_bases() } else { self.next_without_bases() }
    }
}

impl<'m> Groups<'m> {
    fn peek(&self) -> Option<&'m ObjectToPack<'m>> {
        self.order.get(self.next).map(|index| &self.members[*index as usize])
    }

    /// The next block with bases.
    fn next_with_bases(&mut self) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let (mut room, mut base_bytes) = (self.limit.min(WITH_BASES_CONTENT_BYTES), 0);
        while let Some(member) = self.peek() {
            let is_large = member.is_large() || member.size > u64::from(self.limit);
            if is_large && pieces.is_empty() {
                return Some(vec![self.take_part(member, self.limit)]);
            }
            base_bytes += member.base_bytes;
            let fits = member.size <= u64::from(room) && base_bytes <= MAX_SHARED_BASE_BYTES;
            if !pieces.is_empty() && (is_large || !fits || pieces.len() == MAX_RANGES) {
                break;
            }
            let piece = self.take_part(member, self.limit);
            // The first member may be larger than the room.
            room = room.saturating_sub(piece.length);
            pieces.push(piece);
        }
        (!pieces.is_empty()).then_some(pieces)
    }

    /// Takes at most `max_bytes` bytes of the next member.
    fn take_part(&mut self, member: &ObjectToPack<'_>, max_bytes: u32) -> Piece {
        let left = member.size - self.offset;
        let length = u32::try_from(left).unwrap_or(u32::MAX).min(max_bytes);
        let piece = Piece { ordinal: member.ordinal, offset: self.offset, length };
        if u64::from(length) == left {
            (self.next, self.offset) = (self.next + 1, 0);
        } else {
            self.offset += u64::from(length);
        }
        piece
    }

    /// The next block without bases.
    fn next_without_bases(&mut self) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut room = self.limit;
        while let Some(member) = self.peek().filter(|member| member.base_bytes == 0) {
            let left = member.size - self.offset;
            let is_whole = left <= u64::from(room);
            // A member that does not fit begins the next block. So an object is divided only if it
            // is larger than a block, and its first part begins a block.
            if !pieces.is_empty() && (!is_whole || pieces.len() == MAX_RANGES) {
                break;
            }
            let piece = self.take_part(member, room);
            room -= piece.length;
            pieces.push(piece);
            if !is_whole {
                break;
            }
        }
        (!pieces.is_empty()).then_some(pieces)
    }
}

impl std::iter::FusedIterator for Groups<'_> {}

/// Indices of the members that have bytes.
fn indices(members: &[ObjectToPack<'_>]) -> impl Iterator<Item = u32> {
    (0u32..).zip(members).filter(|(_, member)| member.size > 0).map(|(index, _)| index)
}

fn by_path(a: &ObjectToPack<'_>, b: &ObjectToPack<'_>) -> Ordering {
    a.path.cmp(b.path).then(a.ordinal.cmp(&b.ordinal))
}

fn path_order(members: &[ObjectToPack<'_>]) -> Vec<u32> {
    let mut order: Vec<u32> = indices(members).collect();
    // A stable sort, because it is fast on sorted input, such as manifest order.
    order.sort_by(|&a, &b| by_path(&members[a as usize], &members[b as usize]));
    order
}

fn similarity_order(members: &[ObjectToPack<'_>]) -> Vec<u32> {
    let ranks = extension_ranks(members);
    let mut keys: Vec<SimilarityKey> = indices(members)
        .map(|index| {
            let path = members[index as usize].path;
            SimilarityKey::new(index, path, ranks.get(extension(path)).copied().unwrap_or(0))
        })
        .collect();
    drop(ranks);
    // An unstable sort needs no extra memory. The order is total, so the result is deterministic.
    keys.sort_unstable_by(|a, b| {
        let (left, right) = (&members[a.index as usize], &members[b.index as usize]);
        a.compare_names(left.path, b, right.path).then_with(|| by_path(left, right))
    });
    keys.into_iter().map(|key| key.index).collect()
}

fn extension(path: &TreePath) -> &str {
    path.extension().unwrap_or_default()
}

/// The rank of each extension in sorted order.
fn extension_ranks<'m>(members: &'m [ObjectToPack<'m>]) -> HashMap<&'m str, u32> {
    let mut ranks: HashMap<&str, u32> =
        members.iter().map(|member| (extension(member.path), 0)).collect();
    let mut extensions: Vec<&str> = ranks.keys().copied().collect();
    extensions.sort_unstable();
    ranks.extend((0u32..).zip(extensions).map(|(rank, extension)| (extension, rank)));
    ranks
}

/// The part of a member's sort key that is available without its path. Most comparisons need
/// nothing else.
#[derive(Debug)]
struct SimilarityKey {
    extension: u32,
    index: u32,
    /// The first bytes of the name without its hash token.
    start: u64,
    /// The start of the name in the path. A [`TreePath`] has at most 1,024 bytes.
    name: u16,
    /// The bounds of the hash token in the path; without a token, both are at the end of the path.
    token: (u16, u16),
}

impl SimilarityKey {
    fn new(index: u32, path: &TreePath, extension: u32) -> Self {
        let bound = |position: usize| u16::try_from(position).unwrap_or(u16::MAX);
        let whole = path.as_str();
        let name = whole.len() - path.name().len();
        let token = hash_token(path.name())
            .map_or((whole.len(), whole.len()), |(start, end)| (name + start, name + end));
        let mut key = Self {
            extension,
            index,
            start: 0,
            name: bound(name),
            token: (bound(token.0), bound(token.1)),
        };
        // Big endian below, so that comparing two numbers is like comparing eight bytes.
        let (head, tail) = key.parts(path);
        let mut start = [0; 8];
        start.iter_mut().zip(head.iter().chain(tail)).for_each(|(to, from)| *to = *from);
        key.start = u64::from_be_bytes(start);
        key
    }

    /// The name before and after the token.
    fn parts<'p>(&self, path: &'p TreePath) -> (&'p [u8], &'p [u8]) {
        let bytes = path.as_str().as_bytes();
        let (from, to) = (usize::from(self.token.0), usize::from(self.token.1));
        (&bytes[usize::from(self.name)..from], &bytes[to..])
    }

    fn compare_names(&self, path: &TreePath, other: &Self, other_path: &TreePath) -> Ordering {
        self.extension.cmp(&other.extension).then(self.start.cmp(&other.start)).then_with(|| {
            let (head, tail) = self.parts(path);
            let (other_head, other_tail) = other.parts(other_path);
            if tail.is_empty() && other_tail.is_empty() {
                return head.cmp(other_head);
            }
            head.iter().chain(tail).cmp(other_head.iter().chain(other_tail))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths(texts: &[&str]) -> Vec<TreePath> {
        texts.iter().map(|text| TreePath::new(text).unwrap()).collect()
    }

    /// Members whose ordinals are their positions.
    fn members<'p>(paths: &'p [TreePath], sizes: &[u64]) -> Vec<ObjectToPack<'p>> {
        (0..)
            .zip(paths.iter().zip(sizes))
            .map(|(ordinal, (path, &size))| ObjectToPack { ordinal, size, path, base_bytes: 0 })
            .collect()
    }

    fn order_of(texts: &[&str], level: Level) -> Vec<String> {
        let paths = paths(texts);
        let members = members(&paths, &vec![1; paths.len()]);
        let pieces = group(&members, level).flatten();
        pieces.map(|piece| paths[piece.ordinal as usize].to_string()).collect()
    }

    #[test]
    fn similar_names_without_their_hash_are_grouped() {
        let texts = [
            "z/index.html",
            "a/app.3fa9c1.js",
            "a/index.html",
            "a/vendor-B8xQ2mNp.js",
            "b/app.77fe01.js",
            "a/b.html",
            "b/vendor-Zk3LmQ9a.js",
            "LICENSE",
            "a/app.css",
            "a/appendix.js",
        ];
        let expected = [
            "LICENSE",
            "a/app.css",
            "a/b.html",
            "a/index.html",
            "z/index.html",
            "a/app.3fa9c1.js",
            "b/app.77fe01.js",
            "a/appendix.js",
            "a/vendor-B8xQ2mNp.js",
            "b/vendor-Zk3LmQ9a.js",
        ];
        assert_eq!(order_of(&texts, Level::default()), expected);
    }

    #[test]
    fn raw_content_is_in_path_order() {
        assert_eq!(
            order_of(&["b.js", "a/z.html", "a/b.js"], Level::Raw),
            ["a/b.js", "a/z.html", "b.js"]
        );
    }

    #[test]
    fn large_objects_span_blocks_and_share_the_last_one() {
        let paths = paths(&["a.js", "b.js", "c.js", "d.js"]);
        let members = members(&paths, &[30, 250, 0, 40]);
        let blocks: Vec<_> = group_within(&members, Level::default(), 100).collect();
        let piece = |ordinal, offset, length| Piece { ordinal, offset, length };
        let expected = vec![
            vec![piece(0, 0, 30)],
            vec![piece(1, 0, 100)],
            vec![piece(1, 100, 100)],
            vec![piece(1, 200, 50), piece(3, 0, 40)],
        ];
        assert_eq!(blocks, expected);
    }

    #[test]
    fn limits_depend_on_the_level_and_apply_to_pieces() {
        let paths = paths(&["a.bin", "b.bin"]);
        let whole = members(&paths, &[4 << 20, 1]);
        assert_eq!(group(&whole, Level::Zstd(19)).count(), 2);
        assert_eq!(group(&whole, Level::Raw).count(), 5);
        assert_eq!(group_within(&whole[1..], Level::Raw, 0).count(), 1);
        let tiny: Vec<_> = (0..70_000)
            .map(|ordinal| ObjectToPack { ordinal, size: 1, path: &paths[0], base_bytes: 0 })
            .collect();
        let counts: Vec<_> = group(&tiny, Level::default()).map(|block| block.len()).collect();
        assert_eq!(counts, [MAX_RANGES, 70_000 - MAX_RANGES]);
        assert_eq!(group(&[], Level::default()).next(), None);
    }

    #[test]
    fn objects_with_bases_come_last_and_share_small_blocks() {
        let paths = paths(&["a.js", "b.js", "c.js", "d.js", "e.js", "f.js"]);
        let mut members = members(&paths, &[200 << 10, 300 << 10, 100 << 10, 5 << 20, 7, 9]);
        for (index, bytes) in [(0, 300 << 10), (2, 200 << 10), (3, 5 << 20), (4, 9 << 20), (5, 1)] {
            members[index].base_bytes = bytes;
        }
        let blocks: Vec<_> = group(&members, Level::default()).collect();
        let piece = |ordinal: u32, offset, length| Piece { ordinal, offset, length };
        let expected = vec![
            vec![piece(1, 0, 300 << 10)],
            vec![piece(0, 0, 200 << 10), piece(2, 0, 100 << 10)],
            vec![piece(3, 0, 4 << 20)],
            vec![piece(3, 4 << 20, 1 << 20)],
            vec![piece(4, 0, 7)],
            vec![piece(5, 0, 9)],
        ];
        assert_eq!(blocks, expected);
    }

    #[test]
    fn object_of_any_size_is_divided_without_buffering() {
        let paths = paths(&["huge"]);
        let members = members(&paths, &[u64::MAX]);
        let last = group(&members, Level::Raw).take(1000).last().unwrap();
        assert_eq!(last, [Piece { ordinal: 0, offset: 999 << 20, length: 1 << 20 }]);
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_piece_in_any_input_order(
            input in prop::collection::btree_map(
                "[a-c]{1,3}(\\.[0-9a-f]{6})?\\.(js|css)",
                (0u64..300, prop_oneof![Just(0), 1u64..3 << 20]),
                0..40,
            ),
            limit in 1usize..200,
            is_raw: bool,
            rotation in 0usize..40,
        ) {
            let level = if is_raw { Level::Raw } else { Level::default() };
            let paths: Vec<_> = input.keys().map(|path| TreePath::new(path).unwrap()).collect();
            let (sizes, bases): (Vec<_>, Vec<_>) = input.into_values().unzip();
            let mut members = members(&paths, &sizes);
            members.iter_mut().zip(bases).for_each(|(member, bytes)| member.base_bytes = bytes);
            let blocks: Vec<_> = group_within(&members, level, limit).collect();
            let mut done = vec![0; sizes.len()];
            for block in &blocks {
                let length: usize = block.iter().map(|piece| piece.length as usize).sum();
                prop_assert!(length <= limit);
                for piece in block {
                    prop_assert!(piece.length > 0);
                    prop_assert_eq!(piece.offset, done[piece.ordinal as usize]);
                    done[piece.ordinal as usize] += u64::from(piece.length);
                }
            }
            prop_assert_eq!(done, sizes);
            let count = members.len().max(1);
            members.rotate_left(rotation % count);
            prop_assert_eq!(group_within(&members, level, limit).collect::<Vec<_>>(), blocks);
        }
    }
}
