//! Releases that are staged now and activated later: they survive the origin, and can be previewed.

use std::fs;

use headwater::mirror::ErrorKind;
use headwater::release::ReleaseName;

use crate::fixture::{Fixture, assert_serves, faults, tree_at, tree_of};
use crate::origin::{Tree, Version, first_tree, second_tree};

/// Asserts that the mirror has it staged, that `staged` shows exactly it, and that visitors get the
/// old content.
#[track_caller]
fn assert_shows<F: Fixture>(fixture: &F, staged: &Version, served: &Version) {
    assert_eq!(fixture.mirror().state().unwrap().staged.as_ref(), Some(&staged.release));
    assert!(
        tree_at(&fixture.store().join("staged/")) == tree_of(staged),
        "`staged` shows another release"
    );
    assert_serves(fixture, served);
}

/// Asserts that nothing is staged or shown in `staged`.
#[track_caller]
fn assert_shows_nothing<F: Fixture>(fixture: &F) {
    assert_eq!(fixture.mirror().state().unwrap().staged, None);
    assert!(fs::symlink_metadata(fixture.store().join("staged")).is_err());
    assert_eq!(faults(&*fixture.mirror()), []);
}

fn activate<F: Fixture>(
    fixture: &F,
    release: ReleaseName,
    expected: &Version,
) -> Option<ErrorKind> {
    fixture.mirror().activate(release, Some(expected.name())).err().map(|error| error.kind())
}

pub(crate) fn staged_release_is_activated_by_name_after_a_restart<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let mut fixture = F::with(&[&first]);
    second.bundle_from(Some(&first)).stage(&*fixture.mirror()).unwrap();
    assert_shows(&fixture, &second, &first);
    fixture.restart();
    assert_shows(&fixture, &second, &first);
    assert_eq!(activate(&fixture, second.name(), &first), None);
    assert_serves(&fixture, &second);
    assert_shows_nothing(&fixture);
}

pub(crate) fn staged_release_is_abandoned_after_a_restart<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let mut fixture = F::with(&[&first]);
    second.bundle_from(Some(&first)).stage(&*fixture.mirror()).unwrap();
    fixture.restart();
    fixture.mirror().abandon(second.name()).unwrap();
    assert_shows_nothing(&fixture);
    fixture.restart();
    assert_shows_nothing(&fixture);
    assert_eq!(activate(&fixture, second.name(), &first), Some(ErrorKind::Conflict));
    assert_serves(&fixture, &first);
}

pub(crate) fn later_stage_supersedes_a_staged_release<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let third = Tree::default().file("third.txt", "third", 1_700_000_003).release(3);
    let mut fixture = F::with(&[&first]);
    second.bundle_from(Some(&first)).stage(&*fixture.mirror()).unwrap();
    fixture.restart();
    third.bundle_from(Some(&first)).stage(&*fixture.mirror()).unwrap();
    assert_shows(&fixture, &third, &first);
    assert_eq!(activate(&fixture, second.name(), &first), Some(ErrorKind::Conflict));
    assert_eq!(activate(&fixture, third.name(), &first), None);
    assert_serves(&fixture, &third);
    assert_shows_nothing(&fixture);
}
