//! Applies a manifest delta to its base.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read as _, Take, Write};

use super::{
    CONTENT, CREATED, EARLIER_NEW, EXEC, FROM_BASE, HELD, MAGIC, NEXT_NEW, NewObject, OP_ADD,
    OP_CHANGE, OP_DROP, OP_END, OP_KEEP, SAME, SYMLINK, UNTIL, VERSION,
};
use crate::hash::{ManifestId, ObjectId};
use crate::manifest::codec::MAX_ENTRIES;
use crate::manifest::entry::{Entry, EntryKind, FileEntry};
use crate::manifest::{ManifestError, ManifestWriter, Totals, WINDOW_LOG_MAX};
use crate::tree_path::{LinkTarget, MAX_PATH_BYTES, TreePath};
use crate::varint;

fn invalid(what: &'static str) -> ManifestError {
    ManifestError::Delta { what }
}

/// The header of a manifest delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeader {
    /// The manifest that the delta applies to; `None` for the empty manifest.
    pub base: Option<ManifestId>,
    /// The `created` time of the resulting release, in seconds since 1970.
    pub created: u64,
    /// The number of new objects.
    pub objects: u64,
}

enum EntryContent {
    Same,
    NextNew(u64),
    EarlierNew(u64),
    FromBase(u64),
    Held(ObjectId, u64),
}

enum EntryFields {
    Symlink { target: LinkTarget, until: Option<u64> },
    File { content: EntryContent, exec: bool, mtime: u64, until: Option<u64> },
}

enum Op {
    Keep(u64),
    Drop(u64),
    Add { shared: usize, suffix: Vec<u8>, fields: EntryFields },
    Change(EntryFields),
}

struct Decoder<R> {
    input: R,
    head: DeltaHeader,
    /// The kind of the last run. Two consecutive runs of the same kind are refused, because they
    /// could be a single run.
    last_run: Option<u8>,
}

impl<'a, R: BufRead> Decoder<BufReader<Take<zstd::Decoder<'a, R>>>> {
    /// Opens a delta that decodes to at most `max_bytes` bytes.
    fn open(change: R, max_bytes: u64) -> Result<Self, ManifestError> {
        // Decodes only the first frame, with a bounded window: otherwise, a peer could make the
        // decoder use a lot of memory.
        let mut input = zstd::Decoder::with_buffer(change)?.single_frame();
        input.window_log_max(WINDOW_LOG_MAX)?;
        let mut input = BufReader::with_capacity(64 * 1024, input.take(max_bytes));
        let mut start = [0; 37];
        input.read_exact(&mut start)?;
        if start[..4] != *MAGIC {
            return Err(invalid("it does not begin with its magic"));
        }
        if start[4] != VERSION {
            return Err(ManifestError::Version { found: start[4].to_string() });
        }
        let mut base = [0; 32];
        base.copy_from_slice(&start[5..]);
        let base = (base != [0; 32]).then(|| ManifestId::from_bytes(base));
        let created = varint::read_bounded(&mut input)?;
        let objects = varint::read(&mut input)?;
        // Checked before anything is allocated for the objects.
        if objects > MAX_ENTRIES {
            return Err(ManifestError::TooManyEntries);
        }
        Ok(Self { input, head: DeltaHeader { base, created, objects }, last_run: None })
    }
}

impl<R: BufRead> Decoder<R> {
    fn op(&mut self) -> Result<Option<Op>, ManifestError> {
        let mut op = [0];
        self.input.read_exact(&mut op)?;
        Ok(Some(match op[0] {
            OP_END => {
                if !self.input.fill_buf()?.is_empty() {
                    return Err(invalid("data follows its end"));
                }
                return Ok(None);
            }
            OP_KEEP => Op::Keep(self.run_length(OP_KEEP)?),
            OP_DROP => Op::Drop(self.run_length(OP_DROP)?),
            OP_ADD => {
                self.last_run = None;
                let shared = self.read_length(MAX_PATH_BYTES)?;
                let length = self.read_length(MAX_PATH_BYTES)?;
                let suffix = self.bytes(length)?;
                Op::Add { shared, suffix, fields: self.fields()? }
            }
            OP_CHANGE => {
                self.last_run = None;
                Op::Change(self.fields()?)
            }
            _ => return Err(invalid("an operation is unknown")),
        }))
    }

