//! Block signatures: short hashes of an old object's blocks, with which an origin that lacks the
//! object finds those of its ranges that new content contains.
//!
//! An object is divided into blocks of one size; the last may be shorter. The hash of a block is a
//! polynomial over its bytes modulo 2^61 - 1, at a point that the request chooses, mixed and
//! truncated to a few bytes. It can be rolled from one byte to the next.
//!
//! A match of one truncated hash proves little. It counts only where a wrong one is unlikely: as
//! the next block after a match, where the last match or the end of the object would place it, or
//! if the following block matches as well. [`SignatureShape::new`] makes hashes so long that in new
//! content that shares nothing with the object, a wrong range is found once in 2^16 objects. In
//! content that is mostly old, fewer places are tested. A wrong range costs bytes, not correctness:
//! the block that builds on it does not decode on the mirror.

use std::collections::HashMap;

/// Smallest block, in bytes.
// Measured on changed pages, in kB for hashes and sent blocks together, with blocks of 512, 1,024,
// 1,536 and 2,048 bytes: 249, 162, 140, 147 for 1,543 pages of documentation with changes near the
// start; 309, 364, 470, 568 for 600 pages of random words with a changed line anywhere.
const MIN_BLOCK_BYTES: u32 = 1 << 10;
/// Largest block, in bytes. A search holds three of them in memory.
const MAX_BLOCK_BYTES: u32 = 1 << 20;
/// A last block shorter than this is not looked for: the list of ranges would grow more than the
/// content shrinks.
const MIN_TAIL_BYTES: usize = 64;
/// Bits in a hash beyond those that the number of comparisons requires.
const MARGIN_BITS: u32 = 16;
/// The smallest hash, in bytes.
const MIN_HASH_BYTES: u32 = 3;
/// Maximum number of equal hashes to compare at one place.
const MAX_EQUAL_BLOCKS: usize = 8;
/// No block.
const NO_BLOCK: u32 = u32::MAX;

/// The modulus, a Mersenne prime.
const PRIME: u64 = (1 << 61) - 1;

/// The point at which the polynomials are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureKey([u8; 8]);

impl SignatureKey {
    /// Length in bytes.
    pub const BYTES: usize = 8;

    /// Any 8 bytes are a key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The point. It is at least 256, because at a smaller point, changes in two bytes could cancel
    /// out.
    const fn point(self) -> u64 {
        256 + u64::from_le_bytes(self.0) % (PRIME - 256)
    }
}

/// The number of bits in a size. A request states this instead of the size of the new content.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "at most 64")]
pub const fn size_bits(bytes: u64) -> u8 {
    (u64::BITS - bytes.leading_zeros()) as u8
}

/// The number and size of the hashes in a signature. Both ends compute it from the same numbers, so
/// it is not transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureShape {
    base_bytes: u64,
    block_bytes: u32,
    hash_bytes: u32,
}

impl SignatureShape {
    /// The shape for an old object of `base_bytes` and new content whose size has `new_bits` bits.
    #[must_use]
    pub fn new(base_bytes: u64, new_bits: u8) -> Self {
        let block = u32::try_from(base_bytes.isqrt().saturating_mul(2)).unwrap_or(u32::MAX);
        let block_bytes = block.clamp(MIN_BLOCK_BYTES, MAX_BLOCK_BYTES);
        let blocks = u32::from(size_bits(base_bytes / u64::from(block_bytes)));
        // One hash decides at two places for each block; two hashes decide at all places.
        let single = blocks + 1 + MARGIN_BITS;
        let pair = (u32::from(new_bits.min(64)) + blocks + MARGIN_BITS).div_ceil(2);
        let hash_bytes = single.max(pair).div_ceil(8).clamp(MIN_HASH_BYTES, 8);
        Self { base_bytes, block_bytes, hash_bytes }
    }

