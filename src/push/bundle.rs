//! Bundles: a manifest change and packs that bring a mirror to the publication. A bundle is made
//! once for all mirrors with the same base.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::hash::{BundleKey, ManifestId, ObjectId};
use crate::manifest::ManifestError;
use crate::manifest::delta::{self, Change};
use crate::mirror::{Link, Mirror, PolledMirror, StageRequest};
use crate::monitor::Monitor;
use crate::origin::link_speed::SpeedTable;
use crate::origin::scratch::{Entries, ManifestFile, entries, warn_not_kept};
use crate::pack::Level;
use crate::packing::base_selection::{BaseSelection, BaseSelector};
use crate::packing::cache_writer::CacheWriter;
use crate::packing::pack_builder::{self, BuildError, PackInput};
use crate::packing::pack_queue::PackQueue;
use crate::push::object_presence::{self, MirrorsWithObjects};
use crate::push::options::{LevelChoice, Options};
use crate::push::outcome::Outcome;
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;
use crate::push::{PushError, fleet};

/// The manifest change and packs for all mirrors with the same base.
pub(super) struct Bundle {
    base: Option<Arc<ManifestFile>>,
    pub(super) change: Change,
    pub(super) bases: BaseSelection,
    level: Level,
    key: BundleKey,
    members: Vec<usize>,
}

/// The manifest that the change for a mirror is based on.
pub(super) fn base_of(publication: &Publication, member: &PolledMirror) -> Option<ManifestId> {
    let likely = publication
        .likely_base
        .filter(|likely| member.releases().iter().any(|kept| kept.manifest == *likely));
    likely.or_else(|| Some(member.current_release()?.manifest))
}

