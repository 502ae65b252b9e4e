//! The second look at the tree, beside all that a push does with the first.
//!
//! What did not change between its two looks was there as a whole at every
//! instant between them; what is read later is hashed again. So the second
//! look may be early, while there is a core to spare.

use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::monitor::Monitor;
use crate::packing::source_entries::SourceEntries;
use crate::scan::{ScanError, Tree};
use crate::threads;

/// Sending that takes longer calls for a third look: who builds in place while a push runs should know.
const FRESH: Duration = Duration::from_secs(1);

type Looked = (Result<(), ScanError>, Instant);

/// A look at the tree that is under way; none where there is no tree.
pub(super) struct Recheck<'s> {
    /// Without a thread where the system hands out none.
    under_way: Option<(Arc<Tree>, Option<ScopedJoinHandle<'s, Looked>>)>,
}

impl<'s> Recheck<'s> {
    /// Nothing to look at.
    pub(super) const fn none() -> Self {
        Self { under_way: None }
    }

    /// Begins to look at what was loaded, if that is a tree.
    pub(super) fn start<'env>(scope: &'s Scope<'s, 'env>, live: &SourceEntries, monitor: &'env dyn Monitor) -> Self {
        let SourceEntries::Tree(tree) = live else { return Self::none() };
        let looked = Arc::clone(tree);
        let handle = threads::start(scope, move || (looked.recheck(monitor), Instant::now())).ok();
        Self { under_way: Some((Arc::clone(tree), handle)) }
    }

    /// Whether all is as it was scanned.
    ///
    /// # Errors
    /// What is not; a wish to stop.
    pub(super) fn finish(self, monitor: &dyn Monitor) -> Result<(), ScanError> {
        let Some((tree, handle)) = self.under_way else { return Ok(()) };
        let Some(handle) = handle else { return tree.recheck(monitor) };
        let (result, ended) = handle.join().expect("looking at the tree does not panic");
        result?;
        if ended.elapsed() > FRESH { tree.recheck(monitor) } else { Ok(()) }
    }
}