    /// A shape with given sizes, clamped to possible ones; for tests.
    #[must_use]
    pub fn with_sizes(base_bytes: u64, block_bytes: u32, hash_bytes: u32) -> Self {
        let block_bytes = block_bytes.clamp(1, MAX_BLOCK_BYTES);
        Self { base_bytes, block_bytes, hash_bytes: hash_bytes.clamp(1, 8) }
    }

    /// The size of the old object in bytes.
    #[must_use]
    pub const fn base_bytes(self) -> u64 {
        self.base_bytes
    }

    /// Length of the signature in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.base_bytes.div_ceil(self.block_bytes as u64) * self.hash_bytes as u64
    }

    const fn full_blocks(self) -> u64 {
        self.base_bytes / self.block_bytes as u64
    }

    /// The length of the last block, if it is shorter than the others and long enough to look for.
    fn tail_bytes(self) -> Option<usize> {
        let tail = usize::try_from(self.base_bytes % u64::from(self.block_bytes)).ok()?;
        (tail >= MIN_TAIL_BYTES).then_some(tail)
    }
}

/// `value` modulo [`PRIME`], for a value below 2^124.
#[expect(clippy::cast_possible_truncation, reason = "both halves have at most 63 bits")]
const fn reduce(value: u128) -> u64 {
    let folded = (value as u64 & PRIME) + (value >> 61) as u64;
    let folded = (folded & PRIME) + (folded >> 61);
    if folded >= PRIME { folded - PRIME } else { folded }
}

const fn multiply(a: u64, b: u64) -> u64 {
    reduce(a as u128 * b as u128)
}

/// Evaluates polynomials at one point.
#[derive(Debug, Clone)]
struct Polynomial {
    /// The powers of the point, from the eighth down to the zeroth.
    powers: [u64; 9],
}

impl Polynomial {
    fn new(key: SignatureKey) -> Self {
        let mut powers = [1; 9];
        for at in (0..8).rev() {
            powers[at] = multiply(powers[at + 1], key.point());
        }
        Self { powers }
    }

    /// The value for the bytes that `value` stands for, followed by `bytes`.
    fn extend(&self, mut value: u64, bytes: &[u8]) -> u64 {
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            // Eight products together, because a chain of multiplications is four times as slow.
            let sum = eight
                .iter()
                .zip(&self.powers[1..])
                .fold(u128::from(value) * u128::from(self.powers[0]), |sum, (byte, power)| {
                    sum + u128::from(*byte) * u128::from(*power)
                });
            value = reduce(sum);
        }
        for byte in rest {
            let sum = u128::from(value) * u128::from(self.powers[7]) + u128::from(*byte);
            value = reduce(sum);
        }
        value
    }

    fn of(&self, bytes: &[u8]) -> u64 {
        self.extend(0, bytes)
    }

    /// The point to the power of `exponent`.
    fn power(&self, mut exponent: u32) -> u64 {
        let (mut result, mut square) = (1, self.powers[7]);
        while exponent > 0 {
            if exponent % 2 == 1 {
                result = multiply(result, square);
            }
            square = multiply(square, square);
            exponent /= 2;
        }
        result
    }
}

/// Mixes a value and keeps `hash_bytes` bytes of it. Without mixing, a byte that changes in the
/// same way in all pages of a site would match wrongly in all of them or in none.
const fn truncate(value: u64, hash_bytes: u32) -> u64 {
    let value = (value ^ (value >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value >> (64 - 8 * hash_bytes)
}

/// The hashes of the blocks of an old object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    shape: SignatureShape,
    hashes: Vec<u8>,
}

impl Signature {
    /// The signature of `content`, whose length must match the shape.
    #[must_use]
    pub fn of(content: &[u8], shape: SignatureShape, key: SignatureKey) -> Self {
        let (mut signer, mut hashes) = (SignatureBuilder::new(shape, key), Vec::new());
        signer.add(content, &mut hashes);
        signer.finish(&mut hashes);
        Self { shape, hashes }
    }

    /// Takes the encoded hashes. `None` if their number does not match the shape.
    #[must_use]
    pub fn decode(shape: SignatureShape, hashes: Vec<u8>) -> Option<Self> {
        (hashes.len() as u64 == shape.bytes()).then_some(Self { shape, hashes })
    }

    /// The hashes, each truncated to its lowest bytes, in little-endian order.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.hashes
    }

    fn hash(&self, block: u64) -> Option<u64> {
        let length = self.shape.hash_bytes as usize;
        let start = usize::try_from(block).ok()?.checked_mul(length)?;
        let hash = self.hashes.get(start..start.checked_add(length)?)?;
        Some(hash.iter().rev().fold(0, |hash, byte| hash << 8 | u64::from(*byte)))
    }
}

