//! Finds the ranges that the content and the prefix have in common.
//!
//! Optimized for content that is mostly in the prefix, in the same order. After a change, the
//! search first tries the same distance as before, then the bytes after the end of the last match,
//! then the whole prefix, with a hash table. Matching ranges are compared but not hashed, so
//! similar content costs little more than reading it.

use std::cmp::Reverse;

/// Distance, in bytes, between the prefix positions in the table.
const STRIDE: usize = 32;
/// Bytes that are hashed at each position. The table finds no shorter match.
const WINDOW: usize = 24;
/// How many positions with the same hash are compared, and how many bytes at each. Among many
/// similar positions, one is as good as another, and the nearest is cheapest to encode.
const MAX_COMPARED_POSITIONS: usize = 8;
const MAX_COMPARED_BYTES: usize = 256;
/// How far beyond the last match the search looks for a near match, in bytes. Positions must fit in
/// a byte.
const NEAR_BYTES: usize = 200;
const NEAR_BITS: u32 = 9;
/// Minimum length of a near match, in bytes. A shorter one is not worthwhile.
const MIN_NEAR: usize = 16;
/// How far ahead, in bytes, the search tests whether the content continues at the same distance.
const LOOKAHEAD_BYTES: usize = 32;
/// The search step grows by one byte after every 2^8 bytes without a match, up to `MAX_STEP`.
const SKIP_SHIFT: usize = 8;
const MAX_STEP: usize = 8;
/// The search stops when more than a quarter of the bytes searched, with an allowance of 256 KiB,
/// have no match. This detects early that content has little in common with the prefix.
const EARLY_STOP_DIVISOR: usize = 4;
const EARLY_STOP_ALLOWANCE: usize = 256 << 10;

/// A range of the content that is also in the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pack) struct Match {
    /// The start in the content.
    pub(in crate::pack) at: usize,
    /// The start in the prefix.
    pub(in crate::pack) from: usize,
    pub(in crate::pack) length: usize,
}

