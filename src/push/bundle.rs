//! The packs of a bundle: sealed once, walked by each mirror at its own pace.
//!
//! Memory holds a window of packs, however many mirrors there are. The builder
//! waits while every mirror has something to do; when one has not, the oldest
//! pack that a slower one still needs goes to a scratch file. So mirrors of one
//! pace never touch a disk here, and no slow one holds up the others.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::CANCEL_POLL_INTERVAL;
use crate::fsx::{Context as _, IoError};
use crate::hash::{ObjectId, PackId};
use crate::mirror::{Bundle, Contents, Pack, PackCursor, SupplyError};
use crate::monitor::Monitor;
use crate::pack;
use crate::push::contents::Supplies;
use crate::push::scratch::Scratch;

/// Bytes of packs kept in memory, and one pack of any size.
const WINDOW_BYTES: usize = 3 * pack::TARGET_PACK_BYTES;
/// So much of a pack is read at once from the scratch file, in bytes.
const READ_BYTES: usize = 128 * 1024;

#[derive(Debug, Clone)]
enum Place {
    Memory(Arc<Vec<u8>>),
    Scratch { offset: u64 },
    Gone,
}

#[derive(Debug)]
struct Sealed {
    id: PackId,
    size: usize,
    place: Place,
}

#[derive(Debug, Default)]
struct Shelf {
    packs: Vec<Sealed>,
    /// How the bundle ended: whole, or with an error that every mirror is told.
    end: Option<Result<(), String>>,
    /// The next pack of each seat that is taken.
    seats: HashMap<usize, usize>,
    next_seat: usize,
    /// Seats that wait for a pack.
    idle: usize,
    spilled_bytes: u64,
    is_scratch_full: bool,
}

/// The packs of one bundle.
pub(super) struct PackShelf<'a> {
    shelf: Mutex<Shelf>,
    /// There is a pack more, or the end. The seats wait for it, and must not wake each other.
    filled: Condvar,
    /// A pack was taken, or is waited for. The builder waits for it.
    emptied: Condvar,
    supplies: &'a Supplies,
    /// Tells whether the run was stopped.
    monitor: &'a dyn Monitor,
    spill: std::fs::File,
}