/// Makes a signature from content that comes in parts.
#[derive(Debug, Clone)]
pub struct SignatureBuilder {
    shape: SignatureShape,
    polynomial: Polynomial,
    value: u64,
    /// Number of bytes in the current block so far.
    filled: usize,
}

impl SignatureBuilder {
    /// A signer for one object.
    #[must_use]
    pub fn new(shape: SignatureShape, key: SignatureKey) -> Self {
        Self { shape, polynomial: Polynomial::new(key), value: 0, filled: 0 }
    }

    /// Adds the next bytes of the object. Appends the hashes of complete blocks to `out`.
    pub fn add(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        let block = self.shape.block_bytes as usize;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(block - self.filled));
            self.value = self.polynomial.extend(self.value, now);
            self.filled += now.len();
            if self.filled == block {
                self.end_block(out);
            }
            bytes = rest;
        }
    }

    /// Appends the hash of the last block, if it is shorter than the others.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if self.filled > 0 {
            self.end_block(out);
        }
    }

    fn end_block(&mut self, out: &mut Vec<u8>) {
        let length = self.shape.hash_bytes;
        out.extend_from_slice(&truncate(self.value, length).to_le_bytes()[..length as usize]);
        (self.value, self.filled) = (0, 0);
    }
}

/// Bytes of an old object that new content contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchedRange {
    /// The offset in the old object.
    pub base: u64,
    /// The offset in the new content.
    pub new: u64,
    /// The number of bytes, at least 1.
    pub length: u64,
}

/// The ranges that `content` contains of the old object with this `signature`.
#[must_use]
pub fn search(content: &[u8], signature: &Signature, key: SignatureKey) -> Vec<MatchedRange> {
    let mut search = SignatureSearch::new(signature, key, content.len() as u64);
    search.add(content);
    search.finish()
}

/// Searches content that comes in parts. In the new content, ranges are in ascending order and do
/// not overlap.
#[derive(Debug)]
pub struct SignatureSearch<'s> {
    signature: &'s Signature,
    polynomial: Polynomial,
    blocks: BlockTable,
    /// For each byte value, what is subtracted when such a byte leaves the window.
    removal_terms: Vec<u64>,
    /// How far the last blocks have moved if only the end of the object was kept.
    end_shift: i64,
    /// How far the last match has moved.
    last_shift: i64,
    /// The last value of a block after the current position, with its offset in `content`.
    following: Option<(usize, u64)>,
    /// Bytes that were hashed to compute values of blocks after a position.
    following_bytes: u64,
    /// The content from `at` on.
    content: Vec<u8>,
    at: u64,
    ranges: Vec<MatchedRange>,
}

impl<'s> SignatureSearch<'s> {
    /// A search in new content of `new_bytes`.
    #[must_use]
    pub fn new(signature: &'s Signature, key: SignatureKey, new_bytes: u64) -> Self {
        let polynomial = Polynomial::new(key);
        let removal_factor = PRIME - polynomial.power(signature.shape.block_bytes);
        Self {
            signature,
            blocks: BlockTable::new(signature),
            removal_terms: (0..256).map(|byte| multiply(byte, removal_factor)).collect(),
            polynomial,
            end_shift: shift(signature.shape.base_bytes, new_bytes),
            last_shift: 0,
            following: None,
            following_bytes: 0,
            content: Vec::new(),
            at: 0,
            ranges: Vec::new(),
        }
    }

