//! The body of a request. It is read within its deadlines, up to its announced length, or to its
//! end if it is chunked.
//!
//! There are two deadlines: a single read may wait for `body_idle`, and the whole body may take
//! `body` plus an allowance that grows with its size. One chunk is buffered, apart from data that
//! the caller reads into memory.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{EXPECT, TRANSFER_ENCODING};
use hyper::{HeaderMap, StatusCode};
use tokio::time::{Duration, Instant};

use crate::error_kind::ErrorKind;
use crate::fsx::Context as _;
use crate::pack::MAX_PACK_BYTES;
use crate::receiver::ReceiverLimits;
use crate::receiver::http::error::HttpError;

/// Bytes per write to the disk.
const CHUNK_BYTES: usize = 256 * 1024;
const NANOS: u64 = 1_000_000_000;
/// Maximum number of bytes of a refused body that are read and discarded so that the peer can read
/// the error. One pack of the largest size fits.
const MAX_DRAINED_BYTES: u64 = MAX_PACK_BYTES as u64;

/// A body that is being received.
pub(crate) struct RequestBody {
    body: Incoming,
    /// The announced length; `None` if the request has none.
    length: Option<u64>,
    /// Whether the body is chunked and its caller allows that.
    is_chunked: bool,
    /// How many bytes have been received so far.
    received_bytes: u64,
    bytes_per_second: u64,
    /// Bytes received but not consumed yet.
    rest: Bytes,
    /// Whether the peer waits for `100 Continue` before it sends the body.
    awaits_continue: bool,
    deadline: Instant,
    idle: Duration,
    drain: Duration,
    /// Called when bytes arrive, so that the stage or upload that they belong to does not expire.
    listener: Option<Box<dyn Fn() + Send>>,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, headers: &HeaderMap, limits: &ReceiverLimits) -> Self {
        let is_encoded = headers.contains_key(TRANSFER_ENCODING);
        let length = body.size_hint().exact().filter(|_| !is_encoded);
        let awaits_continue = headers.contains_key(EXPECT);
        let bytes_per_second = limits.body_bytes_per_second.max(1);
        let by_size = Duration::from_secs(length.unwrap_or(0) / bytes_per_second);
        // The peer announces the length. Without the limit of one week, the sum could overflow and
        // panic.
        let deadline = Instant::now() + limits.body + by_size.min(Duration::from_secs(7 * 86_400));
        let (idle, drain) = (limits.body_idle, limits.drain);
        let rest = Bytes::new();
        Self {
            body,
            length,
            is_chunked: false,
            received_bytes: 0,
            bytes_per_second,
            rest,
            awaits_continue,
            deadline,
            idle,
            drain,
            listener: None,
        }
    }

    /// Registers `listener` to be called whenever bytes arrive.
    pub(crate) fn on_data(&mut self, listener: impl Fn() + Send + 'static) {
        self.listener = Some(Box::new(listener));
    }

    /// The announced length, or the number of bytes received if no length was announced.
    pub(crate) fn bytes(&self) -> u64 {
        self.length.unwrap_or(self.received_bytes)
    }

    /// Returns the length. Returns an error if the body has no length or is larger than `limit`.
    pub(crate) fn check_length(&self, limit: u64) -> Result<u64, HttpError> {
        let Some(length) = self.length else {
            let message = "a body needs a content-length and no transfer-encoding";
            let refused =
                HttpError::new(StatusCode::LENGTH_REQUIRED, ErrorKind::Malformed, message);
            return Err(HttpError { ends_connection: true, ..refused });
        };
        if length > limit {
            return Err(HttpError::too_large(format!(
                "the body has {length} bytes, but at most {limit} are accepted here"
            )));
        }
        Ok(length)
    }

    /// Like [`RequestBody::check_length`], but also accepts a chunked body and returns `None` for
    /// it. The caller must limit how much it reads before [`RequestBody::end`].
    pub(crate) fn check_length_or_chunked(&mut self, limit: u64) -> Result<Option<u64>, HttpError> {
        if self.length.is_none() && !self.body.is_end_stream() {
            self.is_chunked = true;
            return Ok(None);
        }
        self.check_length(limit).map(Some)
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, HttpError> {
        let deadline = self.deadline.min(Instant::now() + self.idle);
        let frame = tokio::time::timeout_at(deadline, self.body.frame()).await;
        match frame.map_err(|_| HttpError::incomplete_body("the body arrived too slowly"))? {
            Some(Ok(frame)) => {
                // The frame cannot be trailers: `Framing` refuses them.
                let data = frame.into_data().unwrap_or_default();
                self.received_bytes += data.len() as u64;
                if self.is_chunked {
                    // A known size extends the deadline at the start; a chunked body extends it as
                    // the bytes arrive. The sum cannot overflow: a frame is no larger than the
                    // connection's read buffer, 128 KiB.
                    let nanos = data.len() as u64 * NANOS / self.bytes_per_second;
                    self.deadline += Duration::from_nanos(nanos);
                }
                Ok(Some(data))
            }
            Some(Err(_)) => Err(HttpError::incomplete_body(
                "the body ended before its announced length, or its last chunk",
            )),
            None => Ok(None),
        }
    }

    /// Checks that the whole body was consumed.
    pub(crate) async fn end(&mut self) -> Result<(), HttpError> {
        while self.rest.is_empty() {
            match self.frame().await? {
                Some(data) => self.rest = data,
                None => return Ok(()),
            }
        }
        Err(HttpError {
            ends_connection: true,
            ..HttpError::malformed("the body is longer than its parts")
        })
    }

    /// Returns the next bytes: at most `limit`, and at least one.
    async fn chunk(&mut self, limit: u64) -> Result<Bytes, HttpError> {
        // hyper sends `100 Continue` when the body is polled for the first time.
        self.awaits_continue = false;
        while self.rest.is_empty() {
            self.rest = self
                .frame()
                .await?
                .ok_or_else(|| HttpError::malformed("the body is shorter than its parts"))?;
        }
        if let Some(listener) = &self.listener {
            listener();
        }
        let here = usize::try_from(limit).unwrap_or(usize::MAX).min(self.rest.len());
        Ok(self.rest.split_to(here))
    }

    /// Reads the next `length` bytes into memory. Memory is used only as the bytes arrive.
    pub(crate) async fn read(&mut self, length: u64) -> Result<Vec<u8>, HttpError> {
        // Pages that are never written take no memory. The vector grows beyond this capacity if
        // necessary.
        let mut bytes =
            Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).min(MAX_PACK_BYTES));
        while (bytes.len() as u64) < length {
            let chunk = self.chunk(length - bytes.len() as u64).await?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    pub(crate) async fn skip(&mut self, length: u64) -> Result<(), HttpError> {
        let mut left = length;
        while left > 0 {
            left -= self.chunk(left).await?.len() as u64;
        }
        Ok(())
    }

    /// Writes the next `length` bytes to `file` at `offset` and returns their BLAKE3 hash. If this
    /// future is dropped, a write that is still running keeps its own handle to the file until it
    /// ends.
    pub(crate) async fn spool<F>(
        &mut self,
        length: u64,
        file: &F,
        offset: u64,
    ) -> Result<blake3::Hash, HttpError>
    where
        F: AsRef<File> + Clone + Send + 'static,
    {
        let mut hasher = blake3::Hasher::new();
        let mut done = 0;
        while done < length {
            let bytes = self.read((length - done).min(CHUNK_BYTES as u64)).await?;
            let (at, count, file) = (offset + done, bytes.len() as u64, file.clone());
            // The hash is computed on the same thread as the write: tokio's threads serve all
            // connections and must not be blocked.
            let written = tokio::task::spawn_blocking(move || {
                hasher.update(&bytes);
                file.as_ref()
                    .write_all_at(&bytes, at)
                    .context("write", || PathBuf::from("a spool file"))?;
                Ok::<_, crate::fsx::IoError>(hasher)
            });
            hasher = written.await.map_err(|_| HttpError::no_result())??;
            done += count;
        }
        Ok(hasher.finalize())
    }

    /// Reads and discards the rest of a refused body, within limits. Otherwise, a client that sends
    /// its whole body before it reads would never see the error.
    pub(crate) async fn drain(&mut self) {
        // Polling the body would send `100 Continue`, and so request the body that was just
        // refused. The end of a chunked body that the caller does not allow cannot be waited for.
        if self.awaits_continue || self.length.is_none() && !self.is_chunked {
            return;
        }
        self.deadline = self.deadline.min(Instant::now() + self.drain);
        // From here on, bytes that arrive do not extend the deadline.
        self.is_chunked = false;
        let mut left = MAX_DRAINED_BYTES;
        while left > 0 && !(self.rest.is_empty() && self.body.is_end_stream()) {
            match self.chunk(left).await {
                Ok(chunk) => left -= chunk.len() as u64,
                Err(_) => return,
            }
        }
    }
}
