//! Who is told that something changed: commands, and the CDN in front.
//!
//! Knows the words of a change as others need them: paths of URLs, batches of them, a
//! command with its input. Never decides whether a push succeeded.

mod command;
mod purge;

pub use command::{CommandError, Order, run};
pub use purge::{Purge, Purged, paths, urls};
