//! Finds objects that mirrors already have although their base lacks them: content from older
//! releases, from a staged release, or, without a common base, from any release.
//!
//! A mirror is queried once, and only with good reason: a query costs a round trip and 32 bytes for
//! each object. A mirror that does not respond counts as having none of the objects.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::hash::{ManifestId, ObjectId};
use crate::manifest::delta::NewObjectRef;
use crate::mirror::PolledMirror;
use crate::monitor::Monitor;
use crate::origin::scratch::ManifestFile;
use crate::push::PushError;
use crate::push::context::PushContext;
use crate::push::publication::Publication;
use crate::release::Release;
use crate::threads;

/// Minimum size of new content, in bytes, for which searching other manifests is worthwhile.
const MIN_SEARCHED_BYTES: u64 = 1 << 20;

/// Mirrors that hold the same objects.
#[derive(Debug)]
pub(super) struct MirrorsWithObjects {
    pub(super) held: HashSet<ObjectId>,
    /// The indexes of the mirrors.
    pub(super) members: Vec<usize>,
}

/// Queries, in parallel, the `members` that probably hold some of `wanted` outside the manifest
/// `base`. Groups the members by the objects that they hold.
pub(super) fn query(
    context: PushContext<'_>,
    base: Option<ManifestId>,
    wanted: &[NewObjectRef],
    members: &[usize],
) -> Result<Vec<MirrorsWithObjects>, PushError> {
    let PushContext { publication, monitor, .. } = context;
    let mut object_index =
        ObjectIndex { publication, wanted, ids: OnceCell::new(), found: HashMap::new() };
    let mut queries = Vec::with_capacity(members.len());
    for index in members {
        queries.push((*index, object_index.objects_to_query(&publication.members[*index], base)?));
    }
    let mut groups: BTreeMap<Vec<ObjectId>, Vec<usize>> = BTreeMap::new();
    let (asked, others): (Vec<_>, Vec<_>) =
        queries.into_iter().partition(|(_, question)| !question.is_empty());
    let ask =
        |(index, question)| (index, query_held(&publication.members[index], question, monitor));
    for (index, held) in threads::each(asked, ask).into_iter().chain(others) {
        groups.entry(held).or_default().push(index);
    }
    let holders = |(held, members): (Vec<ObjectId>, _)| MirrorsWithObjects {
        held: held.into_iter().collect(),
        members,
    };
    Ok(groups.into_iter().map(holders).collect())
}

/// The objects in `question` that the mirror says it holds.
fn query_held(
    member: &PolledMirror,
    question: Vec<ObjectId>,
    monitor: &dyn Monitor,
) -> Vec<ObjectId> {
    // An error is ignored here, because it will occur again when something is sent to the mirror.
    let held = member.mirror.holds(&question, monitor).unwrap_or_default();
    question
        .into_iter()
        .zip(held)
        .filter_map(|(object, is_held)| is_held.then_some(object))
        .collect()
}

/// The wanted objects that are in the manifests of other releases.
struct ObjectIndex<'a> {
    publication: &'a Publication,
    wanted: &'a [NewObjectRef],
    /// The ids of `wanted`, collected on first use.
    ids: OnceCell<HashSet<ObjectId>>,
    found: HashMap<ManifestId, HashSet<ObjectId>>,
}

impl ObjectIndex<'_> {
    /// The objects to query a mirror for.
    fn objects_to_query(
        &mut self,
        member: &PolledMirror,
        base: Option<ManifestId>,
    ) -> Result<Vec<ObjectId>, PushError> {
        let Some(state) = member.state().filter(|state| state.store.is_some()) else {
            return Ok(Vec::new());
        };
        let is_other = |release: &&Release| Some(release.manifest) != base;
        let is_same = |release: &Release| release.content == self.publication.release.content;
        // When a release is copied from mirror to mirror, other mirrors may still have some of its
        // content from earlier releases. If the content is probably there, the query covers all of
        // it, whatever its size.
        let is_likely = !self.publication.is_new
            || base.is_none()
            || state.staged.as_ref().is_some_and(|staged| is_other(&staged))
            || state.releases.iter().filter(is_other).any(is_same);
        if is_likely {
            return Ok(self.wanted.iter().map(|wanted| wanted.object).collect());
        }
        // Sending so little content again costs less than reading other manifests and querying the
        // mirror.
        if self.wanted.iter().map(|wanted| wanted.size).sum::<u64>() < MIN_SEARCHED_BYTES {
            return Ok(Vec::new());
        }
        let mut found = HashSet::new();
        for release in state.releases.iter().filter(is_other) {
            found.extend(self.wanted_in_manifest(release.manifest)?);
        }
        Ok(self
            .wanted
            .iter()
            .map(|wanted| wanted.object)
            .filter(|object| found.contains(object))
            .collect())
    }

    /// The wanted objects in a manifest, if the manifest is available locally.
    fn wanted_in_manifest(&mut self, id: ManifestId) -> Result<HashSet<ObjectId>, PushError> {
        if let Some(found) = self.found.get(&id) {
            return Ok(found.clone());
        }
        let mut found = HashSet::new();
        if let Some(previous) =
            self.publication.previous.as_deref().filter(|previous| previous.id == id)
        {
            self.collect_wanted(previous, &mut found)?;
        } else if let Some(known) = self.publication.scratch.known_manifest(id)? {
            // Only if the manifest is on this machine: fetching it just for this would cost a
            // transfer.
            self.collect_wanted(&known, &mut found)?;
        }
        Ok(self.found.entry(id).or_insert(found).clone())
    }

    fn collect_wanted(
        &self,
        manifest: &ManifestFile,
        found: &mut HashSet<ObjectId>,
    ) -> Result<(), PushError> {
        let wanted =
            self.ids.get_or_init(|| self.wanted.iter().map(|wanted| wanted.object).collect());
        for entry in manifest.entries().map_err(PushError::NewManifest)? {
            let entry = entry.map_err(PushError::NewManifest)?;
            found.extend(
                entry.file().map(|file| file.object).filter(|object| wanted.contains(object)),
            );
        }
        Ok(())
    }
}
