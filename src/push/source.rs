//! Where a push gets its content.

use std::sync::Arc;

use crate::mirror::Mirror;
use crate::scan::{Root, ScanOptions};

/// The source of a push.
#[derive(Debug, Clone)]
pub enum Source {
    /// One or more content trees, merged.
    Trees {
        /// The trees.
        roots: Vec<Root>,
        /// How they are scanned.
        scan: ScanOptions,
    },
    /// A mirror's current release, unchanged.
    CurrentRelease(Arc<dyn Mirror>),
    /// The content of a mirror's current release, from which a new release is made in the history
    /// of the other mirrors.
    Promote(Arc<dyn Mirror>),
    /// A release that is staged on mirrors, given by name, sequence or id.
    Staged(String),
    /// The newest release that a mirror serves, unchanged, for mirrors that lack it.
    Newest,
    /// A release that the mirrors themselves keep.
    Rollback {
        /// The sequence; `None` for the release before the current one.
        to: Option<u64>,
        /// Who decided on the rollback.
        by: DecidedBy,
    },
}

/// Who decided on a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecidedBy {
    /// A person or a job, with a name if known. This rejects the content that is rolled back.
    Person(Option<String>),
    /// A push, after a failed probe or switch. This says nothing about the content, which is not
    /// rejected.
    Push,
}
