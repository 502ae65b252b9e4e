//! Uploads packs over as many connections as increase the throughput.
//!
//! All packs that are ready go in one request, so that the connection is always busy. The upload
//! tries another connection only after some seconds of sending. A pack is read when it is sent, and
//! dropped only when it has been acknowledged.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::thread::Scope;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error_kind::ErrorKind;
use crate::hash::{BundleKey, ObjectId, PackId, hash_reader};
use crate::mirror::attempt::RetryAction;
use crate::mirror::http::body::{Body, SMALL_OBJECT_BYTES};
use crate::mirror::http::client::{Method, Request};
use crate::mirror::http::limits::{CancelCheck, RetryState};
use crate::mirror::http::pack_sequence::PackSequence;
use crate::mirror::http::progress_reader::ProgressReader;
use crate::mirror::http::response_json::ResponseLimit;
use crate::mirror::http::{HttpMirror, Session};
use crate::mirror::transport_error::TransportError;
use crate::mirror::{MirrorError, OutgoingPack, PackCursor, PackSource, SourceError};
use crate::monitor::{Event, Monitor};
use crate::protocol::{self, PackHead, Resource};

/// Connections at the start. Two connections that start together compete for a link's bandwidth,
/// and lose packets if its queue is short.
const FIRST_CONNECTIONS: usize = 1;
/// An additional connection is kept if it multiplies the rate by at least this factor.
const MIN_SPEEDUP: f64 = 1.1;
/// How long a rate is measured before the number of connections changes.
const MEASURE_WINDOW: Duration = Duration::from_secs(3);
/// Another pack is added to a request if the packs already in it total at most this many bytes.
// With one more pack of up to 32 MiB, a body stays below the 64 MiB that a receiver accepts.
pub(super) const BATCH_BYTES: u64 = 24 * 1024 * 1024;
/// How many bytes of acknowledged packs are kept in case the receiver loses them.
// All packs of a small push are kept. In a larger push, the upload fails if the receiver loses a
// pack that was not kept.
const KEPT_BYTES: u64 = 4 * 1024 * 1024;

/// How an upload ended.
pub(super) enum Uploaded {
    /// All packs were acknowledged.
    All,
    /// The receiver has lost the stage; unacknowledged packs are queued again.
    StageLost,
}

/// The upload of a bundle's packs to one mirror.
pub(super) struct Upload<'u> {
    mirror: &'u HttpMirror,
    key: BundleKey,
    monitor: &'u dyn Monitor,
    source: Mutex<PackFeed<'u>>,
    acknowledged: Mutex<Acknowledged>,
    scaler: Mutex<ConnectionScaler>,
    is_finished: AtomicBool,
    is_announced: AtomicBool,
    /// Whether packs are sent one per request, because a request with several packs was
    /// interrupted.
    is_one_by_one: AtomicBool,
}

#[derive(Default)]
struct Acknowledged {
    packs: HashSet<PackId>,
    /// The packs that were reported to the monitor as sent or held. Each is reported only once,
    /// even if it is sent again.
    reported: HashSet<PackId>,
    /// Packs of at most [`KEPT_BYTES`] in total, in case the receiver loses them.
    kept: Vec<Box<dyn OutgoingPack>>,
    kept_bytes: u64,
}

impl Acknowledged {
    /// Records that the receiver has a pack. Returns whether the pack has yet to be reported.
    fn record(&mut self, id: PackId) -> bool {
        self.packs.insert(id);
        self.reported.insert(id)
    }
}

/// The next pack in a bundle.
pub(super) enum NextPack {
    Pack(Box<dyn OutgoingPack>),
    /// There are no more packs.
    End,
    /// The next pack was not ready in time.
    Later,
}

struct PackFeed<'u> {
    cursor: Box<dyn PackCursor + 'u>,
    /// Packs taken from the cursor but not yet acknowledged.
    waiting: VecDeque<Box<dyn OutgoingPack>>,
}

impl PackFeed<'_> {
    fn next(&mut self) -> Result<Option<Box<dyn OutgoingPack>>, MirrorError> {
        match self.waiting.pop_front() {
            Some(pack) => Ok(Some(pack)),
            None => self.cursor.next().map_err(MirrorError::Source),
        }
    }

    /// Waits up to `most` for the next pack or the end. Returns whether it is available.
    fn wait(&self, most: Duration) -> bool {
        !self.waiting.is_empty() || self.cursor.wait(most)
    }
}

