//! Copies objects whose time or mode does not match an entry and which therefore cannot be
//! hard-linked.

use std::io::{self, Read, Write as _};

use crate::fsx::{self, Context as _, Dir, FileMode};
use crate::hash::ObjectId;
use crate::manifest::FileEntry;
use crate::store::layout::object_name;
use crate::store::{Store, StoreError};

/// Buffer size of a copy, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

impl Store {
    /// Writes the content of an entry's object to the new file `name` in `dir`, with the entry's
    /// time and the given mode. Does not sync it.
    ///
    /// # Errors
    /// [`StoreError::DamagedObject`] if the content does not match the object's id.
    pub(in crate::store) fn copy_object(
        &self,
        entry: &FileEntry,
        mode: FileMode,
        dir: &Dir,
        name: &str,
    ) -> Result<(), StoreError> {
        let damaged = StoreError::DamagedObject { object: entry.object };
        let Some(from) =
            fsx::none_if_missing(self.layout.objects.open_file(&object_name(&entry.object)))?
        else {
            return Err(damaged);
        };
        if write_object(entry, mode, from, dir, name)? { Ok(()) } else { Err(damaged) }
    }
}

/// Writes the bytes of `from` to the new file `name` in `dir`, with the entry's time and the given
/// mode. Returns whether the bytes match the entry's object; if not, removes the file. Does not
/// sync it.
pub(in crate::store) fn write_object(
    entry: &FileEntry,
    mode: FileMode,
    from: impl Read,
    dir: &Dir,
    name: &str,
) -> Result<bool, StoreError> {
    let path = || dir.join(name);
    let mut file = dir.create_file(name)?;
    fsx::fault::mark_change("write", &path())?;
    // One byte more than expected is enough to detect content that is too long.
    let mut from = from.take(entry.size + 1);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                file.write_all(&buffer[..count]).context("write", path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A failed read is a fault in the source, not in the destination disk, so it is handled
            // like wrong content.
            Err(_) => break,
        }
    }
    if ObjectId::finish(&hasher) != entry.object {
        dir.unlink(name)?;
        return Ok(false);
    }
    fsx::set_metadata(&file, mode, Some(entry.mtime), path)?;
    Ok(true)
}
