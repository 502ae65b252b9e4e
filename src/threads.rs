//! Scoped threads that cope if the system cannot start a thread: reaching a process limit must not
//! cause a panic.
//!
//! If no thread can be started, [`join`], [`each`] and [`run_workers`] run the work on the calling
//! thread, one task after another. Do not use them for work that waits for other work in the same
//! scope: use [`start`], which fails instead.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use parking_lot::Mutex;

/// The system cannot start a thread.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot start a thread")]
pub struct ThreadError(#[source] Arc<io::Error>);

impl From<io::Error> for ThreadError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

/// Starts `work` on a thread of `scope`.
///
/// # Errors
/// Fails if no thread can be started. In that case, the work is dropped.
pub fn start<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    work: impl FnOnce() -> T + Send + 's,
) -> Result<ScopedJoinHandle<'s, T>, ThreadError> {
    // `Scope::spawn` panics if the system cannot start a thread, for example at the `ulimit -u`
    // limit; `Builder` returns the error.
    Builder::new().spawn_scoped(scope, work).map_err(ThreadError::from)
}

/// Runs `beside` on another thread and `here` on this thread. Returns both results.
pub fn join<A: Send, B>(beside: impl FnOnce() -> A + Send, here: impl FnOnce() -> B) -> (A, B) {
    join_by(Builder::new, beside, here)
}

fn join_by<A: Send, B>(
    builder: impl Fn() -> Builder,
    beside: impl FnOnce() -> A + Send,
    here: impl FnOnce() -> B,
) -> (A, B) {
    let beside = Task::new(beside);
    std::thread::scope(|scope| {
        let thread = beside.start(&builder, scope);
        let here = here();
        (beside.finish(thread), here)
    })
}

/// Calls `work` with each of `items`, on its own thread. Returns the results in item order.
pub fn each<I: Send, T: Send>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> T + Sync,
) -> Vec<T> {
    each_by(Builder::new, items, work)
}

fn each_by<I: Send, T: Send>(
    builder: impl Fn() -> Builder,
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> T + Sync,
) -> Vec<T> {
    let work = &work;
    let pieces: Vec<_> = items.into_iter().map(|item| Task::new(move || work(item))).collect();
    std::thread::scope(|scope| {
        // Collected first, so that all threads have started before this function waits for one.
        let threads: Vec<_> = pieces.iter().map(|piece| piece.start(&builder, scope)).collect();
        pieces.iter().zip(threads).map(|(piece, thread)| piece.finish(thread)).collect()
    })
}

/// Runs `work` on `count` threads, including this one, or on fewer if the system cannot start that
/// many.
pub fn run_workers<T: Send>(count: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let helpers: Vec<_> =
            // Stops at the first failure: if a process limit is reached, the next attempt would
            // fail too.
            (1..count).map_while(|_| Builder::new().spawn_scoped(scope, &work).ok()).collect();
        let own = work();
        std::iter::once(own).chain(helpers.into_iter().map(join_or_resume_panic)).collect()
    })
}

/// The result of `thread`. Propagates its panic.
fn join_or_resume_panic<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    // The panic keeps its own message. An `expect` here would replace it with a message about the
    // join.
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// A task that another thread runs, or the calling thread if no thread can be started.
// If `spawn_scoped` fails, it drops its closure. The closure only borrows the task, so the work
// survives here, behind the lock.
struct Task<F>(Mutex<Option<F>>);

impl<T: Send, F: FnOnce() -> T + Send> Task<F> {
    const fn new(work: F) -> Self {
        Self(Mutex::new(Some(work)))
    }

    fn take(&self) -> Option<F> {
        self.0.lock().take()
    }

    /// Starts a thread for the task; `None` if no thread can be started.
    fn start<'s, 'e>(
        &'s self,
        builder: &impl Fn() -> Builder,
        scope: &'s Scope<'s, 'e>,
    ) -> Option<ScopedJoinHandle<'s, T>>
    where
        T: 's,
    {
        builder().spawn_scoped(scope, || self.run()).ok()
    }

    fn run(&self) -> T {
        (self.take().expect("a piece of work is done once"))()
    }

    fn finish(&self, thread: Option<ScopedJoinHandle<'_, T>>) -> T {
        thread.map_or_else(|| self.run(), join_or_resume_panic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stack size that no system can allocate.
    fn refused() -> Builder {
        Builder::new().stack_size(1 << 60)
    }

    #[test]
    fn work_runs_on_the_caller_if_no_thread_starts() {
        let spawned = std::thread::scope(|scope| refused().spawn_scoped(scope, || ()).map(drop));
        assert!(spawned.is_err(), "the builder of this test hands out threads");
        for builder in [Builder::new, refused] {
            assert_eq!(join_by(builder, || 1, || 2), (1, 2));
            assert_eq!(
                each_by(builder, 0..20, |item| item * 2),
                (0..20).map(|item| item * 2).collect::<Vec<_>>()
            );
        }
    }
}
