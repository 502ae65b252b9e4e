//! How a manifest travels: as operations against a base manifest that the
//! mirror has, so that its cost goes with the change.
//!
//! Object ids do not travel at all (they do not compress, and the receiver
//! must compute them anyway): new content is named by its ordinal in the
//! bundle, content that the base has by the position of an entry that shows it.
//! The form is described in `FORMAT.md`.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};

use crate::hash::{ManifestId, ObjectId};
use crate::manifest::codec::MAX_ENTRIES;
use crate::manifest::diff::{Pair, Pairs};
use crate::manifest::entry::{Entry, FileEntry, Kind};
use crate::manifest::{ManifestError, ManifestWriter, Totals};
use crate::tree_path::{LinkTarget, MAX_PATH_BYTES, TreePath};
use crate::varint;

const MAGIC: &[u8; 4] = b"HWMC";
const VERSION: u8 = 1;
/// Fast, and within a few per cent of the best for these small streams.
const LEVEL: i32 = 3;
/// A window of 8 MiB: bounds the memory of whoever decodes.
const WINDOW_LOG_MAX: u32 = 23;

const OP_END: u8 = 0;
const OP_KEEP: u8 = 1;
const OP_DROP: u8 = 2;
const OP_ADD: u8 = 3;
const OP_CHANGE: u8 = 4;

const SYMLINK: u8 = 1;
const EXEC: u8 = 2;
const UNTIL: u8 = 4;
const CREATED: u8 = 8;
const CONTENT: u8 = 0x70;
const SAME: u8 = 0x00;
const NEXT_NEW: u8 = 0x10;
const EARLIER_NEW: u8 = 0x20;
const FROM_BASE: u8 = 0x30;

/// A new object of a bundle, in the order of ordinals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewObject {
    /// Its length in bytes.
    pub size: u64,
    /// The modification time of the first entry that shows it, seconds since 1970.
    pub mtime: u64,
    /// Whether the first entry that shows it may be executed.
    pub exec: bool,
}

/// What the encoder found to be new, with its id: known to the origin only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The object.
    pub object: ObjectId,
    /// Its length in bytes.
    pub size: u64,
    /// The path of the first entry that shows it.
    pub path: TreePath,
}

/// A manifest change and the objects it needs.
#[derive(Debug, Clone)]
pub struct Change {
    /// The transit form.
    pub bytes: Vec<u8>,
    /// The new objects, by ordinal.
    pub wanted: Vec<Wanted>,
}

enum Place {
    New(u32),
    Base(u64),
}

/// Changed entries that are kept in memory between the two looks of the
/// encoder; beyond that both manifests are read again.
const MAX_STEPS: usize = 200_000;

/// An operation as the encoder sees it.
enum Step {
    /// So many entries stay or go, the last of which has this path.
    Run(u8, u64, TreePath),
    Add(Entry),
    Change {
        old: Option<FileEntry>,
        new: Entry,
    },
}

/// Turns pairs into steps, runs joined.
struct Steps<I: Iterator> {
    pairs: std::iter::Peekable<I>,
}

/// The run that a pair belongs to.
fn run_of(pair: &Pair) -> Option<u8> {
    match pair {
        Pair::Old(_) => Some(OP_DROP),
        Pair::Both(old, new) if old == new => Some(OP_KEEP),
        Pair::New(_) | Pair::Both(..) => None,
    }
}

impl<E, I: Iterator<Item = Result<Pair, E>>> Steps<I> {
    fn run(&mut self, op: u8, first: TreePath) -> Step {
        let (mut count, mut last) = (1, first);
        while let Some(Ok(pair)) = self.pairs.next_if(|pair| pair.as_ref().is_ok_and(|pair| run_of(pair) == Some(op))) {
            count += 1;
            let (Pair::Old(entry) | Pair::New(entry) | Pair::Both(entry, _)) = pair;
            last = entry.path;
        }
        Step::Run(op, count, last)
    }
}

impl<E, I: Iterator<Item = Result<Pair, E>>> Iterator for Steps<I> {
    type Item = Result<Step, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = match self.pairs.next()? {
            Ok(pair) => pair,
            Err(error) => return Some(Err(error)),
        };
        let op = run_of(&pair);
        Some(Ok(match (op, pair) {
            (Some(op), Pair::Old(entry) | Pair::New(entry) | Pair::Both(entry, _)) => self.run(op, entry.path),
            (None, Pair::Old(new) | Pair::New(new)) => Step::Add(new),
            (None, Pair::Both(old, new)) => Step::Change { old: old.file().copied(), new },
        }))
    }
}

