//! Mirrors behind a receiver: HTTP, TLS, and `ssh` with a replacement for the `ssh` program.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use headwater::mirror::{
    Credentials, HttpMirror, Location, Mirror, MirrorIdentity, SshSettings, TransferLimits,
};
use headwater::receiver::{
    self, Exposure, Handle, NoLog, ReceiverLimits, ReceiverSettings, Server, SiteSettings, TlsFiles,
};
use headwater::tree_path::Site;
use tempfile::TempDir;

use crate::fixture::Fixture;
use crate::flaky_proxy::{self, FlakyProxy};
use crate::sandbox;

/// The host name in certificates.
const HOST: &str = "localhost";

/// A receiver in this process. Dropping it stops it.
pub(crate) struct Receiver {
    handle: Handle,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts a receiver for the mirror in `directory`.
    pub(crate) fn start(directory: &Path, tls: Option<TlsFiles>) -> Self {
        let settings = ReceiverSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls,
            exposure: Exposure::None,
            auth: receiver::AuthPolicy::Open,
            sites: vec![SiteSettings::new(directory.to_owned(), None)],
            // The origin waits for the lock: it asks again until its time is over.
            limits: ReceiverLimits {
                lock_wait: Duration::from_millis(20),
                ..ReceiverLimits::default()
            },
        };
        let server = Server::bind(&settings, Arc::new(NoLog)).unwrap();
        let (handle, address) = (server.handle(), server.address());
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self { handle, address, thread: Some(thread) }
    }

    /// The address on which it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.handle.stop();
        let thread = self.thread.take().expect("the receiver is stopped once");
        assert!(thread.join().is_ok(), "the receiver panicked");
    }
}

fn identity(url: &str, site: &Site) -> MirrorIdentity {
    MirrorIdentity { name: "m".into(), location: url.to_owned(), site: Some(site.clone()) }
}

/// A mirror at a URL.
pub(crate) fn mirror_at(
    url: &str,
    access: &Credentials,
    site: &Site,
    wait: Duration,
) -> Arc<dyn Mirror> {
    let Ok(Location::Http(place)) = Location::parse(url) else { panic!("{url}") };
    let pace = TransferLimits { lock_wait: wait, ..TransferLimits::default() };
    Arc::new(HttpMirror::new(identity(url, site), &place, access, pace))
}

/// A mirror over plain HTTP.
pub(crate) struct Http {
    receiver: Receiver,
    store: PathBuf,
    _dir: TempDir,
}

impl Fixture for Http {
    fn new() -> Self {
        let dir = sandbox::directory();
        let store = dir.path().join("www");
        Self { receiver: Receiver::start(&store, None), store, _dir: dir }
    }

    fn handle(&self, site: &Site, wait: Duration) -> Arc<dyn Mirror> {
        mirror_at(
            &format!("http://{}/", self.receiver.address()),
            &Credentials::default(),
            site,
            wait,
        )
    }

    fn restart(&mut self) {
        self.receiver = Receiver::start(&self.store, None);
    }

    fn store(&self) -> &Path {
        &self.store
    }
}

/// A mirror over TLS.
pub(crate) struct Https {
    receiver: Receiver,
    store: PathBuf,
    access: Credentials,
    files: TlsFiles,
    _dirs: [TempDir; 2],
}

impl Fixture for Https {
    fn new() -> Self {
        let dir = sandbox::directory();
        let store = dir.path().join("www");
        let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
        let keys = sandbox::directory();
        let files =
            TlsFiles { cert: keys.path().join("cert.pem"), key: keys.path().join("key.pem") };
        fs::write(&files.cert, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let mut access = Credentials::default();
        access.trust_only(made.cert.pem().as_bytes()).unwrap();
        Self {
            receiver: Receiver::start(&store, Some(files.clone())),
            store,
            access,
            files,
            _dirs: [dir, keys],
        }
    }

    fn handle(&self, site: &Site, wait: Duration) -> Arc<dyn Mirror> {
        mirror_at(
            &format!("https://{HOST}:{}/", self.receiver.address().port()),
            &self.access,
            site,
            wait,
        )
    }

    fn restart(&mut self) {
        self.receiver = Receiver::start(&self.store, Some(self.files.clone()));
    }

    fn store(&self) -> &Path {
        &self.store
    }
}

/// A mirror over `ssh`, with a stand-in for the `ssh` program.
pub(crate) struct Ssh {
    store: PathBuf,
    program: PathBuf,
    _dirs: [TempDir; 2],
}

/// Accepts the options that the client passes, prints what a login shell may print, and runs the
/// command like a login shell.
const STAND_IN: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        -o|-p) shift 2 ;;
        -T) shift ;;
        edge2) break ;;
        *) echo "stand-in: unexpected argument $1" >&2; exit 255 ;;
    esac
done
shift
[ "$1" = -- ] && shift
echo "Welcome to edge2"
printf 'last login: never\n' >&2
exec /bin/sh -c "$*"
"#;

impl Fixture for Ssh {
    fn new() -> Self {
        let (dir, bin) = (sandbox::directory(), sandbox::directory());
        let (store, program) = (dir.path().join("it's www"), bin.path().join("ssh"));
        fs::write(&program, STAND_IN).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { store, program, _dirs: [dir, bin] }
    }

    fn handle(&self, site: &Site, wait: Duration) -> Arc<dyn Mirror> {
        let url = format!("ssh://edge2{}", self.store.display());
        let Ok(Location::Ssh(place)) = Location::parse(&url) else { panic!("{url}") };
        // Uses a shell: a child of another test may still have the new script open for writing.
        let settings = SshSettings {
            command: format!("/bin/sh '{}'", self.program.display()).parse().unwrap(),
            receiver: env!("CARGO_BIN_EXE_headwater").parse().unwrap(),
            host_key: None,
            secret_variables: Vec::new(),
        };
        let pace = TransferLimits { lock_wait: wait, ..TransferLimits::default() };
        Arc::new(HttpMirror::over_ssh(identity(&url, site), &place, &settings, pace))
    }

    fn store(&self) -> &Path {
        &self.store
    }
}

/// A mirror over HTTP, behind a proxy that disrupts every seventh request.
pub(crate) struct Flaky {
    proxy: FlakyProxy,
    inner: Http,
}

impl Fixture for Flaky {
    fn new() -> Self {
        let inner = Http::new();
        let proxy = FlakyProxy::start(inner.receiver.address(), 15, flaky_proxy::seed());
        Self { proxy, inner }
    }

    fn handle(&self, site: &Site, wait: Duration) -> Arc<dyn Mirror> {
        mirror_at(&format!("http://{}/", self.proxy.address()), &Credentials::default(), site, wait)
    }

    fn restart(&mut self) {
        self.inner.restart();
        self.proxy = FlakyProxy::start(self.inner.receiver.address(), 15, flaky_proxy::seed());
    }

    fn store(&self) -> &Path {
        self.inner.store()
    }
}
