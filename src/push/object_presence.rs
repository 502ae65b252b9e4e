//! What mirrors hold of what they would be sent, though their base does not show
//! it: content of older releases, of one that is staged, or of all of them
//! where there is no base that both sides know.
//!
//! A mirror is asked once, and only where there is reason to: a question costs a
//! round trip and 32 bytes an object. A mirror that does not answer holds nothing.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::hash::{ManifestId, ObjectId};
use crate::manifest::delta::NewObjectRef;
use crate::mirror::PolledMirror;
use crate::monitor::Monitor;
use crate::origin::scratch::ManifestFile;
use crate::push::PushError;
use crate::push::publication::Publication;
use crate::release::Release;
use crate::threads;

/// Less new content than this is not looked for in other manifests.
const LEAST_BYTES: u64 = 1 << 20;

/// Mirrors that hold the same.
#[derive(Debug)]
pub(super) struct MirrorsWithObjects {
    pub(super) held: HashSet<ObjectId>,
    /// By index.
    pub(super) members: Vec<usize>,
}

/// Asks those of `members` that are likely to hold some of `wanted` beside the manifest `base`,
/// all at once; groups them by what they hold.
pub(super) fn query(
    publication: &Publication,
    base: Option<ManifestId>,
    wanted: &[NewObjectRef],
    members: &[usize],
    monitor: &dyn Monitor,
) -> Result<Vec<MirrorsWithObjects>, PushError> {
    let mut manifests = ObjectIndex { publication, wanted, ids: OnceCell::new(), found: HashMap::new() };
    let mut questions = Vec::with_capacity(members.len());
    for index in members {
        questions.push((*index, manifests.question(&publication.members[*index], base)?));
    }
    let mut groups: BTreeMap<Vec<ObjectId>, Vec<usize>> = BTreeMap::new();
    let (asked, others): (Vec<_>, Vec<_>) = questions.into_iter().partition(|(_, question)| !question.is_empty());
    let ask = |(index, question)| (index, held_of(&publication.members[index], question, monitor));
    for (index, held) in threads::each(asked, ask).into_iter().chain(others) {
        groups.entry(held).or_default().push(index);
    }
    let holders =
        |(held, members): (Vec<ObjectId>, _)| MirrorsWithObjects { held: held.into_iter().collect(), members };
    Ok(groups.into_iter().map(holders).collect())
}

/// Those of `question` that a mirror says it holds.
fn held_of(member: &PolledMirror, question: Vec<ObjectId>, monitor: &dyn Monitor) -> Vec<ObjectId> {
    // What is wrong with it shows when it is sent something.
    let held = member.mirror.holds(&question, monitor).unwrap_or_default();
    question.into_iter().zip(held).filter_map(|(object, is_held)| is_held.then_some(object)).collect()
}

/// What is wanted of what the manifests of other releases show.
struct ObjectIndex<'a> {
    publication: &'a Publication,
    wanted: &'a [NewObjectRef],
    /// The objects of `wanted`, once they are looked for.
    ids: OnceCell<HashSet<ObjectId>>,
    found: HashMap<ManifestId, HashSet<ObjectId>>,
}

impl ObjectIndex<'_> {
    /// The objects that a mirror is asked for.
    fn question(&mut self, member: &PolledMirror, base: Option<ManifestId>) -> Result<Vec<ObjectId>, PushError> {
        let Some(state) = member.state().filter(|state| state.store.is_some()) else {
            return Ok(Vec::new());
        };
        let is_other = |release: &&Release| Some(release.manifest) != base;
        let is_same = |release: &Release| release.content == self.publication.release.content;
        // A release that is carried from mirror to mirror brings what others may have kept of an earlier time.
        let is_likely = !self.publication.is_new
            || base.is_none()
            || state.staged.as_ref().is_some_and(|staged| is_other(&staged))
            || state.releases.iter().filter(is_other).any(is_same);
        if is_likely {
            return Ok(self.wanted.iter().map(|wanted| wanted.object).collect());
        }
        if self.wanted.iter().map(|wanted| wanted.size).sum::<u64>() < LEAST_BYTES {
            return Ok(Vec::new());
        }
        let mut shown = HashSet::new();
        for release in state.releases.iter().filter(is_other) {
            shown.extend(self.shown_by(release.manifest)?);
        }
        Ok(self.wanted.iter().map(|wanted| wanted.object).filter(|object| shown.contains(object)).collect())
    }

    /// What a manifest shows of what is wanted, if it is at hand.
    fn shown_by(&mut self, id: ManifestId) -> Result<HashSet<ObjectId>, PushError> {
        if let Some(found) = self.found.get(&id) {
            return Ok(found.clone());
        }
        let mut found = HashSet::new();
        if let Some(previous) = self.publication.previous.as_deref().filter(|previous| previous.id == id) {
            self.find_in(previous, &mut found)?;
        } else if let Some(known) = self.publication.scratch.known_manifest(id)? {
            self.find_in(&known, &mut found)?;
        }
        Ok(self.found.entry(id).or_insert(found).clone())
    }

    fn find_in(&self, manifest: &ManifestFile, found: &mut HashSet<ObjectId>) -> Result<(), PushError> {
        let wanted = self.ids.get_or_init(|| self.wanted.iter().map(|wanted| wanted.object).collect());
        for entry in manifest.entries().map_err(PushError::NewManifest)? {
            let entry = entry.map_err(PushError::NewManifest)?;
            found.extend(entry.file().map(|file| file.object).filter(|object| wanted.contains(object)));
        }
        Ok(())
    }
}