/// Controls the number of connections: adds one as long as that increases the rate, and halves the
/// number after a failure.
struct ConnectionScaler {
    workers: usize,
    allowed: usize,
    max_workers: usize,
    best_rate: f64,
    /// Whether the last connection was added on trial.
    is_trying: bool,
    bytes: u64,
    since: Instant,
}

impl ConnectionScaler {
    fn new(max_workers: usize) -> Self {
        let allowed = FIRST_CONNECTIONS.min(max_workers);
        Self {
            workers: 0,
            allowed,
            max_workers,
            best_rate: 0.0,
            is_trying: false,
            bytes: 0,
            since: Instant::now(),
        }
    }

    /// Counts another worker if one more is allowed. Returns whether it is.
    const fn try_add_worker(&mut self) -> bool {
        let has_room = self.workers < self.allowed;
        if has_room {
            self.workers += 1;
        }
        has_room
    }

    /// Undoes [`Self::try_add_worker`] after a thread could not be started, and allows no more
    /// workers than there are now.
    const fn undo_add_worker(&mut self) {
        self.workers -= 1;
        self.allowed = self.workers;
    }

    /// Whether this worker must end because there are too many workers. If so, it is no longer
    /// counted. At least one worker remains.
    const fn should_retire(&mut self) -> bool {
        let is_one_too_many = self.workers > self.allowed;
        if is_one_too_many {
            self.workers -= 1;
        }
        is_one_too_many
    }

    fn record_sent(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        let passed = now - self.since;
        if passed < MEASURE_WINDOW {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate is a rough thing")]
        let rate = self.bytes as f64 / passed.as_secs_f64();
        if rate > self.best_rate * MIN_SPEEDUP {
            self.best_rate = rate;
            self.is_trying = self.allowed < self.max_workers;
            self.allowed = (self.allowed + 1).min(self.max_workers);
        // The last connection did not help. The rate with fewer connections remains the one to
        // beat.
        } else if self.is_trying {
            self.is_trying = false;
            self.allowed -= 1;
        }
        self.restart(now);
    }

    fn record_failure(&mut self, now: Instant) {
        // The rates measured so far apply to a larger number of connections.
        self.allowed = (self.allowed / 2).max(1);
        (self.best_rate, self.is_trying) = (0.0, false);
        self.restart(now);
    }

    const fn restart(&mut self, now: Instant) {
        (self.bytes, self.since) = (0, now);
    }
}

impl<'u> Upload<'u> {
    pub(super) fn new(
        mirror: &'u HttpMirror,
        key: BundleKey,
        bundle: &'u dyn PackSource,
        monitor: &'u dyn Monitor,
    ) -> Self {
        Self {
            mirror,
            key,
            monitor,
            source: Mutex::new(PackFeed { cursor: bundle.packs(), waiting: VecDeque::new() }),
            acknowledged: Mutex::default(),
            scaler: Mutex::new(ConnectionScaler::new(mirror.connections)),
            is_finished: AtomicBool::new(false),
            is_announced: AtomicBool::new(false),
            is_one_by_one: AtomicBool::new(false),
        }
    }

    /// Waits up to `most`, but not beyond the deadline, for the next pack.
    pub(super) fn next_within(&self, most: Duration) -> Result<NextPack, MirrorError> {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let most =
            self.mirror.session.limits.deadline.map_or(most, |deadline| most.min(left(deadline)));
        let mut source = self.source.lock();
        if !source.wait(most) {
            return Ok(NextPack::Later);
        }
        Ok(source.next()?.map_or(NextPack::End, NextPack::Pack))
    }

    /// Reports to the monitor that a pack was sent, unless it was reported before.
    pub(super) fn report_sent(&self, id: PackId, bytes: u64) {
        let is_new = self.acknowledged.lock().reported.insert(id);
        if is_new {
            self.monitor.event(Event::PackSent {
                mirror: self.mirror.identity.name.clone(),
                pack: id,
                bytes,
            });
        }
    }

    /// Opens a pack. Its progress is reported while it is read.
    pub(super) fn open(
        &self,
        pack: &dyn OutgoingPack,
    ) -> Result<impl Read + Send + use<'_, 'u>, SourceError> {
        let id = pack.id();
        ProgressReader::open(pack, move |bytes| self.report_progress(id, bytes))
    }

