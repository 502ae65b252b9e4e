//! The settings of a receiver: addresses, sites and limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::receiver::{AuthPolicy, ServeError, ServedPermissions};
use crate::tree_path::Site;

/// All settings of a receiver.
#[derive(Debug, Clone)]
pub struct ReceiverSettings {
    /// The address to listen on; port 0 selects a free port.
    pub listen: SocketAddr,
    /// The certificate, if the receiver itself uses TLS.
    pub tls: Option<TlsFiles>,
    /// What stands between the receiver and the network.
    pub exposure: Exposure,
    /// How clients are authorized.
    pub auth: AuthPolicy,
    /// The sites. Their base paths must differ.
    pub sites: Vec<SiteSettings>,
    /// Limits on sizes, counts and times.
    pub limits: ReceiverLimits,
}

/// What stands between a receiver and the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exposure {
    /// Nothing: clients connect directly.
    #[default]
    None,
    /// A proxy that terminates TLS: every connection comes from it.
    Proxy,
}

/// A certificate and its key, in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// One of a receiver's sites.
#[derive(Debug, Clone)]
pub struct SiteSettings {
    /// The name of the site. `None` accepts the name in the store, or the name from the first push.
    pub name: Option<Site>,
    /// The path below which the site is served: `/` or `/<name>/`.
    pub base: String,
    /// The mirror's directory.
    pub directory: PathBuf,
    /// The number of releases kept; `None` leaves that to the origin.
    pub keep: Option<usize>,
    /// Maximum size of a release, in bytes.
    pub quota_bytes: Option<u64>,
    /// Maximum size of a release, in entries.
    pub quota_entries: Option<u64>,
    /// Bytes that must stay free on the mirror's file system.
    pub min_free_bytes: u64,
    /// Group and modes of the served files, from the next release on; `None` keeps the store's
    /// group and modes.
    pub served_permissions: Option<ServedPermissions>,
    /// The command that runs after a release has become current.
    pub post_activate: Option<Hook>,
}

impl SiteSettings {
    /// The site in `directory`, served at `/`, without limits.
    #[must_use]
    pub fn new(directory: PathBuf, name: Option<Site>) -> Self {
        Self {
            name,
            base: "/".to_owned(),
            directory,
            keep: None,
            quota_bytes: None,
            quota_entries: None,
            min_free_bytes: 0,
            served_permissions: None,
            post_activate: None,
        }
    }
}

/// A command with a time limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// How long the command may run before it is killed.
    pub timeout: Duration,
}

/// Limits on sizes, counts and times. Bytes that trickle in do not extend a deadline, except the
/// deadline for a body of unknown length.
#[derive(Debug, Clone)]
pub struct ReceiverLimits {
    /// Maximum number of connections.
    pub connections: usize,
    /// Maximum number of connections from one address; an IPv6 /64 network counts as one address.
    pub connections_per_address: usize,
    /// Maximum duration of the TLS handshake, and maximum time from its end to the first byte of a
    /// request.
    pub first_byte: Duration,
    /// Maximum time from the first byte of a head to its last byte.
    pub head: Duration,
    /// Maximum time between two requests on a connection.
    pub idle: Duration,
    /// Maximum time between two reads of a body.
    pub body_idle: Duration,
    /// Maximum time for a whole body, plus one second for every `body_bytes_per_second` bytes.
    pub body: Duration,
    /// The slowest accepted rate for a body.
    pub body_bytes_per_second: u64,
    /// Maximum time for reading the rest of a refused request's body.
    pub drain: Duration,
    /// Maximum time that a write may block.
    pub write: Duration,
    /// How long an open stage may go without a request before it is closed.
    pub stage_idle: Duration,
    /// Interval of maintenance: expiring retired entries, and dropping unfinished pushes.
    pub maintenance_interval: Duration,
    /// Maximum time to wait for a store's lock. The origin repeats the request if it wants to wait
    /// longer.
    pub lock_wait: Duration,
    /// Maximum time for requests in flight when the receiver stops.
    pub shutdown: Duration,
    /// If a request takes longer than this, the response has status 200 and a body that is kept
    /// alive until the result is known.
    pub keepalive_after: Duration,
    /// Maximum time that a clean-up waits for the hook before it reports that the hook is still
    /// running.
    pub hook_wait: Duration,
    /// Interval between two newlines that keep such a body alive.
    pub keepalive_interval: Duration,
    /// Maximum bytes of memory for open stages and request bodies, across all sites.
    pub memory_bytes: u64,
    /// Maximum bytes of packs in memory, across all connections; further packs wait on disk.
    pub pack_bytes: u64,
}

impl Default for ReceiverLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            // 512 were too few: a thousand slow connections from 17 addresses used all of them.
            // 1,000 slow connections cost 38 MiB, and a state request still takes only 9 ms (99th
            // percentile).
            connections: 2048,
            connections_per_address: 64,
            first_byte: seconds(10),
            head: seconds(10),
            idle: seconds(75),
            body_idle: seconds(30),
            body: seconds(60),
            body_bytes_per_second: 16 * 1024,
            drain: seconds(10),
            write: seconds(60),
            stage_idle: seconds(120),
            maintenance_interval: seconds(3600),
            // Short, because a waiting request occupies one of the worker threads. The origin
            // repeats the request for as long as the user wants to wait.
            lock_wait: seconds(1),
            shutdown: seconds(30),
            keepalive_after: seconds(2),
            hook_wait: seconds(5),
            // Well below 60 seconds, which is when nginx closes a silent connection.
            keepalive_interval: seconds(5),
            memory_bytes: 200 * 1024 * 1024,
            pack_bytes: 32 * 1024 * 1024,
        }
    }
}

impl ReceiverSettings {
    /// Settings with default limits, without TLS and without a proxy in front.
    #[must_use]
    pub fn new(listen: SocketAddr, sites: Vec<SiteSettings>, auth: AuthPolicy) -> Self {
        Self {
            listen,
            tls: None,
            exposure: Exposure::None,
            auth,
            sites,
            limits: ReceiverLimits::default(),
        }
    }

    /// Rejects settings that would send tokens over a network unencrypted, or let any client push.
    ///
    /// # Errors
    /// [`ServeError::InTheClear`], [`ServeError::Open`], [`ServeError::NoSites`].
    pub fn check(&self) -> Result<(), ServeError> {
        // `::ffff:127.0.0.1` is loopback too.
        let is_loopback = self.listen.ip().to_canonical().is_loopback();
        if self.sites.is_empty() {
            return Err(ServeError::NoSites);
        }
        if matches!(self.auth, AuthPolicy::Open) && !is_loopback {
            return Err(ServeError::Open { listen: self.listen });
        }
        if !is_loopback && self.tls.is_none() && self.exposure == Exposure::None {
            return Err(ServeError::InTheClear { listen: self.listen });
        }
        Ok(())
    }
}
