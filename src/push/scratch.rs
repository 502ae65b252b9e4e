//! The origin's own files during a push: gone when it ends.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fsx::{self, Context as _, Dir, IoError};
use crate::hash::ManifestId;
use crate::manifest::{ManifestError, ManifestReader};

/// A directory that is removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    parent: Dir,
    name: String,
    dir: Dir,
}

impl Scratch {
    /// A fresh directory below `path`, which is created if need be.
    pub(super) fn create(path: &Path) -> Result<Self, IoError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fsx::create_dir_all(path)?;
        let parent = Dir::open(path)?;
        let name = format!("push-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        parent.remove_all(&name)?;
        let dir = parent.create_dir(&name)?;
        Ok(Self { parent, name, dir })
    }

    pub(super) const fn dir(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A left-over costs space only, and there is nobody to tell.
        self.parent.remove_all(&self.name).ok();
    }
}

/// A manifest in a scratch file, to be read as often as needed.
#[derive(Debug)]
pub(super) struct ManifestFile {
    pub(super) file: File,
    pub(super) id: ManifestId,
}

impl ManifestFile {
    /// Copies the canonical bytes that `from` gives to the new file `name`.
    /// Nothing if they are not the manifest `id`.
    pub(super) fn copy(
        scratch: &Scratch,
        name: &str,
        mut from: impl Read,
        id: ManifestId,
    ) -> Result<Option<Self>, IoError> {
        scratch.dir.unlink_if_any(name)?;
        let mut file = scratch.dir.create_file(name)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 17];
        // Whoever gives too little, or an error, gives another manifest.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).context("write", || scratch.dir.join(name))?;
        }
        if ManifestId::finish(&hasher) == id {
            return Ok(Some(Self { file, id }));
        }
        scratch.dir.unlink(name)?;
        Ok(None)
    }

    pub(super) fn entries(&self) -> Result<ManifestReader<Box<dyn Read + Send>>, ManifestError> {
        // A handle of its own position: several threads read at once.
        let reader = FileFromStart { file: self.file.try_clone()?, offset: 0 };
        // The id was checked when the file was written, and nobody else knows it.
        ManifestReader::new(Box::new(reader), None)
    }
}

/// Reads a file by offset, whatever other handles of it do.
struct FileFromStart {
    file: File,
    offset: u64,
}

impl Read for FileFromStart {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(&self.file, buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
