//! The quarantine of an unfinished push: content that has been written and hashed, but is not
//! trusted yet.
//!
//! Several threads write content as packs arrive, in any order. For each pack, a record lists the
//! written pieces with digests. A later push, even in another process or after a crash, re-reads
//! the content, keeps every piece whose bytes are right, and needs only the rest.

mod cleanup;
mod pack_records;
mod whole_objects;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::fsx::{self, Context as _, Dir, FileMode};
use crate::hash::{BundleKey, ObjectId, PackId, PieceHash, PieceHashes, hash_reader};
use crate::manifest::delta::NewObject;
use crate::pack::{Block, PackReader, Piece};
use crate::store::content::permissions::Permissions;
use crate::store::layout::{LOCK, Layout, quarantine_name};
use crate::store::open::LockedStore;
use crate::store::{Store, StoreError, mismatch, unless_damaged};

use pack_records::PieceRecord;
use whole_objects::WholeObjects;

/// Maximum bytes to read from a record. A piece takes about 40 bytes, and a pack has no more pieces
/// than bytes.
const MAX_PACK_RECORD_BYTES: u64 = 64 * 1024 * 1024;
const OBJECTS: &str = "objects";
const PARTS: &str = "parts";
const PACK_RECORDS: &str = "held";

#[derive(Debug, Clone, Copy, Default)]
struct QuarantineProgress {
    received: u64,
    id: Option<ObjectId>,
}

impl Store {
    /// The bundles of unfinished pushes that have a quarantine here.
    ///
    /// # Errors
    /// Fails if the disk cannot be read.
    pub fn unfinished_bundles(&self) -> Result<Vec<BundleKey>, StoreError> {
        let entries = self.layout.incoming.entries()?;
        Ok(entries
            .iter()
            .filter_map(|(name, _)| BundleKey::parse_hex(name.as_encoded_bytes()))
            .collect())
    }

    /// Bytes of content in the quarantine `key`; 0 if there is none.
    pub(in crate::store) fn quarantined_bytes(&self, key: &BundleKey) -> Result<u64, StoreError> {
        let Some(dir) = self.layout.incoming.find_dir(&quarantine_name(key))? else { return Ok(0) };
        let size_in = |dir: &Dir| -> Result<u64, StoreError> {
            let sizes = dir
                .entries()?
                .into_iter()
                .filter_map(|(name, _)| Some(dir.stat(name.to_str()?).ok()??.size));
            Ok(sizes.sum())
        };
        let mut sum = dir.find_dir(PARTS)?.map_or(Ok(0), |parts| size_in(&parts))?;
        if let Some(objects) = dir.find_dir(OBJECTS)? {
            for (name, _) in objects.entries()? {
                let shard = name.to_str().map(|name| objects.find_dir(name)).transpose()?.flatten();
                sum += shard.map_or(Ok(0), |shard| size_in(&shard))?;
            }
        }
        Ok(sum)
    }
}

/// The quarantine of one unfinished push, locked against other processes.
#[derive(Debug)]
pub struct Quarantine {
    name: String,
    whole: WholeObjects,
    /// Content of objects that arrive in several pieces, by ordinal.
    parts: Dir,
    /// Serializes writes to files in `parts`.
    part_write_lock: Mutex<()>,
    records: Dir,
    _lock: File,
    objects: Vec<NewObject>,
    progress: Mutex<Vec<QuarantineProgress>>,
    /// The pieces received so far for objects that arrive in several pieces.
    hashes: Mutex<HashMap<u32, PieceHashes>>,
    packs: HashSet<PackId>,
    /// Permissions of the content.
    permissions: Permissions,
    is_gone: AtomicBool,
}

/// The files in a quarantine that contain held pieces.
#[derive(Default)]
struct CoveredFiles {
    parts: HashSet<u32>,
    whole: HashSet<ObjectId>,
}

fn ordinal_name(ordinal: u32) -> String {
    ordinal.to_string()
}

