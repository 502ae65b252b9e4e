//! Where the bytes of an object can be had: the tree, else any mirror that keeps it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::cache::ContentCache;
use crate::hash::{ManifestId, ObjectId, hash_reader};
use crate::manifest::transit::Wanted;
use crate::mirror::{Contents, FetchRecords, Mirror, SupplyError};
use crate::pack::Piece;
use crate::push::old_content::OldContent;
use crate::push::source::Live;
use crate::release::{Release, ReleaseName};
use crate::scan::TreeKind;

/// An object of at most so many bytes is held in memory and asked for once.
const HELD_BYTES: u64 = 4 << 20;

/// Everything the origin can take content and records from.
#[derive(Debug)]
pub(super) struct Supplies {
    pub(super) live: Live,
    /// What new content can be encoded against.
    pub(super) old: OldContent,
    mirrors: Vec<Arc<dyn Mirror>>,
    releases: Vec<Release>,
    by_object: OnceLock<HashMap<ObjectId, usize>>,
    /// Large objects and the mirror that has each whole.
    whole: Mutex<HashMap<ObjectId, usize>>,
}

impl Supplies {
    /// Content of `live`, and of the `mirrors`, which keep `releases`.
    pub(super) fn new(live: Live, mirrors: Vec<Arc<dyn Mirror>>, releases: Vec<Release>) -> Self {
        let old = OldContent::default();
        Self { live, old, mirrors, releases, by_object: OnceLock::new(), whole: Mutex::default() }
    }

    /// With the old content of its mirrors on this machine and of `cache`.
    pub(super) fn with_old_content(mut self, cache: Option<ContentCache>) -> Self {
        self.old = OldContent::new(self.mirrors.iter(), cache);
        self
    }

    /// Opens the tree's file at `index`, if that is a file with this content.
    fn open_at(&self, index: usize, id: &ObjectId) -> Option<Result<File, SupplyError>> {
        let Live::Tree(tree) = &self.live else { return None };
        match &tree.entries().get(index)?.kind {
            TreeKind::File { object, .. } if object == id => Some(tree.open(index).map_err(SupplyError::from)),
            _ => None,
        }
    }

    /// Appends `length` bytes from `offset` of an object to `out`: from the
    /// tree if it is at `path` there, else from wherever it can be had.
    /// Whether they are the right ones is for the caller to find out.
    pub(super) fn read(&self, wanted: &Wanted, piece: &Piece, out: &mut Vec<u8>) -> Result<(), SupplyError> {
        let length = piece.length as usize;
        let start = out.len();
        let id = &wanted.object;
        let at = self.live.position(wanted.path.as_str());
        if let Some(file) = self.open_at(at, id).or_else(|| self.open_at(self.index_of(id)?, id)) {
            let file = file?;
            out.resize(start + length, 0);
            return Ok(file.read_exact_at(&mut out[start..], piece.offset)?);
        }
        if u64::from(piece.length) == wanted.size {
            return self.read_whole(id, length, out);
        }
        // A large one is not read through for each of its pieces.
        self.mirror_object(wanted, piece.offset)?.take(u64::from(piece.length)).read_to_end(out)?;
        if out.len() - start == length {
            Ok(())
        } else {
            Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
        }
    }

    /// Appends an object of `size` bytes to `out`, from a mirror whose copy is good.
    fn read_whole(&self, id: &ObjectId, size: usize, out: &mut Vec<u8>) -> Result<(), SupplyError> {
        let start = out.len();
        let is_had = self.mirrors.iter().any(|mirror| {
            out.truncate(start);
            // To the end, and one byte beyond where that is none: a connection whose answer was
            // read to its end is used again.
            let read = mirror.object(id, 0).map(|content| content.take(size as u64 + 1).read_to_end(out));
            matches!(read, Ok(Ok(count)) if count == size) && ObjectId::of(&out[start..]) == *id
        });
        if is_had { Ok(()) } else { Err(lost(id)) }
    }

