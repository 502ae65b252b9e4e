//! Mirrors that respond after a push has decided what to publish: the others do not wait for them,
//! and they are updated when they respond, unless they serve a newer release.
//!
//! These tests do not depend on a clock: a mirror responds when the push has reported the event for
//! which the test waits.

mod claims;
mod edge;
mod rollbacks;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater::mirror::{DirectoryMirror, Mirror, MirrorIdentity};
use headwater::monitor::{Event, SilentMonitor};
use headwater::push::{
    DecidedBy, Fleet, Goal, Guards, KeepContent, KnownStores, LevelChoice, MtimeSource, OnFailure,
    Options, Outcome, Planned, Policy, Report, Require, Retention, RunNumber, ScratchLocation,
    Source, Wave, plan, plan_rollback, push,
};
use headwater::release::ReleaseName;
use headwater::scan::{Root, ScanOptions};

use crate::harness::Sandbox;
use edge::{AnswerCondition, Edge, PUSH_TIME_LIMIT, Recorder, dead};

const NAMES: [&str; 5] = ["edge1", "edge2", "edge3", "edge4", "edge5"];

fn four_have_switched(events: &[Event]) -> bool {
    events.iter().filter(|event| matches!(event, Event::Activated { .. })).count() == 4
}

fn one_has_failed(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::MirrorFailed { .. }))
}

fn directory(name: &str, location: String, path: PathBuf) -> DirectoryMirror {
    let identity = MirrorIdentity { name: name.to_owned(), location, site: None };
    DirectoryMirror::new(identity, path, PUSH_TIME_LIMIT, NonZeroUsize::MIN)
}

/// Five mirrors that serve release 1, and a tree that differs for each push.
struct Edges {
    sandbox: Sandbox,
    trees: u64,
}

impl Edges {
    /// Creates five mirrors without a release.
    fn absent() -> Self {
        Self { sandbox: Sandbox::new(), trees: 0 }
    }

    fn new() -> Self {
        let mut edges = Self::absent();
        edges.publish(&NAMES, |_| {});
        edges
    }

    fn options(&self) -> Options {
        Options {
            site: None,
            note: None,
            run_number: None,
            allow_older: false,
            allow_rejected: false,
            new_history: false,
            guards: Guards::default(),
            retention: Retention::default(),
            mtime: MtimeSource::Push,
            require: Require::AtLeast(4),
            policy: Policy::default(),
            partial: None,
            jobs: NonZeroUsize::MIN,
            level: LevelChoice::Auto,
            scratch: ScratchLocation {
                directory: Ok(self.sandbox.path("cache")),
                temporary: self.sandbox.path("tmp"),
            },
            keep_content: KeepContent::default(),
            stores: KnownStores::new(Some(self.sandbox.path("cache/stores")), BTreeMap::new()),
            began: self.trees * 1000,
            straggler_timeout: PUSH_TIME_LIMIT,
            response_timeout: Duration::ZERO,
        }
    }

    fn edge(&self, name: &str) -> Edge {
        let path = self.sandbox.path(name);
        let location = self.sandbox.path_text(name);
        Edge::new(directory(name, location, path))
    }

    fn fleet(&self, names: &[&str]) -> Fleet {
        Fleet::new(names.iter().map(|name| Arc::new(self.edge(name)) as Arc<dyn Mirror>).collect())
    }

    /// Returns five mirrors, the last of which responds once `is_time` returns true for the events,
    /// or, if `None`, once the push has waited.
    fn late_fleet(
        &self,
        is_time: AnswerCondition,
        change: impl FnOnce(&mut [Edge; 5]),
    ) -> (Fleet, Recorder) {
        let mut edges = NAMES.map(|name| self.edge(name));
        let (sender, receiver) = channel();
        edges[4].held = Mutex::new(Some(receiver));
        change(&mut edges);
        let fleet =
            Fleet::new(edges.into_iter().map(|edge| Arc::new(edge) as Arc<dyn Mirror>).collect());
        (fleet, Recorder::new(is_time, sender))
    }

    /// Returns the next tree.
    fn tree(&mut self) -> Source {
        self.trees += 1;
        self.tree_of(self.trees)
    }

