//! Pushes of an origin without a cache: it builds on block signatures of a mirror, which may lie.

use std::fs;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use super::{Receiver, push, report, serves_tree, ssh_flags, stand_in};
use crate::flaky_proxy::Message;
use crate::harness::{Outcome, Sandbox};
use crate::trees::{Rng, Tree};

const QUESTION: &str = "/v1/signatures";

/// Pages of 20 kB that hardly compress and have one line that changes.
fn pages(version: &str) -> Tree {
    let mut rng = Rng::new(7);
    let page = |tree: Tree, number: u32| {
        let words: String = rng.bytes(10_000).iter().map(|byte| format!("{byte:02x}")).collect();
        let (head, tail) = words.split_at(7_000);
        let line = format!("<footer>{version} of {number}</footer>");
        tree.file(&format!("docs/{number}.html"), format!("{head}\n{line}\n{tail}\n"))
    };
    (0..40).fold(Tree::default(), page)
}

/// Removes everything that the origin keeps between pushes.
fn forget(sandbox: &Sandbox) {
    fs::remove_dir_all(sandbox.path("cache")).unwrap();
    fs::create_dir(sandbox.path("cache")).unwrap();
}

/// Pushes the tree from an origin without a cache.
fn push_without_cache(sandbox: &Sandbox, places: &[&str]) -> Outcome {
    forget(sandbox);
    push(sandbox, places, &["--json"])
}

fn sum(outcome: &Outcome, key: &str) -> u64 {
    let report = report(outcome);
    let mirrors = report["mirrors"].as_array().unwrap().iter();
    mirrors.map(|mirror| mirror[key].as_u64().unwrap()).sum()
}

/// Creates a mirror with the first version of the pages, and writes the second one.
fn first_version_pushed() -> (Sandbox, Receiver) {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    sandbox.write("tree", &pages("1"));
    push(&sandbox, &[&receiver.url()], &[]).expect(&[0]);
    sandbox.write("tree", &pages("2"));
    (sandbox, receiver)
}

/// A proxy to a receiver that replaces the responses to signature requests.
struct TamperingProxy {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl TamperingProxy {
    /// Starts the proxy. `tamper` gets the response of the receiver and writes another one.
    fn before(
        receiver: &Receiver,
        tamper: impl Fn(&mut TcpStream, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, target) = (listener.local_addr().unwrap(), receiver.address());
        let (questions, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (tamper, asked, over) =
            (Arc::new(tamper), Arc::clone(&questions), Arc::clone(&is_over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (tamper, asked) = (Arc::clone(&tamper), Arc::clone(&asked));
                std::thread::spawn(move || relay(stream.unwrap(), target, &*tamper, &asked));
            }
        });
        Self { address, questions, is_over }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

impl Drop for TamperingProxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
    }
}

fn relay(
    mut client: TcpStream,
    target: SocketAddr,
    tamper: &dyn Fn(&mut TcpStream, Vec<u8>),
    asked: &AtomicUsize,
) {
    let mut server = BufReader::new(TcpStream::connect(target).unwrap());
    let mut reader = BufReader::new(client.try_clone().unwrap());
    while let Some(request) = Message::whole(&mut reader) {
        server.get_mut().write_all(&request.bytes()).unwrap();
        let Some(answer) = Message::whole(&mut server) else { return };
        if request.head().lines().next().unwrap().contains(QUESTION) {
            asked.fetch_add(1, Ordering::SeqCst);
            tamper(&mut client, answer.bytes());
        } else if client.write_all(&answer.bytes()).is_err() {
            return;
        }
    }
}

/// Returns the position of the body of a response.
fn body_of(answer: &[u8]) -> usize {
    answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4
}

#[test]
fn push_without_a_cache_sends_only_changed_parts() {
    let (sandbox, receiver) = first_version_pushed();
    forget(&sandbox);
    let (tree, url) = (sandbox.path_text("tree"), receiver.url());
    let planned = sandbox.run(&["plan", &tree, &url]).expect(&[0]);
    assert!(planned.stdout.contains("builds 40 on signatures of http://127.0.0.1"), "{planned}");
    let planned = sandbox.run(&["plan", &tree, &url, "--json"]).expect(&[0]);
    let bases = &report(&planned)["mirrors"][0]["bases"];
    assert_eq!((bases["signed"].as_u64(), bases["none"].as_u64()), (Some(40), Some(0)));
    let pushed = push_without_cache(&sandbox, &[&receiver.url()]).expect(&[0]);
    let (sent, new) = (sum(&pushed, "sent_bytes"), sum(&pushed, "new_bytes"));
    assert!(new > 800_000 && sent * 8 < new, "{sent} of {new}: {pushed}");
    assert!(serves_tree(&sandbox, "web"));
    // Content that was sent with signatures is whole in the cache.
    sandbox.write("tree", &pages("3"));
    let pushed = push(&sandbox, &[&receiver.url()], &["--json"]).expect(&[0]);
    assert!(sum(&pushed, "sent_bytes") * 100 < new, "{pushed}");
    assert!(serves_tree(&sandbox, "web"));
}

#[test]
fn interrupted_push_without_a_cache_makes_the_same_packs() {
    let packs = || {
        let (sandbox, receiver) = first_version_pushed();
        forget(&sandbox);
        // The level depends on the speed of the link.
        let flags = ["--events", "events", "--level", "3"];
        push(&sandbox, &[&receiver.url()], &flags).expect(&[0]);
        let events = crate::harness::events(&sandbox.path("events"));
        let sent = events.iter().filter(|event| event["event"] == "pack_sent");
        sent.map(|event| event["pack"].clone()).collect::<Vec<Value>>()
    };
    let first = packs();
    assert!(!first.is_empty());
    assert_eq!(packs(), first);
}

#[test]
fn files_with_hashed_names_use_the_previous_version_as_base() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let content = Rng::new(3).bytes(300_000);
    sandbox.write("tree", &Tree::default().file("js/app.3fa9c1.js", content.clone()));
    push(&sandbox, &[&receiver.url()], &[]).expect(&[0]);
    let changed = [&content[..150_000], b"changed", &content[150_000..]].concat();
    sandbox.write("tree", &Tree::default().file("js/app.7be220.js", changed));
    let pushed = push_without_cache(&sandbox, &[&receiver.url()]).expect(&[0]);
    assert!(sum(&pushed, "sent_bytes") < 30_000, "{pushed}");
}

