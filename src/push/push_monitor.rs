//! Forwards events, counts the traffic to each mirror, and stops the threads of a push when the
//! push ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::monitor::{Event, Monitor};

/// The traffic to a mirror.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Packs sent.
    pub sent_packs: u64,
    /// Size of these packs, in bytes.
    pub sent_bytes: u64,
    /// Packs that the mirror already held from an interrupted push.
    pub held_packs: u64,
}

/// A monitor between the threads of a push and the caller's monitor.
pub(super) struct PushMonitor<'m> {
    monitor: &'m dyn Monitor,
    stopped: AtomicBool,
    traffic: Mutex<HashMap<String, Traffic>>,
    switched_at: Mutex<HashMap<String, Instant>>,
    /// Size of the content that is new to each mirror, in bytes.
    new_bytes: Mutex<HashMap<String, u64>>,
}

impl<'m> PushMonitor<'m> {
    pub(super) fn new(monitor: &'m dyn Monitor) -> Self {
        Self {
            monitor,
            stopped: AtomicBool::new(false),
            traffic: Mutex::default(),
            switched_at: Mutex::default(),
            new_bytes: Mutex::default(),
        }
    }

    /// Tells every running thread to end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Size of the content that is new to a mirror, in bytes.
    pub(super) fn new_bytes(&self, mirror: &str) -> u64 {
        self.lock_new_bytes().get(mirror).copied().unwrap_or_default()
    }

    fn lock_new_bytes(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.new_bytes.lock()
    }

    fn lock_traffic(&self) -> MutexGuard<'_, HashMap<String, Traffic>> {
        self.traffic.lock()
    }

    /// The time between the first and the last switch of these mirrors, in milliseconds.
    pub(super) fn spread_ms<'n>(&self, mirrors: impl Iterator<Item = &'n str>) -> Option<u64> {
        let switched = self.switched_at.lock();
        let times: Vec<Instant> =
            mirrors.filter_map(|mirror| switched.get(mirror).copied()).collect();
        let spread = times.iter().max()?.duration_since(*times.iter().min()?);
        u64::try_from(spread.as_millis()).ok()
    }

    pub(super) fn traffic(&self, mirror: &str) -> Traffic {
        self.lock_traffic().get(mirror).copied().unwrap_or_default()
    }
}

impl Monitor for PushMonitor<'_> {
    fn event(&self, event: Event) {
        match &event {
            Event::PackSent { mirror, bytes, .. } => {
                let mut counts = self.lock_traffic();
                let traffic = counts.entry(mirror.clone()).or_default();
                traffic.sent_packs += 1;
                traffic.sent_bytes += bytes;
            }
            Event::PackHeld { mirror, .. } => {
                self.lock_traffic().entry(mirror.clone()).or_default().held_packs += 1;
            }
            Event::BundleStarted { mirrors, bytes, .. } => {
                let mut contents = self.lock_new_bytes();
                for mirror in mirrors {
                    // A second bundle for the mirror sends parts of the first again, so only the
                    // first counts.
                    contents.entry(mirror.clone()).or_insert(*bytes);
                }
            }
            Event::Activated { mirror, .. } => {
                self.switched_at.lock().insert(mirror.clone(), Instant::now());
            }
            _ => {}
        }
        self.monitor.event(event);
    }

    fn is_cancelled(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.monitor.is_cancelled()
    }
}