    fn tree_of(&self, number: u64) -> Source {
        let path = self.sandbox.path("tree");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("index.html"), format!("version {number}")).unwrap();
        Source::Trees {
            roots: vec![Root { path, tree_prefix: None }],
            scan: ScanOptions::default(),
        }
    }

    /// Pushes the next tree to these mirrors, none of which is late.
    fn publish(&mut self, names: &[&str], change: impl FnOnce(&mut Options)) {
        let source = self.tree();
        let mut options = Options { require: Require::All, ..self.options() };
        change(&mut options);
        push(&source, &self.fleet(names), &options, &SilentMonitor).unwrap();
    }

    /// Raises the sequence that the first four mirrors need next, without a newer release on them.
    fn stage_on_four(&mut self, times: usize) {
        for _ in 0..times {
            self.publish(&NAMES[..4], |options| options.policy.goal = Goal::Stage);
        }
    }

    fn served(&self, name: &str) -> (ReleaseName, String) {
        let content =
            fs::read_to_string(self.sandbox.path(name).join("current/index.html")).unwrap();
        (self.edge(name).inner.state().unwrap().current.unwrap(), content)
    }

    /// Pushes the next tree to all mirrors, of which the last one responds once the others have
    /// activated, and asserts that it is left unchanged.
    fn assert_left_alone(&mut self, change: impl FnOnce(&mut Options)) -> Outcome {
        let before = self.served("edge5");
        let source = self.tree();
        self.assert_left_with(&source, &before, change)
    }

    fn assert_left_with(
        &self,
        source: &Source,
        before: &(ReleaseName, String),
        change: impl FnOnce(&mut Options),
    ) -> Outcome {
        let (fleet, recorder) = self.late_fleet(Some(four_have_switched), |_| {});
        let mut options = self.options();
        change(&mut options);
        let report = push(source, &fleet, &options, &recorder).unwrap();
        assert_eq!(outcomes(&report)[..4], vec![Outcome::Activated; 4], "{report:?}");
        assert_eq!(self.served("edge5"), *before);
        assert_eq!(report.mirrors[4].before, Some(before.0.sequence()));
        assert_eq!(report.mirrors[4].now, Some(before.0.sequence()));
        report.mirrors[4].outcome.clone()
    }
}

fn outcomes(report: &Report) -> Vec<Outcome> {
    report.mirrors.iter().map(|one| one.outcome.clone()).collect()
}

#[test]
fn four_mirrors_activate_before_a_dead_one_times_out() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let (fleet, recorder) =
        edges.late_fleet(Some(four_have_switched), |edges| edges[4].is_dead = true);
    let report = push(&source, &fleet, &edges.options(), &recorder).unwrap();
    let mut expected = vec![Outcome::Activated; 4];
    expected.push(Outcome::failed(&dead()));
    assert_eq!(outcomes(&report), expected);
    let failed = recorder
        .first(|event| matches!(event, Event::MirrorFailed { mirror, .. } if mirror == "edge5"));
    let overdue = recorder
        .first(|event| matches!(event, Event::AnswerOverdue { mirror } if mirror == "edge5"));
    assert!(NAMES[..4].iter().all(|name| (overdue..failed).contains(&recorder.activated(name))));
    assert!(NAMES[..4].iter().all(|name| edges.served(name).1 == "version 2"));
    assert_eq!((report.mirrors[4].before, report.mirrors[4].now), (None, None));
}

#[test]
fn late_mirror_gets_the_release_after_the_others() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let (fleet, recorder) = edges.late_fleet(Some(four_have_switched), |_| {});
    let report = push(&source, &fleet, &edges.options(), &recorder).unwrap();
    assert_eq!(outcomes(&report), vec![Outcome::Activated; 5]);
    assert!(NAMES[..4].iter().all(|name| recorder.activated(name) < recorder.learned("edge5")));
    assert!(recorder.learned("edge5") < recorder.activated("edge5"));
    assert_eq!(edges.served("edge5"), edges.served("edge1"));
    let [first, .., last] = &report.mirrors[..] else { panic!("{report:?}") };
    assert_eq!((last.before, last.now, last.new_bytes), (Some(1), Some(2), first.new_bytes));
    assert!(last.new_bytes > 0 && last.traffic.sent_packs > 0, "{last:?}");
}

