//! A mirror that is a directory on this machine. Its store runs in this process.

use std::io::{self, Read, Seek as _, SeekFrom};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::cancel::CancelToken;
use crate::fsx::Context as _;
use crate::hash::{ManifestId, ObjectId, StoreId};
use crate::mirror::{
    Effort, Expiries, HistoryEvent, LinkKind, Mirror, MirrorError, MirrorIdentity, MirrorState,
    ObjectPart, ObjectSource, OutgoingPack, PackCursor, PackSource, RepairSource, Semaphore,
    SourceError, StageRequest,
};
use crate::monitor::{Event, Monitor};
use crate::pack::{PackReader, Signature, SignatureShape};
use crate::protocol::{self, CleanUpResult, SignatureRequest};
use crate::release::ReleaseName;
use crate::store::{
    Depth, Fetch, OfferedRelease, Presence, Pruned, Repaired, StagingTransaction, Store,
    StoreError, StoredChange, Verified,
};
use crate::threads;

/// A directory mirror.
#[derive(Debug)]
pub struct DirectoryMirror {
    identity: MirrorIdentity,
    path: PathBuf,
    lock_wait: Duration,
    jobs: NonZeroUsize,
    semaphore: Option<Arc<Semaphore>>,
    cancel: CancelToken,
}

impl DirectoryMirror {
    /// Creates a mirror at `path`. `wait` is how long to wait for a lock, and `jobs` is the number
    /// of threads that unpack.
    #[must_use]
    pub fn new(
        identity: MirrorIdentity,
        path: PathBuf,
        lock_wait: Duration,
        jobs: NonZeroUsize,
    ) -> Self {
        Self { identity, path, lock_wait, jobs, semaphore: None, cancel: CancelToken::default() }
    }

    /// Makes staging hold a permit from `semaphore`, because many stages at once would exceed the
    /// limit on open files.
    #[must_use]
    pub fn with_semaphore(self, semaphore: Option<Arc<Semaphore>>) -> Self {
        Self { semaphore, ..self }
    }

    /// Makes waits for locks end when `cancel` is cancelled.
    #[must_use]
    pub fn cancelled_by(self, cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    fn open(&self) -> Result<Store, MirrorError> {
        let store = Store::open(&self.path)?.cancelled_by(&self.cancel);
        if let Some(site) = &self.identity.site {
            store.check_site(site)?;
        }
        Ok(store)
    }

    /// Feeds the packs of `bundle` to `transaction` on several threads.
    fn stage_packs(
        &self,
        transaction: &StagingTransaction,
        bundle: &dyn PackSource,
        monitor: &dyn Monitor,
    ) -> Result<(), MirrorError> {
        /// Each thread holds one pack of up to 32 MiB in memory, and all write to the same disk.
        const MAX_THREADS: usize = 4;
        let cursor = Mutex::new(bundle.packs());
        let is_failed = AtomicBool::new(false);
        let take_all = || -> Result<(), MirrorError> {
            while !is_failed.load(Ordering::Relaxed)
                && let Some(pack) = next_pack(&cursor, monitor)?
            {
                let mirror = self.identity.name.clone();
                if transaction.holds(&pack.id()) {
                    monitor.event(Event::PackHeld { mirror, pack: pack.id() });
                    continue;
                }
                let bytes = pack.bytes().map_err(MirrorError::Source)?;
                // The pack never left this process, so its digest is not verified again; the
                // digests of its objects and of the manifest are.
                let reader = PackReader::open_known(&bytes, pack.id()).map_err(StoreError::from)?;
                transaction.store_pack(&pack.id(), &reader)?;
                monitor.event(Event::PackSent { mirror, pack: pack.id(), bytes: pack.size() });
            }
            Ok(())
        };
        let work = || take_all().inspect_err(|_| is_failed.store(true, Ordering::Relaxed));
        threads::run_workers(self.jobs.get().min(MAX_THREADS), work).into_iter().collect()
    }
}

/// Takes the next pack. One thread at a time waits here while the other threads unpack.
fn next_pack(
    cursor: &Mutex<Box<dyn PackCursor + '_>>,
    monitor: &dyn Monitor,
) -> Result<Option<Box<dyn OutgoingPack>>, MirrorError> {
    if monitor.is_cancelled() {
        return Err(MirrorError::Cancelled);
    }
    let next = cursor.lock().next();
    next.map_err(|error| {
        if monitor.is_cancelled() { MirrorError::Cancelled } else { MirrorError::Source(error) }
    })
}

/// Adapts an [`ObjectSource`] into a source of the objects that a store lacks.
struct StoreFetch<'a, C: ?Sized>(&'a C);

