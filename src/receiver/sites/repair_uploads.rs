//! Uploads for a repair: the content that a site requested from its origin, and the content that
//! the origin sent. All of it is in one unnamed file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::fs::File;
use std::hash::Hash;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FallocateFlags;

use crate::hash::{ManifestId, ObjectId};
use crate::manifest::WINDOW_LOG_MAX;
use crate::protocol::{Done, NeededContent};
use crate::receiver::http::error::HttpError;
use crate::receiver::http::request_body::RequestBody;
use crate::release::{MAX_RECORD_BYTES, Release, ReleaseName};
use crate::store::{Fetch, FetchError, FetchRecords, Store};

/// A range of the upload file. Its disk space is freed when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct FileRange(Arc<RangeLease>);

#[derive(Debug)]
struct RangeLease {
    file: Arc<File>,
    at: u64,
    bytes: u64,
    /// How many bytes all ranges in the file take up.
    taken: Arc<AtomicU64>,
}

impl Drop for RangeLease {
    fn drop(&mut self) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // If the file system cannot punch holes, the space is freed only when the file is closed,
        // and counts as taken until then.
        if self.bytes == 0 || rustix::fs::fallocate(&self.file, flags, self.at, self.bytes).is_ok()
        {
            self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl AsRef<File> for FileRange {
    fn as_ref(&self) -> &File {
        &self.0.file
    }
}

impl FileRange {
    /// The offset of the range in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.0.at
    }
}

struct FileRangeReader {
    range: FileRange,
    done: u64,
}

impl Read for FileRangeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let space = &self.range.0;
        let count = usize::try_from(space.bytes - self.done).unwrap_or(usize::MAX).min(into.len());
        let read = space.file.read_at(&mut into[..count], space.at + self.done)?;
        self.done += read as u64;
        Ok(read)
    }
}

/// Ids that were requested, each with the known facts about it, and the uploads received.
#[derive(Debug)]
struct RequestedUploads<K, A, V> {
    requested: HashMap<K, A>,
    received: HashMap<K, V>,
}

impl<K: Eq + Hash, A, V> Default for RequestedUploads<K, A, V> {
    fn default() -> Self {
        Self { requested: HashMap::new(), received: HashMap::new() }
    }
}

impl<K: Eq + Hash, A: Copy, V> RequestedUploads<K, A, V> {
    fn check(&self, id: &K) -> Result<A, HttpError> {
        self.requested
            .get(id)
            .copied()
            .ok_or_else(|| HttpError::not_requested("this upload was not requested"))
    }
}

#[derive(Debug, Default)]
struct UploadsState {
    /// Objects, requested with their sizes in bytes.
    objects: RequestedUploads<ObjectId, u64, FileRange>,
    manifests: RequestedUploads<ManifestId, (), FileRange>,
    releases: RequestedUploads<ReleaseName, (), Release>,
    file: Option<Arc<File>>,
    /// Where the next range begins. This offset never decreases, because a write to an abandoned
    /// range may still be running.
    end: u64,
    /// How many bytes all ranges in the file take up.
    taken: Arc<AtomicU64>,
    used: Option<Instant>,
    /// Number of leases: operations that use the uploads.
    leases: usize,
}

/// A site's repair uploads. They are dropped after some idle time.
#[derive(Debug, Default)]
pub(crate) struct RepairUploads(Mutex<UploadsState>);

