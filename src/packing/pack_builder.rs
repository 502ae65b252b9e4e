//! The parallel pack builder: reads, hashes and encodes on all cores, and seals packs in order.
//!
//! Content is hashed again when it is read, so content that differs from the scan never leaves the
//! origin. The number of threads affects neither the order nor the bytes of the packs.

use std::collections::{HashSet, VecDeque};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::fsx::IoError;
use crate::hash::{BundleKey, ObjectId, PieceHash, PieceHashes};
use crate::manifest::delta::NewObjectRef;
use crate::mirror::SourceError;
use crate::monitor::{Event, Monitor};
use crate::pack::{
    BaseRange, BlockEncoder, BlockInput, EncodedBlock, KnownRange, Level, ObjectToPack, PackError,
    PackWriter, Piece, base_ranges, group, known_ranges,
};
use crate::packing::base_content::BaseObject;
use crate::packing::base_selection::BaseSelection;
use crate::packing::cache_writer::{self, CacheWriter, CachedBlock};
use crate::packing::content_source::{ContentSource, PieceError};
use crate::packing::mirror_sources::ReadError;
use crate::packing::pack_queue::PackQueue;
use crate::packing::signed_bases::SignedBase;
use crate::threads::{self, ThreadError};

/// A block that is at least as large as its content divided by this number is also tried without
/// bases.
// The second attempt takes about as long as the first, so it is made only if the bases saved
// little.
const RETRY_WITHOUT_BASES_RATIO: usize = 4;

/// Why a bundle could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Content could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The path of the content in the tree.
        path: String,
        /// Why reading the content failed.
        source: SourceError,
    },
    /// Content is not in the tree, and no mirror returned it.
    #[error("{}", lost(paths, *more, failed))]
    Lost {
        /// Some of the paths.
        paths: Vec<String>,
        /// How many more paths there are.
        more: usize,
        /// The mirrors that failed, and why.
        failed: Vec<String>,
    },
    /// Content differs from what the scan read.
    #[error("{path} changed while it was read")]
    Changed {
        /// The path of the content in the tree.
        path: String,
    },
    /// A block could not be encoded.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A file on the origin cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The system cannot create a thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// The user asked to stop.
    #[error("stopped")]
    Cancelled,
}

/// The message for lost content.
fn lost(paths: &[String], more: usize, failed: &[String]) -> String {
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let failed =
        if failed.is_empty() { String::new() } else { format!(" ({})", failed.join("; ")) };
    format!(
        "cannot get the content of {}{more}: the tree lacks it, and no mirror that responds has it \
         whole{failed}",
        paths.join(", ")
    )
}

/// The inputs for the packs of a bundle.
#[derive(Debug)]
pub(crate) struct PackInput<'a> {
    pub(crate) wanted: &'a [NewObjectRef],
    pub(crate) bundle: BundleKey,
    /// The names of the mirrors that the packs are for.
    pub(crate) mirrors: Vec<String>,
    pub(crate) content_source: &'a ContentSource,
    pub(crate) bases: &'a BaseSelection,
    /// Whether new content is cached for the next push.
    pub(crate) is_cached: bool,
    pub(crate) level: Level,
    pub(crate) jobs: usize,
}

impl PackInput<'_> {
    /// The error for content that could not be read from mirrors.
    fn read_error(&self, error: ReadError) -> BuildError {
        /// Maximum number of paths in the message.
        const SHOWN: usize = 5;
        let ReadError::Lost(objects) = error else { return BuildError::Cancelled };
        let lost: HashSet<ObjectId> = objects.into_iter().collect();
        let lost = self.wanted.iter().filter(|wanted| lost.contains(&wanted.object));
        let mut paths: Vec<String> = lost.map(|wanted| wanted.path.to_string()).collect();
        let more = paths.len().saturating_sub(SHOWN);
        paths.truncate(SHOWN);
        BuildError::Lost { paths, more, failed: self.content_source.failed_sources() }
    }

    /// The new objects, to be grouped.
    fn objects_to_pack(&self) -> Vec<ObjectToPack<'_>> {
        let member = |(ordinal, wanted)| {
            let NewObjectRef { size, path, .. }: &NewObjectRef = wanted;
            let old: u64 = self.bases.bases_of(ordinal).iter().map(|base| base.size).sum();
            let base_bytes = old + self.bases.signed(ordinal).map_or(0, SignedBase::bytes);
            ObjectToPack { ordinal, size: *size, path, base_bytes }
        };
        (0u32..).zip(self.wanted).map(member).collect()
    }
}

