//! False reports of one mirror about itself do not change the outcome of the other mirrors.

use headwater::hash::{ContentId, HistoryId, ManifestId};
use headwater::mirror::{ErrorKind, MirrorState};
use headwater::push::PushError;
use headwater::release::{MAX_SEQUENCE, MAX_TIME, PartialScope, RejectedContent, Release};
use headwater::tree_path::Site;

use super::edge::StateChange;
use super::*;
use crate::sweep;

/// Changes the record of the release that a mirror serves.
fn alter(state: &mut MirrorState, change: impl FnOnce(&mut Release)) {
    let release = state.releases.last_mut().unwrap();
    change(release);
    state.current = Some(release.name());
    state.highest_sequence = state.highest_sequence.max(release.sequence);
}

/// Invents a release after the true one and changes its record.
fn invent(state: &mut MirrorState, change: impl FnOnce(&mut Release)) {
    let mut next = state.releases.last().unwrap().clone();
    next.sequence += 1;
    state.releases.push(next);
    alter(state, change);
}

pub(super) fn altering(
    change: impl Fn(&mut MirrorState) + Send + Sync + 'static,
) -> Option<StateChange> {
    Some(StateChange(Box::new(change)))
}

fn reject(release: &mut Release, content: ContentId) {
    release.rejected.push(RejectedContent { content, sequence: 1, at: 1, by: None, why: None });
    release.rejected.sort();
}

fn histories(numbers: std::ops::Range<u8>) -> impl Iterator<Item = HistoryId> {
    numbers.map(|number| HistoryId::from_bytes([number; 16]))
}

/// Changes a state; gets the content that is pushed next.
type Claim = fn(&mut MirrorState, ContentId);

/// The claims that one mirror may make, by name.
const CLAIMS: &[(&str, Claim)] = &[
    ("the highest sequence of all", |state, _| state.highest_sequence = u64::MAX - 1),
    ("the highest sequence that is allowed", |state, _| state.highest_sequence = MAX_SEQUENCE),
    ("a far release", |state, _| alter(state, |release| release.sequence = MAX_SEQUENCE)),
    ("a release that is a little ahead", |state, _| alter(state, |release| release.sequence += 5)),
    ("the end of time", |state, _| alter(state, |release| release.created = MAX_SEQUENCE)),
    ("a newer release of the end of time", |state, _| {
        invent(state, |release| release.created = MAX_SEQUENCE);
    }),
    ("a far run", |state, _| {
        alter(state, |release| release.orders = [("ci".into(), MAX_SEQUENCE)].into());
    }),
    ("a far run of a newer release", |state, _| {
        invent(state, |release| {
            release.orders = [("ci".into(), MAX_SEQUENCE), ("x".into(), 1)].into();
        });
    }),
    ("a history of its own", |state, _| {
        invent(state, |release| release.history = HistoryId::from_bytes([7; 16]));
    }),
    ("a history that took over that of the others", |state, _| {
        invent(state, |release| {
            release.replaces = vec![release.history];
            release.history = HistoryId::from_bytes([7; 16]);
        });
    }),
    ("a history that took over as many as it may", |state, _| {
        invent(state, |release| {
            release.replaces = histories(10..25).chain([release.history]).collect();
            release.history = HistoryId::from_bytes([7; 16]);
        });
    }),
    ("histories that this one took over", |state, _| {
        invent(state, |release| release.replaces = histories(10..26).collect());
    }),
    ("a release for itself", |state, _| {
        invent(state, |release| {
            release.partial =
                Some(PartialScope { mirrors: vec!["edge5".into()], why: "push".into() });
        });
    }),
    ("rejected content", |state, next| {
        invent(state, |release| {
            reject(release, release.content);
            reject(release, next);
        });
    }),
    ("the next content", |state, next| {
        invent(state, |release| release.content = next);
    }),
    ("a manifest that nobody has", |state, _| {
        invent(state, |release| release.manifest = ManifestId::of(b"nothing"));
    }),
    ("another release of the first sequence", |state, _| {
        let mut other = state.releases[0].clone();
        other.created += 1;
        other.manifest = ManifestId::of(b"nothing");
        state.releases.insert(1, other);
    }),
    ("a current release without a record", |state, _| {
        invent(state, |_| {});
        state.releases.clear();
    }),
    ("a staged release that is far ahead", |state, _| {
        let mut staged = state.releases.last().unwrap().clone();
        staged.sequence = MAX_SEQUENCE;
        state.staged = Some(staged);
    }),
    ("thousands of releases", |state, _| {
        for _ in 0..2_000 {
            invent(state, |release| release.created += 1);
        }
    }),
    ("nothing at all", |state, _| {
        *state = MirrorState { store: state.store, ..MirrorState::default() }
    }),
    ("another site", |state, _| state.site = Some(Site::new("news").unwrap())),
    ("a receiver of another site", |state, _| {
        *state = MirrorState {
            only_site: Some(Site::new("news").unwrap()),
            store: state.store,
            ..MirrorState::default()
        };
    }),
    ("releases of another site", |state, _| {
        for release in &mut state.releases {
            release.site = Site::new("news").unwrap();
        }
        state.current = state.releases.last().map(Release::name);
    }),
    ("no store", |state, _| state.store = None),
    ("the largest numbers", |state, _| {
        state.free_bytes = Some(u64::MAX);
        state.incoming_bytes = u64::MAX;
        state.next_expiry = Some(u64::MAX);
        state.expired_through = u64::MAX;
        state.round_trip = Some(Duration::MAX);
    }),
    ("no room", |state, _| state.free_bytes = Some(0)),
];

