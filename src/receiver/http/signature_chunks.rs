//! The response to a request for block signatures, produced while the objects are read.

use std::io;
use std::sync::Arc;

use hyper::body::Bytes;

use crate::receiver::http::response::{Chunk, ChunkSource};
use crate::receiver::sites::site::SiteState;
use crate::store::SignatureStream;

/// Bytes of the response that are sent at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of objects that are read for one chunk, which takes a few hundredths of a second. After
/// that, other work gets its turn, and a peer that has gone is noticed.
const READ_BYTES: usize = 32 * 1024 * 1024;

/// The signatures still to be sent.
pub(crate) struct SignatureChunks {
    site: Arc<SiteState>,
    stream: SignatureStream,
    buffer: Vec<u8>,
}

impl SignatureChunks {
    pub(crate) const fn new(site: Arc<SiteState>, stream: SignatureStream) -> Self {
        Self { site, stream, buffer: Vec::new() }
    }

    /// The next chunk; `None` at the end. Blocks.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let (mut chunk, mut read) = (Vec::new(), 0);
        // At least one byte: a large block may need more than is read for one chunk.
        while chunk.is_empty() || (chunk.len() < CHUNK_BYTES && read < READ_BYTES) {
            let step = self.stream.read_step(&mut self.buffer, &mut chunk);
            match step.map_err(io::Error::other)? {
                Some(count) => read += count,
                None => break,
            }
        }
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }
}

impl ChunkSource for SignatureChunks {
    /// Each chunk needs one of the site's workers, so that a site's requests use no more than its
    /// share.
    async fn next(self) -> (Option<Self>, Chunk) {
        let site = Arc::clone(&self.site);
        let mut this = self;
        let made = site.share.blocking(move || {
            let chunk = this.next_chunk();
            Ok((this, chunk))
        });
        match made.await {
            Ok((this, chunk)) => (Some(this), chunk),
            Err(refused) => (None, Err(io::Error::other(refused.protocol_error.message))),
        }
    }
}
