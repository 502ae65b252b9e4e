//! Content of a quarantine that arrived in one piece.

use std::collections::HashSet;
use std::fs::File;
use std::sync::OnceLock;

use crate::fsx::Dir;
use crate::hash::ObjectId;
use crate::store::StoreError;
use crate::store::layout::shelf_name;

/// Content that arrived in one piece, in directories like those of the store:
/// where that has none they are moved there whole.
#[derive(Debug)]
pub(super) struct Whole {
    dir: Dir,
    shelves: Vec<OnceLock<Dir>>,
}

impl Whole {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir, shelves: std::iter::repeat_with(OnceLock::new).take(256).collect() }
    }

    /// The directory for an object, made when it is first asked for.
    pub(super) fn shelf(&self, object: &ObjectId) -> Result<&Dir, StoreError> {
        let cell = &self.shelves[usize::from(object.as_bytes()[0])];
        match cell.get() {
            Some(shelf) => Ok(shelf),
            None => {
                let shelf = self.dir.ensure_dir(&shelf_name(object.as_bytes()[0]))?;
                Ok(cell.get_or_init(|| shelf))
            }
        }
    }

    /// Opens a file that is there.
    pub(super) fn open_file(&self, object: &ObjectId) -> Result<File, StoreError> {
        Ok(self.shelf(object)?.open_file(&object.to_string())?)
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
    pub(super) fn move_shelves(&self, objects: &Dir) -> Result<Vec<bool>, StoreError> {
        let mut moved = vec![false; 256];
        for (byte, is_moved) in (0u8..=255).zip(&mut moved) {
            let name = shelf_name(byte);
            if self.shelves[usize::from(byte)].get().is_some() {
                *is_moved = self.dir.rename_dir(&name, objects, &name)?;
            }
        }
        Ok(moved)
    }
}
