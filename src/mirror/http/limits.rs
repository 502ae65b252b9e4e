//! How long, how often and how fast: deadlines, pauses between tries, and a
//! limit on what leaves this machine.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::{CANCEL_POLL_INTERVAL, CancelToken, wait_until};
use crate::mirror::MirrorError;
use crate::mirror::transport_error::TransportError;
use crate::protocol::Resource;

/// Tries without progress, the first one counted: a receiver that is restarted is back by then.
const MAX_TRIES: u32 = 7;
/// Tries where it is asked first, and a whole fleet waits for the answer.
const FIRST_TRIES: u32 = 5;
/// No further try once there was no progress for so long.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// The pause after the first failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that is not asked for.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that a receiver may ask for.
const MAX_ASKED: Duration = Duration::from_secs(30);
/// The longest pause before a lock is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// The times that a mirror is given.
#[derive(Debug, Clone, Default)]
pub struct TransferLimits {
    /// The longest wait for a lock there.
    pub wait: Duration,
    /// When the mirror must be done.
    pub deadline: Option<Instant>,
    /// What may be sent.
    pub limit: Option<Arc<Limiter>>,
    /// Who may send content now; nothing: everybody.
    pub semaphore: Option<Arc<Semaphore>>,
    /// Takes every request that was answered or failed; `None` if they are not of interest.
    pub trace: Option<Trace>,
    /// Stops every operation on the mirror, also those that no monitor stops.
    pub cancel: CancelToken,
}

/// Takes a request and what became of it. Called from many threads.
pub type Trace = fn(&Exchange<'_>);

/// A request and what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The base URL of the mirror; over ssh that of the pipe.
    pub base: &'a str,
    /// The method.
    pub method: &'static str,
    /// What it is about, below the base.
    pub resource: &'a Resource,
    /// The status of the answer, or why there is none. Of a peer: to be escaped before it is shown.
    pub outcome: Result<u16, &'a str>,
    /// How long the head of the answer took.
    pub elapsed: Duration,
}

/// Lets only so many mirrors have content sent to them at once.
#[derive(Debug)]
pub struct Semaphore {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Semaphore {
    /// So many at once; at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { free: Mutex::new(most.max(1)), changed: Condvar::new() }
    }

    /// Waits for a turn, where mirrors take turns.
    pub(in crate::mirror) fn enter<'t>(
        semaphore: Option<&'t Arc<Self>>,
        stop: CancelCheck<'_>,
    ) -> Result<Option<Turn<'t>>, MirrorError> {
        semaphore.map(|semaphore| semaphore.take(stop).ok_or(MirrorError::Cancelled)).transpose()
    }

    /// Waits for a turn; nothing if told to stop meanwhile.
    fn take(&self, stop: CancelCheck<'_>) -> Option<Turn<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if stop() {
                return None;
            }
            free = self.changed.wait_timeout(free, CANCEL_POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Some(Turn(self))
    }
}

/// A turn, which ends with this value.
#[derive(Debug)]
pub(in crate::mirror) struct Turn<'t>(&'t Semaphore);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mirror) enum RetryAction {
    /// Nothing: it would fail again.
    Never,
    /// At once: a connection that lay idle was closed meanwhile.
    AtOnce,
    /// After a pause.
    Later,
    /// After as long as the receiver asks.
    After(Duration),
    /// Until the wait for a lock is over.
    WhileLocked,
}

/// A failure and what to do about it.
#[derive(Debug)]
pub(in crate::mirror) struct AttemptError {
    pub(in crate::mirror) error: MirrorError,
    pub(in crate::mirror) again: RetryAction,
}

impl AttemptError {
    pub(in crate::mirror) const fn final_(error: MirrorError) -> Self {
        Self { error, again: RetryAction::Never }
    }
}

/// Whoever may say that the work shall end.
pub(in crate::mirror) type CancelCheck<'s> = &'s (dyn Fn() -> bool + Sync);

/// Decides whether something is tried again, and pauses before.
pub(super) struct RetryState<'s> {
    failures: u32,
    tries: u32,
    /// Nothing is waited for: only what can be tried again at once is.
    is_once: bool,
    has_failed: bool,
    since: Option<Instant>,
    /// When the last request was made.
    asked: Option<Instant>,
    locked_since: Option<Instant>,
    /// How often it was locked since then.
    polls: u32,
    /// How long nothing may come through.
    idle: Duration,
    wait: Duration,
    deadline: Option<Instant>,
    stop: CancelCheck<'s>,
    /// Stops it as well.
    cancel: CancelToken,
}

impl<'s> RetryState<'s> {
    /// Patience that begins now.
    pub(super) fn new(wait: Duration, deadline: Option<Instant>, stop: CancelCheck<'s>) -> Self {
        let (failures, tries, is_once, has_failed, idle) = (0, MAX_TRIES, false, false, MAX_IDLE);
        let (since, asked, locked_since, polls) = (None, None, None, 0);
        let cancel = CancelToken::default();
        Self {
            failures,
            tries,
            is_once,
            has_failed,
            since,
            asked,
            locked_since,
            polls,
            idle,
            wait,
            deadline,
            stop,
            cancel,
        }
    }

