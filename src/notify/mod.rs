//! Who is told that something changed: the CDN in front.
//!
//! Knows the words of a change as others need them: paths of URLs, and batches of them. Never decides whether a push succeeded.

mod purge;

pub use purge::{Purge, Purged, paths, urls};
