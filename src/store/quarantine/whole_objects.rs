//! Content of a quarantine that arrived in one piece.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::fsx::{Dir, FileMode};
use crate::hash::ObjectId;
use crate::store::layout::{fan_out_name, object_name};
use crate::store::{Store, StoreError, mismatch};

/// Content that arrived in one piece, in directories like those of the store:
/// where that has none they are moved there whole.
///
/// Only the directory above them stays open: a push fills many mirrors at once,
/// and 256 open directories for each of them are more than a process may have.
#[derive(Debug)]
pub(super) struct WholeObjects {
    dir: Dir,
    /// Which directories were made, or found, by the first byte of their objects.
    shelves: Vec<OnceLock<()>>,
}

impl WholeObjects {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir, shelves: std::iter::repeat_with(OnceLock::new).take(256).collect() }
    }

    /// The path of an object below the directory; its own directory is made when it is first asked for.
    fn name(&self, object: &ObjectId) -> Result<String, StoreError> {
        let byte = object.as_bytes()[0];
        let shelf = &self.shelves[usize::from(byte)];
        if shelf.get().is_none() {
            drop(self.dir.ensure_dir(&fan_out_name(byte))?);
            shelf.get_or_init(|| ());
        }
        Ok(object_name(object))
    }

    /// Where an object is, for messages.
    pub(super) fn path(&self, object: &ObjectId) -> PathBuf {
        self.dir.join(object_name(object))
    }

    /// Opens a file that is there.
    pub(super) fn open_file(&self, object: &ObjectId) -> Result<File, StoreError> {
        Ok(self.dir.open_file(&self.name(object)?)?)
    }

    /// Writes the content of an object.
    ///
    /// # Errors
    /// [`StoreError::Lie`] if it is there already: each new content is sent once.
    pub(super) fn write_new(
        &self,
        object: &ObjectId,
        bytes: &[u8],
        mode: FileMode,
        mtime: u64,
    ) -> Result<(), StoreError> {
        match self.dir.write_new(&self.name(object)?, bytes, mode, Some(mtime)) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(mismatch(format!("the content of object {object} twice")))
            }
            other => Ok(other?),
        }
    }

    /// Removes the content of an object, if it is there.
    pub(super) fn remove(&self, object: &ObjectId) -> Result<(), StoreError> {
        self.dir.unlink_if_any(&self.name(object)?)?;
        Ok(())
    }

    /// Moves an object to `store`.
    pub(super) fn move_to(&self, store: &Store, object: &ObjectId) -> Result<(), StoreError> {
        store.adopt(object, &self.dir, &self.name(object)?)
    }

    /// Removes every file that is not in `kept`.
    pub(super) fn keep_only(&self, kept: &HashSet<ObjectId>) -> Result<(), StoreError> {
        for (shelf, _) in self.dir.entries()? {
            let Some(shelf) = shelf.to_str().map(|name| self.dir.open_dir(name)).transpose()? else { continue };
            for (name, _) in shelf.entries()? {
                if ObjectId::parse_hex(name.as_encoded_bytes()).is_none_or(|object| !kept.contains(&object)) {
                    shelf.unlink(&name)?;
                }
            }
        }
        Ok(())
    }

    /// Moves all directories for which the store has none, or an empty one;
    /// answers which. Nothing else may be in them than what is wanted.
    pub(super) fn move_directories(&self, objects: &Dir) -> Result<Vec<bool>, StoreError> {
        let mut moved = vec![false; 256];
        for (byte, is_moved) in (0u8..=255).zip(&mut moved) {
            let name = fan_out_name(byte);
            if self.shelves[usize::from(byte)].get().is_some() {
                *is_moved = self.dir.rename_dir(&name, objects, &name)?;
            }
        }
        Ok(moved)
    }
}