    /// Reads the length of a run. A run must not be split in two, so that each delta has only one
    /// spelling.
    fn run_length(&mut self, kind: u8) -> Result<u64, ManifestError> {
        if self.last_run.replace(kind) == Some(kind) {
            return Err(invalid("a run is cut in two"));
        }
        match varint::read(&mut self.input)? {
            0 => Err(invalid("a run is empty")),
            length => Ok(length),
        }
    }

    fn read_length(&mut self, limit: usize) -> Result<usize, ManifestError> {
        let length = varint::read(&mut self.input)?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= limit)
            .ok_or_else(|| invalid("a string is too long"))
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, ManifestError> {
        // At most 1,024 bytes: `read_length` has checked the length.
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn fields(&mut self) -> Result<EntryFields, ManifestError> {
        let mut flags = [0];
        self.input.read_exact(&mut flags)?;
        let flags = flags[0];
        if flags & SYMLINK != 0 {
            if flags & !(SYMLINK | UNTIL) != 0 {
                return Err(invalid("a link has fields of a file"));
            }
            let length = self.read_length(MAX_PATH_BYTES)?;
            let target = String::from_utf8(self.bytes(length)?)
                .map_err(|_| invalid("a target is not UTF-8"))?;
            let target = LinkTarget::new(&target).map_err(|_| invalid("a target breaks a rule"))?;
            return Ok(EntryFields::Symlink { target, until: self.until(flags)? });
        }
        let content = match flags & CONTENT {
            SAME => EntryContent::Same,
            NEXT_NEW => EntryContent::NextNew(varint::read_bounded(&mut self.input)?),
            EARLIER_NEW => EntryContent::EarlierNew(varint::read(&mut self.input)?),
            FROM_BASE => EntryContent::FromBase(varint::read(&mut self.input)?),
            HELD => {
                let mut id = [0; 32];
                self.input.read_exact(&mut id)?;
                EntryContent::Held(ObjectId::from_bytes(id), varint::read_bounded(&mut self.input)?)
            }
            _ => return Err(invalid("a kind of content is unknown")),
        };
        if flags & 0x80 != 0 {
            return Err(invalid("a flag is unknown"));
        }
        let mtime = if flags & CREATED != 0 {
            self.head.created
        } else {
            varint::read_bounded(&mut self.input)?
        };
        Ok(EntryFields::File { content, exec: flags & EXEC != 0, mtime, until: self.until(flags)? })
    }

    fn until(&mut self, flags: u8) -> Result<Option<u64>, ManifestError> {
        if flags & UNTIL == 0 { Ok(None) } else { Ok(Some(varint::read_bounded(&mut self.input)?)) }
    }
}

/// The limits on a manifest delta, and a cancellation check. A delta is refused as soon as it is
/// found to exceed a limit, so the announced sizes bound time and memory.
#[derive(Clone, Copy)]
pub struct ChangeLimits<'a> {
    /// Length of the encoded delta in bytes. It bounds the size of the decoded delta.
    pub encoded_bytes: u64,
    /// Number of entries in the base manifest; `None` if unknown.
    pub base_entries: Option<u64>,
    /// Number of entries in the resulting manifest, as announced by the release.
    pub entries: u64,
    /// Reserves this many bytes of memory until the release is complete. Returns `false` if they
    /// are not available. Called before the memory is used.
    pub reserve: &'a dyn Fn(u64) -> bool,
    /// Whether the operation was cancelled. Called every few thousand operations.
    pub is_cancelled: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for ChangeLimits<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { base_entries, entries, .. } = self;
        f.debug_struct("ChangeLimits")
            .field("base_entries", base_entries)
            .field("entries", entries)
            .finish()
    }
}

