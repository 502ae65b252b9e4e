//! The context that all threads of a rollout share.

use crate::push::options::Options;
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;

/// The publication, the options and the monitor of a push. Every thread has a copy. Mutable parts
/// have their own locks.
#[derive(Clone, Copy)]
pub(super) struct PushContext<'a> {
    pub(super) publication: &'a Publication,
    pub(super) options: &'a Options,
    pub(super) monitor: &'a PushMonitor<'a>,
}
