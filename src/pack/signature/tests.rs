//! Tests of the search: what it finds is equal, and what was kept is found.

use proptest::prelude::*;

use super::*;
use crate::pack::tests::noise;

const KEY: SignatureKey = SignatureKey::from_bytes([7; 8]);

/// Searches `new` for `base` with hashes that do not collide.
fn ranges_of(base: &[u8], new: &[u8], block_bytes: u32) -> Vec<MatchedRange> {
    let shape = SignatureShape::with_sizes(base.len() as u64, block_bytes, 8);
    search(new, &Signature::of(base, shape, KEY), KEY)
}

fn covered(ranges: &[MatchedRange]) -> u64 {
    ranges.iter().map(|range| range.length).sum()
}

#[track_caller]
fn assert_equal(ranges: &[MatchedRange], base: &[u8], new: &[u8]) {
    let part = |bytes: &[u8], start: u64, length: u64| {
        let start = usize::try_from(start).unwrap();
        bytes[start..start + usize::try_from(length).unwrap()].to_vec()
    };
    let mut end = 0;
    for range in ranges {
        assert!(range.length > 0 && range.new >= end, "{ranges:?}");
        end = range.new + range.length;
        assert_eq!(part(base, range.base, range.length), part(new, range.new, range.length));
    }
}

#[test]
fn all_blocks_except_changed_ones_are_found() {
    let base = noise(100_100);
    let whole = ranges_of(&base, &base, 1000);
    assert_eq!(whole, [MatchedRange { base: 0, new: 0, length: 100_100 }]);
    // In place, longer, shorter, at both ends.
    for (at, gone, came) in
        [(50_500, 5, 5), (50_500, 0, 333), (50_500, 700, 0), (0, 1, 9), (100_099, 1, 9)]
    {
        let new = [&base[..at], &vec![b'x'; came], &base[at + gone..]].concat();
        let ranges = ranges_of(&base, &new, 1000);
        assert_equal(&ranges, &base, &new);
        assert!(covered(&ranges) >= 100_100 - 2000, "{at} {gone} {came}: {ranges:?}");
    }
    let appended = [&base[..], b"and more"].concat();
    assert_eq!(covered(&ranges_of(&base, &appended, 1000)), 100_100);
}

#[test]
fn moved_parts_of_two_adjacent_blocks_are_found() {
    let base = noise(64_000);
    let new = [&base[32_000..], b"between", &base[..32_000]].concat();
    let ranges = ranges_of(&base, &new, 1000);
    assert_equal(&ranges, &base, &new);
    assert_eq!(covered(&ranges), 64_000);
    // A lone block elsewhere proves too little.
    let new = [&noise(70_000)[65_000..], &base[3000..4000], &noise(75_000)[70_000..]].concat();
    assert_eq!(ranges_of(&base, &new, 1000), []);
}

#[test]
fn run_of_equal_blocks_is_one_range() {
    let base = [&noise(5000)[..], &[0; 50_000], &noise(9000)[4000..]].concat();
    let mut new = base.clone();
    new[2] ^= 1;
    let ranges = ranges_of(&base, &new, 500);
    assert_eq!(ranges, [MatchedRange { base: 500, new: 500, length: base.len() as u64 - 500 }]);
}

/// Each block of zeros in the old content is a candidate at each position of a run of zeros.
#[test]
fn work_in_a_run_of_zeros_does_not_grow_with_the_block() {
    const BLOCK: usize = 10_000;
    const BLOCK_BYTES: u32 = 10_000;
    let part = |number: u8| [vec![0; BLOCK], noise(BLOCK - 1), vec![number]].concat();
    let base: Vec<u8> = (0..20).flat_map(part).collect();
    let new = [&base[..3 * BLOCK], &vec![0; 20 * BLOCK], &base[3 * BLOCK..]].concat();
    let shape = SignatureShape::with_sizes(base.len() as u64, BLOCK_BYTES, 8);
    let signature = Signature::of(&base, shape, KEY);
    let mut search = SignatureSearch::new(&signature, KEY, new.len() as u64);
    search.add(&new);
    assert!(search.following_bytes > 0, "no candidate was compared");
    assert!(search.following_bytes < 2 * new.len() as u64, "{} bytes", search.following_bytes);
    let ranges = search.finish();
    assert_equal(&ranges, &base, &new);
    assert!(covered(&ranges) >= base.len() as u64 - 2 * BLOCK as u64, "{ranges:?}");
}

