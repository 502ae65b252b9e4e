//! What an unfinished push has brought: written, hashed, not yet trusted.
//!
//! Content is written as packs arrive, in any order and by several threads.
//! A record a pack lists what was written, with digests, so that a later push
//! (of another process, after a crash or a power cut) can read it again,
//! believe what has the right bytes, and have only the rest sent.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fsx::{self, Context as _, Dir, FileMode};
use crate::hash::{BundleKey, ObjectId, PackId, hash_reader};
use crate::manifest::transit::NewObject;
use crate::pack::{BaseRange, PackReader, Piece};
use crate::store::layout::{LOCK, Layout, quarantine_name};
use crate::store::{Store, StoreError, lie};
use crate::varint;

/// A record is 40 bytes a piece, and a pack has no more pieces than bytes.
const MAX_HELD_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    received: u64,
    id: Option<ObjectId>,
}

impl Store {
    /// The bundles of which something is here, from pushes that did not end.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn unfinished(&self) -> Result<Vec<BundleKey>, StoreError> {
        let entries = self.layout.incoming.entries()?;
        Ok(entries.iter().filter_map(|(name, _)| BundleKey::parse_hex(name.as_encoded_bytes())).collect())
    }

    /// Bytes of content in the quarantine `key`, if there is one.
    pub(super) fn quarantined_bytes(&self, key: &BundleKey) -> Result<u64, StoreError> {
        let Some(dir) = self.layout.incoming.find_dir(&quarantine_name(key))? else { return Ok(0) };
        let Some(new) = dir.find_dir("new")? else { return Ok(0) };
        let sizes = new.entries()?.into_iter().filter_map(|(name, _)| Some(new.stat(name.to_str()?).ok()??.size));
        Ok(sizes.sum())
    }
}

/// The quarantine of one unfinished push; locked against other processes.
#[derive(Debug)]
pub struct Quarantine {
    name: String,
    new: Dir,
    held: Dir,
    _lock: File,
    objects: Vec<NewObject>,
    progress: Mutex<Vec<Progress>>,
    packs: HashSet<PackId>,
}

struct HeldPiece {
    piece: Piece,
    digest: ObjectId,
}

fn ordinal_name(ordinal: u32) -> String {
    ordinal.to_string()
}

impl Quarantine {
    /// Opens the quarantine `key` of `store` and reads again what it holds.
    pub(super) fn open(
        store: &Store,
        key: &BundleKey,
        objects: Vec<NewObject>,
        wait: Duration,
    ) -> Result<Self, StoreError> {
        let name = quarantine_name(key);
        let (dir, lock) = loop {
            let dir = store.layout.incoming.ensure_dir(&name)?;
            let path = dir.join(LOCK);
            let Some(lock) = fsx::found(dir.open_or_create_file(LOCK))? else { continue };
            if !fsx::lock(&lock, wait, &path)? {
                return Err(StoreError::Locked { path });
            }
            // Whoever had the lock may have ended and removed the directory.
            let inode = |meta: Option<fsx::Meta>| meta.map(|meta| meta.inode);
            if inode(store.layout.incoming.stat(&name)?) == inode(dir.stat(".")?) {
                break (dir, lock);
            }
        };
        let (new, held) = (dir.ensure_dir("new")?, dir.ensure_dir("held")?);
        let progress = Mutex::new(vec![Progress::default(); objects.len()]);
        let mut quarantine = Self { name, new, held, _lock: lock, objects, progress, packs: HashSet::new() };
        match quarantine.resume() {
            // What is here contradicts itself: it must not stand in the way of what comes.
            Err(StoreError::Lie { .. }) => quarantine.start_over()?,
            other => other?,
        }
        Ok(quarantine)
    }

    fn start_over(&mut self) -> Result<(), StoreError> {
        for dir in [&self.held, &self.new] {
            for (name, _) in dir.entries()? {
                dir.unlink(&name)?;
            }
        }
        self.packs.clear();
        self.progress().fill(Progress::default());
        Ok(())
    }

    /// The packs that need not be sent again.
    #[must_use]
    pub const fn packs(&self) -> &HashSet<PackId> {
        &self.packs
    }

