//! What becomes of a request: an answer at once, or when the work is done.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use hyper::Response;
use hyper::body::Bytes;
use serde::Serialize;

use crate::serve::refused::Refused;
use crate::serve::reply::{self, Reply};
use crate::wire::Answer;

/// What becomes of a request that was not refused at once.
pub(super) enum Reaction {
    Now(Response<Reply>),
    Later(Pin<Box<dyn Future<Output = Result<Bytes, Refused>> + Send>>),
}

impl Reaction {
    /// It was done.
    pub(super) fn done<T: Serialize>(result: T) -> Self {
        Self::Now(reply::done(result))
    }

    /// It may take long.
    pub(super) fn later<T: Serialize>(work: impl Future<Output = Result<T, Refused>> + Send + 'static) -> Self {
        Self::Later(Box::pin(async move { Ok(reply::json_bytes(&Answer::Ok(work.await?))) }))
    }
}

/// A guard of the one who asks, and whether it is gone.
pub(super) fn presence() -> (Arc<AtomicBool>, impl Fn() -> bool + Send + Sync) {
    let asker = Arc::new(AtomicBool::new(true));
    let weak: Weak<AtomicBool> = Arc::downgrade(&asker);
    (asker, move || weak.upgrade().is_none_or(|asker| !asker.load(Ordering::Relaxed)))
}
