//! Writes a manifest as a stream.

use std::io::Write;

use super::{CHUNK_BYTES, HEADER, OrderGuard, Totals, push_entry_line};
use crate::hash::ManifestId;
use crate::manifest::ManifestError;
use crate::manifest::content::ContentIdHasher;
use crate::manifest::entry::{Entry, EntryKind};
use crate::varint::MAX_NUMBER;

/// Writes a manifest entry by entry.
#[derive(Debug)]
pub struct ManifestWriter<W> {
    out: W,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    content: ContentIdHasher,
    order: OrderGuard,
    retired: u64,
    bytes: u64,
    until: Option<u64>,
}

impl<W: Write> ManifestWriter<W> {
    /// Starts a manifest on `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: HEADER.to_vec(),
            hasher: blake3::Hasher::new(),
            content: ContentIdHasher::default(),
            order: OrderGuard::default(),
            retired: 0,
            bytes: 0,
            until: None,
        }
    }

    /// Writes the next entry.
    ///
    /// # Errors
    /// Fails if the entry is out of order or below a file, if a number exceeds 2^53, or if the
    /// underlying writer fails.
    pub fn push(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        // The writer checks the same rules as the reader, so it never makes a manifest that mirrors
        // cannot read.
        self.order.check(&entry.path)?;
        match &entry.kind {
            EntryKind::File(file) => {
                self.check_numbers(&[file.size, file.mtime])?;
                if entry.is_live() {
                    self.bytes = self.bytes.saturating_add(file.size);
                }
            }
            EntryKind::Symlink(target) => target
                .check_at(&entry.path)
                .map_err(|fault| ManifestError::Path { line: self.order.count + 1, fault })?,
        }
        if let Some(until) = entry.until {
            self.check_numbers(&[until])?;
            self.retired += 1;
            self.until = Some(self.until.map_or(until, |earliest| earliest.min(until)));
        }
        self.content.push(entry);
        push_entry_line(entry, &mut self.buffer);
        if self.buffer.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn check_numbers(&self, numbers: &[u64]) -> Result<(), ManifestError> {
        if numbers.iter().all(|number| *number <= MAX_NUMBER) {
            return Ok(());
        }
        let what = "a number is not a plain integer below 2^53";
        Err(ManifestError::Line { line: self.order.count + 1, what })
    }

    fn flush(&mut self) -> Result<(), ManifestError> {
        self.hasher.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the manifest. Returns the underlying writer, which is not flushed.
    ///
    /// # Errors
    /// The errors of the underlying writer.
    pub fn finish(mut self) -> Result<(W, Totals), ManifestError> {
        self.flush()?;
        let totals = Totals {
            manifest: ManifestId::finish(&self.hasher),
            content: self.content.finish(),
            entries: self.order.count,
            retired: self.retired,
            bytes: self.bytes,
            until: self.until,
        };
        Ok((self.out, totals))
    }
}
