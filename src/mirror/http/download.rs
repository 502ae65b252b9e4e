//! Downloads that resume where they stopped when the connection breaks.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use crate::manifest::WINDOW_LOG_MAX;
use crate::mirror::MirrorError;
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Method, Request, map_read_error};
use crate::mirror::http::limits::RetryState;
use crate::mirror::http::response_json::ResponseLimit;
use crate::mirror::http::{NEVER_CANCELLED, Session};
use crate::mirror::transport_error::TransportError;
use crate::protocol::Resource;

/// The maximum size of a manifest, in bytes: about ten million entries. Without a limit, a small
/// compressed frame could expand until the disk is full.
const MAX_MANIFEST_BYTES: u64 = 8 * 1024 * 1024 * 1024;

pub(super) struct Download {
    session: Arc<Session>,
    resource: Resource,
    /// The offset of the next byte.
    at: u64,
    reader: Box<dyn Read + Send>,
    retry: RetryState<'static>,
}

impl Download {
    /// Starts reading `resource` at the offset `at`.
    pub(super) fn open(
        session: Arc<Session>,
        resource: Resource,
        at: u64,
    ) -> Result<Self, MirrorError> {
        let retry = session.retry_state(NEVER_CANCELLED);
        let mut download = Self { session, resource, at, reader: Box::new(io::empty()), retry };
        download.reopen()?;
        Ok(download)
    }

    fn reopen(&mut self) -> Result<(), MirrorError> {
        // Receivers support ranges only for objects. A manifest is sent from its beginning, and the
        // bytes before `at` are skipped below.
        let is_ranged = matches!(self.resource, Resource::Object(_));
        let request = Request {
            offset: if is_ranged { self.at } else { 0 },
            ..Request::new(Method::Get, self.resource, Body::None, ResponseLimit::SMALL)
        };
        let base = self.session.base(&mut self.retry)?;
        let response = self.session.client.open(&base, &request, &mut self.retry)?;
        let is_part = response.status() == ureq::http::StatusCode::PARTIAL_CONTENT;
        let mut reader = response.into_body().into_reader();
        if !is_part && self.at > 0 {
            let skipped = io::copy(&mut (&mut reader).take(self.at), &mut io::sink());
            match skipped {
                Ok(skipped) if skipped == self.at => {}
                Ok(_) => {
                    return Err(TransportError::Lost {
                        what: "the content is shorter than before".into(),
                    }
                    .into());
                }
                // The link broke again before the first new byte: this is another failed attempt.
                Err(error) => {
                    self.retry.retry_or_fail(map_read_error(error))?;
                    return self.reopen();
                }
            }
        }
        self.reader = Box::new(reader);
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(out) {
                Ok(count) => {
                    self.at += count as u64;
                    if count > 0 {
                        // Attempts are counted from the last byte received, so a long download over
                        // a bad link continues as long as any data arrives.
                        self.retry.progress();
                    }
                    return Ok(count);
                }
                Err(error) => {
                    self.retry.retry_or_fail(map_read_error(error)).map_err(io::Error::other)?;
                    self.reopen().map_err(io::Error::other)?;
                }
            }
        }
    }
}

/// Decompresses a manifest, which is sent as one zstd frame.
pub(super) fn decompress(download: Download) -> Result<Box<dyn Read + Send>, MirrorError> {
    let garbled =
        |error: io::Error| TransportError::Foreign { status: 200, what: error.to_string() };
    let mut decoder = zstd::Decoder::with_buffer(BufReader::new(download)).map_err(garbled)?;
    // zstd itself would accept a window of 128 MiB.
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(garbled)?;
    // The manifest reader refuses a manifest that is cut off here: its last line is incomplete, or
    // its digest differs.
    Ok(Box::new(decoder.take(MAX_MANIFEST_BYTES)))
}
