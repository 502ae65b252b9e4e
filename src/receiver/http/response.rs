//! Responses: a JSON object, sent immediately or after newlines that keep the connection alive, or
//! a file.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{
    CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::protocol::{ResponseMessage, VERSION, VERSION_HEADER};
use crate::receiver::http::error::HttpError;
use crate::receiver::listener::timeout_stream::ConnectionPhase;

/// Maximum bytes per read of a file. Two chunks are in memory: one in the channel, and one that is
/// being read.
const CHUNK_BYTES: u64 = 256 * 1024;

enum BodyContent {
    Whole(Option<Bytes>),
    Stream { from: mpsc::Receiver<io::Result<Bytes>>, left: Option<u64> },
}

/// The next bytes of a body; `None` at its end.
pub(crate) type Chunk = io::Result<Option<Bytes>>;

/// Produces a body in chunks, each on a thread that may block.
pub(crate) trait ChunkSource: Send + Sized + 'static {
    /// The next chunk, and the source of those after it.
    fn next(self) -> impl Future<Output = (Option<Self>, Chunk)> + Send;
}

/// The body of a response. When it is dropped, the connection waits for the next request.
pub(crate) struct ResponseBody {
    content: BodyContent,
    phases: Option<Arc<ConnectionPhase>>,
}

impl ResponseBody {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            content: BodyContent::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())),
            phases: None,
        }
    }

    /// The chunks received from `from`. `length` is their total length in bytes, if it is known.
    pub(crate) const fn stream(
        from: mpsc::Receiver<io::Result<Bytes>>,
        length: Option<u64>,
    ) -> Self {
        Self { content: BodyContent::Stream { from, left: length }, phases: None }
    }

    /// `length` bytes of `file`, starting at `offset`.
    pub(crate) fn file(file: File, offset: u64, length: u64) -> Self {
        let (sender, from) = mpsc::channel(1);
        tokio::spawn(async move {
            let file = Arc::new(file);
            let mut done = 0;
            while done < length {
                let (count, at, file) =
                    ((length - done).min(CHUNK_BYTES), offset + done, Arc::clone(&file));
                let chunk = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
                    file.read_exact_at(&mut bytes, at).map(|()| Bytes::from(bytes))
                });
                let chunk = chunk.await.unwrap_or_else(|error| Err(io::Error::other(error)));
                // The error is passed on: hyper then closes the connection, and the peer sees that
                // the announced length was not reached.
                let is_last = chunk.is_err();
                if sender.send(chunk).await.is_err() || is_last {
                    return;
                }
                done += count;
            }
        });
        Self::stream(from, Some(length))
    }

    /// The chunks of `source`, `length` bytes in all.
    pub(crate) fn chunks(source: impl ChunkSource, length: u64) -> Self {
        let (sender, from) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut source = Some(source);
            while let Some(current) = source.take() {
                let (rest, chunk) = current.next().await;
                let Some(chunk) = chunk.transpose() else { return };
                // The error is passed on: hyper then breaks off the connection.
                let is_last = chunk.is_err();
                if sender.send(chunk).await.is_err() || is_last {
                    return;
                }
                source = rest;
            }
        });
        Self::stream(from, Some(length))
    }

    /// Reports to `phases` when the body is dropped.
    pub(crate) fn with_phase(self, phases: Arc<ConnectionPhase>) -> Self {
        let mut this = self;
        this.phases = Some(phases);
        this
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(phases) = &self.phases {
            phases.response_sent();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.content {
            BodyContent::Whole(bytes) => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            BodyContent::Stream { from, left } => from.poll_recv(context).map(|chunk| {
                let chunk = chunk?;
                if let (Ok(bytes), Some(left)) = (&chunk, left) {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Some(chunk.map(Frame::data))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            BodyContent::Whole(bytes) => bytes.is_none(),
            BodyContent::Stream { left, .. } => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            BodyContent::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            BodyContent::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            BodyContent::Stream { left: None, .. } => SizeHint::default(),
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(crate) fn json_bytes<T: Serialize>(answer: &T) -> Bytes {
    serde_json::to_vec(answer).expect("messages have text keys and plain values").into()
}

fn with_json(status: StatusCode, content: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A response with `object` as its JSON body.
pub(crate) fn plain<T: Serialize>(status: StatusCode, object: &T) -> Response<ResponseBody> {
    with_json(status, ResponseBody::whole(json_bytes(object)))
}

/// The response to a successful request.
pub(crate) fn done<T: Serialize>(result: T) -> Response<ResponseBody> {
    plain(StatusCode::OK, &ResponseMessage::Ok(result))
}

/// A response with a body that is already JSON.
pub(crate) fn json(bytes: Bytes) -> Response<ResponseBody> {
    with_json(StatusCode::OK, ResponseBody::whole(bytes))
}

/// A partial response: the rest of a file of `length` bytes, starting at `offset`.
pub(crate) fn part(reply: ResponseBody, offset: u64, length: u64) -> Response<ResponseBody> {
    let mut response = content(StatusCode::PARTIAL_CONTENT, reply);
    let range = format!("bytes {offset}-{}/{length}", length.saturating_sub(1));
    if let Ok(range) = HeaderValue::try_from(range) {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    response
}

/// A response whose body arrives over `from` and ends with JSON.
pub(crate) fn streamed_json(from: mpsc::Receiver<io::Result<Bytes>>) -> Response<ResponseBody> {
    with_json(StatusCode::OK, ResponseBody::stream(from, None))
}

/// A response with raw bytes.
pub(crate) fn content(status: StatusCode, reply: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(reply);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

/// The response to a failed request.
pub(crate) fn error_response(refused: &HttpError) -> Response<ResponseBody> {
    let mut response =
        plain(refused.status, &ResponseMessage::<()>::Error(refused.protocol_error.clone()));
    let headers = response.headers_mut();
    if let Some(after) = refused.retry_after {
        headers.insert(RETRY_AFTER, after.as_secs().into());
    }
    if refused.ends_connection {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // HTTP requires this header in a 401 response.
    if refused.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    // The origin shows this version next to its own, so that the user knows which end to upgrade.
    if refused.status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(VERSION_HEADER, VERSION.into());
    }
    response
}
