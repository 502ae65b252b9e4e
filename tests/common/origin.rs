//! A small origin: hand-written trees, their releases, and bundles that a test can corrupt before
//! it sends them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater::hash::{BundleKey, HistoryId, ManifestId, ObjectId, PackId};
use headwater::manifest::delta::{self, NewObjectRef};
use headwater::manifest::{Entry, EntryKind, FileEntry, ManifestError, ManifestWriter};
use headwater::mirror::{
    FetchRecords, Mirror, MirrorError, ObjectSource, OutgoingPack, PackCursor, PackSource,
    SourceError, StageRequest,
};
use headwater::monitor::{Event, Monitor};
use headwater::pack::{EncodedBlock, Level, PackWriter, Piece, encode_block};
use headwater::release::{Release, ReleaseName};
use headwater::tree_path::{LinkTarget, Site, TreePath};

/// Longest piece, in bytes: small, so that an object of a few kilobytes spans packs.
const PIECE_BYTES: usize = 1000;
/// Number of pieces in the one block of a pack.
const BLOCK_PIECES: usize = 3;

type Objects = HashMap<ObjectId, Arc<Vec<u8>>>;

pub(crate) fn site() -> Site {
    Site::new("docs").unwrap()
}

/// The history of all releases, unless a test changes it.
pub(crate) fn history() -> HistoryId {
    HistoryId::from_bytes([0x11; 16])
}

/// Returns incompressible bytes, the same for equal arguments.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A tree with times, like a manifest.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
    objects: Objects,
}

#[derive(Clone, Copy)]
struct Metadata {
    mtime: u64,
    exec: bool,
    until: Option<u64>,
}

impl Tree {
    pub(crate) fn file(self, path: &str, content: impl Into<Vec<u8>>, mtime: u64) -> Self {
        self.put(path, content.into(), Metadata { mtime, exec: false, until: None })
    }

    pub(crate) fn exec(self, path: &str, content: impl Into<Vec<u8>>, mtime: u64) -> Self {
        self.put(path, content.into(), Metadata { mtime, exec: true, until: None })
    }

    pub(crate) fn retired(
        self,
        path: &str,
        content: impl Into<Vec<u8>>,
        mtime: u64,
        until: u64,
    ) -> Self {
        self.put(path, content.into(), Metadata { mtime, exec: false, until: Some(until) })
    }

    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        let kind = EntryKind::Symlink(LinkTarget::new(target).unwrap());
        let entry = Entry { path: TreePath::new(path).unwrap(), kind, until: None };
        self.entries.insert(path.to_owned(), entry);
        self
    }

    pub(crate) fn without(mut self, path: &str) -> Self {
        self.entries.remove(path).expect("the path exists");
        self
    }

    /// Adds a file with a size but without content: the test sends the content.
    #[allow(dead_code, reason = "one of the two programs that have this file needs it")]
    pub(crate) fn sized(mut self, path: &str, size: u64, seed: u32) -> Self {
        let file =
            FileEntry { object: ObjectId::of(&seed.to_le_bytes()), size, mtime: 2, exec: false };
        let entry =
            Entry { path: TreePath::new(path).unwrap(), kind: EntryKind::File(file), until: None };
        self.entries.insert(path.to_owned(), entry);
        self
    }

    fn put(mut self, path: &str, content: Vec<u8>, metadata: Metadata) -> Self {
        let Metadata { mtime, exec, until } = metadata;
        let file =
            FileEntry { object: ObjectId::of(&content), size: content.len() as u64, mtime, exec };
        self.objects.insert(file.object, Arc::new(content));
        let entry =
            Entry { path: TreePath::new(path).unwrap(), kind: EntryKind::File(file), until };
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// Returns the release of this tree with the given sequence.
    pub(crate) fn release(&self, sequence: u64) -> Version {
        let entries: Vec<Entry> = self.entries.values().cloned().collect();
        let mut writer = ManifestWriter::new(Vec::new());
        entries.iter().for_each(|entry| writer.push(entry).unwrap());
        let (manifest, totals) = writer.finish().unwrap();
        let mut release =
            Release::new(site(), history(), sequence, totals.manifest, totals.content);
        release.created = 1_700_000_000 + sequence;
        release.began = release.created * 1000;
        release.until = totals.until;
        release.entries = totals.entries;
        release.retired = totals.retired;
        release.bytes = totals.bytes;
        Version { release, entries, manifest, objects: self.objects.clone() }
    }
}

/// The tree that most tests use: it has everything that a manifest can contain.
pub(crate) fn first_tree() -> Tree {
    Tree::default()
        .file("app.js", "let answer = 41;\n".repeat(150), 1_700_000_001)
        .exec("bin/tool", "#!/bin/sh\necho 1\n", 1_700_000_001)
        .file("deep/down/below.txt", "below\n", 1_700_000_001)
        .file("empty.txt", "", 1_700_000_001)
        .file("img/logo.bin", noise(3500, 1), 1_700_000_001)
        .file("index.html", "<h1>one</h1>\n", 1_700_000_001)
        .link("latest", "img")
        .file("old.css", "old\n", 1_700_000_001)
}