/// The inputs of a block.
struct BlockPlan<'j> {
    pieces: Vec<Piece>,
    /// Empty if one of the bases cannot be read.
    bases: Vec<(BaseRange, &'j BaseObject)>,
    /// Ranges of objects that only a mirror has. Their bytes are part of the pieces.
    known: Vec<KnownRange>,
}

impl<'j> BlockPlan<'j> {
    fn new(job: &'j PackInput<'_>, pieces: Vec<Piece>) -> Self {
        let size_of = |ordinal: u32| job.wanted[ordinal as usize].size;
        let ranges =
            base_ranges(&pieces, |ordinal| (job.bases.bases_of(ordinal), size_of(ordinal)));
        let with_object = |range: BaseRange| Some((range, job.bases.object(range.entry)?));
        let bases: Vec<_> =
            ranges.into_iter().map(with_object).collect::<Option<_>>().unwrap_or_default();
        let read: Vec<BaseRange> = bases.iter().map(|(range, _)| *range).collect();
        let matches = |ordinal| job.bases.signed(ordinal).map(SignedBase::matches);
        let known = known_ranges(&pieces, &read, matches);
        Self { pieces, bases, known }
    }
}

#[derive(Debug)]
struct BuiltBlock {
    pieces: Vec<Piece>,
    block: EncodedBlock,
    /// The cached form, if the block is cached.
    cached: Option<CachedBlock>,
    /// Parts of objects that span blocks, with their hashes.
    parts: Vec<(Piece, PieceHash)>,
}

struct EncodeTask {
    pieces: Vec<Piece>,
    result_sender: Sender<Result<BuiltBlock, BuildError>>,
}

type BuiltBlockReceiver = Receiver<Result<BuiltBlock, BuildError>>;

/// Builds the packs for `job`, pushes them to the queue, and closes the queue, with an error if one
/// occurred. If there is a cache writer, also writes new content to the cache.
pub(crate) fn run(
    job: &PackInput<'_>,
    cache_writer: Option<&CacheWriter>,
    queue: &PackQueue<'_>,
    monitor: &dyn Monitor,
) -> Result<(), BuildError> {
    /// Closes the queue if the builder panics, so that no receiver waits forever.
    struct EndOnPanic<'s, 'a>(&'s PackQueue<'a>);
    impl Drop for EndOnPanic<'_, '_> {
        fn drop(&mut self) {
            self.0.end(Err("the packs could not be made".to_owned()));
        }
    }
    // Dropped after the call of `end` below, which takes precedence: only the first call counts.
    let _end_on_panic = EndOnPanic(queue);
    let result = make_packs(job, cache_writer, queue, monitor);
    queue.end(result.as_ref().map(|_| ()).map_err(|error| crate::text::error_chain(error)));
    result
}

fn make_packs(
    job: &PackInput<'_>,
    cache_writer: Option<&CacheWriter>,
    queue: &PackQueue<'_>,
    monitor: &dyn Monitor,
) -> Result<(), BuildError> {
    let members = job.objects_to_pack();
    let bytes = job.wanted.iter().map(|wanted| wanted.size).sum();
    monitor.event(Event::BundleStarted {
        bundle: job.bundle,
        mirrors: job.mirrors.clone(),
        objects: job.wanted.len() as u64,
        bytes,
    });
    // Bounded, so that the pieces of all blocks are not in memory at the same time.
    let (work, tasks) = bounded::<EncodeTask>(job.jobs);
    std::thread::scope(|scope| {
        let mut workers = 0;
        for _ in 0..job.jobs {
            let tasks = tasks.clone();
            let work = move || {
                let mut worker = BlockWorker::default();
                for EncodeTask { pieces, result_sender: answer } in tasks {
                    // If the builder has failed, the receiver is gone.
                    answer.send(worker.build(job, BlockPlan::new(job, pieces), monitor)).ok();
                }
            };
            // One worker is enough. Without any, the tasks would wait forever.
            match threads::start(scope, work) {
                Ok(_) => workers += 1,
                Err(error) if workers == 0 => return Err(error.into()),
                Err(_) => break,
            }
        }
        // `send` fails only when no receiver is left. With this one open, it would not fail after
        // all workers have ended.
        drop(tasks);
        let mut assembler = PackAssembler::new(job, cache_writer, queue, monitor);
        let mut pending: VecDeque<BuiltBlockReceiver> = VecDeque::new();
        for pieces in group(&members, job.level) {
            if monitor.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            // Two blocks for each worker: one being built, and one waiting. Each may take 4 MiB.
            if pending.len() > 2 * job.jobs
                && let Some(next) = pending.pop_front()
            {
                assembler.take(&next)?;
            }
            // Each block has its own channel, which keeps the order whichever worker is faster.
            let (result_sender, made) = bounded(1);
            work.send(EncodeTask { pieces, result_sender }).map_err(|_| BuildError::Cancelled)?;
            pending.push_back(made);
        }
        drop(work);
        pending.iter().try_for_each(|next| assembler.take(next))?;
        assembler.finish()
    })
}

