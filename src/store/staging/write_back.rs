//! Starts writing content to disk while more content arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

use crate::fsx::{self, Dir, IoError};
use crate::pack::Piece;

/// Syncs content in the background while more content arrives, so that the final sync has less to
/// do.
#[derive(Debug, Default)]
pub(in crate::store) struct WriteBack {
    /// Bytes written since the last sync began.
    unsynced_bytes: AtomicU64,
    running_sync: Mutex<Option<JoinHandle<fsx::Result<()>>>>,
    failed: Mutex<Option<IoError>>,
}

impl WriteBack {
    /// How many bytes are written between syncs.
    const BYTES: u64 = 64 << 20;
    /// Minimum number of bytes that a file counts for: the space that the smallest file takes on
    /// disk. A few megabytes of tiny files are a lot of work.
    const FILE_BYTES: u64 = 4096;

    /// Counts content that is about to be written, and starts a sync if enough has accumulated.
    pub(in crate::store) fn before_write(&self, pieces: &[Piece], root: &Dir) {
        let bytes = pieces
            .iter()
            .map(|piece| u64::from(piece.length).next_multiple_of(Self::FILE_BYTES))
            .sum::<u64>();
        if self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes < Self::BYTES {
            return;
        }
        let mut under_way = self.running_sync.lock();
        if under_way.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.join(under_way.take());
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        // If no thread can be started, the final sync does the work.
        let begun = root
            .try_clone()
            .ok()
            .and_then(|root| Builder::new().spawn(move || root.sync_file_system()).ok());
        *under_way = begun;
    }

    fn join(&self, thread: Option<JoinHandle<fsx::Result<()>>>) {
        let ended = thread.map(|thread| thread.join().expect("a sync does not panic"));
        if let Some(Err(error)) = ended {
            self.failed.lock().get_or_insert(error);
        }
    }

    /// Waits for the running sync. The kernel reports a write error only once, so an error from an
    /// earlier sync is returned here: the final sync would no longer report it.
    pub(in crate::store) fn finish(&self) -> fsx::Result<()> {
        self.join(self.running_sync.lock().take());
        self.failed.lock().take().map_or(Ok(()), Err)
    }
}