/// Options of a push that waits for the responses of all mirrors.
pub(super) fn waiting(edges: &Edges) -> Options {
    Options { response_timeout: PUSH_TIME_LIMIT, ..edges.options() }
}

fn run(number: u64) -> impl Fn(&mut Options) {
    move |options| options.run_number = Some(RunNumber::new("ci", number).unwrap())
}

/// The command that runs while a mirror makes a claim.
#[derive(Debug, Clone, Copy)]
enum Action {
    PushNew,
    PushSame,
    Heal,
    RollBack,
    /// A rollback without a sequence.
    GoBack,
}

impl Action {
    const ALL: [Self; 5] =
        [Self::PushNew, Self::PushSame, Self::Heal, Self::RollBack, Self::GoBack];

    /// The version that the other mirrors serve afterwards.
    const fn version(self) -> u64 {
        match self {
            Self::PushNew => 3,
            Self::PushSame | Self::Heal => 2,
            Self::RollBack | Self::GoBack => 1,
        }
    }

    fn source(self, edges: &Edges) -> Source {
        match self {
            Self::PushNew | Self::PushSame => edges.tree_of(self.version()),
            Self::Heal => Source::Newest,
            Self::RollBack => Source::Rollback { to: Some(1), by: DecidedBy::Person(None) },
            Self::GoBack => back(),
        }
    }
}

/// A rollback to the previous release.
pub(super) fn back() -> Source {
    Source::Rollback { to: None, by: DecidedBy::Person(None) }
}

/// Release 1 on all mirrors, release 2 on all except edge4, and the content of version 3.
fn lagging_fleet() -> (Edges, ContentId) {
    let mut edges = Edges::absent();
    edges.publish(&NAMES, run(7));
    edges.publish(&["edge1", "edge2", "edge3", "edge5"], run(8));
    edges.publish(&["apart"], |_| {});
    let next = edges.edge("apart").inner.state().unwrap().current_release().unwrap().content;
    (edges, next)
}

/// Runs the action while edge5 makes the claim, and asserts that the other mirrors serve the same
/// as without it.
fn assert_served_as_without(claim: &str, alters: Claim, action: Action, has_cache: bool) {
    let (edges, next) = lagging_fleet();
    let what = format!("{claim}, {action:?}, with a cache: {has_cache}");
    if !has_cache {
        fs::remove_dir_all(edges.sandbox.path("cache")).unwrap();
    }
    let before = edges.edge("edge1").inner.state().unwrap().current_release().unwrap().clone();
    let mut fifth = edges.edge("edge5");
    fifth.alters = altering(move |state| alters(state, next));
    let others = NAMES[..4].iter().map(|name| Arc::new(edges.edge(name)) as Arc<dyn Mirror>);
    let fleet = Fleet::new(others.chain([Arc::new(fifth) as Arc<dyn Mirror>]).collect());
    let mut options = waiting(&edges);
    match action {
        Action::PushNew => run(9)(&mut options),
        Action::PushSame => run(8)(&mut options),
        Action::Heal => options.require = Require::AtLeast(1),
        Action::RollBack | Action::GoBack => {}
    }
    let report = push(&action.source(&edges), &fleet, &options, &SilentMonitor)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(report.unmet.is_none(), "{what}: {report:?}");
    for name in &NAMES[..4] {
        let release = edges.edge(name).inner.state().unwrap().current_release().unwrap().clone();
        assert_eq!(
            edges.served(name).1,
            format!("version {}", action.version()),
            "{what}: {report:?}"
        );
        let is_new = !matches!(action, Action::PushSame | Action::Heal);
        assert_eq!(release != before, is_new, "{what}: {release:?}");
        let is_far = release.sequence > 3_000 || release.created > before.created + 1_000_000;
        assert!(
            !is_far && release.history == before.history && release.replaces.is_empty(),
            "{what}: {release:?}"
        );
        let is_own = |rejected: &RejectedContent| rejected.content == before.content;
        assert!(release.rejected.iter().all(is_own) && release.retired == 0, "{what}: {release:?}");
        assert!(
            release.orders.keys().eq(["ci"]) && release.orders["ci"] <= 9,
            "{what}: {release:?}"
        );
    }
}