    /// Adds the next part of the content.
    pub fn add(&mut self, part: &[u8]) {
        self.content.extend_from_slice(part);
        let done = self.advance(false);
        self.content.drain(..done);
        self.at += done as u64;
        self.following = None;
    }

    /// The ranges, after all content has been added.
    #[must_use]
    pub fn finish(mut self) -> Vec<MatchedRange> {
        self.advance(true);
        self.match_end();
        self.ranges
    }

    /// Searches as far as the content allows. Returns the position reached.
    fn advance(&mut self, is_end: bool) -> usize {
        let block = self.signature.shape.block_bytes as usize;
        // A match may need the block after it.
        let needed = if is_end { block } else { 2 * block };
        let (mut position, mut value) = (0, None);
        while position + needed <= self.content.len() {
            let current = value
                .unwrap_or_else(|| self.polynomial.of(&self.content[position..position + block]));
            if let Some(found) = self.find(current, position) {
                self.push(found * block as u64, position, block);
                position += block;
                if found + 1 == self.signature.shape.full_blocks() {
                    position += self.match_tail(position);
                }
                value = None;
                continue;
            }
            value = self.roll(current, position);
            position += 1;
        }
        position
    }

    /// The value of the block one byte after `position`, where the value is `value`; `None` at the
    /// end of the content.
    fn roll(&self, value: u64, position: usize) -> Option<u64> {
        let entering = self.content.get(position + self.signature.shape.block_bytes as usize)?;
        let change = u64::from(*entering) + self.removal_terms[usize::from(self.content[position])];
        let product = u128::from(value) * u128::from(self.polynomial.powers[7]);
        Some(reduce(product + u128::from(change)))
    }

    /// The hash of the whole block at `position`; `None` if the content is too short.
    ///
    /// In content that repeats itself, such as long runs of zeros, this is asked at each position.
    /// So the value is rolled on from the last one: the work per byte does not grow with the block.
    fn following_hash(&mut self, position: usize) -> Option<u64> {
        let block = self.signature.shape.block_bytes as usize;
        let bytes = self.content.get(position..position + block)?;
        let value = match self.following {
            // A chain of single steps is about 8 times as slow as hashing a block.
            Some((from, value)) if from <= position && position - from <= block / 8 => {
                self.following_bytes += (position - from) as u64;
                (from..position).try_fold(value, |value, at| self.roll(value, at))?
            }
            _ => {
                self.following_bytes += block as u64;
                self.polynomial.of(bytes)
            }
        };
        self.following = Some((position, value));
        Some(truncate(value, self.signature.shape.hash_bytes))
    }

    /// The block of the old object that is at `position`, if there is one with enough certainty.
    fn find(&mut self, value: u64, position: usize) -> Option<u64> {
        let shape = self.signature.shape;
        let hash = truncate(value, shape.hash_bytes);
        if !self.blocks.contains(hash) {
            return None;
        }
        let block_bytes = u64::from(shape.block_bytes);
        let place = self.at + position as u64;
        // After a match, the next block has the same shift. There may be many equal ones before it.
        let next = place.checked_add_signed(self.last_shift).filter(|at| at % block_bytes == 0);
        let next = next.map(|at| at / block_bytes);
        if next.is_some_and(|at| at < shape.full_blocks() && self.signature.hash(at) == Some(hash))
        {
            return next;
        }
        let is_at_end = |at: &u64| shift(*at * block_bytes, place) == self.end_shift;
        let at_end = self.blocks.blocks_with_hash(hash).take(MAX_EQUAL_BLOCKS).find(is_at_end);
        if at_end.is_some() {
            return at_end;
        }
        let behind = position + shape.block_bytes as usize;
        let following = self.following_hash(behind);
        self.blocks.blocks_with_hash(hash).take(MAX_EQUAL_BLOCKS).find(|at| {
            if at + 1 < shape.full_blocks() {
                following.is_some() && self.signature.hash(at + 1) == following
            } else {
                shape.tail_bytes().is_some_and(|length| self.matches(at + 1, behind, length))
            }
        })
    }

