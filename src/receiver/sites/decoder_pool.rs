//! Threads that decode packs, which takes much memory.
//!
//! An allocator keeps for each thread what that thread once had. On the many
//! threads that may wait for a disk, packs and their blocks would come to
//! hundreds of megabytes; on these they are bounded by their number.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

use crate::receiver::http::error::HttpError;

type DecodeJob = Box<dyn FnOnce() + Send>;

/// Packs decoded at once, however many cores there are: each may take a pack, a prefix and a content
/// of the largest size, 52 MiB, and keeps what it took.
const MAX_DECODERS: usize = 3;

/// The threads; they end when this is dropped.
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
        for _ in 0..count {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("decoder".into()).spawn(move || work(&queue))?;
        }
        Ok(Self { count, jobs })
    }

    /// The number of its threads.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Does `work` when a thread is free. It is done also when nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
    ) -> Result<T, HttpError> {
        let (sender, result) = oneshot::channel();
        let job = move || {
            // Whoever asked may be gone.
            sender.send(work()).ok();
        };
        self.jobs.send(Box::new(job)).expect("the threads live as long as this does");
        result.await.map_err(|_| HttpError::no_result())?
    }
}

fn work(queue: &Mutex<mpsc::Receiver<DecodeJob>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The one who asked learns that there is no result; the next job is none the worse.
        catch_unwind(AssertUnwindSafe(job)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_panics_is_refused_and_the_next_one_is_done() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let decoders = DecoderPool::new(1).unwrap();
        let broken = runtime.block_on(decoders.run(|| -> Result<(), HttpError> { panic!("as told") }));
        assert_eq!(broken.unwrap_err().status, hyper::StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(runtime.block_on(decoders.run(|| Ok(7))), Ok(7));
    }
}
