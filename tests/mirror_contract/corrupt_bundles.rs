//! Bundles whose content does not match what they announce.

use headwater::hash::{ContentId, ManifestId, PackId};
use headwater::mirror::{ErrorKind, MirrorError};
use headwater::pack::{BaseRange, Level, Piece, encode_block};
use headwater::varint;

use crate::fixture::{Fixture, assert_serves};
use crate::origin::{Delivery, EncodedPack, Tree, Version, first_tree, noise, second_tree};

type Corruption = (&'static str, fn(&mut Delivery));

fn flip(pack: &mut EncodedPack, at: usize) {
    let mut bytes = pack.bytes.to_vec();
    bytes[at] ^= 1;
    pack.bytes = bytes.into();
}

/// Decompresses the manifest delta, edits its bytes, and compresses it again.
fn edit_change(delivery: &mut Delivery, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut plain = zstd::decode_all(&delivery.change[..]).unwrap();
    edit(&mut plain);
    delivery.change = zstd::encode_all(&plain[..], 3).unwrap().into();
}

/// Returns the position of the number of new objects in a decompressed delta. The number is one
/// byte here, and so is an absent `created`.
fn count_at(plain: &[u8]) -> usize {
    let mut rest = &plain[37..];
    varint::take(&mut rest).unwrap();
    plain.len() - rest.len()
}

const RELEASE_CORRUPTIONS: [Corruption; 6] = [
    ("manifest", |it| it.release.manifest = ManifestId::of(b"another")),
    ("content", |it| it.release.content = ContentId::of(b"another")),
    ("entries", |it| it.release.entries += 1),
    ("bytes", |it| it.release.bytes -= 1),
    ("retired", |it| it.release.retired = 0),
    ("until", |it| it.release.until = it.release.until.map(|until| until + 1)),
];

const DELTA_CORRUPTIONS: [Corruption; 11] = [
    ("base of the request", |it| it.base = None),
    ("base of the change", |it| edit_change(it, |plain| plain[7] ^= 1)),
    ("a base that is not here", |it| {
        it.base = Some(ManifestId::of(b"nowhere"));
        edit_change(it, |plain| {
            plain[5..37].copy_from_slice(ManifestId::of(b"nowhere").as_bytes());
        });
    }),
    ("fewer objects announced", |it| {
        edit_change(it, |plain| {
            let at = count_at(plain);
            plain[at] -= 1;
        });
    }),
    ("more objects announced", |it| {
        edit_change(it, |plain| {
            let at = count_at(plain);
            plain[at] += 1;
        });
    }),
    ("another time", |it| edit_change(it, |plain| plain[37] ^= 1)),
    ("something after the end", |it| edit_change(it, |plain| plain.push(1))),
    ("no end", |it| edit_change(it, |plain| plain.truncate(plain.len() - 1))),
    ("a newer version", |it| edit_change(it, |plain| plain[4] = 2)),
    ("a cut frame", |it| it.change = it.change[..it.change.len() - 5].into()),
    ("nothing", |it| it.change = [].into()),
];

/// Returns a block for the first object that uses `base` with wrong content.
fn build_on(delivery: &mut Delivery, base: BaseRange) {
    let content = noise(2550, 5);
    let mut prefix = content.clone();
    prefix.resize(base.length as usize, 0);
    let piece = Piece { ordinal: 0, offset: 0, length: 2550 };
    let block = encode_block(&[piece], &content, &[base], &prefix, Level::Zstd(3)).unwrap();
    assert_eq!(block.base_count(), 1);
    delivery.packs.insert(0, EncodedPack::of(&block));
}

const PACK_CORRUPTIONS: [Corruption; 18] = [
    ("a flipped bit in a compressed frame", |it| {
        let at = it.packs[0].bytes.len() - 60;
        flip(&mut it.packs[0], at);
    }),
    ("a flipped bit in raw content", |it| {
        let at = it.packs[1].bytes.len() - 60;
        flip(&mut it.packs[1], at);
    }),
    ("a flipped bit in a header", |it| flip(&mut it.packs[1], 7)),
    ("a cut pack", |it| {
        let bytes = &it.packs[1].bytes;
        it.packs[1].bytes = bytes[..bytes.len() - 40].to_vec().into();
    }),
    ("no pack at all", |it| it.packs[0].bytes = b"HTTP/1.1 502 Bad Gateway".to_vec().into()),
    ("a missing pack", |it| drop(it.packs.pop())),
    ("no packs", |it| it.packs.clear()),
    ("a piece twice", |it| {
        it.packs.push(EncodedPack::raw(0, 0, "let answer = 42;\n".repeat(20).as_bytes()));
    }),
    ("a whole object twice", |it| it.packs.push(EncodedPack::raw(1, 0, b"was a directory\n"))),
    ("a pack under another name", |it| it.packs[0].id = PackId::of(b"another")),
    ("a piece behind the end of its object", |it| {
        it.packs.push(EncodedPack::raw(0, 1 << 40, b"behind"));
    }),
    ("a piece of no object", |it| it.packs.push(EncodedPack::raw(1000, 0, b"nobody's"))),
    ("content of another object of the same size", |it| {
        it.packs.clear();
        for (ordinal, size) in (0..).zip([2550, 16, 4200]) {
            it.packs.push(EncodedPack::raw(ordinal, 0, &noise(size, 77)));
        }
    }),
    ("a block on a base that is not there", |it| {
        build_on(it, BaseRange { entry: 999, offset: 0, length: 4000 });
    }),
    ("a block on a link", |it| build_on(it, BaseRange { entry: 6, offset: 0, length: 4000 })),
    ("a block on what is behind the end of a base", |it| {
        build_on(it, BaseRange { entry: 0, offset: 2000, length: 4000 });
    }),
    ("a block on what no file can have", |it| {
        build_on(it, BaseRange { entry: 0, offset: (1 << 53) - 4001, length: 4000 });
    }),
    (OTHER_CONTENT, |it| {
        build_on(it, BaseRange { entry: 0, offset: 0, length: 2550 });
    }),
];

const OTHER_CONTENT: &str = "a block on other content than the base has";

/// Whether the error blames the mirror: its disk, or a receiver with a status of at least 500.
fn is_fault_of_the_mirror(error: &MirrorError) -> bool {
    match error {
        MirrorError::Store(error) => error.is_disk_failure(),
        MirrorError::Remote { refusal } => refusal.kind == ErrorKind::Other,
        _ => true,
    }
}

pub(crate) fn corrupt_bundle_is_refused_and_leaves_nothing_behind<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first]);
    let mirror = fixture.mirror();
    let objects = fixture.object_count();
    for (name, spoil) in
        RELEASE_CORRUPTIONS.iter().chain(&DELTA_CORRUPTIONS).chain(&PACK_CORRUPTIONS)
    {
        let mut delivery = second.bundle_from(Some(&first));
        spoil(&mut delivery);
        let Err(error) = delivery.stage(&*mirror) else { panic!("{name}: was staged") };
        println!("{name}: {error}");
        // The sender is at fault, not the disk.
        assert!(
            !["File exists", "AlreadyExists"]
                .iter()
                .any(|words| format!("{error:?}").contains(words)),
            "{name}"
        );
        // A wrong match of a block signature looks like this: the error must tell the origin which
        // object.
        let is_named = *name == OTHER_CONTENT;
        let named = first.entries[..1].iter().filter_map(|entry| Some(entry.file()?.object));
        let named: Vec<_> = named.filter(|_| is_named).collect();
        assert_eq!(error.damaged_bases(), named, "{name}: the error blames content of the mirror");
        assert!(
            !name.starts_with("a block on") || !is_fault_of_the_mirror(&error),
            "{name}: {error:?}"
        );
        assert!(mirror.activate(delivery.release.name(), Some(first.name())).is_err(), "{name}");
        assert_serves(&fixture, &first);
        assert_eq!(mirror.state().unwrap().highest_sequence, 1, "{name}");
        assert_eq!(
            fixture.object_count(),
            objects,
            "{name}: content of a refused bundle became an object"
        );
        // The quarantine of the corrupt bundle must not block the valid one, which has the same
        // key.
        second
            .bundle_from(Some(&first))
            .stage(&*mirror)
            .unwrap_or_else(|error| panic!("after {name}: {error}"));
        mirror.abandon(second.name()).unwrap();
        mirror.prune(3).unwrap();
    }
    second.bundle_from(Some(&first)).publish(&*mirror, Some(first.name()));
    assert_serves(&fixture, &second);
}

