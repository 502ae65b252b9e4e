//! Tests of the pack builder, from the scan of a tree to the decoded content of its packs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use crate::cache::ContentCache;
use crate::hash::HistoryId;
use crate::manifest::Entry;
use crate::manifest::delta;
use crate::mirror::PackSource as _;
use crate::monitor::SilentMonitor;
use crate::origin::scratch::{Entries, Scratch};
use crate::pack::PackReader;
use crate::packing::base_selection::BaseSelector;
use crate::packing::mirror_sources::MirrorSources;
use crate::packing::pack_builder::*;
use crate::packing::source_entries::SourceEntries;
use crate::scan::{Root, ScanOptions, Tree};
use crate::tree_path::Site;

/// Contents by path.
type Files = BTreeMap<String, Vec<u8>>;

/// A tree on the disk, scanned.
fn scan(dir: &Path, files: &Files) -> ContentSource {
    std::fs::create_dir(dir).unwrap();
    for (path, content) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let roots = [Root { path: dir.to_owned(), tree_prefix: None }];
    let tree = Tree::scan(&roots, &ScanOptions::default(), &SilentMonitor).unwrap();
    ContentSource::new(SourceEntries::Tree(Arc::new(tree)), MirrorSources::default(), Vec::new())
}

fn wanted(base: &[Entry], new: &[Entry]) -> Vec<NewObjectRef> {
    delta::encode(|| Ok(stream(base)), || Ok(stream(new)), None, 1).unwrap().wanted
}

fn stream(entries: &[Entry]) -> Entries {
    let entries = entries.to_vec();
    Box::new(entries.into_iter().map(Ok))
}

struct Space {
    dir: tempfile::TempDir,
    scratch: Scratch,
    queues: std::cell::Cell<usize>,
}

impl Space {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create_in(&dir.path().join("cache")).unwrap();
        scratch.open_site(&Site::default(), HistoryId::from_bytes([7; 16])).unwrap();
        Self { dir, scratch, queues: std::cell::Cell::new(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn cache(&self) -> ContentCache {
        self.scratch.open_content_cache(&SilentMonitor).unwrap()
    }

    /// The packs of a job.
    fn packs(&self, job: &PackInput<'_>, cache_writer: Option<&CacheWriter>) -> Vec<Arc<Vec<u8>>> {
        let queue = PackQueue::new(
            self.queues.replace(self.queues.get() + 1),
            job.content_source,
            &self.scratch,
            &SilentMonitor,
        )
        .unwrap();
        let receiver = queue.subscribe();
        run(job, cache_writer, &queue, &SilentMonitor).unwrap();
        let mut packs = receiver.packs();
        std::iter::from_fn(|| packs.next().unwrap().map(|pack| pack.bytes().unwrap())).collect()
    }
}

/// The contents that the packs decode to, by ordinal. Every byte of a content must occur exactly
/// once.
fn decode(
    packs: &[Arc<Vec<u8>>],
    wanted: &[NewObjectRef],
    base: &[Entry],
    old: &Files,
) -> Vec<Vec<u8>> {
    let sizes = wanted.iter().map(|wanted| usize::try_from(wanted.size).unwrap());
    let mut contents: Vec<Vec<Option<u8>>> = sizes.map(|size| vec![None; size]).collect();
    for pack in packs {
        for block in PackReader::open(pack).unwrap().blocks() {
            let block = block.unwrap();
            let mut prefix = Vec::new();
            for BaseRange { entry, offset, length } in block.bases() {
                let content = &old[base[usize::try_from(*entry).unwrap()].path.as_str()];
                prefix.extend_from_slice(
                    &content[usize::try_from(*offset).unwrap()..][..*length as usize],
                );
            }
            let decoded = block.decode(&prefix).unwrap();
            let mut bytes = decoded.iter();
            for Piece { ordinal, offset, length } in block.pieces() {
                let place = &mut contents[*ordinal as usize][usize::try_from(*offset).unwrap()..]
                    [..*length as usize];
                for (to, byte) in place.iter_mut().zip(bytes.by_ref()) {
                    assert_eq!(to.replace(*byte), None, "a byte comes twice");
                }
            }
        }
    }
    contents
        .into_iter()
        .map(|content| content.into_iter().map(|byte| byte.expect("every byte comes")).collect())
        .collect()
}

/// What happens to a file between one tree and the next.
#[derive(Debug, Clone)]
enum Fate {
    Stays,
    Goes,
    Edited(prop::sample::Index, Vec<u8>),
    Moved(u32),
    /// The file gets a bundler's name and is edited.
    Hashed(u32, Vec<u8>),
    /// The content is repeated.
    Doubled,
    Replaced(Vec<u8>),
}

fn fate() -> impl Strategy<Value = Fate> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..50);
    prop_oneof![
        Just(Fate::Stays),
        Just(Fate::Goes),
        (any::<prop::sample::Index>(), bytes()).prop_map(|(at, bytes)| Fate::Edited(at, bytes)),
        any::<u32>().prop_map(Fate::Moved),
        (any::<u32>(), bytes()).prop_map(|(hash, bytes)| Fate::Hashed(hash, bytes)),
        Just(Fate::Doubled),
        bytes().prop_map(Fate::Replaced),
    ]
}

