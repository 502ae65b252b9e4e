//! Verifies a store: re-hashes everything, or compares only sizes and times.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fsx::{Context as _, Dir, FileKind};
use crate::hash::{ManifestId, ObjectId, hash_reader};
use crate::manifest::{Entry, EntryKind, FileEntry};
use crate::release::{Release, ReleaseName};
use crate::store::content::permissions::Permissions;
use crate::store::layout::{CURRENT, DIRTY, SlotName, manifest_name, object_name, release_file};
use crate::store::staging::slots::{DirStack, has_metadata_of};
use crate::store::{EventKind, Store, StoreError, unless_damaged};
use crate::threads;

/// How thorough a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Compares size, time and mode of every served entry.
    Quick,
    /// Re-hashes every object, manifest, record and slot.
    Full,
}

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The file is missing.
    Missing,
    /// The content is wrong.
    Content,
    /// The size is wrong.
    Size,
    /// The modification time is wrong.
    Time,
    /// The permissions are wrong.
    Mode,
    /// Something of the wrong kind is where a file, directory or link should be.
    WrongKind,
    /// The link target is wrong.
    Target,
    /// The file does not belong to the store. The serialized name is older than the name of this
    /// variant, and other programs read the serialized name.
    #[serde(rename = "stranger")]
    Unexpected,
}

/// A fault in a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// The path, relative to the mirror's directory.
    pub path: String,
    /// The object that should be at this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectId>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FaultKind::Missing => "missing",
            FaultKind::Content => "content differs",
            FaultKind::Size => "size differs",
            FaultKind::Time => "time differs",
            FaultKind::Mode => "mode differs",
            FaultKind::WrongKind => "is a different kind of file",
            FaultKind::Target => "link target differs",
            FaultKind::Unexpected => "is not ours",
        };
        write!(f, "{}: {what}", self.path)
    }
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verified {
    /// Objects that were re-hashed.
    pub objects: u64,
    /// Bytes that were re-hashed.
    pub bytes: u64,
    /// Served entries that were checked.
    pub entries: u64,
    /// The faults, in ascending order.
    pub faults: Vec<Fault>,
}

impl Verified {
    fn fault(&mut self, kind: FaultKind, path: String, object: Option<ObjectId>) {
        self.faults.push(Fault { kind, path, object });
    }
}

/// The inodes of intact objects.
pub(in crate::store) type ObjectInodes = HashMap<ObjectId, u64>;

/// The inode of an intact object, or the fault of the object.
type CheckedObject = Result<u64, FaultKind>;

