//! Bases that only a mirror has. The mirror sends the hashes of the blocks of these bases, and the
//! origin searches the new content for ranges of the bases. The bytes of the ranges found are part
//! of the new content, so the origin can encode a block against them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::hash::ManifestId;
use crate::manifest::delta::NewObjectRef;
use crate::mirror::{ErrorKind, Mirror, SignatureRequest};
use crate::monitor::{Event, Monitor};
use crate::pack::{
    Base, MAX_CONTENT_BYTES, MatchedRange, Piece, Signature, SignatureKey, SignatureSearch,
    SignatureShape, size_bits,
};
use crate::packing::content_source::ContentSource;
use crate::packing::parallel::{group_pieces, in_parallel};
use crate::text::error_chain;

/// Content that is sent whole takes at least about its size divided by this number.
const ASSUMED_COMPRESSION_RATIO: u64 = 4;
/// The number of bytes that each object adds to a request.
const REQUEST_BYTES_PER_OBJECT: u64 = 3;
/// Minimum saving, in bytes, that justifies a round trip.
const MIN_SAVED_BYTES: u64 = 16 << 10;
/// Maximum length of one object's signature, in bytes; bounds the memory.
const MAX_SIGNATURE_BYTES: u64 = 16 << 20;
/// Maximum total length, in bytes, of the signatures in memory.
const MAX_BATCH_BYTES: u64 = 32 << 20;

/// The ranges of an old object that a new object contains.
#[derive(Debug, Clone)]
pub(crate) struct SignedBase {
    /// Position of the old object among the entries in the base manifest.
    entry: u64,
    /// In ascending order, at least one.
    ranges: Vec<MatchedRange>,
}

impl SignedBase {
    /// The total length of the ranges.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.length).sum()
    }

    /// The position of the old object, and the ranges.
    pub(crate) fn matches(&self) -> (u64, &[MatchedRange]) {
        (self.entry, &self.ranges)
    }

    /// Adds to a key everything that determines the blocks.
    pub(crate) fn add_to_key(&self, key: &mut blake3::Hasher) {
        key.update(&self.entry.to_le_bytes());
        key.update(&(self.ranges.len() as u64).to_le_bytes());
        for MatchedRange { base, new, length } in &self.ranges {
            for number in [base, new, length] {
                key.update(&number.to_le_bytes());
            }
        }
    }
}

/// The mirrors that have the base manifest. The search asks one of them.
#[derive(Debug)]
pub(crate) struct SignatureMirrors<'a> {
    pub(crate) base: ManifestId,
    pub(crate) mirrors: Vec<&'a Arc<dyn Mirror>>,
}

/// The inputs of a search.
pub(crate) struct SignedBaseSearch<'a> {
    pub(crate) wanted: &'a [NewObjectRef],
    pub(crate) content_source: &'a ContentSource,
    pub(crate) signature_mirrors: &'a SignatureMirrors<'a>,
    pub(crate) jobs: usize,
    pub(crate) monitor: &'a dyn Monitor,
}

/// A new object, and the old object whose content is searched for in the new object.
#[derive(Debug, Clone, Copy)]
struct SearchPair {
    ordinal: usize,
    base: Base,
    /// As sent in the request: determined by the largest new object with this base.
    new_bits: u8,
}

impl SearchPair {
    fn shape(&self) -> SignatureShape {
        SignatureShape::new(self.base.size, self.new_bits)
    }
}

