//! A broadcast queue: the packs of a bundle are sealed once, and each mirror receives them at its
//! own pace.
//!
//! Memory holds a window of packs, however many mirrors there are. When the window is full, the
//! builder waits while every mirror has a pack to send. If a mirror has none, the oldest pack that
//! a slower mirror still needs goes to a scratch file. So equally fast mirrors never cause disk
//! access here, and a slow mirror does not delay the others.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cancel::CANCEL_POLL_INTERVAL;
use crate::fsx::{Context as _, IoError};
use crate::hash::{ObjectId, PackId};
use crate::mirror::{ObjectSource, OutgoingPack, PackCursor, PackSource, SourceError};
use crate::monitor::Monitor;
use crate::origin::scratch::Scratch;
use crate::pack;
use crate::packing::content_source::ContentSource;

/// Maximum bytes of packs in memory. A pack that is larger than this stays in memory only by
/// itself.
const WINDOW_BYTES: usize = 3 * pack::TARGET_PACK_BYTES;
/// Bytes per read from the scratch file.
const READ_BYTES: usize = 128 * 1024;

#[derive(Debug, Clone)]
enum PackLocation {
    Memory(Arc<Vec<u8>>),
    Scratch { offset: u64 },
    Consumed,
}

#[derive(Debug)]
struct QueueEntry {
    id: PackId,
    size: usize,
    location: PackLocation,
}

#[derive(Debug, Default)]
struct QueueState {
    packs: Vec<QueueEntry>,
    /// How the bundle ended: complete, or with an error that every receiver reports.
    end: Option<Result<(), String>>,
    /// The index of each receiver's next pack.
    receivers: HashMap<usize, usize>,
    next_receiver: usize,
    /// The number of receivers that are waiting for a pack.
    idle_receivers: usize,
    spilled_bytes: u64,
    is_scratch_full: bool,
}

/// The packs of one bundle.
pub(crate) struct PackQueue<'a> {
    queue: Mutex<QueueState>,
    /// Signals a new pack, or the end. Receivers wait for it. It is separate from `pack_consumed`
    /// so that receivers do not wake each other.
    pack_added: Condvar,
    /// Signals that a pack was received, or that a receiver is waiting. The builder waits for it.
    pack_consumed: Condvar,
    content_source: &'a ContentSource,
    /// Tells whether the push was cancelled.
    monitor: &'a dyn Monitor,
    spill_file: std::fs::File,
}

impl<'a> PackQueue<'a> {
    /// An empty queue. Packs that do not fit in memory go to `scratch`.
    pub(crate) fn new(
        number: usize,
        content_source: &'a ContentSource,
        scratch: &Scratch,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, IoError> {
        let queue = Mutex::default();
        let name = format!("packs-{number}");
        // An earlier attempt of this push may have left the file behind.
        scratch.dir().unlink_if_any(&name)?;
        let spill = scratch.dir().create_file(&name)?;
        Ok(Self {
            queue,
            pack_added: Condvar::new(),
            pack_consumed: Condvar::new(),
            content_source,
            monitor,
            spill_file: spill,
        })
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.queue.lock()
    }

    /// A receiver for one mirror. Create all of them before the first pack is pushed.
    pub(crate) fn subscribe(&self) -> PackReceiver<'_, 'a> {
        let mut queue = self.state();
        let number = queue.next_receiver;
        queue.next_receiver += 1;
        queue.receivers.insert(number, 0);
        PackReceiver { queue: self, number }
    }

    /// Adds a pack once there is room. Returns whether any receiver is left.
    pub(crate) fn push(&self, pack: pack::Pack) -> bool {
        let mut queue = self.state();
        loop {
            queue.release_consumed();
            if queue.receivers.is_empty() {
                return false;
            }
            let held = queue.bytes_in_memory();
            // A pack that is larger than the window is accepted when memory is empty.
            if held == 0 || held + pack.bytes.len() <= WINDOW_BYTES {
                break;
            }
            // If the scratch disk is full, the builder must wait for the slowest mirror.
            if queue.idle_receivers > 0 && !queue.is_scratch_full {
                queue.is_scratch_full = self.spill_oldest(&mut queue).is_err();
                continue;
            }
            // Waits without a time limit: if the push is stopped, the receivers end, and each sends
            // a notification when it is dropped.
            self.pack_consumed.wait(&mut queue);
        }
        let size = pack.bytes.len();
        queue.packs.push(QueueEntry {
            id: pack.id,
            size,
            location: PackLocation::Memory(Arc::new(pack.bytes)),
        });
        self.pack_added.notify_all();
        true
    }

    /// Waits up to `timeout` for a receiver's next pack or for the end. The builder may spill a
    /// pack in the meantime.
    fn wait_for(&self, receiver: usize, timeout: Duration) -> MutexGuard<'_, QueueState> {
        let mut queue = self.state();
        if queue.is_ready(receiver) {
            return queue;
        }
        queue.idle_receivers += 1;
        // The builder may be waiting for room; since this receiver has nothing to send, it can
        // spill a pack now.
        self.pack_consumed.notify_all();
        let began = Instant::now();
        while !queue.is_ready(receiver) && !self.monitor.is_cancelled() {
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            self.pack_added.wait_for(&mut queue, left.min(CANCEL_POLL_INTERVAL));
        }
        queue.idle_receivers -= 1;
        queue
    }