    fn mirror_object(&self, wanted: &Wanted, offset: u64) -> Result<Box<dyn Read + Send>, SupplyError> {
        let id = &wanted.object;
        let mut known = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match known.get(id) {
            Some(index) => *index,
            // Read through once for all its pieces.
            None => {
                self.mirrors.iter().position(|mirror| is_intact(mirror, id, wanted.size)).ok_or_else(|| lost(id))?
            }
        };
        known.insert(*id, index);
        Ok(self.mirrors[index].object(id, offset)?)
    }

    /// An object of any size, from a mirror. A large one is read through first: where one's copy
    /// is damaged, another may have a good one.
    fn intact_object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SupplyError> {
        let intact = |mirror: &Arc<dyn Mirror>| -> Option<Box<dyn Read + Send>> {
            let (mut content, mut first) = (mirror.object(id, 0).ok()?, Vec::new());
            (&mut content).take(HELD_BYTES + 1).read_to_end(&mut first).ok()?;
            if first.len() as u64 <= HELD_BYTES {
                return (ObjectId::of(&first) == *id).then(|| Box::new(Cursor::new(first)) as _);
            }
            // Whoever asks by id alone knows no size; the deadline of the run is what ends a liar then.
            is_object(Cursor::new(first).chain(content), id, u64::MAX).then(|| mirror.object(id, 0).ok())?
        };
        self.mirrors.iter().find_map(intact).ok_or_else(|| lost(id))
    }

    /// Where the tree has an object: an index is made when first asked.
    fn index_of(&self, id: &ObjectId) -> Option<usize> {
        let Live::Tree(tree) = &self.live else { return None };
        let index = self.by_object.get_or_init(|| {
            let object = |(index, entry): (usize, &crate::scan::TreeEntry)| match &entry.kind {
                TreeKind::File { object, .. } => Some((*object, index)),
                TreeKind::Symlink { .. } => None,
            };
            tree.entries().iter().enumerate().filter_map(object).collect()
        });
        index.get(id).copied()
    }
}

/// Whether a mirror has an object as it should be. One that lies is not listened to beyond `most` bytes and one more.
fn is_intact(mirror: &Arc<dyn Mirror>, id: &ObjectId, most: u64) -> bool {
    mirror.object(id, 0).is_ok_and(|content| is_object(content, id, most))
}

fn is_object(content: impl Read, id: &ObjectId, most: u64) -> bool {
    hash_reader(content.take(most.saturating_add(1))).is_ok_and(|(found, _)| found == *id)
}

fn lost(id: &ObjectId) -> SupplyError {
    format!("object {id} is neither in the tree nor whole on any mirror").into()
}

impl Contents for Supplies {
    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SupplyError> {
        if let Some(opened) = self.index_of(id).and_then(|index| self.open_at(index, id)) {
            return Ok(Box::new(opened?));
        }
        self.intact_object(id)
    }
}

impl FetchRecords for Supplies {
    fn release(&self, name: ReleaseName) -> Option<Release> {
        self.releases.iter().find(|release| release.name() == name).cloned()
    }

    fn manifest(&self, id: &ManifestId) -> Option<Box<dyn Read + Send>> {
        self.mirrors.iter().find_map(|mirror| {
            let is_whole = |bytes| {
                crate::manifest::ManifestReader::new(bytes, Some(*id))
                    .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok()))
            };
            if is_whole(mirror.manifest(id).ok()?) { mirror.manifest(id).ok() } else { None }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_never_ends_an_object_is_not_heard_out() {
        assert!(!is_object(std::io::repeat(0), &ObjectId::of(&[0; 1000]), 1000));
        assert!(is_object(&[0; 1000][..], &ObjectId::of(&[0; 1000]), 1000));
        assert!(!is_object(&[0; 999][..], &ObjectId::of(&[0; 1000]), 1000));
    }
}
