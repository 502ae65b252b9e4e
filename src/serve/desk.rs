//! What a site asked for, and what was put in answer: one unnamed file.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::File;
use std::hash::Hash;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::hash::{ManifestId, ObjectId};
use crate::manifest::WINDOW_LOG_MAX;
use crate::release::{MAX_RECORD_BYTES, Release, ReleaseName};
use crate::serve::inbox::Inbox;
use crate::serve::refused::Refused;
use crate::store::{FetchRecords, Store, StoreError};
use crate::wire::{Done, Wants};

/// Part of the file.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) file: Arc<File>,
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Read for Section {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read_at(&mut into[..count], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Ids that were asked for, and what came.
#[derive(Debug)]
struct Shelf<K, V> {
    asked: HashSet<K>,
    came: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self { asked: HashSet::new(), came: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> Shelf<K, V> {
    fn check(&self, id: &K) -> Result<(), Refused> {
        match self.asked.contains(id) {
            true => Ok(()),
            false => Err(Refused::not_asked_for("this was not asked for")),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    objects: Shelf<ObjectId, Section>,
    manifests: Shelf<ManifestId, Section>,
    releases: Shelf<ReleaseName, Release>,
    file: Option<Arc<File>>,
    end: u64,
    used: Option<Instant>,
    /// Those who are working with what is here.
    holders: usize,
}

/// The desk of a site. Forgets everything after an idle time.
#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<Inner>);

impl Desk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.used = Some(Instant::now());
        inner
    }

    /// Keeps what is here from being forgotten for another while.
    pub(super) fn touch(&self) {
        drop(self.inner());
    }

    /// Keeps what is here as long as the answer lives.
    pub(super) fn hold(&self) -> Hold<'_> {
        self.inner().holders += 1;
        Hold(self)
    }

    /// Takes these from now on.
    pub(super) fn ask(&self, wants: &Wants) {
        let mut inner = self.inner();
        inner.objects.asked.extend(&wants.objects);
        inner.manifests.asked.extend(&wants.manifests);
        inner.releases.asked.extend(&wants.releases);
    }

    pub(super) fn check_object(&self, id: &ObjectId) -> Result<(), Refused> {
        self.inner().objects.check(id)
    }

    pub(super) fn check_manifest(&self, id: &ManifestId) -> Result<(), Refused> {
        self.inner().manifests.check(id)
    }

    fn check_release(&self, name: &ReleaseName) -> Result<(), Refused> {
        self.inner().releases.check(name)
    }

    /// Room for `length` bytes.
    pub(super) fn reserve(&self, store: &Store, length: u64) -> Result<Section, StoreError> {
        let mut inner = self.inner();
        let file = match &inner.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(inner.file.insert(Arc::new(store.spool()?))),
        };
        let at = inner.end;
        inner.end += length;
        Ok(Section { file, at, end: at + length })
    }

    pub(super) fn put_object(&self, id: ObjectId, section: Section) {
        self.inner().objects.came.insert(id, section);
    }

    pub(super) fn put_manifest(&self, id: ManifestId, section: Section) {
        self.inner().manifests.came.insert(id, section);
    }

    fn put_release(&self, release: Release) {
        self.inner().releases.came.insert(release.name(), release);
    }

    /// Reads the record of a release that was asked for.
    pub(super) async fn take_release(&self, name: ReleaseName, inbox: &mut Inbox) -> Result<Done, Refused> {
        let length = inbox.check(MAX_RECORD_BYTES)?;
        self.check_release(&name)?;
        let release =
            Release::parse(&inbox.read(length).await?).map_err(|error| Refused::malformed(error.to_string()))?;
        if release.name() != name {
            return Err(Refused::malformed("these bytes are not this release"));
        }
        self.put_release(release);
        Ok(Done {})
    }

    /// The content of an object that came.
    pub(super) fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, Box<dyn Error + Send + Sync>> {
        match self.inner().objects.came.get(id) {
            Some(section) => Ok(Box::new(section.clone())),
            None => Err("the origin was not asked for it yet".into()),
        }
    }

    /// Forgets everything if nobody was here for so long.
    pub(super) fn sweep(&self, idle: Duration) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.holders == 0 && inner.used.is_some_and(|used| used.elapsed() >= idle) {
            *inner = Inner::default();
        }
    }
}

/// Keeps a desk as it is.
pub(super) struct Hold<'a>(&'a Desk);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.inner().holders -= 1;
    }
}

/// Hands out what came, and notes what did not.
pub(super) struct Asker<'a> {
    desk: &'a Desk,
    wants: Mutex<Wants>,
    is_last: bool,
}

impl<'a> Asker<'a> {
    pub(super) fn new(desk: &'a Desk, is_last: bool) -> Self {
        Self { desk, wants: Mutex::default(), is_last }
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, Box<dyn Error + Send + Sync>> {
        self.desk.object(id).inspect_err(|_| self.wants().objects.push(*id))
    }

    /// What did not come, sorted and each once.
    pub(super) fn into_wants(self) -> Wants {
        let mut wants = self.wants.into_inner().unwrap_or_else(PoisonError::into_inner);
        wants.objects.sort_unstable();
        wants.objects.dedup();
        wants.manifests.sort_unstable();
        wants.manifests.dedup();
        wants.releases.sort_unstable();
        wants.releases.dedup();
        wants
    }
}

impl FetchRecords for Asker<'_> {
    fn is_awaited(&self) -> bool {
        let wants = self.wants();
        !(self.is_last || wants.releases.is_empty() && wants.manifests.is_empty())
    }

    fn release(&self, name: ReleaseName) -> Option<Release> {
        let release = self.desk.inner().releases.came.get(&name).cloned();
        if release.is_none() {
            self.wants().releases.push(name);
        }
        release
    }

    fn manifest(&self, id: &ManifestId) -> Option<Box<dyn Read + Send>> {
        let section = self.desk.inner().manifests.came.get(id).cloned();
        let Some(section) = section else {
            self.wants().manifests.push(*id);
            return None;
        };
        let mut decoder = zstd::Decoder::new(section).ok()?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX).ok()?;
        Some(Box::new(decoder))
    }
}
