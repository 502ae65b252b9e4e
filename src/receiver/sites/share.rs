//! The share of a receiver's resources that one site may use: blocking threads, memory and
//! decoders.
//!
//! If a receiver has several sites, none may use more than half of a resource, so pushes to the
//! other sites can proceed whatever the holder of one token sends. A permit belongs to the work
//! that it was acquired for, not to the request: if the peer disconnects, the work continues and
//! the permit still counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::receiver::ReceiverLimits;
use crate::receiver::http::error::HttpError;
use crate::receiver::sites::decoder_pool::DecoderPool;

/// Maximum number of store operations at once. Each operation may wait for a lock.
const WORKERS: u32 = 32;
/// Bodies up to this size, in bytes, are read into memory without a permit. A connection has one
/// body at a time, and the number of connections per address is limited.
const SMALL_BODY_BYTES: u64 = 64 * 1024;
/// The size, in bytes, of the unit in which memory is counted.
const UNIT_BYTES: u64 = 1024;

/// A resource that all sites of a receiver share, counted in permits.
#[derive(Debug, Clone)]
struct Pool {
    all: Arc<Semaphore>,
    permits: u32,
}

impl Pool {
    fn new(permits: u32) -> Self {
        Self { all: Arc::new(Semaphore::new(permits as usize)), permits }
    }

    fn of_bytes(bytes: u64) -> Self {
        Self::new(units(bytes))
    }

    /// The share for one of `sites` sites.
    fn share(&self, sites: usize) -> PoolShare {
        // Rounded up, so that a share has at least one permit.
        let permits = if sites > 1 { self.permits.div_ceil(2) } else { self.permits };
        PoolShare {
            own: Arc::new(Semaphore::new(permits as usize)),
            permits,
            all: Arc::clone(&self.all),
        }
    }
}

/// The part of a [`Pool`] that one site may use.
#[derive(Debug)]
struct PoolShare {
    own: Arc<Semaphore>,
    permits: u32,
    all: Arc<Semaphore>,
}

impl PoolShare {
    /// Waits for one permit.
    async fn acquire(&self) -> Permit {
        const OPEN: &str = "the semaphores of a receiver are never closed";
        // This site's share comes first: a site that waits for its share holds nothing that other
        // sites could use.
        let own = Arc::clone(&self.own).acquire_owned().await.expect(OPEN);
        let all = Arc::clone(&self.all).acquire_owned().await.expect(OPEN);
        Permit { own, all }
    }

    /// Acquires permits if they are free.
    fn try_acquire(&self, permits: u32) -> Option<Permit> {
        let own = Arc::clone(&self.own).try_acquire_many_owned(permits).ok()?;
        let all = Arc::clone(&self.all).try_acquire_many_owned(permits).ok()?;
        Some(Permit { own, all })
    }
}

/// Permits of a [`Pool`], which are returned when this value is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Permit {
    /// Adds other permits of the same pool.
    pub(crate) fn merge(&mut self, other: Self) {
        self.own.merge(other.own);
        self.all.merge(other.all);
    }
}

/// The resources that all sites of a receiver share.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    workers: Pool,
    memory: Pool,
    packs: Pool,
    decoders: Arc<DecoderPool>,
    lock: Duration,
}

impl Pools {
    /// Creates the pools and starts the decoders.
    ///
    /// # Errors
    /// Fails if the system cannot create threads.
    pub(crate) fn new(limits: &ReceiverLimits) -> std::io::Result<Self> {
        Ok(Self {
            workers: Pool::new(WORKERS),
            memory: Pool::of_bytes(limits.memory_bytes),
            packs: Pool::of_bytes(limits.pack_bytes),
            decoders: Arc::new(DecoderPool::start()?),
            lock: limits.lock_wait,
        })
    }

    /// The share for one of `sites` sites.
    pub(crate) fn share(&self, sites: usize) -> Share {
        let decoders = u32::try_from(self.decoders.count()).unwrap_or(u32::MAX);
        Share {
            workers: self.workers.share(sites),
            memory: self.memory.share(sites),
            packs: self.packs.share(sites),
            decoding: Arc::new(Semaphore::new(decoders as usize)),
            decoders: Arc::clone(&self.decoders),
            lock: self.lock,
        }
    }

    /// Runs blocking work that does not belong to a single site.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
    ) -> Result<T, HttpError> {
        let permit =
            tokio::time::timeout(self.lock, Arc::clone(&self.workers.all).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(no_worker()) };
        run(permit, work).await
    }

    /// Waits until no work is running.
    pub(crate) async fn finished(&self) {
        // Each operation has a permit until it ends, so all permits are free only when nothing
        // runs.
        self.workers.all.acquire_many(WORKERS).await.ok();
    }
}

/// The resources that one site may use.
#[derive(Debug)]
pub(crate) struct Share {
    workers: PoolShare,
    memory: PoolShare,
    packs: PoolShare,
    /// Limits how many of this site's packs are being decoded or waiting in the decoder pool. The
    /// limit is the number of decoders, so another site waits for at most one of this site's packs.
    decoding: Arc<Semaphore>,
    decoders: Arc<DecoderPool>,
    lock: Duration,
}

