//! A few threads of their own for what takes much memory.
//!
//! An allocator keeps for each thread what that thread once had. On the many
//! threads that may wait for a disk, packs and their blocks would come to
//! hundreds of megabytes; on these they are bounded by their number.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

use crate::serve::refused::Refused;

type Job = Box<dyn FnOnce() + Send>;

/// The threads; they end when the crew goes.
#[derive(Debug)]
pub(super) struct Crew {
    size: usize,
    jobs: mpsc::Sender<Job>,
}

impl Crew {
    /// A crew of `size` threads.
    pub(super) fn new(size: usize) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..size {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("decoder".into()).spawn(move || work(&queue))?;
        }
        Ok(Self { size, jobs })
    }

    /// The number of its threads.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Does `work` when a thread is free. It is done also when nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let (sender, result) = oneshot::channel();
        let job = move || {
            // Whoever asked may be gone.
            sender.send(work()).ok();
        };
        self.jobs.send(Box::new(job)).expect("the threads live as long as the crew");
        result.await.map_err(|error| Refused::broken(&error))?
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>) {
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
        let crew = Crew::new(1).unwrap();
        let broken = runtime.block_on(crew.run(|| -> Result<(), Refused> { panic!("as told") }));
        assert_eq!(broken.unwrap_err().status, hyper::StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(runtime.block_on(crew.run(|| Ok(7))), Ok(7));
    }
}
