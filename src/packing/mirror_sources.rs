//! The mirrors from which content is read. One request reads many objects from a mirror that
//! probably has them. A mirror that times out or keeps failing is not asked again.
//!
//! Every wait ends soon after the push is stopped. The request itself continues in the background
//! until its deadline or the end of the process.

use std::collections::{HashMap, HashSet};
use std::io::{Cursor, Read};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cancel::run_until_cancelled;
use crate::hash::{ManifestId, ObjectId};
use crate::mirror::{Effort, ErrorKind, LinkKind, Mirror, MirrorError, ObjectPart, PolledMirror};
use crate::monitor::{Event, Monitor};
use crate::text::error_chain;

/// Objects up to this size, in bytes, are held in memory and requested only once.
const MAX_BUFFERED_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The push was stopped.
    Cancelled,
    /// No reachable mirror has undamaged copies of these objects.
    Lost(Vec<ObjectId>),
}

/// Whether requests are sent to a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// The mirror failed once. It is tried again if no other mirror has the content.
    Failed,
    /// The mirror failed for good. No more requests are sent to it.
    GivenUp,
}

#[derive(Debug)]
struct MirrorSource {
    mirror: Arc<dyn Mirror>,
    health: Mutex<Health>,
    /// Why the mirror failed.
    last_error: Mutex<Option<String>>,
    /// Held while a mirror that failed is tried again. Other threads wait until the response
    /// arrives, or until they are asked to stop.
    retry_lock: Mutex<()>,
}

/// The mirrors from which content is read.
#[derive(Debug, Default)]
pub(crate) struct MirrorSources {
    /// The sources in order of preference.
    sources: Vec<MirrorSource>,
    /// For each object, the index of the mirror that reports an undamaged copy; `None` if no mirror
    /// does.
    holders: Mutex<HashMap<ObjectId, Option<usize>>>,
    /// Mirrors without an undamaged copy of an object, even if they reported one.
    damaged: Mutex<HashSet<(ObjectId, usize)>>,
}

