//! A manifest change, which its receiver keeps until the release is complete.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Buffer size for reading a change from a file, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// The bytes of a manifest change, which can be read from the beginning as often as needed.
#[derive(Debug, Clone)]
pub enum StoredChange {
    /// The change is in memory.
    Memory(Arc<[u8]>),
    /// The change is at the beginning of a file.
    File {
        /// The file.
        file: Arc<File>,
        /// The number of bytes of the file that belong to the change.
        bytes: u64,
    },
}

impl StoredChange {
    /// The length of the change in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    /// Reads the change from the beginning.
    #[must_use]
    pub fn reader(&self) -> Box<dyn BufRead + Send + '_> {
        match self {
            Self::Memory(bytes) => Box::new(&**bytes),
            Self::File { file, bytes } => Box::new(BufReader::with_capacity(
                BUFFER_BYTES,
                FileReader { file, at: 0, end: *bytes },
            )),
        }
    }
}

/// Reads a file with positional reads, because other readers share its file offset.
struct FileReader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn file_and_memory_read_the_same_repeatedly() {
        let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.write_all(b"not part of it").unwrap();
        let in_file = StoredChange::File { file: Arc::new(file), bytes: bytes.len() as u64 };
        for change in [in_file, StoredChange::Memory(bytes.clone().into())] {
            for _ in 0..2 {
                let mut read = Vec::new();
                change.reader().read_to_end(&mut read).unwrap();
                assert_eq!((read.len() as u64, &read), (change.bytes(), &bytes));
            }
        }
    }
}
