//! Bundles: a manifest delta and packs that bring a mirror to the publication. One bundle serves
//! all mirrors with the same base.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::hash::{BundleKey, ManifestId, ObjectId};
use crate::manifest::ManifestError;
use crate::manifest::delta::{self, ManifestDelta};
use crate::mirror::{LinkKind, Mirror, PolledMirror, StageRequest};
use crate::origin::link_speed::SpeedTable;
use crate::origin::scratch::{Entries, ManifestFile, entries, warn_not_cached};
use crate::pack::Level;
use crate::packing::base_selection::{BaseSelection, BaseSelector};
use crate::packing::cache_writer::CacheWriter;
use crate::packing::pack_builder::{self, BuildError, PackInput};
use crate::packing::pack_queue::PackQueue;
use crate::packing::signed_bases::SignatureMirrors;
use crate::push::context::PushContext;
use crate::push::object_presence::{self, MirrorsWithObjects};
use crate::push::options::{LevelChoice, Options};
use crate::push::publication::Publication;
use crate::push::{PushError, fleet};

/// A manifest delta and packs for all mirrors with the same base.
pub(super) struct Bundle {
    base: Option<Arc<ManifestFile>>,
    pub(super) change: ManifestDelta,
    pub(super) bases: BaseSelection,
    level: Level,
    key: BundleKey,
    members: Vec<usize>,
}

/// The manifest on which the delta for a mirror is based.
pub(super) fn base_manifest_for(
    publication: &Publication,
    member: &PolledMirror,
) -> Option<ManifestId> {
    // If the mirror still keeps the release that a rollback returns to, the rollback uses that
    // release as the base, because the least is then sent.
    let likely = publication
        .likely_base
        .filter(|likely| member.releases().iter().any(|kept| kept.manifest == *likely));
    likely.or_else(|| Some(member.current_release()?.manifest))
}

/// The base of a bundle.
#[derive(Default)]
pub(super) struct BundleBase {
    /// The base manifest; `None` to send everything.
    pub(super) manifest: Option<Arc<ManifestFile>>,
    /// Objects in that manifest that a mirror reported as damaged. They are not used as bases.
    pub(super) excluded: HashSet<ObjectId>,
    /// Whether objects that the origin cannot read may be bases, through their block signatures.
    pub(super) allows_signed_bases: bool,
}

impl From<Option<Arc<ManifestFile>>> for BundleBase {
    /// All objects in the manifest.
    fn from(manifest: Option<Arc<ManifestFile>>) -> Self {
        Self { manifest, excluded: HashSet::new(), allows_signed_bases: true }
    }
}

impl BundleBase {
    fn id(&self) -> Option<ManifestId> {
        self.manifest.as_ref().map(|manifest| manifest.id)
    }

    fn entries(&self) -> Result<Entries, ManifestError> {
        entries(self.manifest.as_deref())
    }

    /// The mirrors that can be asked for signatures, out of the `members` of a bundle.
    fn signature_mirrors<'a>(
        &self,
        all: &'a [PolledMirror],
        members: &[usize],
    ) -> Option<SignatureMirrors<'a>> {
        let base = self.id().filter(|_| self.allows_signed_bases)?;
        let mirrors = members.iter().map(|index| &all[*index].mirror);
        Some(SignatureMirrors { base, mirrors: mirrors.collect() })
    }
}

/// Groups `members` by their base, and makes a bundle for each group.
pub(super) fn make_bundles(
    context: PushContext<'_>,
    members: impl Iterator<Item = usize>,
) -> Result<Vec<Bundle>, PushError> {
    let publication = context.publication;
    let mut groups: BTreeMap<Option<ManifestId>, Vec<usize>> = BTreeMap::new();
    for index in members {
        groups
            .entry(base_manifest_for(publication, &publication.members[index]))
            .or_default()
            .push(index);
    }
    // A base manifest that is damaged on every mirror counts as no base.
    let mut without_base: Vec<usize> = groups.remove(&None).unwrap_or_default();
    let mut made = Vec::new();
    for (base, members) in groups.into_iter().filter_map(|(base, members)| Some((base?, members))) {
        match find_base(publication, base)? {
            Some(base) => made.extend(bundles_for_base(context, &Some(base).into(), &members)?),
            None => without_base.extend(members),
        }
    }
    if !without_base.is_empty() {
        made.extend(bundles_for_base(context, &BundleBase::default(), &without_base)?);
    }
    Ok(made)
}

pub(super) fn find_base(
    publication: &Publication,
    base: ManifestId,
) -> Result<Option<Arc<ManifestFile>>, PushError> {
    match publication.previous.as_ref().filter(|previous| previous.id == base) {
        Some(previous) => Ok(Some(Arc::clone(previous))),
        None => Ok(fleet::copy_manifest(&publication.members, &base, &publication.scratch)?),
    }
}

/// The bundles for mirrors with the same base: one for each set of other objects that they already
/// have.
fn bundles_for_base(
    context: PushContext<'_>,
    base: &BundleBase,
    members: &[usize],
) -> Result<Vec<Bundle>, PushError> {
    let publication = context.publication;
    let encode = |held: &HashSet<ObjectId>| {
        let change = delta::encode_with_held(
            || base.entries(),
            || publication.new_entries(),
            base.id(),
            publication.release.created,
            held,
        );
        change.map_err(PushError::NewManifest)
    };
    // Encoded once as if mirrors held no objects beyond the base. This shows which objects to ask
    // about, and mirrors that hold none of them use the result as it is.
    let mut unshared_change = Some(encode(&HashSet::new())?);
    let wanted = unshared_change.as_ref().map_or(&[][..], |change| &change.wanted);
    let groups = object_presence::query(context, base.id(), wanted, members)?;
    let make = |MirrorsWithObjects { held, members }| {
        let change =
            unshared_change.take_if(|_| held.is_empty()).map_or_else(|| encode(&held), Ok)?;
        Bundle::new(context, base, change, members)
    };
    groups.into_iter().map(make).collect()
}

