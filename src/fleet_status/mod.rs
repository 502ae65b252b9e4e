//! How the mirrors of a fleet stand, judged by what they say of themselves.
//!
//! [`poll`] asks them, all at once; [`evaluate`] and [`days`] are pure. Refuses to know
//! how anything is shown, and changes nothing anywhere.

mod changes;
mod days;
mod mirror_status;
mod poll;
mod public;
mod usage;

pub use changes::changes;
pub use days::{DAY_SECONDS, Day, DayKind, Published, TOLERANCE_SECONDS, days, published};
pub use mirror_status::{
    HookFailure, LastSeen, LastVerify, MirrorStatus, Severity, StatusKind, StatusLimits, evaluate, releases, severity,
};
pub use poll::{Poll, poll};
pub use public::{Public, Stale, fetch, look};
pub use usage::{Freed, Usage, usage};