/// Reads and encodes blocks. Each worker thread has one of these.
#[derive(Default)]
struct BlockWorker {
    encoder: BlockEncoder,
    content: Vec<u8>,
    prefix: Vec<u8>,
}

impl BlockWorker {
    fn build(
        &mut self,
        job: &PackInput<'_>,
        plan: BlockPlan<'_>,
        monitor: &dyn Monitor,
    ) -> Result<BuiltBlock, BuildError> {
        let BlockPlan { pieces, bases, known } = plan;
        let parts = self.read_content(job, &pieces, monitor)?;
        // Without the bases, the block is larger, but the push continues.
        let bases = if self.read_bases(job, &bases) { bases } else { Vec::new() };
        let mut ranges: Vec<BaseRange> = bases.iter().map(|(range, _)| *range).collect();
        for KnownRange { base, at } in known.iter().copied() {
            ranges.push(base);
            self.prefix.extend_from_slice(&self.content[at..at + base.length as usize]);
        }
        let input = BlockInput {
            pieces: &pieces,
            content: &self.content,
            bases: &ranges,
            prefix: &self.prefix,
            known: &known,
            level: job.level,
        };
        let block = encode(&mut self.encoder, input)?;
        let kept = if job.is_cached {
            let sketches =
                cache_writer::sketches_to_cache(&pieces, &self.content, job.wanted, job.bases);
            // Old content that is only on a mirror is not in the cache.
            let old = (ranges.len() == bases.len()).then_some(&bases[..]);
            Some(CachedBlock::new(&block, input, old, sketches, &mut self.encoder)?)
        } else {
            None
        };
        Ok(BuiltBlock { pieces, block, cached: kept, parts })
    }

    /// Reads and checks the content of a block. Returns the hashes of parts whose objects span
    /// several blocks.
    fn read_content(
        &mut self,
        job: &PackInput<'_>,
        pieces: &[Piece],
        monitor: &dyn Monitor,
    ) -> Result<Vec<(Piece, PieceHash)>, BuildError> {
        self.content.clear();
        let fetched = job
            .content_source
            .fetch(job.wanted, pieces, monitor)
            .map_err(|error| job.read_error(error))?;
        let mut parts = Vec::new();
        for piece in pieces {
            let wanted = &job.wanted[piece.ordinal as usize];
            let start = self.content.len();
            let path = || wanted.path.to_string();
            fetched.read(piece, &mut self.content).map_err(|error| match error {
                PieceError::Source(error) => job.read_error(error),
                PieceError::Tree(source) => BuildError::Read { path: path(), source },
            })?;
            let bytes = &self.content[start..];
            // An object's hash is known only when all its parts are. The hashes of the parts are
            // combined later, when the blocks are in order.
            if u64::from(piece.length) < wanted.size {
                parts.push((*piece, PieceHash::of(bytes, piece.offset)));
            } else if ObjectId::of(bytes) != wanted.object {
                return Err(BuildError::Changed { path: path() });
            }
        }
        Ok(parts)
    }

    /// Reads the bases of a block. Returns whether that succeeded.
    fn read_bases(&mut self, job: &PackInput<'_>, bases: &[(BaseRange, &BaseObject)]) -> bool {
        self.prefix.clear();
        let old = &job.content_source.base_content;
        let are_read =
            bases.iter().all(|(range, object)| old.read(object, (*range).into(), &mut self.prefix));
        if !are_read {
            self.prefix.clear();
        }
        are_read
    }
}