    fn progress(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resume(&mut self) -> Result<(), StoreError> {
        let mut covered = HashSet::new();
        for (name, _) in self.held.entries()? {
            let Some(pack) = PackId::parse_hex(name.as_encoded_bytes()) else {
                self.held.unlink(&name)?;
                continue;
            };
            let record = self.held.read(&pack.to_string(), MAX_HELD_BYTES)?;
            let pieces = parse_held(&record).filter(|pieces| pieces.iter().all(|held| self.is_intact(held)));
            let Some(pieces) = pieces else {
                self.held.unlink(&name)?;
                continue;
            };
            for held in &pieces {
                covered.insert(held.piece.ordinal);
                self.count(&held.piece, held.digest)?;
            }
            self.packs.insert(pack);
        }
        for (name, _) in self.new.entries()? {
            let ordinal = name.to_str().and_then(|name| name.parse::<u32>().ok());
            if ordinal.is_none_or(|ordinal| !covered.contains(&ordinal)) {
                self.new.unlink(&name)?;
            }
        }
        self.unseal_partial(&covered)?;
        self.seal_again()
    }

    /// Content that is to be written to again may have been sealed before a crash.
    fn unseal_partial(&self, covered: &HashSet<u32>) -> Result<(), StoreError> {
        let is_partial = |ordinal: &&u32| self.progress()[**ordinal as usize].id.is_none();
        for ordinal in covered.iter().filter(is_partial) {
            let name = ordinal_name(*ordinal);
            fsx::seal(&self.new.open_file(&name)?, FileMode::Record, None, || self.new.join(&name))?;
        }
        Ok(())
    }

    /// Whole content of an earlier push gets the times of this one.
    fn seal_again(&self) -> Result<(), StoreError> {
        let whole: Vec<bool> = self.progress().iter().map(|progress| progress.id.is_some()).collect();
        for (ordinal, object) in (0u32..).zip(&self.objects).filter(|(ordinal, _)| whole[*ordinal as usize]) {
            let name = ordinal_name(ordinal);
            let file = self.new.open_file(&name)?;
            fsx::seal(&file, FileMode::content(object.exec), Some(object.mtime), || self.new.join(&name))?;
        }
        Ok(())
    }

    fn is_intact(&self, held: &HeldPiece) -> bool {
        let piece = &held.piece;
        let fits = self.objects.get(piece.ordinal as usize).is_some_and(|object| {
            piece.offset.checked_add(u64::from(piece.length)).is_some_and(|end| end <= object.size)
        });
        let mut bytes = vec![0; piece.length as usize];
        let read =
            || self.new.open_file(&ordinal_name(piece.ordinal)).ok()?.read_exact_at(&mut bytes, piece.offset).ok();
        fits && { read }().is_some() && ObjectId::of(&bytes) == held.digest
    }

    /// Writes the content of a pack and remembers that it is held. May be
    /// called from several threads; `prefix` reads the bases of a block.
    pub(super) fn take(
        &self,
        id: &PackId,
        pack: &PackReader<'_>,
        prefix: impl Fn(&[BaseRange]) -> Result<Vec<u8>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut record = Vec::new();
        for block in pack.blocks() {
            let block = block?;
            let prefix = if block.bases().is_empty() { Vec::new() } else { prefix(block.bases())? };
            let content = block.decode(&prefix)?;
            let mut rest = &content[..];
            for piece in block.pieces() {
                let (bytes, behind) = rest.split_at(piece.length as usize);
                rest = behind;
                let digest = ObjectId::of(bytes);
                self.write(piece, bytes, digest)?;
                push_held(&HeldPiece { piece: *piece, digest }, &mut record);
            }
        }
        record.extend_from_slice(ObjectId::of(&record).as_bytes());
        // A record that was cut must not pass for a whole one of fewer pieces.
        let temporary = format!("{id}.tmp");
        self.held.write_new(&temporary, &record, FileMode::Record, None)?;
        Ok(self.held.rename(&temporary, &self.held, &id.to_string())?)
    }

    fn write(&self, piece: &Piece, bytes: &[u8], digest: ObjectId) -> Result<(), StoreError> {
        let object = self.objects.get(piece.ordinal as usize).ok_or_else(|| lie("content that nothing shows"))?;
        let end = piece.offset.checked_add(u64::from(piece.length));
        if end.is_none_or(|end| end > object.size) {
            return Err(lie(format!("content behind the end of new object {}", piece.ordinal)));
        }
        let name = ordinal_name(piece.ordinal);
        if u64::from(piece.length) == object.size {
            self.new.write_new(&name, bytes, FileMode::content(object.exec), Some(object.mtime))?;
        } else {
            let file = self.new.open_or_create_file(&name)?;
            fsx::write_at(&file, bytes, piece.offset, || self.new.join(&name))?;
        }
        self.count(piece, digest)
    }

    /// Counts a piece; hashes and seals an object of several pieces once it is whole.
    fn count(&self, piece: &Piece, digest: ObjectId) -> Result<(), StoreError> {
        let object = self.objects[piece.ordinal as usize];
        let is_whole = {
            let mut progress = self.progress();
            let progress = &mut progress[piece.ordinal as usize];
            progress.received += u64::from(piece.length);
            if progress.received > object.size {
                return Err(lie(format!("content of new object {} twice", piece.ordinal)));
            }
            progress.received == object.size
        };
        if !is_whole {
            return Ok(());
        }
        let mut id = digest;
        if u64::from(piece.length) < object.size {
            let name = ordinal_name(piece.ordinal);
            let path = || self.new.join(&name);
            let file = self.new.open_file(&name)?;
            let (whole, size) = hash_reader(&file).context("read", path)?;
            if size != object.size {
                return Err(lie(format!("new object {} is not of its size", piece.ordinal)));
            }
            fsx::seal(&file, FileMode::content(object.exec), Some(object.mtime), path)?;
            id = whole;
        }
        self.progress()[piece.ordinal as usize].id = Some(id);
        Ok(())
    }

    /// The ids and sizes of the new objects, by ordinal, all of them whole.
    pub(super) fn objects(&self) -> Result<Vec<(ObjectId, u64)>, StoreError> {
        let progress = self.progress();
        let mut ids = Vec::with_capacity(self.objects.len());
        for (ordinal, (object, progress)) in (0u32..).zip(self.objects.iter().zip(progress.iter())) {
            let id = match progress.id {
                Some(id) => id,
                None if object.size == 0 => {
                    let mode = FileMode::content(object.exec);
                    self.new.unlink_if_any(&ordinal_name(ordinal))?;
                    self.new.write_new(&ordinal_name(ordinal), b"", mode, Some(object.mtime))?;
                    ObjectId::of(b"")
                }
                None => return Err(lie(format!("new object {ordinal} did not arrive whole"))),
            };
            ids.push((id, object.size));
        }
        Ok(ids)
    }

    /// Moves the content of an ordinal to its object. It replaces an object
    /// that is there: that one may be damaged, and this one was just hashed.
    pub(super) fn promote(&self, ordinal: u32, id: &ObjectId, store: &Store) -> Result<(), StoreError> {
        store.adopt(id, &self.new, &ordinal_name(ordinal))
    }

    /// Removes the quarantine.
    pub(super) fn discard(&self, layout: &Layout) -> Result<(), StoreError> {
        Ok(layout.incoming.remove_all(&self.name)?)
    }
}

fn push_held(held: &HeldPiece, out: &mut Vec<u8>) {
    varint::push(u64::from(held.piece.ordinal), out);
    varint::push(held.piece.offset, out);
    varint::push(u64::from(held.piece.length), out);
    out.extend_from_slice(held.digest.as_bytes());
}

fn parse_held(record: &[u8]) -> Option<Vec<HeldPiece>> {
    // A crash may have cut it, also between two pieces: less than all of it says nothing.
    let (mut record, digest) = record.split_last_chunk::<32>()?;
    if ObjectId::of(record).as_bytes() != digest {
        return None;
    }
    let mut pieces = Vec::new();
    while !record.is_empty() {
        let ordinal = u32::try_from(varint::take(&mut record).ok()?).ok()?;
        let offset = varint::take(&mut record).ok()?;
        let length = u32::try_from(varint::take(&mut record).ok()?).ok()?;
        let (digest, rest) = record.split_first_chunk::<32>()?;
        record = rest;
        pieces.push(HeldPiece { piece: Piece { ordinal, offset, length }, digest: ObjectId::from_bytes(*digest) });
    }
    Some(pieces)
}