impl Store {
    /// Verifies the store. If the user owns it, records the number of faults in the log; changes
    /// nothing else. Polls `cancelled` from time to time.
    ///
    /// # Errors
    /// Fails if the store, or part of it, cannot be read by this user. Faults are not errors.
    pub fn verify(
        &self,
        depth: Depth,
        wait: Duration,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Verified, StoreError> {
        // Monitoring may run as another user, who can read the store but not write to its log.
        if self.check_owner().is_err() {
            return self.verify_as_reader(depth, wait, cancelled);
        }
        let store = self.lock(wait)?;
        let found = store.find_faults(depth, cancelled)?;
        store.log_event(EventKind::Verified {
            quick: depth == Depth::Quick,
            faults: found.faults.len() as u64,
        });
        Ok(found)
    }

    /// Verifies the store without write permission, so the result is not logged.
    pub(in crate::store) fn verify_as_reader(
        &self,
        depth: Depth,
        wait: Duration,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Verified, StoreError> {
        let _guard = self.lock_shared(wait)?;
        self.find_faults(depth, cancelled)
    }

    /// Verifies the store under a lock that the caller holds. The result is not logged.
    pub(in crate::store) fn find_faults(
        &self,
        depth: Depth,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Verified, StoreError> {
        let mut found = Verified::default();
        let Some(current) = self.current()? else {
            let releases = self.release_names()?;
            // A store whose only release is staged has served nothing yet.
            let is_only_staged =
                releases.len() == 1 && self.staged_link_target()? == Some(releases[0]);
            if !releases.is_empty() && !is_only_staged && !self.slot_names()?.is_empty() {
                found.fault(FaultKind::Missing, CURRENT.to_owned(), None);
            }
            return Ok(found);
        };
        match depth {
            Depth::Quick => {
                if let Some(release) = self.verify_release(current, &mut found)? {
                    let slot = SlotName { release: current, is_spare: false };
                    self.verify_slot(slot, &release, None, &mut found)?;
                }
            }
            Depth::Full => self.verify_all(&mut found, cancelled)?,
        }
        found.faults.sort_unstable();
        found.faults.dedup();
        Ok(found)
    }

    fn verify_all(
        &self,
        found: &mut Verified,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), StoreError> {
        let mut releases = HashMap::new();
        for name in self.known_releases()? {
            releases.extend(self.verify_release(name, found)?.map(|release| (name, release)));
        }
        let manifests: HashSet<ManifestId> =
            releases.values().map(|release| release.manifest).collect();
        let mut needed: HashMap<ObjectId, FileEntry> = HashMap::new();
        for manifest in &manifests {
            self.verify_manifest(manifest, &mut needed, found)?;
        }
        let inodes = self.verify_objects(&needed, found, cancelled)?;
        let current = self.current()?.map(|release| SlotName { release, is_spare: false });
        for slot in self.slot_names()?.into_iter().chain(current).collect::<BTreeSet<_>>() {
            if let Some(release) = releases.get(&slot.release) {
                self.verify_slot(slot, release, Some(&inodes), found)?;
            }
        }
        for (name, _) in self.layout.slots.entries()? {
            let known =
                name.to_str().is_some_and(|name| name == DIRTY || SlotName::parse(name).is_some());
            if !known {
                found.fault(
                    FaultKind::Unexpected,
                    format!(".headwater/slots/{}", name.display()),
                    None,
                );
            }
        }
        Ok(())
    }

    fn verify_release(
        &self,
        name: ReleaseName,
        found: &mut Verified,
    ) -> Result<Option<Release>, StoreError> {
        match self.release(name) {
            Ok(release) => Ok(Some(release)),
            Err(error) if !error.is_damage() => Err(error),
            Err(error) => {
                let is_missing = matches!(
                    &error,
                    StoreError::Io(io) if io.kind() == std::io::ErrorKind::NotFound
                );
                let kind = if is_missing { FaultKind::Missing } else { FaultKind::Content };
                found.fault(kind, format!(".headwater/releases/{}", release_file(name)), None);
                Ok(None)
            }
        }
    }

    fn verify_manifest(
        &self,
        id: &ManifestId,
        needed: &mut HashMap<ObjectId, FileEntry>,
        found: &mut Verified,
    ) -> Result<(), StoreError> {
        let path = format!(".headwater/manifests/{}", manifest_name(id));
        if !self.has_manifest(id)? {
            found.fault(FaultKind::Missing, path, None);
            return Ok(());
        }
        let mut read = || -> Result<(), StoreError> {
            for entry in self.entries(id)? {
                needed.extend(entry?.file().map(|file| (file.object, *file)));
            }
            Ok(())
        };
        if unless_damaged(read())?.is_none() {
            found.fault(FaultKind::Content, path, None);
        }
        Ok(())
    }

    /// Re-hashes the needed objects. Returns the inodes of those that are intact.
    fn verify_objects(
        &self,
        needed: &HashMap<ObjectId, FileEntry>,
        found: &mut Verified,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<ObjectInodes, StoreError> {
        let mut order: Vec<&FileEntry> = needed.values().collect();
        order.sort_unstable_by_key(|file| file.object);
        let mut inodes = HashMap::with_capacity(order.len());
        // In chunks, so that a request to stop is noticed soon.
        for chunk in order.chunks(256) {
            if cancelled() {
                return Err(StoreError::Cancelled);
            }
            for (file, fault) in self.check_objects(chunk)? {
                found.objects += 1;
                found.bytes += file.size;
                match fault {
                    Ok(inode) => {
                        inodes.insert(file.object, inode);
                    }
                    Err(kind) => {
                        let path = format!(".headwater/objects/{}", object_name(&file.object));
                        found.fault(kind, path, Some(file.object));
                    }
                }
            }
        }
        Ok(inodes)
    }

    /// Re-hashes objects, half of them on a second thread.
    fn check_objects<'f>(
        &self,
        files: &[&'f FileEntry],
    ) -> Result<Vec<(&'f FileEntry, CheckedObject)>, StoreError> {
        let check_one = |file: &&'f FileEntry| Ok((*file, self.check_object(file)?));
        let check = |files: &[&'f FileEntry]| {
            files.iter().map(check_one).collect::<Result<Vec<_>, StoreError>>()
        };
        let (left, right) = files.split_at(files.len() / 2);
        let (left, right) = threads::join(|| check(left), || check(right));
        let mut all = left?;
        all.extend(right?);
        Ok(all)
    }

    /// Checks that an object is present and its bytes are right.
    ///
    /// # Errors
    /// Fails if the object cannot be read; such a failure does not prove damage.
    pub(in crate::store) fn check_object(
        &self,
        file: &FileEntry,
    ) -> Result<CheckedObject, StoreError> {
        let Some(meta) = self.object_meta(&file.object)? else {
            return Ok(Err(FaultKind::Missing));
        };
        if meta.kind != FileKind::File {
            return Ok(Err(FaultKind::WrongKind));
        }
        let is_whole =
            unless_damaged(self.hash_object(&file.object))? == Some((file.object, file.size));
        Ok(if is_whole { Ok(meta.inode) } else { Err(FaultKind::Content) })
    }

    /// The missing or damaged objects in a manifest, each listed once.
    pub(in crate::store) fn damaged_objects(
        &self,
        manifest: &ManifestId,
    ) -> Result<Vec<FileEntry>, StoreError> {
        let mut damaged = HashMap::new();
        for entry in self.entries(manifest)? {
            if let Some(file) = entry?.file()
                && self.check_object(file)?.is_err()
            {
                damaged.insert(file.object, *file);
            }
        }
        Ok(damaged.into_values().collect())
    }

    /// Compares a slot with its manifest: kinds, sizes, times, modes, targets and unexpected files.
    /// If `intact` is given, also compares the bytes.
    fn verify_slot(
        &self,
        slot: SlotName,
        release: &Release,
        intact: Option<&ObjectInodes>,
        found: &mut Verified,
    ) -> Result<(), StoreError> {
        let at = format!(".headwater/slots/{slot}");
        let Some(root) = self.layout.slots.find_dir(&slot.to_string())? else {
            found.fault(FaultKind::Missing, at, None);
            return Ok(());
        };
        let Some(entries) = unless_damaged(self.entries(&release.manifest))? else {
            // A quick verification has not checked the manifest yet.
            return self.verify_manifest(&release.manifest, &mut HashMap::new(), found);
        };
        let mut expected = SlotPaths::new(self.expired_through()?);
        let permissions = self.permissions()?;
        let is_changing = self.is_changing_permissions()?;
        let mut stack = DirStack::new(root.try_clone()?, permissions.directory());
        for entry in entries {
            let Some(entry) = unless_damaged(entry)? else {
                return self.verify_manifest(&release.manifest, &mut HashMap::new(), found);
            };
            if expected.add(&entry) {
                continue;
            }
            found.entries += 1;
            let object = entry.file().map(|file| file.object);
            for kind in check_entry(&mut stack, &entry, permissions, intact)? {
                // The next push completes an interrupted permission change.
                if kind == FaultKind::Mode && is_changing {
                    continue;
                }
                found.fault(kind, format!("{at}/{}", entry.path), object);
            }
        }
        find_unexpected(&root, "", &expected, &mut |path| {
            found.fault(FaultKind::Unexpected, format!("{at}/{path}"), None);
        })
    }
}

/// Compares an entry with its file in a slot. Compares the bytes only if `intact` is given and the
/// file is not one of the intact objects.
pub(in crate::store) fn check_entry(
    stack: &mut DirStack,
    entry: &Entry,
    permissions: Permissions,
    intact: Option<&ObjectInodes>,
) -> Result<Vec<FaultKind>, StoreError> {
    let name = entry.path.name();
    let Some(dir) = stack.find(entry.path.parent().unwrap_or(""))? else {
        return Ok(vec![FaultKind::Missing]);
    };
    let Some(meta) = dir.stat(name)? else { return Ok(vec![FaultKind::Missing]) };
    match &entry.kind {
        EntryKind::Symlink(target) => {
            if meta.kind != FileKind::Symlink {
                return Ok(vec![FaultKind::WrongKind]);
            }
            let same =
                dir.read_link(name)?.is_some_and(|found| found.to_str() == Some(target.as_str()));
            Ok(if same { vec![] } else { vec![FaultKind::Target] })
        }
        EntryKind::File(_) if meta.kind != FileKind::File => Ok(vec![FaultKind::WrongKind]),
        EntryKind::File(file) => {
            let mut kinds = Vec::new();
            if !has_metadata_of(&meta, file, permissions) {
                kinds.push(if meta.size != file.size {
                    FaultKind::Size
                } else if u64::try_from(meta.mtime) != Ok(file.mtime) {
                    FaultKind::Time
                } else {
                    FaultKind::Mode
                });
            }
            // A file that shares the inode of an intact object was hashed with that object.
            let is_unknown = |intact: &ObjectInodes| intact.get(&file.object) != Some(&meta.inode);
            if intact.is_some_and(is_unknown)
                && meta.size == file.size
                && !has_content(dir, name, file)?
            {
                kinds.push(FaultKind::Content);
            }
            Ok(kinds)
        }
    }
}

fn has_content(dir: &Dir, name: &str, file: &FileEntry) -> Result<bool, StoreError> {
    let read = || Ok(hash_reader(dir.open_file(name)?).context("read", || dir.join(name))?);
    Ok(unless_damaged(read())? == Some((file.object, file.size)))
}

/// The paths that may exist in a slot: the entries in its manifest and the directories above them.
#[derive(Debug)]
pub(in crate::store) struct SlotPaths {
    entries: HashSet<String>,
    /// Directories above expired entries. They may be empty, because they are removed after the
    /// entries.
    emptied: HashSet<String>,
    expired_through: u64,
}

impl SlotPaths {
    /// An empty set, for a store in which everything that was due by `expired_through` has expired.
    pub(in crate::store) fn new(expired_through: u64) -> Self {
        Self { entries: HashSet::new(), emptied: HashSet::new(), expired_through }
    }

    /// Adds an entry. Returns whether it has expired; an expired entry may be present or absent.
    pub(in crate::store) fn add(&mut self, entry: &Entry) -> bool {
        self.entries.insert(entry.path.as_str().to_owned());
        let has_expired = entry.has_expired(self.expired_through);
        if has_expired {
            let path = entry.path.as_str();
            self.emptied.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
        }
        has_expired
    }
}

/// Calls `tell` with every path in a slot that is neither an entry nor a directory above one.
pub(in crate::store) fn find_unexpected(
    dir: &Dir,
    at: &str,
    expected: &SlotPaths,
    report: &mut dyn FnMut(String),
) -> Result<(), StoreError> {
    for (name, kind) in dir.entries()? {
        let shown = name.display().to_string();
        let path = if at.is_empty() { shown } else { format!("{at}/{shown}") };
        match (kind, name.to_str()) {
            (FileKind::Directory, Some(name)) => {
                let child = dir.open_dir(name)?;
                if child.entries()?.is_empty() {
                    if !expected.emptied.contains(&path) {
                        report(path);
                    }
                } else {
                    find_unexpected(&child, &path, expected, report)?;
                }
            }
            (_, Some(_)) if expected.entries.contains(&path) => {}
            _ => report(path),
        }
    }
    Ok(())
}
