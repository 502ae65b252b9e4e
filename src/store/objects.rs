//! Objects: plain files named by what is in them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::fsx::{self, Context as _, Meta};
use crate::hash::{ObjectId, hash_reader};
use crate::store::layout::{fan_out_name, object_name};
use crate::store::{Store, StoreError, mismatch, unless_damaged};

impl Store {
    /// What is known of an object without reading it.
    pub(super) fn object_meta(&self, object: &ObjectId) -> Result<Option<Meta>, StoreError> {
        Ok(self.layout.objects.stat(&object_name(object))?)
    }

    /// The size of an object, as its file has it, in bytes; `None` if it is not here.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn object_bytes(&self, object: &ObjectId) -> Result<Option<u64>, StoreError> {
        let meta = self.object_meta(object)?.filter(|meta| meta.kind == fsx::FileKind::File);
        Ok(meta.map(|meta| meta.size))
    }

    /// Opens the content of an object. Whoever reads checks that it is what the id says.
    ///
    /// # Errors
    /// When it is not here or cannot be read.
    pub fn open_object(&self, object: &ObjectId) -> Result<File, StoreError> {
        Ok(self.layout.objects.open_file(&object_name(object))?)
    }

    /// Every object that is here, ascending. One reading of 256 directories:
    /// cheaper than asking for each object of a manifest.
    pub(super) fn list_objects(&self) -> Result<Vec<ObjectId>, StoreError> {
        let mut objects = Vec::new();
        for byte in 0..=255u8 {
            let dir = self.layout.objects.open_dir(&fan_out_name(byte))?;
            let named = dir.entries()?;
            let start = objects.len();
            objects.extend(named.iter().filter_map(|(name, _)| ObjectId::parse_hex(name.as_encoded_bytes())));
            objects[start..].sort_unstable();
        }
        Ok(objects)
    }

    /// Reads `length` bytes of an object from `offset` and appends them to `out`.
    pub(super) fn read_range(
        &self,
        object: &ObjectId,
        offset: u64,
        length: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let file = self.open_object(object)?;
        let path = || self.layout.objects.join(object_name(object));
        let size = file.metadata().context("examine", path)?.len();
        // The range is what a peer asks for, so one that is too far is not a fault of the disk.
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > size) {
            return Err(mismatch("a block reads behind the end of a base"));
        }
        let start = out.len();
        out.resize(start + length as usize, 0);
        Ok(file.read_exact_at(&mut out[start..], offset).context("read", path)?)
    }

    /// The id and the size of what is in the file of an object.
    pub(super) fn hash_object(&self, object: &ObjectId) -> Result<(ObjectId, u64), StoreError> {
        let path = || self.layout.objects.join(object_name(object));
        let content = self.open_object(object)?;
        fsx::fault::look("read", path)?;
        Ok(hash_reader(content).context("read", path)?)
    }

    /// Whether the file of an object is here and has its bytes.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(super) fn is_whole(&self, object: &ObjectId) -> Result<bool, StoreError> {
        Ok(unless_damaged(self.hash_object(object))?.is_some_and(|(found, _)| found == *object))
    }

    /// Which of `objects` are here with all their bytes, in their order.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`]; when it cannot be told, as the disk cannot be read.
    pub fn holds(&self, objects: &[ObjectId], cancelled: &dyn Fn() -> bool) -> Result<Vec<bool>, StoreError> {
        let held = |object| if cancelled() { Err(StoreError::Cancelled) } else { self.is_whole(object) };
        objects.iter().map(held).collect()
    }

    /// Takes the name of an object away: it is here no more.
    pub(super) fn forget_object(&self, object: &ObjectId) -> Result<(), StoreError> {
        self.layout.objects.unlink_if_any(&object_name(object))?;
        Ok(())
    }

    /// Gives the content in `dir`/`name`, which is durable, the name of its object.
    pub(super) fn adopt(&self, object: &ObjectId, dir: &fsx::Dir, name: &str) -> Result<(), StoreError> {
        Ok(dir.rename(name, &self.layout.objects, &object_name(object))?)
    }
}
