//! Deadlines, retries with backoff, concurrency limits and rate limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::cancel::{CANCEL_POLL_INTERVAL, CancelToken, wait_until};
use crate::mirror::MirrorError;
use crate::mirror::attempt::{AttemptError, RetryAction};
use crate::mirror::transport_error::TransportError;
use crate::protocol::Resource;

/// Attempts without progress, including the first. With the pauses between them, a receiver has
/// enough time to restart.
// The six pauses are 0.1 to 3.2 seconds long, minus a random part: about five seconds in all.
const MAX_ATTEMPTS: u32 = 7;
/// Attempts for the first request to a mirror. They are fewer because the whole fleet waits for the
/// response.
// Four pauses, about one second in all.
const FIRST_REQUEST_ATTEMPTS: u32 = 5;
/// After this much time without progress, no further attempt is made.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// The pause after the first failure. It doubles after each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, unless the receiver asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that a receiver may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// The longest pause between two attempts to take a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// The time limits, the rate limit and the concurrency limit of a mirror.
#[derive(Debug, Clone, Default)]
pub struct TransferLimits {
    /// How long to wait for a lock on the mirror.
    pub lock_wait: Duration,
    /// When all work on the mirror must be finished.
    pub deadline: Option<Instant>,
    /// The rate limit; `None` for no limit.
    pub limit: Option<Arc<Limiter>>,
    /// Limits how many mirrors receive content at the same time; `None` for no limit.
    pub semaphore: Option<Arc<Semaphore>>,
    /// Called after every request; `None` if requests are not traced.
    pub trace: Option<TraceFn>,
    /// Cancels every operation on the mirror, including operations without a monitor.
    pub cancel: CancelToken,
}

/// A function that traces a request and its outcome. Called from many threads.
pub type TraceFn = fn(&RequestTrace<'_>);

/// A request and its outcome.
#[derive(Debug, Clone, Copy)]
pub struct RequestTrace<'a> {
    /// The base URL of the mirror. Over ssh, it is the base URL of the child process.
    pub base: &'a str,
    /// The method.
    pub method: &'static str,
    /// The resource, relative to the base URL.
    pub resource: &'a Resource,
    /// The status of the response, or the error. The text may come from a peer: escape it before
    /// you show it.
    pub outcome: Result<u16, &'a str>,
    /// The time until the head of the response was read.
    pub elapsed: Duration,
}

/// Limits how many mirrors receive content at the same time.
#[derive(Debug)]
pub struct Semaphore {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Semaphore {
    /// A semaphore with `most` permits, at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { free: Mutex::new(most.max(1)), changed: Condvar::new() }
    }

    /// Waits for a permit from `semaphore`. Returns `None` immediately if there is no semaphore.
    pub(in crate::mirror) fn acquire_if_some<'t>(
        semaphore: Option<&'t Arc<Self>>,
        stop: CancelCheck<'_>,
    ) -> Result<Option<SemaphorePermit<'t>>, MirrorError> {
        semaphore.map(|semaphore| semaphore.acquire(stop).ok_or(MirrorError::Cancelled)).transpose()
    }

    /// Waits for a permit. Returns `None` if `stop` returns true first.
    fn acquire(&self, stop: CancelCheck<'_>) -> Option<SemaphorePermit<'_>> {
        let mut free = self.free.lock();
        while *free == 0 {
            if stop() {
                return None;
            }
            // The wait has a time limit, because a request to stop does not notify this condition.
            self.changed.wait_for(&mut free, CANCEL_POLL_INTERVAL);
        }
        *free -= 1;
        Some(SemaphorePermit(self))
    }
}

/// A permit; dropping it returns it to the semaphore.
#[derive(Debug)]
pub(in crate::mirror) struct SemaphorePermit<'t>(&'t Semaphore);

impl Drop for SemaphorePermit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.changed.notify_one();
    }
}

/// Returns true if the work should stop.
pub(in crate::mirror) type CancelCheck<'s> = &'s (dyn Fn() -> bool + Sync);

/// An operation's retry state: decides whether a failed attempt is retried, and pauses before the
/// next one.
pub(super) struct RetryState<'s> {
    failures: u32,
    max_attempts: u32,
    /// Whether only [`RetryAction::AtOnce`] leads to a retry.
    is_once: bool,
    has_failed: bool,
    failing_since: Option<Instant>,
    /// When the last request was sent.
    requested_at: Option<Instant>,
    locked_since: Option<Instant>,
    /// The number of attempts since then that found the mirror locked.
    polls: u32,
    /// The maximum time without progress.
    idle: Duration,
    wait: Duration,
    deadline: Option<Instant>,
    stop: CancelCheck<'s>,
    /// A token that is checked in addition to `stop`.
    cancel: CancelToken,
}

impl<'s> RetryState<'s> {
    /// The state before the first attempt.
    pub(super) fn new(wait: Duration, deadline: Option<Instant>, stop: CancelCheck<'s>) -> Self {
        let (failures, max_attempts, is_once, has_failed, idle) =
            (0, MAX_ATTEMPTS, false, false, MAX_IDLE);
        let (failing_since, requested_at, locked_since, polls) = (None, None, None, 0);
        let cancel = CancelToken::default();
        Self {
            failures,
            max_attempts,
            is_once,
            has_failed,
            failing_since,
            requested_at,
            locked_since,
            polls,
            idle,
            wait,
            deadline,
            stop,
            cancel,
        }
    }

