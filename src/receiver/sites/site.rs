//! One site: its store, its open stages, and what it does with a request.
//!
//! Everything here blocks and is called where that is allowed.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::fsx;
use crate::hash::{BundleKey, ObjectId};
use crate::manifest::WINDOW_LOG_MAX;
use crate::manifest::delta::DeltaSummary;
use crate::protocol::{
    Activate, BannerSite, History, Holds, HookRun, HookState, Repair, Repairing, Staging, State, Status,
};
use crate::receiver::http::auth::Grant;
use crate::receiver::http::error::{HttpError, or_unknown};
use crate::receiver::sites::open_stage::{OpenStage, OpenStages};
use crate::receiver::sites::repair_uploads::{RepairUploads, UploadedSource};
use crate::receiver::sites::share::{Permit, Share};
use crate::receiver::{Log, LogRecord, Permission, ServeError, ServedPermissions, SiteSettings};
use crate::release::{Release, ReleaseName};
use crate::store::{
    Depth, Permissions, Presence, Pruned, Quota, Store, StoreError, StoredChange, Verified, needed_bytes,
};
use crate::tree_path::Site;

/// How long a note of what failed, or the upkeep, waits for the lock of the store.
const NOTE_WAIT: Duration = Duration::from_secs(30);

/// Memory for an open stage beside what its change needs: a change that is kept in memory, and the
/// names of packs.
const SESSION_BYTES: u64 = 128 * 1024;

/// A site of a receiver.
#[derive(Debug)]
pub(crate) struct SiteState {
    pub(crate) settings: SiteSettings,
    pub(crate) open_stages: OpenStages,
    pub(crate) uploads: RepairUploads,
    /// Held while a stage is opened: two requests of one key must not open it twice.
    pub(crate) opening: tokio::sync::Mutex<()>,
    /// What this site may take of the receiver.
    pub(crate) share: Share,
    /// The command after the last switch, since this receiver runs.
    hook: watch::Sender<Option<HookRun>>,
    permissions: Option<Permissions>,
    lock: Duration,
}

impl SiteState {
    pub(crate) fn new(settings: &SiteSettings, lock: Duration, share: Share) -> Result<Self, ServeError> {
        let permissions = settings.readers.as_ref().map(ServedPermissions::permissions).transpose();
        let path = || settings.directory.clone();
        let permissions = permissions.map_err(|source| ServeError::Group { path: path(), source })?;
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

    /// Does work on this site that blocks, once there is a worker for it. It goes on when its peer leaves.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, HttpError> + Send + 'static,
    ) -> Result<T, HttpError> {
        let site = Arc::clone(self);
        self.share.blocking(move || work(&site)).await
    }

    fn look(&self) -> Result<Option<Store>, StoreError> {
        let Presence::Store(store) = Store::look(&self.settings.directory)? else { return Ok(None) };
        if let Some(site) = &self.settings.name {
            store.check_site(site)?;
        }
        Ok(Some(*store))
    }

    /// The store, which must be there.
    pub(crate) fn store(&self) -> Result<Store, HttpError> {
        let absent = || HttpError::unknown("there is no release here yet");
        self.look().map_err(or_unknown)?.ok_or_else(absent)
    }

