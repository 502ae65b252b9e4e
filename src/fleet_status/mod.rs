//! The status of the mirrors in a fleet, evaluated from their reports.
//!
//! [`poll`] queries them in parallel; [`evaluate`] and [`days`] are pure. This module does not know
//! how results are shown, and changes nothing on any mirror.

mod changes;
mod days;
mod mirror_status;
mod poll;
mod public;
mod usage;

pub use changes::changes;
pub use days::{
    DAY_SECONDS, Day, DayKind, LATE_TOLERANCE_SECONDS, PublishedRelease, days, published_releases,
};
pub use mirror_status::{
    HookFailure, LastSeen, LastVerify, MirrorStatus, Severity, StatusKind, StatusLimits, evaluate,
    releases, severity,
};
pub use poll::{Poll, poll};
pub use public::{PublicCheck, StaleFile, check_public, fetch};
pub use usage::{PruneEstimate, Usage, usage};