    /// Makes the operation also stop when `cancel` is cancelled.
    pub(super) fn cancelled_by(self, cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// Whether the work should stop.
    pub(super) fn is_stopped(&self) -> bool {
        (self.stop)() || self.cancel.is_cancelled()
    }

    /// Until there is progress, allows fewer attempts and gives up once `idle` has passed from now.
    pub(super) fn with_budget(self, idle: Duration) -> Self {
        Self {
            failing_since: Some(Instant::now()),
            max_attempts: FIRST_REQUEST_ATTEMPTS,
            idle,
            ..self
        }
    }

    /// Allows one attempt, and a second one only if the server closed an idle connection.
    pub(super) fn single_attempt(self) -> Self {
        Self { is_once: true, ..self }
    }

    /// Resets the counters after progress.
    pub(super) const fn progress(&mut self) {
        self.failures = 0;
        self.failing_since = None;
        (self.locked_since, self.polls) = (None, 0);
    }

    /// Whether any attempt has failed.
    pub(super) const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Returns the time left for a request; `None` if there is no deadline.
    pub(super) fn time_left(&mut self) -> Result<Option<Duration>, MirrorError> {
        // The wait for a lock starts here, because the receiver itself waits before it responds.
        self.requested_at = Some(Instant::now());
        if self.is_stopped() {
            return Err(MirrorError::Cancelled);
        }
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => Err(TransportError::Deadline.into()),
            left => Ok(left),
        }
    }

    /// The check for a request to stop, without checking the cancel token.
    pub(super) fn stop(&self) -> CancelCheck<'s> {
        self.stop
    }

    /// Records a failed attempt and pauses before the next one.
    ///
    /// # Errors
    /// The attempt's error, if the attempt is not retried.
    pub(super) fn retry_or_fail(&mut self, attempt_error: AttemptError) -> Result<(), MirrorError> {
        if self.is_stopped() {
            return Err(MirrorError::Cancelled);
        }
        let now = Instant::now();
        // From now on a response may have been lost, so a request may have taken effect.
        self.has_failed = true;
        let pause = match attempt_error.retry {
            RetryAction::Never => return Err(attempt_error.error),
            RetryAction::WhileLocked | RetryAction::Later | RetryAction::After(_)
                if self.is_once =>
            {
                return Err(attempt_error.error);
            }
            RetryAction::WhileLocked => {
                let left = self.wait.saturating_sub(
                    now - *self.locked_since.get_or_insert(self.requested_at.unwrap_or(now)),
                );
                if left.is_zero() {
                    return Err(attempt_error.error);
                }
                // A lock is not a connection error, so attempts that find the mirror locked do not
                // count as failures.
                (self.failures, self.failing_since) = (0, None);
                self.polls += 1;
                return self
                    .pause(backoff(self.polls).min(LOCK_PAUSE).min(left), attempt_error.error);
            }
            RetryAction::AtOnce => Duration::ZERO,
            RetryAction::Later => backoff(self.failures),
            RetryAction::After(asked) => asked.min(MAX_RETRY_AFTER),
        };
        self.failures += 1;
        let since = *self.failing_since.get_or_insert(now);
        if self.failures >= self.max_attempts || now - since >= self.idle {
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
            return Err(TransportError::Timeout {
                what: format!("the deadline has passed: {what}"),
            }
            .into());
        }
        if is_late(end) {
            // The attempt's error is more useful than an error about the deadline.
            return Err(error);
        }
        if wait_until(end, &|| self.is_stopped()) { Ok(()) } else { Err(MirrorError::Cancelled) }
    }
}

/// The pause after `tries` failures. Half of it is random, so that clients that failed together do
/// not retry together.
fn backoff(tries: u32) -> Duration {
    // The shift is limited, because it would overflow after 31 failures. `MAX_PAUSE` is reached
    // after six.
    let full = FIRST_PAUSE.saturating_mul(1 << tries.min(8)).min(MAX_PAUSE);
    full / 2 + full.mul_f64(random_fraction() / 2.0)
}

/// A random number from 0 to 1; a constant if the system has no source of randomness.
fn random_fraction() -> f64 {
    let mut byte = [128];
    getrandom::fill(&mut byte).ok();
    f64::from(byte[0]) / 255.0
}

/// A rate limit on sent bytes, shared by all connections that use it.
#[derive(Debug)]
pub struct Limiter {
    bytes_per_second: f64,
    /// A second limit that applies as well.
    outer: Option<Arc<Self>>,
    /// When the bytes sent so far will have used up their time at this rate.
    due: Mutex<Option<Instant>>,
}

