//! SIGTERM in every phase in which a run waits: the run exits with code 130 within two seconds and
//! reports why.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver as Hits, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Receiver, push, report, ssh_flags, stand_in};
use crate::flaky_proxy::FlakyProxy;
use crate::harness::{Outcome, Sandbox, events};
use crate::trees::{Rng, Tree};

/// The limit for the end of a run.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// A run that ends by itself takes much less time; a later end means that it was ended by force.
const ORDERLY_TIME_LIMIT: Duration = Duration::from_millis(1400);

/// Holds back requests while it exists.
#[derive(Default)]
struct Barrier(Mutex<bool>, Condvar);

impl Barrier {
    fn hold(&self) {
        let is_open = self.0.lock().unwrap();
        drop(self.1.wait_while(is_open, |is_open| !*is_open).unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

/// A mirror behind a proxy that neither reads nor answers requests whose first line contains a
/// given part.
struct Silent {
    link: FlakyProxy,
    hits: Hits<()>,
    barrier: Arc<Barrier>,
}

impl Silent {
    fn new(receiver: &Receiver, part: &'static str) -> Self {
        let (sender, hits) = channel();
        let barrier = Arc::new(Barrier::default());
        let holding = Arc::clone(&barrier);
        let link = FlakyProxy::watched(receiver.address(), move |line| {
            if line.contains(part) {
                sender.send(()).ok();
                holding.hold();
            }
        });
        Self { link, hits, barrier }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.link.address())
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.barrier.open();
    }
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `hits` shows that the run has reached the silent request.
#[track_caller]
fn wait_for(hits: &Hits<()>, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while hits.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        assert!(Instant::now() < deadline, "the run did not reach the request");
    }
}

/// Sends SIGTERM; the run must exit with 130 by itself.
#[track_caller]
fn stop(mut child: Child) -> Outcome {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > TIME_LIMIT {
            child.kill().unwrap();
            panic!(
                "it did not end: {}",
                Outcome::from("killed".to_owned(), child.wait_with_output().unwrap())
            );
        }
        std::thread::yield_now();
    }
    let took = began.elapsed();
    let outcome =
        Outcome::from("stopped".to_owned(), child.wait_with_output().unwrap()).expect(&[130]);
    assert!(took < ORDERLY_TIME_LIMIT, "the run was ended by force after {took:?}: {outcome}");
    outcome
}

/// Runs the program until it makes the request that the proxy holds back, and stops it. `URL`
/// stands for the proxy.
#[track_caller]
fn stops(sandbox: &Sandbox, silent: &Silent, arguments: &[&str]) -> Outcome {
    let url = silent.url();
    let arguments: Vec<&str> =
        arguments.iter().map(|word| if *word == "URL" { &*url } else { word }).collect();
    let mut child = start(&mut sandbox.command(&arguments));
    wait_for(&silent.hits, &mut child);
    stop(child)
}

/// Creates a sandbox with a receiver that serves a release, and another tree to push.
fn sandbox() -> (Sandbox, Receiver) {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    sandbox.write("tree", &Tree::small());
    push(&sandbox, &[&receiver.url()], &[]).expect(&[0]);
    sandbox.write(
        "tree",
        &Tree::small().file("index.html", "second").file("large", Rng::new(5).bytes(9_000_000)),
    );
    (sandbox, receiver)
}

#[test]
fn push_stops_in_every_phase_with_a_silent_receiver() {
    let (sandbox, receiver) = sandbox();
    for part in ["/v1/state ", "/v1/stage ", "/v1/activate ", "/v1/settle "] {
        let silent = Silent::new(&receiver, part);
        let outcome = stops(&sandbox, &silent, &["push", "tree", "URL", "--json"]);
        assert_eq!(report(&outcome)["exit_code"], 130, "{part}: {outcome}");
        drop(silent);
        // The held request continues once the proxy is gone.
        push(&sandbox, &[&receiver.url()], &[]).expect(&[0]);
        sandbox.write("tree", &Tree::small().file("index.html", part));
    }
}

#[test]
fn other_commands_stop_with_a_silent_receiver() {
    let (sandbox, receiver) = sandbox();
    for (part, arguments) in [
        ("/v1/state ", &["status", "URL"][..]),
        ("/v1/history ", &["status", "URL"]),
        ("/v1/verify ", &["verify", "URL"]),
        ("/v1/prune ", &["prune", "URL"]),
        ("/v1/repair ", &["repair", "URL", "--from", "tree"]),
        ("/v1/manifests/", &["diff", "URL", "tree"]),
    ] {
        stops(&sandbox, &Silent::new(&receiver, part), arguments);
    }
}

#[test]
fn push_stops_while_reading_from_a_slow_mirror() {
    let (sandbox, receiver) = sandbox();
    push(&sandbox, &[&receiver.url()], &[]).expect(&[0]);
    for (part, command) in [
        ("/v1/manifests/", &["push", "--from", "URL", "./other"][..]),
        ("/v1/manifests/", &["promote", "URL", "./other"]),
        ("/v1/manifests/", &["rollback", "URL", "--to", "1"]),
        ("/v1/objects ", &["push", "--from", "URL", "./other"]),
    ] {
        let (sender, hits) = channel();
        let link = FlakyProxy::dripping(receiver.address(), part, move |line| {
            if line.contains(part) {
                sender.send(()).ok();
            }
        });
        let url = format!("http://{}/", link.address());
        let arguments: Vec<&str> =
            command.iter().map(|word| if *word == "URL" { &*url } else { word }).collect();
        let mut child = start(&mut sandbox.command(&arguments));
        wait_for(&hits, &mut child);
        let outcome = stop(child);
        assert!(
            outcome.stderr.contains("stopped; every mirror is on a complete release"),
            "{part}: {outcome}"
        );
    }
}

#[test]
fn push_stops_while_ssh_is_silent() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small().file("large", Rng::new(5).bytes(20_000)));
    let place = format!("ssh://edge2{}", sandbox.path_text("shell"));
    // No banner; then nothing after the first request and the head of the second one is read.
    for (before, event) in [
        ("touch ran; exec sleep 60", "scan_finished"),
        (
            "touch ran; { dd bs=1 count=600 2>/dev/null; sleep 60; } | /bin/sh -c \"$*\"; exit",
            "pack_sent",
        ),
    ] {
        let ssh = stand_in(&sandbox, "ssh", before);
        let push = ["push", "tree", &place, "--events", "events.jsonl"];
        let mut child = start(&mut sandbox.command(&[&push[..], &ssh_flags(&ssh)].concat()));
        wait_for_events(&sandbox, &mut child, event);
        while !sandbox.path("ran").exists() {
            std::thread::yield_now();
        }
        std::fs::remove_file(sandbox.path("ran")).unwrap();
        stop(child);
    }
}

