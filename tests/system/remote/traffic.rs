//! What goes over the wire: how many requests, how fast, and how many mirrors at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Receiver, push, serves_tree};
use crate::chaos::Chaos;
use crate::harness::World;
use crate::trees::{Rng, Tree};

/// A link to `receiver` that takes some time, and the requests that went over it.
fn counted(receiver: &Receiver) -> (Chaos, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&lines);
    let link = Chaos::watched(receiver.address(), move |line| {
        kept.lock().unwrap().push(line.to_owned());
        if line.starts_with("GET /v1/state ") {
            // Packs are waited for as long as the first answer took, and otherwise go in requests of their own.
            std::thread::park_timeout(Duration::from_secs(1));
        }
    });
    (link, lines)
}

#[test]
fn a_push_makes_no_more_requests_than_it_needs() {
    let world = World::new();
    let receiver = Receiver::start(&world.path("web"));
    let (link, lines) = counted(&receiver);
    let url = format!("http://{}/", link.address());
    let tree = Tree::random(&mut Rng::new(1), 50);
    let update = ["GET /v1/state HTTP/1.1", "POST /v1/stage HTTP/1.1", "POST /v1/activate HTTP/1.1"];
    let settled = [&update[..], &["POST /v1/settle HTTP/1.1"]].concat();
    for (round, wanted) in [(1, &settled[..]), (1, &update[..1]), (2, &settled), (2, &update[..1])] {
        world.write("tree", &tree.clone().file("index.html", format!("round {round}")));
        push(&world, &[&url], &[]).expect(&[0]);
        assert_eq!(*std::mem::take(&mut *lines.lock().unwrap()), *wanted, "round {round}");
    }
    assert!(serves_tree(&world, "web"));
}
