//! The receiver against arbitrary clients: the tests use their own client, built on sockets, which
//! shares no code with the origin.

mod access;
mod behind_nginx;
mod chunks;
mod hardening;
mod health_endpoint;
mod holds_requests;
mod hooks;
#[cfg(debug_assertions)]
mod killed_processes;
mod long_operations;
mod malformed_requests;
mod program;
mod pushes;
mod repairs;
mod resource_use;
mod scheduled_work;
mod served_permissions;
mod signature_requests;
mod site_isolation;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater::receiver::{
    AuthPolicy, Handle, Log, LogRecord, ReceiverLimits, ReceiverSettings, Server, SiteSettings,
};
use headwater::tree_path::Site;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::origin::{Delivery, EncodedPack};
use crate::sandbox;

/// The maximum time for a response.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps every log record in its written form.
#[derive(Default)]
pub(super) struct RecordedLog(Mutex<Vec<String>>);

impl Log for RecordedLog {
    fn record(&self, record: &LogRecord) {
        self.0.lock().unwrap().push(serde_json::to_string(record).unwrap());
    }
}

/// A receiver on a free port, with one mirror.
pub(super) struct Receiver {
    dir: TempDir,
    pub(super) address: SocketAddr,
    pub(super) log: Arc<RecordedLog>,
    handle: Handle,
}

impl Receiver {
    /// Starts a receiver without authentication, with the default limits.
    pub(super) fn open() -> Self {
        Self::new(|_| {})
    }

    /// Starts a receiver with these limits.
    pub(super) fn limited(limit: impl FnOnce(&mut ReceiverLimits)) -> Self {
        Self::new(|settings| limit(&mut settings.limits))
    }

    /// Starts a receiver with the given settings.
    pub(super) fn new(change: impl FnOnce(&mut ReceiverSettings)) -> Self {
        let dir = sandbox::directory();
        let site = SiteSettings::new(dir.path().join("www"), Some(Site::new("docs").unwrap()));
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = ReceiverSettings::new(listen, vec![site], AuthPolicy::Open);
        change(&mut settings);
        let log = Arc::new(RecordedLog::default());
        let server = Server::bind(&settings, log.clone()).unwrap();
        let (address, handle) = (server.address(), server.handle());
        std::thread::spawn(move || server.run().unwrap());
        Self { dir, address, log, handle }
    }

    /// Returns the directory of the mirror.
    pub(super) fn mirror(&self) -> PathBuf {
        self.dir.path().join("www")
    }

    /// A new connection.
    pub(super) fn connect(&self) -> Connection {
        Connection::to(self.address)
    }

    /// Sends one request on a new connection.
    pub(super) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.connect().ask(method, path, &[], body)
    }

    /// Returns the log so far.
    pub(super) fn logged(&self) -> String {
        self.log.0.lock().unwrap().join("\n")
    }

    /// The handle.
    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// A connection on which a test controls every byte of HTTP.
pub(super) struct Connection {
    pub(super) stream: BufReader<TcpStream>,
}

/// A response.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the kind of the error.
    pub(super) fn kind(&self) -> String {
        self.json()["error"]["kind"].as_str().unwrap_or("none").to_owned()
    }

    /// Returns the result of a successful request.
    #[track_caller]
    pub(super) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}{}", self.head, String::from_utf8_lossy(&self.body));
        self.json().get("ok").unwrap_or_else(|| panic!("{}", self.json())).clone()
    }

    /// Returns the status and the kind of an error.
    pub(super) fn refusal(&self) -> (u16, String) {
        (self.status, self.kind())
    }
}

