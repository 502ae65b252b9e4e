//! Files that a released version wrote remain readable, and the current code writes the same bytes.
//!
//! `fixtures/` holds manifests, manifest changes and a store per format version. The trees from
//! which they were made are in [`crate::origin`]. Never edit a released fixture;
//! `make_golden_files` only adds missing ones.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::num::NonZeroUsize;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use headwater::hash::ObjectId;
use headwater::manifest::{Entry, ManifestError, ManifestReader, delta};
use headwater::mirror::ErrorKind;
use headwater::monitor::SilentMonitor;
use headwater::push::{
    DecidedBy, Fleet, Guards, LevelChoice, MtimeSource, Options, Policy, Require, Retention,
    ScratchLocation, Source, push,
};
use headwater::scan::{Root, ScanOptions};

use crate::damage::DAMAGES;
use crate::fixture::{Directory, Fixture, assert_serves, tree_at};
use crate::origin::{Tree, Version, first_tree, second_tree, site};
use crate::sandbox;
use crate::verifying::assert_found_and_mended;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Allowed but unusual names.
fn names_tree() -> Tree {
    Tree::default()
        .file("a b", "space", 1)
        .file("a-b", "before the slash", 1)
        .file("a/b", "below", 1)
        .file("a0", "after the slash", 1)
        .file("quote\"d", "quote", 1)
        .file("smörgås/bord.html", "two bytes", 9_007_199_254_740_991)
        .file("日本/語", "three bytes", 0)
        .link("to/the/top", "../../a0")
        .file("🦀", "four bytes", 1)
}

fn manifests() -> [(&'static str, Version); 3] {
    [
        ("manifests/v1-first.jsonl", first_tree().release(1)),
        ("manifests/v1-second.jsonl", second_tree().release(2)),
        ("manifests/v1-names.jsonl", names_tree().release(1)),
    ]
}

/// Name, base, result and extra objects of each golden manifest delta.
fn changes() -> [(&'static str, Option<Version>, Version, HashSet<ObjectId>); 4] {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let held = ["app.js", "img/new.bin"].map(|path| second.file(path).object).into();
    let none = HashSet::new;
    [
        ("manifests/v1-nothing-to-first.change", None, first.clone(), none()),
        ("manifests/v1-first-to-second.change", Some(first.clone()), second.clone(), none()),
        ("manifests/v1-first-to-second-held.change", Some(first), second.clone(), held),
        ("manifests/v1-second-to-names.change", Some(second), names_tree().release(3), none()),
    ]
}

const STORE: &str = "stores/v1-two-releases.tar";

#[test]
fn manifests_are_written_like_the_golden_files() {
    for (name, version) in manifests() {
        assert!(fs::read(golden(name)).unwrap() == version.manifest, "{name}");
    }
}

#[test]
fn golden_manifests_can_be_read() {
    for (name, version) in manifests() {
        let reader =
            ManifestReader::new(File::open(golden(name)).unwrap(), Some(version.release.manifest))
                .unwrap();
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), version.entries, "{name}");
    }
}

#[test]
fn manifest_deltas_are_written_like_the_golden_files() {
    for (name, base, version, held) in changes() {
        // The compression ratio of zstd is not part of the format.
        let plain = |bytes: &[u8]| zstd::decode_all(bytes).unwrap();
        let today = version.bundle_with_extra(base.as_ref(), &held).change;
        assert!(plain(&fs::read(golden(name)).unwrap()) == plain(&today), "{name}");
    }
}

