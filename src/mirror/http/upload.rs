//! Sending packs on as many connections as pay.
//!
//! A pack is let go of only when it is acknowledged, so memory holds one for
//! each connection.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Instant;

use crate::hash::{BundleKey, ObjectId, PackId, hash_reader};
use crate::mirror::http::body::{Body, SMALL};
use crate::mirror::http::client::{Request, Verb};
use crate::mirror::http::pace::Stop;
use crate::mirror::http::stage::{INLINE_BYTES, is_unknown};
use crate::mirror::http::{HttpMirror, Wired};
use crate::mirror::way::WayError;
use crate::mirror::{Bundle, MirrorError, Pack, PackCursor, SupplyError};
use crate::monitor::{Event, Monitor};
use crate::wire::{self, Resource};

/// Connections to begin with.
const FIRST_CONNECTIONS: usize = 2;
/// One more connection must bring at least so much more.
const GAIN: f64 = 1.05;

/// How an upload ended.
pub(super) enum Uploaded {
    /// Everything is there.
    All,
    /// The receiver has forgotten the stage; what is not there yet waits.
    Forgotten,
}

/// The packs of a bundle on their way to one mirror.
pub(super) struct Upload<'u> {
    mirror: &'u HttpMirror,
    key: BundleKey,
    monitor: &'u dyn Monitor,
    source: Mutex<Source<'u>>,
    arrived: Mutex<Arrived>,
    gauge: Mutex<Gauge>,
    is_over: AtomicBool,
    is_announced: AtomicBool,
}

/// What was acknowledged.
#[derive(Default)]
struct Arrived {
    packs: HashSet<PackId>,
    /// Those that were told of: sent once, sent again or not.
    told: HashSet<PackId>,
    /// As many of them as fit in little memory, for a receiver that loses them.
    kept: Vec<Box<dyn Pack>>,
    kept_bytes: u64,
}

struct Source<'u> {
    cursor: Box<dyn PackCursor + 'u>,
    /// Taken from the cursor and not acknowledged.
    waiting: VecDeque<Box<dyn Pack>>,
}

impl Source<'_> {
    fn next(&mut self) -> Result<Option<Box<dyn Pack>>, MirrorError> {
        match self.waiting.pop_front() {
            Some(pack) => Ok(Some(pack)),
            None => self.cursor.next().map_err(MirrorError::Supply),
        }
    }
}

/// Decides on the number of connections: one more while that pays, half after trouble.
struct Gauge {
    workers: usize,
    allowed: usize,
    most: usize,
    best: f64,
    bytes: u64,
    packs: usize,
    since: Instant,
}

impl Gauge {
    fn new(most: usize) -> Self {
        let allowed = FIRST_CONNECTIONS.min(most);
        Self { workers: 0, allowed, most, best: 0.0, bytes: 0, packs: 0, since: Instant::now() }
    }

    /// Whether there is room for one more, who is then counted.
    const fn hire(&mut self) -> bool {
        let has_room = self.workers < self.allowed;
        if has_room {
            self.workers += 1;
        }
        has_room
    }

    /// Whether there is one too many, who is then no longer counted. The last one stays.
    const fn dismiss(&mut self) -> bool {
        let is_one_too_many = self.workers > self.allowed;
        if is_one_too_many {
            self.workers -= 1;
        }
        is_one_too_many
    }