    /// Reports to the monitor how many bytes of a pack were sent, unless the pack was reported as
    /// sent.
    fn report_progress(&self, id: PackId, bytes: u64) {
        let arrived = self.acknowledged.lock();
        // The lock is held so that no progress is reported after the pack was reported as sent.
        if !arrived.reported.contains(&id) {
            self.monitor.event(Event::PackAdvanced {
                mirror: self.mirror.identity.name.clone(),
                pack: id,
                bytes,
            });
        }
    }

    /// Records that a pack was acknowledged.
    pub(super) fn acknowledge(&self, pack: Box<dyn OutgoingPack>) {
        let (id, bytes) = (pack.id(), pack.size());
        let mut arrived = self.acknowledged.lock();
        arrived.packs.insert(id);
        if arrived.kept_bytes + bytes <= KEPT_BYTES {
            arrived.kept_bytes += bytes;
            arrived.kept.push(pack);
        }
        drop(arrived);
        self.report_sent(id, bytes);
    }

    /// Queues again the packs that the receiver has lost.
    ///
    /// # Errors
    /// [`TransportError::PacksLost`] if one of these packs is no longer kept.
    fn requeue_lost(&self, held: &HashSet<PackId>) -> Result<(), MirrorError> {
        let mut arrived = self.acknowledged.lock();
        let kept = std::mem::take(&mut arrived.kept);
        let (still, lost): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|pack| held.contains(&pack.id()));
        arrived.kept_bytes = still.iter().map(|pack| pack.size()).sum();
        arrived.kept = still;
        // Here `arrived` is locked before `source`; in `next_batch` it is locked after it. This
        // cannot cause a deadlock, because no worker runs yet.
        for pack in lost {
            arrived.packs.remove(&pack.id());
            self.requeue(pack);
        }
        if arrived.packs.is_subset(held) { Ok(()) } else { Err(TransportError::PacksLost.into()) }
    }

    /// Queues a pack to be sent again.
    pub(super) fn requeue(&self, pack: Box<dyn OutgoingPack>) {
        self.source.lock().waiting.push_back(pack);
    }

    /// Sends every pack that is not `held`.
    pub(super) fn run(&self, held: &HashSet<PackId>) -> Result<Uploaded, MirrorError> {
        self.requeue_lost(held)?;
        self.is_finished.store(false, Ordering::Relaxed);
        let result = Mutex::new(Ok(Uploaded::All));
        {
            let mut scaler = self.scaler.lock();
            scaler.workers = 1;
            scaler.restart(Instant::now());
        }
        std::thread::scope(|scope| self.work(scope, held, &result));
        result.into_inner()
    }

