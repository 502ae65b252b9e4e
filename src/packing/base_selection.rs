//! Chooses the base of each new object.
//!
//! In order of preference, the base is the old object at the same path, the old object with the
//! most similar content, an old object with the same name apart from a bundler's hash, or, for a
//! small file, a neighbour. Considers only objects that the origin can read and that the mirror
//! has. The choice depends on nothing else, so an interrupted push makes the same packs again and
//! can resume.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::hash::ObjectId;
use crate::manifest::delta::NewObjectRef;
use crate::manifest::{Entry, ManifestError, Pair, Pairs};
use crate::monitor::Monitor;
use crate::origin::scratch::Entries;
use crate::pack::{Base, Piece, Sketch, hash_token};
use crate::packing::base_content::{BaseContent, BaseObject, ByteRange};
use crate::packing::content_source::ContentSource;
use crate::packing::parallel::{group_pieces, in_parallel};
use crate::packing::signed_bases::{SignatureMirrors, SignedBase, SignedBaseSearch};
use crate::packing::similarity::{Candidate, NameIndex, SimilarityIndex, name_keys};

/// Maximum number of old entries that are compared for similarity; bounds the memory.
const MAX_CANDIDATES: usize = 200_000;
/// Objects smaller than this have too few chunks for a sketch.
// The average chunk has 1 KiB.
const MIN_SKETCHED_BYTES: u64 = 2 << 10;
/// Objects larger than this are not read just for a sketch.
const MAX_SKETCHED_BYTES: u64 = 64 << 20;
/// New objects up to this size, in bytes, are encoded against a neighbour for want of a better
/// base.
const MAX_NEIGHBOUR_BYTES: u64 = 128 << 10;
/// Limit on the bytes of old content to sketch, as a multiple of the new content.
const SKETCH_FACTOR: u64 = 4;
/// How many bytes of old content may be sketched even if there is little new content.
const MIN_SKETCH_BUDGET: u64 = 64 << 20;

/// The number of new objects for each kind of base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BaseCounts {
    /// The old object at the same path.
    pub same_path: u64,
    /// The old object with the most similar content.
    pub like_content: u64,
    /// An old object with the same name, apart from a bundler's hash.
    pub like_name: u64,
    /// For a small file, a file of the same kind in the same directory.
    pub neighbour: u64,
    /// Ranges of an old object that only a mirror has, found through its block signature.
    pub signed: u64,
    /// No base.
    pub none: u64,
}

/// The bases of a bundle.
#[derive(Debug, Default)]
pub(crate) struct BaseSelection {
    /// The bases of each new object, by ordinal, with the best base first.
    by_ordinal: Vec<Vec<Base>>,
    /// Old objects by their position in the base manifest.
    objects: HashMap<u64, BaseObject>,
    pub(crate) counts: BaseCounts,
    /// The mirror whose signatures were used.
    pub(crate) signed_by: Option<String>,
    /// For new objects, by ordinal: an old object on a mirror, with the ranges of it that the new
    /// object contains.
    signed: HashMap<u32, SignedBase>,
    /// The sketches made of new objects, by ordinal.
    pub(crate) sketches: HashMap<u32, Sketch>,
    /// New objects with a hashed name. The name will probably change along with the content.
    hashed_names: HashSet<u32>,
}

impl BaseSelection {
    pub(crate) fn none(wanted: &[NewObjectRef]) -> Self {
        let counts = BaseCounts { none: wanted.len() as u64, ..BaseCounts::default() };
        Self {
            counts,
            by_ordinal: vec![Vec::new(); wanted.len()],
            hashed_names: objects_with_hashed_names(wanted),
            ..Self::default()
        }
    }

    /// The bases of a new object, with the best first.
    pub(crate) fn bases_of(&self, ordinal: u32) -> &[Base] {
        self.by_ordinal.get(ordinal as usize).map_or(&[], Vec::as_slice)
    }

    /// The old object on a mirror for a new object, with the ranges of it that the new object
    /// contains.
    pub(crate) fn signed(&self, ordinal: u32) -> Option<&SignedBase> {
        self.signed.get(&ordinal)
    }

