//! What becomes of a request: an answer at once, or when the work is done.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use hyper::Response;
use hyper::body::Bytes;
use serde::Serialize;

use crate::protocol::Answer;
use crate::receiver::http::error::HttpError;
use crate::receiver::http::response::{self, Reply};

/// What becomes of a request that was not refused at once.
pub(crate) enum HandlerResult {
    Ready(Response<Reply>),
    Pending(Pin<Box<dyn Future<Output = Result<Bytes, HttpError>> + Send>>),
}

impl HandlerResult {
    /// It was done.
    pub(crate) fn done<T: Serialize>(result: T) -> Self {
        Self::Ready(response::done(result))
    }

    /// It may take long.
    pub(crate) fn later<T: Serialize>(work: impl Future<Output = Result<T, HttpError>> + Send + 'static) -> Self {
        Self::Pending(Box::pin(async move { Ok(response::json_bytes(&Answer::Ok(work.await?))) }))
    }
}

/// A guard of the one who asks, and whether it is gone.
pub(crate) fn disconnect_flag() -> (Arc<AtomicBool>, impl Fn() -> bool + Send + Sync) {
    let asker = Arc::new(AtomicBool::new(true));
    let weak: Weak<AtomicBool> = Arc::downgrade(&asker);
    (asker, move || weak.upgrade().is_none_or(|asker| !asker.load(Ordering::Relaxed)))
}
