//! Objects: plain files named by the hash of their content.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use crate::fsx::{self, Context as _, Meta};
use crate::hash::{ObjectId, hash_reader};
use crate::pack::PackError;
use crate::store::layout::{fan_out_name, object_name};
use crate::store::open::LockedStore;
use crate::store::{Store, StoreError, mismatch, unless_damaged};

impl Store {
    /// The metadata of an object's file, if it exists.
    pub(in crate::store) fn object_meta(
        &self,
        object: &ObjectId,
    ) -> Result<Option<Meta>, StoreError> {
        Ok(self.layout.objects.stat(&object_name(object))?)
    }

    /// The size of an object's file in bytes; `None` if the object is missing.
    ///
    /// # Errors
    /// Fails if the disk cannot be read.
    pub fn object_bytes(&self, object: &ObjectId) -> Result<Option<u64>, StoreError> {
        let meta = self.object_meta(object)?.filter(|meta| meta.kind == fsx::FileKind::File);
        Ok(meta.map(|meta| meta.size))
    }

    /// Opens the content of an object. The caller must check that the content matches the id.
    ///
    /// # Errors
    /// Fails if the object is missing or cannot be read.
    pub fn open_object(&self, object: &ObjectId) -> Result<File, StoreError> {
        Ok(self.layout.objects.open_file(&object_name(object))?)
    }

    /// All objects in the store, in ascending order. Reading 256 directories is cheaper than a
    /// `stat` for each object in a manifest.
    pub(in crate::store) fn list_objects(&self) -> Result<Vec<ObjectId>, StoreError> {
        let mut objects = Vec::new();
        for byte in 0..=255u8 {
            let dir = self.layout.objects.open_dir(&fan_out_name(byte))?;
            let named = dir.entries()?;
            let start = objects.len();
            objects.extend(
                named.iter().filter_map(|(name, _)| ObjectId::parse_hex(name.as_encoded_bytes())),
            );
            objects[start..].sort_unstable();
        }
        Ok(objects)
    }

    /// Reads `length` bytes of an object from `offset` and appends them to `out`.
    pub(in crate::store) fn read_range(
        &self,
        object: &ObjectId,
        offset: u64,
        length: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let file = self.open_object(object)?;
        let path = || self.layout.objects.join(object_name(object));
        let size = file.metadata().context("examine", path)?.len();
        // A peer chose the range, so a range beyond the end is not a fault of the disk.
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > size) {
            return Err(mismatch("a block reads beyond the end of a base"));
        }
        let start = out.len();
        out.resize(start + length as usize, 0);
        Ok(file.read_exact_at(&mut out[start..], offset).context("read", path)?)
    }

    /// The id and size of the bytes in an object's file.
    pub(in crate::store) fn hash_object(
        &self,
        object: &ObjectId,
    ) -> Result<(ObjectId, u64), StoreError> {
        let path = || self.layout.objects.join(object_name(object));
        let content = self.open_object(object)?;
        fsx::fault::mark_read("read", path)?;
        Ok(hash_reader(content).context("read", path)?)
    }

    /// Whether an object's file is present and its bytes are right.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub(in crate::store) fn is_object_intact(&self, object: &ObjectId) -> Result<bool, StoreError> {
        Ok(unless_damaged(self.hash_object(object))?.is_some_and(|(found, _)| found == *object))
    }

    /// Whether each of `objects` is present and its bytes are right, in the same order.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`], or an error reading the disk.
    pub fn holds(
        &self,
        objects: &[ObjectId],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<bool>, StoreError> {
        let held = |object| {
            if cancelled() { Err(StoreError::Cancelled) } else { self.is_object_intact(object) }
        };
        objects.iter().map(held).collect()
    }
}

impl Store {
    /// Called when a block fails to decode with `error`: re-hashes the bases of the block and
    /// removes the damaged bases, so that they can be fetched again. Returns the error to report.
    pub(in crate::store) fn find_damaged_bases(
        &self,
        mut objects: Vec<ObjectId>,
        error: StoreError,
        wait: Duration,
    ) -> StoreError {
        objects.sort_unstable();
        objects.dedup();
        let held = match self.holds(&objects, &|| false) {
            Ok(held) => held,
            Err(unknown) => return unknown,
        };
        if held.iter().all(|is_held| *is_held) {
            return match error {
                // A block signature gave a false match. It is not known in which object, so the
                // origin uses none of these objects as a base again.
                StoreError::Pack(PackError::Frame { .. }) if !objects.is_empty() => {
                    StoreError::BaseMismatch { objects }
                }
                error => error,
            };
        }
        let damaged = objects.into_iter().zip(held).filter(|(_, is_held)| !is_held);
        let objects: Vec<ObjectId> = damaged.map(|(object, _)| object).collect();
        let forgotten = self
            .lock(wait)
            .and_then(|store| objects.iter().try_for_each(|object| store.remove_object(object)));
        forgotten.err().unwrap_or(StoreError::DamagedBases { objects })
    }
}

impl LockedStore<'_> {
    /// Removes an object, so that it no longer counts as present.
    pub(in crate::store) fn remove_object(&self, object: &ObjectId) -> Result<(), StoreError> {
        self.layout.objects.unlink_if_any(&object_name(object))?;
        Ok(())
    }

    /// Renames `dir`/`name`, which must be durable, to the name of its object. The rename is not
    /// synced.
    pub(in crate::store) fn adopt_object(
        &self,
        object: &ObjectId,
        dir: &fsx::Dir,
        name: &str,
    ) -> Result<(), StoreError> {
        Ok(dir.rename(name, &self.layout.objects, &object_name(object))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::empty_store;

    #[test]
    fn range_beyond_the_end_is_an_error_of_the_peer() {
        let (directory, store) = empty_store();
        let object = ObjectId::of(b"12345");
        let path = directory.path().join("www/.headwater/objects").join(object_name(&object));
        std::fs::write(path, b"12345").unwrap();
        let mut out = Vec::new();
        store.read_range(&object, 1, 4, &mut out).unwrap();
        assert_eq!(out, b"2345");
        for (offset, length) in [(0, 6), (5, 1), (u64::MAX, 1), (1 << 40, u32::MAX)] {
            let error = store.read_range(&object, offset, length, &mut out).unwrap_err();
            assert!(matches!(error, StoreError::Mismatch { .. }), "{offset}+{length}: {error}");
        }
    }
}
