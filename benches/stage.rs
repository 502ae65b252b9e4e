//! Time for a directory mirror to stage a change of 1 % of 100,000 small files: packs, slot and
//! syncs of the disk.

use std::io::{Cursor, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use headwater::hash::{BundleKey, HistoryId, ManifestId, ObjectId, PackId};
use headwater::manifest::{Entry, EntryKind, FileEntry, ManifestError, ManifestWriter, delta};
use headwater::mirror::{
    DirectoryMirror, Mirror, MirrorIdentity, ObjectSource, OutgoingPack, PackCursor, PackSource,
    SourceError, StageRequest,
};
use headwater::monitor::SilentMonitor;
use headwater::pack::{Level, PackWriter, Piece, encode_block};
use headwater::release::Release;
use headwater::tree_path::{Site, TreePath};

const FILES: u32 = 100_000;
/// One file in so many changes with each release.
const CHANGED: u32 = 100;
const CREATED: u64 = 1_763_800_000;

fn content(index: u32, build: u64) -> Vec<u8> {
    format!("<p>page {index} of build {build}</p>\n").repeat(30).into_bytes()
}

struct Build {
    release: Release,
    entries: Vec<Entry>,
    /// The release in which each file last changed.
    builds: Vec<u64>,
}

impl Build {
    fn new(sequence: u64, previous: Option<&Self>) -> Self {
        let turn = |index: u32| u64::from(index % CHANGED) == sequence % u64::from(CHANGED);
        let build = |index: u32| match previous {
            Some(previous) if !turn(index) => previous.builds[index as usize],
            _ => sequence,
        };
        let builds: Vec<u64> = (0..FILES).map(build).collect();
        let entry = |(index, build): (u32, &u64)| {
            let path = format!(
                "section-{:02}/part-{:03}/page-{:05}.html",
                index / 10_000,
                index / 100 % 100,
                index
            );
            let bytes = content(index, *build);
            let object = ObjectId::of(&bytes);
            let file =
                FileEntry { object, size: bytes.len() as u64, mtime: CREATED + build, exec: false };
            Entry {
                path: TreePath::new(&path).expect("a valid path"),
                kind: EntryKind::File(file),
                until: None,
            }
        };
        let entries: Vec<Entry> = (0..).zip(&builds).map(entry).collect();
        let mut writer = ManifestWriter::new(std::io::sink());
        entries.iter().for_each(|entry| writer.push(entry).expect("entries in order"));
        let totals = writer.finish().expect("a sink takes it").1;
        let site = Site::new("bench").expect("a valid site");
        let mut release = Release::new(
            site,
            HistoryId::from_bytes([1; 16]),
            sequence,
            totals.manifest,
            totals.content,
        );
        release.created = CREATED + sequence;
        release.entries = totals.entries;
        release.bytes = totals.bytes;
        Self { release, entries, builds }
    }

    fn onto(&self, base: Option<&Self>) -> Sealed {
        let old = base.map_or(&[][..], |base| &base.entries);
        let base = base.map(|base| base.release.manifest);
        let change = delta::encode(
            || Ok(stream(old)),
            || Ok(stream(&self.entries)),
            base,
            self.release.created,
        );
        let change = change.expect("two sorted lists");
        let mut packs = Packs { writer: PackWriter::new(), sealed: Vec::new() };
        for (number, wanted) in (0u32..).step_by(1000).zip(change.wanted.chunks(1000)) {
            let contents: Vec<Vec<u8>> =
                wanted.iter().map(|wanted| self.content(&wanted.path)).collect();
            let piece = |(ordinal, bytes): (u32, &Vec<u8>)| Piece {
                ordinal,
                offset: 0,
                length: u32::try_from(bytes.len()).expect("pages are small"),
            };
            let pieces: Vec<Piece> = (number..).zip(&contents).map(piece).collect();
            packs.push(&pieces, &contents.concat());
        }
        Sealed { base, change: change.bytes, packs: packs.finish() }
    }

    fn content(&self, path: &TreePath) -> Vec<u8> {
        let index = self
            .entries
            .binary_search_by(|entry| entry.path.cmp(path))
            .expect("a path of this build");
        content(u32::try_from(index).expect("fewer than 2^32 files"), self.builds[index])
    }
}

fn stream(entries: &[Entry]) -> impl Iterator<Item = Result<Entry, ManifestError>> {
    entries.iter().cloned().map(Ok)
}

struct Packs {
    writer: PackWriter,
    sealed: Vec<SealedPack>,
}

impl Packs {
    fn push(&mut self, pieces: &[Piece], content: &[u8]) {
        // Raw, as to a mirror on this machine.
        let block = encode_block(pieces, content, &[], &[], Level::Raw).expect("pieces that fit");
        self.writer.push(&block).expect("a pack that is not full has room");
        if self.writer.is_full() {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let pack = std::mem::take(&mut self.writer).finish();
        self.sealed.push(SealedPack { id: pack.id, bytes: Arc::new(pack.bytes) });
    }

    fn finish(mut self) -> Vec<SealedPack> {
        if !self.writer.is_empty() {
            self.seal();
        }
        self.sealed
    }
}

#[derive(Clone)]
struct SealedPack {
    id: PackId,
    bytes: Arc<Vec<u8>>,
}

impl OutgoingPack for SealedPack {
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

struct Sealed {
    base: Option<ManifestId>,
    change: Arc<[u8]>,
    packs: Vec<SealedPack>,
}

impl ObjectSource for Sealed {
    fn object(&self, _: &ObjectId) -> Result<Box<dyn Read + Send>, SourceError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }
}

impl PackSource for Sealed {
    fn packs(&self) -> Box<dyn PackCursor + '_> {
        Box::new(Walk(self.packs.iter()))
    }
}

struct Walk<'a>(std::slice::Iter<'a, SealedPack>);

impl PackCursor for Walk<'_> {
    fn next(&mut self) -> Result<Option<Box<dyn OutgoingPack>>, SourceError> {
        Ok(self.0.next().map(|pack| Box::new(pack.clone()) as Box<dyn OutgoingPack>))
    }

    fn wait(&self, _: Duration) -> bool {
        true
    }
}

fn directory(path: &Path) -> DirectoryMirror {
    let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let wait = Duration::from_secs(10);
    let identity =
        MirrorIdentity { name: "bench".into(), location: path.display().to_string(), site: None };
    DirectoryMirror::new(identity, path.to_owned(), wait, jobs)
}

fn stage_onto(mirror: &DirectoryMirror, build: &Build, sealed: &Sealed) {
    let key = BundleKey::of(build.release.content.as_bytes());
    let request =
        StageRequest { release: &build.release, key, base: sealed.base, change: &sealed.change };
    mirror.stage(&request, sealed, &SilentMonitor).expect("a sound bundle");
}

fn stage(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("there is a temporary directory");
    let mirror = directory(&dir.path().join("mirror"));
    let mut current = Build::new(1, None);
    stage_onto(&mirror, &current, &current.onto(None));
    mirror.activate(current.release.name(), None).expect("staged");
    mirror.clean_up(3).expect("current");

    let mut group = criterion.benchmark_group("1 % of 100,000 files");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(10));
    group.bench_function("stage", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let next = Build::new(current.release.sequence + 1, Some(&current));
                let sealed = next.onto(Some(&current));
                let began = Instant::now();
                stage_onto(&mirror, &next, &sealed);
                spent += began.elapsed();
                mirror.activate(next.release.name(), Some(current.release.name())).expect("staged");
                mirror.clean_up(3).expect("current");
                current = next;
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, stage);
criterion_main!(benches);
