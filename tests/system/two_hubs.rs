//! One origin, two hubs to which it pushes, and an edge that is filled from the hubs: after any
//! sequence of events, no mirror goes from content of a higher rank to content of a lower one.
//!
//! These tests fail if `push --from` or `heal` makes a new release of the content instead of
//! copying the release: a stale hub would then give the edge old content under a new, higher
//! sequence.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headwater::mirror::{DirectoryMirror, Mirror, MirrorIdentity};
use headwater::monitor::SilentMonitor;
use headwater::push::{
    Fleet, Guards, KeepContent, LevelChoice, MtimeSource, Options, Outcome, Policy, Report,
    Require, Retention, ScratchLocation, Source, push,
};
use headwater::release::{Release, Succession};
use headwater::scan::{Root, ScanOptions};

use crate::harness::Sandbox;
use crate::trees::Rng;

const MIRRORS: [&str; 3] = ["hub-a", "hub-b", "edge"];

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HubEvent {
    /// The origin pushes its next tree to one hub.
    Publish(usize),
    /// The origin pushes its next tree to both hubs.
    PublishToBoth,
    /// `push --from` one hub to the edge.
    Carry(usize),
    /// `heal` of all three.
    Heal,
}

use HubEvent::{Carry, Heal, Publish, PublishToBoth};

/// The mirrors, and what each of them served.
struct Fleets {
    sandbox: Sandbox,
    next: u64,
    served: BTreeMap<&'static str, Release>,
    /// The events so far.
    events: Vec<HubEvent>,
}

fn options(scratch: PathBuf, began: u64) -> Options {
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
        require: Require::AtLeast(1),
        policy: Policy::default(),
        partial: None,
        jobs: NonZeroUsize::MIN,
        level: LevelChoice::Auto,
        scratch: ScratchLocation { directory: Ok(scratch), temporary: std::env::temp_dir() },
        keep_content: KeepContent::default(),
        stores: headwater::push::KnownStores::default(),
        began,
        straggler_timeout: Duration::from_secs(30),
        response_timeout: Duration::from_secs(2),
    }
}

fn mirror(path: &Path) -> Arc<dyn Mirror> {
    let name = path.to_str().unwrap().to_owned();
    let identity = MirrorIdentity { name: name.clone(), location: name, site: None };
    let wait = Duration::from_secs(10);
    Arc::new(DirectoryMirror::new(identity, path.to_owned(), wait, NonZeroUsize::MIN))
}

impl Fleets {
    /// Creates the mirrors; all three serve the first release.
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let mut fleets = Self { sandbox, next: 1, served: BTreeMap::new(), events: Vec::new() };
        fleets.publish(&MIRRORS);
        fleets.check();
        fleets
    }

    fn push(&self, source: &Source, to: &[&str]) -> Report {
        let fleet = Fleet::new(to.iter().map(|name| mirror(&self.sandbox.path(name))).collect());
        let options = options(self.sandbox.path("cache"), self.next * 1000);
        push(source, &fleet, &options, &SilentMonitor)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.events))
    }

    fn publish(&mut self, to: &[&str]) {
        let tree = self.sandbox.path("tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("index.html"), format!("version {}", self.next)).unwrap();
        self.next += 1;
        let roots = vec![Root { path: tree, tree_prefix: None }];
        let report = self.push(&Source::Trees { roots, scan: ScanOptions::default() }, to);
        assert!(report.mirrors.iter().all(|one| one.outcome.is_current()), "{report:?}");
    }

    fn apply(&mut self, what: HubEvent) {
        self.events.push(what);
        match what {
            Publish(hub) => self.publish(&[MIRRORS[hub]]),
            PublishToBoth => self.publish(&MIRRORS[..2]),
            Carry(hub) => {
                let from = mirror(&self.sandbox.path(MIRRORS[hub]));
                let source = from.state().unwrap().current_release().cloned().unwrap();
                let report = self.push(&Source::CurrentRelease(from), &["edge"]);
                assert!(
                    !report.is_new && report.release == Some(source.id()),
                    "the same release: {report:?}"
                );
                let outcome = &report.mirrors[0].outcome;
                match source.succession(&self.served["edge"]) {
                    Succession::Follows => {
                        assert_eq!(*outcome, Outcome::Activated, "{:?}", self.events);
                    }
                    _ if source == self.served["edge"] => assert_eq!(*outcome, Outcome::Current),
                    _ => {
                        assert_eq!(*outcome, Outcome::Newer { serves: self.served["edge"].name() });
                    }
                }
            }
            Heal => {
                let report = self.push(&Source::Newest, &MIRRORS);
                assert!(
                    !report.is_new && report.mirrors.iter().all(|one| one.outcome.is_current()),
                    "{report:?}"
                );
            }
        }
        self.check();
    }

    /// Checks that no mirror went back to an older release.
    fn check(&mut self) {
        for name in MIRRORS {
            let path = self.sandbox.path(name);
            let release = mirror(&path).state().unwrap().current_release().cloned().unwrap();
            if let Some(before) = self.served.insert(name, release.clone()) {
                let is_higher =
                    release == before || release.succession(&before) == Succession::Follows;
                assert!(is_higher, "{name} went from {before:?} to {release:?}: {:?}", self.events);
            }
        }
    }

    /// Checks that all mirrors serve the content of the highest release after a heal.
    fn end(mut self) {
        let highest = self.served.values().max_by_key(|release| release.rank()).cloned().unwrap();
        self.apply(Heal);
        assert!(self.served.values().all(|release| *release == highest), "{:?}", self.events);
        let texts = MIRRORS
            .map(|name| fs::read(self.sandbox.path(name).join("current/index.html")).unwrap());
        assert!(texts.iter().all(|text| *text == texts[0]));
    }
}

/// Calls `each` with every order of `rest` after `begun`.
fn orders(begun: &mut Vec<HubEvent>, rest: &[HubEvent], each: &mut dyn FnMut(&[HubEvent])) {
    if rest.is_empty() {
        return each(begun);
    }
    for index in 0..rest.len() {
        let mut left = rest.to_vec();
        begun.push(left.remove(index));
        orders(begun, &left, each);
        begun.pop();
    }
}

#[test]
fn stale_hub_never_reverts_the_edge_in_any_order_of_events() {
    orders(&mut Vec::new(), &[Publish(0), Publish(1), Carry(0), Carry(1)], &mut |order| {
        let mut fleets = Fleets::new();
        order.iter().for_each(|what| fleets.apply(*what));
        fleets.end();
    });
}

#[test]
fn one_stale_hub_of_two_does_not_flip_the_edge() {
    let mut fleets = Fleets::new();
    for what in [Publish(0), Carry(0), Carry(1), Carry(0), Carry(1)] {
        fleets.apply(what);
    }
    assert_eq!(fleets.served["edge"], fleets.served["hub-a"]);
    fleets.end();
}

#[test]
fn random_events_never_revert_a_mirror() {
    let seed = crate::trees::seed();
    for round in 0..6 {
        let mut rng = Rng::new(seed.wrapping_add(round));
        let mut fleets = Fleets::new();
        for _ in 0..14 {
            let what = rng.pick(&[
                Publish(0),
                Publish(1),
                PublishToBoth,
                Carry(0),
                Carry(1),
                Carry(0),
                Carry(1),
                Heal,
            ]);
            fleets.apply(what);
        }
        fleets.end();
    }
}
