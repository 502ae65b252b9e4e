//! Where objects are read from: the tree, or any mirror that keeps the object.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use crate::cache::ContentCache;
use crate::hash::{ManifestId, ObjectId};
use crate::manifest::delta::NewObjectRef;
use crate::mirror::{FetchRecords, ObjectPart, ObjectSource, SourceError};
use crate::monitor::Monitor;
use crate::pack::{MAX_CONTENT_BYTES, Piece};
use crate::packing::base_content::BaseContent;
use crate::packing::mirror_sources::{MirrorSources, ReadError};
use crate::packing::source_entries::SourceEntries;
use crate::release::{Release, ReleaseName};
use crate::scan::TreeKind;

/// All sources of content and records that the origin can use.
#[derive(Debug)]
pub(crate) struct ContentSource {
    pub(crate) source_entries: SourceEntries,
    /// Old content that can serve as bases.
    pub(crate) base_content: BaseContent,
    sources: MirrorSources,
    releases: Vec<Release>,
    by_object: OnceLock<HashMap<ObjectId, usize>>,
}

/// Why a piece could not be read.
#[derive(Debug)]
pub(crate) enum PieceError {
    /// The tree does not have the object, and no mirror returned it.
    Source(ReadError),
    /// The file in the tree could not be read.
    Tree(SourceError),
}

impl From<ReadError> for PieceError {
    fn from(error: ReadError) -> Self {
        Self::Source(error)
    }
}

/// Pieces that can be read: from the tree, from whole objects fetched for them, or, if an object is
/// too large to fetch whole, in parts from a mirror.
pub(crate) struct FetchedPieces<'a> {
    source: &'a ContentSource,
    wanted: &'a [NewObjectRef],
    monitor: &'a dyn Monitor,
    /// The fetched objects, by ordinal.
    objects: HashMap<u32, Vec<u8>>,
}

impl FetchedPieces<'_> {
    /// Appends a piece to `out`. The caller must check the bytes.
    pub(crate) fn read(&self, piece: &Piece, out: &mut Vec<u8>) -> Result<(), PieceError> {
        if let Some(bytes) = self.objects.get(&piece.ordinal) {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let source = self.source;
        let one = &self.wanted[piece.ordinal as usize];
        let index = source.tree_index_of(one);
        if let Some(file) = index.and_then(|index| source.open_at(index, &one.object)) {
            let start = out.len();
            out.resize(start + piece.length as usize, 0);
            let read =
                file.and_then(|file| Ok(file.read_exact_at(&mut out[start..], piece.offset)?));
            return read.map_err(PieceError::Tree);
        }
        let part = ObjectPart {
            object: one.object,
            offset: piece.offset,
            length: u64::from(piece.length),
        };
        // Parts of large objects are read one at a time, because a whole object may not fit in
        // memory.
        let large = || source.large_missing_objects(self.wanted);
        let bytes = source.sources.read_part(part, &large, self.monitor)?;
        out.extend_from_slice(&bytes);
        Ok(())
    }
}

impl ContentSource {
    /// The content of `source_entries`, and of the mirrors in `sources`, which keep `releases`.
    pub(crate) fn new(
        source_entries: SourceEntries,
        sources: MirrorSources,
        releases: Vec<Release>,
    ) -> Self {
        Self {
            source_entries,
            base_content: BaseContent::default(),
            sources,
            releases,
            by_object: OnceLock::new(),
        }
    }

    /// Adds the old content on the local mirrors and in `cache`.
    pub(crate) fn with_base_content(mut self, cache: Option<ContentCache>) -> Self {
        self.base_content = BaseContent::new(self.sources.mirrors(), cache);
        self
    }

    /// Opens the file at `index` in the tree, if it has this content.
    fn open_at(&self, index: usize, id: &ObjectId) -> Option<Result<File, SourceError>> {
        let SourceEntries::Tree(tree) = &self.source_entries else { return None };
        // `Tree::open` refuses a file other than the scanned one.
        self.has_object_at(index, id).then(|| tree.open(index).map_err(SourceError::from))
    }

    /// Whether the tree has a file with this content at `index`.
    fn has_object_at(&self, index: usize, id: &ObjectId) -> bool {
        let SourceEntries::Tree(tree) = &self.source_entries else { return false };
        let kind = tree.entries().get(index).map(|entry| &entry.kind);
        matches!(kind, Some(TreeKind::File { object, .. }) if object == id)
    }

    /// The index of a tree entry with the wanted content, at the object's own path or at another.
    fn tree_index_of(&self, wanted: &NewObjectRef) -> Option<usize> {
        // The object's own path comes first: the table of all objects is built only if the object
        // is not there.
        let at = self.source_entries.position(wanted.path.as_str());
        if self.has_object_at(at, &wanted.object) {
            Some(at)
        } else {
            self.index_of(&wanted.object)
        }
    }

