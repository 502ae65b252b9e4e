//! Indexes of old objects, by name and by content, for finding objects similar to a new object.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::hash::ObjectId;
use crate::manifest::Entry;
use crate::manifest::delta::NewObjectRef;
use crate::pack::{Base, Sketch, stable_name};
use crate::tree_path::TreePath;

/// Maximum number of candidates listed for a chunk. A chunk that more candidates share does not
/// help to tell them apart.
const MAX_CANDIDATES_PER_CHUNK: usize = 32;

/// An entry in the base manifest.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) base: Base,
    pub(super) object: ObjectId,
    pub(super) path: TreePath,
    /// Whether the entry's path no longer exists.
    pub(super) is_removed: bool,
}

impl Candidate {
    pub(super) fn new(position: u64, entry: Entry, is_gone: bool) -> Option<Self> {
        let file = entry.file()?;
        let (object, base) = (file.object, Base { entry: position, size: file.size });
        (file.size > 0).then_some(Self { base, object, path: entry.path, is_removed: is_gone })
    }
}

/// Hashes of the stable name of a path, and of its directory and extension.
pub(super) fn name_keys(path: &TreePath) -> [u64; 2] {
    let hash = |parts: [&str; 3]| {
        let mut hasher = DefaultHasher::new();
        parts.hash(&mut hasher);
        hasher.finish()
    };
    let (head, tail) = stable_name(path);
    let directory = path.as_str().strip_suffix(path.name()).unwrap_or_default();
    [hash(["name", head, tail]), hash(["kind", directory, path.extension().unwrap_or_default()])]
}

/// Candidates, by the hashes of their paths (see [`name_keys`]).
pub(super) struct NameIndex(HashMap<u64, Vec<usize>>);

impl NameIndex {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let mut by_key: HashMap<u64, Vec<usize>> = HashMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            name_keys(&candidate.path)
                .into_iter()
                .for_each(|key| by_key.entry(key).or_default().push(at));
        }
        // Each new object of this kind is compared with all of these candidates, which would take
        // quadratic time in a directory of many thousands of files.
        by_key.values_mut().for_each(|places| places.truncate(1000));
        Self(by_key)
    }

    /// The candidate with this key and the most similar path or, among equally similar paths, the
    /// nearest size.
    pub(super) fn best(
        &self,
        key: u64,
        candidates: &[Candidate],
        wanted: &NewObjectRef,
        may_be: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let near = |at: &usize| {
            let candidate = &candidates[*at];
            let alike = common_bytes(candidate.path.as_str(), wanted.path.as_str());
            (
                alike,
                std::cmp::Reverse((
                    candidate.base.size.abs_diff(wanted.size),
                    candidate.base.entry,
                )),
            )
        };
        self.0.get(&key)?.iter().copied().filter(|at| may_be(*at)).max_by_key(near)
    }
}

/// The number of bytes that two paths share at the start and at the end.
fn common_bytes(a: &str, b: &str) -> usize {
    let equal = |(a, b): &(u8, u8)| a == b;
    let head = a.bytes().zip(b.bytes()).take_while(equal).count();
    let tail = a.bytes().rev().zip(b.bytes().rev()).take_while(equal).count();
    head + tail
}

/// The candidates that contain each chunk.
pub(super) struct SimilarityIndex(HashMap<u32, Vec<u32>>);

impl SimilarityIndex {
    pub(super) fn new(old: &[Sketch]) -> Self {
        let mut votes: HashMap<u32, Vec<u32>> = HashMap::new();
        for (at, sketch) in (0u32..).zip(old) {
            for hash in sketch.hashes() {
                let places = votes.entry(*hash).or_default();
                if places.len() < MAX_CANDIDATES_PER_CHUNK {
                    places.push(at);
                }
            }
        }
        Self(votes)
    }

    /// The candidate that shares the most of `sketch`, and a second candidate if it shares much of
    /// the rest.
    pub(super) fn best<'c>(
        &self,
        sketch: &Sketch,
        of: impl Fn(usize) -> (&'c Candidate, &'c NewObjectRef),
    ) -> Vec<usize> {
        let mut chosen = Vec::new();
        let mut left: Vec<u32> = sketch.hashes().to_vec();
        for min_share in [sketch.hashes().len() / 16, sketch.hashes().len() / 8] {
            let mut shares: HashMap<u32, usize> = HashMap::new();
            let voted = left.iter().filter_map(|hash| self.0.get(hash)).flatten();
            voted.for_each(|at| *shares.entry(*at).or_default() += 1);
            let rank = |(at, share): &(u32, usize)| {
                let (candidate, wanted) = of(*at as usize);
                let distance = candidate.base.size.abs_diff(wanted.size);
                (
                    *share,
                    common_bytes(candidate.path.as_str(), wanted.path.as_str()),
                    std::cmp::Reverse((distance, *at)),
                )
            };
            let Some((at, share)) = shares.into_iter().max_by_key(rank) else { break };
            if share < min_share.max(2) {
                break;
            }
            chosen.push(at as usize);
            // The second base is for the parts that the first does not cover.
            left.retain(|hash| !self.0.get(hash).is_some_and(|places| places.contains(&at)));
        }
        chosen
    }
}
