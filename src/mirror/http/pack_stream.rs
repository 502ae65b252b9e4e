//! Request bodies of many packs: of packs that are ready, and of packs that are built while the
//! body is sent.

use std::io::{self, Read};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::mirror::http::counted::CountedPack;
use crate::mirror::http::upload::{BATCH_BYTES, NextPack, Upload};
use crate::mirror::{MirrorError, OutgoingPack, SourceError};
use crate::protocol::PackHead;

/// The longest wait for the next pack within a request: shorter than the timeout of a receiver.
// A receiver gives up on a body after 30 seconds without a byte.
const NEXT_PACK: Duration = Duration::from_secs(5);

/// A pack with its header before it.
type FramedPack<R> = io::Chain<io::Cursor<[u8; PackHead::BYTES]>, R>;

/// Puts the header of a pack before its content.
fn with_head<R: Read>(pack: &dyn OutgoingPack, content: R) -> Result<FramedPack<R>, SourceError> {
    let head = PackHead::Pack { id: pack.id(), bytes: u32::try_from(pack.size())? };
    Ok(io::Cursor::new(head.to_bytes()).chain(content))
}

/// The body for packs that are ready. Each is opened only when the one before it was read.
pub(super) struct PackSequence<'p, R, F> {
    packs: &'p [Box<dyn OutgoingPack>],
    open_pack: F,
    open: Option<FramedPack<R>>,
}

impl<'p, R: Read, F: FnMut(&dyn OutgoingPack) -> Result<R, SourceError>> PackSequence<'p, R, F> {
    pub(super) fn new(packs: &'p [Box<dyn OutgoingPack>], open_pack: F) -> Self {
        Self { packs, open_pack, open: None }
    }
}

impl<R: Read, F: FnMut(&dyn OutgoingPack) -> Result<R, SourceError>> Read
    for PackSequence<'_, R, F>
{
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(open) = &mut self.open {
                let count = open.read(out)?;
                if count > 0 || out.is_empty() {
                    return Ok(count);
                }
            }
            let Some((pack, behind)) = self.packs.split_first() else { return Ok(0) };
            self.packs = behind;
            let opened = (self.open_pack)(&**pack).and_then(|content| with_head(&**pack, content));
            self.open = Some(opened.map_err(io::Error::other)?);
        }
    }
}

/// Packs that are sent while they are built. The body ends after the last pack, after
/// [`BATCH_BYTES`], or when the next pack is not ready within [`NEXT_PACK`].
pub(super) struct PackStream<'f, 'u> {
    upload: &'f Upload<'u>,
    streamed: Mutex<StreamedPacks>,
}

/// What a [`PackStream`] has sent.
#[derive(Default)]
pub(super) struct StreamedPacks {
    /// The packs that were sent, the last one perhaps in part.
    pub(super) packs: Vec<Box<dyn OutgoingPack>>,
    /// Whether these are all packs of the bundle.
    pub(super) is_all: bool,
    /// The error that ended the stream early.
    pub(super) failed: Option<MirrorError>,
    bytes: u64,
}

impl<'f, 'u> PackStream<'f, 'u> {
    pub(super) fn new(upload: &'f Upload<'u>) -> Self {
        Self { upload, streamed: Mutex::default() }
    }

    /// Opens the body, with `first` before the packs. Open it only once: the packs that it takes
    /// from the upload are not available to another body.
    pub(super) fn open(&'f self, first: impl Read + Send + 'f) -> impl Read + Send + 'f {
        StreamBody { stream: self, part: Box::new(first), has_ended: false }
    }

    /// Returns what was sent.
    pub(super) fn end(self) -> StreamedPacks {
        self.streamed.into_inner()
    }

    fn lock(&self) -> MutexGuard<'_, StreamedPacks> {
        self.streamed.lock()
    }

    /// Returns the next pack with its header, after the one before it was sent; `None` at the end.
    fn next(
        &self,
        streamed: &mut StreamedPacks,
    ) -> Result<Option<FramedPack<CountedPack<'f, 'u>>>, MirrorError> {
        // The next pack is only read when the one before it has left.
        if let Some(pack) = streamed.packs.last() {
            self.upload.report_sent(pack.id(), pack.size());
        }
        // The body stays within the 64 MiB that a receiver takes: 24 MiB, and one more pack of at
        // most 32 MiB.
        if streamed.bytes > BATCH_BYTES {
            return Ok(None);
        }
        let pack = match self.upload.next_within(NEXT_PACK)? {
            NextPack::Pack(pack) => pack,
            NextPack::End => {
                streamed.is_all = true;
                return Ok(None);
            }
            NextPack::Later => return Ok(None),
        };
        let opened =
            CountedPack::open(self.upload, &*pack).and_then(|content| with_head(&*pack, content));
        streamed.bytes += pack.size();
        streamed.packs.push(pack);
        opened.map(Some).map_err(MirrorError::Source)
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
                // End the body regularly, so that the receiver keeps the packs that were sent.
                streamed.failed = Some(error);
                None
            });
            self.has_ended = next.is_none();
            let is_whole = streamed.is_all;
            self.part = match next {
                Some(pack) => Box::new(pack),
                None => Box::new(io::Cursor::new(PackHead::End { is_whole }.to_bytes())),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hash::PackId;

    /// A pack of these bytes.
    struct Bare(Vec<u8>);

    impl OutgoingPack for Bare {
        fn id(&self) -> PackId {
            PackId::of(&self.0)
        }

        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn bytes(&self) -> Result<Arc<Vec<u8>>, SourceError> {
            Ok(Arc::new(self.0.clone()))
        }

        fn open(&self) -> Result<Box<dyn Read + Send>, SourceError> {
            Ok(Box::new(io::Cursor::new(self.0.clone())))
        }
    }

    #[test]
    fn packs_in_a_row_stand_behind_their_heads() {
        let packs: Vec<Box<dyn OutgoingPack>> =
            vec![Box::new(Bare(b"abc".to_vec())), Box::new(Bare(vec![7; 300]))];
        let mut row = Vec::new();
        PackSequence::new(&packs, |pack| pack.open()).read_to_end(&mut row).unwrap();
        let (first, second) = (PackId::of(b"abc"), PackId::of(&[7; 300]));
        let wanted: [&[u8]; 6] =
            [first.as_bytes(), &[0, 0, 0, 3], b"abc", second.as_bytes(), &[0, 0, 1, 44], &[7; 300]];
        assert_eq!(row, wanted.concat());
        assert_eq!(row.len(), 2 * PackHead::BYTES + 303);
    }
}
