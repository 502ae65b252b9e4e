//! A fleet of two directories, two receivers over HTTP and one over ssh. In every round a process
//! is killed; the next push makes all mirrors equal again.

use super::program::Program;
use crate::checker;
use crate::harness::{Outcome, Sandbox};
use crate::remote::{serves_tree, ssh_flags, stand_in};
use crate::trees::{Rng, Tree, seed};

/// The mirrors, in the order of their names.
const MIRRORS: [&str; 5] = ["one", "two", "three", "four", "five"];
/// The number of disk steps before one of which the victim is killed.
const STEPS: usize = 400;

/// The process that a round kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Nobody,
    Push,
    Three,
    Four,
    Five,
}

/// Pushes the tree, while `victim` is killed before one of its disk steps.
fn push(sandbox: &Sandbox, victim: Victim, fault: &str) -> Outcome {
    let fault_of = |one: Victim| if victim == one { fault } else { "" };
    let serve = |mirror: &str, one| {
        Program::launch(sandbox, &[&sandbox.path_text(mirror), "--no-auth"], fault_of(one))
    };
    let (three, four) = (serve("three", Victim::Three), serve("four", Victim::Four));
    let ssh =
        stand_in(sandbox, "ssh", &format!("export HEADWATER_FAULT={}", fault_of(Victim::Five)));
    let places = [
        sandbox.path_text("one"),
        sandbox.path_text("two"),
        format!("http://{}/", three.address),
        format!("http://{}/", four.address),
        format!("ssh://edge{}", sandbox.path_text("five")),
    ];
    let tree = sandbox.path_text("tree");
    let mut arguments = vec!["push", &tree];
    arguments.extend(places.iter().map(String::as_str));
    // Other processes may reuse the ports.
    arguments.extend(["--init", "--allow-shrink", "--require", "any", "--deadline", "60s"]);
    arguments.extend(ssh_flags(&ssh));
    sandbox.run_with_fault(fault_of(Victim::Push), &arguments)
}

fn assert_fleet_survives(rounds: u64) {
    let mut rng = Rng::new(seed());
    let sandbox = Sandbox::new();
    for round in 1..=rounds {
        let tree = Tree::random(&mut rng, 40).file("index.html", format!("round {round}"));
        sandbox.write("tree", &tree.file("large.bin", rng.bytes(300_000)));
        let victim = rng.pick(&[Victim::Push, Victim::Three, Victim::Four, Victim::Five]);
        let fault = format!("kill@{}", 1 + rng.below(STEPS));
        let context = format!("round {round}, {victim:?}, {fault}");
        let killed = push(&sandbox, victim, &fault);
        assert!(victim == Victim::Push || killed.code().is_some(), "{context}: {killed}");
        for mirror in MIRRORS {
            checker::state(&sandbox.path(mirror))
                .unwrap_or_else(|faults| panic!("{context}: {mirror}: {faults:#?}"));
        }
        // The push must end before its deadline.
        let next = push(&sandbox, Victim::Nobody, "");
        assert_eq!(next.code(), Some(0), "{context}: {next}");
        for mirror in MIRRORS {
            assert!(serves_tree(&sandbox, mirror), "{context}: {mirror}: {next}");
        }
    }
}

#[test]
fn fleet_converges_after_kills() {
    assert_fleet_survives(2);
}

#[test]
#[ignore = "takes minutes"]
fn fleet_converges_after_300_kills() {
    let rounds = std::env::var("HEADWATER_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    assert_fleet_survives(rounds.unwrap_or(300));
}
