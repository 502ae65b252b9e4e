//! Pushes to mirrors on other machines: several kinds at once, false responses, broken links, wrong
//! certificates, and secrets that must not appear in output.

mod client_certificates;
mod commands;
mod connection_settings;
mod early_refusals;
mod echoed_tokens;
mod extra_objects;
mod fleet;
mod hostile_receivers;
mod interrupted_upload;
mod lost_responses;
mod policies;
mod real_tree;
mod rollbacks;
mod signatures;
mod sources;
mod ssh;
mod termination;
mod tls;
mod traffic;

pub(super) use traffic::ConcurrentUploads;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use headwater::receiver::{AuthPolicy, Handle, NoLog, ReceiverSettings, Server, SiteSettings};
use serde_json::Value;

use crate::checker;
use crate::harness::{Outcome, Sandbox};

/// A receiver in this process. Dropping it stops it.
pub(super) struct Receiver {
    handle: Handle,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts a receiver without authentication.
    pub(super) fn start(directory: &Path) -> Self {
        Self::with(directory, |_| {})
    }

    /// Starts a receiver with the given settings.
    pub(super) fn with(directory: &Path, change: impl FnOnce(&mut ReceiverSettings)) -> Self {
        let sites = vec![SiteSettings::new(directory.to_owned(), None)];
        let mut settings =
            ReceiverSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), sites, AuthPolicy::Open);
        change(&mut settings);
        let server = Server::bind(&settings, Arc::new(NoLog)).unwrap();
        let (handle, address) = (server.handle(), server.address());
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self { handle, address, thread: Some(thread) }
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.handle.stop();
        self.thread.take().expect("the receiver is stopped once").join().unwrap();
    }
}

/// Writes a program that accepts the arguments of ssh and runs the command in a local shell, after
/// `before`.
pub(super) fn stand_in(sandbox: &Sandbox, name: &str, before: &str) -> String {
    let script = format!(
        "while [ $# -gt 0 ]; do case \"$1\" in -o|-p) shift 2 ;; -T) shift ;; *) break ;; esac; \
         done\nshift; [ \"$1\" = -- ] && shift\n{before}\nexec /bin/sh -c \"$*\"\n"
    );
    let path = sandbox.path(name);
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("/bin/sh {}", sandbox.path_text(name))
}

/// Returns the flags for such a program.
pub(super) fn ssh_flags(command: &str) -> [&str; 4] {
    ["--ssh-command", command, "--receive-command", env!("CARGO_BIN_EXE_headwater")]
}

/// Pushes the tree of a sandbox to these locations.
pub(super) fn push(sandbox: &Sandbox, places: &[&str], flags: &[&str]) -> Outcome {
    let tree = sandbox.path_text("tree");
    sandbox.run(&[&["push", &tree], places, flags].concat())
}

/// Returns the one object that a run with `--json` printed.
pub(super) fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome}"))
}

/// Whether a mirror serves exactly the tree, by a check that shares no code with the library.
pub(super) fn serves_tree(sandbox: &Sandbox, mirror: &str) -> bool {
    match checker::state(&sandbox.path(mirror))
        .unwrap_or_else(|faults| panic!("{mirror}: {faults:#?}"))
    {
        Some(served) => checker::check_equals_tree(&served, &sandbox.path("tree")).is_ok(),
        None => false,
    }
}