/// Tries each claim with each of `actions`, or with one that the seed selects.
fn every_claim(actions: &[Action], has_cache: bool) {
    let pairs = CLAIMS.iter().flat_map(|claim| actions.iter().map(move |action| (claim, *action)));
    let pairs: Vec<_> = pairs.collect();
    for ((claim, alters), action) in sweep::points(&pairs, CLAIMS.len(), |_| false) {
        assert_served_as_without(claim, *alters, action, has_cache);
    }
}

#[test]
fn claims_of_one_mirror_do_not_change_the_others() {
    every_claim(&Action::ALL, true);
}

#[test]
fn claims_of_one_mirror_without_a_cache_do_not_change_the_others() {
    // Without a cache `heal` copies the newest release: it may run on a machine that never
    // published.
    let actions = [Action::PushNew, Action::PushSame, Action::RollBack, Action::GoBack];
    every_claim(&actions, false);
}

/// Publishes a tree with another file, from another origin.
pub(super) fn publish_elsewhere(edges: &mut Edges, names: &[&str]) {
    let source = edges.tree();
    fs::write(edges.sandbox.path("tree/extra.js"), "extra").unwrap();
    let mut options =
        Options { require: Require::All, stores: KnownStores::default(), ..edges.options() };
    run(900)(&mut options);
    push(&source, &edges.fleet(names), &options, &SilentMonitor).unwrap();
    fs::remove_file(edges.sandbox.path("tree/extra.js")).unwrap();
}

#[test]
fn unconfirmed_release_contributes_nothing_to_the_next_one() {
    let mut edges = Edges::new();
    publish_elsewhere(&mut edges, &["edge5"]);
    let source = edges.tree();
    let mut options = waiting(&edges);
    run(8)(&mut options);
    let report = push(&source, &edges.fleet(&NAMES), &options, &SilentMonitor).unwrap();
    assert_eq!(outcomes(&report), vec![Outcome::Activated; 5], "{report:?}");
    for name in NAMES {
        assert_eq!(edges.served(name).1, "version 3");
        assert!(!edges.sandbox.path(name).join("current/extra.js").exists(), "{name}");
    }
}

#[test]
fn content_on_one_mirror_alone_is_published_as_a_new_release() {
    let mut edges = Edges::new();
    publish_elsewhere(&mut edges, &["edge5"]);
    let source = edges.tree_of(2);
    fs::write(edges.sandbox.path("tree/extra.js"), "extra").unwrap();
    let report = push(&source, &edges.fleet(&NAMES), &waiting(&edges), &SilentMonitor).unwrap();
    assert!(report.is_new, "{report:?}");
    let state = edges.edge("edge1").inner.state().unwrap();
    assert!(state.current_release().unwrap().orders.is_empty(), "{state:?}");
}

#[test]
fn own_release_on_one_mirror_is_confirmed() {
    let mut edges = Edges::new();
    edges.publish(&["edge5"], run(900));
    let source = edges.tree();
    let mut options = waiting(&edges);
    run(8)(&mut options);
    let refused = push(&source, &edges.fleet(&NAMES), &options, &SilentMonitor).unwrap_err();
    assert!(matches!(refused, PushError::Superseded { number: 8, seen: 900, .. }), "{refused}");
}