    /// Sends packs until none are left or a worker has failed. If one fails, the other workers'
    /// requests are not interrupted, because what they send need not be sent again.
    fn work<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        held: &'s HashSet<PackId>,
        result: &'s Mutex<Result<Uploaded, MirrorError>>,
    ) {
        while !self.is_finished.load(Ordering::Relaxed) {
            if self.scaler.lock().should_retire() {
                return;
            }
            let end = match self.next_batch(held) {
                Ok(packs) if packs.is_empty() => Ok(Uploaded::All),
                Ok(packs) => {
                    if self.scaler.lock().try_add_worker() {
                        let spawned =
                            Builder::new().spawn_scoped(scope, || self.work(scope, held, result));
                        if spawned.is_err() {
                            // If no thread can be started, continue with the existing ones.
                            self.scaler.lock().undo_add_worker();
                        }
                    }
                    match self.send(&packs) {
                        Ok(SendResult::All) => {
                            packs.into_iter().for_each(|pack| self.acknowledge(pack));
                            continue;
                        }
                        Ok(SendResult::Interrupted) => {
                            self.is_one_by_one.store(true, Ordering::Relaxed);
                            packs.into_iter().for_each(|pack| self.requeue(pack));
                            continue;
                        }
                        Err(error) if is_unknown(&error) => {
                            packs.into_iter().for_each(|pack| self.requeue(pack));
                            Ok(Uploaded::StageLost)
                        }
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            };
            self.is_finished.store(true, Ordering::Relaxed);
            let mut result = result.lock();
            if !matches!(end, Ok(Uploaded::All)) && result.is_ok() {
                *result = end;
            }
        }
    }

    /// Returns the next packs that the mirror does not hold: one, and all further packs that are
    /// ready within a round trip. A pack that is ready later arrives sooner in a request of its
    /// own.
    fn next_batch(
        &self,
        held: &HashSet<PackId>,
    ) -> Result<Vec<Box<dyn OutgoingPack>>, MirrorError> {
        let (began, round_trip) = (Instant::now(), self.mirror.round_trip().unwrap_or_default());
        // The lock is held while this waits: the next pack goes to this worker, and the others have
        // nothing else to do.
        let mut source = self.source.lock();
        let mut packs = Vec::new();
        let mut bytes = 0;
        loop {
            if self.monitor.is_cancelled() {
                return Err(MirrorError::Cancelled);
            }
            // Another worker may have failed while this one waited for the lock.
            let is_over = self.is_finished.load(Ordering::Relaxed);
            let is_alone = self.is_one_by_one.load(Ordering::Relaxed) || bytes > BATCH_BYTES;
            let is_worth_it = || source.wait(round_trip.saturating_sub(began.elapsed()));
            if is_over || !packs.is_empty() && (is_alone || !is_worth_it()) {
                return Ok(packs);
            }
            let pack = match source.next() {
                Ok(Some(pack)) => pack,
                // Send the packs collected so far; the next call returns the error.
                Err(error) if packs.is_empty() => return Err(error),
                Ok(None) | Err(_) => return Ok(packs),
            };
            if !held.contains(&pack.id()) {
                bytes += pack.size();
                packs.push(pack);
                continue;
            }
            if self.acknowledged.lock().record(pack.id()) {
                self.monitor.event(Event::PackHeld {
                    mirror: self.mirror.identity.name.clone(),
                    pack: pack.id(),
                });
            }
        }
    }

    fn send(&self, packs: &[Box<dyn OutgoingPack>]) -> Result<SendResult, MirrorError> {
        let stop = || self.monitor.is_cancelled();
        let mut retry = self.mirror.session.retry_state(&stop);
        // Only the first request waits for `100 Continue`, so that a refusal is read before the
        // packs are sent.
        let is_announced = !self.is_announced.swap(true, Ordering::Relaxed);
        let sent = match packs {
            [pack] => {
                let open = || -> io::Result<Box<dyn Read + Send + '_>> {
                    Ok(Box::new(self.open(&**pack).map_err(io::Error::other)?))
                };
                let resource = Resource::Pack(self.key, pack.id());
                let body = Body::Stream(pack.size(), &open);
                let request = Request::new(Method::Put, resource, body, ResponseLimit::SMALL);
                let request = Request { expects_continue: is_announced, ..request };
                self.mirror
                    .session
                    .request(&request, &mut retry)
                    .map(|protocol::Done {}| SendResult::All)
            }
            several => self.send_several(several, is_announced, &mut retry),
        };
        let mut scaler = self.scaler.lock();
        if retry.has_failed() || matches!(sent, Ok(SendResult::Interrupted)) {
            scaler.record_failure(Instant::now());
        } else {
            scaler.record_sent(packs.iter().map(|pack| pack.size()).sum(), Instant::now());
        }
        drop(scaler);
        sent
    }

    /// Sends packs in one request without retries, so that packs that have arrived are not sent
    /// again after an interruption.
    fn send_several(
        &self,
        packs: &[Box<dyn OutgoingPack>],
        is_announced: bool,
        retry: &mut RetryState<'_>,
    ) -> Result<SendResult, MirrorError> {
        let length = packs.iter().map(|pack| PackHead::BYTES as u64 + pack.size()).sum();
        let open = || -> io::Result<Box<dyn Read + Send + '_>> {
            Ok(Box::new(PackSequence::new(packs, |pack| self.open(pack))))
        };
        let resource = Resource::Packs(self.key);
        let request =
            Request::new(Method::Put, resource, Body::Stream(length, &open), ResponseLimit::SMALL);
        match self
            .mirror
            .session
            .request_once(&Request { expects_continue: is_announced, ..request }, retry)
        {
            Ok(protocol::Done {}) => Ok(SendResult::All),
            Err(attempt_error) if attempt_error.retry == RetryAction::Never => {
                Err(attempt_error.error)
            }
            Err(_) => Ok(SendResult::Interrupted),
        }
    }
}

/// Whether the error says that the receiver does not know the stage.
pub(super) fn is_unknown(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Remote { refusal } if refusal.kind == ErrorKind::Unknown)
}

/// The result of a request with packs.
enum SendResult {
    All,
    /// The request was interrupted by a transient error; some packs may have arrived.
    Interrupted,
}

/// Opens the content of an object, once per attempt.
type OpenContent<'o> = &'o (dyn Fn() -> Result<Box<dyn Read + Send>, SourceError> + Sync);

