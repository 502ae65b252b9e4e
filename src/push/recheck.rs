//! The second scan of the tree, in parallel with the rest of a push.
//!
//! If a file is the same in both scans, it did not change in between, and content that is read
//! later is hashed again. So the second scan may run early, while a core is idle.

use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::monitor::Monitor;
use crate::packing::source_entries::SourceEntries;
use crate::scan::{ScanError, Tree};
use crate::threads;

/// If sending takes longer than this, the tree is scanned a third time: users who build in place
/// during a push should find out.
const MAX_RECHECK_AGE: Duration = Duration::from_secs(1);

type RecheckResult = (Result<(), ScanError>, Instant);

/// The running scan of the tree, if there is one.
pub(super) struct Recheck<'s> {
    /// The handle is `None` if the system could not create a thread.
    running: Option<(Arc<Tree>, Option<ScopedJoinHandle<'s, RecheckResult>>)>,
}

impl<'s> Recheck<'s> {
    /// A recheck that scans nothing.
    pub(super) const fn none() -> Self {
        Self { running: None }
    }

    /// Starts the scan, if the source is a tree.
    pub(super) fn start<'env>(
        scope: &'s Scope<'s, 'env>,
        live: &SourceEntries,
        monitor: &'env dyn Monitor,
    ) -> Self {
        let SourceEntries::Tree(tree) = live else { return Self::none() };
        let scanned_tree = Arc::clone(tree);
        let handle =
            threads::start(scope, move || (scanned_tree.recheck(monitor), Instant::now())).ok();
        Self { running: Some((Arc::clone(tree), handle)) }
    }

    /// Checks that the tree has not changed since the first scan.
    ///
    /// # Errors
    /// If something has changed, or the user cancelled the push.
    pub(super) fn finish(self, monitor: &dyn Monitor) -> Result<(), ScanError> {
        let Some((tree, handle)) = self.running else { return Ok(()) };
        let Some(handle) = handle else { return tree.recheck(monitor) };
        let (result, ended) = handle.join().expect("looking at the tree does not panic");
        result?;
        if ended.elapsed() > MAX_RECHECK_AGE { tree.recheck(monitor) } else { Ok(()) }
    }
}
