//! Tests of whole packs: round trips, damage, determinism, the example in `FORMAT.md`, and packs
//! that earlier versions wrote.

use crate::varint;
use proptest::prelude::*;

use super::*;

/// Deterministic bytes that do not compress and do not repeat.
pub(super) fn noise(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[derive(Debug, Clone)]
struct Input {
    pieces: Vec<Piece>,
    content: Vec<u8>,
    bases: Vec<BaseRange>,
    prefix: Vec<u8>,
    level: Level,
}

impl Input {
    fn encode(&self) -> EncodedBlock {
        encode_block(&self.pieces, &self.content, &self.bases, &self.prefix, self.level).unwrap()
    }
}

/// Cuts `bytes` at every multiple of `step` and gives each part a position.
fn cut(bytes: &[u8], step: usize, offset: u64) -> impl Iterator<Item = (u32, u64, u32)> {
    (0u32..).zip(bytes.chunks(step)).map(move |(index, part)| {
        let length = u32::try_from(part.len()).unwrap();
        (index * 77, offset + u64::from(index) * 1_000_003, length)
    })
}

fn input() -> impl Strategy<Value = Input> {
    let word = prop::collection::vec(any::<u8>(), 1..40);
    let words = prop::collection::vec((word, 1usize..30), 1..20);
    let level = prop_oneof![Just(Level::Raw), (1i32..=19).prop_map(Level::Zstd)];
    (words, any::<prop::sample::Index>(), 1usize..500, 0..varint::MAX_NUMBER / 2, level).prop_map(
        |(words, begin, step, offset, level)| {
            let content: Vec<u8> =
                words.iter().flat_map(|(word, times)| word.repeat(*times)).collect();
            // A part of the content serves as the prefix, so that the prefix helps.
            let prefix = match level {
                Level::Raw => vec![],
                Level::Zstd(_) => content[begin.index(content.len())..].to_vec(),
            };
            let pieces = cut(&content, step, offset);
            let bases = cut(&prefix, step * 2, offset);
            Input {
                pieces: pieces
                    .map(|(ordinal, offset, length)| Piece { ordinal, offset, length })
                    .collect(),
                bases: bases
                    .map(|(entry, offset, length)| BaseRange {
                        entry: u64::from(entry),
                        offset,
                        length,
                    })
                    .collect(),
                content,
                prefix,
                level,
            }
        },
    )
}

fn pack_of(inputs: &[Input]) -> Pack {
    let mut writer = PackWriter::new();
    inputs.iter().for_each(|input| writer.push(&input.encode()).unwrap());
    writer.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn packs_round_trip_and_are_deterministic(inputs in prop::collection::vec(input(), 1..5)) {
        let pack = pack_of(&inputs);
        prop_assert_eq!(&pack_of(&inputs), &pack);
        let reader = PackReader::open(&pack.bytes).unwrap();
        prop_assert_eq!(reader.id(), pack.id);
        let blocks: Vec<_> = reader.blocks().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(blocks.len(), inputs.len());
        for (block, input) in blocks.iter().zip(&inputs) {
            prop_assert_eq!(block.pieces(), &input.pieces);
            let prefix = if block.bases().is_empty() { &[][..] } else {
                prop_assert_eq!(block.bases(), &input.bases);
                &input.prefix
            };
            prop_assert_eq!(block.content_bytes(), input.content.len());
            prop_assert_eq!(&*block.decode(prefix).unwrap(), &input.content[..]);
            prop_assert!(block.decode(&[prefix, b"x"].concat()).is_err());
        }
    }

    #[test]
    fn blocks_from_several_threads_are_identical(input in input()) {
        let here = input.encode();
        let there = std::thread::scope(|scope| scope.spawn(|| input.encode()).join().unwrap());
        prop_assert_eq!(here, there);
    }
}

const OLD: &[u8] =
    b"<html><title>Releases</title><p>The newest release is 1.4.2, of 3 May.</p></html>\n";
const NEW: &[u8] =
    b"<html><title>Releases</title><p>The newest release is 1.5.0, of 9 June.</p></html>\n";

/// A block with a base, followed by one with two pieces.
fn small() -> [Input; 2] {
    let patch = Input {
        pieces: vec![Piece { ordinal: 7, offset: 0, length: 83 }],
        content: NEW.to_vec(),
        bases: vec![BaseRange { entry: 300, offset: 0, length: 82 }],
        prefix: OLD.to_vec(),
        level: Level::Zstd(3),
    };
    let plain = Input {
        pieces: vec![
            Piece { ordinal: 8, offset: 0, length: 6 },
            Piece { ordinal: 9, offset: 1 << 32, length: 6 },
        ],
        content: b"hello\nworld\n".to_vec(),
        bases: vec![],
        prefix: vec![],
        level: Level::Raw,
    };
    [patch, plain]
}

/// All contents of a pack of [`small`], decoded as a receiver does.
fn read_small(reader: Result<PackReader<'_>, PackError>) -> Result<(), PackError> {
    let blocks: Vec<_> = reader?.blocks().collect::<Result<_, _>>()?;
    for (block, input) in blocks.iter().zip(small()) {
        let content = block.decode(&input.prefix)?;
        if block.pieces() == input.pieces
            && block.bases() == input.bases
            && *content != *input.content
        {
            panic!("other content without an error");
        }
    }
    Ok(())
}

#[test]
fn every_changed_missing_or_added_byte_is_refused() {
    let pack = pack_of(&small());
    assert!(pack.bytes.len() < 250, "the patch is small: {}", pack.bytes.len());
    read_small(PackReader::open(&pack.bytes)).unwrap();
    for bit in 0..pack.bytes.len() * 8 {
        let mut bytes = pack.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read_small(PackReader::open(&bytes)).is_err(), "bit {bit}");
    }
    for end in 0..pack.bytes.len() {
        assert!(read_small(PackReader::open(&pack.bytes[..end])).is_err(), "cut to {end}");
    }
    for byte in 0..=255 {
        let bytes = [&pack.bytes[..], &[byte]].concat();
        assert!(read_small(PackReader::open(&bytes)).is_err(), "{byte} added");
    }
}

