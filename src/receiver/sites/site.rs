//! One site: its store, its open stages, and the protocol's operations on them.
//!
//! Functions in this module block unless they are `async`, and are called on blocking threads.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cancel::CancelToken;
use crate::fsx;
use crate::hash::{BundleKey, ObjectId};
use crate::manifest::WINDOW_LOG_MAX;
use crate::manifest::delta::DeltaSummary;
use crate::protocol::{
    Activate, BannerSite, HeldObjects, History, HookRun, HookState, MAX_SIGNED_BYTES, Repair,
    RepairResult, SignatureRequest, StageResult, State, Status,
};
use crate::receiver::http::auth::Grant;
use crate::receiver::http::error::{HttpError, map_not_found};
use crate::receiver::sites::open_stage::{OpenStage, OpenStages};
use crate::receiver::sites::repair_uploads::{RepairUploads, UploadedSource};
use crate::receiver::sites::share::{Permit, Share};
use crate::receiver::{Permission, ServeError, ServedPermissions, SiteSettings};
use crate::release::{Release, ReleaseName};
use crate::store::{
    Depth, OfferedRelease, Permissions, Presence, Pruned, Quota, Repaired, SignatureStream, Store,
    StoreError, StoredChange, Verified, needed_bytes,
};
use crate::tree_path::Site;

/// How long maintenance waits for the store's lock. Recording a failed hook waits just as long.
const MAINTENANCE_LOCK_WAIT: Duration = Duration::from_secs(30);

/// Bytes of memory for an open stage, excluding the memory for decoding its change: a change of up
/// to 64 KiB that is kept in memory, and the ids of packs.
const OPEN_STAGE_BYTES: u64 = 128 * 1024;

/// A site on a receiver.
#[derive(Debug)]
pub(crate) struct SiteState {
    pub(crate) settings: SiteSettings,
    pub(crate) open_stages: OpenStages,
    pub(crate) uploads: RepairUploads,
    /// Held while a stage is opened, so that two requests with the same key do not open it twice.
    // A tokio lock, because it is held while awaiting work on a blocking thread.
    pub(crate) opening: tokio::sync::Mutex<()>,
    /// The receiver's resources that this site may use.
    pub(crate) share: Share,
    /// The hook for the last switch, if there has been one since this receiver started.
    hook: watch::Sender<Option<HookRun>>,
    permissions: Option<Permissions>,
    lock: Duration,
}

impl SiteState {
    pub(crate) fn new(
        settings: &SiteSettings,
        lock: Duration,
        share: Share,
    ) -> Result<Self, ServeError> {
        let permissions =
            settings.served_permissions.as_ref().map(ServedPermissions::permissions).transpose();
        let path = || settings.directory.clone();
        let permissions =
            permissions.map_err(|source| ServeError::Group { path: path(), source })?;
        Ok(Self {
            settings: settings.clone(),
            open_stages: OpenStages::default(),
            uploads: RepairUploads::default(),
            opening: tokio::sync::Mutex::default(),
            share,
            hook: watch::Sender::default(),
            permissions,
            lock,
        })
    }

