//! A mirror that is late, dead or not writable, and a monitor that decides when it responds.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use headwater::hash::{ManifestId, ObjectId, StoreId};
use headwater::mirror::{
    CleanUpResult, Depth, DirectoryMirror, Effort, HistoryEvent, LinkKind, Mirror, MirrorError,
    MirrorState, ObjectPart, PackSource, Pruned, RepairSource, Repaired, SignatureRequest,
    StageRequest, TransportError, Verified,
};
use headwater::monitor::{Event, Monitor};
use headwater::pack::Signature;
use headwater::release::ReleaseName;

/// Longer than any push here takes: a push that waits for its late mirror fails the test instead of
/// hanging.
pub(super) const PUSH_TIME_LIMIT: Duration = Duration::from_secs(60);

/// Changes the state that a mirror reports.
pub(super) struct StateChange(pub(super) Box<dyn Fn(&mut MirrorState) + Send + Sync>);

impl fmt::Debug for StateChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alteration")
    }
}

/// A directory mirror whose first response may be late, or which may fail.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) inner: DirectoryMirror,
    /// The first response waits until this is closed.
    pub(super) held: Mutex<Option<Receiver<()>>>,
    pub(super) is_dead: bool,
    /// Whether its local path is hidden, as for a mirror on another machine.
    pub(super) hides_path: bool,
    pub(super) fails_to_stage: bool,
    pub(super) alters: Option<StateChange>,
    pub(super) asked: AtomicUsize,
}

pub(super) fn dead() -> MirrorError {
    TransportError::Unreachable { what: "no route".into() }.into()
}

impl Edge {
    /// Creates a mirror without any of these faults.
    pub(super) const fn new(inner: DirectoryMirror) -> Self {
        Self {
            inner,
            held: Mutex::new(None),
            is_dead: false,
            hides_path: false,
            fails_to_stage: false,
            alters: None,
            asked: AtomicUsize::new(0),
        }
    }
}

impl Mirror for Edge {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn location(&self) -> &str {
        self.inner.location()
    }

    fn link_kind(&self) -> LinkKind {
        self.inner.link_kind()
    }

    fn local_path(&self) -> Option<PathBuf> {
        self.inner.local_path().filter(|_| !self.hides_path)
    }

    fn state(&self) -> Result<MirrorState, MirrorError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let held = self.held.lock().unwrap().take();
        if let Some(held) = held {
            let waited = held.recv_timeout(PUSH_TIME_LIMIT);
            assert_eq!(
                waited,
                Err(RecvTimeoutError::Disconnected),
                "the push waited for this mirror"
            );
        }
        if self.is_dead {
            return Err(dead());
        }
        let mut state = self.inner.state()?;
        if let Some(StateChange(alter)) = &self.alters {
            alter(&mut state);
        }
        Ok(state)
    }

    fn store_id(&self) -> Option<StoreId> {
        self.inner.store_id()
    }

    fn history(&self) -> Result<Vec<HistoryEvent>, MirrorError> {
        self.inner.history()
    }

    fn manifest(&self, id: &ManifestId) -> Result<Box<dyn Read + Send>, MirrorError> {
        self.inner.manifest(id)
    }

    fn object(&self, id: &ObjectId, offset: u64) -> Result<Box<dyn Read + Send>, MirrorError> {
        self.inner.object(id, offset)
    }

    fn read_parts(
        &self,
        parts: &[ObjectPart],
        effort: Effort,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Vec<u8>>>, MirrorError> {
        self.inner.read_parts(parts, effort, monitor)
    }

    fn holds(&self, objects: &[ObjectId], monitor: &dyn Monitor) -> Result<Vec<bool>, MirrorError> {
        self.inner.holds(objects, monitor)
    }

    fn signatures(
        &self,
        question: &SignatureRequest,
        sizes: &[u64],
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Signature>>, MirrorError> {
        self.inner.signatures(question, sizes, monitor)
    }

    fn check_stage(&self, request: &StageRequest<'_>) -> Result<(), MirrorError> {
        self.inner.check_stage(request)
    }

    fn stage(
        &self,
        request: &StageRequest<'_>,
        bundle: &dyn PackSource,
        monitor: &dyn Monitor,
    ) -> Result<(), MirrorError> {
        if self.fails_to_stage { Err(dead()) } else { self.inner.stage(request, bundle, monitor) }
    }

    fn activate(
        &self,
        release: ReleaseName,
        expected: Option<ReleaseName>,
    ) -> Result<(), MirrorError> {
        self.inner.activate(release, expected)
    }

    fn abandon(&self, release: ReleaseName) -> Result<(), MirrorError> {
        self.inner.abandon(release)
    }

    fn clean_up(&self, keep: usize) -> Result<CleanUpResult, MirrorError> {
        self.inner.clean_up(keep)
    }

    fn prune(&self, keep: usize) -> Result<Pruned, MirrorError> {
        self.inner.prune(keep)
    }

    fn verify(&self, depth: Depth, monitor: &dyn Monitor) -> Result<Verified, MirrorError> {
        self.inner.verify(depth, monitor)
    }

    fn repair(
        &self,
        supply: &dyn RepairSource,
        monitor: &dyn Monitor,
    ) -> Result<Repaired, MirrorError> {
        self.inner.repair(supply, monitor)
    }
}

/// The number of cancellation checks after a mirror is overdue, before that mirror responds: a push
/// that does not wait has decided by then.
const CHECKS_BEFORE_ANSWER: usize = 20;

/// Records events, and lets the late mirror respond once the events are as the test requires.
pub(super) struct Recorder {
    pub(super) events: Mutex<Vec<Event>>,
    is_time: AnswerCondition,
    /// The number of cancellation checks of the push since a mirror was overdue.
    looks: AtomicUsize,
    held: Mutex<Option<Sender<()>>>,
}

impl Monitor for Recorder {
    fn event(&self, event: Event) {
        let mut events = self.events.lock().unwrap();
        events.push(event);
        if self.is_time.is_some_and(|is_time| is_time(&events)) {
            self.held.lock().unwrap().take();
        }
    }

    fn is_cancelled(&self) -> bool {
        let events = self.events.lock().unwrap();
        let is_waiting = self.is_time.is_none() && is_overdue(&events);
        if is_waiting && self.looks.fetch_add(1, Ordering::SeqCst) == CHECKS_BEFORE_ANSWER {
            self.held.lock().unwrap().take();
        }
        false
    }
}

/// When the late mirror responds; if `None`, once the push has waited for a while.
pub(super) type AnswerCondition = Option<fn(&[Event]) -> bool>;

impl Recorder {
    pub(super) fn new(is_time: AnswerCondition, held: Sender<()>) -> Self {
        Self {
            events: Mutex::default(),
            is_time,
            looks: AtomicUsize::new(0),
            held: Mutex::new(Some(held)),
        }
    }

    /// Returns the index of the first event for which `is_it` returns true.
    pub(super) fn first(&self, is_it: impl Fn(&Event) -> bool) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().position(is_it).unwrap_or_else(|| panic!("{events:#?}"))
    }

    pub(super) fn learned(&self, name: &str) -> usize {
        self.first(|event| matches!(event, Event::StateLearned { mirror, .. } if mirror == name))
    }

    pub(super) fn activated(&self, name: &str) -> usize {
        self.first(|event| matches!(event, Event::Activated { mirror, .. } if mirror == name))
    }
}

fn is_overdue(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::AnswerOverdue { .. }))
}