impl Match {
    /// The end of the range in the content and in the prefix.
    pub(super) const fn ends(&self) -> (usize, usize) {
        (self.at + self.length, self.from + self.length)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    // Little endian, so that the first byte is the lowest and `trailing_zeros` finds the first
    // difference.
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The upper `bits` bits of a multiplicative hash (Knuth).
fn hash(word: u64, bits: u32) -> usize {
    let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits);
    usize::try_from(hash).expect("far fewer bits than those of an address")
}

/// The length of the common prefix of `left` and `right`.
fn common_prefix_len(left: &[u8], right: &[u8]) -> usize {
    let most = left.len().min(right.len());
    let (left, right) = (&left[..most], &right[..most]);
    let mut at = 0;
    while at + 32 <= most && left[at..at + 32] == right[at..at + 32] {
        at += 32;
    }
    while at + 8 <= most {
        let difference = word(left, at) ^ word(right, at);
        if difference != 0 {
            return at + difference.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + left[at..].iter().zip(&right[at..]).take_while(|(left, right)| left == right).count()
}

/// The length of the common suffix of `left` and `right`.
fn common_suffix_len(left: &[u8], right: &[u8]) -> usize {
    left.iter().rev().zip(right.iter().rev()).take_while(|(left, right)| left == right).count()
}

/// The positions of a prefix, indexed by the hash of the bytes at each position.
#[derive(Debug, Default)]
struct MatchTable {
    bits: u32,
    /// The last position with each hash, counted in strides from 1; 0 if there is none.
    heads: Vec<u32>,
    /// For each position, the previous one with the same hash.
    chain: Vec<u32>,
}

impl MatchTable {
    fn fill(&mut self, prefix: &[u8]) {
        let places = prefix.len() / STRIDE + 1;
        // At most half of the slots are used, which keeps the chains short.
        self.bits = (2 * places).next_power_of_two().ilog2();
        self.heads.clear();
        self.heads.resize(1 << self.bits, 0);
        self.chain.clear();
        self.chain.push(0);
        for (place, window) in (1u32..).zip(prefix.windows(WINDOW).step_by(STRIDE)) {
            let slot = self.slot(window);
            // The last position becomes the head of its chain.
            self.chain.push(std::mem::replace(&mut self.heads[slot], place));
        }
    }

    fn slot(&self, window: &[u8]) -> usize {
        // Hashes the first and last eight bytes of the window, not those in between: every
        // candidate is compared anyway.
        hash(word(window, 0).rotate_left(29) ^ word(window, WINDOW - 8), self.bits)
    }

    /// The positions in the prefix that may match `window`.
    fn candidates(&self, window: &[u8]) -> impl Iterator<Item = usize> {
        let last = self.heads[self.slot(window)];
        let places = std::iter::successors(Some(last), |place| Some(self.chain[*place as usize]));
        places
            .take_while(|place| *place != 0)
            .take(MAX_COMPARED_POSITIONS)
            .map(|place| (place as usize - 1) * STRIDE)
    }
}

/// The prefix positions shortly after the end of the last match; filled on first use.
#[derive(Debug)]
struct NearTable {
    is_filled: bool,
    /// The position of eight bytes with each hash, counted from 1; 0 if there is none.
    places: [u8; 1 << NEAR_BITS],
}

impl Default for NearTable {
    fn default() -> Self {
        Self { is_filled: false, places: [0; 1 << NEAR_BITS] }
    }
}

impl NearTable {
    /// Discards the positions, because the last match has changed.
    const fn invalidate(&mut self) {
        self.is_filled = false;
    }

    /// The prefix position shortly after `end` that may match the first eight of `bytes`.
    fn candidate(&mut self, bytes: &[u8], prefix: &[u8], end: usize) -> Option<usize> {
        if !self.is_filled {
            self.fill(&prefix[end..prefix.len().min(end + NEAR_BYTES)]);
        }
        let place = self.places[hash(word(bytes, 0), NEAR_BITS)];
        place.checked_sub(1).map(|place| end + usize::from(place))
    }

    fn fill(&mut self, bytes: &[u8]) {
        self.is_filled = true;
        self.places.fill(0);
        // Reversed, so that the first of several positions with the same hash wins.
        for (place, window) in (1..=u8::MAX).zip(bytes.windows(8)).rev() {
            self.places[hash(word(window, 0), NEAR_BITS)] = place;
        }
    }
}

/// The current position of the search.
#[derive(Debug, Clone, Copy, Default)]
struct SearchPosition {
    /// The position in the content.
    at: usize,
    /// The end of the last match, in the content and in the prefix.
    end: usize,
    old_end: usize,
}

impl SearchPosition {
    const fn after(found: Match) -> Self {
        let (end, old_end) = found.ends();
        Self { at: end, end, old_end }
    }

    /// The number of bytes since the last match.
    const fn unmatched_len(self) -> usize {
        self.at - self.end
    }
}

/// Finds matches, reusing its memory.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    table: MatchTable,
    near: NearTable,
}

impl Matcher {
    /// Returns the matches of `content` in `prefix`, in content order and without overlap. Returns
    /// `None` if they would leave more than `max_literals` bytes of the content without a match.
    pub(super) fn find(
        &mut self,
        content: &[u8],
        prefix: &[u8],
        max_literals: usize,
    ) -> Option<Vec<Match>> {
        self.table.fill(prefix);
        self.near.invalidate();
        let mut matches: Vec<Match> = Vec::new();
        let mut place = SearchPosition::default();
        let mut literals = 0;
        // The bytes since the last match also count as literals, so a long run without a match ends
        // the search early.
        while place.at + 8 <= content.len()
            && literals + place.unmatched_len()
                <= max_literals.min((place.at + EARLY_STOP_ALLOWANCE) / EARLY_STOP_DIVISOR)
        {
            let Some(found) = self.find_match(content, prefix, place) else {
                place.at += (1 + (place.unmatched_len() >> SKIP_SHIFT)).min(MAX_STEP);
                continue;
            };
            // A match is found only at a multiple of the stride or the step; its true start may be
            // earlier.
            let back = common_suffix_len(&content[place.end..found.at], &prefix[..found.from]);
            let found =
                Match { at: found.at - back, from: found.from - back, length: found.length + back };
            literals += found.at - place.end;
            place = SearchPosition::after(found);
            self.near.invalidate();
            matches.push(found);
        }
        literals += content.len() - place.end;
        (literals <= max_literals).then_some(matches)
    }

    /// Finds a match that begins at `place` or shortly after it.
    fn find_match(
        &mut self,
        content: &[u8],
        prefix: &[u8],
        place: SearchPosition,
    ) -> Option<Match> {
        let (at, run) = (place.at, place.unmatched_len());
        let rest = &content[at..];
        let same = place.old_end + run;
        let found = |at: usize, from: usize| Match {
            at,
            from,
            length: common_prefix_len(&content[at..], &prefix[from..]),
        };
        // `find_equal_word` looks that far ahead, so each offset is tested only once.
        if run.is_multiple_of(LOOKAHEAD_BYTES)
            && let Some(old) = prefix.get(same..)
            && let Some(ahead) = find_equal_word(rest, old)
        {
            return Some(found(at + ahead, same + ahead));
        }
        if run < NEAR_BYTES {
            let near = self.near.candidate(rest, prefix, place.old_end).map(|from| found(at, from));
            if let Some(near) = near.filter(|near| near.length >= MIN_NEAR) {
                return Some(near);
            }
        }
        let window = rest.get(..WINDOW)?;
        // Candidates are compared only up to this length. The chosen one is then measured in full.
        let enough = &rest[..rest.len().min(MAX_COMPARED_BYTES)];
        let measured = self
            .table
            .candidates(window)
            .map(|from| (common_prefix_len(enough, &prefix[from..]), from));
        let long = measured.filter(|(length, _)| *length >= WINDOW);
        let (_, from) =
            long.max_by_key(|(length, from)| (*length, Reverse(from.abs_diff(same))))?;
        Some(found(at, from))
    }
}

/// The first offset below [`LOOKAHEAD_BYTES`] at which both have the same eight bytes.
fn find_equal_word(new: &[u8], old: &[u8]) -> Option<usize> {
    new.windows(8)
        .zip(old.windows(8))
        .take(LOOKAHEAD_BYTES)
        .position(|(new, old)| word(new, 0) == word(old, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::tests::noise;

    fn find(content: &[u8], prefix: &[u8]) -> Vec<(usize, usize, usize)> {
        let matches = Matcher::default().find(content, prefix, content.len()).unwrap();
        matches.iter().map(|found| (found.at, found.from, found.length)).collect()
    }

    #[test]
    fn matches_have_the_exact_number_of_common_bytes() {
        let old = noise(100);
        for length in 0..100 {
            let mut new = old.clone();
            new[length] ^= 1;
            assert_eq!(common_prefix_len(&new, &old), length);
            assert_eq!(common_suffix_len(&new, &old), 99 - length);
            assert_eq!(common_prefix_len(&old[..length], &old), length);
        }
    }

    #[test]
    fn small_change_leaves_a_match_on_each_side() {
        let old = noise(10_000);
        let (before, behind) = old.split_at(5_003);
        for (new, removed) in
            [(&b"x"[..], 1), (b"", 7), (b"of another length", 16), (b"", 150), (&[7; 150], 0)]
        {
            let content = [before, new, &behind[removed..]].concat();
            let behind_at = 5_003 + new.len();
            let expected = [(0, 0, 5_003), (behind_at, 5_003 + removed, content.len() - behind_at)];
            assert_eq!(find(&content, &old), expected, "{} for {removed}", new.len());
        }
    }

    #[test]
    fn content_moved_far_is_found() {
        let old = noise(300_000);
        let content = [&old[200_000..], &old[..100_000]].concat();
        assert_eq!(find(&content, &old), [(0, 200_000, 100_000), (100_000, 0, 100_000)]);
    }

    #[test]
    fn longest_of_several_matches_is_used() {
        let page = |number: u8| [&noise(128)[..], &[number; 128]].concat();
        let old = [vec![b'-'; 320], (0..5).flat_map(page).collect()].concat();
        let content = [&[b'x'; 40][..], &page(3), b"end"].concat();
        assert_eq!(find(&content, &old), [(40, 320 + 3 * 256, 256)]);
    }

    #[test]
    fn search_with_too_much_unmatched_content_stops() {
        let (content, prefix) = (noise(5_000), noise(1_000));
        assert!(Matcher::default().find(&content, &prefix, 3_999).is_none());
        assert!(Matcher::default().find(&content, &prefix, 4_000).is_some());
        assert!(Matcher::default().find(&content[2_000..], &prefix, 700).is_none());
    }

    #[test]
    fn empty_and_tiny_inputs_are_accepted() {
        for (content, prefix) in
            [(&b""[..], &b""[..]), (b"a", b"a"), (b"", b"old"), (b"12345678", b"1234567")]
        {
            assert_eq!(find(content, prefix), []);
        }
        assert_eq!(find(b"12345678", b"12345678"), [(0, 0, 8)]);
    }

    #[test]
    fn reused_matcher_gives_the_same_matches() {
        let old = noise(50_000);
        let content = [&old[20_000..], &old[..20_000]].concat();
        let mut matcher = Matcher::default();
        matcher.find(&noise(900), &old[7_000..], 900).unwrap();
        assert_eq!(matcher.find(&content, &old, 0), Matcher::default().find(&content, &old, 0));
    }
}
