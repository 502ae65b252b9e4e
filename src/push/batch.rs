//! What takes mirrors to the target: a manifest change and packs, made once for
//! all mirrors that have the same.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::hash::{BundleKey, ManifestId, ObjectId};
use crate::manifest::ManifestError;
use crate::manifest::transit::{self, Change};
use crate::mirror::{Link, Mirror, StageRequest};
use crate::monitor::Monitor;
use crate::pack::Level;
use crate::push::PushError;
use crate::push::bases::{Bases, Search};
use crate::push::bundle::PackShelf;
use crate::push::fleet::{self, Member};
use crate::push::gate::Gate;
use crate::push::held::{self, Holders};
use crate::push::keeping::Keeping;
use crate::push::links::Links;
use crate::push::options::{LevelChoice, Options};
use crate::push::outcome::Outcome;
use crate::push::pack_line::{self, Job, LineError};
use crate::push::scratch::{Entries, ManifestFile, entries};
use crate::push::target::{Target, not_kept};

/// What takes all mirrors that have the same to the target.
pub(super) struct Batch {
    base: Option<Arc<ManifestFile>>,
    pub(super) change: Change,
    pub(super) bases: Bases,
    level: Level,
    key: BundleKey,
    members: Vec<usize>,
}

/// The manifest that the change for a mirror is made against.
pub(super) fn base_of(target: &Target, member: &Member) -> Option<ManifestId> {
    let likely = target.likely_base.filter(|likely| member.releases().iter().any(|kept| kept.manifest == *likely));
    likely.or_else(|| Some(member.current_release()?.manifest))
}

