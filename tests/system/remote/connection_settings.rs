//! Connection settings in the configuration: proxies, token files and client certificates.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use headwater::receiver::{AuthPolicy, Permission, TlsFiles, Token, TokenRecord};
use headwater::tree_path::Site;

use super::{Receiver, serves_tree};
use crate::harness::{Outcome, Sandbox};
use crate::trees::Tree;

/// A proxy that supports `CONNECT` and connects every client to one address. Dropping it stops it.
struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
}

impl Proxy {
    /// Starts a proxy to `target`; if that is an error, it refuses with this status.
    fn start(target: Result<SocketAddr, &'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, over) = (Arc::clone(&heads), Arc::clone(&is_over));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (client, kept) = (client.unwrap(), Arc::clone(&kept));
                std::thread::spawn(move || lead(client, target, &kept));
            }
        });
        Self { address, heads, is_over }
    }

    fn url(&self) -> String {
        format!("http://me:canary@{}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
    }
}

/// Serves one connection until either end closes it.
fn lead(mut client: TcpStream, target: Result<SocketAddr, &str>, heads: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            return;
        }
    }
    heads.lock().unwrap().push(head);
    let target = match target {
        Ok(target) => target,
        Err(status) => {
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            client.write_all(answer.as_bytes()).ok();
            return;
        }
    };
    let mut server = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    let mut to_server = server.try_clone().unwrap();
    let forth = std::thread::spawn(move || {
        std::io::copy(&mut reader, &mut to_server).ok();
        to_server.shutdown(std::net::Shutdown::Write).ok();
    });
    std::io::copy(&mut server, &mut client).ok();
    client.shutdown(std::net::Shutdown::Both).ok();
    forth.join().unwrap();
}

/// Writes a configuration with one mirror and pushes to it.
pub(super) fn push_with(sandbox: &Sandbox, url: &str, lines: &str) -> Outcome {
    let config = format!("content = 'tree'\n[[mirror]]\nname = 'web'\nurl = '{url}'\n{lines}\n");
    std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
    sandbox.run(&["push"])
}

pub(super) fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    sandbox
}

#[track_caller]
pub(super) fn says(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(outcome.stderr.contains(word), "no {word:?} in {outcome}");
    }
    let all = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!all.contains("canary") && !all.contains("panicked"), "{outcome}");
}

/// Writes a certificate for `name` and its key, as `<file>.pem` and `<file>.key`.
pub(super) fn certify(sandbox: &Sandbox, name: &str, file: &str) -> TlsFiles {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let files = TlsFiles {
        cert: sandbox.path(format!("{file}.pem")),
        key: sandbox.path(format!("{file}.key")),
    };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    files
}

#[test]
fn push_uses_the_configured_proxy_with_tls_to_the_mirror() {
    let sandbox = sandbox();
    let files = certify(&sandbox, "edge.example", "edge");
    let receiver = Receiver::with(&sandbox.path("web"), |settings| settings.tls = Some(files));
    let proxy = Proxy::start(Ok(receiver.address()));
    // Only the proxy can resolve this name.
    let lines = format!("ca = 'edge.pem'\nproxy = '{}'", proxy.url());
    let outcome = push_with(&sandbox, "https://edge.example/", &lines).expect(&[0]);
    says(&outcome, &["release 1 is current"]);
    assert!(serves_tree(&sandbox, "web"));
    let heads = proxy.heads();
    assert!(
        !heads.is_empty() && heads.iter().all(|head| head.starts_with("CONNECT edge.example:443 ")),
        "{heads:?}"
    );
    assert!(
        heads.iter().all(|head| head.to_lowercase().contains("proxy-authorization: basic ")),
        "{heads:?}"
    );
}

#[test]
fn loopback_connection_bypasses_the_proxy() {
    let sandbox = sandbox();
    let receiver = Receiver::start(&sandbox.path("web"));
    let proxy = Proxy::start(Err("403 Forbidden"));
    push_with(&sandbox, &receiver.url(), &format!("proxy = '{}'", proxy.url())).expect(&[0]);
    assert!(serves_tree(&sandbox, "web") && proxy.heads().is_empty());
}

