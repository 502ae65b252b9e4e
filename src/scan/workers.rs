//! Passes batches from a walk to workers through a bounded channel, and returns the results in
//! order.
//!
//! The thread that walks also collects the results. So the channel limits how many batches wait,
//! and nothing but the result itself grows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded, unbounded};
use walkdir::DirEntry;

use super::error::ScanError;
use super::walk::Walk;
use crate::monitor::{Event, Monitor};

/// Number of entries in a batch: enough to make the cost of the channel negligible, but so few that
/// the last batch does not keep a single core busy for long.
const BATCH_ENTRIES: usize = 256;

/// Number of batches per worker that may wait. They keep the workers busy while the walk reads and
/// sorts the next large directory.
const WAITING_BATCHES_PER_WORKER: usize = 16;

/// How often progress is reported and cancellation is checked.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// An entry, and what is already known about it.
#[derive(Debug)]
pub(super) struct EntryToExamine<K> {
    pub(super) entry: DirEntry,
    pub(super) known: K,
}

/// The workers' counters, and the flag that stops them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hashed_files: AtomicU64,
    pub(super) hashed_bytes: AtomicU64,
    pub(super) stop: AtomicBool,
}

/// The configuration of a pass over a root.
pub(super) struct WorkerConfig<'a> {
    pub(super) jobs: usize,
    pub(super) counters: &'a Counters,
    pub(super) monitor: &'a dyn Monitor,
    /// Whether progress is reported. Cancellation is always checked.
    pub(super) is_reported: bool,
}

/// The progress of a pass, updated by the walking thread.
struct ScanProgress<'a> {
    config: &'a WorkerConfig<'a>,
    entries: u64,
    reported: Instant,
}

impl ScanProgress<'_> {
    fn report_progress(&mut self) -> Result<(), ScanError> {
        if self.config.monitor.is_cancelled() {
            return Err(ScanError::Cancelled);
        }
        if self.config.is_reported && self.reported.elapsed() >= PROGRESS_INTERVAL {
            self.reported = Instant::now();
            let hashed_bytes = self.config.counters.hashed_bytes.load(Ordering::Relaxed);
            self.config.monitor.event(Event::ScanAdvanced { entries: self.entries, hashed_bytes });
        }
        Ok(())
    }
}

/// Receives results in any order and passes them on by number.
struct OrderedResults<R, S> {
    results: Receiver<(u64, R)>,
    next: u64,
    waiting: BTreeMap<u64, R>,
    sink: S,
}

impl<R, S: FnMut(R)> OrderedResults<R, S> {
    /// Takes the results that have arrived.
    fn take_arrived(&mut self) {
        while let Ok((number, result)) = self.results.try_recv() {
            self.take(number, result);
        }
    }

    /// Waits briefly for a result. Returns whether more may come.
    fn wait(&mut self) -> bool {
        match self.results.recv_timeout(PROGRESS_INTERVAL) {
            Ok((number, result)) => self.take(number, result),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn take(&mut self, number: u64, result: R) {
        self.waiting.insert(number, result);
        while let Some(result) = self.waiting.remove(&self.next) {
            self.next += 1;
            (self.sink)(result);
        }
    }
}

/// Walks to the end. Passes all entries, in batches, to workers on `config.jobs` threads; `worker`
/// creates each worker on its thread. Passes the results to `sink` in walk order. Calls `known` for
/// each entry in that order.
pub(super) fn run<K: Send, R: Send, W: FnMut(Vec<EntryToExamine<K>>) -> R>(
    walk: &mut Walk<'_>,
    config: &WorkerConfig<'_>,
    known: impl FnMut(&DirEntry) -> K,
    worker: impl Fn() -> W + Sync,
    sink: impl FnMut(R),
) -> Result<(), ScanError> {
    let (job_sender, job_receiver) =
        bounded::<(u64, Vec<EntryToExamine<K>>)>(WAITING_BATCHES_PER_WORKER * config.jobs);
    // Unbounded: the thread that collects the results also sends the batches, so it would wait for
    // itself with both channels full.
    let (result_sender, result_receiver) = unbounded();
    let run_worker = |jobs: Receiver<(u64, Vec<EntryToExamine<K>>)>, results: Sender<(u64, R)>| {
        let mut work = worker();
        for (number, batch) in jobs {
            if config.counters.stop.load(Ordering::Relaxed)
                || results.send((number, work(batch))).is_err()
            {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for index in 0..config.jobs {
            let (jobs, results) = (job_receiver.clone(), result_sender.clone());
            match thread::Builder::new()
                .name("scan".to_owned())
                .spawn_scoped(scope, || run_worker(jobs, results))
            {
                Err(error) if index == 0 => return Err(ScanError::Thread(error.into())),
                // A single worker is enough for all the work.
                Ok(_) | Err(_) => {}
            }
        }
        drop((job_receiver, result_sender));
        let results =
            OrderedResults { results: result_receiver, next: 0, waiting: BTreeMap::new(), sink };
        let fed = send_batches(walk, config, known, job_sender, results);
        if fed.is_err() {
            config.counters.stop.store(true, Ordering::Relaxed);
        }
        fed
    })
}

fn send_batches<K, R, S: FnMut(R)>(
    walk: &mut Walk<'_>,
    config: &WorkerConfig<'_>,
    mut known: impl FnMut(&DirEntry) -> K,
    jobs: Sender<(u64, Vec<EntryToExamine<K>>)>,
    mut results: OrderedResults<R, S>,
) -> Result<(), ScanError> {
    let mut progress = ScanProgress { config, entries: 0, reported: Instant::now() };
    for number in 0.. {
        let mut batch = Vec::with_capacity(BATCH_ENTRIES);
        batch.extend(
            walk.by_ref()
                .take(BATCH_ENTRIES)
                .map(|entry| EntryToExamine { known: known(&entry), entry }),
        );
        if batch.is_empty() {
            break;
        }
        progress.entries += batch.len() as u64;
        let mut waiting = Some((number, batch));
        while let Some(next) = waiting.take() {
            progress.report_progress()?;
            match jobs.send_timeout(next, PROGRESS_INTERVAL) {
                Ok(()) => {}
                Err(SendTimeoutError::Timeout(back)) => waiting = Some(back),
                // Workers disconnect only through a panic, which the scope propagates.
                Err(SendTimeoutError::Disconnected(_)) => return Ok(()),
            }
            results.take_arrived();
        }
    }
    drop(jobs);
    loop {
        progress.report_progress()?;
        if !results.wait() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::SilentMonitor;
    use crate::scan::open_root::OpenRoot;
    use crate::scan::{Root, ScanOptions};

    #[test]
    fn results_arrive_in_the_order_of_the_walk() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..2000 {
            std::fs::write(dir.path().join(format!("{n:04}")), "").unwrap();
        }
        let root =
            OpenRoot::open(&Root { path: dir.path().to_owned(), tree_prefix: None }).unwrap();
        let mut walk = Walk::new(&root, &ScanOptions::default()).unwrap();
        let counters = Counters::default();
        let config = WorkerConfig {
            jobs: 4,
            counters: &counters,
            monitor: &SilentMonitor,
            is_reported: false,
        };
        let mut names = Vec::new();
        let name = |job: EntryToExamine<()>| job.entry.file_name().to_owned();
        let worker = || |batch: Vec<_>| batch.into_iter().map(name).collect::<Vec<_>>();
        run(&mut walk, &config, |_| (), worker, |result| names.extend(result)).unwrap();
        assert_eq!(names.len(), 2000);
        assert!(names.is_sorted());
    }
}