#[test]
fn heal_ignores_an_unknown_release_of_one_mirror() {
    let mut edges = Edges::new();
    publish_elsewhere(&mut edges, &["edge5"]);
    let options = Options { require: Require::AtLeast(1), ..waiting(&edges) };
    let recorder = Recorder::new(None, channel().0);
    let report = push(&Source::Newest, &edges.fleet(&NAMES), &options, &recorder).unwrap();
    assert_eq!(outcomes(&report)[..4], vec![Outcome::Current; 4], "{report:?}");
    let is_named = |event: &Event| match event {
        Event::Warned { message } => message.contains("--from edge5"),
        _ => false,
    };
    recorder.first(is_named);
    // Two mirrors are enough.
    publish_elsewhere(&mut edges, &["edge4", "edge5"]);
    let report = push(&Source::Newest, &edges.fleet(&NAMES), &options, &recorder).unwrap();
    assert_eq!(outcomes(&report)[..3], vec![Outcome::Activated; 3], "{report:?}");
}

#[test]
fn confirmed_run_number_supersedes_until_older_is_allowed() {
    let mut edges = Edges::absent();
    edges.publish(&NAMES, run(900));
    let source = edges.tree();
    let mut options = Options { require: Require::All, ..waiting(&edges) };
    run(8)(&mut options);
    let refused = push(&source, &edges.fleet(&NAMES), &options, &SilentMonitor).unwrap_err();
    assert!(matches!(refused, PushError::Superseded { number: 8, seen: 900, .. }), "{refused}");
    options.allow_older = true;
    push(&source, &edges.fleet(&NAMES), &options, &SilentMonitor).unwrap();
    // The stream continues from there: the next run needs no permission.
    edges.publish(&NAMES, run(9));
    assert_eq!(edges.served("edge1").1, "version 3");
}

#[test]
fn minority_history_fails_alone() {
    let mut edges = Edges::new();
    fs::remove_dir_all(edges.sandbox.path("edge5")).unwrap();
    edges.publish(&["edge5"], |options| options.stores = KnownStores::default());
    let source = edges.tree();
    let options = Options { stores: KnownStores::default(), ..waiting(&edges) };
    let report = push(&source, &edges.fleet(&NAMES), &options, &SilentMonitor).unwrap();
    assert!(
        report.mirrors[..4].iter().all(|mirror| mirror.outcome == Outcome::Activated),
        "{report:?}"
    );
    let fifth = &report.mirrors[4].outcome;
    assert!(matches!(fifth, Outcome::Failed { failure: ErrorKind::OtherHistory, .. }), "{fifth:?}");
    assert_eq!(edges.served("edge5").1, "version 2");
}

#[test]
fn mirror_of_another_site_fails_alone_unless_required() {
    const IS_OF_NEWS: Claim = |state, _| state.site = Some(Site::new("news").unwrap());
    let mut edges = Edges::new();
    let source = edges.tree();
    let options = |require: Require| Options { require, ..waiting(&edges) };
    for (require, names) in [(Require::All, &NAMES[..]), (Require::AtLeast(1), &NAMES[..2])] {
        let fleet = with_claim(&edges, names, IS_OF_NEWS);
        let refused = push(&source, &fleet, &options(require), &SilentMonitor).unwrap_err();
        assert!(matches!(refused, PushError::SitesDiffer { .. }), "{refused}");
    }
    let fleet = with_claim(&edges, &NAMES, IS_OF_NEWS);
    let report = push(&source, &fleet, &options(Require::AtLeast(4)), &SilentMonitor).unwrap();
    assert_eq!(outcomes(&report)[..4], vec![Outcome::Activated; 4], "{report:?}");
    let fifth = &report.mirrors[4].outcome;
    assert!(matches!(fifth, Outcome::Failed { failure: ErrorKind::OtherSite, .. }), "{fifth:?}");
}

#[test]
fn unknown_one_of_two_diverged_mirrors_fails_alone() {
    let mut edges = Edges::absent();
    edges.publish(&["edge1"], |_| {});
    edges.publish(&["edge2"], |options| options.stores = KnownStores::default());
    let source = edges.tree();
    let fleet = || edges.fleet(&NAMES[..2]);
    let all = Options { require: Require::All, ..waiting(&edges) };
    let refused = push(&source, &fleet(), &all, &SilentMonitor).unwrap_err();
    assert!(matches!(refused, PushError::Guard(_)), "both mirrors are required: {refused}");
    let one = Options { require: Require::AtLeast(1), ..waiting(&edges) };
    let report = push(&source, &fleet(), &one, &SilentMonitor).unwrap();
    assert_eq!(report.mirrors[0].outcome, Outcome::Activated, "{report:?}");
    let second = &report.mirrors[1].outcome;
    assert!(
        matches!(second, Outcome::Failed { failure: ErrorKind::OtherHistory, .. }),
        "{second:?}"
    );
}