#[test]
fn zstd_blocks_detect_changed_content_without_the_digest() {
    let [patch, _] = small();
    let pack = pack_of(&[patch]);
    for bit in 40..(pack.bytes.len() - DIGEST_BYTES) * 8 {
        let mut bytes = pack.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _result = read_small(PackReader::open_known(&bytes, pack.id));
    }
}

#[test]
fn documented_example_matches_the_written_pack() {
    let [_, plain] = small();
    let text = include_str!("FORMAT.md");
    let example = text.split("```text").last().unwrap().split("```").next().unwrap();
    // Each line has bytes in hexadecimal, two spaces, and their meaning.
    let bytes: Vec<u8> = example
        .lines()
        .flat_map(|line| line.trim_start().split("  ").next().unwrap().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let hex: Vec<String> =
        pack_of(&[plain]).bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(pack_of(&small()[1..]).bytes, bytes, "{}", hex.join(" "));
}

/// Enough similar ranges for the dense form to be smaller.
fn dense() -> Input {
    let content: Vec<u8> = (0u32..400)
        .flat_map(|number| format!("page {number} of the book\n").into_bytes())
        .collect();
    let prefix = content.to_ascii_uppercase();
    let pieces =
        cut(&content, 24, 0).map(|(ordinal, _, length)| Piece { ordinal, offset: 0, length });
    let bases = cut(&prefix, 24, 0).map(|(entry, _, length)| BaseRange {
        entry: u64::from(entry),
        offset: 0,
        length,
    });
    let (pieces, bases) = (pieces.collect(), bases.collect());
    Input { pieces, bases, content, prefix, level: Level::Zstd(3) }
}

#[test]
fn dense_ranges_round_trip() {
    let input = dense();
    let block = input.encode();
    assert_eq!(block.as_bytes()[0], KIND_DENSE);
    let pack = pack_of(std::slice::from_ref(&input));
    let reader = PackReader::open(&pack.bytes).unwrap();
    let read = reader.blocks().next().unwrap().unwrap();
    assert_eq!((read.pieces(), read.bases()), (&input.pieces[..], &input.bases[..]));
    assert_eq!(*read.decode(&input.prefix).unwrap(), *input.content);
}

/// Pages that changed in a few places, one of them moved.
fn edited() -> Input {
    let page = |number: u32| format!("<title>page {number}</title>\n").into_bytes();
    let prefix: Vec<u8> = (0..400).flat_map(page).collect();
    let first = [&prefix[..3_000], b"release 2.10", &prefix[3_000..9_000]].concat();
    let content = [&prefix[9_300..], b"moved to the front\n", &first].concat();
    let pieces = cut(&content, 5_000, 0)
        .map(|(ordinal, _, length)| Piece { ordinal, offset: 0, length })
        .collect();
    let bases = cut(&prefix, 7_000, 0).map(|(entry, _, length)| BaseRange {
        entry: u64::from(entry),
        offset: 0,
        length,
    });
    Input { pieces, bases: bases.collect(), content, prefix, level: Level::Zstd(3) }
}

#[test]
fn content_similar_to_its_bases_is_a_delta() {
    let block = edited().encode();
    assert!(delta::is_delta(block.frame().bytes));
    assert!(block.encoded_bytes() < 150, "{}", block.encoded_bytes());
    assert!(!delta::is_delta(dense().encode().frame().bytes), "nothing of it stands there");
}

/// Released fixtures are never edited: later versions must read them.
#[test]
fn packs_of_version_1_can_be_read() {
    for (bytes, inputs) in [
        (&include_bytes!("../../fixtures/packs/v1-raw.pack")[..], &small()[1..]),
        (&include_bytes!("../../fixtures/packs/v1-zstd-bases.pack")[..], &small()[..1]),
        (&include_bytes!("../../fixtures/packs/v1-dense-bases.pack")[..], &[dense()]),
        (&include_bytes!("../../fixtures/packs/v1-delta.pack")[..], &[edited()]),
    ] {
        let reader = PackReader::open(bytes).unwrap();
        let blocks: Vec<_> = reader.blocks().collect::<Result<_, _>>().unwrap();
        assert_eq!(blocks.len(), inputs.len());
        for (block, input) in blocks.iter().zip(inputs) {
            assert_eq!((block.pieces(), block.bases()), (&input.pieces[..], &input.bases[..]));
            assert_eq!(*block.decode(&input.prefix).unwrap(), *input.content);
        }
    }
}

#[test]
fn limits_are_consistent() {
    let head_bytes = MAX_RANGES * (5 + 10 + 4) + MAX_RANGES * (10 + 10 + 4) + 64;
    let most = TARGET_PACK_BYTES + MAX_CONTENT_BYTES + head_bytes;
    assert!(most < MAX_PACK_BYTES, "a pack that is not full has room for any block");
}
