//! Computes the delta between two manifests.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use super::{
    CREATED, EARLIER_NEW, EXEC, FROM_BASE, HELD, LEVEL, MAGIC, ManifestDelta, NEXT_NEW,
    NewObjectRef, OP_ADD, OP_CHANGE, OP_DROP, OP_END, OP_KEEP, SAME, SYMLINK, UNTIL, VERSION,
};
use crate::hash::{ManifestId, ObjectId};
use crate::manifest::ManifestError;
use crate::manifest::diff::{Pair, Pairs};
use crate::manifest::entry::{Entry, EntryKind, FileEntry};
use crate::tree_path::TreePath;
use crate::varint;

enum ContentLocation {
    New(u32),
    Base(u64),
    /// The mirror has the object, although its base lacks it.
    Held,
}

/// Maximum number of steps kept in memory between the two passes of the encoder. If there are more,
/// both manifests are read again.
const MAX_STEPS: usize = 200_000;

/// An operation in the delta, before it is encoded.
enum DeltaStep {
    /// A number of entries that are kept or dropped, and the path of the last one.
    Run(u8, u64, TreePath),
    Add(Entry),
    Change {
        old: Option<FileEntry>,
        new: Entry,
    },
}

/// Converts pairs into steps and combines runs.
struct DeltaSteps<I: Iterator> {
    pairs: std::iter::Peekable<I>,
}

/// The kind of run that a pair belongs to; `None` if the entry is added or changed.
fn run_of(pair: &Pair) -> Option<u8> {
    match pair {
        Pair::Old(_) => Some(OP_DROP),
        Pair::Both(old, new) if old == new => Some(OP_KEEP),
        Pair::New(_) | Pair::Both(..) => None,
    }
}

impl<E, I: Iterator<Item = Result<Pair, E>>> DeltaSteps<I> {
    fn run(&mut self, op: u8, first: TreePath) -> DeltaStep {
        let (mut count, mut last) = (1, first);
        while let Some(Ok(pair)) =
            self.pairs.next_if(|pair| pair.as_ref().is_ok_and(|pair| run_of(pair) == Some(op)))
        {
            count += 1;
            let (Pair::Old(entry) | Pair::New(entry) | Pair::Both(entry, _)) = pair;
            last = entry.path;
        }
        DeltaStep::Run(op, count, last)
    }
}

impl<E, I: Iterator<Item = Result<Pair, E>>> Iterator for DeltaSteps<I> {
    type Item = Result<DeltaStep, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = match self.pairs.next()? {
            Ok(pair) => pair,
            Err(error) => return Some(Err(error)),
        };
        let op = run_of(&pair);
        Some(Ok(match (op, pair) {
            (Some(op), Pair::Old(entry) | Pair::New(entry) | Pair::Both(entry, _)) => {
                self.run(op, entry.path)
            }
            (None, Pair::Old(new) | Pair::New(new)) => DeltaStep::Add(new),
            (None, Pair::Both(old, new)) => DeltaStep::Change { old: old.file().copied(), new },
        }))
    }
}

/// Records the object of a changed or added entry, if not recorded yet.
fn record_new_object(
    step: &DeltaStep,
    wanted: &mut Vec<NewObjectRef>,
    places: &mut HashMap<ObjectId, ContentLocation>,
) {
    let (old, new) = match step {
        DeltaStep::Run(..) => return,
        DeltaStep::Add(new) => (None, new),
        DeltaStep::Change { old, new } => (*old, new),
    };
    let Some(file) = new.file().filter(|file| old.is_none_or(|old| old.object != file.object))
    else {
        return;
    };
    let next = u32::try_from(wanted.len()).expect("a manifest has fewer than 2^32 entries");
    // The first entry with an object introduces it. The mirror uses that entry's time and mode for
    // the object.
    places.entry(file.object).or_insert_with(|| {
        wanted.push(NewObjectRef { object: file.object, size: file.size, path: new.path.clone() });
        ContentLocation::New(next)
    });
}