    /// Ended by `cancel` as well.
    pub(super) fn cancelled_by(self, cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// Whether the work is to end.
    pub(super) fn is_stopped(&self) -> bool {
        (self.stop)() || self.cancel.is_cancelled()
    }

    /// With fewer tries and no more than so much time, from now on, until something comes through.
    pub(super) fn with_budget(self, idle: Duration) -> Self {
        Self { since: Some(Instant::now()), tries: FIRST_TRIES, idle, ..self }
    }

    /// For one try, and another one only where the connection had lain idle and was closed meanwhile.
    pub(super) fn once(self) -> Self {
        Self { is_once: true, ..self }
    }

    /// Something came through: counting begins anew.
    pub(super) const fn progress(&mut self) {
        self.failures = 0;
        self.since = None;
        (self.locked_since, self.polls) = (None, 0);
    }

    /// Whether anything failed so far.
    pub(super) const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The time left for one request.
    pub(super) fn left(&mut self) -> Result<Option<Duration>, MirrorError> {
        self.asked = Some(Instant::now());
        if self.is_stopped() {
            return Err(MirrorError::Cancelled);
        }
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => Err(TransportError::Deadline.into()),
            left => Ok(left),
        }
    }

    /// Whether the work shall end.
    pub(super) fn stop(&self) -> CancelCheck<'s> {
        self.stop
    }

    /// Pauses before the next try.
    ///
    /// # Errors
    /// The trouble itself, when there is to be none.
    pub(super) fn next(&mut self, attempt_error: AttemptError) -> Result<(), MirrorError> {
        if self.is_stopped() {
            return Err(MirrorError::Cancelled);
        }
        let now = Instant::now();
        self.has_failed = true;
        let pause = match attempt_error.again {
            RetryAction::Never => return Err(attempt_error.error),
            RetryAction::WhileLocked | RetryAction::Later | RetryAction::After(_) if self.is_once => {
                return Err(attempt_error.error);
            }
            RetryAction::WhileLocked => {
                let left = self.wait.saturating_sub(now - *self.locked_since.get_or_insert(self.asked.unwrap_or(now)));
                if left.is_zero() {
                    return Err(attempt_error.error);
                }
                // The way is fine: what is asked often is not what fails often.
                (self.failures, self.since) = (0, None);
                self.polls += 1;
                return self.pause(backoff(self.polls).min(LOCK_PAUSE).min(left), attempt_error.error);
            }
            RetryAction::AtOnce => Duration::ZERO,
            RetryAction::Later => backoff(self.failures),
            RetryAction::After(asked) => asked.min(MAX_ASKED),
        };
        self.failures += 1;
        let since = *self.since.get_or_insert(now);
        if self.failures >= self.tries || now - since >= self.idle {
            return Err(attempt_error.error);
        }
        self.pause(pause, attempt_error.error)
    }

    fn pause(&self, pause: Duration, error: MirrorError) -> Result<(), MirrorError> {
        let end = Instant::now() + pause;
        let is_late = |moment: Instant| self.deadline.is_some_and(|deadline| deadline <= moment);
        if is_late(Instant::now())
            && let MirrorError::Transport(TransportError::Timeout { what }) = error
        {
            return Err(TransportError::Timeout { what: format!("the deadline has passed: {what}") }.into());
        }
        if is_late(end) {
            // Its own words say more than that the time is over.
            return Err(error);
        }
        match wait_until(end, &|| self.is_stopped()) {
            true => Ok(()),
            false => Err(MirrorError::Cancelled),
        }
    }
}

/// The pause after so many tries. Half of it is left to chance, so that many who failed at once do not
/// come back at once.
fn backoff(tries: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << tries.min(8)).min(MAX_PAUSE);
    full / 2 + full.mul_f64(chance() / 2.0)
}

/// A number from 0 to 1. Where the system has no randomness all pauses are of one length.
fn chance() -> f64 {
    let mut byte = [128];
    getrandom::fill(&mut byte).ok();
    f64::from(byte[0]) / 255.0
}

/// A limit on what is sent, shared by all who have it.
#[derive(Debug)]
pub struct Limiter {
    bytes_per_second: f64,
    /// A limit that holds as well.
    outer: Option<Arc<Self>>,
    /// When all that was let through so far will have been due.
    due: Mutex<Option<Instant>>,
}

impl Limiter {
    /// At most `bytes_per_second`, which is at least 1, and what `outer` lets through.
    #[must_use]
    pub fn new(bytes_per_second: u64, outer: Option<Arc<Self>>) -> Self {
        let rate = u32::try_from(bytes_per_second.max(1)).unwrap_or(u32::MAX);
        Self { bytes_per_second: f64::from(rate), outer, due: Mutex::default() }
    }

    /// The most that should be sent in one go: a tenth of a second.
    pub(super) fn portion(&self) -> usize {
        // As floating point numbers do: what does not fit becomes the largest that does.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive and saturates")]
        let portion = (self.bytes_per_second / 10.0) as usize;
        let outer = self.outer.as_ref().map_or(usize::MAX, |outer| outer.portion());
        portion.clamp(1, outer)
    }

