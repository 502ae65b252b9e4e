//! G16: of racing pushes one wins each sequence, and each that loses reports it.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::checker::{self, Served};
use crate::flaky_proxy::FlakyProxy;
use crate::harness::{Outcome, Sandbox};
use crate::remote::{ConcurrentUploads, Receiver};
use crate::trees::Tree;

/// A tree that names the push it belongs to.
fn tree(racer: &str, round: usize) -> Tree {
    let text = format!("racer {racer}, round {round}");
    let tree = Tree::default()
        .file("index.html", &*text)
        .file("js/app.js", &*text)
        .file("same.css", "p { }");
    tree.file(&format!("only-{racer}.html"), &*text)
        .link("link", if racer == "a" { "js" } else { "same.css" })
}

/// The note that a push writes into its release.
fn note(racer: &str, round: usize) -> String {
    format!("{racer} in round {round}")
}

/// Starts both pushes and waits for both.
fn race(sandbox: &Sandbox, round: usize, mirrors: &[String], flags: [&[&str]; 2]) -> [Outcome; 2] {
    let racers = ["a", "b"];
    let started = [0, 1].map(|index| {
        let racer = racers[index];
        sandbox.write(racer, &tree(racer, round));
        let (place, cache) =
            (sandbox.path_text(racer), sandbox.path_text(&format!("cache-{racer}")));
        let note = note(racer, round);
        let mut arguments = vec!["push", &place, "--cache", &cache, "--note", &note];
        arguments.extend(flags[index]);
        let mirrors: Vec<&str> = mirrors.iter().map(|mirror| &**mirror).collect();
        // The arguments in the other order: the lead mirror is chosen by store id, not by order.
        let ordered: Vec<&str> =
            if index == 0 { mirrors } else { mirrors.into_iter().rev().collect() };
        let mut command = sandbox.command(&[&arguments[..], &ordered].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        (format!("{command:?}"), child)
    });
    started.map(|(what, child)| Outcome::from(what, child.wait_with_output().unwrap()))
}

/// Compares the reported results with the state of the mirrors.
struct RaceChecker<'a> {
    sandbox: &'a Sandbox,
    mirrors: &'a [String],
    /// The sequence before this round.
    before: u64,
    /// The notes of all pushes that reported full or partial success.
    reported: &'a mut BTreeSet<String>,
}

impl RaceChecker<'_> {
    /// Compares the exit codes of a round with what the mirrors serve. Returns what they serve.
    fn check_round(&mut self, round: usize, outcomes: &[Outcome; 2]) -> Served {
        let text = format!("{}{}", outcomes[0], outcomes[1]);
        let check = |mirror: &String| checker::check_store(mirror.as_ref());
        let served: Result<Vec<Served>, _> = self.mirrors.iter().map(check).collect();
        let served = served.unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"));
        assert!(served.iter().all(|one| one.name == served[0].name), "mirrors differ: {text}");
        let current = &served[0].record;
        for (racer, outcome) in ["a", "b"].iter().zip(outcomes) {
            match outcome.code() {
                // Code 3: overtaken between the lead mirror and the others.
                Some(0 | 3) => drop(self.reported.insert(note(racer, round))),
                Some(4 | 6 | 9) => {}
                _ => panic!("{text}"),
            }
        }
        let mut places = [0; 2];
        for mirror in self.mirrors {
            let kept = checker::records(mirror.as_ref());
            let was_served = |name: &&String| {
                kept[*name].sequence < current.sequence || **name == served[0].name
            };
            let notes: BTreeSet<String> = kept
                .keys()
                .filter(was_served)
                .map(|name| kept[name].note.clone().unwrap())
                .collect();
            assert!(
                notes.is_subset(self.reported),
                "{notes:?} were served, but {:?} reported success: {text}",
                self.reported
            );
            let is_there = |racer: &str| usize::from(notes.contains(&note(racer, round)));
            places = [places[0] + is_there("a"), places[1] + is_there("b")];
        }
        for (outcome, places) in outcomes.iter().zip(places) {
            let is_true = match outcome.code() {
                Some(0) => places == self.mirrors.len(),
                Some(3) => places > 0,
                _ => places == 0,
            };
            assert!(is_true, "served on {places} mirrors: {outcome}{text}");
        }
        let winner = usize::from(current.note.as_deref() == Some(&note("b", round)));
        let tree = self.sandbox.path(["a", "b"][winner]);
        checker::check_equals_tree(&served[0], &tree)
            .unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"));
        assert_eq!(outcomes[winner].code(), Some(0), "the winner did not report success: {text}");
        // A sequence that was staged and not activated is not used again, so there may be gaps.
        assert!(current.sequence > self.before, "{text}");
        served.into_iter().next().expect("a mirror")
    }
}

