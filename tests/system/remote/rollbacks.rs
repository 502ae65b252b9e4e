//! A rollback during a push: it ends on the intended release, or reports that the push won.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use super::{Receiver, push};
use crate::flaky_proxy::FlakyProxy;
use crate::harness::{Outcome, Sandbox};
use crate::trees::Tree;

fn tree(version: u64) -> Tree {
    Tree::small().file("index.html", format!("version {version}"))
}

/// Creates a receiver with releases 1 and 2, and the tree of version 3.
fn sandbox() -> (Sandbox, Receiver) {
    let sandbox = Sandbox::new();
    let receiver = Receiver::start(&sandbox.path("web"));
    for version in [1, 2] {
        sandbox.write("tree", &tree(version));
        push(&sandbox, &[&receiver.url()], &[]).expect(&[0]);
    }
    sandbox.write("tree", &tree(3));
    (sandbox, receiver)
}

fn served(sandbox: &Sandbox, mirror: &str) -> String {
    std::fs::read_to_string(sandbox.path(format!("{mirror}/current/index.html"))).unwrap()
}

/// Rolls back through a proxy that calls `before` before it forwards each request.
fn rollback(
    sandbox: &Sandbox,
    receiver: &Receiver,
    others: &[&str],
    before: impl Fn(&str) + Send + Sync + 'static,
) -> Outcome {
    let link = FlakyProxy::watched(receiver.address(), before);
    let url = format!("http://{}/", link.address());
    sandbox.run(&[&["rollback", &url][..], others, &["--cache", "rollback-cache"]].concat())
}

/// Starts a push to `url`, with its own cache.
fn start_push(sandbox: &Sandbox, url: &str) -> std::process::Child {
    let mut command =
        sandbox.command(&["push", &sandbox.path_text("tree"), url, "--cache", "push-cache"]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: std::process::Child) -> Outcome {
    Outcome::from("the push".into(), child.wait_with_output().unwrap())
}

#[test]
fn rollback_during_a_push_polls_again() {
    let (sandbox, receiver) = sandbox();
    let here = sandbox.path_text("here");
    sandbox.run(&["push", "--from", &receiver.url(), &here]).expect(&[0]);
    // One mirror has activated release 3, the other one has not.
    push(&sandbox, &[&here], &[]).expect(&[0]);
    let asked = AtomicUsize::new(0);
    let (looks, finish) = channel();
    let finish = Mutex::new(finish);
    let outcome = std::thread::scope(|scope| {
        let (sandbox, receiver, here) = (&sandbox, &receiver, &*here);
        let (answer, finished) = channel::<()>();
        let finished = Mutex::new(finished);
        scope.spawn(move || {
            finish.lock().unwrap().recv().unwrap();
            push(sandbox, &[&receiver.url(), here], &["--cache", "push-cache"]).expect(&[0]);
            answer.send(()).unwrap();
        });
        rollback(sandbox, receiver, &[here], move |line| {
            // At the second poll the push is done with the other mirror, too.
            if line.starts_with("GET /v1/state") && asked.fetch_add(1, Ordering::SeqCst) == 1 {
                looks.send(()).unwrap();
                finished.lock().unwrap().recv().unwrap();
            }
        })
    });
    let outcome = outcome.expect(&[0]);
    assert!(!outcome.stderr.contains("ambiguous"), "{outcome}");
    for mirror in ["web", "here"] {
        assert_eq!(
            (served(&sandbox, mirror), sandbox.served(mirror).record.sequence),
            ("version 2".into(), 4),
            "{outcome}"
        );
    }
}

#[test]
fn push_during_a_rollback_supersedes_it() {
    let (sandbox, receiver) = sandbox();
    let (tree, url, cache) =
        (sandbox.path_text("tree"), receiver.url(), sandbox.path_text("push-cache"));
    let program = Mutex::new(Some(sandbox.command(&["push", &tree, &url, "--cache", &cache])));
    let outcome = rollback(&sandbox, &receiver, &[], move |line| {
        if line.starts_with("POST /v1/activate")
            && let Some(mut program) = program.lock().unwrap().take()
        {
            Outcome::of(&mut program).expect(&[0]);
        }
    });
    let outcome = outcome.expect(&[6]);
    assert!(outcome.stdout.contains("superseded by a newer push"), "{outcome}");
    assert_eq!(served(&sandbox, "web"), "version 3");
}

#[test]
fn rollback_overtaken_by_an_older_push_still_wins() {
    let (sandbox, receiver) = sandbox();
    let (go, gone) = channel::<()>();
    let (arrive, arrived) = channel::<()>();
    let gone = Mutex::new(Some(gone));
    // The push starts first and stops before it stages.
    let link = FlakyProxy::watched(receiver.address(), move |line| {
        if line.starts_with("POST /v1/stage")
            && let Some(gone) = gone.lock().unwrap().take()
        {
            arrive.send(()).unwrap();
            gone.recv().unwrap();
        }
    });
    let pushed = start_push(&sandbox, &format!("http://{}/", link.address()));
    arrived.recv().unwrap();
    let pushed = Mutex::new(Some(pushed));
    let outcome = rollback(&sandbox, &receiver, &[], move |line| {
        if line.starts_with("POST /v1/activate")
            && let Some(pushed) = pushed.lock().unwrap().take()
        {
            go.send(()).unwrap();
            end(pushed).expect(&[0]);
        }
    });
    let outcome = outcome.expect(&[0]);
    assert!(outcome.stderr.contains("starting again on top of it"), "{outcome}");
    assert_eq!(
        (&*served(&sandbox, "web"), sandbox.served("web").record.sequence),
        ("version 1", 4),
        "{outcome}"
    );
}