/// Finds the object of a changed or added entry, each once.
fn find_content(step: &Step, wanted: &mut Vec<Wanted>, places: &mut HashMap<ObjectId, Place>) {
    let (old, new) = match step {
        Step::Run(..) => return,
        Step::Add(new) => (None, new),
        Step::Change { old, new } => (*old, new),
    };
    let Some(file) = new.file().filter(|file| old.is_none_or(|old| old.object != file.object)) else { return };
    let next = u32::try_from(wanted.len()).expect("a manifest has fewer than 2^32 entries");
    places.entry(file.object).or_insert_with(|| {
        wanted.push(Wanted { object: file.object, size: file.size, path: new.path.clone() });
        Place::New(next)
    });
}

/// Takes the objects that the base shows somewhere out of `wanted` and renumbers the rest.
fn find_in_base<E>(
    base: impl Iterator<Item = Result<Entry, E>>,
    wanted: Vec<Wanted>,
    places: &mut HashMap<ObjectId, Place>,
) -> Result<Vec<Wanted>, E> {
    if wanted.is_empty() {
        return Ok(wanted);
    }
    for (index, entry) in (0u64..).zip(base) {
        if let Some(place @ Place::New(_)) = entry?.file().and_then(|file| places.get_mut(&file.object)) {
            *place = Place::Base(index);
        }
    }
    let mut rest = Vec::with_capacity(wanted.len());
    for one in wanted {
        if let Some(Place::New(ordinal)) = places.get_mut(&one.object) {
            *ordinal = u32::try_from(rest.len()).expect("fewer than before");
            rest.push(one);
        }
    }
    Ok(rest)
}

struct Encoder<'a, W> {
    out: W,
    buffer: Vec<u8>,
    created: u64,
    places: &'a HashMap<ObjectId, Place>,
    /// Ordinals below this were introduced.
    introduced: u32,
    last_path: String,
}

impl<W: Write> Encoder<'_, W> {
    fn step(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Run(op, count, last) => {
                self.buffer.push(*op);
                varint::push(*count, &mut self.buffer);
                self.remember(last);
            }
            Step::Add(new) => self.add(new),
            Step::Change { old, new } => {
                self.buffer.push(OP_CHANGE);
                self.fields(new, old.as_ref());
                self.remember(&new.path);
            }
        }
        if self.buffer.len() > 64 * 1024 {
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn remember(&mut self, path: &TreePath) {
        self.last_path.clear();
        self.last_path.push_str(path.as_str());
    }

    fn add(&mut self, new: &Entry) {
        self.buffer.push(OP_ADD);
        let path = new.path.as_str().as_bytes();
        let shared = self.last_path.bytes().zip(path).take_while(|(a, b)| a == *b).count();
        varint::push(shared as u64, &mut self.buffer);
        varint::push((path.len() - shared) as u64, &mut self.buffer);
        self.buffer.extend_from_slice(&path[shared..]);
        self.fields(new, None);
        self.remember(&new.path);
    }

    fn fields(&mut self, new: &Entry, old: Option<&FileEntry>) {
        let at = self.buffer.len();
        let mut flags = if new.until.is_some() { UNTIL } else { 0 };
        self.buffer.push(0);
        match &new.kind {
            Kind::Symlink(target) => {
                flags |= SYMLINK;
                varint::push(target.as_str().len() as u64, &mut self.buffer);
                self.buffer.extend_from_slice(target.as_str().as_bytes());
            }
            Kind::File(file) => {
                if file.exec {
                    flags |= EXEC;
                }
                flags |= self.content(file, old);
                if file.mtime == self.created {
                    flags |= CREATED;
                } else {
                    varint::push(file.mtime, &mut self.buffer);
                }
            }
        }
        if let Some(until) = new.until {
            varint::push(until, &mut self.buffer);
        }
        self.buffer[at] = flags;
    }

    fn content(&mut self, file: &FileEntry, old: Option<&FileEntry>) -> u8 {
        if old.is_some_and(|old| old.object == file.object) {
            return SAME;
        }
        match self.places.get(&file.object) {
            Some(Place::New(ordinal)) if *ordinal == self.introduced => {
                self.introduced += 1;
                varint::push(file.size, &mut self.buffer);
                NEXT_NEW
            }
            Some(Place::New(ordinal)) => {
                varint::push(u64::from(*ordinal), &mut self.buffer);
                EARLIER_NEW
            }
            Some(Place::Base(entry)) => {
                varint::push(*entry, &mut self.buffer);
                FROM_BASE
            }
            None => unreachable!("the first pass placed every object that is not the same"),
        }
    }
}

