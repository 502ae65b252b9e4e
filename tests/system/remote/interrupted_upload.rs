//! Ctrl-C during an upload.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::sync::mpsc::channel;

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Receiver, push, serves_tree, ssh_flags, stand_in};
use crate::flaky_proxy::FlakyProxy;
use crate::harness::{Outcome, Sandbox, events};
use crate::trees::{Rng, Tree};

/// A number of bytes that takes minutes at the rate of [`assert_interrupt_keeps_release`].
const LARGE: usize = 3_000_000;

/// Publishes a tree at `place`, and changes the tree.
fn publish_and_change(sandbox: &Sandbox, place: &str, flags: &[&str]) {
    sandbox.write("tree", &Tree::small());
    push(sandbox, &[place], flags).expect(&[0]);
    sandbox.write(
        "tree",
        &Tree::small().file("index.html", "second").file("large", Rng::new(5).bytes(LARGE)),
    );
}

/// Pushes to `place`, slowly, and presses Ctrl-C once it is sending; the local directory `mirror`
/// must not change.
#[track_caller]
fn assert_interrupt_keeps_release(
    sandbox: &Sandbox,
    place: &str,
    mirror: &str,
    flags: &[&str],
    sending: impl FnOnce(&mut Child),
) {
    let before = sandbox.served(mirror);
    let tree = sandbox.path_text("tree");
    let slowly = ["push", &tree, place, "--bwlimit", "20kB", "--events", "events.jsonl"];
    let mut command = sandbox.command(&[&slowly, flags].concat());
    // Sends the signal only to this process and its children, as a terminal does for its foreground
    // group.
    let mut child =
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    sending(&mut child);
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    let outcome =
        Outcome::from("push".to_owned(), child.wait_with_output().unwrap()).expect(&[130]);
    assert_eq!(sandbox.served(mirror), before, "{outcome}");
}

/// Pushes again, without an interrupt.
#[track_caller]
fn assert_next_push_succeeds(sandbox: &Sandbox, place: &str, mirror: &str, flags: &[&str]) {
    push(sandbox, &[place], flags).expect(&[0]);
    assert!(serves_tree(sandbox, mirror));
}

#[test]
fn ctrl_c_during_an_http_upload_keeps_the_served_release() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    publish_and_change(&sandbox, &receiver.url(), &[]);
    let (sender, uploads) = channel();
    let link = FlakyProxy::watched(receiver.address(), move |line| {
        if line.starts_with("POST /v1/stage ") {
            // The test stops reading here.
            sender.send(()).ok();
        }
    });
    assert_interrupt_keeps_release(
        &sandbox,
        &format!("http://{}/", link.address()),
        "web",
        &[],
        |_| {
            uploads.recv().unwrap();
        },
    );
    assert!(link.bytes() < LARGE as u64 / 2, "the push continued to send");
    assert_next_push_succeeds(&sandbox, &receiver.url(), "web", &[]);
}

#[test]
fn ctrl_c_during_an_ssh_upload_keeps_the_served_release() {
    let sandbox = Sandbox::new();
    let ssh = stand_in(&sandbox, "ssh", "");
    let place = format!("ssh://edge2{}", sandbox.path_text("shell"));
    publish_and_change(&sandbox, &place, &ssh_flags(&ssh));
    assert_interrupt_keeps_release(&sandbox, &place, "shell", &ssh_flags(&ssh), |child| {
        // There is something to send, and it takes minutes.
        while !events(&sandbox.path("events.jsonl"))
            .iter()
            .any(|event| event["event"] == "pack_sealed")
        {
            assert!(child.try_wait().unwrap().is_none(), "the push ended by itself");
            std::thread::yield_now();
        }
    });
    assert_next_push_succeeds(&sandbox, &place, "shell", &ssh_flags(&ssh));
}
