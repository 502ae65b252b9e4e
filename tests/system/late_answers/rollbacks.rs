//! What a rollback without a sequence goes back to where the mirrors serve different releases.

use headwater::hash::{ContentId, ManifestId};
use headwater::mirror::ErrorKind;
use headwater::release::PartialScope;

use super::claims::{altering, back, publish_elsewhere, waiting};
use super::*;

#[test]
fn rollback_goes_to_the_release_that_most_mirrors_keep() {
    let mut edges = Edges::new();
    edges.publish(&NAMES, |_| {});
    let mut fifth = edges.edge("edge5");
    fifth.alters = altering(|state| {
        let mut between = state.releases[0].clone();
        between.created += 1;
        between.manifest = ManifestId::of(b"nothing");
        between.content = ContentId::of(b"nothing");
        state.releases.insert(1, between);
    });
    let others = NAMES[..4].iter().map(|name| Arc::new(edges.edge(name)) as Arc<dyn Mirror>);
    let fleet = Fleet::new(others.chain([Arc::new(fifth) as Arc<dyn Mirror>]).collect());
    let report = push(&back(), &fleet, &waiting(&edges), &SilentMonitor).unwrap();
    assert!(report.unmet.is_none(), "{report:?}");
    assert!(NAMES[..4].iter().all(|name| edges.served(name).1 == "version 1"), "{report:?}");
}

/// The options of a rollback that requires one mirror.
fn for_rollback(edges: &Edges) -> Options {
    Options { require: Require::AtLeast(1), ..waiting(edges) }
}

fn assert_is_ambiguous(edges: &Edges, names: &[&str], options: &Options) {
    let planned =
        plan_rollback(&edges.fleet(names), None, options, &SilentMonitor).map(|plan| plan.to);
    let pushed = push(&back(), &edges.fleet(names), options, &SilentMonitor);
    for refused in [planned.unwrap_err(), pushed.unwrap_err()] {
        assert!(refused.to_string().contains("ambiguous"), "{refused}");
    }
}

/// Asserts that a rollback of these mirrors goes to release 1, reaches all of them, and warns which
/// of them did not decide.
fn assert_goes_back(edges: &Edges, names: &[&str], options: &Options, not_followed: &[&str]) {
    let recorder = Recorder::new(None, channel().0);
    let planned = plan_rollback(&edges.fleet(names), None, options, &recorder).unwrap();
    assert_eq!(planned.to.map(|release| release.sequence), Some(1));
    let is_warning = |event: &Event| match event {
        Event::Warned { message } => message.contains("did not decide"),
        _ => false,
    };
    let warning = recorder.first(is_warning);
    let warned = format!("{:?}", recorder.events.lock().unwrap()[warning]);
    for name in names {
        assert_eq!(warned.contains(&format!("{name} (")), not_followed.contains(name), "{warned}");
    }
    let report = push(&back(), &edges.fleet(names), options, &SilentMonitor).unwrap();
    assert_eq!(outcomes(&report), vec![Outcome::Activated; names.len()], "{report:?}");
    assert!(names.iter().all(|name| edges.served(name).1 == "version 1"), "{report:?}");
}

#[test]
fn lagging_mirror_does_not_block_a_rollback() {
    let mut edges = Edges::new();
    edges.publish(&["edge1", "edge2"], |_| {});
    let options = for_rollback(&edges);
    assert_goes_back(&edges, &NAMES[..3], &options, &["edge3"]);
}

#[test]
fn rollback_of_four_tolerates_one_lagging_and_one_false_claim() {
    let mut edges = Edges::new();
    edges.publish(&["edge1", "edge2"], |_| {});
    publish_elsewhere(&mut edges, &["edge4"]);
    let options = for_rollback(&edges);
    assert_goes_back(&edges, &NAMES[..4], &options, &["edge3", "edge4"]);
}