#[test]
fn lagging_mirror_joins_despite_false_history_claims() {
    const FORGETS: Claim = |state, _| invent(state, |release| release.replaces.clear());
    const TAKES_OVER: Claim = |state, _| {
        alter(state, |release| {
            release.replaces = vec![release.history];
            release.history = HistoryId::from_bytes([7; 16]);
            release.sequence = 1;
        });
    };
    for claim in [FORGETS, TAKES_OVER] {
        let mut edges = Edges::absent();
        edges.publish(&NAMES, |_| {});
        edges.publish(&["edge1", "edge2", "edge3", "edge5"], |options| options.new_history = true);
        let source = edges.tree();
        let fleet = with_claim(&edges, &NAMES, claim);
        let report = push(&source, &fleet, &waiting(&edges), &SilentMonitor).unwrap();
        assert_eq!(outcomes(&report)[..4], vec![Outcome::Activated; 4], "{report:?}");
    }
}

#[test]
fn only_the_first_wave_alone_confirms_a_run_number() {
    for (ahead, is_refused) in [("edge1", true), ("edge5", false)] {
        let mut edges = Edges::new();
        edges.publish(&[ahead], |options| {
            run(900)(options);
            options.stores = KnownStores::default();
        });
        let source = edges.tree();
        let mut options = waiting(&edges);
        run(8)(&mut options);
        options.policy.waves = vec![Wave { mirrors: vec!["edge1".into()], ..Wave::default() }];
        let pushed = push(&source, &edges.fleet(&NAMES), &options, &SilentMonitor);
        assert_eq!(
            matches!(pushed, Err(PushError::Superseded { seen: 900, .. })),
            is_refused,
            "{ahead}: {pushed:?}"
        );
        assert_eq!(pushed.is_ok(), !is_refused, "{ahead}: {pushed:?}");
    }
}

/// Claims to serve one release more than it does, with a record of it or without.
const CLAIMS_OF_ONE_MORE: [Claim; 2] = [
    |state, _| invent(state, |_| {}),
    |state, _| {
        invent(state, |_| {});
        state.releases.pop();
    },
];

/// These mirrors, of which the last one makes the claim.
fn with_claim(edges: &Edges, names: &[&str], claim: Claim) -> Fleet {
    let (last, others) = names.split_last().unwrap();
    let mut claimant = edges.edge(last);
    claimant.alters = altering(move |state| claim(state, ContentId::of(b"none")));
    let others = others.iter().map(|name| Arc::new(edges.edge(name)) as Arc<dyn Mirror>);
    Fleet::new(others.chain([Arc::new(claimant) as Arc<dyn Mirror>]).collect())
}

#[test]
fn mirror_that_always_claims_one_more_release_causes_only_a_warning() {
    for claim in CLAIMS_OF_ONE_MORE {
        let edges = Edges::new();
        let served = edges.served("edge1").0;
        for _ in 0..3 {
            let recorder = Recorder::new(None, channel().0);
            let fleet = with_claim(&edges, &NAMES, claim);
            let report = push(&edges.tree_of(1), &fleet, &waiting(&edges), &recorder).unwrap();
            assert!(!report.is_new, "{report:?}");
            assert_eq!(outcomes(&report)[..4], vec![Outcome::Current; 4], "{report:?}");
            assert!(NAMES[..4].iter().all(|name| edges.served(name).0 == served), "{report:?}");
            let events = recorder.events.lock().unwrap();
            let is_warning = |event: &&Event| matches!(event, Event::Warned { .. });
            let warnings: Vec<&Event> = events.iter().filter(is_warning).collect();
            let text = format!("{warnings:?}");
            assert!(warnings.len() == 1 && text.contains("release 2-"), "{text}");
            assert!(text.contains("is only on edge5"), "{text}");
        }
    }
}

#[test]
fn own_release_with_a_lost_record_is_replaced() {
    let mut edges = Edges::new();
    edges.publish(&["edge5"], |_| {});
    let fleet = with_claim(&edges, &NAMES, |state, _| {
        state.releases.pop();
    });
    let report = push(&edges.tree_of(1), &fleet, &waiting(&edges), &SilentMonitor).unwrap();
    assert!(report.is_new, "{report:?}");
    assert_eq!(outcomes(&report), vec![Outcome::Activated; 5], "{report:?}");
}