/// Writes the change that makes `new` out of `base`. Each of the two is
/// opened up to three times, so give something that can be read again.
/// Memory grows with the number of added and changed files.
///
/// # Errors
/// The first error of either stream.
pub fn encode<A, B>(
    base: impl Fn() -> Result<A, ManifestError>,
    new: impl Fn() -> Result<B, ManifestError>,
    base_id: Option<ManifestId>,
    created: u64,
) -> Result<Change, ManifestError>
where
    A: Iterator<Item = Result<Entry, ManifestError>>,
    B: Iterator<Item = Result<Entry, ManifestError>>,
{
    let steps = || Ok::<_, ManifestError>(Steps { pairs: Pairs::new(base()?, new()?).peekable() });
    let (mut wanted, mut places) = (Vec::new(), HashMap::new());
    let mut kept = Some(Vec::new());
    for step in steps()? {
        let step = step?;
        find_content(&step, &mut wanted, &mut places);
        if let Some(steps) = kept.as_mut() {
            steps.push(step);
        }
        kept = kept.filter(|steps| steps.len() <= MAX_STEPS);
    }
    let wanted = find_in_base(base()?, wanted, &mut places)?;
    let mut out = zstd::Encoder::new(Vec::new(), LEVEL)?;
    out.include_checksum(true)?;
    let mut head = MAGIC.to_vec();
    head.push(VERSION);
    head.extend_from_slice(base_id.map_or([0; 32], |id| *id.as_bytes()).as_slice());
    varint::push(created, &mut head);
    varint::push(wanted.len() as u64, &mut head);
    let mut encoder = Encoder { out, buffer: head, created, places: &places, introduced: 0, last_path: String::new() };
    match kept {
        Some(kept) => kept.iter().try_for_each(|step| encoder.step(step))?,
        None => {
            for step in steps()? {
                encoder.step(&step?)?;
            }
        }
    }
    encoder.buffer.push(OP_END);
    encoder.out.write_all(&encoder.buffer)?;
    Ok(Change { bytes: encoder.out.finish()?, wanted })
}

fn invalid(what: &'static str) -> ManifestError {
    ManifestError::Transit { what }
}

/// The start of a manifest change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The manifest it changes; nothing for the empty one.
    pub base: Option<ManifestId>,
    /// `created` of the release it makes, seconds since 1970.
    pub created: u64,
    /// Number of new objects.
    pub objects: u64,
}

enum Content {
    Same,
    NextNew(u64),
    EarlierNew(u64),
    FromBase(u64),
}

enum Fields {
    Symlink { target: LinkTarget, until: Option<u64> },
    File { content: Content, exec: bool, mtime: u64, until: Option<u64> },
}

enum Op {
    Keep(u64),
    Drop(u64),
    Add { shared: usize, suffix: Vec<u8>, fields: Fields },
    Change(Fields),
}

struct Decoder<R> {
    input: R,
    head: Head,
}

impl<'a> Decoder<BufReader<zstd::Decoder<'a, &'a [u8]>>> {
    fn open(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let mut input = zstd::Decoder::with_buffer(bytes)?.single_frame();
        input.window_log_max(WINDOW_LOG_MAX)?;
        let mut input = BufReader::with_capacity(64 * 1024, input);
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
        let created = varint::read(&mut input)?;
        let objects = varint::read(&mut input)?;
        if objects > MAX_ENTRIES {
            return Err(ManifestError::TooMany);
        }
        Ok(Self { input, head: Head { base, created, objects } })
    }
}

