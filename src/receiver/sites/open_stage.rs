//! Open stages: the state of a push between its first request and its last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::hash::{BundleKey, PackId};
use crate::pack::PackReader;
use crate::receiver::http::error::HttpError;
use crate::receiver::sites::share::Permit;
use crate::release::{Release, ReleaseName};
use crate::store::{StagingTransaction, Store, StoreError};

/// Maximum number of open stages for one site: each holds a lock, some open files and memory.
const MAX_OPEN: usize = 16;

/// The state of a push to a site between its requests.
#[derive(Debug)]
pub(crate) struct OpenStage {
    pub(crate) key: BundleKey,
    pub(crate) store: Arc<Store>,
    release: ReleaseName,
    /// BLAKE3 hash of the manifest change.
    change: blake3::Hash,
    transaction: RwLock<StagingTransaction>,
    /// The packs that have been stored (`true`) or are being stored. Each pack has a lock, so a
    /// second request with the same pack waits for the first.
    // To avoid a deadlock, a pack's lock is taken before the map's lock, or the map's lock is taken
    // alone.
    packs: Mutex<HashMap<PackId, Arc<Mutex<bool>>>>,
    used: Mutex<Instant>,
    /// Memory reserved for the transaction.
    _memory: Permit,
}

impl OpenStage {
    /// `change` is the BLAKE3 hash of the manifest change. `memory` is the memory reserved for the
    /// transaction.
    pub(crate) fn new(
        key: BundleKey,
        change: blake3::Hash,
        transaction: StagingTransaction,
        memory: Permit,
    ) -> Self {
        let packs = transaction.held().map(|pack| (pack, Arc::new(Mutex::new(true)))).collect();
        Self {
            key,
            store: Arc::clone(transaction.store()),
            release: transaction.release().name(),
            change,
            transaction: RwLock::new(transaction),
            packs: Mutex::new(packs),
            used: Mutex::new(Instant::now()),
            _memory: memory,
        }
    }

    /// Whether the stage is for this release.
    pub(crate) fn is_of_release(&self, release: ReleaseName) -> bool {
        self.release == release
    }

    /// Whether the stage is for this release and this manifest change.
    pub(crate) fn is_of(&self, release: &Release, change: &blake3::Hash) -> bool {
        self.is_of_release(release.name()) && self.change == *change
    }

    pub(crate) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    /// Whether no request has used the stage for `limit`.
    pub(crate) fn is_idle(&self, limit: Duration) -> bool {
        self.used.lock().elapsed() >= limit
    }

    /// Whether a pack need not be sent.
    pub(crate) fn holds(&self, id: &PackId) -> bool {
        let pack = self.packs.lock().get(id).cloned();
        // A pack that is being stored may still fail, so it does not count.
        pack.is_some_and(|pack| pack.try_lock().is_some_and(|is_taken| *is_taken))
    }

    /// The packs that need not be sent, in order.
    pub(crate) fn held(&self) -> Vec<PackId> {
        let ids: Vec<PackId> = self.packs.lock().keys().copied().collect();
        let mut held: Vec<PackId> = ids.into_iter().filter(|id| self.holds(id)).collect();
        held.sort_unstable();
        held
    }

    /// Stores a pack. Blocks. Does nothing if the stage already has the pack.
    pub(crate) fn store_pack(&self, id: &PackId, bytes: &[u8]) -> Result<(), StorePackError> {
        let pack = Arc::clone(self.packs.lock().entry(*id).or_default());
        let mut is_taken = pack.lock();
        if *is_taken {
            return Ok(());
        }
        let reader = open_pack(id, bytes).map_err(|refused| {
            // The bytes do not belong to this pack, so its entry must not stay.
            self.packs.lock().remove(id);
            StorePackError::Pack(refused)
        })?;
        // Shared: the packs for a stage are decoded in parallel. `finish` is exclusive.
        let transaction = self.transaction.read();
        transaction
            .store_pack(id, &reader)
            .map_err(|error| StorePackError::Stage(transaction.fail(error).into()))?;
        *is_taken = true;
        drop(is_taken);
        self.touch();
        Ok(())
    }

