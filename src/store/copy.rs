//! Copies of objects, where times or mode keep a link from serving.

use std::io::{self, Read, Write as _};

use crate::fsx::{self, Context as _, Dir, FileMode};
use crate::hash::ObjectId;
use crate::manifest::FileEntry;
use crate::store::layout::object_name;
use crate::store::{Store, StoreError};

/// Bytes copied at once.
const CHUNK_BYTES: usize = 256 * 1024;

impl Store {
    /// Writes the content of an entry's object to the new file `name` in
    /// `dir`, with the entry's time and these permissions. Not synced.
    ///
    /// # Errors
    /// [`StoreError::DamagedObject`] when the object is not what its id says.
    pub(super) fn copy_object(
        &self,
        entry: &FileEntry,
        mode: FileMode,
        dir: &Dir,
        name: &str,
    ) -> Result<(), StoreError> {
        let damaged = StoreError::DamagedObject { object: entry.object };
        let Some(from) = fsx::found(self.layout.objects.open_file(&object_name(&entry.object)))? else {
            return Err(damaged);
        };
        if write_object(entry, mode, from, dir, name)? { Ok(()) } else { Err(damaged) }
    }
}

/// Writes what `from` gives to the new file `name` in `dir`, with the entry's
/// time and these permissions; answers whether it was the entry's object. If not, the file
/// is gone again. Not synced.
pub(super) fn write_object(
    entry: &FileEntry,
    mode: FileMode,
    from: impl Read,
    dir: &Dir,
    name: &str,
) -> Result<bool, StoreError> {
    let path = || dir.join(name);
    let mut file = dir.create_file(name)?;
    fsx::fault::mark("write", &path())?;
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
            // What it comes from is at fault, not the disk that it goes to.
            Err(_) => break,
        }
    }
    if ObjectId::finish(&hasher) != entry.object {
        dir.unlink(name)?;
        return Ok(false);
    }
    fsx::seal(&file, mode, Some(entry.mtime), path)?;
    Ok(true)
}
