//! Notifies a CDN in front of the mirrors about changes.
//!
//! This module turns a change into URL paths and batches of URLs. It does not decide whether a push
//! succeeded.

mod purge;

pub use purge::{Purge, PurgeResult, changed_url_paths, urls_below};