    fn matches(&self, block: u64, position: usize, length: usize) -> bool {
        let found = self.content.get(position..position + length);
        let hash = |bytes| truncate(self.polynomial.of(bytes), self.signature.shape.hash_bytes);
        found.is_some_and(|bytes| self.signature.hash(block) == Some(hash(bytes)))
    }

    /// Matches the short last block at `position`, directly after the block before it. Returns its
    /// length.
    fn match_tail(&mut self, position: usize) -> usize {
        let shape = self.signature.shape;
        match shape.tail_bytes() {
            Some(length) if self.matches(shape.full_blocks(), position, length) => {
                let base = shape.full_blocks() * u64::from(shape.block_bytes);
                self.push(base, position, length);
                length
            }
            _ => 0,
        }
    }

    /// Matches the short last block at the end of the content.
    fn match_end(&mut self) {
        let end = self.ranges.last().map_or(0, |range| range.new + range.length);
        let Some(length) = self.signature.shape.tail_bytes() else { return };
        if let Some(position) = self.content.len().checked_sub(length)
            && self.at + position as u64 >= end
        {
            self.match_tail(position);
        }
    }

    fn push(&mut self, base: u64, position: usize, length: usize) {
        let (new, length) = (self.at + position as u64, length as u64);
        self.last_shift = shift(base, new);
        match self.ranges.last_mut() {
            Some(last) if last.base + last.length == base && last.new + last.length == new => {
                last.length += length;
            }
            _ => self.ranges.push(MatchedRange { base, new, length }),
        }
    }
}

/// The distance from an offset in new content to one in the old object. Both are below 2^53.
fn shift(base: u64, new: u64) -> i64 {
    base.cast_signed().wrapping_sub(new.cast_signed())
}

/// Finds the full blocks with a given hash.
#[derive(Debug)]
struct BlockTable {
    /// A bit for the lowest bits of each hash. Most lookups end here.
    filter: Vec<u64>,
    first: HashMap<u64, u32>,
    /// For each block, the next one with the same hash.
    next: Vec<u32>,
}

impl BlockTable {
    fn new(signature: &Signature) -> Self {
        let count =
            u32::try_from(signature.shape.full_blocks()).unwrap_or(NO_BLOCK).min(NO_BLOCK - 1);
        let words = (count as usize / 4).next_power_of_two().clamp(16, 1 << 18);
        let mut table = Self {
            filter: vec![0; words],
            first: HashMap::with_capacity(count as usize),
            next: vec![NO_BLOCK; count as usize],
        };
        // From last to first, so that equal blocks are found in order.
        for block in (0..count).rev() {
            let Some(hash) = signature.hash(u64::from(block)) else { continue };
            let (word, bit) = table.filter_bit(hash);
            table.filter[word] |= bit;
            let after = table.first.insert(hash, block);
            table.next[block as usize] = after.unwrap_or(NO_BLOCK);
        }
        table
    }

    fn filter_bit(&self, hash: u64) -> (usize, u64) {
        let bit = usize::try_from(hash & 0xffff_ffff).unwrap_or(0) % (self.filter.len() * 64);
        (bit / 64, 1 << (bit % 64))
    }

    fn contains(&self, hash: u64) -> bool {
        let (word, bit) = self.filter_bit(hash);
        self.filter[word] & bit != 0 && self.first.contains_key(&hash)
    }

    fn blocks_with_hash(&self, hash: u64) -> impl Iterator<Item = u64> {
        let valid = |block: &u32| *block != NO_BLOCK;
        let first = self.first.get(&hash).copied().filter(valid);
        std::iter::successors(first, move |block| {
            self.next.get(*block as usize).copied().filter(valid)
        })
        .map(u64::from)
    }
}

#[cfg(test)]
mod tests;
