//! Content of earlier releases that the origin can read, on local mirrors or in the cache.
//!
//! Guarantees that the returned bytes are those of the requested object. No mirror could decode a
//! block that is based on different bytes.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cache::{CachedContent, ContentCache};
use crate::hash::{ObjectId, hash_reader};
use crate::mirror::{LinkKind, Mirror};
use crate::pack::{BaseRange, Sketch};

/// Where an old object can be read.
#[derive(Debug, Clone)]
enum BaseLocation {
    /// On a local mirror.
    LocalMirror(Arc<dyn Mirror>),
    Cached(CachedContent),
}

/// An old object that can be read.
#[derive(Debug, Clone)]
pub(crate) struct BaseObject {
    pub(crate) id: ObjectId,
    size: u64,
    location: BaseLocation,
}

impl BaseObject {
    /// The object's sketch, if one was made when the object was new.
    pub(crate) fn sketch(&self) -> Option<&Sketch> {
        match &self.location {
            BaseLocation::Cached(kept) => {
                Some(&kept.record().sketch).filter(|sketch| !sketch.hashes().is_empty())
            }
            BaseLocation::LocalMirror(_) => None,
        }
    }

    /// Sort key for reading: objects with neighbouring values are stored close together.
    pub(crate) fn storage_order(&self) -> Option<(usize, u32)> {
        match &self.location {
            BaseLocation::Cached(kept) => kept.storage_order(),
            BaseLocation::LocalMirror(_) => None,
        }
    }

    /// How many cached blocks must be decoded before the object's own blocks; `None` if the object
    /// is not in the cache.
    pub(crate) const fn depth(&self) -> Option<u32> {
        match &self.location {
            BaseLocation::Cached(kept) => Some(kept.depth()),
            BaseLocation::LocalMirror(_) => None,
        }
    }
}

/// A range of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteRange {
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl From<BaseRange> for ByteRange {
    fn from(range: BaseRange) -> Self {
        Self { offset: range.offset, length: range.length }
    }
}

/// The old content that the origin can read.
#[derive(Debug, Default)]
pub(crate) struct BaseContent {
    local_mirrors: Vec<Arc<dyn Mirror>>,
    cache: Option<ContentCache>,
    /// Whether each object that is read in parts is intact.
    intact: Mutex<HashMap<ObjectId, bool>>,
}

impl BaseContent {
    /// The content on the local mirrors among `mirrors`, and in `cache`.
    pub(crate) fn new<'m>(
        mirrors: impl Iterator<Item = &'m Arc<dyn Mirror>>,
        cache: Option<ContentCache>,
    ) -> Self {
        let local_mirrors = mirrors
            .filter(|mirror| mirror.link_kind() == LinkKind::Local)
            .map(Arc::clone)
            .collect();
        Self { local_mirrors, cache, intact: Mutex::default() }
    }

    pub(crate) const fn cache(&self) -> Option<&ContentCache> {
        self.cache.as_ref()
    }

    /// The readable objects among `wanted`, which maps objects to their sizes.
    pub(crate) fn find(&self, wanted: &HashMap<ObjectId, u64>) -> HashMap<ObjectId, BaseObject> {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut add = |id: &ObjectId, size, place| {
            found.insert(*id, BaseObject { id: *id, size, location: place })
        };
        let mut left: HashSet<ObjectId> = HashSet::new();
        for (id, size) in wanted {
            // A mirror on this machine comes first: its objects are plain files, while objects in
            // the cache must be decoded.
            match self.local_mirrors.iter().find(|mirror| mirror.object(id, 0).is_ok()) {
                Some(mirror) => drop(add(id, *size, BaseLocation::LocalMirror(Arc::clone(mirror)))),
                None => drop(left.insert(*id)),
            }
        }
        if let Some(cache) = self.cache.as_ref().filter(|_| !left.is_empty()) {
            for (id, kept) in cache.find(|id| left.contains(id)) {
                // A manifest from a mirror may state a false size, and base ranges are computed
                // from it.
                if kept.record().size == wanted[&id] {
                    add(&id, kept.record().size, BaseLocation::Cached(kept));
                }
            }
        }
        found
    }

    /// Appends a range of `object` to `out`. Returns whether that succeeded.
    pub(crate) fn read(&self, object: &BaseObject, range: ByteRange, out: &mut Vec<u8>) -> bool {
        let ByteRange { offset, length } = range;
        match (&object.location, &self.cache) {
            (BaseLocation::Cached(kept), Some(cache)) => cache.read(kept, offset, length, out),
            (BaseLocation::Cached(_), None) => false,
            (BaseLocation::LocalMirror(mirror), _) => {
                self.read_from_mirror(mirror, object, range, out)
            }
        }
    }

    /// Reads from a mirror, whose objects may be damaged.
    fn read_from_mirror(
        &self,
        mirror: &Arc<dyn Mirror>,
        object: &BaseObject,
        range: ByteRange,
        out: &mut Vec<u8>,
    ) -> bool {
        let ByteRange { offset, length } = range;
        let (start, length) = (out.len(), u64::from(length));
        // If the whole object was read, its hash can be checked directly. To check a part, the
        // whole object must be read once.
        let is_all = offset == 0 && length == object.size;
        if !is_all && !self.is_intact(mirror, object) {
            return false;
        }
        let content = mirror.object(&object.id, offset);
        let count = content.ok().and_then(|content| content.take(length).read_to_end(out).ok());
        let is_right = count.is_some_and(|count| count as u64 == length)
            && (!is_all || ObjectId::of(&out[start..]) == object.id);
        if !is_right {
            // The caller continues without the base.
            out.truncate(start);
        }
        is_right
    }

    /// Whether an object on a mirror is intact. Reads the whole object once for all of its parts.
    fn is_intact(&self, mirror: &Arc<dyn Mirror>, object: &BaseObject) -> bool {
        // The lock is held while the object is read, so that threads that need parts of it do not
        // all read it.
        let mut checked = self.intact.lock();
        *checked.entry(object.id).or_insert_with(|| {
            let content = mirror.object(&object.id, 0).ok();
            // Reads one byte more than the size, so that a longer file is detected without reading
            // all of it.
            let found = content.and_then(|content| hash_reader(content.take(object.size + 1)).ok());
            found.is_some_and(|(id, _)| id == object.id)
        })
    }
}