impl Quarantine {
    /// Opens the quarantine `key` of `store` and re-reads its content.
    pub(in crate::store) fn open(
        store: &Store,
        key: &BundleKey,
        objects: Vec<NewObject>,
        permissions: Permissions,
        wait: Duration,
    ) -> Result<Self, StoreError> {
        let name = quarantine_name(key);
        let (dir, lock) = loop {
            let dir = store.layout.incoming.ensure_dir(&name)?;
            let path = dir.join(LOCK);
            let Some(lock) = fsx::none_if_missing(dir.open_or_create_file(LOCK))? else { continue };
            if !fsx::lock_cancellable(&lock, wait, &|| store.cancel().is_cancelled(), &path)? {
                return Err(store.lock_error(path));
            }
            // The process that held the lock may have removed the directory before it exited.
            if store.is_quarantine(&name, &dir)? {
                break (dir, lock);
            }
        };
        let (whole, parts) = (WholeObjects::new(dir.ensure_dir(OBJECTS)?), dir.ensure_dir(PARTS)?);
        let held = dir.ensure_dir(PACK_RECORDS)?;
        let progress = Mutex::new(vec![QuarantineProgress::default(); objects.len()]);
        let packs = HashSet::new();
        let mut quarantine = Self {
            name,
            whole,
            parts,
            part_write_lock: Mutex::new(()),
            records: held,
            _lock: lock,
            objects,
            progress,
            hashes: Mutex::default(),
            packs,
            permissions,
            is_gone: AtomicBool::new(false),
        };
        match quarantine.resume() {
            // The content contradicts itself. Drop it, so it does not block new packs.
            Err(StoreError::Mismatch { .. }) => quarantine.reset()?,
            other => other?,
        }
        Ok(quarantine)
    }

    fn reset(&mut self) -> Result<(), StoreError> {
        for dir in [&self.records, &self.parts] {
            for (name, _) in dir.entries()? {
                dir.unlink(&name)?;
            }
        }
        self.whole.keep_only(&HashSet::new())?;
        self.packs.clear();
        self.progress().fill(QuarantineProgress::default());
        self.hashes().clear();
        Ok(())
    }

    /// The packs that need not be sent again.
    #[must_use]
    pub const fn packs(&self) -> &HashSet<PackId> {
        &self.packs
    }