#[test]
fn golden_manifest_deltas_can_be_applied() {
    for (name, base, version, held) in changes() {
        let change = fs::read(golden(name)).unwrap();
        let base = base.map_or(Vec::new(), |base| base.entries);
        let stream = || base.iter().cloned().map(Ok::<Entry, ManifestError>);
        let entries = version.entries.len() as u64;
        let limits = delta::ChangeLimits {
            encoded_bytes: change.len() as u64,
            base_entries: None,
            entries,
            reserve: &|_| true,
            is_cancelled: &|| false,
        };
        let needs = delta::summarize(&change[..], &limits).unwrap();
        let copies: HashMap<_, _> = delta::objects_at(&needs.base_entries, stream()).unwrap();
        let new = || Ok(version.entries.iter().cloned().map(Ok));
        let again = delta::encode_with_held(|| Ok(stream()), new, None, 0, &held).unwrap();
        let ids: Vec<_> = again.wanted.iter().map(|wanted| (wanted.object, wanted.size)).collect();
        let (manifest, _) = delta::apply(&change[..], stream(), &ids, &copies, Vec::new()).unwrap();
        assert!(manifest == version.manifest, "{name}");
    }
}

/// Unpacks the golden store: the second release is current, the first one is kept.
fn golden_store() -> (Directory, Version, Version) {
    let dir = sandbox::directory();
    let store = dir.path().join("www");
    untar(&fs::read(golden(STORE)).unwrap(), &store);
    (Directory::at(dir, store), first_tree().release(1), second_tree().release(2))
}

#[test]
fn golden_store_opens_without_faults() {
    let (fixture, first, second) = golden_store();
    let state = fixture.mirror().state().unwrap();
    assert_eq!(state.site, Some(site()));
    assert_eq!(state.store.unwrap().to_string().len(), 32);
    assert_eq!(state.releases, [first.release, second.release.clone()]);
    assert_serves(&fixture, &second);
}

#[test]
fn golden_store_accepts_the_next_release() {
    let (fixture, _, second) = golden_store();
    let mirror = fixture.mirror();
    let third = names_tree().release(3);
    third.bundle_from(Some(&second)).publish(&*mirror, Some(second.name()));
    assert_serves(&fixture, &third);
    assert_eq!(mirror.clean_up(1).unwrap().pruned.releases, 1);
    mirror.prune(1).unwrap();
    assert_serves(&fixture, &third);
}

#[test]
fn every_fault_of_the_golden_store_is_found_and_repaired() {
    for damage in &DAMAGES {
        let (fixture, first, second) = golden_store();
        assert_found_and_mended(&fixture, &first, &second, damage);
    }
}

#[test]
fn store_of_a_newer_format_is_refused_and_left_alone() {
    let (fixture, _, second) = golden_store();
    let format = fixture.store().join(".headwater/format");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replace("\"version\":1", "\"version\":2,\"more\":true")).unwrap();
    let before = tree_at(fixture.store());
    let mirror = fixture.mirror();
    assert_eq!(mirror.state().unwrap_err().kind(), ErrorKind::NewerFormat);
    let third = first_tree().release(3).bundle_from(Some(&second));
    assert_eq!(third.stage(&*mirror).unwrap_err().kind(), ErrorKind::NewerFormat);
    assert!(tree_at(fixture.store()) == before, "a newer store was changed");
}

#[test]
fn golden_store_accepts_a_push_and_a_rollback() {
    let (fixture, first, _) = golden_store();
    let dir = sandbox::directory();
    fs::write(dir.path().join("index.html"), "<h1>three</h1>\n").unwrap();
    let roots = vec![Root { path: dir.path().to_owned(), tree_prefix: None }];
    let scratch = sandbox::directory();
    let fleet = Fleet::new(vec![fixture.mirror()]);
    let mut options = options(scratch.path());
    let run = |source: &Source, options: &Options| {
        let report = push(source, &fleet, options, &SilentMonitor).unwrap();
        assert!(report.mirrors[0].outcome.is_current(), "{report:?}");
        report.sequence
    };
    let source = Source::Trees { roots, scan: ScanOptions::default() };
    assert_eq!(run(&source, &options), Some(3));
    let served =
        |path: &str| fs::read_to_string(fixture.store().join("current").join(path)).unwrap();
    assert_eq!(served("index.html"), "<h1>three</h1>\n");
    options.began += 60_000;
    assert_eq!(
        run(&Source::Rollback { to: Some(1), by: DecidedBy::Person(None) }, &options),
        Some(4)
    );
    assert_eq!(served("deep/down/below.txt"), "below\n");
    assert_eq!(
        served("app.js").as_bytes(),
        &**first.objects.get(&first.file("app.js").object).unwrap()
    );
    assert_eq!(crate::fixture::faults(&*fixture.mirror()), []);
}