#[test]
fn late_mirror_is_only_staged_if_the_goal_is_staging() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let four_are_staged = |events: &[Event]| {
        events.iter().filter(|event| matches!(event, Event::Staged { .. })).count() == 4
    };
    let (fleet, recorder) = edges.late_fleet(Some(four_are_staged), |_| {});
    let mut options = edges.options();
    options.policy.goal = Goal::Stage;
    let report = push(&source, &fleet, &options, &recorder).unwrap();
    assert_eq!(outcomes(&report), vec![Outcome::Staged; 5]);
    assert!(NAMES.iter().all(|name| edges.served(name).1 == "version 1"));
}

#[test]
fn late_lagging_mirror_gets_the_release_of_the_others() {
    let mut edges = Edges::new();
    edges.publish(&NAMES[..4], |_| {});
    let source = edges.tree_of(2);
    let is_current = |events: &[Event]| {
        events.iter().filter(|event| matches!(event, Event::AlreadyCurrent { .. })).count() == 4
    };
    let (fleet, recorder) = edges.late_fleet(Some(is_current), |_| {});
    let report = push(&source, &fleet, &edges.options(), &recorder).unwrap();
    let mut expected = vec![Outcome::Current; 4];
    expected.push(Outcome::Activated);
    assert_eq!((report.is_new, outcomes(&report)), (false, expected));
    assert_eq!(edges.served("edge5"), edges.served("edge1"));
}

#[test]
fn late_mirror_with_a_higher_release_is_left_alone() {
    let mut edges = Edges::new();
    edges.publish(&["edge5"], |_| {});
    edges.publish(&["edge5"], |_| {});
    let serves = edges.served("edge5").0;
    assert_eq!(edges.assert_left_alone(|_| {}), Outcome::Newer { serves });
}

#[test]
fn late_mirror_of_another_history_is_left_alone() {
    let mut edges = Edges::absent();
    edges.publish(&["edge5"], |_| {});
    edges.publish(&NAMES[..4], |_| {});
    let outcome = edges.assert_left_alone(|_| {});
    assert!(
        matches!(&outcome, Outcome::Failed { error, .. } if error.contains("of history")),
        "{outcome:?}"
    );
}

#[test]
fn late_mirror_with_a_higher_run_number_is_left_alone() {
    let order = |number| Some(RunNumber::new("ci", number).unwrap());
    let mut edges = Edges::new();
    edges.publish(&["edge5"], |options| options.run_number = order(60));
    // The new release will have a higher sequence than that of edge5.
    edges.stage_on_four(2);
    let serves = edges.served("edge5").0;
    assert_eq!(
        edges.assert_left_alone(|options| options.run_number = order(59)),
        Outcome::Newer { serves }
    );
}

#[test]
fn late_mirror_that_rejected_the_content_is_left_alone() {
    let mut edges = Edges::new();
    edges.publish(&["edge5"], |_| {});
    let rollback = Source::Rollback { to: None, by: DecidedBy::Person(Some("ann".into())) };
    let options = Options { require: Require::All, ..edges.options() };
    push(&rollback, &edges.fleet(&["edge5"]), &options, &SilentMonitor).unwrap();
    edges.stage_on_four(3);
    let before = edges.served("edge5");
    assert_eq!(before.1, "version 1");
    let outcome = edges.assert_left_with(&edges.tree_of(2), &before, |_| {});
    assert!(
        matches!(&outcome, Outcome::Failed { error, .. } if error.contains("rolled back")),
        "{outcome:?}"
    );
}

#[test]
fn late_mirror_counts_towards_the_requirement() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let (fleet, recorder) =
        edges.late_fleet(Some(one_has_failed), |edges| edges[0].fails_to_stage = true);
    let report = push(&source, &fleet, &edges.options(), &recorder).unwrap();
    let mut expected = vec![Outcome::failed(&dead())];
    expected.extend(vec![Outcome::Activated; 4]);
    assert_eq!((outcomes(&report), report.unmet), (expected, None));
}

#[test]
fn late_mirror_of_another_history_does_not_stop_the_others() {
    let mut edges = Edges::absent();
    edges.publish(&["edge5"], |_| {});
    edges.publish(&NAMES[..4], |_| {});
    let source = edges.tree();
    let (fleet, recorder) =
        edges.late_fleet(Some(one_has_failed), |edges| edges[0].fails_to_stage = true);
    let report = push(&source, &fleet, &edges.options(), &recorder).unwrap();
    assert_eq!(
        outcomes(&report)[..4],
        [vec![Outcome::failed(&dead())], vec![Outcome::Staged; 3]].concat()
    );
    let outcome = &report.mirrors[4].outcome;
    assert!(
        matches!(outcome, Outcome::Failed { error, .. } if error.contains("of history")),
        "{outcome:?}"
    );
    assert!(report.unmet.unwrap().contains("4 of 5"));
}

