//! Writes new content to the cache for later pushes, while it is encoded into packs.

use parking_lot::Mutex;

use crate::cache::{CachedBase, ContentCache, NewPart, SegmentWriter};
use crate::fsx::IoError;
use crate::manifest::delta::NewObjectRef;
use crate::origin::scratch::Scratch;
use crate::pack::{
    BaseRange, BlockEncoder, BlockInput, EncodedBlock, Level, PackError, Piece, Sketch,
};
use crate::packing::base_content::BaseObject;
use crate::packing::base_selection::{BaseSelection, is_sketched};

/// By how many bytes the cache may exceed the size of two releases before it is pruned.
const PRUNE_SLACK_BYTES: u64 = 64 << 20;
/// Maximum length of the chain of blocks that must be decoded before a block. Each block in the
/// chain slows reading, and storing the content again costs about as much as reading through two
/// blocks.
const MAX_DEPTH: u32 = 2;
/// Compression level for content that is encoded only for the cache.
const CACHE_LEVEL: Level = Level::Zstd(1);

/// Drops content that the kept manifests do not need if the cache is larger than two releases.
/// Reading all manifests in every push would cost more than the saved space is worth.
pub(crate) fn prune_if_large(
    cache: &ContentCache,
    scratch: &Scratch,
    release_bytes: u64,
    max_bytes: u64,
) -> Result<(), IoError> {
    let prune_above = release_bytes.saturating_mul(2).saturating_add(PRUNE_SLACK_BYTES);
    if cache.needs_no_pruning(prune_above.min(max_bytes)) {
        return Ok(());
    }
    let mut releases = Vec::new();
    for manifest in scratch.known_manifests()? {
        // An unreadable manifest keeps no content.
        let entries = manifest.entries().into_iter().flatten();
        let mut objects: Vec<_> =
            entries.map_while(Result::ok).filter_map(|entry| Some(entry.file()?.object)).collect();
        objects.sort_unstable();
        objects.dedup();
        releases.push(objects);
    }
    cache.prune(&releases, max_bytes)
}

/// The sketches of pieces whose object was already sketched or has a hashed name: the next release
/// will probably look for such an object by its sketch. A missing sketch would have to be made then
/// by reading the cached content.
pub(crate) fn sketches_to_cache(
    pieces: &[Piece],
    content: &[u8],
    wanted: &[NewObjectRef],
    bases: &BaseSelection,
) -> Vec<Sketch> {
    let mut rest = content;
    let mut of = |piece: &Piece| {
        let (bytes, behind) = rest.split_at(piece.length as usize);
        rest = behind;
        match bases.sketches.get(&piece.ordinal) {
            Some(sketch) => sketch.clone(),
            None if is_sketched(wanted[piece.ordinal as usize].size)
                && bases.has_hashed_name(piece.ordinal) =>
            {
                Sketch::of(bytes)
            }
            None => Sketch::default(),
        }
    };
    pieces.iter().map(&mut of).collect()
}

/// A block as it is cached.
#[derive(Debug)]
pub(crate) struct CachedBlock {
    /// The cached block, if it differs from the block that the push sends.
    reencoded: Option<EncodedBlock>,
    bases: Vec<CachedBase>,
    depth: u32,
    /// The sketches of the pieces' objects, as far as they were made.
    sketches: Vec<Sketch>,
}

impl CachedBlock {
    /// Uses `block` as sent if all its `bases` are in the cache and their chains are not too deep;
    /// otherwise, encodes its `input` again without bases. `bases` is `None` if some of them are
    /// only on a mirror.
    pub(crate) fn new(
        block: &EncodedBlock,
        input: BlockInput<'_>,
        bases: Option<&[(BaseRange, &BaseObject)]>,
        sketches: Vec<Sketch>,
        encoder: &mut BlockEncoder,
    ) -> Result<Self, PackError> {
        // The encoder may have left the bases out.
        let bases = if block.base_count() == 0 { Some(&[][..]) } else { bases };
        let known = bases.unwrap_or_default();
        let depths: Option<Vec<u32>> =
            // `None` if any base is only on a mirror: the cache must not depend on a mirror.
            known.iter().map(|(_, object)| Some(object.depth()? + 1)).collect();
        match depths.filter(|_| bases.is_some()).map(|depths| depths.into_iter().max().unwrap_or(0))
        {
            Some(depth) if depth <= MAX_DEPTH => {
                let base = |(range, object): &(BaseRange, &BaseObject)| CachedBase {
                    id: object.id,
                    offset: range.offset,
                    length: range.length,
                };
                Ok(Self {
                    reencoded: None,
                    bases: known.iter().map(base).collect(),
                    depth,
                    sketches,
                })
            }
            _ => {
                let plain = BlockInput { level: CACHE_LEVEL, ..input.without_bases() };
                let other = Some(encoder.encode(plain)?);
                Ok(Self { reencoded: other, bases: Vec::new(), depth: 0, sketches })
            }
        }
    }
}