impl RepairUploads {
    fn inner(&self) -> MutexGuard<'_, UploadsState> {
        let mut inner = self.0.lock();
        inner.used = Some(Instant::now());
        inner
    }

    /// Resets the idle time.
    pub(crate) fn touch(&self) {
        drop(self.inner());
    }

    /// Keeps the uploads as long as the returned lease exists.
    pub(crate) fn lease(&self) -> Lease<'_> {
        self.inner().leases += 1;
        Lease(self)
    }

    /// Accepts uploads of `lacking` from now on.
    fn request(&self, lacking: &MissingUploads) {
        let mut inner = self.inner();
        inner.objects.requested.extend(&lacking.objects);
        inner.manifests.requested.extend(lacking.manifests.iter().map(|id| (*id, ())));
        inner.releases.requested.extend(lacking.releases.iter().map(|name| (*name, ())));
    }

    /// Returns whether the object has already been received. Returns an error if the object was not
    /// requested or has a different length.
    pub(crate) fn has_object(&self, id: &ObjectId, length: u64) -> Result<bool, HttpError> {
        let inner = self.inner();
        let bytes = inner.objects.check(id)?;
        // The length is checked before space is reserved. Otherwise, uploads of the wrong length
        // would fill the disk.
        if length != bytes {
            return Err(HttpError::malformed(format!(
                "the object has {bytes} bytes, but {length} were announced"
            )));
        }
        Ok(inner.objects.received.contains_key(id))
    }

    pub(crate) fn check_manifest(&self, id: &ManifestId) -> Result<(), HttpError> {
        self.inner().manifests.check(id)
    }

    fn check_release(&self, name: &ReleaseName) -> Result<(), HttpError> {
        self.inner().releases.check(name)
    }

    /// Reserves a range of `bytes` bytes, if all ranges together stay within `quota`.
    pub(crate) fn reserve(
        &self,
        store: &Store,
        bytes: u64,
        quota: Option<u64>,
    ) -> Result<FileRange, HttpError> {
        // Checked and counted under one lock, so that two uploads do not use the same part of the
        // quota.
        let mut inner = self.inner();
        let taken = inner.taken.load(Ordering::Relaxed).saturating_add(bytes);
        if let Some(quota) = quota.filter(|quota| taken > *quota) {
            let message =
                format!("{taken} bytes would wait here for a repair, but the quota is {quota}");
            return Err(HttpError::over_quota(message));
        }
        let file = match &inner.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(inner.file.insert(Arc::new(store.create_spool_file()?))),
        };
        let at = inner.end;
        inner.end = at.saturating_add(bytes);
        inner.taken.fetch_add(bytes, Ordering::Relaxed);
        Ok(FileRange(Arc::new(RangeLease { file, at, bytes, taken: Arc::clone(&inner.taken) })))
    }

    pub(crate) fn put_object(&self, id: ObjectId, section: FileRange) {
        self.inner().objects.received.insert(id, section);
    }

    pub(crate) fn put_manifest(&self, id: ManifestId, section: FileRange) {
        self.inner().manifests.received.insert(id, section);
    }

    fn put_release(&self, release: Release) {
        self.inner().releases.received.insert(release.name(), release);
    }

    /// Receives the record of a requested release.
    pub(crate) async fn take_release(
        &self,
        name: ReleaseName,
        body: &mut RequestBody,
    ) -> Result<Done, HttpError> {
        let length = body.check_length(MAX_RECORD_BYTES)?;
        self.check_release(&name)?;
        let release = Release::parse(&body.read(length).await?)
            .map_err(|error| HttpError::malformed(error.to_string()))?;
        if release.name() != name {
            return Err(HttpError::malformed("the bytes do not match the name of the release"));
        }
        self.put_release(release);
        Ok(Done {})
    }

    /// The content of an object that has been received.
    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, Box<dyn Error + Send + Sync>> {
        match self.inner().objects.received.get(id) {
            Some(section) => Ok(Box::new(FileRangeReader { range: section.clone(), done: 0 })),
            None => Err("it was not requested from the origin yet".into()),
        }
    }

    /// Drops the received objects and manifests, which have been used, unless another operation has
    /// a lease.
    pub(crate) fn drop_used(&self) {
        let mut inner = self.inner();
        // The caller itself has a lease.
        if inner.leases <= 1 {
            inner.objects.received.clear();
            inner.manifests.received.clear();
        }
    }

    /// Drops everything if there is no lease and nothing has happened for `idle`.
    pub(crate) fn sweep(&self, idle: Duration) {
        // Does not call `inner()`, which would count as a use.
        let mut inner = self.0.lock();
        if inner.leases == 0 && inner.used.is_some_and(|used| used.elapsed() >= idle) {
            *inner = UploadsState::default();
        }
    }
}