/// Encodes a block. Leaves out the bases if they seem to save little and the block does turn out
/// smaller without them.
fn encode(encoder: &mut BlockEncoder, input: BlockInput<'_>) -> Result<EncodedBlock, PackError> {
    let block = encoder.encode(input)?;
    if input.bases.is_empty()
        || block.encoded_bytes() < input.content.len() / RETRY_WITHOUT_BASES_RATIO
    {
        return Ok(block);
    }
    let plain = encoder.encode(input.without_bases())?;
    Ok(if plain.encoded_bytes() < block.encoded_bytes() { plain } else { block })
}

/// Seals packs in order and hashes objects that span several blocks.
struct PackAssembler<'a, 'l> {
    job: &'a PackInput<'l>,
    cache_writer: Option<&'a CacheWriter>,
    queue: &'a PackQueue<'l>,
    monitor: &'a dyn Monitor,
    writer: PackWriter,
    spanning: Option<(u32, PieceHashes, u64)>,
    bytes: u64,
    packed_bytes: u64,
}

impl<'a, 'l> PackAssembler<'a, 'l> {
    fn new(
        job: &'a PackInput<'l>,
        cache_writer: Option<&'a CacheWriter>,
        queue: &'a PackQueue<'l>,
        monitor: &'a dyn Monitor,
    ) -> Self {
        Self {
            job,
            cache_writer,
            queue,
            monitor,
            writer: PackWriter::new(),
            spanning: None,
            bytes: 0,
            packed_bytes: 0,
        }
    }

    fn take(&mut self, next: &BuiltBlockReceiver) -> Result<(), BuildError> {
        let made = next.recv().map_err(|_| BuildError::Cancelled)??;
        // Checked before the block goes into a pack, so that content that differs from the scan
        // never leaves the origin.
        made.parts.iter().try_for_each(|(piece, hash)| self.check_part(piece, *hash))?;
        if let (Some(cache_writer), Some(kept)) = (self.cache_writer, made.cached) {
            cache_writer.add(&made.block, kept, &made.pieces, self.job.wanted);
        }
        self.bytes += made.block.content_bytes() as u64;
        self.packed_bytes += made.block.encoded_bytes() as u64;
        if !self.writer.fits(&made.block) {
            self.seal()?;
        }
        self.writer.push(&made.block)?;
        if self.writer.is_full() {
            self.seal()?;
        }
        self.monitor.event(Event::BundleAdvanced {
            bundle: self.job.bundle,
            bytes: self.bytes,
            packed_bytes: self.packed_bytes,
        });
        Ok(())
    }

    /// Adds the next part of an object. The last part shows whether the object is what the scan
    /// read.
    fn check_part(&mut self, piece: &Piece, hash: PieceHash) -> Result<(), BuildError> {
        let wanted = &self.job.wanted[piece.ordinal as usize];
        let changed = || BuildError::Changed { path: wanted.path.to_string() };
        // Blocks arrive in order, and an object that spans several blocks can share only its last
        // block with others, so only one such object is open at a time.
        if piece.offset == 0 {
            self.spanning = Some((piece.ordinal, PieceHashes::default(), 0));
        }
        let Some((ordinal, hashes, hashed)) = &mut self.spanning else { return Err(changed()) };
        let length = u64::from(piece.length);
        hashes.push(piece.offset, length, hash);
        *hashed += length;
        let is_whole = *hashed == wanted.size;
        if *ordinal != piece.ordinal
            || is_whole && std::mem::take(hashes).finish(wanted.size) != Some(wanted.object)
        {
            return Err(changed());
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<(), BuildError> {
        if self.writer.is_empty() {
            return Ok(());
        }
        let pack = std::mem::take(&mut self.writer).finish();
        self.monitor.event(Event::PackSealed { pack: pack.id, bytes: pack.bytes.len() as u64 });
        if self.queue.push(pack) { Ok(()) } else { Err(BuildError::Cancelled) }
    }

    fn finish(mut self) -> Result<(), BuildError> {
        self.seal()
    }
}

#[cfg(test)]
mod tests;
