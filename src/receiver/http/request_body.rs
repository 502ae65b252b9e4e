//! The body of a request: read within its announced length, or to its end
//! where it comes in chunks, and within its deadlines.
//!
//! Two deadlines: none of its reads may wait longer than `body_idle`, and all
//! together no longer than `body` and what the size adds. Memory is one chunk,
//! but for what the caller asks to have in memory.

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

/// Written to the disk at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Nanoseconds of a second.
const NANOS: u64 = 1_000_000_000;
/// Most of a refused body that is read so that the peer gets to read the refusal.
const MAX_DRAINED_BYTES: u64 = MAX_PACK_BYTES as u64;

/// A body on its way.
pub(crate) struct RequestBody {
    body: Incoming,
    /// The announced length; nothing: none was.
    length: Option<u64>,
    /// Whether it comes in chunks, and may.
    is_open: bool,
    /// Bytes that were read.
    came: u64,
    bytes_per_second: u64,
    /// What was read and not taken.
    rest: Bytes,
    /// Whether the peer waits for a word before it sends.
    waits: bool,
    deadline: Instant,
    idle: Duration,
    drain: Duration,
    /// Told when something arrived, so that what waits for it is not given up meanwhile.
    listener: Option<Box<dyn Fn() + Send>>,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, headers: &HeaderMap, limits: &ReceiverLimits) -> Self {
        let is_encoded = headers.contains_key(TRANSFER_ENCODING);
        let length = body.size_hint().exact().filter(|_| !is_encoded);
        let waits = headers.contains_key(EXPECT);
        let bytes_per_second = limits.body_bytes_per_second.max(1);
        let by_size = Duration::from_secs(length.unwrap_or(0) / bytes_per_second);
        let deadline = Instant::now() + limits.body + by_size.min(Duration::from_secs(7 * 86_400));
        let (idle, drain) = (limits.body_idle, limits.drain);
        let rest = Bytes::new();
        Self {
            body,
            length,
            is_open: false,
            came: 0,
            bytes_per_second,
            rest,
            waits,
            deadline,
            idle,
            drain,
            listener: None,
        }
    }

    /// Calls `listener` whenever something arrived.
    pub(crate) fn tell(&mut self, listener: impl Fn() + Send + 'static) {
        self.listener = Some(Box::new(listener));
    }

    /// The announced length, else how many bytes came.
    pub(crate) fn bytes(&self) -> u64 {
        self.length.unwrap_or(self.came)
    }

    /// Refuses a body without a length or over `limit`.
    pub(crate) fn check(&self, limit: u64) -> Result<u64, HttpError> {
        let Some(length) = self.length else {
            let words = "a body needs a content-length and no transfer-encoding";
            let refused = HttpError::new(StatusCode::LENGTH_REQUIRED, ErrorKind::Malformed, words);
            return Err(HttpError { ends_connection: true, ..refused });
        };
        if length > limit {
            return Err(HttpError::too_large(format!("{length} bytes, and at most {limit} are taken here")));
        }
        Ok(length)
    }

    /// The same, for one that may come in chunks as well: whoever reads it bounds what it reads, to its [`RequestBody::end`].
    pub(crate) fn check_open(&mut self, limit: u64) -> Result<Option<u64>, HttpError> {
        if self.length.is_none() && !self.body.is_end_stream() {
            self.is_open = true;
            return Ok(None);
        }
        self.check(limit).map(Some)
    }

    /// The next frame of data.
    async fn frame(&mut self) -> Result<Option<Bytes>, HttpError> {
        let deadline = self.deadline.min(Instant::now() + self.idle);
        let frame = tokio::time::timeout_at(deadline, self.body.frame()).await;
        match frame.map_err(|_| HttpError::cut("the body came too slowly"))? {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                self.came += data.len() as u64;
                if self.is_open {
                    // What a size would have added at once is added as it comes.
                    let nanos = data.len() as u64 * NANOS / self.bytes_per_second;
                    self.deadline += Duration::from_nanos(nanos);
                }
                Ok(Some(data))
            }
            Some(Err(_)) => Err(HttpError::cut("the body ended before its announced length, or its last chunk")),
            None => Ok(None),
        }
    }

    /// Makes sure that nothing is left.
    pub(crate) async fn end(&mut self) -> Result<(), HttpError> {
        while self.rest.is_empty() {
            match self.frame().await? {
                Some(data) => self.rest = data,
                None => return Ok(()),
            }
        }
        Err(HttpError { ends_connection: true, ..HttpError::malformed("the body is longer than its parts") })
    }

    /// The next bytes, at most `limit` and at least one.
    async fn chunk(&mut self, limit: u64) -> Result<Bytes, HttpError> {
        self.waits = false;
        while self.rest.is_empty() {
            self.rest =
                self.frame().await?.ok_or_else(|| HttpError::malformed("the body is shorter than its parts"))?;
        }
        if let Some(listener) = &self.listener {
            listener();
        }
        let here = usize::try_from(limit).unwrap_or(usize::MAX).min(self.rest.len());
        Ok(self.rest.split_to(here))
    }

    /// The next `length` bytes in memory, which is used as they arrive.
    pub(crate) async fn read(&mut self, length: u64) -> Result<Vec<u8>, HttpError> {
        // What was never written to takes no memory; beyond this size it grows.
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).min(MAX_PACK_BYTES));
        while (bytes.len() as u64) < length {
            let chunk = self.chunk(length - bytes.len() as u64).await?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Leaves out the next `length` bytes.
    pub(crate) async fn skip(&mut self, length: u64) -> Result<(), HttpError> {
        let mut left = length;
        while left > 0 {
            left -= self.chunk(left).await?.len() as u64;
        }
        Ok(())
    }

    /// The next `length` bytes into `file` at `offset`; answers their BLAKE3. The file is held for as long as
    /// anything is written to it, also after this was given up.
    pub(crate) async fn spool<F>(&mut self, length: u64, file: &F, offset: u64) -> Result<blake3::Hash, HttpError>
    where
        F: AsRef<File> + Clone + Send + 'static,
    {
        let mut hasher = blake3::Hasher::new();
        let mut done = 0;
        while done < length {
            let bytes = self.read((length - done).min(CHUNK_BYTES as u64)).await?;
            let (at, count, file) = (offset + done, bytes.len() as u64, file.clone());
            let written = tokio::task::spawn_blocking(move || {
                hasher.update(&bytes);
                file.as_ref().write_all_at(&bytes, at).context("write", || PathBuf::from("a spool file"))?;
                Ok::<_, crate::fsx::IoError>(hasher)
            });
            hasher = written.await.map_err(|_| HttpError::no_result())??;
            done += count;
        }
        Ok(hasher.finalize())
    }

    /// Reads what is left of a refused body, within bounds: a client that
    /// sends all before it reads would never see the refusal else.
    pub(crate) async fn drain(&mut self) {
        if self.waits || self.length.is_none() && !self.is_open {
            return;
        }
        self.deadline = self.deadline.min(Instant::now() + self.drain);
        // What comes now earns no more time.
        self.is_open = false;
        let mut left = MAX_DRAINED_BYTES;
        while left > 0 && !(self.rest.is_empty() && self.body.is_end_stream()) {
            match self.chunk(left).await {
                Ok(chunk) => left -= chunk.len() as u64,
                Err(_) => return,
            }
        }
    }
}