impl<R: BufRead> Decoder<R> {
    fn op(&mut self) -> Result<Option<Op>, ManifestError> {
        let mut op = [0];
        self.input.read_exact(&mut op)?;
        Ok(Some(match op[0] {
            OP_END => {
                if !self.input.fill_buf()?.is_empty() {
                    return Err(invalid("something follows its end"));
                }
                return Ok(None);
            }
            OP_KEEP => Op::Keep(self.run_length()?),
            OP_DROP => Op::Drop(self.run_length()?),
            OP_ADD => {
                let shared = self.short(MAX_PATH_BYTES)?;
                let length = self.short(MAX_PATH_BYTES)?;
                let suffix = self.bytes(length)?;
                Op::Add { shared, suffix, fields: self.fields()? }
            }
            OP_CHANGE => Op::Change(self.fields()?),
            _ => return Err(invalid("an operation is unknown")),
        }))
    }

    fn run_length(&mut self) -> Result<u64, ManifestError> {
        match varint::read(&mut self.input)? {
            0 => Err(invalid("a run is empty")),
            length => Ok(length),
        }
    }

    fn short(&mut self, limit: usize) -> Result<usize, ManifestError> {
        let length = varint::read(&mut self.input)?;
        usize::try_from(length).ok().filter(|length| *length <= limit).ok_or_else(|| invalid("a text is too long"))
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, ManifestError> {
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn fields(&mut self) -> Result<Fields, ManifestError> {
        let mut flags = [0];
        self.input.read_exact(&mut flags)?;
        let flags = flags[0];
        if flags & SYMLINK != 0 {
            if flags & !(SYMLINK | UNTIL) != 0 {
                return Err(invalid("a link has fields of a file"));
            }
            let length = self.short(MAX_PATH_BYTES)?;
            let target = String::from_utf8(self.bytes(length)?).map_err(|_| invalid("a target is not UTF-8"))?;
            let target = LinkTarget::new(&target).map_err(|_| invalid("a target breaks a rule"))?;
            return Ok(Fields::Symlink { target, until: self.until(flags)? });
        }
        let content = match flags & CONTENT {
            SAME => Content::Same,
            NEXT_NEW => Content::NextNew(varint::read(&mut self.input)?),
            EARLIER_NEW => Content::EarlierNew(varint::read(&mut self.input)?),
            FROM_BASE => Content::FromBase(varint::read(&mut self.input)?),
            _ => return Err(invalid("a kind of content is unknown")),
        };
        if flags & 0x80 != 0 {
            return Err(invalid("a flag is unknown"));
        }
        let mtime = if flags & CREATED != 0 { self.head.created } else { varint::read(&mut self.input)? };
        Ok(Fields::File { content, exec: flags & EXEC != 0, mtime, until: self.until(flags)? })
    }

    fn until(&mut self, flags: u8) -> Result<Option<u64>, ManifestError> {
        if flags & UNTIL == 0 { Ok(None) } else { Ok(Some(varint::read(&mut self.input)?)) }
    }
}

/// What a manifest change needs, read without its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Its start.
    pub head: Head,
    /// The new objects, by ordinal.
    pub objects: Vec<NewObject>,
    /// Positions of entries of the base whose content is shown elsewhere too, ascending.
    pub base_entries: Vec<u64>,
}

/// Reads what a change needs.
///
/// # Errors
/// A change that is malformed, or names more than it announces.
pub fn needs(bytes: &[u8]) -> Result<Needs, ManifestError> {
    let mut decoder = Decoder::open(bytes)?;
    let mut objects = Vec::new();
    let mut base_entries = Vec::new();
    while let Some(op) = decoder.op()? {
        let (Op::Add { fields, .. } | Op::Change(fields)) = op else { continue };
        let Fields::File { content, exec, mtime, .. } = fields else { continue };
        match content {
            Content::NextNew(_) if objects.len() as u64 >= decoder.head.objects => {
                return Err(invalid("there are more new objects than announced"));
            }
            Content::NextNew(size) => objects.push(NewObject { size, mtime, exec }),
            Content::EarlierNew(ordinal) if ordinal >= objects.len() as u64 => {
                return Err(invalid("an object is named before it is introduced"));
            }
            Content::Same | Content::EarlierNew(_) => {}
            Content::FromBase(_) if base_entries.len() as u64 >= MAX_ENTRIES => return Err(ManifestError::TooMany),
            Content::FromBase(entry) => base_entries.push(entry),
        }
    }
    if objects.len() as u64 != decoder.head.objects {
        return Err(invalid("there are fewer new objects than announced"));
    }
    base_entries.sort_unstable();
    base_entries.dedup();
    Ok(Needs { head: decoder.head, objects, base_entries })
}

/// The objects at the given positions (ascending) of a base manifest, with their sizes.
///
/// # Errors
/// A position that the base does not have or that is a link, or an error of the stream.
pub fn objects_at(
    positions: &[u64],
    base: impl Iterator<Item = Result<Entry, ManifestError>>,
) -> Result<HashMap<u64, (ObjectId, u64)>, ManifestError> {
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
    if wanted.next().is_some() { Err(invalid("a position is behind the base's end")) } else { Ok(found) }
}

struct Applier<'a, I, W> {
    base: I,
    ids: &'a [(ObjectId, u64)],
    copies: &'a HashMap<u64, (ObjectId, u64)>,
    introduced: usize,
    last_path: String,
    writer: ManifestWriter<W>,
}