/// Writes new content to the cache. If an error occurs, the content is not cached, and the push
/// continues.
#[derive(Debug)]
pub(crate) struct CacheWriter {
    max_bytes: u64,
    draft: Mutex<Result<Option<SegmentWriter>, IoError>>,
}

impl CacheWriter {
    /// Starts to write `bytes` bytes of new content to `cache`. Returns `None` if that is too much
    /// for the disk. If the content turns out to take more than `max_bytes`, it is not cached.
    pub(crate) fn begin(
        cache: &ContentCache,
        bytes: u64,
        max_bytes: u64,
    ) -> Result<Option<Self>, IoError> {
        // Never uses more than half of the free space: the cache must not fill the disk.
        if bytes == 0 || bytes > cache.free_bytes()? / 2 {
            return Ok(None);
        }
        Ok(Some(Self { max_bytes, draft: Mutex::new(Ok(Some(cache.begin_segment()?))) }))
    }

    /// Adds a block. Blocks must be added in the order of their pieces.
    pub(crate) fn add(
        &self,
        block: &EncodedBlock,
        cached: CachedBlock,
        pieces: &[Piece],
        wanted: &[NewObjectRef],
    ) {
        let mut state = self.draft.lock();
        let Ok(Some(draft)) = &mut *state else { return };
        let part = |(piece, sketch): (&Piece, Sketch)| {
            let NewObjectRef { object, size, .. } = wanted[piece.ordinal as usize];
            NewPart { id: object, size, offset: piece.offset, length: piece.length, sketch }
        };
        let frame = cached.reencoded.as_ref().unwrap_or(block).frame();
        match draft.add(
            frame,
            pieces.iter().zip(cached.sketches).map(part),
            cached.bases,
            cached.depth,
        ) {
            // Drops the draft, which removes its file. Part of the content would merely displace
            // content that is already cached.
            Ok(()) if draft.frame_bytes() > self.max_bytes => *state = Ok(None),
            Ok(()) => {}
            Err(error) => *state = Err(error),
        }
    }

    /// Completes the segment after all content has been verified.
    ///
    /// # Errors
    /// If the content could not be written. In that case, none of it is cached.
    pub(crate) fn finish(self) -> Result<(), IoError> {
        let draft = self.draft.into_inner()?;
        draft.map_or(Ok(()), SegmentWriter::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::ObjectId;
    use crate::tree_path::TreePath;

    #[test]
    fn sketches_are_made_for_files_with_hashed_names() {
        let content: Vec<u8> = (0u16..8192).flat_map(u16::to_le_bytes).collect();
        let wanted = |path: &str, size: u64| {
            let object = ObjectId::of(path.as_bytes());
            NewObjectRef { path: TreePath::new(path).unwrap(), object, size }
        };
        let length = 4096;
        let sizes = [
            ("js/app.3fa9c1.js", length),
            ("app.js", length),
            ("js/b.3fa9c1.js", length),
            ("js/beside.js", length + 1),
        ];
        let wanted = sizes.map(|(path, size)| wanted(path, u64::from(size)));
        let pieces: Vec<Piece> =
            (0..4).map(|ordinal| Piece { ordinal, offset: 0, length }).collect();
        let mut bases = BaseSelection::none(&wanted);
        let made_before = Sketch::of(b"made before");
        bases.sketches.insert(2, made_before.clone());
        let sketches = sketches_to_cache(&pieces, &content, &wanted, &bases);
        // The last piece is part of an object and gets a sketch of its own.
        let [first, last] = [&content[..4096], &content[3 * 4096..]].map(Sketch::of);
        assert_eq!(sketches, [first, Sketch::default(), made_before, last]);
        assert!(!sketches[0].hashes().is_empty());
    }
}
