//! Damaged or missing content that a push finds on a mirror, and how the push repairs it.

use std::fs;

use headwater::mirror::ErrorKind;
use headwater::pack::{BaseRange, Level, Piece, encode_block};

use crate::damage::{detach, flip_byte};
use crate::fixture::{Fixture, assert_serves, tree_at, tree_of};
use crate::origin::{EncodedPack, Tree, first_tree, noise, second_tree};

pub(crate) fn missing_objects_are_requested_again<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let lost = [first.file("img/logo.bin").object, first.file("index.html").object];
    lost.iter().for_each(|object| fs::remove_file(fixture.object_path(object)).unwrap());
    let delivery = second.bundle_from(Some(&first));
    let seen = delivery.publish(&*fixture.mirror(), Some(first.name()));
    assert_eq!(seen.resent, 2);
    let mut asked = delivery.asked.lock().unwrap().clone();
    asked.sort();
    let mut lost = lost.to_vec();
    lost.sort();
    assert_eq!(asked, lost);
    assert_serves(&fixture, &second);
}

pub(crate) fn objects_found_damaged_during_a_copy_are_requested_again<F: Fixture>() {
    let content = noise(3500, 1);
    let first = first_tree().release(1);
    let second = first_tree().file("img/logo.bin", content, 1_700_000_002).release(2);
    let fixture = F::with(&[&first]);
    flip_byte(&fixture.object_path(&first.file("img/logo.bin").object), 100);
    let delivery = second.bundle_from(Some(&first));
    assert_eq!(delivery.packs.len(), 0, "the origin assumes that the mirror has the object");
    let seen = delivery.publish(&*fixture.mirror(), Some(first.name()));
    assert_eq!(seen.resent, 1);
    assert!(
        crate::fixture::tree_at(&fixture.store().join("current"))
            == crate::fixture::tree_of(&second)
    );
}

pub(crate) fn received_object_replaces_a_damaged_one<F: Fixture>() {
    // An object that only an old release has and no slot shows, so that its content is sent again.
    let release = |path: &str, sequence| {
        Tree::default().file(path, noise(900, sequence), 7).release(sequence)
    };
    let (first, second, third) = (release("back.bin", 1), release("b", 2), release("c", 3));
    let fixture = F::with(&[&first, &second, &third]);
    flip_byte(&fixture.object_path(&first.file("back.bin").object), 100);
    let fourth = Tree::default().file("back.bin", noise(900, 1), 7).release(4);
    fourth.bundle_from(Some(&third)).publish(&*fixture.mirror(), Some(third.name()));
    assert_serves(&fixture, &fourth);
}

pub(crate) fn object_that_no_source_has_is_an_error<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let object = first.file("img/logo.bin").object;
    let path = fixture.object_path(&object);
    let kept = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut delivery = second.bundle_from(Some(&first));
    let content = delivery.objects.remove(&object).unwrap();
    let error = delivery.stage(&*fixture.mirror()).unwrap_err();
    assert!(error.to_string().contains(&object.to_string()), "{error}");
    // Other content is not accepted for it.
    delivery.objects.insert(object, noise(3500, 99).into());
    delivery.stage(&*fixture.mirror()).unwrap_err();
    assert_eq!(fixture.mirror().state().unwrap().current, Some(first.name()));
    assert!(
        crate::fixture::tree_at(&fixture.store().join("current"))
            == crate::fixture::tree_of(&first)
    );
    assert!(*content == kept);
    delivery.objects.insert(object, content);
    delivery.publish(&*fixture.mirror(), Some(first.name()));
    assert_serves(&fixture, &second);
}