impl<'a> PackShelf<'a> {
    /// An empty shelf; what does not fit in memory goes to `scratch`.
    pub(super) fn new(
        number: usize,
        supplies: &'a Supplies,
        scratch: &Scratch,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, IoError> {
        let shelf = Mutex::default();
        let name = format!("packs-{number}");
        scratch.dir().unlink_if_any(&name)?;
        let spill = scratch.dir().create_file(&name)?;
        Ok(Self { shelf, filled: Condvar::new(), emptied: Condvar::new(), supplies, monitor, spill })
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for one mirror. Take all of them before the first pack is pushed.
    pub(super) fn seat(&self) -> Seat<'_, 'a> {
        let mut shelf = self.shelf();
        let number = shelf.next_seat;
        shelf.next_seat += 1;
        shelf.seats.insert(number, 0);
        Seat { shelf: self, number }
    }

    /// Adds a pack, once there is room. Answers whether anyone still wants it.
    pub(super) fn push(&self, pack: pack::Pack) -> bool {
        let mut shelf = self.shelf();
        loop {
            shelf.forget_taken();
            if shelf.seats.is_empty() {
                return false;
            }
            let held = shelf.bytes_in_memory();
            if held == 0 || held + pack.bytes.len() <= WINDOW_BYTES {
                break;
            }
            // Where there is no room to spill to, the slowest mirror sets the pace.
            if shelf.idle > 0 && !shelf.is_scratch_full {
                shelf.is_scratch_full = self.spill_oldest(&mut shelf).is_err();
                continue;
            }
            shelf = self.emptied.wait(shelf).unwrap_or_else(PoisonError::into_inner);
        }
        let size = pack.bytes.len();
        shelf.packs.push(Sealed { id: pack.id, size, place: Place::Memory(Arc::new(pack.bytes)) });
        self.filled.notify_all();
        true
    }

    /// Waits for the next pack of a seat or the end, at most so long. The builder may spill for it meanwhile.
    fn wait_for(&self, seat: usize, most: Duration) -> MutexGuard<'_, Shelf> {
        let mut shelf = self.shelf();
        if shelf.is_ready(seat) {
            return shelf;
        }
        shelf.idle += 1;
        self.emptied.notify_all();
        let began = Instant::now();
        while !shelf.is_ready(seat) && !self.monitor.is_cancelled() {
            let left = most.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            shelf = self
                .filled
                .wait_timeout(shelf, left.min(CANCEL_POLL_INTERVAL))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        shelf.idle -= 1;
        shelf
    }

    fn spill_oldest(&self, shelf: &mut Shelf) -> Result<(), IoError> {
        let offset = shelf.spilled_bytes;
        let oldest = shelf.packs.iter_mut().find(|pack| matches!(pack.place, Place::Memory(_)));
        if let Some(Sealed { place, size, .. }) = oldest
            && let Place::Memory(bytes) = &*place
        {
            self.spill.write_all_at(bytes, offset).context("write", || "scratch".into())?;
            *place = Place::Scratch { offset };
            shelf.spilled_bytes += *size as u64;
        }
        Ok(())
    }

    /// Says that there are no more packs, or why there cannot be.
    pub(super) fn end(&self, end: Result<(), String>) {
        self.shelf().end.get_or_insert(end);
        self.filled.notify_all();
    }
}

impl Shelf {
    /// The next pack of a seat, by its place.
    fn next_of(&self, seat: usize) -> usize {
        self.seats.get(&seat).copied().unwrap_or(0)
    }

    /// Whether that pack is here, or there is none to come.
    fn is_ready(&self, seat: usize) -> bool {
        self.next_of(seat) < self.packs.len() || self.end.is_some()
    }

    fn bytes_in_memory(&self) -> usize {
        self.packs.iter().filter(|pack| matches!(pack.place, Place::Memory(_))).map(|pack| pack.size).sum()
    }

    /// Lets go of packs that every seat has passed.
    fn forget_taken(&mut self) {
        let passed = self.seats.values().copied().min().unwrap_or(self.packs.len());
        for pack in &mut self.packs[..passed] {
            pack.place = Place::Gone;
        }
    }
}

/// The view of one mirror on a bundle; when it is dropped nobody waits for that mirror.
pub(super) struct Seat<'s, 'a> {
    shelf: &'s PackShelf<'a>,
    number: usize,
}

impl Drop for Seat<'_, '_> {
    fn drop(&mut self) {
        self.shelf.shelf().seats.remove(&self.number);
        self.shelf.emptied.notify_all();
    }
}

impl Contents for Seat<'_, '_> {
    fn announce(&self, objects: &[ObjectId]) {
        self.shelf.supplies.under(self.shelf.monitor).announce(objects);
    }

    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SupplyError> {
        self.shelf.supplies.under(self.shelf.monitor).object(id)
    }
}

impl Bundle for Seat<'_, '_> {
    fn packs(&self) -> Box<dyn PackCursor + '_> {
        Box::new(Cursor { shelf: self.shelf, number: self.number })
    }
}

struct Cursor<'s, 'a> {
    shelf: &'s PackShelf<'a>,
    number: usize,
}

impl PackCursor for Cursor<'_, '_> {
    fn next(&mut self) -> Result<Option<Box<dyn Pack>>, SupplyError> {
        let mut shelf = self.shelf.wait_for(self.number, Duration::MAX);
        let at = shelf.next_of(self.number);
        let Some(Sealed { id, size, place }) = shelf.packs.get(at) else {
            return match &shelf.end {
                Some(Err(error)) => Err(error.clone().into()),
                None => Err("stopped".into()),
                Some(Ok(())) => Ok(None),
            };
        };
        let bytes = match place {
            Place::Memory(bytes) => Bytes::Memory(Arc::clone(bytes)),
            Place::Scratch { offset } => Bytes::Scratch(self.shelf.spill.try_clone()?, *offset),
            Place::Gone => return Err("this bundle was taken by as many mirrors as it was made for".into()),
        };
        let pack = ShelfPack { id: *id, size: *size, bytes };
        shelf.seats.insert(self.number, at + 1);
        self.shelf.emptied.notify_all();
        Ok(Some(Box::new(pack)))
    }

    fn wait(&self, most: Duration) -> bool {
        self.shelf.wait_for(self.number, most).is_ready(self.number)
    }
}

enum Bytes {
    Memory(Arc<Vec<u8>>),
    Scratch(std::fs::File, u64),
}

struct ShelfPack {
    id: PackId,
    size: usize,
    bytes: Bytes,
}

impl Pack for ShelfPack {
    fn id(&self) -> PackId {
        self.id
    }

    fn size(&self) -> u64 {
        self.size as u64
    }

    fn bytes(&self) -> Result<Arc<Vec<u8>>, SupplyError> {
        match &self.bytes {
            Bytes::Memory(bytes) => Ok(Arc::clone(bytes)),
            Bytes::Scratch(file, offset) => {
                let mut bytes = vec![0; self.size];
                file.read_exact_at(&mut bytes, *offset)?;
                Ok(Arc::new(bytes))
            }
        }
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, SupplyError> {
        Ok(match &self.bytes {
            Bytes::Memory(bytes) => Box::new(io::Cursor::new(Shared(Arc::clone(bytes)))),
            Bytes::Scratch(file, offset) => {
                let part = ScratchPart { file: file.try_clone()?, at: *offset, left: self.size };
                Box::new(BufReader::with_capacity(READ_BYTES, part))
            }
        })
    }
}

/// Bytes that others have, too.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A pack in the scratch file, read where it is: the file's own position is that of nobody.
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