    /// Whether a new object's name probably contains a hash of its content.
    pub(crate) fn has_hashed_name(&self, ordinal: u32) -> bool {
        self.hashed_names.contains(&ordinal)
    }

    /// The old object at a position in the base manifest.
    pub(crate) fn object(&self, entry: u64) -> Option<&BaseObject> {
        self.objects.get(&entry)
    }

    /// Adds to a key everything that determines the blocks.
    pub(crate) fn add_to_key(&self, key: &mut blake3::Hasher) {
        for (ordinal, bases) in self.by_ordinal.iter().enumerate() {
            for base in bases {
                key.update(&(ordinal as u64).to_le_bytes()).update(&base.entry.to_le_bytes());
            }
        }
        let mut signed: Vec<_> = self.signed.iter().collect();
        signed.sort_unstable_by_key(|(ordinal, _)| **ordinal);
        for (ordinal, base) in signed {
            key.update(&ordinal.to_le_bytes());
            base.add_to_key(key);
        }
    }
}

/// The ordinals of files that a bundler probably named: those with a hash in their name, and all
/// files in directories where most have one. The second rule exists because a hash of only letters
/// looks like a word.
fn objects_with_hashed_names(wanted: &[NewObjectRef]) -> HashSet<u32> {
    let mut directories: HashMap<Option<&str>, (usize, usize)> = HashMap::new();
    for path in wanted.iter().map(|wanted| &wanted.path) {
        let (hashed, all) = directories.entry(path.parent()).or_default();
        *hashed += usize::from(hash_token(path.name()).is_some());
        *all += 1;
    }
    let is_hashed = |wanted: &NewObjectRef| {
        let (hashed, all) = directories[&wanted.path.parent()];
        hashed * 2 >= all || hash_token(wanted.path.name()).is_some()
    };
    (0u32..)
        .zip(wanted)
        .filter(|(_, wanted)| is_hashed(wanted))
        .map(|(ordinal, _)| ordinal)
        .collect()
}

/// The inputs of a selection.
pub(crate) struct BaseSelector<'a> {
    pub(crate) wanted: &'a [NewObjectRef],
    pub(crate) base_content: &'a BaseContent,
    pub(crate) content_source: &'a ContentSource,
    /// Objects that must not be bases because they are damaged on the mirror.
    pub(crate) excluded_bases: &'a HashSet<ObjectId>,
    /// The mirrors that can be asked for signatures of the base.
    pub(crate) signature_mirrors: Option<SignatureMirrors<'a>>,
    pub(crate) jobs: usize,
    pub(crate) monitor: &'a dyn Monitor,
}

/// The result of comparing both manifests.
#[derive(Default)]
struct ManifestScan {
    /// The old object at the same path, by ordinal.
    same_path: Vec<Option<(Base, ObjectId)>>,
    candidates: Vec<Candidate>,
}

