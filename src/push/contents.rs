//! Where the bytes of an object can be had: the tree, else any mirror that keeps it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
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
        let content = match u64::from(piece.length) == wanted.size {
            true => self.object(id)?,
            // A large one is not read through for each of its pieces.
            false => self.mirror_object(id, piece.offset)?,
        };
        content.take(u64::from(piece.length)).read_to_end(out)?;
        if out.len() - start == length {
            Ok(())
        } else {
            Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
        }
    }

    fn mirror_object(&self, id: &ObjectId, offset: u64) -> Result<Box<dyn Read + Send>, SupplyError> {
        let mut known = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match known.get(id) {
            Some(index) => *index,
            // Read through once for all its pieces.
            None => self.mirrors.iter().position(|mirror| is_intact(mirror, id)).ok_or_else(|| lost(id))?,
        };
        known.insert(*id, index);
        Ok(self.mirrors[index].object(id, offset)?)
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

fn is_intact(mirror: &Arc<dyn Mirror>, id: &ObjectId) -> bool {
    mirror.object(id, 0).is_ok_and(|content| hash_reader(content).is_ok_and(|(found, _)| found == *id))
}

fn lost(id: &ObjectId) -> SupplyError {
    format!("object {id} is neither in the tree nor whole on any mirror").into()
}

impl Contents for Supplies {
    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SupplyError> {
        if let Some(opened) = self.index_of(id).and_then(|index| self.open_at(index, id)) {
            return Ok(Box::new(opened?));
        }
        // Read through first: where one mirror's copy is damaged, another may have a good one.
        let mirror = self.mirrors.iter().find(|mirror| is_intact(mirror, id)).ok_or_else(|| lost(id))?;
        Ok(mirror.object(id, 0)?)
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
