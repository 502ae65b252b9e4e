//! Reports the progress of a pack while it is sent.

use std::io::{self, Read};

use crate::mirror::{OutgoingPack, SourceError};

/// How many bytes are sent between two reports: about two seconds at 1 Mbit/s.
const REPORT_INTERVAL_BYTES: u64 = 256 * 1024;

/// A reader of a pack that reports how many bytes have been read.
pub(super) struct ProgressReader<F> {
    content: Box<dyn Read + Send>,
    report: F,
    read_bytes: u64,
    reported_bytes: u64,
}

impl<F: FnMut(u64)> ProgressReader<F> {
    pub(super) fn open(pack: &dyn OutgoingPack, report: F) -> Result<Self, SourceError> {
        Ok(Self { content: pack.open()?, report, read_bytes: 0, reported_bytes: 0 })
    }
}

impl<F: FnMut(u64)> Read for ProgressReader<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(out)?;
        self.read_bytes += count as u64;
        if self.read_bytes - self.reported_bytes >= REPORT_INTERVAL_BYTES {
            self.reported_bytes = self.read_bytes;
            (self.report)(self.read_bytes);
        }
        Ok(count)
    }
}