/// Groups the mirrors that need an update by their base, and makes a bundle for each group.
pub(super) fn bundles(
    publication: &Publication,
    outcomes: &[Option<Outcome>],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Vec<Bundle>, PushError> {
    // The base of a late mirror is not known yet.
    let needs_batch =
        |index: usize| outcomes[index].is_none() && !publication.late.contains(&index);
    let mut groups: BTreeMap<Option<ManifestId>, Vec<usize>> = BTreeMap::new();
    for (index, member) in
        publication.members.iter().enumerate().filter(|(index, _)| needs_batch(*index))
    {
        groups.entry(base_of(publication, member)).or_default().push(index);
    }
    // A base manifest that is damaged on every mirror counts as no base.
    let mut without: Vec<usize> = groups.remove(&None).unwrap_or_default();
    let mut made = Vec::new();
    for (base, members) in groups.into_iter().filter_map(|(base, members)| Some((base?, members))) {
        match find_base(publication, base)? {
            Some(base) => made.extend(on_base(
                publication,
                Some(&base),
                &members,
                &HashSet::new(),
                options,
                monitor,
            )?),
            None => without.extend(members),
        }
    }
    if !without.is_empty() {
        made.extend(on_base(publication, None, &without, &HashSet::new(), options, monitor)?);
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

/// The bundle for a single mirror, which uses none of the objects in `shunned` as a base.
pub(super) fn of_one(
    publication: &Publication,
    base: Option<&Arc<ManifestFile>>,
    index: usize,
    excluded_bases: &HashSet<ObjectId>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Bundle, PushError> {
    let made = on_base(publication, base, &[index], excluded_bases, options, monitor)?;
    Ok(made.into_iter().next().expect("every mirror is in a batch"))
}

/// The bundles for mirrors with one base: one for each set of objects that they hold besides it.
fn on_base(
    publication: &Publication,
    base: Option<&Arc<ManifestFile>>,
    members: &[usize],
    excluded_bases: &HashSet<ObjectId>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Vec<Bundle>, PushError> {
    let (new, id) = (|| publication.new_entries(), base.map(|base| base.id));
    let encode = |held: &HashSet<ObjectId>| {
        let change = delta::encode_beside(
            || entries(base.map(|base| &**base)),
            new,
            id,
            publication.release.created,
            held,
        );
        change.map_err(PushError::NewManifest)
    };
    let mut without = Some(encode(&HashSet::new())?);
    let wanted = without.as_ref().map_or(&[][..], |change| &change.wanted);
    let groups = object_presence::query(publication, id, wanted, members, monitor)?;
    let make = |MirrorsWithObjects { held, members }| {
        let change = without.take_if(|_| held.is_empty()).map_or_else(|| encode(&held), Ok)?;
        bundle(publication, base.cloned(), change, members, excluded_bases, options, monitor)
    };
    groups.into_iter().map(make).collect()
}

/// The compression level of packs for `mirrors`.
pub(super) fn level_for<'m>(
    mirrors: impl Iterator<Item = &'m Arc<dyn Mirror>> + Clone,
    speeds: &SpeedTable,
    options: &Options,
) -> Level {
    match options.level {
        LevelChoice::Fixed(level) => level,
        LevelChoice::Auto if mirrors.clone().all(|mirror| mirror.link() == Link::Local) => {
            Level::Raw
        }
        LevelChoice::Auto => speeds.level(mirrors.map(|mirror| mirror.location())),
    }
}

fn bundle(
    publication: &Publication,
    base: Option<Arc<ManifestFile>>,
    change: Change,
    members: Vec<usize>,
    excluded_bases: &HashSet<ObjectId>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Bundle, PushError> {
    let id = base.as_ref().map(|base| base.id);
    let level = level_for(
        members.iter().map(|index| &publication.members[*index].mirror),
        &publication.speeds,
        options,
    );
    let bases = match &base {
        Some(base) if level != Level::Raw && !change.wanted.is_empty() => {
            let (old, content_source, jobs) =
                (&publication.content_source.old, &publication.content_source, options.jobs.get());
            let search = BaseSelector {
                wanted: &change.wanted,
                old,
                content_source,
                excluded_bases,
                jobs,
                monitor,
            };
            search.run(
                || entries(Some(base)),
                publication.new_entries().map_err(PushError::NewManifest)?,
            )
        }
        _ => Ok(BaseSelection::none(&change.wanted)),
    };
    let bases = bases.map_err(PushError::NewManifest)?;
    let mut key = blake3::Hasher::new();
    key.update(b"headwater bundle 1\n");
    key.update(&id.map_or([0; 32], |id| *id.as_bytes()));
    // Receivers store what they got under the ordinals of this list, so the list is part of the
    // key.
    for wanted in &change.wanted {
        key.update(wanted.object.as_bytes());
    }
    key.update(format!("{level}\n").as_bytes());
    bases.add_to(&mut key);
    Ok(Bundle { base, change, bases, level, key: BundleKey::finish(&key), members })
}

impl Bundle {
    fn base_id(&self) -> Option<ManifestId> {
        self.base.as_ref().map(|base| base.id)
    }

    /// The manifest that the change is based on.
    pub(super) const fn base(&self) -> Option<&Arc<ManifestFile>> {
        self.base.as_ref()
    }

    /// The entries of the base manifest.
    pub(super) fn base_entries(&self) -> Result<Entries, ManifestError> {
        entries(self.base.as_deref())
    }

    pub(super) fn job<'a>(
        &'a self,
        publication: &'a Publication,
        is_kept: bool,
        options: &Options,
    ) -> PackInput<'a> {
        let (wanted, content_source, bases) =
            (&self.change.wanted, &publication.content_source, &self.bases);
        let (level, jobs) = (self.level, options.jobs.get());
        let mirrors = self
            .members
            .iter()
            .map(|index| publication.members[*index].mirror.name().to_owned())
            .collect();
        PackInput { wanted, bundle: self.key, mirrors, content_source, bases, is_kept, level, jobs }
    }

    /// Makes the packs, and stores the content of a new release in the cache for the next push.
    pub(super) fn make_packs(
        &self,
        publication: &Publication,
        queue: &PackQueue<'_>,
        options: &Options,
        monitor: &PushMonitor<'_>,
    ) -> Result<(), BuildError> {
        let cache_writer = publication.begin_caching(self.new_bytes(), options, monitor);
        pack_builder::run(
            &self.job(publication, cache_writer.is_some(), options),
            cache_writer.as_ref(),
            queue,
            monitor,
        )?;
        if let Some(Err(error)) = cache_writer.map(CacheWriter::finish) {
            warn_not_kept(&error, monitor);
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