impl Share {
    /// Runs blocking work when a worker is free. The work continues if its peer disconnects.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
    ) -> Result<T, HttpError> {
        // A request waits no longer for a worker than it would for a store's lock: the origin tries
        // again.
        let permit = tokio::time::timeout(self.lock, self.workers.acquire()).await;
        run(permit.map_err(|_| no_worker())?, work).await
    }

    /// The number of packs that can be decoded at once.
    pub(crate) fn decoders(&self) -> usize {
        self.decoders.count()
    }

    /// Decodes a pack when a decoder is free. The work continues if its peer disconnects.
    pub(crate) async fn decode<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
    ) -> Result<T, HttpError> {
        let permit =
            Arc::clone(&self.decoding).acquire_owned().await.map_err(|_| HttpError::no_result())?;
        self.decoders.run(holding(permit, work)).await
    }

    /// Reserves `bytes` bytes of memory for a stage.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Permit, HttpError> {
        self.memory.try_acquire(units(bytes)).ok_or_else(|| self.no_memory(bytes))
    }

    /// The error if `bytes` bytes could not be reserved: either they exceed the site's limit, or
    /// other pushes are currently using the memory.
    pub(crate) fn no_memory(&self, bytes: u64) -> HttpError {
        let most = u64::from(self.memory.permits) * UNIT_BYTES;
        if bytes > most {
            let message = format!(
                "this push needs at least {bytes} bytes of memory, but {most} are allowed for this \
                 site"
            );
            return HttpError::too_large(message);
        }
        HttpError::busy("other pushes are using the memory of this receiver")
    }

    /// Reserves memory for a request body; small bodies need no permit.
    pub(crate) fn reserve_body(&self, bytes: u64) -> Result<Option<Permit>, HttpError> {
        (bytes > SMALL_BODY_BYTES).then(|| self.reserve(bytes)).transpose()
    }

    /// Reserves memory for the bytes of a pack. Returns `None` if too little memory is left: the
    /// pack must then wait on disk.
    pub(crate) fn reserve_pack(&self, bytes: u64) -> Option<Permit> {
        self.packs.try_acquire(units(bytes))
    }
}

fn no_worker() -> HttpError {
    HttpError::busy("this receiver is working on too many requests")
}

fn units(bytes: u64) -> u32 {
    // 2^28 units are 256 GiB, more than any limit. tokio's semaphore panics above `usize::MAX >>
    // 3`.
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(1 << 28)
}

/// Wraps `work` so that it holds a permit, which is released when the work ends.
fn holding<P, T>(permit: P, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        let result = work();
        drop(permit);
        result
    }
}

/// Runs work on a blocking thread. The permit is released when the work ends.
async fn run<P: Send + 'static, T: Send + 'static>(
    permit: P,
    work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    tokio::task::spawn_blocking(holding(permit, work)).await.map_err(|_| HttpError::no_result())?
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::error_kind::ErrorKind;

    fn shares() -> (Share, Share) {
        let limits = ReceiverLimits {
            memory_bytes: 8 << 20,
            lock_wait: Duration::from_millis(50),
            ..ReceiverLimits::default()
        };
        let pools = Pools::new(&limits).unwrap();
        (pools.share(2), pools.share(2))
    }

    #[test]
    fn abandoned_work_uses_only_the_share_of_its_site() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(fill_one_share());
    }

    async fn fill_one_share() {
        let (bad, good) = shares();
        let (bad, (ends, waits)) = (Arc::new(bad), mpsc::channel::<()>());
        let waits = Arc::new(std::sync::Mutex::new(waits));
        for _ in 0..WORKERS {
            let (bad, waits) = (Arc::clone(&bad), Arc::clone(&waits));
            let asked = tokio::spawn(async move {
                bad.blocking(move || Ok(waits.lock().unwrap().recv().ok())).await
            });
            tokio::task::yield_now().await;
            // The peer leaves; its work goes on.
            asked.abort();
        }
        assert_eq!(bad.blocking(|| Ok(1)).await.unwrap_err().protocol_error.kind, ErrorKind::Busy);
        assert_eq!(good.blocking(|| Ok(2)).await, Ok(2));
        drop(ends);
        let limit = Duration::from_secs(20);
        let freed = async { while bad.blocking(|| Ok(3)).await.is_err() {} };
        tokio::time::timeout(limit, freed).await.unwrap();
    }

    #[test]
    fn memory_is_reserved_up_to_half_and_returned() {
        let (bad, good) = shares();
        let mut taken = bad.reserve(1 << 20).unwrap();
        taken.merge(bad.reserve(3 << 20).unwrap());
        assert_eq!(bad.reserve(1).unwrap_err().protocol_error.kind, ErrorKind::Busy);
        assert_eq!(
            bad.reserve((4 << 20) + 1).unwrap_err().protocol_error.kind,
            ErrorKind::TooLarge
        );
        drop(good.reserve(4 << 20).unwrap());
        drop(taken);
        drop(bad.reserve(4 << 20).unwrap());
    }

    #[test]
    fn single_site_can_use_all_memory() {
        let pools =
            Pools::new(&ReceiverLimits { memory_bytes: 8 << 20, ..ReceiverLimits::default() })
                .unwrap();
        drop(pools.share(1).reserve(8 << 20).unwrap());
    }
}