impl MirrorSources {
    /// The mirrors among `members` that have a store. Those that keep one of the `likely` manifests
    /// come first.
    pub(crate) fn new<'m>(
        members: impl Iterator<Item = &'m PolledMirror>,
        likely: &[ManifestId],
    ) -> Self {
        let has_store =
            |member: &&PolledMirror| member.state().is_some_and(|state| state.store.is_some());
        let mut members: Vec<&PolledMirror> = members.filter(has_store).collect();
        let is_likely = |member: &PolledMirror| {
            member.releases().iter().any(|release| likely.contains(&release.manifest))
        };
        // The sort is stable: equals keep the order of the fleet.
        members.sort_by_key(|member| {
            (member.mirror.link_kind() == LinkKind::Network, !is_likely(member))
        });
        Self::from_mirrors(members.iter().map(|member| Arc::clone(&member.mirror)))
    }

    pub(crate) fn from_mirrors(mirrors: impl Iterator<Item = Arc<dyn Mirror>>) -> Self {
        let source = |mirror| MirrorSource {
            mirror,
            health: Mutex::new(Health::Good),
            last_error: Mutex::default(),
            retry_lock: Mutex::default(),
        };
        Self { sources: mirrors.map(source).collect(), ..Self::default() }
    }

    /// The mirrors that have not failed.
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = &Arc<dyn Mirror>> {
        self.sources
            .iter()
            .filter(|source| source.health() == Health::Good)
            .map(|source| &source.mirror)
    }

    /// Which mirrors failed, and why.
    pub(crate) fn failed(&self) -> Vec<String> {
        let why = |source: &MirrorSource| {
            Some(format!("{}: {}", source.mirror.name(), source.last_error.lock().as_ref()?))
        };
        self.sources.iter().filter_map(why).collect()
    }

    /// The content of `objects`, in the order of `objects`, which contains the size of each object.
    /// Each object is read whole and checked. A mirror gets one request for all objects that it may
    /// have.
    pub(crate) fn fetch(
        &self,
        objects: &[(ObjectId, u64)],
        monitor: &dyn Monitor,
    ) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut found: Vec<Option<Vec<u8>>> = vec![None; objects.len()];
        let mut has_answered = vec![false; self.sources.len()];
        // Each mirror gets one attempt first. Waiting for a mirror that failed is worthwhile only
        // if no other mirror has the content.
        for effort in [Effort::Once, Effort::Patient] {
            for (source, has_answered) in self.sources.iter().zip(&mut has_answered) {
                let left: Vec<usize> =
                    (0..found.len()).filter(|index| found[*index].is_none()).collect();
                if left.is_empty() || *has_answered {
                    continue;
                }
                let part = |index: &usize| {
                    let (object, length) = objects[*index];
                    ObjectPart { object, offset: 0, length }
                };
                let parts: Vec<ObjectPart> = left.iter().map(part).collect();
                let Some(read) = source.read_parts(parts, effort, monitor)? else { continue };
                *has_answered = true;
                for (index, bytes) in left.into_iter().zip(read) {
                    // Content from a mirror is checked here. If it is damaged, the next mirror is
                    // asked.
                    found[index] = bytes.filter(|bytes| ObjectId::of(bytes) == objects[index].0);
                }
            }
        }
        let lost: Vec<ObjectId> = objects
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|((id, _), _)| *id)
            .collect();
        if lost.is_empty() {
            Ok(found.into_iter().flatten().collect())
        } else {
            Err(ReadError::Lost(lost))
        }
    }

    /// Determines which mirrors have undamaged copies of `objects`. Each mirror is queried once for
    /// all of them.
    pub(crate) fn locate(
        &self,
        objects: &[ObjectId],
        monitor: &dyn Monitor,
    ) -> Result<(), ReadError> {
        // The lock is held while mirrors are queried, because other threads need the same
        // responses. A request to stop ends the query, and so their wait.
        let mut holders = self.holders.lock();
        let mut left: Vec<ObjectId> =
            objects.iter().copied().filter(|id| !holders.contains_key(id)).collect();
        left.sort_unstable();
        left.dedup();
        let mut unsure = None;
        for (index, source) in self.sources.iter().enumerate() {
            let damaged = self.damaged.lock();
            let asked: Vec<ObjectId> =
                left.iter().copied().filter(|id| !damaged.contains(&(*id, index))).collect();
            drop(damaged);
            if asked.is_empty() || source.health() == Health::GivenUp {
                continue;
            }
            match source.holds(asked.clone(), monitor)? {
                Some(held) => {
                    let held: HashSet<ObjectId> = asked
                        .into_iter()
                        .zip(held)
                        .filter_map(|(id, is_held)| is_held.then_some(id))
                        .collect();
                    left.retain(|id| !held.contains(id));
                    holders.extend(held.into_iter().map(|id| (id, Some(index))));
                }
                // A mirror that did not respond in time may still have the objects.
                None if source.health() != Health::GivenUp => unsure = unsure.or(Some(index)),
                None => {}
            }
        }
        holders.extend(left.into_iter().map(|id| (id, unsure)));
        Ok(())
    }

    /// Records that a mirror has no undamaged copy of an object. The next attempt uses another
    /// mirror.
    fn mark_damaged(&self, id: &ObjectId, index: usize) {
        // The lock on `damaged` is released immediately: `locate` takes both locks, `holders`
        // first.
        self.damaged.lock().insert((*id, index));
        let mut holders = self.holders.lock();
        holders.remove(id);
        if self.sources[index].health() == Health::GivenUp {
            // The other objects that this mirror was to provide are located again, all together.
            holders.retain(|_, holder| *holder != Some(index));
        }
    }

    fn find_holder(
        &self,
        id: &ObjectId,
        group: &dyn Fn() -> Vec<ObjectId>,
        monitor: &dyn Monitor,
    ) -> Result<usize, ReadError> {
        let known = self.holders.lock().get(id).copied();
        if let Some(known) = known {
            return known.ok_or_else(|| ReadError::Lost(vec![*id]));
        }
        self.locate(&group(), monitor)?;
        self.locate(std::slice::from_ref(id), monitor)?;
        self.holders.lock().get(id).copied().flatten().ok_or_else(|| ReadError::Lost(vec![*id]))
    }

    /// Reads part of an object that is too large for memory. All objects in `group`, which includes
    /// this one, are located together. The caller must check the bytes.
    pub(crate) fn read_part(
        &self,
        part: ObjectPart,
        group: &dyn Fn() -> Vec<ObjectId>,
        monitor: &dyn Monitor,
    ) -> Result<Vec<u8>, ReadError> {
        loop {
            let index = self.find_holder(&part.object, group, monitor)?;
            for effort in [Effort::Once, Effort::Patient] {
                let read = self.sources[index].read_parts(vec![part], effort, monitor)?;
                match read.map(|read| read.into_iter().next().flatten()) {
                    Some(Some(bytes)) => return Ok(bytes),
                    // The mirror responded that it lacks the object, so a second attempt is
                    // useless.
                    Some(None) => break,
                    None => {}
                }
            }
            self.mark_damaged(&part.object, index);
        }
    }

    /// Opens an object of any size. A small object is read and checked; a large one is trusted to
    /// be undamaged if a mirror reports so.
    pub(crate) fn open(
        &self,
        id: &ObjectId,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn Read + Send>, ReadError> {
        loop {
            let index = self.find_holder(id, &Vec::new, monitor)?;
            if let Some(content) = self.sources[index].open(*id, monitor)? {
                return Ok(content);
            }
            self.mark_damaged(id, index);
        }
    }
}

impl MirrorSource {
    fn health(&self) -> Health {
        *self.health.lock()
    }

