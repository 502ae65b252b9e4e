//! Asking every mirror at once.

use std::time::{Duration, Instant};

use crate::mirror::{HistoryEvent, MirrorError, MirrorState};
use crate::monitor::Monitor;
use crate::push::Fleet;

/// A mirror and what it said of itself.
#[derive(Debug)]
pub struct Poll {
    /// Its name.
    pub mirror: String,
    /// Where it is, as the user wrote it.
    pub location: String,
    /// Its state, or why it could not be learned.
    pub state: Result<MirrorState, MirrorError>,
    /// What happened there; nothing where it could not be learned, as from an older receiver.
    pub history: Vec<HistoryEvent>,
    /// How long it took to answer with its state.
    pub round_trip: Duration,
}

/// Asks all mirrors at once for their state and history.
pub fn poll(fleet: &Fleet, monitor: &dyn Monitor) -> Vec<Poll> {
    fleet.ask(|mirror| {
        let began = Instant::now();
        let state = Fleet::state_of(mirror, monitor);
        let round_trip = began.elapsed();
        // What cannot tell its history is no worse a mirror for that.
        let history = state.as_ref().ok().and_then(|_| mirror.history().ok()).unwrap_or_default();
        let (name, location) = (mirror.name().to_owned(), mirror.location().to_owned());
        Poll { mirror: name, location, state, history, round_trip }
    })
}