    /// Waits until `bytes` may be sent; answers false if told to stop meanwhile.
    pub(super) fn wait(&self, bytes: usize, stop: CancelCheck<'_>) -> bool {
        let cost = Duration::from_secs_f64(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / self.bytes_per_second);
        let permit = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let permit = due.map_or(now, |due| due.max(now));
            *due = Some(permit + cost);
            permit
        };
        wait_until(permit, stop) && self.outer.as_ref().is_none_or(|outer| outer.wait(bytes, stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: CancelCheck<'_> = &|| false;

    fn lost() -> MirrorError {
        TransportError::Lost { what: "x".into() }.into()
    }

    #[test]
    fn what_fails_for_good_is_not_tried_again() {
        let mut retry = RetryState::new(Duration::from_secs(60), None, GO);
        assert!(retry.next(AttemptError::final_(lost())).is_err());
    }

    #[test]
    fn one_try_waits_for_nothing() {
        let next = |again| {
            RetryState::new(Duration::from_secs(60), None, GO).once().next(AttemptError { error: lost(), again })
        };
        assert!(next(RetryAction::AtOnce).is_ok());
        for again in
            [RetryAction::Later, RetryAction::WhileLocked, RetryAction::After(Duration::ZERO), RetryAction::Never]
        {
            assert!(next(again).is_err(), "{again:?}");
        }
    }

    #[test]
    fn tries_without_progress_are_counted() {
        let mut retry = RetryState::new(Duration::ZERO, None, GO);
        let again = |retry: &mut RetryState<'_>| retry.next(AttemptError { error: lost(), again: RetryAction::AtOnce });
        for _ in 0..3 {
            for _ in 1..MAX_TRIES {
                again(&mut retry).unwrap();
            }
            retry.progress();
        }
        for _ in 1..MAX_TRIES {
            again(&mut retry).unwrap();
        }
        assert!(again(&mut retry).is_err());
    }

    #[test]
    fn a_lock_is_waited_for_as_long_as_told() {
        let wait = Duration::from_millis(120);
        let began = Instant::now();
        let mut retry = RetryState::new(wait, None, GO);
        while retry.next(AttemptError { error: lost(), again: RetryAction::WhileLocked }).is_ok() {}
        assert!(began.elapsed() >= wait);
    }

    #[test]
    fn a_deadline_ends_it_before_a_pause_would() {
        let mut retry = RetryState::new(Duration::ZERO, Some(Instant::now() + Duration::from_millis(10)), GO);
        let asked = RetryAction::After(Duration::from_secs(20));
        let began = Instant::now();
        assert!(retry.next(AttemptError { error: lost(), again: asked }).is_err());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_wait_that_the_deadline_ended_is_told_as_that() {
        let slow =
            || AttemptError { error: TransportError::Timeout { what: "x".into() }.into(), again: RetryAction::Later };
        let next = |deadline, attempt_error| {
            RetryState::new(Duration::ZERO, Some(deadline), GO).next(attempt_error).unwrap_err()
        };
        let now = Instant::now();
        let told = next(now, slow()).to_string();
        assert!(told.contains("the deadline has passed: x"), "{told}");
        assert!(matches!(
            next(now, AttemptError { error: lost(), ..slow() }),
            MirrorError::Transport(TransportError::Lost { .. })
        ));
    }

    #[test]
    fn whoever_shall_stop_does_not_pause() {
        let mut retry = RetryState::new(Duration::ZERO, None, &|| true);
        let result = retry.next(AttemptError { error: lost(), again: RetryAction::After(Duration::from_secs(20)) });
        assert!(matches!(result, Err(MirrorError::Cancelled)));
        assert!(matches!(retry.left(), Err(MirrorError::Cancelled)));
    }

    #[test]
    fn turns_are_taken_and_given_back() {
        let semaphore = Semaphore::new(1);
        let first = semaphore.take(GO).unwrap();
        assert!(semaphore.take(&|| true).is_none());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| semaphore.take(GO).is_some());
            drop(first);
            assert!(second.join().unwrap());
        });
    }

    #[test]
    fn a_limit_spreads_what_is_sent() {
        let limiter = Limiter::new(1_000_000, None);
        assert_eq!(limiter.portion(), 100_000);
        let began = Instant::now();
        for _ in 0..4 {
            assert!(limiter.wait(100_000, GO));
        }
        // The first goes at once.
        assert!(began.elapsed() >= Duration::from_millis(299), "{:?}", began.elapsed());
    }

    #[test]
    fn the_narrower_of_two_limits_decides() {
        for (inner, outer) in [(1_000_000, 100_000_000), (100_000_000, 1_000_000)] {
            let limiter = Limiter::new(inner, Some(Arc::new(Limiter::new(outer, None))));
            assert_eq!(limiter.portion(), 100_000);
            let began = Instant::now();
            for _ in 0..3 {
                assert!(limiter.wait(100_000, GO));
            }
            assert!(began.elapsed() >= Duration::from_millis(199), "{inner} {outer}: {:?}", began.elapsed());
        }
    }
}
