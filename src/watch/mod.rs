//! How the mirrors of a fleet stand, judged by what they say of themselves.
//!
//! [`survey`] asks them, all at once; [`judge`] and [`days`] are pure. Refuses to know
//! how anything is shown, and changes nothing anywhere.

mod changes;
mod days;
mod public;
mod standing;
mod survey;
mod usage;

pub use changes::changes;
pub use days::{DAY_SECONDS, Day, DayKind, Published, TOLERANCE_SECONDS, days, published};
pub use public::{Public, Stale, fetch, look};
pub use standing::{HookFailure, LastSeen, LastVerify, Level, Limits, Standing, State, judge, releases, severity};
pub use survey::{Seen, survey};
pub use usage::{Freed, Usage, usage};
