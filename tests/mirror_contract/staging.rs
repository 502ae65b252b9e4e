//! Staging of a release.

use headwater::manifest::{Entry, EntryKind};
use headwater::mirror::{ErrorKind, StageRequest};
use headwater::monitor::{Event, Monitor};
use headwater::pack::{BaseRange, Level, Piece, encode_block};

use crate::fixture::{Fixture, assert_serves};
use crate::origin::{EncodedPack, TransferCounts, Tree, first_tree, noise, second_tree};

pub(crate) fn staged_and_activated_release_is_served_completely<F: Fixture>() {
    let fixture = F::new();
    let first = first_tree().release(1);
    let delivery = first.bundle_from(None);
    let seen = delivery.publish(&*fixture.mirror(), None);
    assert_eq!(
        seen,
        TransferCounts { sent: delivery.packs.len() as u64, ..TransferCounts::default() }
    );
    assert!(delivery.packs.len() > 2, "the test needs several packs");
    assert_serves(&fixture, &first);
}

pub(crate) fn staged_release_is_not_served<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::new();
    let mirror = fixture.mirror();
    first.bundle_from(None).stage(&*mirror).unwrap();
    let state = fixture.mirror().state().unwrap();
    assert_eq!((state.current, state.releases.len(), state.highest_sequence), (None, 0, 1));
    assert!(std::fs::symlink_metadata(fixture.store().join("current")).is_err());
    mirror.activate(first.name(), None).unwrap();
    second.bundle_from(Some(&first)).stage(&*mirror).unwrap();
    let state = fixture.mirror().state().unwrap();
    assert_eq!(
        (state.current, state.releases.len(), state.highest_sequence),
        (Some(first.name()), 1, 2)
    );
    assert_serves(&fixture, &first);
}

pub(crate) fn staging_again_transfers_nothing<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let delivery = second.bundle_from(Some(&first));
    delivery.stage(&*fixture.mirror()).unwrap();
    assert_eq!(delivery.stage(&*fixture.mirror()).unwrap(), TransferCounts::default());
    fixture.mirror().activate(second.name(), Some(first.name())).unwrap();
    assert_eq!(
        delivery.stage(&*fixture.mirror()).unwrap(),
        TransferCounts::default(),
        "the current release counts as staged"
    );
    assert_serves(&fixture, &second);
}

pub(crate) fn every_kind_of_change_is_served<F: Fixture>() {
    let moves: [fn(Tree) -> Tree; 9] = [
        |tree| tree.file("added/far/down.txt", "new", 2),
        |tree| tree.file("app.js", "changed", 2),
        |tree| tree.file("app.js", "let answer = 41;\n".repeat(150), 3),
        |tree| tree.without("img/logo.bin"),
        |tree| tree.exec("index.html", "<h1>one</h1>\n", 1_700_000_001),
        |tree| tree.without("bin/tool").file("bin", "a file now", 2),
        |tree| tree.without("latest").file("latest/is", "a directory now", 2),
        |tree| tree.link("app.js", "index.html"),
        |tree| tree.retired("index.html", "<h1>one</h1>\n", 1_700_000_001, 1_800_000_000),
    ];
    let first = first_tree().release(1);
    let fixture = F::with(&[&first]);
    let mirror = fixture.mirror();
    let mut base = first.clone();
    // Forwards and back again, so that both slots get every change.
    for (index, change) in (0u64..).zip(moves) {
        for (sequence, tree) in
            [(2 * index + 2, change(first_tree())), (2 * index + 3, first_tree())]
        {
            let next = tree.release(sequence);
            next.bundle_from(Some(&base)).publish(&*mirror, Some(base.name()));
            assert_serves(&fixture, &next);
            mirror.clean_up(2).unwrap();
            assert_serves(&fixture, &next);
            base = next;
        }
    }
}

pub(crate) fn packs_are_accepted_in_any_order<F: Fixture>() {
    let first = first_tree().release(1);
    for turn in 0..first.bundle_from(None).packs.len() {
        let fixture = F::new();
        let mut delivery = first.bundle_from(None);
        delivery.packs.rotate_left(turn);
        if turn % 2 == 1 {
            delivery.packs.reverse();
        }
        delivery.publish(&*fixture.mirror(), None);
        assert_serves(&fixture, &first);
    }
}

pub(crate) fn block_against_base_objects_is_decoded<F: Fixture>() {
    let first = Tree::default()
        .file("a", noise(9000, 1), 1)
        .link("b", "a")
        .file("c", noise(5000, 2), 1)
        .release(1);
    let old = [noise(9000, 1), noise(5000, 2)].concat();
    let mut new = old.clone();
    new[4321] ^= 1;
    let second = Tree::default().file("a", new.clone(), 2).release(2);
    let fixture = F::with(&[&first]);
    let mut delivery = second.bundle_from(Some(&first));
    let piece = Piece { ordinal: 0, offset: 0, length: 14_000 };
    // Positions count every entry of the base, links included.
    let bases = [
        BaseRange { entry: 0, offset: 0, length: 9000 },
        BaseRange { entry: 2, offset: 0, length: 5000 },
    ];
    let block = encode_block(&[piece], &new, &bases, &old, Level::Zstd(3)).unwrap();
    assert_eq!(block.base_count(), 2);
    delivery.packs = vec![EncodedPack::of(&block)];
    delivery.publish(&*fixture.mirror(), Some(first.name()));
    assert_serves(&fixture, &second);
}

pub(crate) fn content_present_under_another_path_is_not_sent<F: Fixture>() {
    let first = first_tree().release(1);
    let fixture = F::with(&[&first]);
    let content = noise(3500, 1);
    let second = first_tree().without("img/logo.bin").file("moved.bin", content.clone(), 9);
    let second = second.file("copied.bin", content, 8).release(2);
    let delivery = second.bundle_from(Some(&first));
    assert_eq!(delivery.packs.len(), 0);
    delivery.publish(&*fixture.mirror(), Some(first.name()));
    assert_eq!(delivery.asked.lock().unwrap().len(), 0);
    assert_serves(&fixture, &second);
    let moved = second.file("moved.bin").object;
    let mtimes =
        |entry: &Entry| matches!(&entry.kind, EntryKind::File(file) if file.object == moved);
    assert_eq!(second.entries.iter().filter(|entry| mtimes(entry)).count(), 2);
}

/// A monitor that reports a cancellation.
pub(crate) struct Cancelled;

impl Monitor for Cancelled {
    fn event(&self, _: Event) {}

    fn is_cancelled(&self) -> bool {
        true
    }
}

pub(crate) fn cancelled_stage_changes_nothing<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let delivery = second.bundle_from(Some(&first));
    let request = StageRequest {
        release: &delivery.release,
        key: delivery.key,
        base: delivery.base,
        change: &delivery.change,
    };
    let error = fixture.mirror().stage(&request, &delivery, &Cancelled).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_serves(&fixture, &first);
    delivery.publish(&*fixture.mirror(), Some(first.name()));
    assert_serves(&fixture, &second);
}
