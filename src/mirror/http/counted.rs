//! Reports the progress of a pack while it is sent.

use std::io::{self, Read};

use crate::hash::PackId;
use crate::mirror::http::upload::Upload;
use crate::mirror::{OutgoingPack, SourceError};

/// Bytes between two reports: about two seconds at 1 Mbit/s.
const STEP_BYTES: u64 = 256 * 1024;

/// A reader of a pack that reports how many bytes were read.
pub(super) struct CountedPack<'f, 'u> {
    upload: &'f Upload<'u>,
    pack: PackId,
    content: Box<dyn Read + Send>,
    read_bytes: u64,
    reported_bytes: u64,
}

impl<'f, 'u> CountedPack<'f, 'u> {
    pub(super) fn open(
        upload: &'f Upload<'u>,
        pack: &dyn OutgoingPack,
    ) -> Result<Self, SourceError> {
        Ok(Self {
            upload,
            pack: pack.id(),
            content: pack.open()?,
            read_bytes: 0,
            reported_bytes: 0,
        })
    }
}

impl Read for CountedPack<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(out)?;
        self.read_bytes += count as u64;
        if self.read_bytes - self.reported_bytes >= STEP_BYTES {
            self.reported_bytes = self.read_bytes;
            self.upload.advance(self.pack, self.read_bytes);
        }
        Ok(count)
    }
}
