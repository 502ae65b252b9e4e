//! The body of a request whose packs are built while it is sent.

use std::io::{self, Read};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::mirror::http::pack_sequence::with_head;
use crate::mirror::http::upload::{BATCH_BYTES, NextPack, Upload};
use crate::mirror::{MirrorError, OutgoingPack};
use crate::protocol::PackHead;

/// The longest wait for the next pack within a request: shorter than the timeout of a receiver.
// A receiver gives up on a body after 30 seconds without a byte.
const NEXT_PACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Packs that are sent while later packs are still being built. The body ends after the last pack,
/// after [`BATCH_BYTES`], or when the next pack is not ready within [`NEXT_PACK_TIMEOUT`].
pub(super) struct PackStream<'f, 'u> {
    upload: &'f Upload<'u>,
    streamed: Mutex<StreamedPacks>,
}

/// The packs that a [`PackStream`] has sent.
#[derive(Default)]
pub(super) struct StreamedPacks {
    /// The packs that were sent. The last one may have been sent only in part.
    pub(super) packs: Vec<Box<dyn OutgoingPack>>,
    /// Whether these are all the packs in the bundle.
    pub(super) is_all: bool,
    /// The error that ended the stream early.
    pub(super) failed: Option<MirrorError>,
    bytes: u64,
}

impl<'f, 'u> PackStream<'f, 'u> {
    pub(super) fn new(upload: &'f Upload<'u>) -> Self {
        Self { upload, streamed: Mutex::default() }
    }

    /// Opens the body, with `first` before the packs. Open the body only once: the packs that it
    /// takes from the upload are not available to another body.
    pub(super) fn open(&'f self, first: impl Read + Send + 'f) -> impl Read + Send + 'f {
        StreamBody { stream: self, part: Box::new(first), has_ended: false }
    }

    /// Returns the packs that were sent.
    pub(super) fn end(self) -> StreamedPacks {
        self.streamed.into_inner()
    }

    fn lock(&self) -> MutexGuard<'_, StreamedPacks> {
        self.streamed.lock()
    }

    /// Returns the next pack with its header once the previous pack has been sent; `None` at the
    /// end.
    fn next(
        &self,
        streamed: &mut StreamedPacks,
    ) -> Result<Option<Box<dyn Read + Send + 'f>>, MirrorError> {
        // The next pack is read only after the previous one has been sent.
        if let Some(pack) = streamed.packs.last() {
            self.upload.report_sent(pack.id(), pack.size());
        }
        // The body stays within the 64 MiB that a receiver accepts: 24 MiB, and one more pack of at
        // most 32 MiB.
        if streamed.bytes > BATCH_BYTES {
            return Ok(None);
        }
        let pack = match self.upload.next_within(NEXT_PACK_TIMEOUT)? {
            NextPack::Pack(pack) => pack,
            NextPack::End => {
                streamed.is_all = true;
                return Ok(None);
            }
            NextPack::Later => return Ok(None),
        };
        let upload: &'f Upload<'u> = self.upload;
        let opened = upload.open(&*pack).and_then(|content| with_head(&*pack, content));
        streamed.bytes += pack.size();
        streamed.packs.push(pack);
        match opened {
            Ok(opened) => Ok(Some(Box::new(opened))),
            Err(error) => Err(MirrorError::Source(error)),
        }
    }
}

struct StreamBody<'f, 'u> {
    stream: &'f PackStream<'f, 'u>,
    part: Box<dyn Read + Send + 'f>,
    has_ended: bool,
}

impl Read for StreamBody<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.part.read(out)?;
            if count > 0 || out.is_empty() || self.has_ended {
                return Ok(count);
            }
            let mut streamed = self.stream.lock();
            let next = self.stream.next(&mut streamed).unwrap_or_else(|error| {
                // End the body normally, so that the receiver keeps the packs that were sent.
                streamed.failed = Some(error);
                None
            });
            self.has_ended = next.is_none();
            let is_whole = streamed.is_all;
            self.part = match next {
                Some(pack) => pack,
                None => Box::new(io::Cursor::new(PackHead::End { is_whole }.to_bytes())),
            };
        }
    }
}
