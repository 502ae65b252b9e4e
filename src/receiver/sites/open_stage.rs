//! Open stages: what stands between the first request of a push and its last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::hash::{BundleKey, PackId};
use crate::pack::PackReader;
use crate::receiver::http::error::HttpError;
use crate::receiver::sites::share::Permit;
use crate::release::{Release, ReleaseName};
use crate::store::{StagingTransaction, Store, StoreError};

/// Stages of one site that may be open at once: each holds a lock, some open files and memory.
const MAX_OPEN: usize = 16;

/// An open stage.
#[derive(Debug)]
pub(crate) struct OpenStage {
    pub(crate) key: BundleKey,
    pub(crate) store: Arc<Store>,
    release: ReleaseName,
    /// The BLAKE3 of its manifest change.
    change: blake3::Hash,
    transaction: RwLock<StagingTransaction>,
    /// The packs that were taken, or are being taken: whoever comes second waits.
    packs: Mutex<HashMap<PackId, Arc<Mutex<bool>>>>,
    used: Mutex<Instant>,
    /// For what the arrival needs.
    _memory: Permit,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenStage {
    pub(crate) fn new(
        key: BundleKey,
        store: Arc<Store>,
        release: &Release,
        change: blake3::Hash,
        transaction: StagingTransaction,
        memory: Permit,
    ) -> Self {
        let packs = transaction.held().map(|pack| (pack, Arc::new(Mutex::new(true)))).collect();
        let (release, transaction, packs) = (release.name(), RwLock::new(transaction), Mutex::new(packs));
        Self { key, store, release, change, transaction, packs, used: Mutex::new(Instant::now()), _memory: memory }
    }

    /// Whether it is the stage of this release.
    pub(crate) fn is_of_release(&self, release: ReleaseName) -> bool {
        self.release == release
    }

    /// Whether it is the stage of this release by this change.
    pub(crate) fn is_of(&self, release: &Release, change: &blake3::Hash) -> bool {
        self.is_of_release(release.name()) && self.change == *change
    }

    pub(crate) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// Whether nobody used it for so long.
    pub(crate) fn is_idle(&self, limit: Duration) -> bool {
        lock(&self.used).elapsed() >= limit
    }

    /// Whether a pack need not be sent.
    pub(crate) fn holds(&self, id: &PackId) -> bool {
        let pack = lock(&self.packs).get(id).cloned();
        // One that is being taken may yet fail.
        pack.is_some_and(|pack| pack.try_lock().is_ok_and(|is_taken| *is_taken))
    }

    /// The packs that need not be sent, in order.
    pub(crate) fn held(&self) -> Vec<PackId> {
        let ids: Vec<PackId> = lock(&self.packs).keys().copied().collect();
        let mut held: Vec<PackId> = ids.into_iter().filter(|id| self.holds(id)).collect();
        held.sort_unstable();
        held
    }

    /// Takes a pack. Blocks; the second time it does nothing.
    pub(crate) fn take(&self, id: &PackId, bytes: &[u8]) -> Result<(), TakeError> {
        let pack = Arc::clone(lock(&self.packs).entry(*id).or_default());
        let mut is_taken = lock(&pack);
        if *is_taken {
            return Ok(());
        }
        let reader = open_pack(id, bytes).map_err(|refused| {
            // What was never a pack leaves no name behind.
            lock(&self.packs).remove(id);
            TakeError::Pack(refused)
        })?;
        let transaction = self.transaction.read().unwrap_or_else(PoisonError::into_inner);
        transaction.take(id, &reader).map_err(|error| TakeError::Stage(transaction.fail(error).into()))?;
        *is_taken = true;
        drop(is_taken);
        self.touch();
        Ok(())
    }

    /// Makes the release complete; see [`StagingTransaction::finish`]. Blocks.
    pub(crate) fn finish(&self, fetch: &crate::store::FetchObject<'_>) -> Result<u64, StoreError> {
        self.transaction.write().unwrap_or_else(PoisonError::into_inner).finish(fetch)
    }
}

/// Opens the pack that was announced with this id.
fn open_pack<'a>(id: &PackId, bytes: &'a [u8]) -> Result<PackReader<'a>, HttpError> {
    let reader = PackReader::open(bytes).map_err(StoreError::from)?;
    if reader.id() == *id {
        return Ok(reader);
    }
    Err(HttpError::malformed("this pack has another id than it was announced with"))
}

/// Why a pack was not taken.
pub(crate) enum TakeError {
    /// The fault is the pack's: another may follow.
    Pack(HttpError),
    /// The stage is over.
    Stage(HttpError),
}

/// The open stages of a site.
#[derive(Debug, Default)]
pub(crate) struct OpenStages(Mutex<HashMap<BundleKey, Arc<OpenStage>>>);

impl OpenStages {
    /// The open stage of this key, to be used.
    pub(crate) fn find(&self, key: &BundleKey) -> Option<Arc<OpenStage>> {
        let open_stage = self.peek(key)?;
        open_stage.touch();
        Some(open_stage)
    }

    /// The open stage of this key, to be looked at.
    pub(crate) fn peek(&self, key: &BundleKey) -> Option<Arc<OpenStage>> {
        lock(&self.0).get(key).cloned()
    }

    /// Keeps the open stage of this key, if there is one, from being given up.
    pub(crate) fn touch(&self, key: &BundleKey) {
        if let Some(open_stage) = lock(&self.0).get(key) {
            open_stage.touch();
        }
    }

    /// Whether one more may be opened. When there are as many as may be, the one that was idle
    /// longest is closed: what it brought is found again on the disk.
    pub(crate) fn make_room(&self) -> bool {
        let mut open_stages = lock(&self.0);
        if open_stages.len() < MAX_OPEN {
            return true;
        }
        let unused = open_stages.iter().filter(|(_, open_stage)| Arc::strong_count(open_stage) == 1);
        let oldest = unused.min_by_key(|(_, open_stage)| *lock(&open_stage.used)).map(|(key, _)| *key);
        oldest.and_then(|key| open_stages.remove(&key)).is_some()
    }

    pub(crate) fn insert(&self, open_stage: &Arc<OpenStage>) {
        let old = lock(&self.0).insert(open_stage.key, Arc::clone(open_stage));
        drop(old);
    }

    /// Closes whatever is open under this key.
    pub(crate) fn close(&self, key: &BundleKey) {
        let old = lock(&self.0).remove(key);
        drop(old);
    }

    /// Closes this very stage.
    pub(crate) fn end(&self, open_stage: &Arc<OpenStage>) {
        let mut open_stages = lock(&self.0);
        if open_stages.get(&open_stage.key).is_some_and(|open| Arc::ptr_eq(open, open_stage)) {
            open_stages.remove(&open_stage.key);
        }
    }

    /// Closes those that nobody uses and nobody used for so long.
    pub(crate) fn sweep(&self, idle: Duration) {
        lock(&self.0).retain(|_, open_stage| Arc::strong_count(open_stage) > 1 || !open_stage.is_idle(idle));
    }
}