    fn spill_oldest(&self, queue: &mut QueueState) -> Result<(), IoError> {
        let offset = queue.spilled_bytes;
        let oldest =
            queue.packs.iter_mut().find(|pack| matches!(pack.location, PackLocation::Memory(_)));
        if let Some(QueueEntry { location: place, size, .. }) = oldest
            && let PackLocation::Memory(bytes) = &*place
        {
            // Written with the lock held, so that no receiver looks for the pack while it is being
            // moved.
            self.spill_file.write_all_at(bytes, offset).context("write", || "scratch".into())?;
            *place = PackLocation::Scratch { offset };
            queue.spilled_bytes += *size as u64;
        }
        Ok(())
    }

    /// Closes the queue, successfully or with an error.
    pub(crate) fn end(&self, end: Result<(), String>) {
        self.state().end.get_or_insert(end);
        self.pack_added.notify_all();
    }
}

impl QueueState {
    /// The index of a receiver's next pack.
    fn next_of(&self, receiver: usize) -> usize {
        self.receivers.get(&receiver).copied().unwrap_or(0)
    }

    /// Whether the next pack is in the queue, or the queue has been closed.
    fn is_ready(&self, receiver: usize) -> bool {
        self.next_of(receiver) < self.packs.len() || self.end.is_some()
    }

    fn bytes_in_memory(&self) -> usize {
        self.packs
            .iter()
            .filter(|pack| matches!(pack.location, PackLocation::Memory(_)))
            .map(|pack| pack.size)
            .sum()
    }

    /// Drops the packs that every receiver has consumed.
    fn release_consumed(&mut self) {
        let passed = self.receivers.values().copied().min().unwrap_or(self.packs.len());
        for pack in &mut self.packs[..passed] {
            pack.location = PackLocation::Consumed;
        }
    }
}

/// One mirror's reader. Once it is dropped, the queue no longer waits for that mirror.
pub(crate) struct PackReceiver<'s, 'a> {
    queue: &'s PackQueue<'a>,
    number: usize,
}

impl Drop for PackReceiver<'_, '_> {
    fn drop(&mut self) {
        self.queue.state().receivers.remove(&self.number);
        self.queue.pack_consumed.notify_all();
    }
}

impl ObjectSource for PackReceiver<'_, '_> {
    fn announce(&self, objects: &[ObjectId]) {
        self.queue.content_source.cancellable_by(self.queue.monitor).announce(objects);
    }

    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SourceError> {
        self.queue.content_source.cancellable_by(self.queue.monitor).object(id)
    }
}

impl PackSource for PackReceiver<'_, '_> {
    fn packs(&self) -> Box<dyn PackCursor + '_> {
        Box::new(QueueCursor { queue: self.queue, number: self.number })
    }
}

struct QueueCursor<'s, 'a> {
    queue: &'s PackQueue<'a>,
    number: usize,
}

impl PackCursor for QueueCursor<'_, '_> {
    fn next(&mut self) -> Result<Option<Box<dyn OutgoingPack>>, SourceError> {
        let mut queue = self.queue.wait_for(self.number, Duration::MAX);
        let at = queue.next_of(self.number);
        let Some(QueueEntry { id, size, location: place }) = queue.packs.get(at) else {
            return match &queue.end {
                Some(Err(error)) => Err(error.clone().into()),
                None => Err("stopped".into()),
                Some(Ok(())) => Ok(None),
            };
        };
        let bytes = match place {
            PackLocation::Memory(bytes) => PackBytes::Memory(Arc::clone(bytes)),
            PackLocation::Scratch { offset } => {
                PackBytes::Scratch(self.queue.spill_file.try_clone()?, *offset)
            }
            PackLocation::Consumed => {
                return Err("this bundle was taken by as many mirrors as it was made for".into());
            }
        };
        let pack = QueuedPack { id: *id, size: *size, bytes };
        // From now on, the queue may drop the pack; the returned pack keeps its bytes.
        queue.receivers.insert(self.number, at + 1);
        self.queue.pack_consumed.notify_all();
        Ok(Some(Box::new(pack)))
    }

    fn wait(&self, timeout: Duration) -> bool {
        self.queue.wait_for(self.number, timeout).is_ready(self.number)
    }
}

enum PackBytes {
    Memory(Arc<Vec<u8>>),
    Scratch(std::fs::File, u64),
}

struct QueuedPack {
    id: PackId,
    size: usize,
    bytes: PackBytes,
}

impl OutgoingPack for QueuedPack {
    fn id(&self) -> PackId {
        self.id
    }

    fn size(&self) -> u64 {
        self.size as u64
    }

    fn bytes(&self) -> Result<Arc<Vec<u8>>, SourceError> {
        match &self.bytes {
            PackBytes::Memory(bytes) => Ok(Arc::clone(bytes)),
            PackBytes::Scratch(file, offset) => {
                let mut bytes = vec![0; self.size];
                file.read_exact_at(&mut bytes, *offset)?;
                Ok(Arc::new(bytes))
            }
        }
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, SourceError> {
        Ok(match &self.bytes {
            PackBytes::Memory(bytes) => Box::new(io::Cursor::new(SharedBytes(Arc::clone(bytes)))),
            PackBytes::Scratch(file, offset) => {
                let part = ScratchPart { file: file.try_clone()?, at: *offset, left: self.size };
                Box::new(BufReader::with_capacity(READ_BYTES, part))
            }
        })
    }
}

struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A pack in the scratch file. Uses positional reads, because the file offset is shared.
struct ScratchPart {
    file: std::fs::File,
    at: u64,
    left: usize,
}

impl Read for ScratchPart {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(self.left);
        let count = self.file.read_at(&mut out[..most], self.at)?;
        self.at += count as u64;
        self.left -= count;
        Ok(count)
    }
}