    fn sent(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        self.packs += 1;
        if self.packs < 2 * self.allowed {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate is a rough thing")]
        let rate = self.bytes as f64 / (now - self.since).as_secs_f64().max(1e-6);
        if rate > self.best * GAIN {
            self.best = rate;
            self.allowed = (self.allowed + 1).min(self.most);
        }
        self.restart(now);
    }

    fn trouble(&mut self, now: Instant) {
        self.allowed = (self.allowed / 2).max(1);
        self.best = 0.0;
        self.restart(now);
    }

    const fn restart(&mut self, now: Instant) {
        (self.bytes, self.packs, self.since) = (0, 0, now);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'u> Upload<'u> {
    pub(super) fn new(
        mirror: &'u HttpMirror,
        key: BundleKey,
        bundle: &'u dyn Bundle,
        monitor: &'u dyn Monitor,
    ) -> Self {
        Self {
            mirror,
            key,
            monitor,
            source: Mutex::new(Source { cursor: bundle.packs(), waiting: VecDeque::new() }),
            arrived: Mutex::default(),
            gauge: Mutex::new(Gauge::new(mirror.connections)),
            is_over: AtomicBool::new(false),
            is_announced: AtomicBool::new(false),
        }
    }

    /// All packs, if they are at most `limit` bytes; else those that were looked at wait.
    pub(super) fn gather(&self, limit: u64) -> Result<Option<Vec<Box<dyn Pack>>>, MirrorError> {
        let mut source = lock(&self.source);
        let (mut packs, mut bytes) = (Vec::new(), 0);
        while bytes <= limit {
            if self.monitor.is_cancelled() {
                return Err(MirrorError::Cancelled);
            }
            match source.next()? {
                Some(pack) => {
                    bytes += pack.size();
                    packs.push(pack);
                }
                None => return Ok(Some(packs)),
            }
        }
        source.waiting.extend(packs);
        Ok(None)
    }

    /// Notes that a pack is there.
    pub(super) fn acknowledge(&self, pack: Box<dyn Pack>) {
        let (id, bytes) = (pack.id(), pack.size());
        let mut arrived = lock(&self.arrived);
        arrived.packs.insert(id);
        let is_news = arrived.told.insert(id);
        if arrived.kept_bytes + bytes <= INLINE_BYTES {
            arrived.kept_bytes += bytes;
            arrived.kept.push(pack);
        }
        drop(arrived);
        if is_news {
            self.monitor.event(Event::PackSent { mirror: self.mirror.name.clone(), pack: id, bytes });
        }
    }

    /// Has the packs that were lost over there wait again, if they are still here.
    fn take_back_lost(&self, held: &HashSet<PackId>) -> Result<(), MirrorError> {
        let mut arrived = lock(&self.arrived);
        let kept = std::mem::take(&mut arrived.kept);
        let (still, lost): (Vec<_>, Vec<_>) = kept.into_iter().partition(|pack| held.contains(&pack.id()));
        arrived.kept_bytes = still.iter().map(|pack| pack.size()).sum();
        arrived.kept = still;
        for pack in lost {
            arrived.packs.remove(&pack.id());
            self.give_back(pack);
        }
        if arrived.packs.is_subset(held) { Ok(()) } else { Err(WayError::Forgotten.into()) }
    }

    /// Keeps a pack for the next try.
    pub(super) fn give_back(&self, pack: Box<dyn Pack>) {
        lock(&self.source).waiting.push_back(pack);
    }

    /// Sends every pack that is not `held`.
    pub(super) fn run(&self, held: &HashSet<PackId>) -> Result<Uploaded, MirrorError> {
        self.take_back_lost(held)?;
        self.is_over.store(false, Ordering::Relaxed);
        let result = Mutex::new(Ok(Uploaded::All));
        lock(&self.gauge).workers = 1;
        std::thread::scope(|scope| self.work(scope, held, &result));
        result.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes and sends packs until there are none or somebody failed. What
    /// is on its way when somebody fails arrives: it need not be sent again.
    fn work<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        held: &'s HashSet<PackId>,
        result: &'s Mutex<Result<Uploaded, MirrorError>>,
    ) {
        while !self.is_over.load(Ordering::Relaxed) {
            if lock(&self.gauge).dismiss() {
                return;
            }
            let end = match self.next(held) {
                Ok(Some(pack)) => {
                    // Only now: the first pack may be the only one.
                    if lock(&self.gauge).hire() {
                        scope.spawn(|| self.work(scope, held, result));
                    }
                    match self.send(&*pack) {
                        Ok(()) => {
                            self.acknowledge(pack);
                            continue;
                        }
                        Err(error) if is_unknown(&error) => {
                            self.give_back(pack);
                            Ok(Uploaded::Forgotten)
                        }
                        Err(error) => Err(error),
                    }
                }
                Ok(None) => Ok(Uploaded::All),
                Err(error) => Err(error),
            };
            self.is_over.store(true, Ordering::Relaxed);
            let mut result = lock(result);
            if !matches!(end, Ok(Uploaded::All)) && result.is_ok() {
                *result = end;
            }
        }
    }

    /// The next pack that is not there.
    fn next(&self, held: &HashSet<PackId>) -> Result<Option<Box<dyn Pack>>, MirrorError> {
        let mut source = lock(&self.source);
        loop {
            if self.monitor.is_cancelled() {
                return Err(MirrorError::Cancelled);
            }
            // Who waited here while another one failed takes no more.
            if self.is_over.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let Some(pack) = source.next()? else { return Ok(None) };
            if !held.contains(&pack.id()) {
                return Ok(Some(pack));
            }
            let mut arrived = lock(&self.arrived);
            arrived.packs.insert(pack.id());
            let is_news = arrived.told.insert(pack.id());
            drop(arrived);
            if is_news {
                self.monitor.event(Event::PackHeld { mirror: self.mirror.name.clone(), pack: pack.id() });
            }
        }
    }

    fn send(&self, pack: &dyn Pack) -> Result<(), MirrorError> {
        let bytes = pack.bytes().map_err(MirrorError::Supply)?;
        let stop = || self.monitor.is_cancelled();
        let mut patience = self.mirror.wired.patience(&stop);
        let request = Request {
            // A refusal of the first one is read before everything is sent.
            is_announced: !self.is_announced.swap(true, Ordering::Relaxed),
            ..Request::new(
                Verb::Put,
                Resource::Pack(self.key, pack.id()),
                Body::Parts(vec![&bytes]),
                wire::MAX_MESSAGE_BYTES,
            )
        };
        let sent = self.mirror.wired.ask(&request, &mut patience);
        let mut gauge = lock(&self.gauge);
        match patience.has_failed() {
            true => gauge.trouble(Instant::now()),
            false => gauge.sent(pack.size(), Instant::now()),
        }
        drop(gauge);
        sent.map(|wire::Done {}| ())
    }
}

/// Opens the content of an object, as often as need be.
type Open<'o> = &'o (dyn Fn() -> Result<Box<dyn Read + Send>, SupplyError> + Sync);

/// Puts an object, which is read through before any of it is sent. The inner error is that of whoever supplies it.
pub(super) fn put_object(
    wired: &Wired,
    open: Open<'_>,
    id: &ObjectId,
    stop: Stop<'_>,
) -> Result<Result<(), SupplyError>, MirrorError> {
    let (small, size) = match examine(open, id) {
        Ok(examined) => examined,
        Err(error) => return Ok(Err(error)),
    };
    let again = || open().map_err(io::Error::other);
    let body = match &small {
        Some(bytes) => Body::Parts(vec![bytes]),
        None => Body::Stream(size, &again),
    };
    let request = Request::new(Verb::Put, Resource::Object(*id), body, wire::MAX_MESSAGE_BYTES);
    wired.ask(&request, &mut wired.patience(stop)).map(|wire::Done {}| Ok(()))
}

/// Checks the content of an object and measures it; answers its bytes if they are few.
fn examine(open: Open<'_>, id: &ObjectId) -> Result<(Option<Vec<u8>>, u64), SupplyError> {
    let mut content = open()?;
    let mut first = Vec::new();
    (&mut content).take(SMALL + 1).read_to_end(&mut first)?;
    let is_small = first.len() as u64 <= SMALL;
    let (found, size) = hash_reader(first.as_slice().chain(content))?;
    if found != *id {
        return Err("what was to be sent is not this object".into());
    }
    Ok((is_small.then_some(first), size))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Sends packs at a rate that depends on the number of connections.
    fn settle(rate: impl Fn(usize) -> u32) -> usize {
        let mut gauge = Gauge::new(8);
        let mut now = gauge.since;
        for _ in 0..100 {
            now += Duration::from_secs(1) / rate(gauge.allowed);
            gauge.sent(1, now);
        }
        gauge.allowed
    }

    #[test]
    fn connections_grow_while_that_pays() {
        assert_eq!(Gauge::new(8).allowed, 2);
        assert_eq!(Gauge::new(1).allowed, 1);
        assert_eq!(settle(|connections| 10 * u32::try_from(connections).unwrap()), 8);
        assert_eq!(settle(|_| 10), 3);
        assert_eq!(
            settle(|connections| if connections < 5 { 10 * u32::try_from(connections).unwrap() } else { 40 }),
            5
        );
    }

    #[test]
    fn trouble_halves_them_and_leaves_one() {
        let mut gauge = Gauge::new(8);
        for wanted in [1, 1] {
            gauge.trouble(Instant::now());
            assert_eq!(gauge.allowed, wanted);
        }
        gauge.sent(1, Instant::now());
        gauge.sent(1, Instant::now());
        assert_eq!(gauge.allowed, 2, "and they grow again");
    }

    #[test]
    fn an_object_is_checked_before_it_is_sent() {
        let small = || -> Result<Box<dyn Read + Send>, SupplyError> { Ok(Box::new(&b"abc"[..])) };
        assert_eq!(examine(&small, &ObjectId::of(b"abc")).unwrap(), (Some(b"abc".to_vec()), 3));
        assert!(examine(&small, &ObjectId::of(b"abd")).is_err());
        let content = vec![7; usize::try_from(SMALL).unwrap() + 1];
        let large = || -> Result<Box<dyn Read + Send>, SupplyError> { Ok(Box::new(io::Cursor::new(content.clone()))) };
        assert_eq!(examine(&large, &ObjectId::of(&content)).unwrap(), (None, SMALL + 1));
    }
}