impl Limiter {
    /// Limits to `bytes_per_second`, at least 1, and also to the rate of `outer`.
    #[must_use]
    pub fn new(bytes_per_second: u64, outer: Option<Arc<Self>>) -> Self {
        // 32 bits convert to a float without loss. A limit above 4 GiB/s is no limit in practice.
        let rate = u32::try_from(bytes_per_second.max(1)).unwrap_or(u32::MAX);
        Self { bytes_per_second: f64::from(rate), outer, due: Mutex::default() }
    }

    /// The largest portion to send at once: as much as the rate allows in a tenth of a second.
    pub(super) fn portion(&self) -> usize {
        // A cast from floating point saturates at `usize::MAX`.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is positive and saturates"
        )]
        let portion = (self.bytes_per_second / 10.0) as usize;
        let outer = self.outer.as_ref().map_or(usize::MAX, |outer| outer.portion());
        portion.clamp(1, outer)
    }

    /// Waits until `bytes` may be sent. Returns false if `stop` returns true first.
    pub(super) fn wait(&self, bytes: usize, stop: CancelCheck<'_>) -> bool {
        let cost = Duration::from_secs_f64(
            f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / self.bytes_per_second,
        );
        // The lock is not held while this waits. Each connection takes the next free moment, so
        // together the connections keep to the rate.
        let permit = {
            let mut due = self.due.lock();
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
    fn permanent_error_is_not_retried() {
        let mut retry = RetryState::new(Duration::from_secs(60), None, GO);
        assert!(retry.retry_or_fail(AttemptError::final_(lost())).is_err());
    }

    #[test]
    fn single_attempt_does_not_wait() {
        let next = |action| {
            RetryState::new(Duration::from_secs(60), None, GO)
                .single_attempt()
                .retry_or_fail(AttemptError { error: lost(), retry: action })
        };
        assert!(next(RetryAction::AtOnce).is_ok());
        for action in [
            RetryAction::Later,
            RetryAction::WhileLocked,
            RetryAction::After(Duration::ZERO),
            RetryAction::Never,
        ] {
            assert!(next(action).is_err(), "{action:?}");
        }
    }

    #[test]
    fn attempts_without_progress_are_limited() {
        let mut retry = RetryState::new(Duration::ZERO, None, GO);
        let again = |retry: &mut RetryState<'_>| {
            retry.retry_or_fail(AttemptError { error: lost(), retry: RetryAction::AtOnce })
        };
        for _ in 0..3 {
            for _ in 1..MAX_ATTEMPTS {
                again(&mut retry).unwrap();
            }
            retry.progress();
        }
        for _ in 1..MAX_ATTEMPTS {
            again(&mut retry).unwrap();
        }
        assert!(again(&mut retry).is_err());
    }

    #[test]
    fn lock_is_awaited_for_the_configured_time() {
        let wait = Duration::from_millis(120);
        let began = Instant::now();
        let mut retry = RetryState::new(wait, None, GO);
        while retry
            .retry_or_fail(AttemptError { error: lost(), retry: RetryAction::WhileLocked })
            .is_ok()
        {}
        assert!(began.elapsed() >= wait);
    }

    #[test]
    fn deadline_ends_retries_before_the_next_pause() {
        let mut retry =
            RetryState::new(Duration::ZERO, Some(Instant::now() + Duration::from_millis(10)), GO);
        let asked = RetryAction::After(Duration::from_secs(20));
        let began = Instant::now();
        assert!(retry.retry_or_fail(AttemptError { error: lost(), retry: asked }).is_err());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn wait_ended_by_the_deadline_is_reported_as_such() {
        let slow = || AttemptError {
            error: TransportError::Timeout { what: "x".into() }.into(),
            retry: RetryAction::Later,
        };
        let next = |deadline, attempt_error| {
            RetryState::new(Duration::ZERO, Some(deadline), GO)
                .retry_or_fail(attempt_error)
                .unwrap_err()
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
    fn cancellation_ends_the_pause() {
        let mut retry = RetryState::new(Duration::ZERO, None, &|| true);
        let result = retry.retry_or_fail(AttemptError {
            error: lost(),
            retry: RetryAction::After(Duration::from_secs(20)),
        });
        assert!(matches!(result, Err(MirrorError::Cancelled)));
        assert!(matches!(retry.time_left(), Err(MirrorError::Cancelled)));
    }

    #[test]
    fn permits_are_taken_and_returned() {
        let semaphore = Semaphore::new(1);
        let first = semaphore.acquire(GO).unwrap();
        assert!(semaphore.acquire(&|| true).is_none());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| semaphore.acquire(GO).is_some());
            drop(first);
            assert!(second.join().unwrap());
        });
    }

    #[test]
    fn rate_limit_spreads_the_sent_bytes() {
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
    fn lower_of_two_limits_applies() {
        for (inner, outer) in [(1_000_000, 100_000_000), (100_000_000, 1_000_000)] {
            let limiter = Limiter::new(inner, Some(Arc::new(Limiter::new(outer, None))));
            assert_eq!(limiter.portion(), 100_000);
            let began = Instant::now();
            for _ in 0..3 {
                assert!(limiter.wait(100_000, GO));
            }
            assert!(
                began.elapsed() >= Duration::from_millis(199),
                "{inner} {outer}: {:?}",
                began.elapsed()
            );
        }
    }
}
