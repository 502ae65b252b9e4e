//! Cancellation of a run, for all code that waits for an external event.
//!
//! Code that can poll a flag while it waits does so. Code that blocks in the system registers an
//! [`Interrupt`].

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;

use crate::monitor::{Event, Monitor};

/// The interval at which a wait checks for cancellation.
// A run promises to end within two seconds of the request, and several waits may follow one
// another, so each of them may take only a small part of that time.
pub const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A blocking operation that another thread can end.
pub trait Interrupt: Send + Sync {
    /// Ends the operations that are blocked now, and makes later ones fail.
    fn interrupt(&self);
}

/// The cancellation of a run. Clones share the same state.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<CancelState>);

#[derive(Default)]
struct CancelState {
    is_cancelled: Arc<AtomicBool>,
    blocking: Mutex<Vec<Weak<dyn Interrupt>>>,
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken")
            .field("is_cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl CancelToken {
    /// Whether the run was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    /// The flag, for a signal handler. Setting it interrupts nothing, so [`CancelToken::cancel`]
    /// must follow soon.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.is_cancelled)
    }

    /// Cancels the run and interrupts the registered operations.
    pub fn cancel(&self) {
        // The flag is set before the list is processed: an operation that registers in the meantime
        // is either in the list or sees the flag in `interrupt_on_cancel`.
        self.0.is_cancelled.store(true, Ordering::SeqCst);
        let blocking = std::mem::take(&mut *self.0.blocking.lock());
        // The lock is not held here, because an interrupted operation may take it.
        blocking.iter().filter_map(Weak::upgrade).for_each(|one| one.interrupt());
    }

    /// Interrupts `blocking` when the run is cancelled, or immediately if it already has been.
    pub fn interrupt_on_cancel(&self, blocking: Weak<dyn Interrupt>) {
        let mut all = self.0.blocking.lock();
        // Without this, connections from past attempts would pile up in a long run.
        all.retain(|one| one.strong_count() > 0);
        all.push(blocking);
        drop(all);
        // A second `cancel` is harmless: the first one has emptied the list.
        if self.is_cancelled() {
            self.cancel();
        }
    }
}

/// Waits for `time`, or until `monitor` is cancelled. Returns `false` if it was cancelled.
pub fn sleep_unless_cancelled(time: Duration, monitor: &dyn Monitor) -> bool {
    wait_until(Instant::now() + time, &|| monitor.is_cancelled())
}

/// Waits until `end`, or until `is_cancelled` returns `true`. Returns `false` in the second case.
pub fn wait_until(end: Instant, is_cancelled: &dyn Fn() -> bool) -> bool {
    loop {
        if is_cancelled() {
            return false;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(CANCEL_POLL_INTERVAL));
    }
}

/// A monitor that stops work in another thread.
struct StopMonitor(AtomicBool);

impl Monitor for StopMonitor {
    fn event(&self, _: Event) {}

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs `work` on its own thread and waits for the result. If `monitor` is cancelled, returns
/// `None` immediately. The work is then asked to stop, and ends on its own or with the process.
///
/// # Panics
/// Panics if the work panics.
pub fn run_until_cancelled<T: Send + 'static>(
    monitor: &dyn Monitor,
    work: impl FnOnce(&dyn Monitor) -> T + Send + 'static,
) -> Option<T> {
    let stop = Arc::new(StopMonitor(AtomicBool::new(false)));
    let (sender, done) = bounded(1);
    // `spawn` consumes its closure even if it fails. Keeping the work where both threads can reach
    // it prevents it from being lost with the closure.
    let work = Arc::new(Mutex::new(Some(work)));
    let thread_stop = Arc::clone(&stop);
    let taken = Arc::clone(&work);
    let spawned = Builder::new().spawn(move || {
        let work = taken.lock().take();
        sender.send(work.map(|work| work(&*thread_stop))).ok()
    });
    let Ok(thread) = spawned else {
        // No thread could be started: run the work here, where it checks for cancellation itself.
        let work = work.lock().take();
        return work.map(|work| work(monitor));
    };
    loop {
        match done.recv_timeout(CANCEL_POLL_INTERVAL) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                // The sender is dropped without a result only after a panic, which `join` returns.
                thread.join().expect("work for a push does not panic");
                return None;
            }
            Err(RecvTimeoutError::Timeout) if monitor.is_cancelled() => {
                stop.0.store(true, Ordering::Relaxed);
                return None;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(Mutex<u32>);

    impl Interrupt for Count {
        fn interrupt(&self) {
            *self.0.lock() += 1;
        }
    }

    #[test]
    fn blocking_call_is_interrupted_once_even_after_cancellation() {
        let count = Arc::new(Count(Mutex::new(0)));
        let blocking: Arc<dyn Interrupt> = Arc::clone(&count) as _;
        let token = CancelToken::default();
        token.interrupt_on_cancel(Arc::downgrade(&blocking));
        assert_eq!(*count.0.lock(), 0);
        token.clone().cancel();
        token.cancel();
        assert!(token.is_cancelled() && *count.0.lock() == 1);
        token.interrupt_on_cancel(Arc::downgrade(&blocking));
        assert_eq!(*count.0.lock(), 2);
    }

    #[test]
    fn wait_ends_at_its_deadline_or_on_cancellation() {
        let began = Instant::now();
        let asked = std::cell::Cell::new(0);
        let is_cancelled = || asked.replace(asked.get() + 1) >= 2;
        assert!(!wait_until(began + Duration::from_secs(60), &is_cancelled));
        assert!(!wait_until(began, &is_cancelled), "a time that is over");
        let end = Instant::now() + Duration::from_millis(120);
        assert!(wait_until(end, &|| false));
        assert!(Instant::now() >= end && began.elapsed() < Duration::from_secs(30));
    }
}