impl ChangeLimits<'static> {
    /// The limits for a delta of `encoded_bytes` bytes and `entries` entries that this process made
    /// itself.
    #[must_use]
    pub fn trusted(encoded_bytes: u64, entries: u64) -> Self {
        Self {
            encoded_bytes,
            base_entries: None,
            entries,
            reserve: &|_| true,
            is_cancelled: &|| false,
        }
    }
}

impl ChangeLimits<'_> {
    /// Maximum length of the decoded delta in bytes. Similar paths and runs of equal numbers
    /// compress to a fiftieth or a hundredth of their size, never to a thousandth.
    const fn decoded_bytes(&self) -> u64 {
        self.encoded_bytes.saturating_mul(1000).saturating_add(1 << 20)
    }

    /// Reserves memory for `count` items of `bytes` bytes each.
    fn reserve(&self, count: u64, bytes: u64) -> Result<(), ManifestError> {
        if count == 0 || (self.reserve)(count.saturating_mul(bytes)) {
            Ok(())
        } else {
            Err(ManifestError::NoMemory)
        }
    }
}

/// Memory that a receiver needs for each new object until the release is complete, in bytes: its
/// size and times (24), the received part (48), its id and size (40), and its id among the store's
/// ids (32).
const OBJECT_BYTES: u64 = 24 + 48 + 40 + 32;
/// Memory for each base position that the delta names, in bytes: the position itself, and an entry
/// in the hash table of ids at half load.
const POSITION_BYTES: u64 = 8 + 2 * (8 + 40 + 1);
/// Memory for each base entry if blocks can have bases, in bytes: the id of the entry's content.
const BASE_ENTRY_BYTES: u64 = 33;
/// Number of positions for which memory is reserved at a time.
const POSITIONS_PER_RESERVATION: u64 = 1024;
/// Number of operations between two calls of [`ChangeLimits::is_cancelled`].
const CANCEL_CHECK_INTERVAL: u64 = 4096;

/// Counts the base entries used and the new entries made so far.
#[derive(Default)]
struct OperationCounter {
    operations: u64,
    base: u64,
    made: u64,
}

impl OperationCounter {
    fn add(&mut self, op: &Op, limits: &ChangeLimits<'_>) -> Result<(), ManifestError> {
        let (base, made) = match op {
            Op::Keep(count) => (*count, *count),
            Op::Drop(count) => (*count, 0),
            Op::Add { .. } => (0, 1),
            Op::Change(_) => (1, 1),
        };
        self.operations += 1;
        // Saturating, because a peer chooses the length of a run.
        self.base = self.base.saturating_add(base);
        self.made = self.made.saturating_add(made);
        // Checked before the run is applied. A delta of 256 kB once made four billion operations,
        // which took a minute of CPU time.
        if self.base > limits.base_entries.unwrap_or(MAX_ENTRIES) {
            return Err(invalid("it continues past its base's end"));
        }
        if self.made > limits.entries {
            return Err(invalid("it makes more entries than the release has"));
        }
        if self.operations.is_multiple_of(CANCEL_CHECK_INTERVAL) && (limits.is_cancelled)() {
            return Err(ManifestError::Cancelled);
        }
        Ok(())
    }
}

/// The data that a manifest delta needs. Reading this summary does not require the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaSummary {
    /// The header of the delta.
    pub head: DeltaHeader,
    /// The new objects, by ordinal.
    pub objects: Vec<NewObject>,
    /// Positions of base entries whose content also appears elsewhere, in ascending order.
    pub base_entries: Vec<u64>,
}

impl DeltaSummary {
    /// The total size of the new objects in bytes.
    #[must_use]
    pub fn new_bytes(&self) -> u64 {
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.size))
    }
}