/// Races on the same mirrors; every tenth round starts with new ones.
fn races(rounds: usize, mirrors: usize, ordered: bool) {
    let sandbox = Sandbox::new();
    let mut before = 0;
    let (mut codes, mut reported) = ([0; 10], BTreeSet::new());
    for round in 0..rounds {
        let fresh = round % 10 == 0;
        if fresh {
            before = 0;
            reported.clear();
        }
        let mirrors: Vec<String> = (0..mirrors)
            .map(|index| sandbox.path_text(&format!("m{}-{index}", round / 10)))
            .collect();
        let (older, newer) = (format!("ci:{}", 2 * round), format!("ci:{}", 2 * round + 1));
        let none: [&[&str]; 2] = [&[], &[]];
        let flags: [&[&str]; 2] =
            if ordered { [&["--order", &older], &["--order", &newer]] } else { none };
        let outcomes = race(&sandbox, round, &mirrors, flags);
        let mut checker =
            RaceChecker { sandbox: &sandbox, mirrors: &mirrors, before, reported: &mut reported };
        let served = checker.check_round(round, &outcomes);
        if ordered {
            assert_eq!(
                served.record.note,
                Some(note("b", round)),
                "the newer run lost: {}{}",
                outcomes[0],
                outcomes[1]
            );
        }
        before = served.record.sequence;
        outcomes
            .iter()
            .for_each(|outcome| codes[usize::try_from(outcome.code().unwrap()).unwrap()] += 1);
    }
    println!("exit codes 0 to 9: {codes:?}");
}

#[test]
fn one_of_two_racing_pushes_to_a_mirror_wins_each_sequence() {
    races(50, 1, false);
}

#[test]
fn one_of_two_racing_pushes_to_three_mirrors_wins_everywhere() {
    races(30, 3, false);
}

#[test]
fn newer_of_two_racing_runs_is_served_in_the_end() {
    races(20, 3, true);
}

#[test]
fn one_of_two_racing_pushes_to_a_receiver_wins_each_sequence() {
    let sandbox = Sandbox::new();
    let mirrors = [sandbox.path_text("mirror")];
    let receiver = Receiver::start(&sandbox.path("mirror"));
    let (mut before, mut reported) = (0, BTreeSet::new());
    for round in 0..8 {
        // Neither push stages before the other one has polled what is current, too.
        let meeting = ConcurrentUploads::default();
        let link = FlakyProxy::watched(receiver.address(), move |line| {
            if line.starts_with("POST /v1/stage ") {
                meeting.hold(Duration::from_secs(10));
            }
        });
        let outcomes = race(&sandbox, round, &[format!("http://{}/", link.address())], [&[], &[]]);
        let mut checker =
            RaceChecker { sandbox: &sandbox, mirrors: &mirrors, before, reported: &mut reported };
        before = checker.check_round(round, &outcomes).record.sequence;
        println!("exit codes: {:?}", outcomes.map(|outcome| outcome.code()));
    }
}

/// Returns a proxy to a receiver whose store is `mirror`. Before the first activation another push
/// stages `rival` there.
fn link_with_rival(sandbox: &Sandbox, receiver: &Receiver, rival: &'static str) -> FlakyProxy {
    let stage =
        sandbox.command(&["push", rival, "./mirror", "--stage-only", "--cache", "rival-cache"]);
    let stage = Mutex::new(Some(stage));
    FlakyProxy::watched(receiver.address(), move |line| {
        if line.starts_with("POST /v1/activate ")
            && let Some(mut stage) = stage.lock().unwrap().take()
        {
            Outcome::of(&mut stage).expect(&[0]);
        }
    })
}

#[test]
fn push_displaced_by_a_staged_release_stages_again() {
    let sandbox = Sandbox::new();
    sandbox.publish(&tree("a", 1), &["mirror"], &[]);
    sandbox.write("tree", &tree("a", 2));
    sandbox.write("rival", &tree("b", 2));
    let receiver = Receiver::start(&sandbox.path("mirror"));
    let link = link_with_rival(&sandbox, &receiver, "rival");
    let url = format!("http://{}/", link.address());
    sandbox.run(&["push", "tree", &url, "--superseded-ok"]).expect(&[0]);
    checker::check_equals_tree(&sandbox.served("mirror"), &sandbox.path("tree")).unwrap();
}

