//! Content of a quarantine that arrived in one piece.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::fsx::{Dir, FileMode};
use crate::hash::ObjectId;
use crate::store::layout::{fan_out_name, object_name};
use crate::store::open::LockedStore;
use crate::store::{StoreError, mismatch};

/// Content that arrived in one piece, in the same 256 directories as the store's objects. A whole
/// directory is moved if the corresponding directory of the store is missing or empty.
///
/// Only the parent directory stays open: a push fills many mirrors at once, and 256 open
/// directories per mirror would exceed the limit for one process.
#[derive(Debug)]
pub(super) struct WholeObjects {
    dir: Dir,
    /// Which of the 256 directories exist, by the first byte of their objects.
    shards: Vec<OnceLock<()>>,
}

impl WholeObjects {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir, shards: std::iter::repeat_with(OnceLock::new).take(256).collect() }
    }

    /// The path of an object below the quarantine. Creates its directory on first use.
    fn name(&self, object: &ObjectId) -> Result<String, StoreError> {
        let byte = object.as_bytes()[0];
        let shard = &self.shards[usize::from(byte)];
        if shard.get().is_none() {
            drop(self.dir.ensure_dir(&fan_out_name(byte))?);
            shard.get_or_init(|| ());
        }
        Ok(object_name(object))
    }

    /// The path of an object, for messages.
    pub(super) fn path(&self, object: &ObjectId) -> PathBuf {
        self.dir.join(object_name(object))
    }

    pub(super) fn open_file(&self, object: &ObjectId) -> Result<File, StoreError> {
        Ok(self.dir.open_file(&self.name(object)?)?)
    }

    /// Writes the content of an object.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if the file already exists: each new object is sent only once.
    pub(super) fn write_new(
        &self,
        object: &ObjectId,
        bytes: &[u8],
        mode: FileMode,
        mtime: u64,
    ) -> Result<(), StoreError> {
        match self.dir.write_new(&self.name(object)?, bytes, mode, Some(mtime)) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(mismatch(format!("the content of object {object} was sent twice")))
            }
            other => Ok(other?),
        }
    }

    /// Removes the content of an object, if it exists.
    pub(super) fn remove(&self, object: &ObjectId) -> Result<(), StoreError> {
        self.dir.unlink_if_any(&self.name(object)?)?;
        Ok(())
    }

    /// Moves an object to `store`.
    pub(super) fn move_to(
        &self,
        store: &LockedStore<'_>,
        object: &ObjectId,
    ) -> Result<(), StoreError> {
        store.adopt_object(object, &self.dir, &self.name(object)?)
    }

    /// Removes every file that is not in `kept`.
    pub(super) fn keep_only(&self, kept: &HashSet<ObjectId>) -> Result<(), StoreError> {
        for (shard, _) in self.dir.entries()? {
            let Some(shard) = shard.to_str().map(|name| self.dir.open_dir(name)).transpose()?
            else {
                continue;
            };
            for (name, _) in shard.entries()? {
                if ObjectId::parse_hex(name.as_encoded_bytes())
                    .is_none_or(|object| !kept.contains(&object))
                {
                    shard.unlink(&name)?;
                }
            }
        }
        Ok(())
    }

    /// Moves each directory that is missing or empty in the store. Returns which directories were
    /// moved. The directories must contain only wanted objects.
    pub(super) fn move_directories(&self, objects: &Dir) -> Result<Vec<bool>, StoreError> {
        let mut moved = vec![false; 256];
        for (byte, is_moved) in (0u8..=255).zip(&mut moved) {
            let name = fan_out_name(byte);
            // A single rename instead of one for each object. It does nothing if the store already
            // has objects there.
            if self.shards[usize::from(byte)].get().is_some() {
                *is_moved = self.dir.rename_dir(&name, objects, &name)?;
            }
        }
        Ok(moved)
    }
}