/// Reads which data a delta needs. `limits` bounds time and memory.
///
/// # Errors
/// Fails if the delta is malformed, names more new objects than it announces, or exceeds `limits`.
/// Also fails with [`ManifestError::NoMemory`] or [`ManifestError::Cancelled`].
pub fn summarize(
    change: impl BufRead,
    limits: &ChangeLimits<'_>,
) -> Result<DeltaSummary, ManifestError> {
    let mut decoder = Decoder::open(change, limits.decoded_bytes())?;
    let announced = decoder.head.objects;
    // Each new object appears in at least one entry.
    if announced > limits.entries {
        return Err(invalid("it announces more new objects than the release has entries"));
    }
    limits.reserve(announced, OBJECT_BYTES)?;
    // Without new objects there are no blocks, so there are no bases to look up.
    if announced > 0 {
        limits.reserve(limits.base_entries.unwrap_or(0), BASE_ENTRY_BYTES)?;
    }
    let mut count = OperationCounter::default();
    let mut objects = Vec::new();
    let mut base_entries = Vec::new();
    while let Some(op) = decoder.op()? {
        count.add(&op, limits)?;
        let (Op::Add { fields, .. } | Op::Change(fields)) = op else { continue };
        let EntryFields::File { content, exec, mtime, .. } = fields else { continue };
        match content {
            EntryContent::NextNew(_) if objects.len() as u64 >= decoder.head.objects => {
                return Err(invalid("there are more new objects than announced"));
            }
            EntryContent::NextNew(size) => objects.push(NewObject { size, mtime, exec }),
            EntryContent::EarlierNew(ordinal) if ordinal >= objects.len() as u64 => {
                return Err(invalid("an object is named before it is introduced"));
            }
            EntryContent::Same | EntryContent::EarlierNew(_) | EntryContent::Held(..) => {}
            EntryContent::FromBase(entry) => {
                // Reserved in steps, because the number of these positions is not announced.
                if (base_entries.len() as u64).is_multiple_of(POSITIONS_PER_RESERVATION) {
                    limits.reserve(POSITIONS_PER_RESERVATION, POSITION_BYTES)?;
                }
                base_entries.push(entry);
            }
        }
    }
    if objects.len() as u64 != decoder.head.objects {
        return Err(invalid("there are fewer new objects than announced"));
    }
    // Several entries may name the same position, but `objects_at` reads the base only once.
    base_entries.sort_unstable();
    base_entries.dedup();
    Ok(DeltaSummary { head: decoder.head, objects, base_entries })
}

/// The objects at the given positions in a base manifest, with their sizes. The positions must be
/// in ascending order.
///
/// # Errors
/// Fails if a position is beyond the end of the base or names a link, or if the stream fails.
pub fn objects_at(
    positions: &[u64],
    base: impl Iterator<Item = Result<Entry, ManifestError>>,
) -> Result<HashMap<u64, (ObjectId, u64)>, ManifestError> {
    // The table grows as objects are found. The positions come from a peer and may not exist.
    let mut found = HashMap::with_capacity(positions.len().min(1 << 16));
    let mut wanted = positions.iter().peekable();
    for (index, entry) in (0u64..).zip(base) {
        let Some(&&next) = wanted.peek() else { break };
        let entry = entry?;
        if next == index {
            wanted.next();
            let file = entry.file().ok_or_else(|| invalid("a position of the base is a link"))?;
            found.insert(index, (file.object, file.size));
        }
    }
    if wanted.next().is_some() {
        Err(invalid("a position is past the base's end"))
    } else {
        Ok(found)
    }
}

struct Applier<'a, I, W> {
    base: I,
    ids: &'a [(ObjectId, u64)],
    base_objects: &'a HashMap<u64, (ObjectId, u64)>,
    introduced: usize,
    last_path: String,
    writer: ManifestWriter<W>,
}