#[test]
fn shape_that_does_not_fit_the_hashes_is_refused() {
    let base = noise(10_000);
    let shape = SignatureShape::new(10_000, size_bits(12_000));
    let signature = Signature::of(&base, shape, KEY);
    let hashes = signature.encode().to_vec();
    assert_eq!(hashes.len() as u64, shape.bytes());
    assert_eq!(Signature::decode(shape, hashes.clone()), Some(signature));
    assert_eq!(Signature::decode(shape, hashes[1..].to_vec()), None);
    let other = SignatureShape::new(100_000, size_bits(12_000));
    assert_eq!(Signature::decode(other, hashes), None);
}

#[test]
fn shapes_grow_with_the_square_root_and_have_limits() {
    let of = |bytes| SignatureShape::new(bytes, size_bits(bytes));
    let sizes = |bytes| (of(bytes).block_bytes, of(bytes).hash_bytes);
    assert_eq!(sizes(0), (1024, 3));
    assert_eq!(of(0).bytes(), 0);
    assert_eq!(sizes(30_000), (1024, 3));
    assert_eq!(sizes(1 << 20), (2048, 4));
    assert_eq!(sizes(100 << 20), (20_480, 4));
    assert_eq!(sizes(10 << 30), (207_242, 5));
    assert_eq!(sizes(crate::varint::MAX_NUMBER).0, MAX_BLOCK_BYTES);
}

#[test]
fn rolling_hash_equals_the_direct_hash() {
    let content = noise(3000);
    let polynomial = Polynomial::new(KEY);
    for block in [1, 7, 8, 100, 2048] {
        let gone = PRIME - polynomial.power(u32::try_from(block).unwrap());
        let mut value = polynomial.of(&content[..block]);
        for at in 1..content.len() - block {
            let change =
                u64::from(content[at + block - 1]) + multiply(u64::from(content[at - 1]), gone);
            let product = u128::from(value) * u128::from(polynomial.powers[7]);
            value = reduce(product + u128::from(change));
            assert_eq!(value, polynomial.of(&content[at..at + block]), "{block} at {at}");
        }
    }
}

#[test]
fn short_hashes_collide_and_long_ones_do_not() {
    let (base, other) = (noise(400_000), noise(800_000));
    let wrong = |hash_bytes| {
        let shape = SignatureShape::with_sizes(400_000, 1000, hash_bytes);
        search(&other[400_000..], &Signature::of(&base, shape, KEY), KEY).len()
    };
    assert!(wrong(1) > 100);
    assert_eq!(wrong(3), 0);
}

/// Where bytes are replaced, how many, and by how many.
fn edit() -> impl Strategy<Value = (prop::sample::Index, usize, usize)> {
    (any::<prop::sample::Index>(), 0usize..90, 0usize..90)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn matched_ranges_are_equal_for_any_partition(
        base in prop::collection::vec(0u8..3, 0..3000),
        edits in prop::collection::vec(edit(), 0..6),
        block_bytes in 1u32..300,
        part in 1usize..2000,
        key in any::<[u8; 8]>(),
    ) {
        let mut new = base.clone();
        for (at, gone, came) in edits {
            let at = at.index(new.len() + 1);
            let end = (at + gone).min(new.len());
            new.splice(at..end, base.iter().rev().copied().take(came));
        }
        let key = SignatureKey::from_bytes(key);
        let shape = SignatureShape::with_sizes(base.len() as u64, block_bytes, 8);
        let signature = Signature::of(&base, shape, key);
        let ranges = search(&new, &signature, key);
        assert_equal(&ranges, &base, &new);
        let mut in_parts = SignatureSearch::new(&signature, key, new.len() as u64);
        new.chunks(part).for_each(|part| in_parts.add(part));
        prop_assert_eq!(in_parts.finish(), ranges);
        let (mut signer, mut hashes) = (SignatureBuilder::new(shape, key), Vec::new());
        base.chunks(part).for_each(|part| signer.add(part, &mut hashes));
        signer.finish(&mut hashes);
        prop_assert_eq!(Signature::decode(shape, hashes), Some(signature));
    }

    #[test]
    fn arbitrary_hashes_never_panic(
        hashes in prop::collection::vec(any::<u8>(), 0..400),
        content in prop::collection::vec(0u8..4, 0..4000),
        base_bytes in 0u64..5000,
        block_bytes in 1u32..64,
    ) {
        let shape = SignatureShape::with_sizes(base_bytes, block_bytes, 1);
        let mut hashes = hashes;
        hashes.resize(usize::try_from(shape.bytes()).unwrap(), 1);
        let signature = Signature::decode(shape, hashes).unwrap();
        for range in search(&content, &signature, KEY) {
            prop_assert!(range.base + range.length <= base_bytes);
            prop_assert!(range.new + range.length <= content.len() as u64);
        }
    }
}
