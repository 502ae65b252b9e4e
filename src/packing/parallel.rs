//! Processes many pieces of content, in groups and on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::pack::Piece;
use crate::threads;

/// Divides pieces into groups that are read together: small enough for memory, large enough to be
/// worth a request.
pub(crate) fn group_pieces(
    pieces: impl Iterator<Item = (usize, Piece)>,
) -> Vec<Vec<(usize, Piece)>> {
    const MAX_PIECES: usize = 256;
    const MAX_BYTES: u64 = 4 << 20;
    let (mut groups, mut bytes): (Vec<Vec<_>>, u64) = (Vec::new(), 0);
    for (at, piece) in pieces {
        bytes += u64::from(piece.length);
        match groups.last_mut().filter(|group| group.len() < MAX_PIECES && bytes <= MAX_BYTES) {
            Some(group) => group.push((at, piece)),
            None => {
                bytes = u64::from(piece.length);
                groups.push(vec![(at, piece)]);
            }
        }
    }
    groups
}

/// Returns the results of `make` for the indexes below `count`, computed on `jobs` threads. Each
/// thread reuses one buffer.
pub(crate) fn in_parallel<T: Clone + Default + Send>(
    count: usize,
    jobs: usize,
    make: impl Fn(usize, &mut Vec<u8>) -> T + Sync,
) -> Vec<T> {
    let (next, made) = (AtomicUsize::new(0), Mutex::new(vec![T::default(); count]));
    threads::run_workers(jobs.min(count), || {
        let mut buffer = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            buffer.clear();
            let result = make(index, &mut buffer);
            made.lock()[index] = result;
        }
    });
    made.into_inner()
}
