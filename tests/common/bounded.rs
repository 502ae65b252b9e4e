//! Limits on the memory for data of a hostile peer: it is bounded by the limit of the response.

use std::cell::Cell;

use headwater::manifest::delta::{self, ChangeLimits};
use headwater::manifest::{Entry, ManifestError};
use headwater::mirror::{MirrorError, TransportError, read_state};

use super::{BASES, read_manifest, stream};

/// Decoded bytes that a manifest delta may have for each of its own bytes, and at least.
const DECODED: (u64, u64) = (1000, 1 << 20);
/// Operations between two checks for cancellation.
const OPERATIONS: u64 = 4096;
/// Memory for an object, an entry of the base and a position of it: at least what a receiver keeps
/// of each.
const MIN_MEMORY: [u64; 3] = [144, 33, 64];
/// The maximum of the same, and the positions that are granted at once.
const MAX_MEMORY: [u64; 3] = [256, 64, 256];
const POSITIONS: u64 = 1024;
/// Longer inputs are not tried as endless responses: it takes a while until those are refused.
const SHORT: usize = 4;

/// A manifest delta applied to bases under a quota: the first byte sets the memory, the second the
/// number of entries of the release. Counts work and memory instead of measuring them.
pub(crate) fn quota(data: &[u8]) {
    let Some((&[memory, entries], change)) = data.split_first_chunk() else { return };
    let (memory, entries) = (64 << (memory % 24), u64::from(entries));
    let bases = BASES.map(|base| read_manifest(base).unwrap().0);
    for base in bases.iter().map(Vec::as_slice).chain([&[][..]]) {
        change_within(change, base, memory, entries);
        if change.starts_with(b"HWMC") {
            change_within(&zstd::encode_all(change, 1).unwrap(), base, memory, entries);
        }
    }
}

fn change_within(change: &[u8], base: &[Entry], memory: u64, entries: u64) {
    let (granted, is_refused, looks) = (Cell::new(0u64), Cell::new(false), Cell::new(0u64));
    let reserve = |bytes: u64| {
        assert!(!is_refused.get(), "it continued without the memory that it requested");
        let sum = granted.get().saturating_add(bytes);
        is_refused.set(sum > memory);
        granted.set(if is_refused.get() { granted.get() } else { sum });
        !is_refused.get()
    };
    let is_cancelled = || {
        looks.set(looks.get() + 1);
        false
    };
    let (encoded_bytes, base_entries) = (change.len() as u64, base.len() as u64);
    let limits = ChangeLimits {
        encoded_bytes,
        base_entries: Some(base_entries),
        entries,
        reserve: &reserve,
        is_cancelled: &is_cancelled,
    };
    let needs = delta::summarize(change, &limits);
    let decoded_bytes = encoded_bytes * DECODED.0 + DECODED.1;
    assert!(looks.get() * OPERATIONS <= decoded_bytes, "more operations than bytes");
    assert_eq!(is_refused.get(), matches!(needs, Err(ManifestError::NoMemory)));
    let Ok(needs) = needs else { return };
    let (objects, positions) = (needs.objects.len() as u64, needs.base_entries.len() as u64);
    assert!(objects <= entries);
    let of_base = if objects > 0 { base_entries * MIN_MEMORY[1] } else { 0 };
    let least = objects * MIN_MEMORY[0] + of_base + positions * MIN_MEMORY[2];
    assert!(
        least <= granted.get(),
        "at least {least} bytes are needed, but {} were granted",
        granted.get()
    );
    // A position can be named twice, but each time takes bytes of the delta.
    let named = decoded_bytes.min(entries) + POSITIONS;
    let most = objects * MAX_MEMORY[0] + base_entries * MAX_MEMORY[1] + named * MAX_MEMORY[2];
    assert!(
        positions <= named && granted.get() <= most,
        "{} bytes were requested, but at most {most} are allowed",
        granted.get()
    );
    apply_within(change, base, &needs, entries);
}

/// Applying a delta reads the base once and makes no more entries than announced.
fn apply_within(change: &[u8], base: &[Entry], needs: &delta::DeltaSummary, entries: u64) {
    let Ok(copies) = delta::objects_at(&needs.base_entries, stream(base)) else { return };
    let ids: Vec<_> = needs
        .objects
        .iter()
        .map(|object| (headwater::hash::ObjectId::of(b""), object.size))
        .collect();
    let mut taken = 0;
    let counted = stream(base).inspect(|_| taken += 1);
    let applied = delta::apply(change, counted, &ids, &copies, std::io::sink());
    assert!(taken <= base.len());
    assert!(applied.is_err() || applied.is_ok_and(|(_, totals)| totals.entries <= entries));
}

/// For any response to a state request, even an endless one, the result is a valid state or an
/// error.
pub(crate) fn state(data: &[u8]) {
    match read_state(data) {
        Ok(state) => {
            let names: Vec<_> =
                state.releases.iter().map(headwater::release::Release::name).collect();
            assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
            assert!(names.iter().all(|name| name.sequence() <= state.highest_sequence));
            assert!(state.highest_sequence.checked_add(1).is_some());
            assert_eq!(state.current_release().map(headwater::release::Release::name).is_some(), {
                state.current.is_some_and(|current| names.contains(&current))
            });
            assert!(state.site.is_none() || state.only_site.is_none());
            assert!(state.site.is_none() || state.store.is_some());
            let texts: usize = state.releases.iter().map(|release| release.to_bytes().len()).sum();
            assert!(texts <= data.len(), "{texts} bytes of records were made from {}", data.len());
            let version = state.receiver.expect("the state was parsed from a response").version;
            assert!(version.len() <= data.len());
        }
        Err(MirrorError::Remote { refusal }) => assert!(refusal.message.len() <= data.len()),
        Err(MirrorError::Transport(TransportError::Foreign { .. })) => {}
        Err(other) => panic!("{other:?}"),
    }
    // An endless response is refused, and not because memory ran out.
    if data.first() == Some(&b'"') && data.len() <= SHORT {
        let (reader, mut read) = (Endless { data, at: 0 }, 0u64);
        assert!(read_state(Counting { reader, read: &mut read }).is_err());
        assert!(read <= 8 << 20, "{read} bytes were read");
    }
}

/// Repeats the same bytes for ever.
struct Endless<'a> {
    data: &'a [u8],
    at: usize,
}

impl std::io::Read for Endless<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        for byte in out.iter_mut() {
            *byte = self.data[self.at % self.data.len()];
            self.at += 1;
        }
        Ok(out.len())
    }
}

struct Counting<'a, R> {
    reader: R,
    read: &'a mut u64,
}

impl<R: std::io::Read> std::io::Read for Counting<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(out)?;
        *self.read += count as u64;
        Ok(count)
    }
}
