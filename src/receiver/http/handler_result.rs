//! The result of a handler: an immediate response, or work that ends with one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::Response;
use hyper::body::Bytes;
use serde::Serialize;

use crate::protocol::ResponseMessage;
use crate::receiver::http::error::HttpError;
use crate::receiver::http::response::{self, ResponseBody};

/// The result of a handler that did not fail immediately.
pub(crate) enum HandlerResult {
    Ready(Response<ResponseBody>),
    Pending(Pin<Box<dyn Future<Output = Result<Bytes, HttpError>> + Send>>),
}

impl HandlerResult {
    /// A finished request with its result.
    pub(crate) fn ready<T: Serialize>(result: T) -> Self {
        Self::Ready(response::done(result))
    }

    /// A request whose work may take a long time.
    pub(crate) fn pending<T: Serialize>(
        work: impl Future<Output = Result<T, HttpError>> + Send + 'static,
    ) -> Self {
        Self::Pending(Box::pin(async move {
            Ok(response::json_bytes(&ResponseMessage::Ok(work.await?)))
        }))
    }
}

/// A guard, and a function that returns whether the guard was dropped. The future of a request
/// keeps the guard, which is dropped with the future if the peer disconnects.
pub(crate) fn disconnect_flag() -> (Arc<()>, impl Fn() -> bool + Send + Sync) {
    let guard = Arc::new(());
    let weak = Arc::downgrade(&guard);
    (guard, move || weak.strong_count() == 0)
}
