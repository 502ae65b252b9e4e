//! Ctrl-C during an upload.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::sync::mpsc::channel;

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Receiver, over, push, serves_tree, stand_in};
use crate::flaky_proxy::FlakyProxy;
use crate::harness::{Outcome, World, events};
use crate::trees::{Rng, Tree};

/// A number of bytes that takes minutes at the rate of [`is_stopped`].
const LARGE: usize = 3_000_000;

/// Publishes a tree at `place`, and changes the tree.
fn begin(world: &World, place: &str, flags: &[&str]) {
    world.write("tree", &Tree::small());
    push(world, &[place], flags).expect(&[0]);
    world.write(
        "tree",
        &Tree::small().file("index.html", "second").file("large", Rng::new(5).bytes(LARGE)),
    );
}

/// Pushes to `place`, slowly, and presses Ctrl-C once it is sending; the local directory `mirror`
/// must not change.
#[track_caller]
fn is_stopped(
    world: &World,
    place: &str,
    mirror: &str,
    flags: &[&str],
    sending: impl FnOnce(&mut Child),
) {
    let before = world.served(mirror);
    let tree = world.at("tree");
    let slowly = ["push", &tree, place, "--bwlimit", "20kB", "--events", "events.jsonl"];
    let mut command = world.command(&[&slowly, flags].concat());
    // Sends the signal only to this process and its children, as a terminal does for its foreground
    // group.
    let mut child =
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    sending(&mut child);
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    let outcome =
        Outcome::from("push".to_owned(), child.wait_with_output().unwrap()).expect(&[130]);
    assert_eq!(world.served(mirror), before, "{outcome}");
}

/// Pushes again, without an interrupt.
#[track_caller]
fn goes_on(world: &World, place: &str, mirror: &str, flags: &[&str]) {
    push(world, &[place], flags).expect(&[0]);
    assert!(serves_tree(world, mirror));
}

#[test]
fn ctrl_c_during_an_http_upload_keeps_the_served_release() {
    let world = World::new();
    let receiver = Receiver::start(&world.path("web"));
    begin(&world, &receiver.url(), &[]);
    let (sender, uploads) = channel();
    let link = FlakyProxy::watched(receiver.address(), move |line| {
        if line.starts_with("POST /v1/stage ") {
            // The test stops reading here.
            sender.send(()).ok();
        }
    });
    is_stopped(&world, &format!("http://{}/", link.address()), "web", &[], |_| {
        uploads.recv().unwrap();
    });
    assert!(link.bytes() < LARGE as u64 / 2, "it went on sending");
    goes_on(&world, &receiver.url(), "web", &[]);
}

#[test]
fn ctrl_c_during_an_ssh_upload_keeps_the_served_release() {
    let world = World::new();
    let ssh = stand_in(&world, "ssh", "");
    let place = format!("ssh://edge2{}", world.at("shell"));
    begin(&world, &place, &over(&ssh));
    is_stopped(&world, &place, "shell", &over(&ssh), |child| {
        // There is something to send, and it takes minutes.
        while !events(&world.path("events.jsonl"))
            .iter()
            .any(|event| event["event"] == "pack_sealed")
        {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::yield_now();
        }
    });
    goes_on(&world, &place, "shell", &over(&ssh));
}