    /// Whether the tree has this content; if so, reading it costs no transfer.
    pub(crate) fn is_in_tree(&self, wanted: &NewObjectRef) -> bool {
        self.tree_index_of(wanted).is_some()
    }

    /// Selects the `pieces` that are whole objects and are not in the tree, and reads these objects
    /// from mirrors, with one request to each mirror.
    pub(crate) fn fetch<'a>(
        &'a self,
        wanted: &'a [NewObjectRef],
        pieces: &[Piece],
        monitor: &'a dyn Monitor,
    ) -> Result<FetchedPieces<'a>, ReadError> {
        let of = |piece: &Piece| &wanted[piece.ordinal as usize];
        let is_lacking =
            |piece: &&Piece| is_whole(piece, of(piece)) && self.tree_index_of(of(piece)).is_none();
        let lacking: Vec<u32> =
            pieces.iter().filter(is_lacking).map(|piece| piece.ordinal).collect();
        if lacking.is_empty() {
            let objects = HashMap::new();
            return Ok(FetchedPieces { source: self, wanted, monitor, objects });
        }
        let object = |ordinal: &u32| {
            let wanted = &wanted[*ordinal as usize];
            (wanted.object, wanted.size)
        };
        let objects: Vec<(ObjectId, u64)> = lacking.iter().map(object).collect();
        let found = self.sources.fetch(&objects, monitor)?;
        let objects = lacking.into_iter().zip(found).collect();
        Ok(FetchedPieces { source: self, wanted, monitor, objects })
    }

    /// The objects that have several pieces and are not in the tree.
    fn large_missing_objects(&self, wanted: &[NewObjectRef]) -> Vec<ObjectId> {
        let is_large = |wanted: &&NewObjectRef| wanted.size > MAX_CONTENT_BYTES as u64;
        wanted
            .iter()
            .filter(is_large)
            .filter(|one| self.tree_index_of(one).is_none())
            .map(|one| one.object)
            .collect()
    }

    /// Which mirrors failed while content was being read, and why.
    pub(crate) fn failed_sources(&self) -> Vec<String> {
        self.sources.failed()
    }

    /// The index of a tree entry with this object. The first call builds a lookup table.
    fn index_of(&self, id: &ObjectId) -> Option<usize> {
        let SourceEntries::Tree(tree) = &self.source_entries else { return None };
        let index = self.by_object.get_or_init(|| {
            let object = |(index, entry): (usize, &crate::scan::TreeEntry)| match &entry.kind {
                TreeKind::File { object, .. } => Some((*object, index)),
                TreeKind::Symlink { .. } => None,
            };
            tree.entries().iter().enumerate().filter_map(object).collect()
        });
        index.get(id).copied()
    }

    /// This source, with reads that `monitor` can cancel.
    pub(crate) const fn cancellable_by<'s>(
        &'s self,
        monitor: &'s dyn Monitor,
    ) -> CancellableSource<'s> {
        CancellableSource { content_source: self, monitor }
    }
}

/// Whether a piece is a whole object.
fn is_whole(piece: &Piece, wanted: &NewObjectRef) -> bool {
    u64::from(piece.length) == wanted.size
}

/// A [`ContentSource`] whose reads can be cancelled.
#[derive(Clone, Copy)]
pub(crate) struct CancellableSource<'s> {
    content_source: &'s ContentSource,
    monitor: &'s dyn Monitor,
}

impl ObjectSource for CancellableSource<'_> {
    fn announce(&self, objects: &[ObjectId]) {
        let lacking: Vec<ObjectId> = objects
            .iter()
            .copied()
            .filter(|id| self.content_source.index_of(id).is_none())
            .collect();
        // Errors are reported when the objects are opened.
        self.content_source.sources.locate(&lacking, self.monitor).ok();
    }

    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SourceError> {
        let content_source = self.content_source;
        if let Some(opened) =
            content_source.index_of(id).and_then(|index| content_source.open_at(index, id))
        {
            return Ok(Box::new(opened?));
        }
        content_source.sources.open(id, self.monitor).map_err(|error| match error {
            ReadError::Cancelled => "stopped".into(),
            ReadError::Lost(_) => {
                format!("object {id} is neither in the tree nor whole on any mirror").into()
            }
        })
    }
}

impl FetchRecords for CancellableSource<'_> {
    fn release(&self, name: ReleaseName) -> Option<Release> {
        self.content_source.releases.iter().find(|release| release.name() == name).cloned()
    }

    fn manifest(&self, id: &ManifestId) -> Option<Box<dyn Read + Send>> {
        self.content_source.sources.mirrors().find_map(|mirror| {
            let is_whole = |bytes| {
                crate::manifest::ManifestReader::new(bytes, Some(*id))
                    .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok()))
            };
            // The object is read twice: first to find out, before any of it is sent, whether it is
            // undamaged. If it is damaged, another mirror may have an undamaged copy.
            if is_whole(mirror.manifest(id).ok()?) { mirror.manifest(id).ok() } else { None }
        })
    }
}