    pub(crate) fn state(&self, grant: Grant) -> Result<State, HttpError> {
        let Quota { bytes: quota_bytes, entries: quota_entries } = self.quota();
        let about = State {
            headwater: env!("CARGO_PKG_VERSION").to_owned(),
            time: std::time::UNIX_EPOCH.elapsed().ok().map(|since| since.as_secs()),
            quota_bytes,
            quota_entries,
            may_push: grant.right == Permission::Push,
            token_expires: grant.expires,
            ..State::default()
        };
        let Some(store) = self.look()? else {
            return Ok(State {
                site: self.settings.name.clone(),
                free_bytes: self.free(Store::free_bytes_at(&self.settings.directory)),
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
            // A damaged record is verify's to tell; without it the rest still works.
            releases: served.into_iter().filter_map(|name| Some(text(&store.release(name).ok()?))).collect(),
            staged: store.staged_release()?.as_ref().map(text),
            highest_sequence: store.highest_sequence()?,
            free_bytes: self.free(store.free_bytes()),
            unfinished: store.unfinished().ok(),
            incoming_bytes: store.incoming_bytes().unwrap_or(0),
            next_expiry: store.next_expiry().ok().flatten(),
            expired_through: store.expired_through().unwrap_or(0),
            ..about
        })
    }

    const fn quota(&self) -> Quota {
        Quota { bytes: self.settings.quota_bytes, entries: self.settings.quota_entries }
    }

    /// What of the free bytes may be used, if they are known.
    fn free(&self, bytes: Result<u64, StoreError>) -> Option<u64> {
        Some(bytes.ok()?.saturating_sub(self.settings.min_free_bytes))
    }

    pub(crate) fn history(&self) -> Result<History, HttpError> {
        let events = self.look()?.map_or_else(|| Ok(Vec::new()), |store| store.history())?;
        Ok(History { events })
    }

    pub(crate) fn status(&self) -> Result<Status, HttpError> {
        let unknown = || HttpError::unknown("there is no site here yet");
        let Some(store) = self.look()? else {
            let site = self.settings.name.clone().ok_or_else(unknown)?;
            return Ok(Status { site, sequence: None, release: None, published: None, activated: None });
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

    /// Which of the objects whose ids a question is made of are here and whole.
    pub(crate) fn holds(&self, question: &[u8], cancelled: &dyn Fn() -> bool) -> Result<Holds, HttpError> {
        let (ids, []) = question.as_chunks() else {
            return Err(HttpError::malformed("these are no object ids of 32 bytes each"));
        };
        let objects: Vec<ObjectId> = ids.iter().map(|id| ObjectId::from_bytes(*id)).collect();
        let held = self.look()?.map_or_else(|| Ok(vec![false; ids.len()]), |store| store.holds(&objects, cancelled));
        Ok(Holds::of(&held?))
    }

    /// Whether it serves a complete release.
    pub(crate) fn is_ready(&self) -> bool {
        let current = || self.look().ok()??.current().ok()?;
        // What the link names is complete: it is never made before.
        current().is_some()
            && std::fs::metadata(self.settings.directory.join("current")).is_ok_and(|meta| meta.is_dir())
    }

    pub(crate) fn banner(&self) -> Result<BannerSite, StoreError> {
        let site = self.look()?.map(|store| store.site().clone()).or_else(|| self.settings.name.clone());
        // Whoever asks over ssh names it from the root on.
        let directory = std::path::absolute(&self.settings.directory);
        let directory = directory.unwrap_or_else(|_| self.settings.directory.clone());
        Ok(BannerSite { directory, site, base: self.settings.base.clone() })
    }

    /// Refuses a release that this site does not take, before any content is read.
    pub(crate) fn check_release(&self, release: &Release, change_bytes: u64) -> Result<(), HttpError> {
        /// What one entry can take in a change: a path or a target of 1,024 bytes, and numbers.
        const ENTRY_BYTES: u64 = 2_400;
        if let Some(name) = self.settings.name.as_ref().filter(|name| **name != release.site) {
            let (path, wanted) = (self.settings.directory.clone(), release.site.clone());
            return Err(StoreError::OtherSite { path, found: name.clone(), wanted }.into());
        }
        if let Some(words) = self.quota().refusal(release, 0) {
            return Err(HttpError::over_quota(words));
        }
        // The change names entries of the base too, which is within the quota as well.
        let most = self.settings.quota_entries.map(|entries| entries.saturating_add(1).saturating_mul(2 * ENTRY_BYTES));
        match most.filter(|most| change_bytes > *most) {
            Some(most) => Err(HttpError::over_quota(format!(
                "the manifest change has {change_bytes} bytes, and the quota allows {most}"
            ))),
            None => Ok(()),
        }
    }

    /// Opens a stage: the store, made if need be, and the arrival. Nothing where the release is staged already.
    pub(crate) fn begin(
        &self,
        order: StageRequestHead,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<Option<OpenStage>, HttpError> {
        let store = Arc::new(Store::open_or_create(&self.settings.directory, &order.release.site)?);
        let Some((needs, memory)) = self.read_change(&store, &order, is_gone)? else { return Ok(None) };
        let StageRequestHead { release, key, change, digest, .. } = order;
        self.check_new_bytes(&store, &key, &release, &needs)?;
        if let Some(permissions) = self.permissions {
            store.use_permissions(permissions, self.lock)?;
        }
        let transaction = store.start_staging(&release, &key, &change, needs, self.lock)?;
        Ok(Some(OpenStage::new(key, store, &release, digest, transaction, memory)))
    }

    /// What a change needs, with the memory that is reserved for it. `None` if its release is staged already.
    fn read_change(
        &self,
        store: &Store,
        order: &StageRequestHead,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<Option<(DeltaSummary, Permit)>, HttpError> {
        // A decoder is needed for as long as the change is read.
        let _decoder = self.share.reserve(1 << WINDOW_LOG_MAX)?;
        let memory = RefCell::new(self.share.reserve(SESSION_BYTES)?);
        let wanted = Cell::new(SESSION_BYTES);
        let reserve = |bytes: u64| {
            wanted.set(wanted.get().saturating_add(bytes));
            self.share.reserve(bytes).map(|more| memory.borrow_mut().merge(more)).is_ok()
        };
        let needs = match store.read_change(&order.release, order.base, &order.change, &reserve, is_gone) {
            Err(StoreError::NoMemory) => return Err(self.share.no_memory(wanted.get())),
            other => other?,
        };
        Ok(needs.map(|needs| (needs, memory.into_inner())))
    }

    /// A file for a manifest change on its way, on the file system of the store, made if need be.
    pub(crate) fn spool(&self, name: &Site, key: &BundleKey, length: u64) -> Result<std::fs::File, HttpError> {
        let store = Store::open_or_create(&self.settings.directory, name)?;
        self.make_room(&store, key, length)?;
        Ok(store.spool()?)
    }

    /// What the change brings must fit what this site allows, whatever the release says of itself.
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
        match store.made_entries(release, needs)? {
            // What only removes something is no reason to keep room free.
            0 => Ok(()),
            made => self.make_room(store, key, needed_bytes(made, needs, 1, 0)),
        }
    }

    /// As [`SiteState::check_free`], but first drops what other pushes left, if there is too little.
    fn make_room(&self, store: &Store, key: &BundleKey, new_bytes: u64) -> Result<(), HttpError> {
        match self.check_free(store, new_bytes) {
            Err(_) if store.drop_other_quarantines(key)? => self.check_free(store, new_bytes),
            other => other,
        }
    }

    /// Refuses what would leave less free than this site keeps free.
    pub(crate) fn check_free(&self, store: &Store, new_bytes: u64) -> Result<(), HttpError> {
        let (free, keep) = (store.free_bytes()?, self.settings.min_free_bytes);
        if new_bytes.saturating_add(keep) > free {
            let words = format!("{free} bytes are free, {new_bytes} would come, and {keep} have to stay free");
            return Err(HttpError::no_space(words));
        }
        Ok(())
    }

    /// Ends a stage, or says what is lacking.
    pub(crate) fn finish(&self, open_stage: &Arc<OpenStage>) -> Result<Staging, HttpError> {
        let _hold = self.uploads.lease();
        let asker = UploadedSource::new(&self.uploads, false);
        let result = open_stage.finish(&asker);
        open_stage.touch();
        let error = match result {
            Ok(resent) => {
                self.open_stages.end(open_stage);
                self.uploads.forget_used();
                return Ok(Staging::Staged { resent });
            }
            Err(error) => error,
        };
        if matches!(error, StoreError::Fetch { .. }) {
            let objects = asker.ask().objects;
            if !objects.is_empty() {
                return Ok(Staging::Lacking(objects));
            }
            // What came cannot be read back.
            self.uploads.forget_used();
        }
        if !matches!(error, StoreError::Locked { .. }) {
            self.open_stages.end(open_stage);
        }
        Err(error.into())
    }

    /// Answers whether it was current before.
    pub(crate) fn activate(&self, request: Activate) -> Result<Activation, HttpError> {
        let store = self.store()?;
        let was_current = store.current()? == Some(request.release);
        if self.settings.post_activate.is_some() && !was_current {
            store.note_switch(request.release, self.lock)?;
        }
        store.activate(request.release, request.expected, self.lock)?;
        Ok(if was_current { Activation::Before } else { Activation::Now(store.site().clone()) })
    }

    /// The release that became current and whose command never began.
    pub(crate) fn noted_switch(&self) -> Option<(Site, ReleaseName)> {
        let store = self.look().ok()??;
        Some((store.site().clone(), store.noted_switch().ok()??))
    }

    /// The command begins: there is nothing to make up for.
    pub(crate) fn clear_switch(&self) {
        // At worst it runs once more than it has to.
        self.look().ok().flatten().map(|store| store.clear_switch().ok());
    }

    /// The command for `release` is about to run.
    pub(crate) fn hook_started(&self, release: ReleaseName) {
        self.hook.send_replace(Some(HookRun { release, state: HookState::Running }));
    }

    /// The command for `release` has ended, or could not be run: a failure goes into the store's history.
    pub(crate) fn hook_ended(&self, release: ReleaseName, result: Result<(), String>) {
        if let Err(why) = &result {
            // The push that switched may still tidy up. It is told for people only, and logged as well.
            self.look().ok().flatten().map(|store| store.note_hook_failed(release, why, NOTE_WAIT).ok());
        }
        let state = result.map_or_else(|reason| HookState::Failed { reason }, |()| HookState::Succeeded);
        self.hook.send_if_modified(|run| {
            // The command for a newer release may run already.
            let own = run.as_mut().filter(|run| run.release == release);
            own.map(|run| run.state = state).is_some()
        });
    }

    /// The command after the last switch, when it has ended or after `limit`; `None` if there was none
    /// since this receiver runs.
    pub(crate) async fn hook_run(&self, limit: Duration) -> Option<HookRun> {
        let mut runs = self.hook.subscribe();
        let has_ended = |run: &Option<HookRun>| run.as_ref().is_none_or(|run| run.state != HookState::Running);
        tokio::time::timeout(limit, runs.wait_for(has_ended)).await.ok();
        self.hook.borrow().clone()
    }

    pub(crate) fn abandon(&self, release: ReleaseName) -> Result<(), HttpError> {
        Ok(self.store()?.abandon(release, self.lock)?)
    }

    pub(crate) fn clean_up(&self, keep: usize) -> Result<Pruned, HttpError> {
        Ok(self.store()?.clean_up(self.settings.keep.unwrap_or(keep), self.lock)?)
    }

    /// Makes ready for the next push.
    pub(crate) fn prepare(&self) -> Result<(), HttpError> {
        Ok(self.store()?.prepare_spare_slot(self.lock)?)
    }

    /// What time alone brings about.
    pub(crate) fn upkeep(&self) -> Result<Pruned, HttpError> {
        let store = self.look()?;
        Ok(store.map_or_else(|| Ok(Pruned::default()), |store| store.upkeep(NOTE_WAIT))?)
    }

    pub(crate) fn prune(&self, keep: usize) -> Result<Pruned, HttpError> {
        Ok(self.store()?.prune(self.settings.keep.unwrap_or(keep), self.lock)?)
    }

    pub(crate) fn verify(&self, depth: Depth, cancelled: &(dyn Fn() -> bool + Sync)) -> Result<Verified, HttpError> {
        Ok(self.store()?.verify(depth, self.lock, cancelled)?)
    }

    pub(crate) fn repair(
        &self,
        request: Repair,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Repairing, HttpError> {
        let _hold = self.uploads.lease();
        let asker = UploadedSource::new(&self.uploads, request.is_last);
        let repaired = self.store()?.repair(&asker, &asker, self.lock, cancelled)?;
        self.uploads.forget_used();
        let wants = asker.ask();
        let (found, objects, mended, left) = (repaired.found, repaired.objects, repaired.mended, repaired.left);
        Ok(Repairing { found, objects, mended, left, wants })
    }
}

/// Whether an activation changed anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Activation {
    /// The release was current already.
    Before,
    /// It became current, on this site.
    Now(Site),
}

/// What a stage begins with.
#[derive(Debug)]
pub(crate) struct StageRequestHead {
    pub(crate) release: Release,
    pub(crate) key: BundleKey,
    pub(crate) base: Option<crate::hash::ManifestId>,
    pub(crate) change: StoredChange,
    /// The BLAKE3 of the change.
    pub(crate) digest: blake3::Hash,
}

/// Looks at the directories, so that one that can never be a mirror is told of now, and not to
/// the first push. What may pass, or harms one site alone, stops no other one: it is logged. A site that
/// another user owns can be read, and takes no push.
///
/// # Errors
/// The first site with a directory that is none, has other files, or is that of another site.
pub(crate) fn check(sites: &[Arc<SiteState>], log: &dyn Log) -> Result<(), ServeError> {
    for site in sites {
        let path = site.settings.directory.clone();
        match site.banner().and_then(|_| Store::check_owner_at(&path)) {
            Ok(()) => {}
            Err(
                source @ (StoreError::NotDirectory { .. } | StoreError::NotEmpty { .. } | StoreError::OtherSite { .. }),
            ) => {
                return Err(ServeError::Site { path, source });
            }
            Err(error) => {
                let (directory, message) = (path.display().to_string(), error.to_string());
                log.record(&LogRecord::SiteFailed { directory, message });
            }
        }
    }
    Ok(())
}

/// What each site says of itself.
///
/// # Errors
/// The first site whose directory cannot be a mirror, or is that of another site.
pub(crate) fn banners(sites: &[Arc<SiteState>]) -> Result<Vec<BannerSite>, ServeError> {
    let banner = |site: &Arc<SiteState>| {
        site.banner().map_err(|source| ServeError::Site { path: site.settings.directory.clone(), source })
    };
    sites.iter().map(banner).collect()
}