    fn progress(&self) -> MutexGuard<'_, Vec<QuarantineProgress>> {
        self.progress.lock()
    }

    /// Whether the piece is its whole object.
    fn is_whole_object(&self, piece: &Piece) -> bool {
        let size = self.objects.get(piece.ordinal as usize).map(|object| object.size);
        size == Some(u64::from(piece.length))
    }

    fn hashes(&self) -> MutexGuard<'_, HashMap<u32, PieceHashes>> {
        self.hashes.lock()
    }

    // Nothing here was synced, so a record alone proves nothing: each piece is read and hashed
    // again.
    fn resume(&mut self) -> Result<(), StoreError> {
        let mut covered = CoveredFiles::default();
        for (name, _) in self.records.entries()? {
            let Some(pack) = PackId::parse_hex(name.as_encoded_bytes()) else {
                self.records.unlink(&name)?;
                continue;
            };
            let record = self.records.read(&pack.to_string(), MAX_PACK_RECORD_BYTES)?;
            let pieces = match pack_records::parse(&record) {
                Some(pieces) if self.are_intact(&pieces)? => pieces,
                _ => {
                    self.records.unlink(&name)?;
                    continue;
                }
            };
            for held in &pieces {
                if self.is_whole_object(&held.piece) {
                    covered.whole.insert(held.hash.as_object_id());
                } else {
                    covered.parts.insert(held.piece.ordinal);
                }
                self.count_piece(&held.piece, held.hash)?;
            }
            self.packs.insert(pack);
        }
        self.whole.keep_only(&covered.whole)?;
        for (name, _) in self.parts.entries()? {
            let ordinal = name.to_str().and_then(|name| name.parse::<u32>().ok());
            if ordinal.is_none_or(|ordinal| !covered.parts.contains(&ordinal)) {
                self.parts.unlink(&name)?;
            }
        }
        self.unseal_partial(&covered.parts)?;
        self.seal_again(&covered.parts)
    }

    /// Makes incomplete content writable again, because it may have been sealed before a crash.
    fn unseal_partial(&self, parts: &HashSet<u32>) -> Result<(), StoreError> {
        let is_partial = |ordinal: &&u32| self.progress()[**ordinal as usize].id.is_none();
        for ordinal in parts.iter().filter(is_partial) {
            let name = ordinal_name(*ordinal);
            fsx::set_metadata(&self.parts.open_file(&name)?, FileMode::RECORD, None, || {
                self.parts.join(&name)
            })?;
        }
        Ok(())
    }

    /// Gives complete content from an earlier push the times and permissions that this push needs.
    fn seal_again(&self, parts: &HashSet<u32>) -> Result<(), StoreError> {
        let ids: Vec<Option<ObjectId>> =
            self.progress().iter().map(|progress| progress.id).collect();
        for ((ordinal, object), id) in (0u32..).zip(&self.objects).zip(ids) {
            let Some(id) = id else { continue };
            let (file, path) = if parts.contains(&ordinal) {
                let name = ordinal_name(ordinal);
                (self.parts.open_file(&name)?, self.parts.join(name))
            } else {
                (self.whole.open_file(&id)?, self.whole.path(&id))
            };
            fsx::set_metadata(
                &file,
                self.permissions.file(object.exec),
                Some(object.mtime),
                || path.clone(),
            )?;
        }
        Ok(())
    }

    fn are_intact(&self, pieces: &[PieceRecord]) -> Result<bool, StoreError> {
        for piece in pieces {
            if !self.is_intact(piece)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a piece is present and its bytes are right.
    fn is_intact(&self, held: &PieceRecord) -> Result<bool, StoreError> {
        let piece = &held.piece;
        let fits = self.objects.get(piece.ordinal as usize).is_some_and(|object| {
            piece.offset.checked_add(u64::from(piece.length)).is_some_and(|end| end <= object.size)
        });
        if !fits {
            return Ok(false);
        }
        let read = || -> Result<Vec<u8>, StoreError> {
            let file = if self.is_whole_object(piece) {
                self.whole.open_file(&held.hash.as_object_id())?
            } else {
                self.parts.open_file(&ordinal_name(piece.ordinal))?
            };
            let mut bytes = vec![0; piece.length as usize];
            file.read_exact_at(&mut bytes, piece.offset)
                .context("read", || self.parts.path().to_owned())?;
            Ok(bytes)
        };
        Ok(unless_damaged(read())?.is_some_and(|bytes| self.hash(piece, &bytes) == held.hash))
    }

    /// Writes the content of a pack and then its record (step 1). May be called from several
    /// threads; `decode` decodes a block against its bases.
    pub(in crate::store) fn write_pack(
        &self,
        id: &PackId,
        pack: &PackReader<'_>,
        mut decode: impl for<'c> FnMut(&Block<'c>, &'c mut Vec<u8>) -> Result<&'c [u8], StoreError>,
    ) -> Result<(), StoreError> {
        let (mut record, mut buffer) = (Vec::new(), Vec::new());
        for block in pack.blocks() {
            let block = block?;
            let content = decode(&block, &mut buffer)?;
            let mut rest = content;
            for piece in block.pieces() {
                let (bytes, behind) = rest.split_at(piece.length as usize);
                rest = behind;
                let hash = self.hash(piece, bytes);
                // The content is written before its record: after a crash in between, only this
                // pack must be sent again.
                self.write(piece, bytes, hash)?;
                PieceRecord { piece: *piece, hash }.push(&mut record);
            }
        }
        // The rename is atomic but not synced. After a power cut the record or the content may be
        // missing; `resume` re-hashes every piece for that reason.
        pack_records::append_digest(&mut record);
        let temporary = format!("{id}.tmp");
        self.records.write_new(&temporary, &record, FileMode::RECORD, None)?;
        Ok(self.records.rename(&temporary, &self.records, &id.to_string())?)
    }

    fn hash(&self, piece: &Piece, bytes: &[u8]) -> PieceHash {
        if self.is_whole_object(piece) {
            PieceHash::of_object(bytes)
        } else {
            PieceHash::of(bytes, piece.offset)
        }
    }

    fn write(&self, piece: &Piece, bytes: &[u8], hash: PieceHash) -> Result<(), StoreError> {
        let object = self
            .objects
            .get(piece.ordinal as usize)
            .ok_or_else(|| mismatch("a piece belongs to no new object"))?;
        let end = piece.offset.checked_add(u64::from(piece.length));
        if end.is_none_or(|end| end > object.size) {
            return Err(mismatch(format!(
                "a piece lies beyond the end of new object {}",
                piece.ordinal
            )));
        }
        if u64::from(piece.length) == object.size {
            let (id, mode) = (hash.as_object_id(), self.permissions.file(object.exec));
            self.whole.write_new(&id, bytes, mode, object.mtime)?;
        } else {
            let name = ordinal_name(piece.ordinal);
            // Serialized: if several threads write to one file, they spin on its inode lock and
            // waste a core.
            let _turn = self.part_write_lock.lock();
            let file = self.parts.open_or_create_file(&name)?;
            fsx::write_at(&file, bytes, piece.offset, || self.parts.join(&name))?;
        }
        self.count_piece(piece, hash)
    }

    /// Counts a piece. Seals an object made of several pieces once it is complete.
    fn count_piece(&self, piece: &Piece, hash: PieceHash) -> Result<(), StoreError> {
        let object = self.objects[piece.ordinal as usize];
        let length = u64::from(piece.length);
        let is_one = self.is_whole_object(piece);
        if !is_one {
            self.hashes().entry(piece.ordinal).or_default().push(piece.offset, length, hash);
        }
        let is_whole = {
            let mut progress = self.progress();
            let progress = &mut progress[piece.ordinal as usize];
            progress.received += length;
            if progress.received > object.size {
                return Err(mismatch(format!(
                    "content of new object {} was sent twice",
                    piece.ordinal
                )));
            }
            progress.received == object.size
        };
        if is_whole {
            let id = if is_one { hash.as_object_id() } else { self.seal(piece.ordinal)? };
            self.progress()[piece.ordinal as usize].id = Some(id);
        }
        Ok(())
    }

    /// Seals an object that arrived in several pieces, all of which are present. Returns its id.
    fn seal(&self, ordinal: u32) -> Result<ObjectId, StoreError> {
        let object = self.objects[ordinal as usize];
        let name = ordinal_name(ordinal);
        let path = || self.parts.join(&name);
        let file = self.parts.open_file(&name)?;
        let hashes = self.hashes().remove(&ordinal).unwrap_or_default();
        let (id, size) = match hashes.finish(object.size) {
            Some(id) => (id, fsx::fstat(&file, &path())?.len()),
            // The pieces do not follow our own boundaries, so their hashes cannot be combined.
            None => hash_reader(&file).context("read", path)?,
        };
        if size != object.size {
            return Err(mismatch(format!("new object {ordinal} has the wrong size")));
        }
        fsx::set_metadata(&file, self.permissions.file(object.exec), Some(object.mtime), path)?;
        Ok(id)
    }

    /// The ids and sizes of the new objects, by ordinal. Fails if one of them is incomplete.
    pub(in crate::store) fn objects(&self) -> Result<Vec<(ObjectId, u64)>, StoreError> {
        let progress = self.progress();
        let mut ids = Vec::with_capacity(self.objects.len());
        for (ordinal, (object, progress)) in (0u32..).zip(self.objects.iter().zip(progress.iter()))
        {
            let id = match progress.id {
                Some(id) => id,
                None if object.size == 0 => {
                    let (id, mode) = (ObjectId::of(b""), self.permissions.file(object.exec));
                    self.whole.remove(&id)?;
                    self.whole.write_new(&id, b"", mode, object.mtime)?;
                    id
                }
                None => return Err(mismatch(format!("new object {ordinal} is incomplete"))),
            };
            ids.push((id, object.size));
        }
        Ok(ids)
    }

    /// Moves all content to `objects` under its ids (step 2). Replaces existing objects, because
    /// they may be damaged; this content has just been hashed.
    pub(in crate::store) fn move_objects(
        &self,
        objects: &[(ObjectId, u64)],
        store: &LockedStore<'_>,
    ) -> Result<(), StoreError> {
        let parts: HashSet<u32> = self
            .parts
            .entries()?
            .iter()
            .filter_map(|(name, _)| name.to_str()?.parse().ok())
            .collect();
        let moved = self.whole.move_directories(&store.layout.objects)?;
        for (ordinal, (id, _)) in (0u32..).zip(objects) {
            if parts.contains(&ordinal) {
                store.adopt_object(id, &self.parts, &ordinal_name(ordinal))?;
            } else if !moved[usize::from(id.as_bytes()[0])] {
                self.whole.move_to(store, id)?;
            }
        }
        Ok(())
    }

    /// Removes the quarantine. Only the first call does so: later the name may belong to another
    /// push.
    pub(in crate::store) fn discard(&self, layout: &Layout) -> Result<(), StoreError> {
        if !self.is_gone.swap(true, Ordering::Relaxed) {
            layout.incoming.remove_all(&self.name)?;
        }
        Ok(())
    }
}