/// [`first_tree`] after every kind of change.
pub(crate) fn second_tree() -> Tree {
    let tree = first_tree().without("deep/down/below.txt").without("old.css");
    tree.file("app.js", "let answer = 42;\n".repeat(150), 1_700_000_002)
        .file("bin/tool", "#!/bin/sh\necho 1\n", 1_700_000_002)
        .file("deep/down", "was a directory\n", 1_700_000_002)
        .file("img/copy.bin", noise(3500, 1), 1_700_000_002)
        .file("img/new.bin", noise(4200, 2), 1_700_000_002)
        .file("img/twin.bin", noise(4200, 2), 1_700_000_001)
        .link("latest", "bin")
        .retired("old.css", "old\n", 1_700_000_001, 4_000_086_400)
}

/// A release with its manifest and objects.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) release: Release,
    pub(crate) entries: Vec<Entry>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) objects: Objects,
}

impl Version {
    pub(crate) fn name(&self) -> ReleaseName {
        self.release.name()
    }

    /// Returns the file at `path`.
    pub(crate) fn file(&self, path: &str) -> FileEntry {
        let entry =
            self.entries.iter().find(|entry| entry.path.as_str() == path).expect("the path exists");
        *entry.file().expect("it is a file")
    }

    /// Returns the objects that the manifest names.
    pub(crate) fn named_objects(&self) -> Vec<ObjectId> {
        let mut objects: Vec<_> =
            self.entries.iter().filter_map(|entry| Some(entry.file()?.object)).collect();
        objects.sort_unstable();
        objects.dedup();
        objects
    }

    /// Returns the bundle that updates a mirror from `base` to this release.
    pub(crate) fn bundle_from(&self, base: Option<&Self>) -> Delivery {
        self.bundle_with_extra(base, &HashSet::new())
    }

    /// The same, for a mirror that has these objects in addition to its base.
    pub(crate) fn bundle_with_extra(
        &self,
        base: Option<&Self>,
        held: &HashSet<ObjectId>,
    ) -> Delivery {
        let base_entries = base.map_or(&[][..], |base| &base.entries);
        let base_id = base.map(|base| base.release.manifest);
        let created = self.release.created;
        let (old, new) = (|| Ok(stream(base_entries)), || Ok(stream(&self.entries)));
        let change = delta::encode_with_held(old, new, base_id, created, held).unwrap();
        let packs =
            match change.wanted.iter().all(|wanted| self.objects.contains_key(&wanted.object)) {
                true => packs(&change.wanted, &self.objects),
                false => Vec::new(),
            };
        Delivery {
            release: self.release.clone(),
            key: BundleKey::of(
                format!("{base_id:?} {} {}", self.release.content, held.len()).as_bytes(),
            ),
            base: base_id,
            change: change.bytes,
            packs,
            objects: self.objects.clone(),
            cut_after: None,
            late_after: AtomicUsize::new(usize::MAX),
            before_pack: None,
            asked: Mutex::default(),
        }
    }
}

fn stream(entries: &[Entry]) -> impl Iterator<Item = Result<Entry, ManifestError>> {
    entries.iter().cloned().map(Ok)
}

/// Splits the needed objects into packs of one block; every second pack is raw.
fn packs(wanted: &[NewObjectRef], objects: &Objects) -> Vec<EncodedPack> {
    let mut pieces = Vec::new();
    for (ordinal, wanted) in (0u32..).zip(wanted) {
        let content = &objects[&wanted.object];
        for (index, bytes) in (0u64..).zip(content.chunks(PIECE_BYTES)) {
            let length = u32::try_from(bytes.len()).unwrap();
            pieces.push((Piece { ordinal, offset: index * PIECE_BYTES as u64, length }, bytes));
        }
    }
    let pack = |(index, pieces): (usize, &[(Piece, &[u8])])| {
        let (places, bytes): (Vec<Piece>, Vec<&[u8]>) = pieces.iter().copied().unzip();
        let level = if index % 2 == 0 { Level::Zstd(3) } else { Level::Raw };
        EncodedPack::of(&encode_block(&places, &bytes.concat(), &[], &[], level).unwrap())
    };
    pieces.chunks(BLOCK_PIECES).enumerate().map(pack).collect()
}

