//! What a receiver is told before it starts: addresses, sites, limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::receiver::{AuthPolicy, ServeError, ServedPermissions};
use crate::tree_path::Site;

/// Everything that a receiver is told.
#[derive(Debug, Clone)]
pub struct ReceiverSettings {
    /// Where it listens; port 0: any that is free.
    pub listen: SocketAddr,
    /// Its certificate, if it speaks TLS itself.
    pub tls: Option<TlsFiles>,
    /// What is between it and the network.
    pub front: Exposure,
    /// Who may do what.
    pub access: AuthPolicy,
    /// The sites; their bases differ.
    pub sites: Vec<SiteSettings>,
    /// How much and how long.
    pub limits: ReceiverLimits,
}

/// What is between a receiver and the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exposure {
    /// Nothing: who connects is the client.
    #[default]
    None,
    /// A proxy that ends TLS: every connection comes from it.
    Proxy,
}

/// A certificate and its key, in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// One site of a receiver.
#[derive(Debug, Clone)]
pub struct SiteSettings {
    /// Its name; nothing: whatever the store holds, or the first push brings.
    pub name: Option<Site>,
    /// Below which path it answers: `/` or `/<name>/`.
    pub base: String,
    /// The directory of its mirror.
    pub directory: PathBuf,
    /// Releases kept, whatever an origin says; nothing: what it says.
    pub keep: Option<usize>,
    /// Largest release, in bytes.
    pub quota_bytes: Option<u64>,
    /// Largest release, in entries.
    pub quota_entries: Option<u64>,
    /// Bytes that stay free on its file system.
    pub min_free_bytes: u64,
    /// Who may read what is served, from the next release on; nothing: as the store has it.
    pub readers: Option<ServedPermissions>,
    /// What runs after a release became current.
    pub post_activate: Option<Hook>,
}

impl SiteSettings {
    /// The site in `directory` that answers at `/`.
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
            readers: None,
            post_activate: None,
        }
    }
}

/// A command to run, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// It is ended after this long.
    pub timeout: Duration,
}

/// How much and how long. Deadlines are fixed from where they begin, and bytes
/// that trickle in do not move them, but for a body whose length nobody knows.
#[derive(Debug, Clone)]
pub struct ReceiverLimits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address; an IPv6 network of 64 bits counts as one.
    pub connections_per_address: usize,
    /// From accepting to the first byte, TLS included.
    pub first_byte: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// Between two reads of a body.
    pub body_idle: Duration,
    /// For a whole body, beside what its size adds: a second for each of `body_bytes_per_second`.
    pub body: Duration,
    /// The slowest body that is waited for.
    pub body_bytes_per_second: u64,
    /// For what is left of the body of a refused request.
    pub drain: Duration,
    /// Between two writes.
    pub write: Duration,
    /// An unfinished stage is forgotten after this long without a request.
    pub stage: Duration,
    /// Between two looks at what is due in each site: retired entries, and what pushes left.
    pub upkeep: Duration,
    /// For the lock of a store. The origin asks again as long as it was told to wait.
    pub lock: Duration,
    /// For requests in flight when the receiver stops.
    pub shutdown: Duration,
    /// An answer that takes longer than this begins before it is known.
    pub patience: Duration,
    /// For the command after a switch, before the answer to a settling says that it still runs.
    pub hook: Duration,
    /// Between two signs of life of such an answer.
    pub heartbeat: Duration,
    /// Bytes of memory for what open stages and questions need, all sites together.
    pub memory_bytes: u64,
    /// Bytes of packs in memory, all connections together; what does not fit waits on the disk.
    pub pack_bytes: u64,
}

impl Default for ReceiverLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
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
            stage: seconds(120),
            upkeep: seconds(3600),
            lock: seconds(1),
            shutdown: seconds(30),
            patience: seconds(2),
            hook: seconds(5),
            heartbeat: seconds(5),
            memory_bytes: 200 * 1024 * 1024,
            pack_bytes: 32 * 1024 * 1024,
        }
    }
}

impl ReceiverSettings {
    /// The sites of these settings, reachable on `listen` in the clear.
    #[must_use]
    pub fn new(listen: SocketAddr, sites: Vec<SiteSettings>, access: AuthPolicy) -> Self {
        Self { listen, tls: None, front: Exposure::None, access, sites, limits: ReceiverLimits::default() }
    }

    /// Refuses what would put tokens on a network in the clear, or let anybody push.
    ///
    /// # Errors
    /// [`ServeError::InTheClear`], [`ServeError::Open`], [`ServeError::NoSites`].
    pub fn check(&self) -> Result<(), ServeError> {
        let is_loopback = self.listen.ip().to_canonical().is_loopback();
        if self.sites.is_empty() {
            return Err(ServeError::NoSites);
        }
        if matches!(self.access, AuthPolicy::Open) && !is_loopback {
            return Err(ServeError::Open { listen: self.listen });
        }
        if !is_loopback && self.tls.is_none() && self.front == Exposure::None {
            return Err(ServeError::InTheClear { listen: self.listen });
        }
        Ok(())
    }
}
