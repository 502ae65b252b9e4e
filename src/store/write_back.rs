//! Writing content to the disk while more of it arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::fsx::{self, Dir, IoError};
use crate::pack::Piece;

/// Content that is written to the disk while more of it arrives: less is left to do at the end.
#[derive(Debug, Default)]
pub(super) struct WriteBack {
    /// Bytes since the last time.
    waiting: AtomicU64,
    under_way: Mutex<Option<JoinHandle<fsx::Result<()>>>>,
    failed: Mutex<Option<IoError>>,
}

impl WriteBack {
    /// Begins again once so much content has come since the last time.
    const BYTES: u64 = 64 << 20;
    /// What the smallest file takes on a disk, in bytes: of tiny ones a few megabytes are a lot of work.
    const FILE_BYTES: u64 = 4096;

    /// Takes note of what is about to be written.
    pub(super) fn before(&self, pieces: &[Piece], root: &Dir) {
        let bytes = pieces.iter().map(|piece| u64::from(piece.length).next_multiple_of(Self::FILE_BYTES)).sum::<u64>();
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes < Self::BYTES {
            return;
        }
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.join(under_way.take());
        self.waiting.store(0, Ordering::Relaxed);
        // Without it there is more to do at the end.
        let begun = root.try_clone().ok().and_then(|root| Builder::new().spawn(move || root.sync_file_system()).ok());
        *under_way = begun;
    }

    fn join(&self, thread: Option<JoinHandle<fsx::Result<()>>>) {
        let ended = thread.map(|thread| thread.join().expect("a sync does not panic"));
        if let Some(Err(error)) = ended {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Waits for its end. The system tells of a failure once: it counts as if it had come at the end.
    pub(super) fn finish(&self) -> fsx::Result<()> {
        self.join(self.under_way.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}
