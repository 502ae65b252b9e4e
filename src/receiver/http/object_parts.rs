//! Parts of objects that an origin requests. One response contains many parts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use hyper::body::Bytes;

use crate::protocol::{MAX_OBJECT_PARTS, ObjectPart};
use crate::receiver::http::error::HttpError;
use crate::receiver::http::response::{Chunk, ChunkSource};
use crate::store::Store;

/// Maximum bytes per read.
const CHUNK_BYTES: usize = 256 * 1024;

/// The parts still to be sent in one response.
pub(crate) struct ObjectParts {
    store: Store,
    /// The parts in the order of the request, each paired with whether the store has it.
    parts: std::vec::IntoIter<(ObjectPart, bool)>,
    open: Option<OpenPart>,
}

struct OpenPart {
    file: File,
    at: u64,
    left: u64,
}

impl ObjectParts {
    /// Returns the parts that `question` requests, and the length of the response in bytes.
    pub(crate) fn new(store: Store, question: &[u8]) -> Result<(Self, u64), HttpError> {
        let (asked, []) = question.as_chunks() else {
            return Err(HttpError::malformed(
                "the body does not consist of parts of 48 bytes each",
            ));
        };
        if asked.len() > MAX_OBJECT_PARTS {
            return Err(HttpError::too_large(format!(
                "at most {MAX_OBJECT_PARTS} parts can be requested at once"
            )));
        }
        let mut parts = Vec::with_capacity(asked.len());
        let mut bytes: u64 = 0;
        // Only the sizes are looked up here. The files are opened one after another while they are
        // sent: up to 8,192 open files would exceed the process's limit.
        for part in asked.iter().map(ObjectPart::from_bytes) {
            let size = store.object_bytes(&part.object)?;
            // The peer chooses both numbers, so their sum may overflow.
            let end = part.offset.checked_add(part.length);
            let is_here = size.zip(end).is_some_and(|(size, end)| end <= size);
            bytes = bytes.saturating_add(1 + if is_here { part.length } else { 0 });
            parts.push((part, is_here));
        }
        Ok((Self { store, parts: parts.into_iter(), open: None }, bytes))
    }

    /// The next bytes of the response; empty at its end. Blocks.
    fn chunk(&mut self) -> io::Result<Bytes> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_BYTES {
            match &mut self.open {
                Some(section) if section.left > 0 => section.read(&mut chunk)?,
                _ => match self.parts.next() {
                    Some((part, is_here)) => self.begin(part, is_here, &mut chunk)?,
                    None => break,
                },
            }
        }
        Ok(chunk.into())
    }

    fn begin(&mut self, part: ObjectPart, is_here: bool, chunk: &mut Vec<u8>) -> io::Result<()> {
        chunk.push(u8::from(is_here));
        self.open = None;
        if is_here && part.length > 0 {
            // If the object has been removed since then, the response breaks off, because its
            // length was already announced.
            let file = self.store.open_object(&part.object).map_err(io::Error::other)?;
            self.open = Some(OpenPart { file, at: part.offset, left: part.length });
        }
        Ok(())
    }
}

impl ChunkSource for ObjectParts {
    async fn next(self) -> (Option<Self>, Chunk) {
        let mut this = self;
        let read = tokio::task::spawn_blocking(move || {
            let chunk = this.chunk();
            (this, chunk)
        });
        match read.await {
            Ok((this, chunk)) => {
                let not_empty = |chunk: Bytes| (!chunk.is_empty()).then_some(chunk);
                (Some(this), chunk.map(not_empty))
            }
            Err(error) => (None, Err(io::Error::other(error))),
        }
    }
}

impl OpenPart {
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<()> {
        let start = chunk.len();
        let count = usize::try_from(self.left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        chunk.resize(start + count, 0);
        self.file.read_exact_at(&mut chunk[start..], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(())
    }
}