/// Keeps a site's uploads from being dropped.
pub(crate) struct Lease<'a>(&'a RepairUploads);

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.0.inner().leases -= 1;
    }
}

/// The content that a repair needs and that has not been received.
#[derive(Debug, Default)]
struct MissingUploads {
    /// Objects with their sizes in bytes.
    objects: BTreeMap<ObjectId, u64>,
    manifests: BTreeSet<ManifestId>,
    releases: BTreeSet<ReleaseName>,
}

/// A source for a repair. It returns received content and records which content is missing.
pub(crate) struct UploadedSource<'a> {
    uploads: &'a RepairUploads,
    missing: Mutex<MissingUploads>,
    is_last: bool,
}

impl<'a> UploadedSource<'a> {
    pub(crate) fn new(uploads: &'a RepairUploads, is_last: bool) -> Self {
        Self { uploads, missing: Mutex::default(), is_last }
    }

    fn missing(&self) -> MutexGuard<'_, MissingUploads> {
        self.missing.lock()
    }

    /// Requests the missing content and accepts its upload from now on. Returns the list, sorted
    /// and without duplicates.
    pub(crate) fn request(self) -> NeededContent {
        let lacking = self.missing.into_inner();
        self.uploads.request(&lacking);
        let MissingUploads { objects, manifests, releases } = lacking;
        NeededContent {
            objects: objects.into_keys().collect(),
            manifests: manifests.into_iter().collect(),
            releases: releases.into_iter().collect(),
        }
    }
}

impl Fetch for UploadedSource<'_> {
    fn open(&self, object: &ObjectId, bytes: u64) -> Result<Box<dyn Read + Send>, FetchError> {
        self.uploads.object(object).inspect_err(|_| {
            self.missing().objects.insert(*object, bytes);
        })
    }
}

impl FetchRecords for UploadedSource<'_> {
    fn is_awaited(&self) -> bool {
        let lacking = self.missing();
        !(self.is_last || lacking.releases.is_empty() && lacking.manifests.is_empty())
    }

    fn release(&self, name: ReleaseName) -> Option<Release> {
        let release = self.uploads.inner().releases.received.get(&name).cloned();
        if release.is_none() {
            self.missing().releases.insert(name);
        }
        release
    }

    fn manifest(&self, id: &ManifestId) -> Option<Box<dyn Read + Send>> {
        let section = self.uploads.inner().manifests.received.get(id).cloned();
        let Some(section) = section else {
            self.missing().manifests.insert(*id);
            return None;
        };
        let mut decoder =
            // Only the first frame is decoded, and a window larger than a manifest's is refused:
            // the bytes come from a peer, which could otherwise make the decoder use that much
            // memory.
            zstd::Decoder::new(FileRangeReader { range: section, done: 0 }).ok()?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX).ok()?;
        Some(Box::new(decoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_kind::ErrorKind;
    use crate::store::testing::empty_store;

    #[test]
    fn reservations_count_until_the_last_handle_is_dropped() {
        let (_dir, store) = empty_store();
        let uploads = RepairUploads::default();
        let reserve = |bytes| uploads.reserve(&store, bytes, Some(1_000_000));
        let first = reserve(600_000).unwrap();
        first.as_ref().write_all_at(&[1; 600_000], first.offset()).unwrap();
        assert_eq!(reserve(600_000).unwrap_err().protocol_error.kind, ErrorKind::NoSpace);
        assert_eq!(reserve(u64::MAX).unwrap_err().protocol_error.kind, ErrorKind::NoSpace);
        let again = first.clone();
        drop(first);
        assert_eq!(
            reserve(600_000).unwrap_err().protocol_error.kind,
            ErrorKind::NoSpace,
            "a write may still be under way"
        );
        drop(again);
        let second = reserve(1_000_000).unwrap();
        assert!(second.offset() >= 600_000, "what was given up may still be written to");
    }
}
