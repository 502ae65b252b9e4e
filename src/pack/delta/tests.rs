//! Round trips, damage, and malformed deltas.

use proptest::prelude::*;

use super::*;

fn encode(content: &[u8], prefix: &[u8]) -> Option<Vec<u8>> {
    DeltaEncoder::default().encode(content, prefix, 3).unwrap()
}

fn decode(delta: &[u8], prefix: &[u8], content_bytes: usize) -> Result<Vec<u8>, PackError> {
    let mut content = b"what was there before".to_vec();
    decode_into(delta, prefix, content_bytes, &mut content).map(|()| content)
}

/// A delta with this body and a valid checksum.
fn delta_of(body: &[u8], content: &[u8]) -> Vec<u8> {
    let mut delta = vec![DELTA_MARKER];
    varint::push(body.len() as u64, &mut delta);
    delta.extend_from_slice(&frame::encode(body, &[], 3).unwrap());
    delta.extend_from_slice(&checksum(content));
    delta
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    numbers.iter().for_each(|number| varint::push(*number, &mut bytes));
    bytes
}

/// A text and an edited version of it.
fn edited() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let word = prop::collection::vec(any::<u8>(), 1..30);
    let edit =
        (any::<prop::sample::Index>(), 0usize..300, prop::collection::vec(any::<u8>(), 0..40));
    (prop::collection::vec(word, 100..400), prop::collection::vec(edit, 0..12)).prop_map(
        |(words, edits)| {
            let old = words.concat();
            let mut new = old.clone();
            for (at, removed, added) in edits {
                let at = at.index(new.len());
                let end = new.len().min(at + removed);
                new.splice(at..end, added);
            }
            (old, new)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deltas_round_trip((old, new) in edited()) {
        if let Some(delta) = encode(&new, &old) {
            prop_assert!(delta.len() < new.len());
            prop_assert_eq!(decode(&delta, &old, new.len()).unwrap(), new);
        }
    }

    #[test]
    fn arbitrary_bodies_never_panic(
        body in prop::collection::vec(any::<u8>(), 0..60),
        count in 0u64..6,
    ) {
        let body = [&numbers(&[count])[..], &body].concat();
        let mut content = Vec::new();
        if apply(&body, &[7; 100], 200, &mut content).is_ok() {
            prop_assert_eq!(content.len(), 200);
        }
    }
}

#[test]
fn every_changed_byte_of_delta_and_bases_is_detected() {
    let old: Vec<u8> = (0u16..3000).flat_map(u16::to_le_bytes).collect();
    let new = [&old[..2000], b"something else", &old[2500..]].concat();
    let delta = encode(&new, &old).unwrap();
    assert!(delta.len() < 100, "{}", delta.len());
    for bit in 0..delta.len() * 8 {
        let mut changed = delta.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // Two encodings may be equivalent.
        assert!(
            decode(&changed, &old, new.len()).map_or(true, |content| content == new),
            "bit {bit}"
        );
    }
    for end in 0..delta.len() {
        assert!(decode(&delta[..end], &old, new.len()).is_err(), "cut to {end}");
    }
    assert!(decode(&[&delta[..], b"x"].concat(), &old, new.len()).is_err());
    for at in [0, 1999, 2500, 5999] {
        let mut other = old.clone();
        other[at] ^= 1;
        assert!(
            matches!(decode(&delta, &other, new.len()), Err(PackError::Frame { .. })),
            "byte {at}"
        );
    }
    assert!(decode(&delta, &old[..5000], new.len()).is_err());
    assert!(decode(&delta, &old, new.len() - 1).is_err());
    assert!(decode(&delta, &old, new.len() + 1).is_err());
}

#[test]
fn content_unlike_its_prefix_is_not_encoded() {
    let old: Vec<u8> = (0u16..3000).flat_map(u16::to_le_bytes).collect();
    let other = vec![b'x'; 2000];
    assert!(encode(&[&old[..], &other].concat(), &old).is_some());
    assert!(encode(&[&old[..5000], &other].concat(), &old).is_none(), "more than a quarter");
    assert!(encode(&old, &[]).is_none());
}

#[test]
fn bodies_that_break_a_rule_are_refused() {
    let prefix: Vec<u8> = (0..100).collect();
    let decode_body =
        |body: &[u8], content: &[u8]| decode(&delta_of(body, content), &prefix, content.len());
    // Literals "ab", the bytes 2..22, the bytes 25..45, and "cd" at the end.
    let good = [&numbers(&[2, 2, 0, 20, 20, 0, 6])[..], b"abcd"].concat();
    let content = [b"ab", &prefix[2..22], &prefix[25..45], b"cd"].concat();
    assert_eq!(decode_body(&good, &content).unwrap(), content);
    for (what, body) in [
        (
            "a copy that ends beyond the bases",
            [&numbers(&[1, 0, 20, 162])[..], &[b'x'; 20]].concat(),
        ),
        (
            "a copy that begins beyond the bases",
            [&numbers(&[1, 0, 20, 202])[..], &[b'x'; 20]].concat(),
        ),
        ("a copy from before the bases", [&numbers(&[1, 0, 20, 1])[..], &[b'x'; 20]].concat()),
        (
            "a copy that is longer than the content",
            [&numbers(&[1, 0, 41, 0])[..], &[b'x'; 20]].concat(),
        ),
        (
            "a copy of so many bytes as there are numbers",
            [&numbers(&[1, 1, u64::MAX, 0])[..], &[b'x'; 20]].concat(),
        ),
        ("more literals than there are", [&numbers(&[1, 30, 1, 0])[..], &[b'x'; 20]].concat()),
        ("more copies than there are", numbers(&[9, 0, 20, 0])),
        ("copies without end", numbers(&[u64::MAX, 0, 20, 0])),
        ("a number that is not the shortest", [&[1, 0x80, 0, 20, 0][..], &[b'x'; 20]].concat()),
        ("less than the content", [&numbers(&[1, 0, 20, 0])[..], &[b'x'; 19]].concat()),
        ("more than the content", [&numbers(&[1, 0, 20, 0])[..], &[b'x'; 21]].concat()),
    ] {
        let content = [&prefix[..20], &[b'x'; 20]].concat();
        let error = decode_body(&body, &content).expect_err(what);
        assert!(!error.to_string().contains("checksum"), "{what}: {error}");
    }
    let large = delta_of(&[&numbers(&[0])[..], &[b'x'; 8]].concat(), b"xxxxxxxx");
    let error = decode(&large, &prefix, 8).unwrap_err().to_string();
    assert!(error.contains("larger than its content"), "{error}");
}