/// The first 8 bytes of an object id. If they are equal, the ids almost certainly are too.
fn id_prefix(object: &ObjectId) -> u64 {
    let (beginning, _) = object.as_bytes().split_first_chunk().expect("an id has 32 bytes");
    u64::from_le_bytes(*beginning)
}

/// Removes from `wanted` the objects in the base, and renumbers the rest.
fn find_in_base<E>(
    base: impl Iterator<Item = Result<Entry, E>>,
    wanted: Vec<NewObjectRef>,
    places: &mut HashMap<ObjectId, ContentLocation>,
) -> Result<Vec<NewObjectRef>, E> {
    if wanted.is_empty() {
        return Ok(wanted);
    }
    for (index, entry) in (0u64..).zip(base) {
        // Only the first base entry with this content matches: later ones find `Base` here.
        if let Some(place @ ContentLocation::New(_)) =
            entry?.file().and_then(|file| places.get_mut(&file.object))
        {
            *place = ContentLocation::Base(index);
        }
    }
    Ok(renumber(wanted, places))
}

/// Removes from `wanted` the objects in `held`, and renumbers the rest.
fn remove_held(
    held: &HashSet<ObjectId>,
    wanted: Vec<NewObjectRef>,
    places: &mut HashMap<ObjectId, ContentLocation>,
) -> Vec<NewObjectRef> {
    for one in wanted.iter().filter(|one| held.contains(&one.object)) {
        places.insert(one.object, ContentLocation::Held);
    }
    renumber(wanted, places)
}

/// Keeps only the objects that are still new, and renumbers them.
fn renumber(
    mut wanted: Vec<NewObjectRef>,
    places: &mut HashMap<ObjectId, ContentLocation>,
) -> Vec<NewObjectRef> {
    let mut next = 0;
    wanted.retain(|one| match places.get_mut(&one.object) {
        Some(ContentLocation::New(ordinal)) => {
            *ordinal = next;
            next += 1;
            true
        }
        _ => false,
    });
    wanted
}

struct Encoder<'a, W> {
    out: W,
    buffer: Vec<u8>,
    created: u64,
    places: &'a HashMap<ObjectId, ContentLocation>,
    /// Objects with ordinals below this one have been introduced.
    introduced: u32,
    last_path: String,
}