/// Returns a manifest delta without a base that adds one entry with these bytes as its path.
fn delta_that_adds(path: &[u8], target: Option<&[u8]>) -> Vec<u8> {
    let mut plain = b"HWMC\x01".to_vec();
    plain.extend([0; 32]);
    varint::push(5, &mut plain);
    varint::push(u64::from(target.is_none()), &mut plain);
    plain.extend([3, 0]);
    varint::push(path.len() as u64, &mut plain);
    plain.extend(path);
    match target {
        None => plain.extend([0x18, 4]),
        Some(target) => {
            plain.push(1);
            varint::push(target.len() as u64, &mut plain);
            plain.extend(target);
        }
    }
    plain.push(0);
    zstd::encode_all(&plain[..], 3).unwrap()
}

fn bundle_that_adds(version: &Version, path: &[u8], target: Option<&[u8]>) -> Delivery {
    let mut delivery = version.bundle_from(None);
    delivery.change = delta_that_adds(path, target).into();
    delivery.packs = if target.is_none() { vec![EncodedPack::raw(0, 0, b"evil")] } else { vec![] };
    delivery
}

pub(crate) fn paths_never_escape_the_slot<F: Fixture>() {
    let honest = Tree::default().file("evil", "evil", 5).release(2);
    let fixture = F::new();
    let mirror = fixture.mirror();
    let paths: [&[u8]; 14] = [
        b"..",
        b"../evil",
        b"../../evil",
        b"a/../../evil",
        b"/tmp/evil",
        b"",
        b".",
        b"a//b",
        b"a/",
        b"a/./b",
        b"a\\..\\b",
        b"a\nb",
        b"a\0b",
        b"\xff",
    ];
    for path in paths {
        let result = bundle_that_adds(&honest, path, None).stage(&*mirror);
        assert!(result.is_err(), "{}", path.escape_ascii());
    }
    let targets: [&[u8]; 7] = [b"/etc", b"..", b"../x", b"a/../../x", b"a/../b", b"", b"x\0"];
    for target in targets {
        let result = bundle_that_adds(&honest, b"link", Some(target)).stage(&*mirror);
        assert!(result.is_err(), "{}", target.escape_ascii());
    }
    let around: Vec<_> = std::fs::read_dir(fixture.store().parent().unwrap()).unwrap().collect();
    assert_eq!(around.len(), 1, "something was created beside the mirror");
    assert_eq!(fixture.object_count(), 0);
    assert_eq!(mirror.state().unwrap().highest_sequence, 0);
    // With a valid path the same helpers make a valid bundle.
    bundle_that_adds(&honest, b"evil", None).publish(&*mirror, None);
    assert_serves(&fixture, &honest);
}