/// The result of [`put_object`], if the receiver did not refuse the object.
pub(super) enum ObjectUpload {
    /// The receiver has the object.
    Sent,
    /// The origin cannot read the object, so nothing was sent.
    Unreadable(SourceError),
}

/// Sends an object after verifying its digest. The inner error comes from the object's source.
pub(super) fn put_object(
    session: &Session,
    open: OpenContent<'_>,
    id: &ObjectId,
    stop: CancelCheck<'_>,
) -> Result<ObjectUpload, MirrorError> {
    // The receiver would refuse wrong content only after receiving all of it.
    let (small, size) = match verify_object(open, id) {
        Ok(examined) => examined,
        Err(error) => return Ok(ObjectUpload::Unreadable(error)),
    };
    let reopen = || open().map_err(io::Error::other);
    let body = match &small {
        Some(bytes) => Body::Parts(vec![bytes]),
        None => Body::Stream(size, &reopen),
    };
    let request = Request::new(Method::Put, Resource::Object(*id), body, ResponseLimit::SMALL);
    let protocol::Done {} = session.request(&request, &mut session.retry_state(stop))?;
    Ok(ObjectUpload::Sent)
}

/// Verifies the digest of an object. Returns its size, and its content if it has at most
/// [`SMALL_OBJECT_BYTES`] bytes.
fn verify_object(
    open: OpenContent<'_>,
    id: &ObjectId,
) -> Result<(Option<Vec<u8>>, u64), SourceError> {
    let mut content = open()?;
    let mut first = Vec::new();
    (&mut content).take(SMALL_OBJECT_BYTES + 1).read_to_end(&mut first)?;
    let is_small = first.len() as u64 <= SMALL_OBJECT_BYTES;
    let (found, size) = hash_reader(first.as_slice().chain(content))?;
    if found != *id {
        return Err("the content does not match the digest of the object".into());
    }
    Ok((is_small.then_some(first), size))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Sends packs at a rate that depends on the number of connections.
    fn settle(rate: impl Fn(usize) -> u32) -> usize {
        let mut scaler = ConnectionScaler::new(8);
        let mut now = scaler.since;
        for _ in 0..2000 {
            now += Duration::from_secs(1) / rate(scaler.allowed);
            scaler.record_sent(1, now);
        }
        scaler.allowed
    }

    #[test]
    fn connections_increase_while_throughput_grows() {
        assert_eq!(ConnectionScaler::new(8).allowed, 1);
        assert_eq!(ConnectionScaler::new(1).allowed, 1);
        assert_eq!(settle(|connections| 10 * u32::try_from(connections).unwrap()), 8);
        assert_eq!(settle(|_| 10), 1);
        assert_eq!(
            settle(|connections| if connections < 5 {
                10 * u32::try_from(connections).unwrap()
            } else {
                40
            }),
            4
        );
    }

    #[test]
    fn failures_halve_the_connections_down_to_one() {
        let mut scaler = ConnectionScaler { allowed: 8, ..ConnectionScaler::new(8) };
        for wanted in [4, 2, 1, 1] {
            scaler.record_failure(Instant::now());
            assert_eq!(scaler.allowed, wanted);
        }
        scaler.record_sent(1, Instant::now() + MEASURE_WINDOW);
        assert_eq!(scaler.allowed, 2, "and they grow again");
        let mut scaler = ConnectionScaler { allowed: 8, workers: 8, ..ConnectionScaler::new(8) };
        scaler.record_failure(Instant::now());
        let dismissed = (0..8).filter(|_| scaler.should_retire()).count();
        assert_eq!((dismissed, scaler.workers, scaler.try_add_worker()), (4, 4, false));
    }

    #[test]
    fn object_is_verified_before_sending() {
        let small = || -> Result<Box<dyn Read + Send>, SourceError> { Ok(Box::new(&b"abc"[..])) };
        assert_eq!(
            verify_object(&small, &ObjectId::of(b"abc")).unwrap(),
            (Some(b"abc".to_vec()), 3)
        );
        assert!(verify_object(&small, &ObjectId::of(b"abd")).is_err());
        let content = vec![7; usize::try_from(SMALL_OBJECT_BYTES).unwrap() + 1];
        let large = || -> Result<Box<dyn Read + Send>, SourceError> {
            Ok(Box::new(io::Cursor::new(content.clone())))
        };
        assert_eq!(
            verify_object(&large, &ObjectId::of(&content)).unwrap(),
            (None, SMALL_OBJECT_BYTES + 1)
        );
    }
}