impl Connection {
    pub(super) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes unchanged.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a request and reads its response.
    pub(super) fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.send(&head(method, path, fields, body.len()));
        // An error response may arrive before everything is sent; it is read, too.
        self.stream.get_mut().write_all(body).ok();
        self.answer().expect("an answer")
    }

    /// Reads a response; returns `None` if the connection ended instead.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        let mut head = String::new();
        loop {
            let start = head.len();
            match self.stream.read_line(&mut head) {
                Ok(0) | Err(_) => return None,
                Ok(_) if &head[start..] == "\r\n" => break,
                Ok(_) => {}
            }
        }
        let field = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = Vec::new();
        if field("transfer-encoding").is_some() {
            self.chunks(&mut body)?;
        } else if status != 100 {
            let length = field("content-length").map_or(0, |length| length.parse().unwrap());
            body.resize(length, 0);
            self.stream.read_exact(&mut body).ok()?;
        }
        Some(Answer { status, head, body })
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            let start = body.len();
            body.resize(start + length + 2, 0);
            self.stream.read_exact(&mut body[start..]).ok()?;
            body.truncate(start + length);
            if length == 0 {
                return Some(());
            }
        }
    }

    /// Returns the time until the other side closes the connection.
    pub(super) fn time_to_end(&mut self) -> Duration {
        let began = Instant::now();
        let mut rest = Vec::new();
        // A reset closes it, too.
        self.stream.read_to_end(&mut rest).ok();
        assert!(began.elapsed() < PATIENCE, "the connection was never closed");
        began.elapsed()
    }
}

/// Returns the head of a request of this protocol.
pub(super) fn head(method: &str, path: &str, fields: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: mirror\r\nheadwater-protocol: 1\r\n");
    if method != "GET" {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    fields.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head.push_str("\r\n");
    head.into_bytes()
}

/// Whether a stage request says that its packs are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complete {
    Yes,
    No,
}

/// Returns the body of a stage request with these packs.
pub(super) fn stage_body(delivery: &Delivery, packs: &[EncodedPack], whole: Complete) -> Vec<u8> {
    let head = json!({
        "release": String::from_utf8(delivery.release.to_bytes()).unwrap(),
        "key": delivery.key.to_string(),
        "base": delivery.base.map(|base| base.to_string()),
        "change_bytes": delivery.change.len(),
        "has_packs": !packs.is_empty(),
        "is_whole": whole == Complete::Yes,
    });
    let head = head.to_string().into_bytes();
    let length = u32::try_from(head.len()).unwrap().to_be_bytes();
    let mut body = [&length[..], &head, &delivery.change].concat();
    if !packs.is_empty() {
        packs.iter().for_each(|pack| body.extend(framed_pack(pack, &pack.bytes)));
        body.extend([&[u8::from(whole == Complete::Yes); 32][..], &[0; 4]].concat());
    }
    body
}

/// Returns these bytes after the head of a pack.
pub(super) fn framed_pack(pack: &EncodedPack, bytes: &[u8]) -> Vec<u8> {
    [&pack.id.as_bytes()[..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// Returns the body of an activation request.
pub(super) fn activation(delivery: &Delivery, expected: Option<&str>) -> Vec<u8> {
    json!({"release": delivery.release.name().to_string(), "expected": expected})
        .to_string()
        .into_bytes()
}

/// Returns the path of a pack.
pub(super) fn pack_path(delivery: &Delivery, pack: &EncodedPack) -> String {
    format!("/v1/packs/{}/{}", delivery.key, pack.id)
}

/// Waits for `time`, in tests which assert that nothing happens meanwhile.
pub(super) fn sleep_for(time: Duration) {
    let (_sender, never) = std::sync::mpsc::channel::<()>();
    never.recv_timeout(time).unwrap_err();
}

/// Waits until `is_so` returns true; panics after a limited time.
#[track_caller]
pub(super) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}: never");
        sleep_for(Duration::from_millis(5));
    }
}

/// Asserts that a mirror serves the complete release with this sequence.
#[track_caller]
pub(super) fn assert_serves(mirror: &Path, sequence: u64) {
    let served = crate::checker::check_store(mirror).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(served.record.sequence, sequence);
}
