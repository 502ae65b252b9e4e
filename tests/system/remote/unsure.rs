//! Answers that are lost after the deed was done.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Receiver, push, report, serves_tree};
use crate::harness::World;
use crate::trees::Tree;

const LOCKED: &str = r#"{"error":{"kind":"locked","message":"somebody else has the lock"}}"#;

/// Reads one request or answer: head and body.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut bytes, mut some) = (Vec::new(), [0; 4096]);
    loop {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if bytes.len() == head + length {
                return Some(bytes);
            }
        }
        match stream.read(&mut some) {
            Ok(count @ 1..) => bytes.extend_from_slice(&some[..count]),
            _ => return None,
        }
    }
}

/// The answer of the receiver at `to`.
fn forward(request: &[u8], to: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(request).unwrap();
    message(&mut stream).unwrap()
}

/// What becomes of a connection whose answer is swallowed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Cut,
    Silent,
}

/// Stands before a receiver; swallows the answer to the first activation, and refuses the others.
fn swallow(listener: &TcpListener, to: SocketAddr, end: End) {
    let activations = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let activations = &activations;
            scope.spawn(move || {
                while let Some(request) = message(&mut stream) {
                    let is_activation = request.starts_with(b"POST /v1/activate ");
                    let before = if is_activation { activations.fetch_add(1, Ordering::SeqCst) } else { 0 };
                    let answer = match before {
                        0 => forward(&request, to),
                        _ => format!(
                            "HTTP/1.1 423 Locked\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{LOCKED}",
                            LOCKED.len()
                        )
                        .into_bytes(),
                    };
                    match (is_activation && before == 0, end) {
                        (true, End::Cut) => drop(stream.shutdown(Shutdown::Both)),
                        // The next read ends when the other side has had enough.
                        (true, End::Silent) => {}
                        (false, _) => drop(stream.write_all(&answer)),
                    }
                }
            });
        }
    });
}

#[track_caller]
fn pushes_through(end: End, flags: &[&str]) {
    let world = World::new();
    world.write("tree", &Tree::small());
    let receiver = Receiver::start(&world.path("there"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let to = receiver.address();
    std::thread::spawn(move || swallow(&listener, to, end));
    let outcome = push(&world, &[&url], &[flags, &["--json"]].concat()).expect(&[0]);
    assert_eq!(report(&outcome)["mirrors"][0]["outcome"], "activated", "{outcome}");
    assert!(serves_tree(&world, "there"));
}

#[test]
fn a_switch_whose_answer_was_lost_is_no_failure_whatever_is_said_later() {
    pushes_through(End::Cut, &["--wait", "0s"]);
}

#[test]
fn a_switch_that_was_made_before_the_deadline_is_no_failure() {
    pushes_through(End::Silent, &["--deadline", "5s"]);
}
