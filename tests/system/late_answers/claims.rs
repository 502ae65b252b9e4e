//! Whatever one mirror says of itself, what becomes of the others is what it would be without that mirror.

use headwater::hash::HistoryId;
use headwater::mirror::{Failure, MirrorState};
use headwater::push::PushError;
use headwater::release::{MAX_SEQUENCE, Partial, RejectedContent, Release};

use super::*;

/// Changes the record of what the mirror serves.
fn alter(state: &mut MirrorState, change: impl FnOnce(&mut Release)) {
    let release = state.releases.last_mut().unwrap();
    change(release);
    state.current = Some(release.name());
    state.highest_sequence = state.highest_sequence.max(release.sequence);
}

type Alter = fn(&mut MirrorState);

/// What one mirror may say, by a name for it.
const CLAIMS: &[(&str, Alter)] = &[
    ("the highest sequence of all", |state| state.highest_sequence = u64::MAX - 1),
    ("the highest sequence that is allowed", |state| state.highest_sequence = MAX_SEQUENCE),
    ("a far release", |state| alter(state, |release| release.sequence = MAX_SEQUENCE)),
    ("a release that is a little ahead", |state| alter(state, |release| release.sequence += 5)),
    ("the end of time", |state| alter(state, |release| release.created = MAX_SEQUENCE)),
    ("a far run", |state| alter(state, |release| release.orders = [("ci".into(), MAX_SEQUENCE)].into())),
    ("a history of its own", |state| {
        alter(state, |release| {
            release.history = HistoryId::from_bytes([7; 16]);
            release.sequence += 1;
        });
    }),
    ("a release for itself", |state| {
        alter(state, |release| {
            release.sequence += 1;
            release.partial = Some(Partial { mirrors: vec!["edge5".into()], why: "push".into() });
        });
    }),
    ("rejected content", |state| {
        alter(state, |release| {
            let content = release.content;
            release.sequence += 1;
            release.rejected.push(RejectedContent { content, sequence: 1, at: 1, by: None, why: None });
        });
    }),
    ("a manifest that nobody has", |state| {
        alter(state, |release| {
            release.sequence += 1;
            release.manifest = headwater::hash::ManifestId::of(b"nothing");
        });
    }),
    ("nothing at all", |state| *state = MirrorState { store: state.store, ..MirrorState::default() }),
];

/// Options of a push that waits for the answers of all mirrors.
fn waiting(edges: &Edges) -> Options {
    Options { answer_patience: MOST, ..edges.options() }
}

fn run(number: u64) -> impl Fn(&mut Options) {
    move |options| options.order = Some(Order { stream: "ci".into(), number })
}

#[test]
fn whatever_one_mirror_says_the_others_are_published_as_without_it() {
    for (claim, alters) in CLAIMS {
        let mut edges = Edges::absent();
        edges.publish(&NAMES, run(7));
        let source = edges.tree();
        let mut fifth = edges.edge("edge5");
        fifth.alters = Some(*alters);
        let others = NAMES[..4].iter().map(|name| Arc::new(edges.edge(name)) as Arc<dyn Mirror>);
        let fleet = Fleet::new(others.chain([Arc::new(fifth) as Arc<dyn Mirror>]).collect());
        let mut options = waiting(&edges);
        run(8)(&mut options);
        let report = push(&source, &fleet, &options, &Silent).unwrap_or_else(|error| panic!("{claim}: {error}"));
        assert!(report.unmet.is_none(), "{claim}: {report:?}");
        for (mirror, name) in report.mirrors.iter().zip(&NAMES[..4]) {
            assert_eq!(mirror.outcome, Outcome::Activated, "{claim}: {report:?}");
            let (release, content) = edges.served(name);
            assert_eq!(content, "version 2", "{claim}");
            assert!(release.sequence() < 100, "{claim}: {release}");
        }
    }
}

#[test]
fn a_run_number_counts_once_enough_mirrors_serve_it_and_can_be_set_back() {
    let mut edges = Edges::absent();
    edges.publish(&NAMES, run(900));
    let source = edges.tree();
    let mut options = Options { require: Require::All, ..waiting(&edges) };
    run(8)(&mut options);
    let refused = push(&source, &edges.fleet(&NAMES), &options, &Silent).unwrap_err();
    assert!(matches!(refused, PushError::Superseded { number: 8, seen: 900, .. }), "{refused}");
    options.allow_older = true;
    push(&source, &edges.fleet(&NAMES), &options, &Silent).unwrap();
    // The stream goes on from there: nobody has to allow the next run.
    edges.publish(&NAMES, run(9));
    assert_eq!(edges.served("edge1").1, "version 3");
}

#[test]
fn a_mirror_of_another_history_fails_alone_where_most_have_theirs_in_common() {
    let mut edges = Edges::new();
    fs::remove_dir_all(edges.world.path("edge5")).unwrap();
    edges.publish(&["edge5"], |_| {});
    let source = edges.tree();
    let report = push(&source, &edges.fleet(&NAMES), &waiting(&edges), &Silent).unwrap();
    assert!(report.mirrors[..4].iter().all(|mirror| mirror.outcome == Outcome::Activated), "{report:?}");
    let fifth = &report.mirrors[4].outcome;
    assert!(matches!(fifth, Outcome::Failed { failure: Failure::OtherHistory, .. }), "{fifth:?}");
    assert_eq!(edges.served("edge5").1, "version 2");
}

#[test]
fn a_clock_that_was_years_ahead_is_outrun() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let ahead = NAMES.map(|name| {
        let mut edge = edges.edge(name);
        edge.alters = Some(|state| alter(state, |release| release.created = 1 << 40));
        Arc::new(edge) as Arc<dyn Mirror>
    });
    push(&source, &Fleet::new(ahead.into()), &waiting(&edges), &Silent).unwrap();
    let state = edges.edge("edge1").inner.state().unwrap();
    let made = state.current_release().unwrap();
    assert!(made.created < 1 << 33, "{made:?}");
}

#[test]
fn after_the_last_sequence_the_mirror_that_has_it_is_named() {
    let mut edges = Edges::new();
    let source = edges.tree();
    let mut only = edges.edge("edge1");
    only.alters = Some(|state| state.highest_sequence = MAX_SEQUENCE);
    let fleet = Fleet::new(vec![Arc::new(only)]);
    let options = Options { require: Require::All, ..waiting(&edges) };
    let error = push(&source, &fleet, &options, &Silent).unwrap_err().to_string();
    assert!(error.contains("edge1") && error.contains(&MAX_SEQUENCE.to_string()), "{error}");
}
