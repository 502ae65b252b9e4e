//! Polls all mirrors in parallel.

use std::time::{Duration, Instant};

use crate::mirror::{HistoryEvent, MirrorError, MirrorState};
use crate::monitor::Monitor;
use crate::push::Fleet;

/// The result of polling one mirror.
#[derive(Debug)]
pub struct Poll {
    /// The name of the mirror.
    pub mirror: String,
    /// The location of the mirror, as the user wrote it.
    pub location: String,
    /// The state of the mirror, or why the mirror could not be polled.
    pub state: Result<MirrorState, MirrorError>,
    /// The history of the mirror; empty if it could not be read, as from an older receiver.
    pub history: Vec<HistoryEvent>,
    /// How long the mirror took to respond with its state.
    pub round_trip: Duration,
}

/// Polls the states and histories of all mirrors in parallel.
pub fn poll(fleet: &Fleet, monitor: &dyn Monitor) -> Vec<Poll> {
    fleet.query_all(|mirror| {
        let began = Instant::now();
        let state = Fleet::state_of(mirror, monitor);
        let round_trip = began.elapsed();
        // An unreadable history is not an error. It is requested only after a state was received,
        // so that the poll does not wait for an unresponsive mirror twice.
        let history = state.as_ref().ok().and_then(|_| mirror.history().ok()).unwrap_or_default();
        let (name, location) = (mirror.name().to_owned(), mirror.location().to_owned());
        Poll { mirror: name, location, state, history, round_trip }
    })
}