impl SignedBaseSearch<'_> {
    /// Asks a mirror for the signatures of the bases in `unread`, each given with the ordinal of a
    /// new object. Returns the mirror's name and the ranges found, by ordinal. `None` if asking is
    /// not worthwhile, or if no mirror responds.
    pub(crate) fn find(
        &self,
        unread: &[(usize, Base)],
    ) -> Option<(String, HashMap<u32, SignedBase>)> {
        let pairs = self.worthwhile_pairs(unread);
        if pairs.is_empty() {
            return None;
        }
        let key = self.key(&pairs);
        self.signature_mirrors.mirrors.iter().find_map(|mirror| {
            let (mut found, mut rest) = (HashMap::new(), &pairs[..]);
            while !rest.is_empty() {
                let batch;
                (batch, rest) = rest.split_at(batch_len(rest));
                let signatures = self.request_signatures(mirror.as_ref(), batch, key)?;
                found.extend(self.search(batch, &signatures, key));
            }
            Some((mirror.name().to_owned(), found))
        })
    }

    /// The objects whose signatures are probably much shorter than what they save; none if they
    /// save too little in total for a round trip.
    fn worthwhile_pairs(&self, unread: &[(usize, Base)]) -> Vec<SearchPair> {
        let mut bits: HashMap<u64, u8> = HashMap::new();
        for (ordinal, base) in unread {
            let max_bits = bits.entry(base.entry).or_default();
            *max_bits = size_bits(self.wanted[*ordinal].size).max(*max_bits);
        }
        let mut saved = 0;
        let mut pairs: Vec<SearchPair> = Vec::new();
        for (ordinal, base) in unread {
            let wanted = &self.wanted[*ordinal];
            let pair = SearchPair { ordinal: *ordinal, base: *base, new_bits: bits[&base.entry] };
            let (whole, cost) = (
                wanted.size / ASSUMED_COMPRESSION_RATIO,
                pair.shape().bytes() + REQUEST_BYTES_PER_OBJECT,
            );
            if cost < whole / 2
                && cost <= MAX_SIGNATURE_BYTES
                && self.content_source.is_in_tree(wanted)
            {
                saved += whole - cost;
                pairs.push(pair);
            }
        }
        if saved < MIN_SAVED_BYTES {
            pairs.clear();
        }
        pairs
    }

    /// The key of the hashes. It is the same for the same push, so that the same ranges are found
    /// again after an interruption. An author who can foresee it can craft content that matches
    /// wrongly, but then its block fails on the mirror, and the content is sent whole.
    fn key(&self, pairs: &[SearchPair]) -> SignatureKey {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"headwater signatures 1\n").update(self.signature_mirrors.base.as_bytes());
        for pair in pairs {
            hasher.update(self.wanted[pair.ordinal].object.as_bytes());
            hasher.update(&pair.base.entry.to_le_bytes());
        }
        let mut key = [0; SignatureKey::BYTES];
        hasher.finalize_xof().fill(&mut key);
        SignatureKey::from_bytes(key)
    }

    /// The signatures of the bases in `pairs` that the mirror has, by position. `None` if it does
    /// not respond; then another mirror is asked, or everything is sent whole.
    fn request_signatures(
        &self,
        mirror: &dyn Mirror,
        pairs: &[SearchPair],
        key: SignatureKey,
    ) -> Option<HashMap<u64, Signature>> {
        // Sorted, with each base once.
        let bases: BTreeMap<u64, &SearchPair> =
            pairs.iter().map(|pair| (pair.base.entry, pair)).collect();
        let asked = bases.iter().map(|(entry, pair)| (*entry, pair.new_bits)).collect();
        let sizes: Vec<u64> = bases.values().map(|pair| pair.base.size).collect();
        let question = SignatureRequest { base: self.signature_mirrors.base, key, files: asked };
        match mirror.signatures(&question, &sizes, self.monitor) {
            Ok(signatures) => {
                let had = bases.into_keys().zip(signatures);
                Some(had.filter_map(|(entry, signature)| Some((entry, signature?))).collect())
            }
            Err(error) => {
                // Staging reports these errors, and a plan needs no right to push.
                if !matches!(
                    error.kind(),
                    ErrorKind::Cancelled | ErrorKind::Forbidden | ErrorKind::Unauthorized
                ) {
                    let name = mirror.name();
                    let message =
                        format!("{name}: cannot get block signatures: {}", error_chain(&error));
                    self.monitor.event(Event::Warned { message });
                }
                None
            }
        }
    }

    /// Searches the new objects in `pairs`, in parallel.
    fn search(
        &self,
        pairs: &[SearchPair],
        signatures: &HashMap<u64, Signature>,
        key: SignatureKey,
    ) -> Vec<(u32, SignedBase)> {
        let mut pieces = Vec::new();
        for (at, pair) in pairs.iter().enumerate() {
            let size = self.wanted[pair.ordinal].size;
            // A larger object forms its own group and is searched in parts.
            let length = u32::try_from(size).unwrap_or(u32::MAX);
            let ordinal = u32::try_from(pair.ordinal).expect("ordinals have 32 bits");
            if signatures.contains_key(&pair.base.entry) {
                pieces.push((at, Piece { ordinal, offset: 0, length }));
            }
        }
        let groups = group_pieces(pieces.into_iter());
        let found = in_parallel(groups.len(), self.jobs, |index, buffer| {
            let search = |(at, piece): &(usize, Piece)| {
                let SearchPair { base, ordinal, .. } = pairs[*at];
                let signature = &signatures[&base.entry];
                let search = SignatureSearch::new(signature, key, self.wanted[ordinal].size);
                let ranges = self.search_one(piece.ordinal, search, buffer)?;
                (!ranges.is_empty())
                    .then_some((piece.ordinal, SignedBase { entry: base.entry, ranges }))
            };
            groups[index].iter().filter_map(search).collect::<Vec<_>>()
        });
        found.into_iter().flatten().collect()
    }

    /// Searches one new object, which is read in parts. `None` if it cannot be read; the error is
    /// reported when the object is sent.
    fn search_one(
        &self,
        ordinal: u32,
        mut search: SignatureSearch<'_>,
        buffer: &mut Vec<u8>,
    ) -> Option<Vec<MatchedRange>> {
        let size = self.wanted[ordinal as usize].size;
        let mut offset = 0;
        while offset < size {
            if self.monitor.is_cancelled() {
                return None;
            }
            let length = (size - offset).min(MAX_CONTENT_BYTES as u64);
            let length = u32::try_from(length).expect("a part has at most 4 MiB");
            let piece = Piece { ordinal, offset, length };
            buffer.clear();
            let fetched = self.content_source.fetch(self.wanted, &[piece], self.monitor).ok()?;
            fetched.read(&piece, buffer).ok()?;
            search.add(buffer);
            offset += u64::from(length);
        }
        Some(search.finish())
    }
}

/// How many of `pairs` to request together.
fn batch_len(pairs: &[SearchPair]) -> usize {
    let mut bytes = 0;
    let fits = |pair: &&SearchPair| {
        bytes += pair.shape().bytes();
        bytes <= MAX_BATCH_BYTES
    };
    pairs.iter().take_while(fits).count().max(1)
}