impl BaseSelector<'_> {
    /// Chooses the bases. `base` and `new` are the entries of the two manifests.
    pub(crate) fn run(
        &self,
        base: impl Fn() -> Result<Entries, ManifestError>,
        new: Entries,
    ) -> Result<BaseSelection, ManifestError> {
        let ManifestScan { same_path, mut candidates } = self.scan_manifests(base()?, new)?;
        let is_left =
            |ordinal: &usize| same_path[*ordinal].is_none() && self.wanted[*ordinal].size > 0;
        let mut left: Vec<usize> = (0..self.wanted.len()).filter(is_left).collect();
        // Every new object has an old object at its path, so the base need not be read again.
        if left.is_empty() {
            candidates.clear();
        } else {
            self.add_same_name_entries(&left, base()?, &mut candidates)?;
        }
        let at_paths = same_path.iter().flatten().map(|(base, object)| (*object, base.size));
        let others = candidates.iter().map(|candidate| (candidate.object, candidate.base.size));
        let found = self.base_content.find(&at_paths.chain(others).collect());
        let mut bases = BaseSelection::none(self.wanted);
        let mut unread = Vec::new();
        for (ordinal, same) in same_path.into_iter().enumerate() {
            let Some((base, object)) = same else { continue };
            match found.get(&object) {
                Some(object) => {
                    bases.by_ordinal[ordinal].push(base);
                    bases.objects.insert(base.entry, object.clone());
                    bases.counts.same_path += 1;
                }
                // The origin cannot read that object, so it looks for another base.
                None => {
                    left.push(ordinal);
                    unread.push((ordinal, base));
                }
            }
        }
        let (candidates, mirror_only): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|candidate| found.contains_key(&candidate.object));
        self.add_renamed(&left, &mirror_only, &mut unread);
        drop(mirror_only);
        // The order decides which candidates are sketched, so it must not depend on a hash table.
        left.sort_unstable();
        self.choose_similar(&left, &candidates, &found, &mut bases);
        unread.retain(|(ordinal, _)| bases.by_ordinal[*ordinal].is_empty());
        self.add_signed(&unread, &mut bases);
        let has_none = |(ordinal, of): &(u32, &Vec<Base>)| {
            of.is_empty() && !bases.signed.contains_key(ordinal)
        };
        bases.counts.none = (0..).zip(&bases.by_ordinal).filter(has_none).count() as u64;
        Ok(bases)
    }

    /// For each new object in `left` without an old object at its path: adds the old objects in
    /// `mirror_only` that have the same stable name and are in the same directory. The origin
    /// cannot read the objects in `mirror_only`.
    fn add_renamed(
        &self,
        left: &[usize],
        mirror_only: &[Candidate],
        unread: &mut Vec<(usize, Base)>,
    ) {
        if self.signature_mirrors.is_none() || mirror_only.is_empty() {
            return;
        }
        let have: HashSet<usize> = unread.iter().map(|(ordinal, _)| *ordinal).collect();
        let names = NameIndex::new(mirror_only);
        for ordinal in left.iter().filter(|ordinal| !have.contains(ordinal)) {
            let wanted = &self.wanted[*ordinal];
            let may_be = |at: usize| {
                let Candidate { base, object, path, .. } = &mirror_only[at];
                path.parent() == wanted.path.parent() && self.may_be_base(wanted.size, base, object)
            };
            let [name, _] = name_keys(&wanted.path);
            let best = names.best(name, mirror_only, wanted, may_be);
            unread.extend(best.map(|at| (*ordinal, mirror_only[at].base)));
        }
        unread.sort_unstable_by_key(|(ordinal, _)| *ordinal);
    }

    /// Asks a mirror for the signatures of the bases in `unread`, which the origin cannot read, and
    /// adds the ranges that the new objects contain.
    fn add_signed(&self, unread: &[(usize, Base)], bases: &mut BaseSelection) {
        let Some(signers) = &self.signature_mirrors else { return };
        let asked = SignedBaseSearch {
            wanted: self.wanted,
            content_source: self.content_source,
            signature_mirrors: signers,
            jobs: self.jobs,
            monitor: self.monitor,
        };
        let Some((mirror, found)) = asked.find(unread) else { return };
        bases.counts.signed = found.len() as u64;
        bases.signed_by = (!found.is_empty()).then_some(mirror);
        bases.signed = found;
    }

    fn may_be_base(&self, new_bytes: u64, base: &Base, object: &ObjectId) -> bool {
        // Reading a large base for little new content costs more than it saves.
        // The sum cannot overflow: sizes are below 2^53.
        base.size > 0
            && base.size <= new_bytes.saturating_mul(16) + (1 << 20)
            && !self.excluded_bases.contains(object)
    }

    /// Finds the old object at the path of each new object, and the old paths that no longer exist.
    fn scan_manifests(&self, base: Entries, new: Entries) -> Result<ManifestScan, ManifestError> {
        let mut scan =
            ManifestScan { same_path: vec![None; self.wanted.len()], candidates: Vec::new() };
        let mut next = 0;
        let mut position = 0;
        for pair in Pairs::new(base, new) {
            let (old, new) = match pair? {
                Pair::Old(old) => (Some(old), None),
                Pair::New(new) => (None, Some(new)),
                Pair::Both(old, new) => (Some(old), Some(new)),
            };
            if let Some(new) = &new
                // `wanted` is in the order of the new manifest, so one pass finds every object.
                && self.wanted.get(next).is_some_and(|wanted| wanted.path == new.path)
            {
                let same = old.as_ref().and_then(Entry::file);
                let same =
                    same.map(|file| (Base { entry: position, size: file.size }, file.object));
                let size = self.wanted[next].size;
                scan.same_path[next] =
                    same.filter(|(base, object)| self.may_be_base(size, base, object));
                next += 1;
            }
            let is_gone =
                |old: &Entry| old.is_live() && new.as_ref().is_none_or(|new| !new.is_live());
            if let Some(old) = old {
                // Files whose paths are gone were most likely renamed.
                if is_gone(&old) && scan.candidates.len() < MAX_CANDIDATES {
                    scan.candidates.extend(Candidate::new(position, old, true));
                }
                position += 1;
            }
        }
        Ok(scan)
    }

    /// Adds bases with the same names or kinds as the objects in `left`.
    fn add_same_name_entries(
        &self,
        left: &[usize],
        base: Entries,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), ManifestError> {
        // Compares hashes of names, because the base may have millions of entries. A collision
        // merely adds a candidate.
        let keys: HashSet<u64> =
            left.iter().flat_map(|ordinal| name_keys(&self.wanted[*ordinal].path)).collect();
        let known: HashSet<u64> = candidates.iter().map(|candidate| candidate.base.entry).collect();
        for (position, entry) in (0u64..).zip(base) {
            let entry = entry?;
            let is_alike = name_keys(&entry.path).iter().any(|key| keys.contains(key));
            if is_alike && !known.contains(&position) && candidates.len() < MAX_CANDIDATES {
                candidates.extend(Candidate::new(position, entry, false));
            }
        }
        Ok(())
    }

    fn choose_similar(
        &self,
        left: &[usize],
        candidates: &[Candidate],
        found: &HashMap<ObjectId, BaseObject>,
        bases: &mut BaseSelection,
    ) {
        if left.is_empty() || candidates.is_empty() {
            return;
        }
        let sketches = self.sketch(left, candidates, found);
        let votes = SimilarityIndex::new(&sketches.old);
        let names = NameIndex::new(candidates);
        for (index, ordinal) in left.iter().enumerate() {
            let wanted = &self.wanted[*ordinal];
            let may_be = |at: &usize| {
                let candidate = &candidates[*at];
                self.may_be_base(wanted.size, &candidate.base, &candidate.object)
            };
            let alike = votes.best(&sketches.new[index], |at| (&candidates[at], wanted));
            let [name, kind] = name_keys(&wanted.path);
            let mut chosen: Vec<usize> = alike.into_iter().filter(|at| may_be(at)).collect();
            let counts = &mut bases.counts;
            if !chosen.is_empty() {
                counts.like_content += 1;
            } else if let Some(at) = names.best(name, candidates, wanted, |at| may_be(&at)) {
                chosen.push(at);
                counts.like_name += 1;
            } else if wanted.size <= MAX_NEIGHBOUR_BYTES
                && let Some(at) = names.best(kind, candidates, wanted, |at| {
                    may_be(&at) && candidates[at].base.size <= MAX_NEIGHBOUR_BYTES
                })
            {
                chosen.push(at);
                counts.neighbour += 1;
            }
            for at in chosen {
                let candidate = &candidates[at];
                bases.by_ordinal[*ordinal].push(candidate.base);
                bases.objects.insert(candidate.base.entry, found[&candidate.object].clone());
            }
        }
        let ordinals =
            left.iter().map(|ordinal| u32::try_from(*ordinal).expect("ordinals have 32 bits"));
        bases.sketches =
            ordinals.zip(sketches.new).filter(|(_, sketch)| !sketch.hashes().is_empty()).collect();
    }

    /// Sketches the new objects in `left` and the candidates, in parallel.
    fn sketch(
        &self,
        left: &[usize],
        candidates: &[Candidate],
        found: &HashMap<ObjectId, BaseObject>,
    ) -> Sketches {
        let new_bytes: u64 = left
            .iter()
            .map(|ordinal| self.wanted[*ordinal].size)
            .filter(|size| is_sketched(*size))
            .sum();
        let mut room = new_bytes.saturating_mul(SKETCH_FACTOR).max(MIN_SKETCH_BUDGET);
        // Sequential, so that the choice does not depend on the timing of threads.
        let fits: Vec<bool> = candidates
            .iter()
            .map(|candidate| {
                let is_made = found[&candidate.object].sketch().is_some();
                let cost = if is_made { 0 } else { candidate.base.size };
                // An entry that is still at its path is rarely a good base for another entry, so it
                // is not read just for a sketch.
                let is_likely = is_made || candidate.is_removed;
                let fits = is_likely && is_sketched(candidate.base.size) && cost <= room;
                room -= if fits { cost } else { 0 };
                fits
            })
            .collect();
        let new = self.sketch_new(left);
        // Reading in storage order is fastest.
        let mut order: Vec<usize> = (0..candidates.len()).filter(|index| fits[*index]).collect();
        order.sort_by_cached_key(|index| found[&candidates[*index].object].storage_order());
        let made = in_parallel(order.len(), self.jobs, |index, buffer| {
            let candidate = &candidates[order[index]];
            self.sketch_old(&found[&candidate.object], candidate.base.size, buffer)
        });
        let mut old = vec![Sketch::default(); candidates.len()];
        order.into_iter().zip(made).for_each(|(index, sketch)| old[index] = sketch);
        Sketches { new, old }
    }

    /// The sketches of the objects in `left` that are small enough, by ordinal. Content that must
    /// be read from mirrors is requested in batches.
    fn sketch_new(&self, left: &[usize]) -> Vec<Sketch> {
        let piece = |ordinal: usize| Piece {
            ordinal: u32::try_from(ordinal).expect("ordinals have 32 bits"),
            offset: 0,
            length: u32::try_from(self.wanted[ordinal].size).expect("what is sketched is small"),
        };
        let small: Vec<usize> =
            (0..left.len()).filter(|at| is_sketched(self.wanted[left[*at]].size)).collect();
        let groups = group_pieces(small.iter().map(|at| (*at, piece(left[*at]))));
        let made = in_parallel(groups.len(), self.jobs, |index, buffer| {
            self.sketch_group(&groups[index], buffer)
        });
        let mut sketches = vec![Sketch::default(); left.len()];
        for (at, sketch) in
            groups.iter().flatten().map(|(at, _)| *at).zip(made.into_iter().flatten())
        {
            sketches[at] = sketch;
        }
        sketches
    }

    fn sketch_group(&self, group: &[(usize, Piece)], content: &mut Vec<u8>) -> Vec<Sketch> {
        let pieces: Vec<Piece> = group.iter().map(|(_, piece)| *piece).collect();
        // If content cannot be read, the error is reported when the content is sent.
        let fetched = self.content_source.fetch(self.wanted, &pieces, self.monitor).ok();
        let sketch = |piece: &Piece| {
            content.clear();
            fetched.as_ref()?.read(piece, content).ok().map(|()| Sketch::of(content))
        };
        pieces.iter().map(sketch).map(Option::unwrap_or_default).collect()
    }

    fn sketch_old(&self, object: &BaseObject, size: u64, content: &mut Vec<u8>) -> Sketch {
        // The sketch was made when the object was new, so its content need not be decoded now.
        if let Some(sketch) = object.sketch() {
            return sketch.clone();
        }
        let length = u32::try_from(size).expect("what is sketched is small");
        if self.base_content.read(object, ByteRange { offset: 0, length }, content) {
            Sketch::of(content)
        } else {
            Sketch::default()
        }
    }
}

/// Whether content of this size is sketched.
pub(crate) fn is_sketched(bytes: u64) -> bool {
    (MIN_SKETCHED_BYTES..=MAX_SKETCHED_BYTES).contains(&bytes)
}

struct Sketches {
    new: Vec<Sketch>,
    old: Vec<Sketch>,
}