impl<C: ObjectSource + ?Sized> Fetch for StoreFetch<'_, C> {
    fn announce(&self, objects: &[ObjectId]) {
        self.0.announce(objects);
    }

    fn open(&self, object: &ObjectId, _: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        self.0.object(object)
    }
}

/// Reads a part of an object; `None` if the object is missing, too short, or unreadable.
fn read_part(store: &Store, part: &ObjectPart) -> Option<Vec<u8>> {
    let mut content = store.open_object(&part.object).ok()?;
    let size = content.metadata().ok()?.len();
    part.offset.checked_add(part.length).filter(|end| *end <= size)?;
    content.seek(SeekFrom::Start(part.offset)).ok()?;
    let mut bytes = Vec::new();
    content.take(part.length).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == part.length).then_some(bytes)
}

fn offered<'a>(request: &StageRequest<'a>, change: &'a StoredChange) -> OfferedRelease<'a> {
    OfferedRelease { release: request.release, base: request.base, change }
}

impl Mirror for DirectoryMirror {
    fn name(&self) -> &str {
        &self.identity.name
    }

    fn location(&self) -> &str {
        &self.identity.location
    }

    fn link_kind(&self) -> LinkKind {
        LinkKind::Local
    }

    fn local_path(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn state(&self) -> Result<MirrorState, MirrorError> {
        let store = match Store::probe(&self.path)? {
            Presence::Absent => return Ok(MirrorState::default()),
            Presence::Store(store) => store,
        };
        if let Some(site) = &self.identity.site {
            store.check_site(site)?;
        }
        let current = store.current()?;
        let names = store.served_releases()?;
        Ok(MirrorState {
            store: Some(store.id()),
            site: Some(store.site().clone()),
            only_site: None,
            current,
            // `verify` reports damaged records. A push works without them.
            releases: names.into_iter().filter_map(|name| store.release(name).ok()).collect(),
            staged: store.staged_release()?,
            highest_sequence: store.highest_sequence()?,
            round_trip: None,
            expiries: Expiries::default(),
            receiver: None,
            free_bytes: store.free_bytes().ok(),
            // Another process may be removing the directory right now.
            incoming_bytes: store.incoming_bytes().unwrap_or(0),
            next_expiry: store.next_expiry().ok().flatten(),
            expired_through: store.expired_through()?,
        })
    }

    fn check_owner(&self) -> Result<(), MirrorError> {
        Ok(Store::check_owner_at(&self.path)?)
    }

    fn store_id(&self) -> Option<StoreId> {
        self.open().ok().map(|store| store.id())
    }

    fn history(&self) -> Result<Vec<HistoryEvent>, MirrorError> {
        match Store::probe(&self.path)? {
            Presence::Absent => Ok(Vec::new()),
            Presence::Store(store) => Ok(store.history()?),
        }
    }

    fn manifest(&self, id: &ManifestId) -> Result<Box<dyn Read + Send>, MirrorError> {
        Ok(Box::new(self.open()?.manifest_bytes(id)?))
    }

    fn object(&self, id: &ObjectId, offset: u64) -> Result<Box<dyn Read + Send>, MirrorError> {
        let mut content = self.open()?.open_object(id)?;
        content.seek(SeekFrom::Start(offset)).context("read", || self.path.clone())?;
        Ok(Box::new(content))
    }

    fn read_parts(
        &self,
        parts: &[ObjectPart],
        _: Effort,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Vec<u8>>>, MirrorError> {
        let store = self.open()?;
        let read = |part: &ObjectPart| {
            if monitor.is_cancelled() {
                Err(MirrorError::Cancelled)
            } else {
                Ok(read_part(&store, part))
            }
        };
        parts.iter().map(read).collect()
    }

    fn holds(&self, objects: &[ObjectId], monitor: &dyn Monitor) -> Result<Vec<bool>, MirrorError> {
        match Store::probe(&self.path)? {
            Presence::Absent => Ok(vec![false; objects.len()]),
            Presence::Store(store) => Ok(store.holds(objects, &|| monitor.is_cancelled())?),
        }
    }

    fn signatures(
        &self,
        question: &SignatureRequest,
        sizes: &[u64],
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Signature>>, MirrorError> {
        let Presence::Store(store) = Store::probe(&self.path)? else {
            return Ok(vec![None; question.files.len()]);
        };
        let mut stream = store.signatures(&question.base, &question.files, question.key)?;
        let (mut buffer, mut frames) = (Vec::new(), Vec::new());
        while stream.read_step(&mut buffer, &mut frames)?.is_some() {
            if monitor.is_cancelled() {
                return Err(MirrorError::Cancelled);
            }
        }
        let mut rest = &frames[..];
        let asked = question.files.iter().zip(sizes);
        let signatures = asked.map(|((_, new_bits), size)| {
            protocol::read_signature(&mut rest, SignatureShape::new(*size, *new_bits))
        });
        // The caller's sizes may differ from those in the manifest here.
        let signatures: io::Result<_> = signatures.collect();
        signatures.map_err(|error| MirrorError::Source(error.into()))
    }

    fn check_stage(&self, request: &StageRequest<'_>) -> Result<(), MirrorError> {
        let change = StoredChange::Memory(Arc::clone(request.change));
        let checked = match Store::probe(&self.path)? {
            Presence::Absent => Store::check_space_at(&self.path, request.release, &change),
            Presence::Store(store) => store.check_space(offered(request, &change)),
        };
        Ok(checked?)
    }

    fn stage(
        &self,
        request: &StageRequest<'_>,
        bundle: &dyn PackSource,
        monitor: &dyn Monitor,
    ) -> Result<(), MirrorError> {
        let stop = || monitor.is_cancelled();
        let _permit = Semaphore::acquire_if_some(self.semaphore.as_ref(), &stop)?;
        let store = Store::open_or_create(&self.path, &request.release.site)?;
        let store = Arc::new(store.cancelled_by(&self.cancel));
        let change = StoredChange::Memory(Arc::clone(request.change));
        let offered = offered(request, &change);
        // There is no memory limit: the push that runs in this process holds these entries as well.
        let Some(needs) = store.read_change(offered, &|_| true, &stop)? else { return Ok(()) };
        let mut transaction = store.start_staging(offered, &request.key, needs, self.lock_wait)?;
        match self.stage_packs(&transaction, bundle, monitor) {
            Ok(()) => {}
            // The store failed. If a sync failed, the content that was written is not trusted, and
            // the transaction drops it. If the source failed, the content stays for the next push.
            Err(MirrorError::Store(error)) => return Err(transaction.fail(error).into()),
            Err(error) => return Err(error),
        }
        let objects = transaction.finish(&StoreFetch(bundle))?;
        if objects > 0 {
            monitor.event(Event::ObjectsResent { mirror: self.identity.name.clone(), objects });
        }
        Ok(())
    }

    fn activate(
        &self,
        release: ReleaseName,
        expected: Option<ReleaseName>,
    ) -> Result<(), MirrorError> {
        Ok(self.open()?.activate(release, expected, self.lock_wait)?)
    }

    fn abandon(&self, release: ReleaseName) -> Result<(), MirrorError> {
        Ok(self.open()?.abandon(release, self.lock_wait)?)
    }

    fn clean_up(&self, keep: usize) -> Result<CleanUpResult, MirrorError> {
        let store = self.open()?;
        let pruned = store.clean_up(keep, self.lock_wait)?;
        store.prepare_spare_slot(self.lock_wait)?;
        // Only a receiver can be configured to run commands after a switch; a directory has none.
        Ok(pruned.into())
    }

    fn prune(&self, keep: usize) -> Result<Pruned, MirrorError> {
        Ok(self.open()?.prune(keep, self.lock_wait)?)
    }

    fn verify(&self, depth: Depth, monitor: &dyn Monitor) -> Result<Verified, MirrorError> {
        Ok(self.open()?.verify(depth, self.lock_wait, &|| monitor.is_cancelled())?)
    }

    fn repair(
        &self,
        source: &dyn RepairSource,
        monitor: &dyn Monitor,
    ) -> Result<Repaired, MirrorError> {
        Store::restore_directories(&self.path, self.lock_wait, &self.cancel)?;
        Ok(self
            .open()?
            .repair(&StoreFetch(source), source, self.lock_wait, &|| monitor.is_cancelled())?)
    }
}
