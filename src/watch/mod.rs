//! How the mirrors of a fleet stand, judged by what they say of themselves.
//!
//! [`survey`] asks them, all at once; [`judge`] is pure. Refuses to know how
//! anything is shown, and changes nothing anywhere.

mod standing;
mod survey;

pub use standing::{LastVerify, Level, Limits, Standing, State, judge, releases, severity};
pub use survey::{Seen, survey};