#[test]
fn own_release_on_one_mirror_makes_a_rollback_ambiguous() {
    for is_partial in [true, false] {
        let mut edges = Edges::new();
        edges.publish(&NAMES, |_| {});
        edges.publish(&["edge1"], |options| {
            options.partial = is_partial
                .then(|| PartialScope { mirrors: vec!["edge1".into()], why: "push".into() });
        });
        assert_is_ambiguous(&edges, &NAMES, &for_rollback(&edges));
        assert_eq!(edges.served("edge2").1, "version 2");
    }
}

#[test]
fn first_wave_ahead_makes_a_rollback_ambiguous() {
    let mut edges = Edges::new();
    edges.publish(&NAMES, |_| {});
    edges.publish(&["edge1"], |options| options.stores = KnownStores::default());
    let mut options = for_rollback(&edges);
    options.policy.waves = vec![Wave { mirrors: vec!["edge1".into()], ..Wave::default() }];
    assert_is_ambiguous(&edges, &NAMES, &options);
}

#[test]
fn partial_release_on_several_mirrors_makes_a_rollback_ambiguous() {
    let mut edges = Edges::new();
    edges.publish(&NAMES, |_| {});
    let canaries = &NAMES[..3];
    edges.publish(canaries, |options| {
        let mirrors = canaries.iter().map(|name| (*name).to_owned()).collect();
        options.partial = Some(PartialScope { mirrors, why: "push".into() });
    });
    assert_is_ambiguous(&edges, &NAMES, &for_rollback(&edges));
}

#[test]
fn unconfirmed_release_on_two_mirrors_makes_a_rollback_ambiguous() {
    let mut edges = Edges::new();
    edges.publish(&NAMES, |_| {});
    publish_elsewhere(&mut edges, &["edge4", "edge5"]);
    // A release is confirmed once three mirrors have it.
    assert_is_ambiguous(&edges, &NAMES, &Options { require: Require::All, ..waiting(&edges) });
}

#[test]
fn rollback_of_two_mirrors_on_different_releases_is_ambiguous() {
    let mut edges = Edges::new();
    edges.publish(&["edge1"], |_| {});
    assert_is_ambiguous(&edges, &NAMES[..2], &for_rollback(&edges));
}

#[test]
fn rollback_of_all_skips_a_canary_release() {
    let mut edges = Edges::new();
    edges.publish(&["edge1"], |options| {
        options.partial = Some(PartialScope { mirrors: vec!["edge1".into()], why: "push".into() });
    });
    // The canary misses the next release, so that its own release is the last one it got.
    let source = edges.tree();
    let mut mirrors = ["edge1", "edge2", "edge3", "edge4"].map(|name| edges.edge(name));
    mirrors[0].fails_to_stage = true;
    let fleet =
        Fleet::new(mirrors.into_iter().map(|edge| Arc::new(edge) as Arc<dyn Mirror>).collect());
    let report = push(&source, &fleet, &for_rollback(&edges), &SilentMonitor).unwrap();
    assert_eq!(outcomes(&report)[1..], vec![Outcome::Activated; 3], "{report:?}");
    let options = for_rollback(&edges);
    assert_goes_back(&edges, &NAMES[..4], &options, &["edge1"]);
}

#[test]
fn rollback_plan_leaves_out_a_mirror_of_another_history() {
    let mut edges = Edges::new();
    edges.publish(&NAMES, |_| {});
    fs::remove_dir_all(edges.sandbox.path("edge5")).unwrap();
    edges.publish(&["edge5"], |options| options.stores = KnownStores::default());
    let options = Options { stores: KnownStores::default(), ..for_rollback(&edges) };
    let planned = plan_rollback(&edges.fleet(&NAMES), None, &options, &SilentMonitor).unwrap();
    assert_eq!(planned.to.map(|release| release.sequence), Some(1));
    assert_eq!(planned.mirrors[4], ("edge5".into(), Err(ErrorKind::OtherHistory)));
}