#[test]
fn late_duplicate_name_of_a_mirror_is_refused() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let path = edges.sandbox.path("edge1");
    let (fleet, recorder) = edges.late_fleet(Some(four_have_switched), |late| {
        late[4].inner = directory("edge5", "far".into(), path);
        late[4].hides_path = true;
    });
    let report = push(&source, &fleet, &edges.options(), &recorder).unwrap();
    let outcome = &report.mirrors[4].outcome;
    assert!(
        matches!(outcome, Outcome::Failed { error, .. } if error.contains("are the same mirror")),
        "{outcome:?}"
    );
}

/// Pushes to a fleet whose last mirror is overdue when it responds, and asserts that the others
/// waited.
fn assert_waits(edges: &Edges, source: &Source, options: &Options, expected: &[Outcome]) {
    let (fleet, recorder) = edges.late_fleet(None, |_| {});
    let report = push(source, &fleet, options, &recorder).unwrap();
    assert_eq!(outcomes(&report), expected);
    // Packs are built once for all mirrors that need them.
    let needing = expected.iter().filter(|outcome| **outcome == Outcome::Activated).count();
    let is_first = |event: &Event| matches!(event, Event::BundleStarted { .. });
    let is_whole = |event: &Event| match event {
        Event::BundleStarted { mirrors, .. } => mirrors.len() == needing,
        _ => false,
    };
    assert_eq!(recorder.first(is_first), recorder.first(is_whole));
}

#[test]
fn first_release_waits_for_every_mirror() {
    let mut edges = Edges::absent();
    let source = edges.tree();
    assert_waits(&edges, &source, &edges.options(), &vec![Outcome::Activated; 5]);
}

#[test]
fn waves_and_revert_policy_wait_for_every_mirror() {
    for change in [
        (|policy: &mut Policy| policy.on_failure = OnFailure::Revert) as fn(&mut Policy),
        |policy| {
            policy.waves = vec![Wave { mirrors: vec!["edge1".into()], ..Wave::default() }];
        },
    ] {
        let mut edges = Edges::new();
        let source = edges.tree();
        let mut options = edges.options();
        change(&mut options.policy);
        assert_waits(&edges, &source, &options, &vec![Outcome::Activated; 5]);
    }
}

#[test]
fn heal_waits_for_every_mirror() {
    let mut edges = Edges::new();
    edges.publish(&["edge5"], |_| {});
    let mut expected = vec![Outcome::Activated; 4];
    expected.push(Outcome::Current);
    assert_waits(&edges, &Source::Newest, &edges.options(), &expected);
}

#[test]
fn plan_waits_for_every_mirror() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let (fleet, recorder) = edges.late_fleet(None, |_| {});
    let planned = plan(&source, &fleet, &edges.options(), &recorder).unwrap();
    let Planned::Push(report) = planned else { panic!("{planned:?}") };
    assert!(report.mirrors[4].objects > 0, "{report:?}");
}

#[test]
fn rollback_polls_a_dead_mirror_once() {
    let mut edges = Edges::new();
    edges.publish(&NAMES, |_| {});
    let mut mirrors = NAMES.map(|name| edges.edge(name));
    mirrors[4].is_dead = true;
    let mirrors = mirrors.map(Arc::new);
    let fleet =
        Fleet::new(mirrors.iter().map(|edge| Arc::clone(edge) as Arc<dyn Mirror>).collect());
    let planned = plan_rollback(&fleet, None, &edges.options(), &SilentMonitor).unwrap();
    let to = planned.to.map(|release| release.sequence);
    assert_eq!(to, Some(1));
    let source = Source::Rollback { to, by: DecidedBy::Person(None) };
    let (_, recorder) = edges.late_fleet(None, |_| {});
    let report = push(&source, &planned.fleet, &edges.options(), &recorder).unwrap();
    let mut expected = vec![Outcome::Activated; 4];
    expected.push(Outcome::failed(&dead()));
    assert_eq!(outcomes(&report), expected);
    recorder
        .first(|event| matches!(event, Event::MirrorFailed { mirror, .. } if mirror == "edge5"));
    assert_eq!(mirrors[4].asked.load(Ordering::SeqCst), 1);
}