#[test]
fn unreachable_or_refusing_proxy_is_named() {
    let sandbox = sandbox();
    // Bound and closed again: nothing listens there.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcome =
        push_with(&sandbox, "https://edge.example/", &format!("proxy = 'http://me:canary@{dead}'"));
    says(&outcome, &["by the proxy", &dead.to_string(), "refused"]);
    assert_eq!(outcome.code(), Some(4), "{outcome}");
    for status in ["403 Forbidden", "407 Proxy Authentication Required"] {
        let proxy = Proxy::start(Err(status));
        let outcome =
            push_with(&sandbox, "https://edge.example/", &format!("proxy = '{}'", proxy.url()));
        says(&outcome, &["by the proxy", &proxy.address.to_string(), &status[..3]]);
        assert_eq!(outcome.code(), Some(4), "{outcome}");
        assert!(!proxy.heads().is_empty());
    }
}

#[test]
fn token_is_read_from_its_file() {
    let sandbox = sandbox();
    let token = Token::random().unwrap();
    let site = Site::new("default").unwrap();
    let record = TokenRecord {
        id: token.id().clone(),
        hash: token.hash(),
        sites: vec![site.clone()],
        allow: Permission::Push,
        expires: None,
    };
    let receiver = Receiver::with(&sandbox.path("web"), |settings| {
        settings.sites[0].name = Some(site);
        settings.auth = AuthPolicy::Tokens(vec![record]);
    });
    let push = || push_with(&sandbox, &receiver.url(), "token_file = 'secret'");
    let write = |text: &str| std::fs::write(sandbox.path("secret"), text).unwrap();
    says(&push().expect(&[2]), &["token_file", "secret", "No such file"]);
    for unusable in ["", "\n", "hw_canary and more\n", "hw_canary\nhw_canary\n"] {
        write(unusable);
        says(&push().expect(&[2]), &["token_file", "secret", "the token is empty"]);
    }
    std::fs::remove_file(sandbox.path("secret")).unwrap();
    std::fs::create_dir(sandbox.path("secret")).unwrap();
    says(&push().expect(&[2]), &["token_file", "secret"]);
    std::fs::remove_dir(sandbox.path("secret")).unwrap();
    write("hw_canary\n");
    let mode = |bits| {
        std::fs::set_permissions(sandbox.path("secret"), PermissionsExt::from_mode(bits)).unwrap();
    };
    mode(0o644);
    says(
        &push().expect(&[7]),
        &["does not have the form", "every user on this machine can read", "chmod o-r"],
    );
    mode(0o640);
    let closed = push().expect(&[7]);
    assert!(!closed.stderr.contains("everybody"), "{closed}");
    assert!(!serves_tree(&sandbox, "web"));
    for end in ["", "\n", "\r\n"] {
        write(&format!("{}{end}", token.reveal()));
        let outcome = push().expect(&[0]);
        assert!(!outcome.stderr.contains(&token.reveal()[12..]), "{outcome}");
    }
    assert!(serves_tree(&sandbox, "web"));
}

#[test]
fn unusable_client_certificate_is_named_before_sending() {
    let sandbox = sandbox();
    certify(&sandbox, "me.example", "me");
    certify(&sandbox, "other.example", "other");
    std::fs::write(sandbox.path("noise.pem"), "canary").unwrap();
    let files = certify(&sandbox, "localhost", "edge");
    let receiver = Receiver::with(&sandbox.path("web"), |settings| settings.tls = Some(files));
    let url = format!("https://localhost:{}/", receiver.address().port());
    let push = |cert: &str, key: &str| {
        push_with(
            &sandbox,
            &url,
            &format!("ca = 'edge.pem'\nclient_cert = '{cert}'\nclient_key = '{key}'"),
        )
    };
    for (cert, key, words) in [
        ("me.pem", "other.key", "cannot be used together"),
        ("noise.pem", "me.key", "no certificate in PEM form"),
        ("me.key", "me.key", "no certificate in PEM form"),
        ("me.pem", "noise.pem", "no private key in PEM form"),
        ("me.pem", "me.pem", "no private key in PEM form"),
        ("gone.pem", "me.key", "No such file"),
        ("me.pem", "gone.key", "No such file"),
    ] {
        let outcome = push(cert, key).expect(&[2]);
        says(&outcome, &["client_cert", cert, key, words]);
        assert!(!outcome.stderr.contains("PRIVATE KEY"), "{outcome}");
    }
    assert!(!Path::new(&sandbox.path_text("web")).join("current").exists());
    // A receiver that does not request a certificate accepts the connection.
    push("me.pem", "me.key").expect(&[0]);
    assert!(serves_tree(&sandbox, "web"));
}