/// Groups the mirrors that need something by what they have.
pub(super) fn batches(
    target: &Target,
    outcomes: &[Option<Outcome>],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Vec<Batch>, PushError> {
    // What a late mirror has is not known yet.
    let needs_batch = |index: usize| outcomes[index].is_none() && !target.late.contains(&index);
    let mut groups: BTreeMap<Option<ManifestId>, Vec<usize>> = BTreeMap::new();
    for (index, member) in target.members.iter().enumerate().filter(|(index, _)| needs_batch(*index)) {
        groups.entry(base_of(target, member)).or_default().push(index);
    }
    // A base that is damaged everywhere is none.
    let mut without: Vec<usize> = groups.remove(&None).unwrap_or_default();
    let mut made = Vec::new();
    for (base, members) in groups.into_iter().filter_map(|(base, members)| Some((base?, members))) {
        match find_base(target, base)? {
            Some(base) => made.extend(on_base(target, Some(&base), &members, &HashSet::new(), options, monitor)?),
            None => without.extend(members),
        }
    }
    if !without.is_empty() {
        made.extend(on_base(target, None, &without, &HashSet::new(), options, monitor)?);
    }
    Ok(made)
}

pub(super) fn find_base(target: &Target, base: ManifestId) -> Result<Option<Arc<ManifestFile>>, PushError> {
    match target.previous.as_ref().filter(|previous| previous.id == base) {
        Some(previous) => Ok(Some(Arc::clone(previous))),
        None => Ok(fleet::copy_manifest(&target.members, &base, &target.scratch)?),
    }
}

/// The batch of one mirror alone, which builds on none of the objects `shunned`.
pub(super) fn of_one(
    target: &Target,
    base: Option<&Arc<ManifestFile>>,
    index: usize,
    shunned: &HashSet<ObjectId>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Batch, PushError> {
    let made = on_base(target, base, &[index], shunned, options, monitor)?;
    Ok(made.into_iter().next().expect("every mirror is in a batch"))
}

/// The batches of mirrors of one base: those that hold the same beside it are one.
fn on_base(
    target: &Target,
    base: Option<&Arc<ManifestFile>>,
    members: &[usize],
    shunned: &HashSet<ObjectId>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Vec<Batch>, PushError> {
    let (new, id) = (|| target.new_entries(), base.map(|base| base.id));
    let encode = |held: &HashSet<ObjectId>| {
        let change =
            transit::encode_beside(|| entries(base.map(|base| &**base)), new, id, target.release.created, held);
        change.map_err(PushError::NewManifest)
    };
    let mut without = Some(encode(&HashSet::new())?);
    let wanted = without.as_ref().map_or(&[][..], |change| &change.wanted);
    let groups = held::ask(target, id, wanted, members, monitor)?;
    let make = |Holders { held, members }| {
        let change = without.take_if(|_| held.is_empty()).map_or_else(|| encode(&held), Ok)?;
        batch(target, base.cloned(), change, members, shunned, options, monitor)
    };
    groups.into_iter().map(make).collect()
}

/// How hard what goes to `mirrors` is compressed.
pub(super) fn level_for<'m>(
    mirrors: impl Iterator<Item = &'m Arc<dyn Mirror>> + Clone,
    links: &Links,
    options: &Options,
) -> Level {
    match options.level {
        LevelChoice::Fixed(level) => level,
        LevelChoice::Auto if mirrors.clone().all(|mirror| mirror.link() == Link::Local) => Level::Raw,
        LevelChoice::Auto => links.level(mirrors.map(|mirror| mirror.location())),
    }
}

fn batch(
    target: &Target,
    base: Option<Arc<ManifestFile>>,
    change: Change,
    members: Vec<usize>,
    shunned: &HashSet<ObjectId>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Batch, PushError> {
    let id = base.as_ref().map(|base| base.id);
    let level = level_for(members.iter().map(|index| &target.members[*index].mirror), &target.links, options);
    let bases = match &base {
        Some(base) if level != Level::Raw && !change.wanted.is_empty() => {
            let (old, supplies, jobs) = (&target.supplies.old, &target.supplies, options.jobs.get());
            let search = Search { wanted: &change.wanted, old, supplies, shunned, jobs, monitor };
            search.run(|| entries(Some(base)), target.new_entries().map_err(PushError::NewManifest)?)
        }
        _ => Ok(Bases::none(&change.wanted)),
    };
    let bases = bases.map_err(PushError::NewManifest)?;
    let mut key = blake3::Hasher::new();
    key.update(b"headwater bundle 1\n");
    key.update(&id.map_or([0; 32], |id| *id.as_bytes()));
    // The ordinals of a quarantine are those of this very list.
    for wanted in &change.wanted {
        key.update(wanted.object.as_bytes());
    }
    key.update(format!("{level}\n").as_bytes());
    bases.add_to(&mut key);
    Ok(Batch { base, change, bases, level, key: BundleKey::finish(&key), members })
}

impl Batch {
    fn base_id(&self) -> Option<ManifestId> {
        self.base.as_ref().map(|base| base.id)
    }

    /// The manifest that its change is against.
    pub(super) const fn base(&self) -> Option<&Arc<ManifestFile>> {
        self.base.as_ref()
    }

    /// The entries that the change is against.
    pub(super) fn base_entries(&self) -> Result<Entries, ManifestError> {
        entries(self.base.as_deref())
    }

    pub(super) fn job<'a>(&'a self, target: &'a Target, is_kept: bool, options: &Options) -> Job<'a> {
        let (wanted, supplies, bases) = (&self.change.wanted, &target.supplies, &self.bases);
        let (level, jobs, ahead) = (self.level, options.jobs.get(), Some(&target.ahead));
        let mirrors = self.members.iter().map(|index| target.members[*index].mirror.name().to_owned()).collect();
        Job { wanted, bundle: self.key, mirrors, supplies, bases, is_kept, level, jobs, ahead }
    }

    /// Makes its packs, and keeps the content of a new release for the next push.
    pub(super) fn make_packs(
        &self,
        target: &Target,
        shelf: &PackShelf<'_>,
        options: &Options,
        gate: &Gate<'_>,
    ) -> Result<(), LineError> {
        let keeping = target.begin_keeping(self.new_bytes(), options, gate);
        pack_line::run(&self.job(target, keeping.is_some(), options), keeping.as_ref(), shelf, gate)?;
        if let Some(Err(error)) = keeping.map(Keeping::finish) {
            not_kept(&error, gate);
        }
        Ok(())
    }

    pub(super) fn request<'a>(&'a self, target: &'a Target) -> StageRequest<'a> {
        StageRequest { release: &target.release, key: self.key, base: self.base_id(), change: &self.change.bytes }
    }

    pub(super) fn new_bytes(&self) -> u64 {
        self.change.wanted.iter().map(|wanted| wanted.size).sum()
    }

    pub(super) fn members(&self) -> &[usize] {
        &self.members
    }
}