#[test]
fn large_file_is_searched_in_parts() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let content = Rng::new(5).bytes(11 << 20);
    sandbox.write("tree", &Tree::default().file("disk.img", content.clone()));
    push(&sandbox, &[&receiver.url()], &[]).expect(&[0]);
    let changed = [b"new", &content[..6 << 20], b"between", &content[6 << 20..]].concat();
    sandbox.write("tree", &Tree::default().file("disk.img", changed));
    let pushed = push_without_cache(&sandbox, &[&receiver.url()]).expect(&[0]);
    assert!(sum(&pushed, "sent_bytes") < 100_000, "{pushed}");
    assert!(serves_tree(&sandbox, "web"));
}

#[test]
fn signatures_of_one_mirror_serve_all() {
    let sandbox = Sandbox::new();
    let receivers = ["one", "two"].map(|name| Receiver::start(&sandbox.path(name)));
    let proxies = receivers.each_ref().map(|receiver| {
        TamperingProxy::before(receiver, |client, answer| drop(client.write_all(&answer)))
    });
    let urls = proxies.each_ref().map(TamperingProxy::url);
    let program = stand_in(&sandbox, "ssh", "");
    let ssh = format!("ssh://edge{}", sandbox.path_text("far"));
    let places = [&*urls[0], &*urls[1], &*ssh];
    sandbox.write("tree", &pages("1"));
    push(&sandbox, &places, &ssh_flags(&program)).expect(&[0]);
    sandbox.write("tree", &pages("2"));
    forget(&sandbox);
    let flags = [&["--json"][..], &ssh_flags(&program)].concat();
    let pushed = push(&sandbox, &places, &flags).expect(&[0]);
    assert!(sum(&pushed, "sent_bytes") * 8 < sum(&pushed, "new_bytes"), "{pushed}");
    assert_eq!(proxies.iter().map(TamperingProxy::questions).sum::<usize>(), 1);
    assert!(["one", "two", "far"].iter().all(|name| serves_tree(&sandbox, name)));
}

#[test]
fn false_signatures_cost_one_transfer_of_whole_files() {
    let (sandbox, receiver) = first_version_pushed();
    // Each block claims the hash of the first block of the previous page.
    let proxy = TamperingProxy::before(&receiver, |client, mut answer| {
        let frames = body_of(&answer);
        let page = 1 + 20 * 3;
        let bytes = answer[frames..].to_vec();
        for (at, frame) in bytes.chunks(page).enumerate().skip(1) {
            let other = (at - 1) * page;
            answer[frames + at * page..][..frame.len()]
                .copy_from_slice(&bytes[other..][..frame.len()]);
        }
        // The first page has its own hashes, in another order.
        let first = &mut answer[frames + 1..frames + page];
        first.copy_within(0..3, 6);
        first.copy_within(9..12, 15);
        client.write_all(&answer).unwrap();
    });
    let pushed = push_without_cache(&sandbox, &[&proxy.url()]).expect(&[0]);
    assert!(serves_tree(&sandbox, "web"), "{pushed}");
    let (sent, new) = (sum(&pushed, "sent_bytes"), sum(&pushed, "new_bytes"));
    assert!(sent < new * 2, "{sent} of {new}: {pushed}");
}