impl<I: Iterator<Item = Result<Entry, ManifestError>>, W: Write> Applier<'_, I, W> {
    fn next_base(&mut self) -> Result<Entry, ManifestError> {
        let entry = self.base.next().ok_or_else(|| invalid("it goes on behind its base's end"))??;
        self.last_path.clear();
        self.last_path.push_str(entry.path.as_str());
        Ok(entry)
    }

    fn kind(&mut self, fields: Fields, old: Option<&FileEntry>) -> Result<(Kind, Option<u64>), ManifestError> {
        let (content, exec, mtime, until) = match fields {
            Fields::Symlink { target, until } => return Ok((Kind::Symlink(target), until)),
            Fields::File { content, exec, mtime, until } => (content, exec, mtime, until),
        };
        let unknown = || invalid("content is named that is not there");
        let (object, size) = match content {
            Content::Same => old.map(|old| (old.object, old.size)).ok_or_else(unknown)?,
            Content::NextNew(_) => {
                self.introduced += 1;
                *self.ids.get(self.introduced - 1).ok_or_else(unknown)?
            }
            Content::EarlierNew(ordinal) => {
                let ordinal = usize::try_from(ordinal).map_err(|_| unknown())?;
                *self.ids.get(ordinal).ok_or_else(unknown)?
            }
            Content::FromBase(entry) => *self.copies.get(&entry).ok_or_else(unknown)?,
        };
        Ok((Kind::File(FileEntry { object, size, mtime, exec }), until))
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
                let start = self.last_path.as_bytes().get(..shared).ok_or_else(|| invalid("a path shares too much"))?;
                let path = String::from_utf8([start, &suffix].concat()).map_err(|_| invalid("a path is not UTF-8"))?;
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

/// Rebuilds the new manifest on `out` from its change, its base, the computed
/// ids and sizes of the new objects, and what [`objects_at`] found. The caller
/// compares the id in the totals with the announced one.
///
/// # Errors
/// A change that does not fit, an error of the base or of the writer.
pub fn apply<W: Write>(
    bytes: &[u8],
    base: impl Iterator<Item = Result<Entry, ManifestError>>,
    ids: &[(ObjectId, u64)],
    copies: &HashMap<u64, (ObjectId, u64)>,
    out: W,
) -> Result<(W, Totals), ManifestError> {
    let mut decoder = Decoder::open(bytes)?;
    let writer = ManifestWriter::new(out);
    let mut applier = Applier { base, ids, copies, introduced: 0, last_path: String::new(), writer };
    while let Some(op) = decoder.op()? {
        applier.op(op)?;
    }
    if applier.base.next().is_some() {
        return Err(invalid("it ends before its base"));
    }
    applier.writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let change = encode(|| Ok(stream(base)), || Ok(stream(new)), Some(id_of(base)), 50).unwrap();
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
        let one = (
            "[a-d]{1,2}(/[a-d]{1,2})?",
            0u8..6,
            0u8..4,
            prop_oneof![Just(5u64), Just(50)],
            proptest::option::of(1u64..9),
        );
        proptest::collection::btree_map("[a-d]{1,2}_[a-d]", one, 0..30).prop_map(|map| {
            map.into_iter()
                .map(|(path, (_, content, kind, mtime, until))| entry(&path, content, kind, mtime, until))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn any_manifest_is_rebuilt_from_any_base(base in entries(), new in entries()) {
            let (change, _) = round_trip(&base, &new);
            let held: std::collections::HashSet<_> = base.iter().filter_map(|entry| entry.file().map(|f| f.object)).collect();
            prop_assert!(change.wanted.iter().all(|one| !held.contains(&one.object)));
        }
    }
}