/// The compression level for packs sent to `mirrors`.
fn level_for<'m>(
    mirrors: impl Iterator<Item = &'m Arc<dyn Mirror>> + Clone,
    speeds: &SpeedTable,
    options: &Options,
) -> Level {
    match options.level {
        LevelChoice::Fixed(level) => level,
        // None of these packs crosses a network, so compression saves nothing.
        LevelChoice::Auto
            if mirrors.clone().all(|mirror| mirror.link_kind() == LinkKind::Local) =>
        {
            Level::Raw
        }
        LevelChoice::Auto => speeds.level(mirrors.map(|mirror| mirror.location())),
    }
}

impl Bundle {
    fn new(
        context: PushContext<'_>,
        base: &BundleBase,
        change: ManifestDelta,
        members: Vec<usize>,
    ) -> Result<Self, PushError> {
        let PushContext { publication, options, monitor } = context;
        let level = level_for(
            members.iter().map(|index| &publication.members[*index].mirror),
            &publication.speeds,
            options,
        );
        // A base only helps compression, so without compression, no base is searched for.
        let bases = if base.manifest.is_some() && level != Level::Raw && !change.wanted.is_empty() {
            let selector = BaseSelector {
                wanted: &change.wanted,
                base_content: &publication.content_source.base_content,
                content_source: &publication.content_source,
                excluded_bases: &base.excluded,
                signature_mirrors: base.signature_mirrors(&publication.members, &members),
                jobs: options.jobs.get(),
                monitor,
            };
            let new = publication.new_entries().map_err(PushError::NewManifest)?;
            selector.run(|| base.entries(), new).map_err(PushError::NewManifest)?
        } else {
            BaseSelection::none(&change.wanted)
        };
        let mut key = blake3::Hasher::new();
        key.update(b"headwater bundle 1\n");
        key.update(&base.id().map_or([0; 32], |id| *id.as_bytes()));
        // Receivers store received content under the ordinals in this list, so the list is part of
        // the key.
        for wanted in &change.wanted {
            key.update(wanted.object.as_bytes());
        }
        // A different level or different bases give different packs, which a receiver must not
        // mistake for the packs that it holds.
        key.update(format!("{level}\n").as_bytes());
        bases.add_to_key(&mut key);
        let key = BundleKey::finish(&key);
        Ok(Self { base: base.manifest.clone(), change, bases, level, key, members })
    }

    /// The bundle for a single mirror.
    pub(super) fn for_mirror(
        context: PushContext<'_>,
        base: &BundleBase,
        index: usize,
    ) -> Result<Self, PushError> {
        let made = bundles_for_base(context, base, &[index])?;
        Ok(made.into_iter().next().expect("every mirror is in a bundle"))
    }

    fn base_id(&self) -> Option<ManifestId> {
        self.base.as_ref().map(|base| base.id)
    }

    /// The manifest on which the delta is based.
    pub(super) const fn base(&self) -> Option<&Arc<ManifestFile>> {
        self.base.as_ref()
    }

    /// The entries of the base manifest.
    pub(super) fn base_entries(&self) -> Result<Entries, ManifestError> {
        entries(self.base.as_deref())
    }

    pub(super) fn pack_input<'a>(
        &'a self,
        context: PushContext<'a>,
        is_cached: bool,
    ) -> PackInput<'a> {
        let members = &context.publication.members;
        let name = |index: &usize| members[*index].mirror.name().to_owned();
        PackInput {
            wanted: &self.change.wanted,
            bundle: self.key,
            mirrors: self.members.iter().map(name).collect(),
            content_source: &context.publication.content_source,
            bases: &self.bases,
            is_cached,
            level: self.level,
            jobs: context.options.jobs.get(),
        }
    }

    /// Makes the packs, and caches the content of a new release for the next push.
    pub(super) fn make_packs(
        &self,
        context: PushContext<'_>,
        queue: &PackQueue<'_>,
    ) -> Result<(), BuildError> {
        let PushContext { publication, options, monitor } = context;
        let cache_writer = publication.begin_caching(self.new_bytes(), options, monitor);
        let input = self.pack_input(context, cache_writer.is_some());
        pack_builder::run(&input, cache_writer.as_ref(), queue, monitor)?;
        // The cache only saves time, so the push goes on.
        if let Some(Err(error)) = cache_writer.map(CacheWriter::finish) {
            warn_not_cached(&error, monitor);
        }
        Ok(())
    }

    pub(super) fn request<'a>(&'a self, publication: &'a Publication) -> StageRequest<'a> {
        StageRequest {
            release: &publication.release,
            key: self.key,
            base: self.base_id(),
            change: &self.change.bytes,
        }
    }

    pub(super) fn new_bytes(&self) -> u64 {
        self.change.wanted.iter().map(|wanted| wanted.size).sum()
    }

    pub(super) fn members(&self) -> &[usize] {
        &self.members
    }
}