#[test]
fn wrong_match_is_reported_and_sent_whole_once() {
    let (sandbox, receiver) = first_version_pushed();
    // Each block claims to be one block later than it is.
    let proxy = TamperingProxy::before(&receiver, |client, mut answer| {
        let frames = body_of(&answer);
        for page in answer[frames..].chunks_mut(1 + 20 * 3) {
            page.copy_within(1..55, 4);
        }
        client.write_all(&answer).unwrap();
    });
    let pushed = push_without_cache(&sandbox, &[&proxy.url()]).expect(&[0]);
    assert!(pushed.stderr.contains("a block does not decode, although"), "{pushed}");
    assert!(pushed.stderr.contains("sending anew what builds on them"), "{pushed}");
    assert!(serves_tree(&sandbox, "web"), "{pushed}");
    assert!(proxy.questions() <= 2, "{}", proxy.questions());
    let (sent, new) = (sum(&pushed, "sent_bytes"), sum(&pushed, "new_bytes"));
    assert!(sent < new * 2, "{sent} of {new}: {pushed}");
}

#[test]
fn invalid_signature_responses_are_reported_and_files_sent_whole() {
    type TamperResponse = fn(&mut TcpStream, Vec<u8>);
    let endless: TamperResponse = |client, answer| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write_all(head).unwrap();
        let body = &answer[body_of(&answer)..];
        let first = [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat();
        let rest = [b"10000\r\n", &[1; 0x10000][..], b"\r\n"].concat();
        client.write_all(&first).unwrap();
        while client.write_all(&rest).is_ok() {}
    };
    let malformed: TamperResponse = |client, mut answer| {
        let frames = body_of(&answer);
        answer[frames] = 9;
        client.write_all(&answer).unwrap();
    };
    let older: TamperResponse = |client, _| {
        let body = "{\"error\":{\"kind\":\"unknown\",\"message\":\"there is nothing\"}}";
        let head = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length:";
        write!(client, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
    };
    let nothing: TamperResponse = |client, answer| {
        let frames = body_of(&answer);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n";
        client
            .write_all(&[head.as_bytes(), &vec![0; answer[frames..].len().min(40)]].concat())
            .ok();
    };
    for (tamper, words, is_small) in [
        (endless, "", true),
        (malformed, "the response with block signatures is malformed", false),
        (older, "it is headwater 0.1.0, which has no block signatures", false),
        (nothing, "", false),
    ] {
        let (sandbox, receiver) = first_version_pushed();
        let proxy = TamperingProxy::before(&receiver, tamper);
        let pushed = push_without_cache(&sandbox, &[&proxy.url()]).expect(&[0]);
        assert!(pushed.stderr.contains(words), "{words}: {pushed}");
        assert!(serves_tree(&sandbox, "web"), "{words}: {pushed}");
        let (sent, new) = (sum(&pushed, "sent_bytes"), sum(&pushed, "new_bytes"));
        assert_eq!(sent * 8 < new, is_small, "{words}: {sent} of {new}: {pushed}");
    }
}

#[test]
fn base_lost_after_the_signature_request_is_sent_whole() {
    let (sandbox, receiver) = first_version_pushed();
    let objects = sandbox.path("web/.headwater/objects");
    let proxy = TamperingProxy::before(&receiver, move |client, answer| {
        for directory in fs::read_dir(&objects).unwrap() {
            for object in fs::read_dir(directory.unwrap().path()).unwrap().take(1) {
                fs::remove_file(object.unwrap().path()).unwrap();
            }
        }
        client.write_all(&answer).unwrap();
    });
    let pushed = push_without_cache(&sandbox, &[&proxy.url()]).expect(&[0]);
    assert!(pushed.stderr.contains("sending anew what builds on them"), "{pushed}");
    // The previous release has lost content for good.
    for page in fs::read_dir(sandbox.path("tree/docs")).unwrap() {
        let page = page.unwrap();
        let served = sandbox.path("web/current/docs").join(page.file_name());
        assert_eq!(fs::read(served).unwrap(), fs::read(page.path()).unwrap());
    }
}

#[test]
fn small_content_is_sent_without_a_signature_request() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    let proxy = TamperingProxy::before(&receiver, |client, answer| drop(client.write_all(&answer)));
    for version in ["1", "2"] {
        let content = [&Rng::new(1).bytes(9_000)[..], version.as_bytes()].concat();
        sandbox.write("tree", &Tree::default().file("page", content));
        push_without_cache(&sandbox, &[&proxy.url()]).expect(&[0]);
    }
    assert_eq!(proxy.questions(), 0);
}
