//! Block signatures of the objects in a manifest, computed while the objects are read.

use std::fs::File;
use std::io::{ErrorKind, Read as _};

use crate::fsx::Context as _;
use crate::hash::{ManifestId, ObjectId};
use crate::pack::{SignatureBuilder, SignatureKey, SignatureShape};
use crate::store::layout::object_name;
use crate::store::{Store, StoreError};

/// Maximum bytes per read.
const READ_BYTES: usize = 256 * 1024;

/// The signatures of some objects, one frame for each object: the byte 0 if the store lacks the
/// object or its size differs from the manifest, otherwise the byte 1 and the hashes.
#[derive(Debug)]
pub struct SignatureStream {
    store: Option<Store>,
    key: SignatureKey,
    files: std::vec::IntoIter<Option<SignedFile>>,
    open: Option<OpenFile>,
}

#[derive(Debug, Clone, Copy)]
struct SignedFile {
    object: ObjectId,
    shape: SignatureShape,
}

#[derive(Debug)]
struct OpenFile {
    object: ObjectId,
    file: File,
    left: u64,
    signer: SignatureBuilder,
}

impl SignatureStream {
    /// The frames for `count` objects on a mirror without a store, which has none of them.
    #[must_use]
    pub fn absent(count: usize) -> Self {
        let key = SignatureKey::from_bytes([0; SignatureKey::BYTES]);
        Self { store: None, key, files: vec![None; count].into_iter(), open: None }
    }

    /// The number of object bytes still to be read.
    #[must_use]
    pub fn bytes_to_read(&self) -> u64 {
        self.files.as_slice().iter().flatten().map(|file| file.shape.base_bytes()).sum()
    }

    /// The length in bytes of the frames still to be made.
    #[must_use]
    pub fn answer_bytes(&self) -> u64 {
        let bytes = |file: &Option<SignedFile>| 1 + file.map_or(0, |file| file.shape.bytes());
        self.files.as_slice().iter().map(bytes).sum()
    }

    /// The number of objects still to be read.
    #[must_use]
    pub fn objects_to_read(&self) -> usize {
        self.files.as_slice().iter().flatten().count()
    }

    /// Reads the next bytes of an object and appends to `out`. Returns how many bytes were read;
    /// `None` at the end.
    ///
    /// # Errors
    /// Fails if an object cannot be read, or was removed or became shorter in the meantime.
    pub fn read_step(
        &mut self,
        buffer: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, StoreError> {
        let Some(open) = &mut self.open else {
            let Some(next) = self.files.next() else { return Ok(None) };
            out.push(u8::from(next.is_some()));
            if let (Some(SignedFile { object, shape }), Some(store)) = (next, &self.store) {
                self.open = Some(OpenFile {
                    object,
                    file: store.open_object(&object)?,
                    left: shape.base_bytes(),
                    signer: SignatureBuilder::new(shape, self.key),
                });
            }
            return Ok(Some(0));
        };
        let count = usize::try_from(open.left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        buffer.resize(count, 0);
        let object = open.object;
        let path = || {
            let objects = self.store.as_ref().map(|store| &store.layout.objects);
            objects.map(|objects| objects.join(object_name(&object))).unwrap_or_default()
        };
        open.file.read_exact(buffer).context("read", path)?;
        open.signer.add(buffer, out);
        open.left -= count as u64;
        if open.left == 0
            && let Some(done) = self.open.take()
        {
            done.signer.finish(out);
        }
        Ok(Some(count))
    }
}

impl Store {
    /// The signatures of some files in the manifest `base`. `asked` names each file by its position
    /// among the entries, in ascending order, and gives the number of bits in the size of its new
    /// content. Leaves out objects that are missing or whose length differs from the manifest. If
    /// the store does not have the manifest, leaves out all objects.
    ///
    /// # Errors
    /// Fails if the manifest is damaged, or if the disk cannot be read.
    pub fn signatures(
        self,
        base: &ManifestId,
        asked: &[(u64, u8)],
        key: SignatureKey,
    ) -> Result<SignatureStream, StoreError> {
        let mut files = vec![None; asked.len()];
        let entries = match self.entries(base) {
            Ok(entries) => Some(entries),
            Err(StoreError::Io(error)) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut at = 0;
        for (position, entry) in (0..).zip(entries.into_iter().flatten()) {
            let Some((wanted, new_bits)) = asked.get(at) else { break };
            let entry = entry?;
            if *wanted != position {
                continue;
            }
            if let Some(file) = entry.file()
                && file.size > 0
                && self.object_bytes(&file.object)? == Some(file.size)
            {
                let shape = SignatureShape::new(file.size, *new_bits);
                files[at] = Some(SignedFile { object: file.object, shape });
            }
            at += 1;
        }
        Ok(SignatureStream { store: Some(self), key, files: files.into_iter(), open: None })
    }
}
