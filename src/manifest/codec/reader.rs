//! Reads a manifest as a stream.

use std::io::Read;
use std::mem;

use super::{CHUNK_BYTES, HEADER, MAX_LINE_BYTES, OrderGuard, parse_entry_line};
use crate::hash::ManifestId;
use crate::manifest::ManifestError;
use crate::manifest::entry::Entry;

/// Reads a manifest entry by entry. Refuses anything that is not canonical.
///
/// The id is known only after the last entry, so a wrong id is reported as an error in place of the
/// end.
#[derive(Debug)]
pub struct ManifestReader<R> {
    input: R,
    /// The unparsed bytes are in `start..end`; the rest is space for the next read.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    hasher: blake3::Hasher,
    order: OrderGuard,
    expected: Option<ManifestId>,
    is_done: bool,
}

impl<R: Read> ManifestReader<R> {
    /// Starts reading. With `expected`, the id is checked at the end.
    ///
    /// # Errors
    /// Fails if the header is missing or malformed, if it has a newer version, or if `input` fails.
    pub fn new(input: R, expected: Option<ManifestId>) -> Result<Self, ManifestError> {
        let mut reader = Self {
            input,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            hasher: blake3::Hasher::new(),
            order: OrderGuard::default(),
            expected,
            is_done: false,
        };
        let line = reader.line()?.ok_or(ManifestError::Header)?;
        let header = &reader.buffer[line];
        if header == &HEADER[..HEADER.len() - 1] {
            return Ok(reader);
        }
        let version = header
            .strip_prefix(b"{\"headwater\":\"manifest\",\"version\":")
            .ok_or(ManifestError::Header)?;
        // Nine digits fit in 32 bits. A longer number is damage, not a version.
        let digits = version.iter().take_while(|byte| byte.is_ascii_digit()).take(9).count();
        match std::str::from_utf8(&version[..digits]).ok().and_then(|text| text.parse::<u32>().ok())
        {
            Some(found) if found > 1 => Err(ManifestError::Version { found: found.to_string() }),
            // Version 1 reserves a header field for later writers. This reader cannot obey it.
            _ => Err(ManifestError::Header),
        }
    }

    /// Returns the range of the next line in `buffer`, without its line feed; `None` at the end.
    fn line(&mut self) -> Result<Option<std::ops::Range<usize>>, ManifestError> {
        let mut searched = self.start;
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.buffer[searched..self.end]) {
                let line = self.start..searched + length;
                self.start = line.end + 1;
                return Ok(Some(line));
            }
            let pending = self.end - self.start;
            let too_long =
                // The header is line 1, and `count` entry lines have been read completely.
                ManifestError::Line { line: self.order.count + 2, what: "the line ends" };
            if pending > MAX_LINE_BYTES {
                return Err(too_long);
            }
            self.make_room(pending);
            let count = read_some(&mut self.input, &mut self.buffer[pending..])?;
            self.end = pending + count;
            // Hashed in large parts as they arrive: BLAKE3 is slow on single lines.
            self.hasher.update(&self.buffer[pending..self.end]);
            searched = pending;
            if count == 0 {
                return if pending == 0 { Ok(None) } else { Err(too_long) };
            }
        }
    }

    /// Moves the `pending` bytes to the front, and makes room after them for a read.
    ///
    /// The buffer is zeroed once rather than before each read, because an input may return single
    /// bytes.
    fn make_room(&mut self, pending: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, pending);
        if self.buffer.len() < pending + CHUNK_BYTES {
            self.buffer.resize(pending + CHUNK_BYTES, 0);
        }
    }

    fn entry(&mut self) -> Result<Option<Entry>, ManifestError> {
        let Some(line) = self.line()? else {
            return match self.expected {
                Some(expected) if expected != self.id() => {
                    Err(ManifestError::WrongId { expected, found: self.id() })
                }
                _ => Ok(None),
            };
        };
        let entry = parse_entry_line(&self.buffer[line], self.order.count + 2)?;
        self.order.check(&entry.path)?;
        Ok(Some(entry))
    }

    /// The id of the bytes read so far. Once the iterator has ended, this is the manifest's id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        ManifestId::finish(&self.hasher)
    }
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ManifestError> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return Ok(other?),
        }
    }
}

impl<R: Read> Iterator for ManifestReader<R> {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if mem::replace(&mut self.is_done, true) {
            return None;
        }
        let item = self.entry().transpose();
        // After an error, the position in the input is unknown, so nothing more is read.
        self.is_done = !matches!(item, Some(Ok(_)));
        item
    }
}
