//! Responses that are lost after the request was processed.

use std::io::{BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Receiver, push, report, serves_tree};
use crate::flaky_proxy::Message;
use crate::harness::Sandbox;
use crate::trees::Tree;

const LOCKED: &str = r#"{"error":{"kind":"locked","message":"somebody else has the lock"}}"#;

/// Forwards a request to the receiver at `to` and returns the response.
fn forward(request: &[u8], to: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(request).unwrap();
    Message::whole(&mut BufReader::new(stream)).unwrap().bytes()
}

/// What happens to a connection whose response is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterLoss {
    Cut,
    Silent,
}

/// Starts a proxy that drops the response to the first activation, and refuses further ones.
fn drop_activation_response(listener: &TcpListener, to: SocketAddr, end: AfterLoss) {
    let activations = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let activations = &activations;
            scope.spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(request) = Message::whole(&mut reader).map(|request| request.bytes())
                {
                    let is_activation = request.starts_with(b"POST /v1/activate ");
                    let before =
                        if is_activation { activations.fetch_add(1, Ordering::SeqCst) } else { 0 };
                    let answer = match before {
                        0 => forward(&request, to),
                        _ => format!(
                            "HTTP/1.1 423 Locked\r\ncontent-type: application/json\r\n\
                             content-length: {}\r\n\r\n{LOCKED}",
                            LOCKED.len()
                        )
                        .into_bytes(),
                    };
                    match (is_activation && before == 0, end) {
                        (true, AfterLoss::Cut) => drop(stream.shutdown(Shutdown::Both)),
                        // The next read ends when the client closes the connection.
                        (true, AfterLoss::Silent) => {}
                        (false, _) => drop(stream.write_all(&answer)),
                    }
                }
            });
        }
    });
}

#[track_caller]
fn pushes_through(end: AfterLoss, flags: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let receiver = Receiver::start(&sandbox.path("there"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let to = receiver.address();
    std::thread::spawn(move || drop_activation_response(&listener, to, end));
    let outcome = push(&sandbox, &[&url], &[flags, &["--json"]].concat()).expect(&[0]);
    assert_eq!(report(&outcome)["mirrors"][0]["outcome"], "activated", "{outcome}");
    assert!(serves_tree(&sandbox, "there"));
}

#[test]
fn activation_with_a_lost_response_is_not_a_failure() {
    pushes_through(AfterLoss::Cut, &["--wait", "0s"]);
}

#[test]
fn activation_made_before_the_deadline_is_not_a_failure() {
    pushes_through(AfterLoss::Silent, &["--deadline", "5s"]);
}
