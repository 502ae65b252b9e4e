//! Content that is missing in the tree is read from mirrors: with few requests, and without long
//! waits for a mirror that is gone.

use std::sync::{Arc, Mutex};

use super::{Receiver, push, serves_tree};
use crate::flaky_proxy::FlakyProxy;
use crate::harness::{Outcome, Sandbox};
use crate::trees::Tree;

/// Assets that the second tree lacks: they are retired, and a joining mirror needs them.
const ASSETS: usize = 300;

/// A mirror, behind a proxy, that alone has content that the tree lacks.
struct Hub {
    sandbox: Sandbox,
    receiver: Arc<Mutex<Option<Receiver>>>,
    lines: Arc<Mutex<Vec<String>>>,
    link: FlakyProxy,
}

impl Hub {
    /// Creates the hub. If it `dies`, it stops for good at the first request for content.
    fn new(dies: bool) -> Self {
        let sandbox = Sandbox::new();
        let receiver = Receiver::start(&sandbox.path("hub"));
        let address = receiver.address();
        let (receiver, lines) =
            (Arc::new(Mutex::new(Some(receiver))), Arc::<Mutex<Vec<String>>>::default());
        let (kept, victim) = (Arc::clone(&lines), Arc::clone(&receiver));
        let link = FlakyProxy::watched(address, move |line| {
            kept.lock().unwrap().push(line.to_owned());
            if dies && line.contains("/v1/objects") {
                drop(victim.lock().unwrap().take());
            }
        });
        let hub = Self { sandbox, receiver, lines, link };
        let assets = (0..ASSETS)
            .fold(Tree::small(), |tree, n| tree.file(&format!("a{n}.js"), format!("asset {n}")));
        hub.sandbox.write("tree", &assets);
        let shrinks = ["--allow-shrink"];
        push(&hub.sandbox, &[&hub.url(), &hub.sandbox.path_text("keeper")], &[]).expect(&[0]);
        hub.sandbox.write("tree", &Tree::small());
        push(&hub.sandbox, &[&hub.url()], &shrinks).expect(&[0]);
        hub.lines.lock().unwrap().clear();
        hub
    }

    fn url(&self) -> String {
        format!("http://{}/", self.link.address())
    }

    /// Returns the requests for content since the last call.
    fn requests(&self) -> Vec<String> {
        let lines = std::mem::take(&mut *self.lines.lock().unwrap());
        lines
            .into_iter()
            .filter(|line| line.contains("/v1/objects") || line.contains("/v1/holds"))
            .collect()
    }

    /// Pushes the tree to the hub and to these mirrors, which are empty.
    fn push(&self, others: &[&str]) -> Outcome {
        let others: Vec<String> =
            others.iter().map(|other| self.sandbox.path_text(other)).collect();
        let url = self.url();
        let places: Vec<&str> =
            std::iter::once(&*url).chain(others.iter().map(String::as_str)).collect();
        push(&self.sandbox, &places, &["--require", "any"])
    }
}

#[test]
fn content_missing_from_the_tree_is_read_with_one_request() {
    let hub = Hub::new(false);
    hub.push(&["new"]).expect(&[0]);
    assert_eq!(hub.requests(), ["POST /v1/objects HTTP/1.1"]);
    assert!(serves_tree(&hub.sandbox, "new"));
    let asset =
        std::fs::read_to_string(hub.sandbox.path(format!("new/current/a{}.js", ASSETS - 1)))
            .unwrap();
    assert_eq!(asset, format!("asset {}", ASSETS - 1));
}

#[test]
fn source_mirror_that_fails_is_not_asked_repeatedly() {
    let hub = Hub::new(true);
    let outcome = hub.push(&["new", "newer"]);
    assert!(hub.receiver.lock().unwrap().is_none(), "{outcome}");
    assert!(outcome.stderr.contains("cannot get the content of a0.js"), "{outcome}");
    assert!(
        outcome.stderr.contains("and 295 more") && outcome.stderr.contains("127.0.0.1"),
        "{outcome}"
    );
    // One request may use an idle connection; the others are the attempts until a mirror counts as
    // unreachable.
    let requests = hub.requests();
    assert!((1..=8).contains(&requests.len()), "{requests:?}");
}

#[test]
fn another_mirror_replaces_a_failed_source() {
    let hub = Hub::new(true);
    let outcome = hub.push(&["keeper", "new"]);
    outcome.expect(&[0, 3]);
    assert!(hub.requests().len() <= 2, "{:?}", hub.requests());
    assert!(serves_tree(&hub.sandbox, "new") && serves_tree(&hub.sandbox, "keeper"));
}