pub(crate) fn damaged_or_missing_base_is_reported<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let harms: [fn(&std::path::Path); 4] = [
        |file| fs::remove_file(file).unwrap(),
        |file| flip_byte(file, 1),
        |file| flip_byte(file, fs::metadata(file).unwrap().len() / 2),
        |file| fs::write(file, b"").unwrap(),
    ];
    for (index, harm) in harms.iter().enumerate() {
        let fixture = F::with(&[&first]);
        let name = format!(".headwater/manifests/{}.zst", first.release.manifest);
        harm(&fixture.store().join(name));
        let error = second.bundle_from(Some(&first)).stage(&*fixture.mirror()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DamagedBase, "harm {index}: {error:?}");
        assert_eq!(fixture.mirror().state().unwrap().current, Some(first.name()));
        // The remedy: send everything again.
        second.bundle_from(None).publish(&*fixture.mirror(), Some(first.name()));
        assert!(
            crate::fixture::tree_at(&fixture.store().join("current"))
                == crate::fixture::tree_of(&second)
        );
    }
}

pub(crate) fn damaged_base_objects_are_reported_and_removed<F: Fixture>() {
    let contents = [noise(3000, 1), noise(2000, 2), noise(1000, 3)];
    let [gone, kept, sound] = &contents;
    let first = Tree::default().file("gone", gone.clone(), 1).file("kept", kept.clone(), 1);
    let first = first.file("sound", sound.clone(), 1).release(1);
    let old = contents.concat();
    let mut new = old.clone();
    new[2500] ^= 1;
    let others = [noise(40_000, 4), noise(40_000, 5)];
    let second = Tree::default().file("gone", new.clone(), 2).file("kept", kept.clone(), 1);
    let second =
        second.file("other1", others[0].clone(), 2).file("other2", others[1].clone(), 2).release(2);
    let range = |(entry, content): (u64, &Vec<u8>)| BaseRange {
        entry,
        offset: 0,
        length: u32::try_from(content.len()).unwrap(),
    };
    let bases: Vec<_> = (0..).zip(&contents).map(range).collect();
    let block = encode_block(
        &[Piece { ordinal: 0, offset: 0, length: 6000 }],
        &new,
        &bases,
        &old,
        Level::Zstd(3),
    );
    let block = block.unwrap();
    assert_eq!(block.base_count(), 3);
    let harms: [fn(&std::path::Path); 3] = [
        |file| flip_byte(file, 700),
        |file| fs::remove_file(file).unwrap(),
        |file| {
            fs::remove_file(file).unwrap();
            fs::write(file, b"short").unwrap();
        },
    ];
    for (index, harm) in harms.iter().enumerate() {
        let fixture = F::with(&[&first]);
        let mut damaged = ["gone", "kept"].map(|path| first.file(path).object);
        damaged.sort_unstable();
        for object in damaged.map(|object| fixture.object_path(&object)) {
            // Otherwise the served file would have the same inode and be damaged, too.
            detach(&object);
            harm(&object);
        }
        let mut delivery = second.bundle_from(Some(&first));
        // Later errors do not hide the reason.
        delivery.packs = vec![
            EncodedPack::of(&block),
            EncodedPack::raw(1, 0, &others[0]),
            EncodedPack::raw(2, 0, &others[1]),
        ];
        let mirror = fixture.mirror();
        mirror.state().unwrap();
        let error = delivery.stage(&*mirror).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DamagedBase, "harm {index}: {error:?}");
        let mut named = error.damaged_bases().to_vec();
        named.sort_unstable();
        assert_eq!(named, damaged, "harm {index}");
        assert!(
            damaged.iter().all(|object| !fixture.object_path(object).exists()),
            "the objects count as present"
        );
        assert!(fixture.object_path(&first.file("sound").object).exists());
        assert_eq!(fixture.mirror().state().unwrap().current, Some(first.name()));
        assert!(tree_at(&fixture.store().join("current/")) == tree_of(&first), "harm {index}");
        // The remedy: blocks without these bases, and requests for objects that no block contains.
        let delivery = second.bundle_from(Some(&first));
        delivery.publish(&*fixture.mirror(), Some(first.name()));
        assert_eq!(*delivery.asked.lock().unwrap(), [second.file("kept").object], "harm {index}");
        assert!(tree_at(&fixture.store().join("current/")) == tree_of(&second), "harm {index}");
        assert!(fs::read(fixture.object_path(&second.file("kept").object)).unwrap() == *kept);
    }
}