/// Waits until the run has written such an event.
#[track_caller]
fn wait_for_events(sandbox: &Sandbox, child: &mut Child, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !events(&sandbox.path("events.jsonl")).iter().any(|event| event["event"] == name) {
        assert!(Instant::now() < deadline, "there was no event {name}");
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::yield_now();
    }
}

#[test]
fn push_stops_while_a_mirror_is_locked() {
    let sandbox = Sandbox::new();
    sandbox.publish(&Tree::small(), &["mirror"], &[]);
    sandbox.write("tree", &Tree::small().file("index.html", "second"));
    let lock = std::fs::File::open(sandbox.path("mirror/.headwater/lock")).unwrap();
    lock.lock().unwrap();
    let mut child = start(&mut sandbox.command(&[
        "push",
        "tree",
        "./mirror",
        "./other",
        "--events",
        "events.jsonl",
    ]));
    wait_for_events(&sandbox, &mut child, "staged");
    stop(child);
}

/// Starts a server that accepts connections and never responds. It reports each connection.
fn silent_server() -> (String, Hits<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let (sender, hits) = channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            held.push(stream);
            if sender.send(()).is_err() {
                return;
            }
        }
    });
    (url, hits)
}

#[test]
fn push_stops_during_a_purge_or_probe() {
    for keys in [
        "[purge]\nurl='URL'\nbase='http://www.example'\n",
        "[[wave]]\ngroups=['g']\nprobe='index.html'\n",
    ] {
        let (url, hits) = silent_server();
        let sandbox = Sandbox::new();
        sandbox.publish(&Tree::small(), &["mirror"], &[]);
        sandbox.write("tree", &Tree::small().file("index.html", "second"));
        let mirror =
            "content='tree'\n[[mirror]]\nname='m'\nurl='./mirror'\ngroup='g'\npublic_url='URL'\n"
                .to_owned();
        std::fs::write(sandbox.path("headwater.toml"), (mirror + keys).replace("URL", &url))
            .unwrap();
        let mut child = start(&mut sandbox.command(&["push", "--json"]));
        wait_for(&hits, &mut child);
        let outcome = stop(child);
        assert_eq!(report(&outcome)["exit_code"], 130, "{keys}: {outcome}");
    }
}

#[test]
fn hook_is_killed_after_a_grace_period() {
    let sandbox = Sandbox::new();
    sandbox.publish(&Tree::small(), &["mirror"], &[]);
    sandbox.write("tree", &Tree::small().file("index.html", "second"));
    let hook =
        "[hooks]\non_activated=['sh','-c','touch ran; sleep 60']\non_failed=['touch','failed']\n";
    let mirror = "content='tree'\n[[mirror]]\nname='m'\nurl='./mirror'\n";
    std::fs::write(sandbox.path("headwater.toml"), mirror.to_owned() + hook).unwrap();
    let mut child = start(&mut sandbox.command(&["push", "--json"]));
    while !sandbox.path("ran").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::yield_now();
    }
    let outcome = stop(child);
    let answer: Value = report(&outcome);
    assert_eq!(answer["mirrors"][0]["outcome"], "activated", "{outcome}");
    assert!(
        answer["notifications"][0]["message"].as_str().unwrap().contains("stopped"),
        "{outcome}"
    );
}

#[test]
fn command_blocked_on_output_is_ended() {
    let sandbox = Sandbox::new();
    sandbox.publish(&Tree::small(), &["mirror"], &[]);
    let names = (0..4000).map(|number| format!("a-file-with-a-long-name-{number}.html"));
    sandbox.write("tree", &names.fold(Tree::small(), |tree, name| tree.file(&name, "x")));
    let mut child = start(&mut sandbox.command(&["plan", "tree", "./mirror", "--json"]));
    let mut stdout = child.stdout.take().unwrap();
    // Nothing reads its output; when the pipe is full it blocks in a system call.
    while rustix::io::ioctl_fionread(&stdout).unwrap() < 0x10000 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::yield_now();
    }
    let began = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > TIME_LIMIT {
            child.kill().unwrap();
            panic!("the run did not end");
        }
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(130));
    stdout.read_to_end(&mut Vec::new()).unwrap();
}