    /// Makes the release complete; see [`StagingTransaction::finish`]. Blocks.
    pub(crate) fn finish(&self, fetch: &crate::store::FetchObject<'_>) -> Result<u64, StoreError> {
        self.transaction.write().finish(fetch)
    }
}

/// Opens a pack and checks that its id is the announced one.
fn open_pack<'a>(id: &PackId, bytes: &'a [u8]) -> Result<PackReader<'a>, HttpError> {
    let reader = PackReader::open(bytes).map_err(StoreError::from)?;
    if reader.id() == *id {
        return Ok(reader);
    }
    Err(HttpError::malformed("the id of this pack is not the announced one"))
}

/// Why a pack was not stored.
pub(crate) enum StorePackError {
    /// The pack is invalid; the stage stays open for other packs.
    Pack(HttpError),
    /// The stage failed and must be closed.
    Stage(HttpError),
}

#[derive(Debug, Default)]
pub(crate) struct OpenStages(Mutex<HashMap<BundleKey, Arc<OpenStage>>>);

impl OpenStages {
    /// The open stage with this key. Counts as a use, so the stage does not expire.
    pub(crate) fn find(&self, key: &BundleKey) -> Option<Arc<OpenStage>> {
        let open_stage = self.peek(key)?;
        open_stage.touch();
        Some(open_stage)
    }

    /// The open stage with this key. Does not count as a use.
    pub(crate) fn peek(&self, key: &BundleKey) -> Option<Arc<OpenStage>> {
        self.0.lock().get(key).cloned()
    }

    /// Resets the idle time of the stage with this key, if one is open.
    pub(crate) fn touch(&self, key: &BundleKey) {
        if let Some(open_stage) = self.0.lock().get(key) {
            open_stage.touch();
        }
    }

    /// Whether one more stage may be opened. If the maximum has been reached, closes the stage that
    /// has been idle longest; its content stays on disk and is reused when the push resumes.
    pub(crate) fn evict_if_full(&self) -> bool {
        let mut open_stages = self.0.lock();
        if open_stages.len() < MAX_OPEN {
            return true;
        }
        // A request clones the stage under this lock, so a count of one means that no request uses
        // it.
        let unused =
            open_stages.iter().filter(|(_, open_stage)| Arc::strong_count(open_stage) == 1);
        let oldest =
            unused.min_by_key(|(_, open_stage)| *open_stage.used.lock()).map(|(key, _)| *key);
        oldest.and_then(|key| open_stages.remove(&key)).is_some()
    }

    pub(crate) fn insert(&self, open_stage: &Arc<OpenStage>) {
        // The old stage is dropped after the lock is released, because that closes files and
        // releases the quarantine's lock.
        let old = self.0.lock().insert(open_stage.key, Arc::clone(open_stage));
        drop(old);
    }

    /// Closes the stage with this key, if one is open.
    pub(crate) fn close(&self, key: &BundleKey) {
        let old = self.0.lock().remove(key);
        drop(old);
    }

    /// Closes this stage, but not a newer one with the same key.
    pub(crate) fn end(&self, open_stage: &Arc<OpenStage>) {
        let mut open_stages = self.0.lock();
        if open_stages.get(&open_stage.key).is_some_and(|open| Arc::ptr_eq(open, open_stage)) {
            open_stages.remove(&open_stage.key);
        }
    }

    /// Closes the stages that no request is using and that have been idle for `idle`.
    pub(crate) fn sweep(&self, idle: Duration) {
        self.0
            .lock()
            .retain(|_, open_stage| Arc::strong_count(open_stage) > 1 || !open_stage.is_idle(idle));
    }
}