fn options(scratch: &Path) -> Options {
    Options {
        site: Some(site()),
        note: None,
        run_number: None,
        allow_older: false,
        new_history: false,
        allow_rejected: false,
        guards: Guards { allow_shrink: true, ..Guards::default() },
        retention: Retention::default(),
        mtime: MtimeSource::Push,
        require: Require::All,
        partial: None,
        policy: Policy::default(),
        jobs: NonZeroUsize::new(2).unwrap(),
        level: LevelChoice::Auto,
        scratch: ScratchLocation {
            directory: Ok(scratch.to_owned()),
            temporary: std::env::temp_dir(),
        },
        keep_content: headwater::push::KeepContent::default(),
        stores: headwater::push::KnownStores::default(),
        began: 1_800_000_000_000,
        straggler_timeout: Duration::from_secs(30),
        response_timeout: Duration::from_secs(2),
    }
}

/// Adds the golden files that are missing: `cargo test --test mirror_contract golden_files --
/// --ignored`.
#[test]
#[ignore = "writes fixtures; run once for each new format version"]
fn make_golden_files() {
    let add = |name: &str, bytes: &[u8]| {
        if !golden(name).exists() {
            fs::write(golden(name), bytes).unwrap();
        }
    };
    manifests().iter().for_each(|(name, version)| add(name, &version.manifest));
    for (name, base, version, held) in changes() {
        add(name, &version.bundle_with_extra(base.as_ref(), &held).change);
    }
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = Directory::with(&[&first, &second]);
    assert_serves(&fixture, &second);
    let mut tar = std::process::Command::new("tar");
    tar.args([
        "--create",
        "--format=ustar",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    let packed = tar.arg("--directory").arg(fixture.store()).arg(".").output().unwrap();
    assert!(packed.status.success());
    add(STORE, &packed.stdout);
}

const RECORD: usize = 512;

/// Unpacks a ustar archive with modes and times, hard and symbolic links.
fn untar(mut archive: &[u8], to: &Path) {
    let mut modes = Vec::new();
    while let Some(header) = archive.get(..RECORD).filter(|header| header[0] != 0) {
        let number = |from: usize, to: usize| {
            let digits: String = header[from..to]
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .map(|b| *b as char)
                .collect();
            u64::from_str_radix(&digits, 8).unwrap()
        };
        let (prefix, name, link) =
            (text(&header[345..500]), text(&header[..100]), text(&header[157..257]));
        // Without the leading `./`, because `www/.` cannot be created.
        let path: PathBuf = to.join(prefix).join(name).components().collect();
        let size = usize::try_from(number(124, 136)).unwrap();
        match header[156] {
            b'5' => fs::create_dir_all(&path).unwrap(),
            b'2' => symlink(link, &path).unwrap(),
            b'1' => fs::hard_link(to.join(link), &path).unwrap(),
            b'0' => {
                fs::write(&path, &archive[RECORD..RECORD + size]).unwrap();
                let time = UNIX_EPOCH + Duration::from_secs(number(136, 148));
                File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
                modes.push((path, u32::try_from(number(100, 108)).unwrap()));
            }
            other => panic!("the archive has a record of type {other}"),
        }
        archive = &archive[RECORD + size.next_multiple_of(RECORD)..];
    }
    for (path, mode) in modes {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
}

fn text(field: &[u8]) -> &str {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).unwrap()
}
