//! A small thread pool for decoding packs, which takes a lot of memory.
//!
//! An allocator keeps memory for each thread that has ever used it. If packs were decoded on the
//! many threads that may block on a disk, packs and their blocks would add up to hundreds of
//! megabytes. In a separate pool, the number of threads bounds this memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::receiver::http::error::HttpError;

type DecodeJob = Box<dyn FnOnce() + Send>;

/// Maximum number of packs that are decoded at once, however many cores there are. Each thread may
/// need a pack, a prefix and content, all of the largest size: 52 MiB in total, which it keeps.
const MAX_DECODERS: usize = 3;

/// The pool. Its threads end when it is dropped.
#[derive(Debug)]
pub(crate) struct DecoderPool {
    count: usize,
    jobs: mpsc::Sender<DecodeJob>,
}

impl DecoderPool {
    /// Starts a thread for each core, up to [`MAX_DECODERS`].
    pub(crate) fn start() -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self::new(cores.min(MAX_DECODERS))
    }

    fn new(count: usize) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<DecodeJob>();
        let queue = Arc::new(Mutex::new(queue));
        // If a later thread cannot start, `jobs` is dropped with the error, and the threads that
        // have started end.
        for _ in 0..count {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("decoder".into()).spawn(move || work(&queue))?;
        }
        Ok(Self { count, jobs })
    }

    /// The number of threads.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Runs `work` when a thread is free. The work runs even if this future is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
    ) -> Result<T, HttpError> {
        let (sender, result) = oneshot::channel();
        let job = move || {
            // The future that waits for the result may have been dropped.
            sender.send(work()).ok();
        };
        self.jobs.send(Box::new(job)).expect("the threads live as long as this does");
        result.await.map_err(|_| HttpError::no_result())?
    }
}

fn work(queue: &Mutex<mpsc::Receiver<DecodeJob>>) {
    loop {
        // One thread waits in `recv` and holds the lock; the others wait for the lock. Each job
        // wakes one of them.
        let job = queue.lock().recv();
        let Ok(job) = job else { return };
        // The caller gets an error because the sender is dropped; the thread continues.
        catch_unwind(AssertUnwindSafe(job)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panicking_job_fails_and_the_next_one_runs() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let decoders = DecoderPool::new(1).unwrap();
        let broken =
            runtime.block_on(decoders.run(|| -> Result<(), HttpError> { panic!("as told") }));
        assert_eq!(broken.unwrap_err().status, hyper::StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(runtime.block_on(decoders.run(|| Ok(7))), Ok(7));
    }
}