/// A tree, and the tree after the changes.
fn pair() -> impl Strategy<Value = (Files, Files)> {
    let content = (any::<u64>(), 0usize..12_000).prop_map(|(seed, size)| {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    });
    prop::collection::vec((content, fate()), 1..14).prop_map(|files| {
        let (mut old, mut new) = (Files::new(), Files::new());
        for (number, (content, fate)) in files.into_iter().enumerate() {
            let path = format!("d{}/f{number}.js", number % 3);
            let (path_of_new, changed) = match fate {
                Fate::Stays => (path.clone(), content.clone()),
                Fate::Goes => {
                    old.insert(path, content);
                    continue;
                }
                Fate::Edited(at, bytes) => {
                    let at = at.index(content.len() + 1);
                    (path.clone(), [&content[..at], &bytes, &content[at..]].concat())
                }
                Fate::Moved(to) => (format!("moved/{to}.js"), content.clone()),
                Fate::Hashed(hash, bytes) => {
                    (format!("d0/f{number}.1{hash:07x}.js"), [&bytes[..], &content].concat())
                }
                Fate::Doubled => (path.clone(), content.repeat(2)),
                Fate::Replaced(bytes) => (path.clone(), bytes),
            };
            old.insert(path, content);
            new.insert(path_of_new, changed);
        }
        (old, new)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn bundle_decodes_to_exactly_the_new_objects(
        (old, new) in pair(),
        has_cache in any::<bool>(),
        level in 1i32..=9,
    ) {
        let space = Space::new();
        let first = scan(&space.path("first"), &old);
        let mut second = scan(&space.path("second"), &new);
        let [base, next] = [&first, &second]
            .map(|content_source| content_source.source_entries.entries().collect::<Vec<Entry>>());
        let everything = wanted(&[], &base);
        let bases = BaseSelection::none(&everything);
        let level = Level::Zstd(level);
        let job = PackInput {
            wanted: &everything,
            bundle: BundleKey::from_bytes([0; 32]),
            mirrors: Vec::new(),
            content_source: &first,
            bases: &bases,
            is_cached: true,
            level,
            jobs: 2,
        };
        let cache = space.cache();
        let cache_writer = CacheWriter::begin(&cache, 1, u64::MAX).unwrap().unwrap();
        let packs = space.packs(&job, Some(&cache_writer));
        cache_writer.finish().unwrap();
        let decoded = decode(&packs, &everything, &[], &Files::new());
        for (wanted, content) in everything.iter().zip(&decoded) {
            prop_assert_eq!(content, &old[wanted.path.as_str()]);
        }

        if has_cache {
            second = second.with_base_content(Some(space.cache()));
        }
        let wanted = wanted(&base, &next);
        let excluded_bases = std::collections::HashSet::new();
        let search = BaseSelector {
            signature_mirrors: None,
            wanted: &wanted,
            base_content: &second.base_content,
            content_source: &second,
            excluded_bases: &excluded_bases,
            jobs: 2,
            monitor: &SilentMonitor,
        };
        let bases = search.run(|| Ok(stream(&base)), stream(&next)).unwrap();
        let job = PackInput {
            wanted: &wanted,
            bundle: BundleKey::from_bytes([0; 32]),
            mirrors: Vec::new(),
            content_source: &second,
            bases: &bases,
            is_cached: false,
            level,
            jobs: 2,
        };
        let decoded = decode(&space.packs(&job, None), &wanted, &base, &old);
        for (wanted, content) in wanted.iter().zip(&decoded) {
            prop_assert_eq!(ObjectId::of(content), wanted.object);
            prop_assert_eq!(content, &new[wanted.path.as_str()]);
        }
        // All new content is sent, and no old content is sent.
        let kept: std::collections::HashSet<&Vec<u8>> = old.values().collect();
        let lacking: std::collections::HashSet<&Vec<u8>> =
            new.values().filter(|content| !kept.contains(content)).collect();
        prop_assert_eq!(decoded.iter().collect::<std::collections::HashSet<_>>(), lacking);
    }
}