#[test]
fn competing_staged_release_does_not_keep_a_mirror_behind() {
    let sandbox = Sandbox::new();
    sandbox.publish(&tree("a", 1), &["one", "two"], &[]);
    sandbox.write("tree", &tree("a", 2));
    sandbox.write("rival", &tree("b", 2));
    let activations = Arc::new(AtomicUsize::new(0));
    let receivers = ["one", "two"].map(|mirror| Receiver::start(&sandbox.path(mirror)));
    let links = [0, 1].map(|index: usize| {
        let mirror = ["./one", "./two"][index];
        let stage = Mutex::new(sandbox.command(&[
            "push",
            "rival",
            mirror,
            "--stage-only",
            "--cache",
            "rival-cache",
        ]));
        let activations = Arc::clone(&activations);
        FlakyProxy::watched(receivers[index].address(), move |line| {
            // The first mirror leads.
            if line.starts_with("POST /v1/activate ")
                && activations.fetch_add(1, Ordering::SeqCst) == 1
            {
                Outcome::of(&mut stage.lock().unwrap()).expect(&[0]);
            }
        })
    });
    let urls = links.each_ref().map(|link| format!("http://{}/", link.address()));
    sandbox.run(&["push", "tree", &urls[0], &urls[1]]).expect(&[0]);
    for mirror in ["one", "two"] {
        checker::check_equals_tree(&sandbox.served(mirror), &sandbox.path("tree")).unwrap();
    }
}

#[test]
fn activation_displaced_by_a_staged_release_names_it_and_fails() {
    let sandbox = Sandbox::new();
    let before = sandbox.publish(&tree("a", 1), &["mirror"], &[]);
    sandbox.write("tree", &tree("a", 2));
    sandbox.write("rival", &tree("b", 2));
    sandbox.push("tree", &["mirror"], &["--stage-only"]).expect(&[0]);
    let receiver = Receiver::start(&sandbox.path("mirror"));
    let link = link_with_rival(&sandbox, &receiver, "rival");
    let url = format!("http://{}/", link.address());
    let lost = sandbox.run(&["activate", "2", &url, "--json"]).expect(&[4]);
    let answer: serde_json::Value = serde_json::from_str(&lost.stdout).unwrap();
    let mirror = &answer["mirrors"][0];
    assert_eq!(mirror["outcome"], "displaced", "{lost}");
    let rival = mirror["by"].as_str().unwrap();
    assert!(lost.stderr.contains(&format!("`headwater activate {rival}`")), "{lost}");
    assert_eq!(sandbox.served("mirror"), before);
    sandbox.run(&["activate", rival, "./mirror"]).expect(&[0]);
    checker::check_equals_tree(&sandbox.served("mirror"), &sandbox.path("rival")).unwrap();
}

#[test]
#[ignore = "minutes"]
fn thousand_races_have_one_winner_each() {
    races(400, 1, false);
    races(400, 3, false);
    races(200, 3, true);
}

#[test]
fn older_run_after_a_newer_one_is_superseded() {
    let sandbox = Sandbox::new();
    let newer = sandbox.publish(&tree("a", 2), &["mirror"], &["--order", "ci:5"]);
    sandbox.write("tree", &tree("a", 1));
    let refused = sandbox.push("tree", &["mirror"], &["--order", "ci:4"]).expect(&[6]);
    assert!(refused.stderr.contains("--allow-older"), "{refused}");
    sandbox.push("tree", &["mirror"], &["--order", "ci:4", "--superseded-ok"]).expect(&[0]);
    assert_eq!(sandbox.served("mirror"), newer);
    sandbox.push("tree", &["mirror"], &["--order", "other:1"]).expect(&[0]);
    let served = sandbox.served("mirror");
    assert_eq!(
        served.record.orders.unwrap().into_iter().collect::<Vec<_>>(),
        [("ci".into(), 5), ("other".into(), 1)]
    );
    sandbox.push("tree", &["mirror"], &["--order", "ci:4", "--superseded-ok"]).expect(&[0]);
    let served = sandbox.publish(&tree("a", 3), &["mirror"], &["--order", "ci:4", "--allow-older"]);
    assert_eq!(
        served.record.orders.unwrap()["ci"],
        4,
        "the stream continues from the allowed number"
    );
}
