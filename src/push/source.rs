//! Where the content of a push comes from.

use std::sync::Arc;

use crate::mirror::Mirror;
use crate::scan::{Root, ScanOptions};

/// Where the content of a push comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// One or more content trees, merged.
    Trees {
        /// The trees.
        roots: Vec<Root>,
        /// How they are scanned.
        scan: ScanOptions,
    },
    /// The current release of a mirror, as it is.
    Store(Arc<dyn Mirror>),
    /// The content of the current release of a mirror, of which a release is made in the history of the others.
    Promote(Arc<dyn Mirror>),
    /// A release that is staged on mirrors: by its name, its sequence or its id.
    Staged(String),
    /// The newest release that a mirror serves, as it is, for those that lack it.
    Newest,
    /// A release that the mirrors themselves keep.
    Rollback {
        /// Its sequence; `None` for the one before the current one.
        to: Option<u64>,
        /// Who decided on it.
        by: DecidedBy,
    },
}

/// Who decided to go back to a kept release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecidedBy {
    /// A person or a job, whose name may be known: the content that is left is rejected.
    Person(Option<String>),
    /// A push, after a probe or a failed switch: that says nothing about the content.
    Push,
}