/// A pack to be sent.
#[derive(Clone)]
pub(crate) struct EncodedPack {
    pub(crate) id: PackId,
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl EncodedPack {
    pub(crate) fn of(block: &EncodedBlock) -> Self {
        let mut writer = PackWriter::new();
        writer.push(block).unwrap();
        let pack = writer.finish();
        Self { id: pack.id, bytes: Arc::new(pack.bytes) }
    }

    /// Returns a raw pack with these bytes as the given range of one object.
    pub(crate) fn raw(ordinal: u32, offset: u64, bytes: &[u8]) -> Self {
        let piece = Piece { ordinal, offset, length: u32::try_from(bytes.len()).unwrap() };
        Self::of(&encode_block(&[piece], bytes, &[], &[], Level::Raw).unwrap())
    }
}

impl OutgoingPack for EncodedPack {
    fn id(&self) -> PackId {
        self.id
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn bytes(&self) -> Result<Arc<Vec<u8>>, SourceError> {
        Ok(Arc::clone(&self.bytes))
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, SourceError> {
        Ok(Box::new(Cursor::new(self.bytes.to_vec())))
    }
}

/// A bundle and the request that belongs to it. A test may change any field.
pub(crate) struct Delivery {
    pub(crate) release: Release,
    pub(crate) key: BundleKey,
    pub(crate) base: Option<ManifestId>,
    pub(crate) change: Arc<[u8]>,
    pub(crate) packs: Vec<EncodedPack>,
    pub(crate) objects: Objects,
    /// Interrupts the transfer after this number of packs.
    pub(crate) cut_after: Option<usize>,
    /// After this number of packs the next one is late, once.
    pub(crate) late_after: AtomicUsize,
    /// Called before each pack is sent.
    pub(crate) before_pack: Option<Box<dyn Fn() + Send + Sync>>,
    /// The objects that the mirror requested one by one.
    pub(crate) asked: Mutex<Vec<ObjectId>>,
}

impl Delivery {
    pub(crate) fn stage(&self, mirror: &dyn Mirror) -> Result<TransferCounts, MirrorError> {
        let seen = Recorder::default();
        let request = StageRequest {
            release: &self.release,
            key: self.key,
            base: self.base,
            change: &self.change,
        };
        mirror.stage(&request, self, &seen)?;
        Ok(seen.seen())
    }

    /// Stages the bundle and activates it on top of `expected`.
    pub(crate) fn publish(
        &self,
        mirror: &dyn Mirror,
        expected: Option<ReleaseName>,
    ) -> TransferCounts {
        let seen = self.stage(mirror).expect("a valid bundle is staged");
        mirror.activate(self.release.name(), expected).expect("a staged release is activated");
        seen
    }
}

impl ObjectSource for Delivery {
    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SourceError> {
        self.asked.lock().unwrap().push(*id);
        open(&self.objects, id)
    }
}

fn open(objects: &Objects, id: &ObjectId) -> Result<Box<dyn Read + Send>, SourceError> {
    let content = objects.get(id).ok_or("the origin lacks this object")?;
    Ok(Box::new(Cursor::new(content.to_vec())))
}

impl PackSource for Delivery {
    fn packs(&self) -> Box<dyn PackCursor + '_> {
        Box::new(PackIterator { delivery: self, next: 0 })
    }
}

struct PackIterator<'a> {
    delivery: &'a Delivery,
    next: usize,
}

impl PackCursor for PackIterator<'_> {
    fn next(&mut self) -> Result<Option<Box<dyn OutgoingPack>>, SourceError> {
        if self.delivery.cut_after == Some(self.next) {
            return Err("the line broke".into());
        }
        if let Some(hook) = &self.delivery.before_pack {
            hook();
        }
        let pack = self.delivery.packs.get(self.next).cloned();
        self.next += 1;
        Ok(pack.map(|pack| Box::new(pack) as Box<dyn OutgoingPack>))
    }

    fn wait(&self, _: Duration) -> bool {
        let late = &self.delivery.late_after;
        late.compare_exchange(self.next, usize::MAX, Ordering::SeqCst, Ordering::SeqCst).is_err()
    }
}

/// The transfers that a stage reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TransferCounts {
    /// Packs that were sent.
    pub(crate) sent: u64,
    /// Packs that the mirror already had.
    pub(crate) held: u64,
    /// Objects that were sent whole.
    pub(crate) resent: u64,
}

/// Counts the transfers of a stage.
#[derive(Default)]
pub(crate) struct Recorder {
    sent: AtomicU64,
    held: AtomicU64,
    resent: AtomicU64,
}

impl Recorder {
    fn seen(&self) -> TransferCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        TransferCounts {
            sent: count(&self.sent),
            held: count(&self.held),
            resent: count(&self.resent),
        }
    }
}

impl Monitor for Recorder {
    fn event(&self, event: Event) {
        let (counter, by) = match event {
            Event::PackSent { .. } => (&self.sent, 1),
            Event::PackHeld { .. } => (&self.held, 1),
            Event::ObjectsResent { objects, .. } => (&self.resent, objects),
            _ => return,
        };
        counter.fetch_add(by, Ordering::SeqCst);
    }
}

/// A repair source with all content of these releases.
pub(crate) struct CompleteSource(pub(crate) Vec<Version>);

impl ObjectSource for CompleteSource {
    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SourceError> {
        let version = self.0.iter().find(|version| version.objects.contains_key(id));
        open(&version.ok_or("no release has this object")?.objects, id)
    }
}

impl FetchRecords for CompleteSource {
    fn release(&self, name: ReleaseName) -> Option<Release> {
        self.0.iter().find(|version| version.name() == name).map(|version| version.release.clone())
    }

    fn manifest(&self, id: &ManifestId) -> Option<Box<dyn Read + Send>> {
        let version = self.0.iter().find(|version| version.release.manifest == *id)?;
        Some(Box::new(Cursor::new(version.manifest.clone())))
    }
}
