//! Content of earlier releases that can be read at the origin: on mirrors of
//! this machine, else in the cache.
//!
//! Promises that what it gives are the bytes of the object it was asked for: a
//! block that builds on others could not be decoded anywhere.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::{ContentCache, Kept};
use crate::hash::{ObjectId, hash_reader};
use crate::mirror::{Link, Mirror};
use crate::pack::Sketch;

/// Where an old object can be read.
#[derive(Debug, Clone)]
enum Place {
    /// On a mirror of this machine.
    Near(Arc<dyn Mirror>),
    Cached(Kept),
}

/// An old object that can be read.
#[derive(Debug, Clone)]
pub(super) struct OldObject {
    pub(super) id: ObjectId,
    size: u64,
    place: Place,
}

impl OldObject {
    /// Its sketch, if one was made when it was new.
    pub(super) fn sketch(&self) -> Option<&Sketch> {
        match &self.place {
            Place::Cached(kept) => Some(&kept.record().sketch).filter(|sketch| !sketch.hashes().is_empty()),
            Place::Near(_) => None,
        }
    }
}

/// The old content at hand.
#[derive(Debug, Default)]
pub(super) struct OldContent {
    near: Vec<Arc<dyn Mirror>>,
    cache: Option<ContentCache>,
    /// Whether objects that were read in parts are what they should be.
    checked: Mutex<HashMap<ObjectId, bool>>,
}

impl OldContent {
    /// That of those of `mirrors` that are on this machine, and of `cache`.
    pub(super) fn new<'m>(mirrors: impl Iterator<Item = &'m Arc<dyn Mirror>>, cache: Option<ContentCache>) -> Self {
        let near = mirrors.filter(|mirror| mirror.link() == Link::Local).map(Arc::clone).collect();
        Self { near, cache, checked: Mutex::default() }
    }

    pub(super) const fn cache(&self) -> Option<&ContentCache> {
        self.cache.as_ref()
    }

    /// Those of `wanted`, with their sizes, that can be read.
    pub(super) fn find(&self, wanted: &HashMap<ObjectId, u64>) -> HashMap<ObjectId, OldObject> {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut add = |id: &ObjectId, size, place| found.insert(*id, OldObject { id: *id, size, place });
        let mut left: HashSet<ObjectId> = HashSet::new();
        for (id, size) in wanted {
            match self.near.iter().find(|mirror| mirror.object(id, 0).is_ok()) {
                Some(mirror) => drop(add(id, *size, Place::Near(Arc::clone(mirror)))),
                None => drop(left.insert(*id)),
            }
        }
        if let Some(cache) = self.cache.as_ref().filter(|_| !left.is_empty()) {
            for (id, kept) in cache.find(|id| left.contains(id)) {
                if kept.record().size == wanted[&id] {
                    add(&id, kept.record().size, Place::Cached(kept));
                }
            }
        }
        found
    }

    /// Appends `length` bytes of `object` from `offset` to `out`. Answers whether they could be had.
    pub(super) fn read(&self, object: &OldObject, offset: u64, length: u32, out: &mut Vec<u8>) -> bool {
        let is_all = offset == 0 && u64::from(length) == object.size;
        let start = out.len();
        if !is_all && !self.is_intact(object) {
            return false;
        }
        let is_read = self.read_unchecked(object, offset, length, out);
        let is_right = is_read && (!is_all || ObjectId::of(&out[start..]) == object.id);
        if !is_right {
            out.truncate(start);
            self.distrust(object);
        }
        is_right
    }

    fn read_unchecked(&self, object: &OldObject, offset: u64, length: u32, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let length = length as usize;
        match (&object.place, &self.cache) {
            (Place::Cached(kept), Some(cache)) => {
                out.resize(start + length, 0);
                cache.read_at(kept, &mut out[start..], offset).is_ok()
            }
            (Place::Near(mirror), _) => mirror
                .object(&object.id, offset)
                .is_ok_and(|content| content.take(length as u64).read_to_end(out).is_ok_and(|count| count == length)),
            (Place::Cached(_), None) => false,
        }
    }

    fn distrust(&self, object: &OldObject) {
        if let (Place::Cached(kept), Some(cache)) = (&object.place, &self.cache) {
            cache.distrust(kept);
        }
    }

    /// Reads an object through, once for all its parts.
    fn is_intact(&self, object: &OldObject) -> bool {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        *checked.entry(object.id).or_insert_with(|| {
            let reader = Parts { content: self, object, offset: 0 };
            let is_intact = hash_reader(reader).is_ok_and(|(id, _)| id == object.id);
            if !is_intact {
                self.distrust(object);
            }
            is_intact
        })
    }
}

/// Reads an object from its beginning to its size.
struct Parts<'a> {
    content: &'a OldContent,
    object: &'a OldObject,
    offset: u64,
}

impl Read for Parts<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.object.size - self.offset).unwrap_or(usize::MAX);
        let length = u32::try_from(left.min(buffer.len())).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(length as usize);
        if !self.content.read_unchecked(self.object, self.offset, length, &mut bytes) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }
}