impl<W: Write> Encoder<'_, W> {
    fn step(&mut self, step: &DeltaStep) -> io::Result<()> {
        match step {
            DeltaStep::Run(op, count, last) => {
                self.buffer.push(*op);
                varint::push(*count, &mut self.buffer);
                self.set_last_path(last);
            }
            DeltaStep::Add(new) => self.add(new),
            DeltaStep::Change { old, new } => {
                self.buffer.push(OP_CHANGE);
                self.fields(new, old.as_ref());
                self.set_last_path(&new.path);
            }
        }
        if self.buffer.len() > 64 * 1024 {
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn set_last_path(&mut self, path: &TreePath) {
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
        self.set_last_path(&new.path);
    }

    fn fields(&mut self, new: &Entry, old: Option<&FileEntry>) {
        let at = self.buffer.len();
        let mut flags = if new.until.is_some() { UNTIL } else { 0 };
        // A placeholder for the flags, which are known only after the fields.
        self.buffer.push(0);
        match &new.kind {
            EntryKind::Symlink(target) => {
                flags |= SYMLINK;
                varint::push(target.as_str().len() as u64, &mut self.buffer);
                self.buffer.extend_from_slice(target.as_str().as_bytes());
            }
            EntryKind::File(file) => {
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
            // Objects are numbered in the order of their introduction, so the next one needs no
            // number.
            Some(ContentLocation::New(ordinal)) if *ordinal == self.introduced => {
                self.introduced += 1;
                varint::push(file.size, &mut self.buffer);
                NEXT_NEW
            }
            Some(ContentLocation::New(ordinal)) => {
                varint::push(u64::from(*ordinal), &mut self.buffer);
                EARLIER_NEW
            }
            Some(ContentLocation::Base(entry)) => {
                varint::push(*entry, &mut self.buffer);
                FROM_BASE
            }
            Some(ContentLocation::Held) => {
                self.buffer.extend_from_slice(file.object.as_bytes());
                varint::push(file.size, &mut self.buffer);
                HELD
            }
            None => unreachable!("the first pass placed every object that is not the same"),
        }
    }
}

/// Encodes the delta from `base` to `new`. Each stream is opened up to three times, so opening it
/// must be repeatable. Memory use is proportional to the number of added and changed files, plus 8
/// bytes per entry in `base`.
///
/// # Errors
/// The first error from either stream.
pub fn encode<A, B>(
    base: impl Fn() -> Result<A, ManifestError>,
    new: impl Fn() -> Result<B, ManifestError>,
    base_id: Option<ManifestId>,
    created: u64,
) -> Result<ManifestDelta, ManifestError>
where
    A: Iterator<Item = Result<Entry, ManifestError>>,
    B: Iterator<Item = Result<Entry, ManifestError>>,
{
    encode_with_held(base, new, base_id, created, &HashSet::new())
}

/// Like [`encode`], for a mirror that also has the objects in `held`: the delta names these by id
/// instead of listing them as new.
///
/// # Errors
/// The errors of [`encode`].
pub fn encode_with_held<A, B>(
    base: impl Fn() -> Result<A, ManifestError>,
    new: impl Fn() -> Result<B, ManifestError>,
    base_id: Option<ManifestId>,
    created: u64,
    held: &HashSet<ObjectId>,
) -> Result<ManifestDelta, ManifestError>
where
    A: Iterator<Item = Result<Entry, ManifestError>>,
    B: Iterator<Item = Result<Entry, ManifestError>>,
{
    let (mut wanted, mut places) = (Vec::new(), HashMap::new());
    let mut kept = Some(Vec::new());
    // Stores eight bytes of each id in the base, so that the base usually need not be decoded
    // again.
    let mut base_id_prefixes = Vec::new();
    let base_entries = base()?.inspect(|entry| {
        base_id_prefixes
            .extend(entry.as_ref().ok().and_then(Entry::file).map(|file| id_prefix(&file.object)));
    });
    // The header contains the number of new objects, known only after all steps.
    for step in (DeltaSteps { pairs: Pairs::new(base_entries, new()?).peekable() }) {
        let step = step?;
        record_new_object(&step, &mut wanted, &mut places);
        if let Some(steps) = kept.as_mut() {
            steps.push(step);
        }
        // All are dropped: keeping only some of the steps would not save the second pass.
        kept = kept.filter(|steps| steps.len() <= MAX_STEPS);
    }
    let new_id_prefixes: HashSet<u64> = places.keys().map(id_prefix).collect();
    // Usually, the base has none of the objects, so it need not be read again to find them.
    if base_id_prefixes.iter().any(|shown| new_id_prefixes.contains(shown)) {
        wanted = find_in_base(base()?, wanted, &mut places)?;
    }
    drop(base_id_prefixes);
    if !held.is_empty() {
        wanted = remove_held(held, wanted, &mut places);
    }
    let mut out = zstd::Encoder::new(Vec::new(), LEVEL)?;
    out.include_checksum(true)?;
    let mut head = MAGIC.to_vec();
    head.push(VERSION);
    head.extend_from_slice(base_id.map_or([0; 32], |id| *id.as_bytes()).as_slice());
    varint::push(created, &mut head);
    varint::push(wanted.len() as u64, &mut head);
    let mut encoder = Encoder {
        out,
        buffer: head,
        created,
        places: &places,
        introduced: 0,
        last_path: String::new(),
    };
    match kept {
        Some(kept) => kept.iter().try_for_each(|step| encoder.step(step))?,
        None => {
            for step in (DeltaSteps { pairs: Pairs::new(base()?, new()?).peekable() }) {
                encoder.step(&step?)?;
            }
        }
    }
    encoder.buffer.push(OP_END);
    encoder.out.write_all(&encoder.buffer)?;
    Ok(ManifestDelta { bytes: encoder.out.finish()?.into(), wanted })
}