impl<I: Iterator<Item = Result<Entry, ManifestError>>, W: Write> Applier<'_, I, W> {
    fn next_base(&mut self) -> Result<Entry, ManifestError> {
        let entry =
            self.base.next().ok_or_else(|| invalid("it continues past its base's end"))??;
        self.last_path.clear();
        self.last_path.push_str(entry.path.as_str());
        Ok(entry)
    }

    fn kind(
        &mut self,
        fields: EntryFields,
        old: Option<&FileEntry>,
    ) -> Result<(EntryKind, Option<u64>), ManifestError> {
        let (content, exec, mtime, until) = match fields {
            EntryFields::Symlink { target, until } => {
                return Ok((EntryKind::Symlink(target), until));
            }
            EntryFields::File { content, exec, mtime, until } => (content, exec, mtime, until),
        };
        // The base, the ids and the change come from three sources, so any of them may not match
        // the others.
        let unknown = || invalid("it names content that is not there");
        let (object, size) = match content {
            EntryContent::Same => old.map(|old| (old.object, old.size)).ok_or_else(unknown)?,
            EntryContent::NextNew(_) => {
                self.introduced += 1;
                *self.ids.get(self.introduced - 1).ok_or_else(unknown)?
            }
            EntryContent::EarlierNew(ordinal) => {
                let ordinal = usize::try_from(ordinal).map_err(|_| unknown())?;
                *self.ids.get(ordinal).ok_or_else(unknown)?
            }
            EntryContent::FromBase(entry) => *self.base_objects.get(&entry).ok_or_else(unknown)?,
            // As for objects in the base, whether the object exists is checked when the tree is
            // built.
            EntryContent::Held(object, size) => (object, size),
        };
        Ok((EntryKind::File(FileEntry { object, size, mtime, exec }), until))
    }

    fn op(&mut self, op: Op) -> Result<(), ManifestError> {
        match op {
            Op::Keep(count) => {
                for _ in 0..count {
                    let entry = self.next_base()?;
                    self.writer.push(&entry)?;
                }
            }
            Op::Drop(count) => {
                for _ in 0..count {
                    self.next_base()?;
                }
            }
            Op::Add { shared, suffix, fields } => {
                let start = self
                    .last_path
                    .as_bytes()
                    .get(..shared)
                    .ok_or_else(|| invalid("a path shares more than the previous path has"))?;
                let path = String::from_utf8([start, &suffix].concat())
                    .map_err(|_| invalid("a path is not UTF-8"))?;
                let path = TreePath::new(&path).map_err(|_| invalid("a path breaks a rule"))?;
                let (kind, until) = self.kind(fields, None)?;
                self.last_path.clear();
                self.last_path.push_str(path.as_str());
                self.writer.push(&Entry { path, kind, until })?;
            }
            Op::Change(fields) => {
                let old = self.next_base()?;
                let (kind, until) = self.kind(fields, old.file())?;
                self.writer.push(&Entry { path: old.path, kind, until })?;
            }
        }
        Ok(())
    }
}

/// Writes the new manifest to `out`. Needs the manifest delta, its base, the computed ids and sizes
/// of the new objects, and the result of [`objects_at`]. The caller must compare the id in the
/// totals with the announced one.
///
/// # Errors
/// Fails if the delta does not match, or if the base or the writer fails.
pub fn apply<W: Write>(
    change: impl BufRead,
    base: impl Iterator<Item = Result<Entry, ManifestError>>,
    ids: &[(ObjectId, u64)],
    base_objects: &HashMap<u64, (ObjectId, u64)>,
    out: W,
) -> Result<(W, Totals), ManifestError> {
    // No limit here: the decoded length was checked when the summary was read.
    let mut decoder = Decoder::open(change, u64::MAX)?;
    let writer = ManifestWriter::new(out);
    let mut applier =
        Applier { base, ids, base_objects, introduced: 0, last_path: String::new(), writer };
    while let Some(op) = decoder.op()? {
        applier.op(op)?;
    }
    // A delta must cover every entry in its base: the last entries are not dropped implicitly.
    if applier.base.next().is_some() {
        return Err(invalid("it ends before its base"));
    }
    applier.writer.finish()
}