    /// Runs blocking work on this site when a worker is free. The work continues if its peer
    /// disconnects.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, HttpError> + Send + 'static,
    ) -> Result<T, HttpError> {
        let site = Arc::clone(self);
        self.share.blocking(move || work(&site)).await
    }

    fn probe(&self) -> Result<Option<Store>, StoreError> {
        let Presence::Store(store) = Store::probe(&self.settings.directory)? else {
            return Ok(None);
        };
        if let Some(site) = &self.settings.name {
            store.check_site(site)?;
        }
        Ok(Some(*store))
    }

    /// Returns the store, or an error if it does not exist yet.
    pub(crate) fn store(&self) -> Result<Store, HttpError> {
        let absent = || HttpError::unknown("there is no release here yet");
        self.probe().map_err(map_not_found)?.ok_or_else(absent)
    }

    pub(crate) fn state(&self, grant: Grant) -> Result<State, HttpError> {
        let Quota { bytes: quota_bytes, entries: quota_entries } = self.quota();
        let about = State {
            headwater: env!("CARGO_PKG_VERSION").to_owned(),
            time: std::time::UNIX_EPOCH.elapsed().ok().map(|since| since.as_secs()),
            quota_bytes,
            quota_entries,
            may_push: grant.permission == Permission::Push,
            unwritable: Store::check_writable_at(&self.settings.directory)
                .err()
                .map(|error| HttpError::from(error).protocol_error),
            token_expires: grant.expires,
            ..State::default()
        };
        let Some(store) = self.probe()? else {
            return Ok(State {
                site: self.settings.name.clone(),
                free_bytes: self.free(Store::free_bytes_at(&self.settings.directory)),
                // Empty, not `None`: `None` would mean that the receiver does not know.
                unfinished: Some(Vec::new()),
                ..about
            });
        };
        let text = |release: &Release| String::from_utf8(release.to_bytes()).unwrap_or_default();
        let served = store.served_releases()?;
        Ok(State {
            store: Some(store.id()),
            site: Some(store.site().clone()),
            current: store.current()?,
            // A damaged record is left out: `verify` reports it, and everything else still works.
            releases: served
                .into_iter()
                .filter_map(|name| Some(text(&store.release(name).ok()?)))
                .collect(),
            staged: store.staged_release()?.as_ref().map(text),
            highest_sequence: store.highest_sequence()?,
            free_bytes: self.free(store.free_bytes()),
            unfinished: store.unfinished_bundles().ok(),
            incoming_bytes: store.incoming_bytes().unwrap_or(0),
            next_expiry: store.next_expiry().ok().flatten(),
            expired_through: store.expired_through().unwrap_or(0),
            ..about
        })
    }

    const fn quota(&self) -> Quota {
        Quota { bytes: self.settings.quota_bytes, entries: self.settings.quota_entries }
    }

    /// The free bytes minus the bytes that must stay free; `None` if unknown.
    fn free(&self, bytes: Result<u64, StoreError>) -> Option<u64> {
        Some(bytes.ok()?.saturating_sub(self.settings.min_free_bytes))
    }

    pub(crate) fn history(&self) -> Result<History, HttpError> {
        let events = self.probe()?.map_or_else(|| Ok(Vec::new()), |store| store.history())?;
        Ok(History { events })
    }

    pub(crate) fn status(&self) -> Result<Status, HttpError> {
        let unknown = || HttpError::unknown("there is no site here yet");
        let Some(store) = self.probe()? else {
            let site = self.settings.name.clone().ok_or_else(unknown)?;
            return Ok(Status {
                site,
                sequence: None,
                release: None,
                published: None,
                activated: None,
            });
        };
        let release = store.current()?;
        let switched = || {
            let changed = fsx::lstat(&store.path().join("current")).ok()?.modified().ok()?;
            Some(changed.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
        };
        Ok(Status {
            site: store.site().clone(),
            sequence: release.map(|release| release.sequence()),
            release,
            published: release.and_then(|name| Some(store.release(name).ok()?.created)),
            activated: release.and_then(|_| switched()),
        })
    }

    /// Which of the objects in `question`, a sequence of ids, are undamaged in the store.
    pub(crate) fn holds(
        &self,
        question: &[u8],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<HeldObjects, HttpError> {
        let (ids, []) = question.as_chunks() else {
            return Err(HttpError::malformed(
                "the body does not consist of object ids of 32 bytes each",
            ));
        };
        let objects: Vec<ObjectId> = ids.iter().map(|id| ObjectId::from_bytes(*id)).collect();
        let held = self
            .probe()?
            .map_or_else(|| Ok(vec![false; ids.len()]), |store| store.holds(&objects, cancelled));
        Ok(HeldObjects::of(&held?))
    }

    /// The block signatures that `question` requests.
    pub(crate) fn signatures(&self, question: &[u8]) -> Result<SignatureStream, HttpError> {
        let question = SignatureRequest::decode(question)
            .ok_or_else(|| HttpError::malformed("this is not a request for block signatures"))?;
        let Some(store) = self.probe()? else {
            return Ok(SignatureStream::absent(question.files.len()));
        };
        let stream = store.signatures(&question.base, &question.files, question.key)?;
        if stream.objects_to_read() > 1 && stream.bytes_to_read() > MAX_SIGNED_BYTES {
            return Err(HttpError::too_large(format!(
                "signatures for at most {MAX_SIGNED_BYTES} bytes can be requested at once"
            )));
        }
        Ok(stream)
    }

    /// Whether the site serves a complete release.
    pub(crate) fn is_ready(&self) -> bool {
        let current = || self.probe().ok()??.current().ok()?;
        // `current` is created only after its release is complete.
        current().is_some()
            && std::fs::metadata(self.settings.directory.join("current"))
                .is_ok_and(|meta| meta.is_dir())
    }

    pub(crate) fn banner(&self) -> Result<BannerSite, StoreError> {
        Ok(self.banner_of(self.probe()?.as_ref()))
    }

    pub(super) fn banner_of(&self, store: Option<&Store>) -> BannerSite {
        let site = store.map(|store| store.site().clone()).or_else(|| self.settings.name.clone());
        // SSH URLs contain the absolute path, so the banner must contain it too.
        let directory = std::path::absolute(&self.settings.directory);
        let directory = directory.unwrap_or_else(|_| self.settings.directory.clone());
        BannerSite { directory, site, base: self.settings.base.clone() }
    }

    /// Returns an error if this site does not accept the release. Reads no content.
    pub(crate) fn check_release(
        &self,
        release: &Release,
        change_bytes: u64,
    ) -> Result<(), HttpError> {
        /// Maximum size of one entry in a change, in bytes: a path and a link target of 1,024 bytes
        /// each, and numbers.
        const ENTRY_BYTES: u64 = 2_400;
        if let Some(name) = self.settings.name.as_ref().filter(|name| **name != release.site) {
            let (path, wanted) = (self.settings.directory.clone(), release.site.clone());
            return Err(StoreError::OtherSite { path, found: name.clone(), wanted }.into());
        }
        if let Some(words) = self.quota().refusal(release, 0) {
            return Err(HttpError::over_quota(words));
        }
        // A change also contains entries removed from the base. The base is within the quota as
        // well, so the factor is 2.
        let most = self
            .settings
            .quota_entries
            .map(|entries| entries.saturating_add(1).saturating_mul(2 * ENTRY_BYTES));
        match most.filter(|most| change_bytes > *most) {
            Some(most) => Err(HttpError::over_quota(format!(
                "the manifest change has {change_bytes} bytes, but the quota allows {most}"
            ))),
            None => Ok(()),
        }
    }

    /// Opens a stage: creates the store if it does not exist, and starts a staging transaction.
    /// Returns `None` if the release is already staged.
    pub(crate) fn open_stage(
        &self,
        order: &StageRequestHead,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<Option<OpenStage>, HttpError> {
        let store = Arc::new(Store::open_or_create(&self.settings.directory, &order.release.site)?);
        let Some((needs, memory)) = self.read_change(&store, order, is_gone)? else {
            return Ok(None);
        };
        // Checked before the transaction writes anything, and before the origin sends a pack.
        self.check_new_bytes(&store, &order.key, &order.release, &needs)?;
        store.set_permissions(self.permissions, self.lock)?;
        let transaction = store.start_staging(order.offered(), &order.key, needs, self.lock)?;
        Ok(Some(OpenStage::new(order.key, order.digest, transaction, memory)))
    }

    /// The summary of a change, with the memory reserved for it. `None` if its release is already
    /// staged.
    fn read_change(
        &self,
        store: &Store,
        order: &StageRequestHead,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<Option<(DeltaSummary, Permit)>, HttpError> {
        // The window of the zstd decoder, reserved while the change is read.
        let _decoder = self.share.reserve(1 << WINDOW_LOG_MAX)?;
        let memory = RefCell::new(self.share.reserve(OPEN_STAGE_BYTES)?);
        // Cells, because the store calls `reserve` through a shared reference while it reads the
        // change.
        let wanted = Cell::new(OPEN_STAGE_BYTES);
        let reserve = |bytes: u64| {
            wanted.set(wanted.get().saturating_add(bytes));
            self.share.reserve(bytes).map(|more| memory.borrow_mut().merge(more)).is_ok()
        };
        let needs = match store.read_change(order.offered(), &reserve, is_gone) {
            Err(StoreError::NoMemory) => return Err(self.share.no_memory(wanted.get())),
            other => other?,
        };
        Ok(needs.map(|needs| (needs, memory.into_inner())))
    }

    /// Creates a spool file for an incoming manifest change. Creates the store if necessary.
    pub(crate) fn create_spool_file(
        &self,
        name: &Site,
        key: &BundleKey,
        length: u64,
    ) -> Result<std::fs::File, HttpError> {
        let store = Store::open_or_create(&self.settings.directory, name)?;
        self.ensure_free_space(&store, key, length)?;
        Ok(store.create_spool_file()?)
    }

    /// Checks that the new content fits within this site's limits. The sizes come from the change,
    /// because the totals in the release record are not trusted.
    fn check_new_bytes(
        &self,
        store: &Store,
        key: &BundleKey,
        release: &Release,
        needs: &DeltaSummary,
    ) -> Result<(), HttpError> {
        if self.settings.quota_bytes.is_none() && self.settings.min_free_bytes == 0 {
            return Ok(());
        }
        if let Some(words) = self.quota().refusal(release, needs.new_bytes()) {
            return Err(HttpError::over_quota(words));
        }
        match store.created_entries(release, needs)? {
            // A change that only removes entries needs no space.
            0 => Ok(()),
            // The block size is one byte, because `min_free` is a limit in bytes and the store
            // itself counts whole blocks.
            made => self.ensure_free_space(store, key, needed_bytes(made, needs, 1, 0)),
        }
    }

    /// Like [`SiteState::check_free`], but if there is too little space, drops the content of other
    /// unfinished pushes and checks again.
    fn ensure_free_space(
        &self,
        store: &Store,
        key: &BundleKey,
        new_bytes: u64,
    ) -> Result<(), HttpError> {
        match self.check_free(store, new_bytes) {
            // Checked again only if something was dropped: if the disk is full for another reason,
            // a second check is useless.
            Err(_) if store.drop_other_quarantines(key)? => self.check_free(store, new_bytes),
            other => other,
        }
    }

    /// Returns an error if writing `new_bytes` would leave less free space than this site must
    /// keep.
    pub(crate) fn check_free(&self, store: &Store, new_bytes: u64) -> Result<(), HttpError> {
        let (free, keep) = (store.free_bytes()?, self.settings.min_free_bytes);
        if new_bytes.saturating_add(keep) > free {
            let words = format!(
                "{free} bytes are free, but this push adds {new_bytes}, and {keep} must stay free"
            );
            return Err(HttpError::no_space(words));
        }
        Ok(())
    }

    /// Finishes a stage, or returns the objects that are missing.
    pub(crate) fn finish(&self, open_stage: &Arc<OpenStage>) -> Result<StageResult, HttpError> {
        // The sweep must not drop uploads that are being read.
        let _hold = self.uploads.lease();
        let source = UploadedSource::new(&self.uploads, false);
        let result = open_stage.finish(&source);
        open_stage.touch();
        let error = match result {
            Ok(resent) => {
                self.open_stages.end(open_stage);
                self.uploads.drop_used();
                return Ok(StageResult::Staged { resent });
            }
            Err(error) => error,
        };
        if matches!(error, StoreError::Fetch { .. }) {
            let objects = source.request().objects;
            if !objects.is_empty() {
                return Ok(StageResult::Missing(objects));
            }
            // No object is missing, so the cause is an upload that could not be read back: drop the
            // uploads.
            self.uploads.drop_used();
        }
        // Another process has held the lock for a while. The stage stays open, so that the origin
        // can repeat the request without sending the packs again.
        if !matches!(error, StoreError::Locked { .. }) {
            self.open_stages.end(open_stage);
        }
        Err(error.into())
    }

    /// Activates a release. Returns whether it was already current.
    pub(crate) fn activate(&self, request: Activate) -> Result<Activation, HttpError> {
        let store = self.store()?;
        let was_current = store.current()? == Some(request.release);
        if self.settings.post_activate.is_some() && !was_current {
            // The record is made before the switch: if the receiver is killed between the switch
            // and the hook, the next start finds it. A record whose release did not become current
            // is ignored.
            store.record_switch(request.release, self.lock)?;
        }
        store.activate(request.release, request.expected, self.lock)?;
        Ok(if was_current {
            Activation::AlreadyCurrent
        } else {
            Activation::Switched(store.site().clone())
        })
    }

    /// The release that became current but whose hook was never started.
    pub(crate) fn pending_switch(&self) -> Option<(Site, ReleaseName)> {
        let store = self.probe().ok()??;
        Some((store.site().clone(), store.pending_switch().ok()??))
    }

    /// Removes the record of a switch, because its hook has started.
    pub(crate) fn clear_pending_switch(&self) {
        // If this fails, at worst the hook runs a second time.
        self.probe().ok().flatten().map(|store| store.clear_pending_switch().ok());
    }

    /// Records that the hook for `release` is about to run.
    pub(crate) fn hook_started(&self, release: ReleaseName) {
        self.hook.send_replace(Some(HookRun { release, state: HookState::Running }));
    }

    /// Records that the hook for `release` has ended or could not be run. A failure is added to the
    /// store's history.
    pub(crate) fn hook_ended(&self, release: ReleaseName, result: Result<(), String>) {
        if let Err(why) = &result {
            // The push may still be cleaning up and hold the lock. If the failure cannot be
            // recorded in time, it is not recorded: the record is for information only, and the
            // failure is also in the log.
            self.probe()
                .ok()
                .flatten()
                .map(|store| store.log_hook_failure(release, why, MAINTENANCE_LOCK_WAIT).ok());
        }
        let state =
            result.map_or_else(|reason| HookState::Failed { reason }, |()| HookState::Succeeded);
        self.hook.send_if_modified(|run| {
            // The hook of a newer release may already be running.
            let own = run.as_mut().filter(|run| run.release == release);
            own.map(|run| run.state = state).is_some()
        });
    }

    /// Waits up to `limit` for the hook for the last switch, and returns its state. Returns `None`
    /// if no hook has run since this receiver started.
    pub(crate) async fn hook_run(&self, limit: Duration) -> Option<HookRun> {
        let mut runs = self.hook.subscribe();
        let has_ended =
            |run: &Option<HookRun>| run.as_ref().is_none_or(|run| run.state != HookState::Running);
        // If the wait times out, the state below is `Running`.
        tokio::time::timeout(limit, runs.wait_for(has_ended)).await.ok();
        self.hook.borrow().clone()
    }

    pub(crate) fn abandon(&self, release: ReleaseName) -> Result<(), HttpError> {
        Ok(self.store()?.abandon(release, self.lock)?)
    }

    pub(crate) fn clean_up(&self, keep: usize) -> Result<Pruned, HttpError> {
        Ok(self.store()?.clean_up(self.settings.keep.unwrap_or(keep), self.lock)?)
    }

    /// Fills the spare slot for the next push.
    pub(crate) fn prepare_spare_slot(&self) -> Result<(), HttpError> {
        Ok(self.store()?.prepare_spare_slot(self.lock)?)
    }

    /// Maintenance that becomes due over time: expires retired entries and drops unfinished pushes.
    pub(crate) fn run_maintenance(&self) -> Result<Pruned, HttpError> {
        let store = self.probe()?;
        Ok(store.map_or_else(
            || Ok(Pruned::default()),
            |store| store.run_maintenance(MAINTENANCE_LOCK_WAIT),
        )?)
    }

    pub(crate) fn prune(&self, keep: usize) -> Result<Pruned, HttpError> {
        Ok(self.store()?.prune(self.settings.keep.unwrap_or(keep), self.lock)?)
    }

    pub(crate) fn verify(
        &self,
        depth: Depth,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Verified, HttpError> {
        Ok(self.store()?.verify(depth, self.lock, cancelled)?)
    }

    pub(crate) fn repair(
        &self,
        request: Repair,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<RepairResult, HttpError> {
        let _hold = self.uploads.lease();
        let source = UploadedSource::new(&self.uploads, request.is_last);
        // This comes before opening the store, which fails if one of its directories is missing.
        Store::restore_directories(&self.settings.directory, self.lock, &CancelToken::default())?;
        let Repaired { found, objects, repaired_files: mended, remaining: left } =
            self.store()?.repair(&source, &source, self.lock, cancelled)?;
        self.uploads.drop_used();
        let wants = source.request();
        Ok(RepairResult { found, objects, repaired_files: mended, remaining: left, needed: wants })
    }
}

/// Whether an activation changed the current release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Activation {
    /// The release was already current.
    AlreadyCurrent,
    /// The release has become current, on this site.
    Switched(Site),
}

/// The first part of a stage request: the release and its manifest change.
#[derive(Debug)]
pub(crate) struct StageRequestHead {
    pub(crate) release: Release,
    pub(crate) key: BundleKey,
    pub(crate) base: Option<crate::hash::ManifestId>,
    pub(crate) change: StoredChange,
    /// BLAKE3 hash of the change.
    pub(crate) digest: blake3::Hash,
}

impl StageRequestHead {
    const fn offered(&self) -> OfferedRelease<'_> {
        OfferedRelease { release: &self.release, base: self.base, change: &self.change }
    }
}