#[test]
fn joining_mirrors_ignore_an_implausible_sequence() {
    const JUMPS: Claim = |state, _| state.highest_sequence = MAX_SEQUENCE - 7;
    const IS_OLD: Claim = |state, _| state.highest_sequence = 1 << 31;
    for (claim, is_believed) in [(JUMPS, false), (IS_OLD, true)] {
        let mut edges = Edges::absent();
        edges.publish(&["edge3"], |_| {});
        let source = edges.tree();
        let fleet = with_claim(&edges, &NAMES[..3], claim);
        let options = Options { require: Require::AtLeast(1), ..waiting(&edges) };
        let report = push(&source, &fleet, &options, &SilentMonitor).unwrap();
        let sequence = if is_believed { (1 << 31) + 1 } else { 1 };
        for name in ["edge1", "edge2"] {
            assert_eq!(edges.served(name).0.sequence(), sequence, "{report:?}");
        }
        let third = &report.mirrors[2].outcome;
        let is_far =
            matches!(third, Outcome::Failed { failure: ErrorKind::ImplausibleSequence, .. });
        assert_eq!(is_far, !is_believed, "{third:?}");
    }
}

#[test]
fn activation_by_sequence_ignores_a_false_staged_claim() {
    const STAGED: Claim = |state, next| state.staged.as_mut().unwrap().content = next;
    const SERVES: Claim = |state, _| {
        let mut staged = state.staged.take().unwrap();
        staged.note = Some("mine".into());
        state.current = Some(staged.name());
        state.releases.push(staged);
    };
    for claim in [STAGED, SERVES] {
        let mut edges = Edges::new();
        edges.publish(&NAMES, |options| options.policy.goal = Goal::Stage);
        let source = Source::Staged("2".into());
        let fleet = with_claim(&edges, &NAMES, claim);
        let report = push(&source, &fleet, &waiting(&edges), &SilentMonitor).unwrap();
        assert_eq!(outcomes(&report)[..4], vec![Outcome::Activated; 4], "{report:?}");
        assert!(NAMES[..4].iter().all(|name| edges.served(name).1 == "version 2"), "{report:?}");
        // Neither of two mirrors is more credible.
        let mut edges = Edges::new();
        edges.publish(&NAMES[..2], |options| options.policy.goal = Goal::Stage);
        let fleet = with_claim(&edges, &NAMES[..2], claim);
        let options = Options { require: Require::AtLeast(1), ..waiting(&edges) };
        let refused = push(&source, &fleet, &options, &SilentMonitor).unwrap_err();
        assert!(matches!(refused, PushError::NotStaged { .. }), "{refused}");
    }
}

#[test]
fn creation_times_years_ahead_are_ignored() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let ahead = NAMES.map(|name| {
        let mut edge = edges.edge(name);
        edge.alters = altering(|state| alter(state, |release| release.created = 1 << 40));
        Arc::new(edge) as Arc<dyn Mirror>
    });
    push(&source, &Fleet::new(ahead.into()), &waiting(&edges), &SilentMonitor).unwrap();
    let state = edges.edge("edge1").inner.state().unwrap();
    let made = state.current_release().unwrap();
    assert!(made.created < 1 << 33, "{made:?}");
}

#[test]
fn release_with_an_invalid_time_is_not_made() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let options = Options { began: (MAX_TIME + 1) * 1000, ..waiting(&edges) };
    let error = push(&source, &edges.fleet(&NAMES), &options, &SilentMonitor).unwrap_err();
    assert!(matches!(error, PushError::NewRelease(_)), "{error}");
    assert_eq!(edges.served("edge1").1, "version 1");
}

#[test]
fn maximum_sequence_is_refused_with_the_name_of_the_mirror() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let mut only = edges.edge("edge1");
    only.alters = altering(|state| state.highest_sequence = MAX_SEQUENCE);
    let fleet = Fleet::new(vec![Arc::new(only)]);
    let options = Options { require: Require::All, ..waiting(&edges) };
    let error = push(&source, &fleet, &options, &SilentMonitor).unwrap_err().to_string();
    assert!(error.contains("edge1") && error.contains(&MAX_SEQUENCE.to_string()), "{error}");
}