    /// Requests parts of objects; `None` if the mirror fails or has already failed.
    fn read_parts(
        &self,
        parts: Vec<ObjectPart>,
        effort: Effort,
        monitor: &dyn Monitor,
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, ReadError> {
        let _retry_guard = match (effort, self.health()) {
            (_, Health::GivenUp) | (Effort::Once, Health::Failed) => return Ok(None),
            (Effort::Patient, Health::Failed) => Some(self.retry_lock.lock()),
            (_, Health::Good) => None,
        };
        // Another thread may have found out in the meantime.
        if self.health() == Health::GivenUp {
            return Ok(None);
        }
        self.request(effort, monitor, move |mirror, monitor| {
            mirror.read_parts(&parts, effort, monitor)
        })
    }

    /// Asks the mirror which objects it has; `None` if it does not say.
    fn holds(
        &self,
        objects: Vec<ObjectId>,
        monitor: &dyn Monitor,
    ) -> Result<Option<Vec<bool>>, ReadError> {
        self.request(Effort::Patient, monitor, move |mirror, monitor| {
            match mirror.holds(&objects, monitor) {
                // The mirror reads all the objects before it responds, so a slow response does not
                // count as a failure. Nor does a refusal.
                Err(error) if error.kind() == ErrorKind::Timeout => Ok(None),
                Err(MirrorError::Remote { .. }) => Ok(None),
                other => other.map(Some),
            }
        })
        .map(Option::flatten)
    }

    fn open(
        &self,
        id: ObjectId,
        monitor: &dyn Monitor,
    ) -> Result<Option<Box<dyn Read + Send>>, ReadError> {
        let opened = self.request(Effort::Patient, monitor, move |mirror, _| {
            let (mut content, mut first) = (mirror.object(&id, 0)?, Vec::new());
            let read = (&mut content).take(MAX_BUFFERED_BYTES + 1).read_to_end(&mut first);
            let is_small = first.len() as u64 <= MAX_BUFFERED_BYTES;
            Ok(match read {
                Ok(_) if is_small && ObjectId::of(&first) != id => None,
                Ok(_) if is_small => Some(Box::new(Cursor::new(first)) as Box<dyn Read + Send>),
                Ok(_) => Some(Box::new(Cursor::new(first).chain(content)) as Box<dyn Read + Send>),
                Err(_) => None,
            })
        })?;
        Ok(opened.flatten())
    }

    /// Sends a request to the mirror and updates its health; `None` if it failed.
    fn request<T, Q>(
        &self,
        effort: Effort,
        monitor: &dyn Monitor,
        question: Q,
    ) -> Result<Option<T>, ReadError>
    where
        T: Send + 'static,
        Q: FnOnce(&Arc<dyn Mirror>, &dyn Monitor) -> Result<T, MirrorError> + Send + 'static,
    {
        let mirror = Arc::clone(&self.mirror);
        // Runs on its own thread, because a connection attempt cannot be interrupted.
        let answer = run_until_cancelled(monitor, move |monitor| question(&mirror, monitor))
            .ok_or(ReadError::Cancelled)?;
        match answer {
            Ok(answer) => {
                let mut health = self.health.lock();
                if effort == Effort::Patient && *health == Health::Failed {
                    *health = Health::Good;
                    *self.last_error.lock() = None;
                }
                Ok(Some(answer))
            }
            Err(_) if monitor.is_cancelled() => Err(ReadError::Cancelled),
            // The mirror responds, but lacks the object or may not send it.
            Err(MirrorError::Remote { refusal }) if refusal.kind == ErrorKind::Unknown => Ok(None),
            // A store on this machine is damaged or lacks the object, but its other objects may be
            // intact.
            Err(MirrorError::Store(_)) => Ok(None),
            Err(error) => {
                self.record_failure(effort, &error, monitor);
                Ok(None)
            }
        }
    }

    fn record_failure(&self, effort: Effort, error: &MirrorError, monitor: &dyn Monitor) {
        // A timeout has already taken as long as a push is willing to wait.
        let is_final = effort == Effort::Patient || error.kind() == ErrorKind::Timeout;
        let mut health = self.health.lock();
        let is_newly_given_up = is_final && *health != Health::GivenUp;
        *health = if is_final { Health::GivenUp } else { Health::Failed.worse_of(*health) };
        drop(health);
        let why = error_chain(error);
        if is_newly_given_up {
            let message = format!("{}: no more content is read from it: {why}", self.mirror.name());
            monitor.event(Event::Warned { message });
        }
        *self.last_error.lock() = Some(why);
    }
}

impl Health {
    /// The worse of two states: a mirror that has been given up on is not tried again.
    const fn worse_of(self, other: Self) -> Self {
        match other {
            Self::GivenUp => Self::GivenUp,
            Self::Good | Self::Failed => self,
        }
    }
}

#[cfg(test)]
mod tests;
