//! Tests of the whole scan, on real directories.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::monitor::{Event, Monitor, SilentMonitor};

/// Far enough in the future that nothing written by a test is racy.
pub(super) const LATER_NS: i64 = 60_000_000_000;

#[derive(Default)]
struct Recorder(Mutex<Vec<Event>>);

impl Monitor for Recorder {
    fn event(&self, event: Event) {
        self.0.lock().push(event);
    }
}

impl Recorder {
    fn warnings(&self) -> Vec<String> {
        let events = self.0.lock();
        let message = |event: &Event| match event {
            Event::Warned { message } => Some(message.clone()),
            _ => None,
        };
        events.iter().filter_map(message).collect()
    }
}

pub(super) fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

pub(super) fn put(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub(super) fn tree(files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|name| put(dir.path(), name, name));
    dir
}

pub(super) fn root(dir: &Path) -> Root {
    Root { path: dir.to_owned(), tree_prefix: None }
}

fn root_at(dir: &Path, at: &str) -> Root {
    Root { path: dir.to_owned(), tree_prefix: Some(TreePath::new(at).unwrap()) }
}

pub(super) fn scan(dir: &Path, options: &ScanOptions) -> Result<Tree, ScanError> {
    Tree::scan(&[root(dir)], options, &SilentMonitor)
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.entries().iter().map(|entry| entry.path.as_str()).collect()
}

fn offenders(result: Result<Tree, ScanError>) -> Vec<(String, String)> {
    match result {
        Err(ScanError::RejectedPaths { list }) => {
            list.into_iter().map(|found| (found.path, found.why)).collect()
        }
        other => panic!("no offenders: {other:?}"),
    }
}

pub(super) fn alterations(result: Result<(), ScanError>) -> Vec<(String, TreeChangeKind)> {
    match result {
        Err(ScanError::Changed { list, .. }) => {
            list.into_iter().map(|found| (found.path, found.kind)).collect()
        }
        other => panic!("nothing changed: {other:?}"),
    }
}

/// Scans as if begun `ahead` from now. Returns the tree and the number of files that were read.
fn scan_ahead(dir: &Path, cache: &Path, ahead: i64) -> (Tree, u64, Recorder) {
    let options = ScanOptions { stat_cache: Some(cache.to_owned()), ..ScanOptions::default() };
    let recorder = Recorder::default();
    let tree = Tree::scan_at(&[root(dir)], &options, now_ns() + ahead, &recorder).unwrap();
    let hashed = recorder.0.lock().iter().find_map(|event| match event {
        Event::ScanFinished { hashed_files, .. } => Some(*hashed_files),
        _ => None,
    });
    (tree, hashed.unwrap(), recorder)
}

#[test]
fn entries_have_ids_modes_and_the_order_of_paths() {
    let dir = tree(&["a/b", "a-x", "a.b", "a/b.c", "z"]);
    fs::set_permissions(dir.path().join("z"), fs::Permissions::from_mode(0o654)).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let scanned = scan(dir.path(), &ScanOptions::default()).unwrap();
    assert_eq!(paths(&scanned), ["a-x", "a.b", "a/b", "a/b.c", "z"]);
    for (index, entry) in scanned.entries().iter().enumerate() {
        let TreeKind::File { object, exec, .. } = &entry.kind else { panic!("{entry:?}") };
        assert_eq!(*object, ObjectId::of(entry.path.as_str().as_bytes()));
        assert_eq!(*exec, entry.path.as_str() == "z");
        let mut text = String::new();
        scanned.open(index).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, entry.path.as_str());
        assert_eq!(fs::read_to_string(scanned.source_path(index)).unwrap(), text);
    }
}

#[test]
fn second_scan_reads_nothing_and_writes_nothing() {
    let (dir, cache) = (tree(&["a/b", "a-x", "a.b"]), tempfile::tempdir().unwrap());
    let cache = cache.path().join("new/cache");
    let (first, hashed, _) = scan_ahead(dir.path(), &cache, LATER_NS);
    assert_eq!(hashed, 3);
    let written = fs::read(&cache).unwrap();
    let inode = FileStat::of(&fs::metadata(&cache).unwrap());
    let (second, hashed, _) = scan_ahead(dir.path(), &cache, LATER_NS);
    assert_eq!((hashed, second.entries()), (0, first.entries()));
    assert_eq!(FileStat::of(&fs::metadata(&cache).unwrap()), inode);
    put(dir.path(), "a/new", "x");
    fs::remove_file(dir.path().join("a-x")).unwrap();
    let (third, hashed, _) = scan_ahead(dir.path(), &cache, LATER_NS);
    assert_eq!((hashed, paths(&third)), (1, vec!["a.b", "a/b", "a/new"]));
    assert_ne!(fs::read(&cache).unwrap(), written);
    assert_eq!(scan_ahead(dir.path(), &cache, LATER_NS).1, 0);
}

#[test]
fn same_size_edit_without_a_trace_is_found_while_racy() {
    let (dir, cache) = (tree(&["f"]), tempfile::tempdir().unwrap());
    let cache = cache.path().join("cache");
    assert_eq!(scan_ahead(dir.path(), &cache, 0).1, 1);
    // The stamp proves nothing yet, so the file is read again although nothing changed.
    let (_, hashed, _) = scan_ahead(dir.path(), &cache, LATER_NS);
    assert_eq!(hashed, 1);
    // Once the file was read late enough, the stamp is used.
    assert_eq!(scan_ahead(dir.path(), &cache, LATER_NS).1, 0);
    fs::write(dir.path().join("f"), "g").unwrap();
    let (after, ..) = scan_ahead(dir.path(), &cache, LATER_NS);
    assert!(matches!(
        after.entries()[0].kind,
        TreeKind::File { object, .. } if object == ObjectId::of(b"g")
    ));
}

#[test]
fn damaged_cache_costs_only_time() {
    let (dir, cache) = (tree(&["a/b", "c"]), tempfile::tempdir().unwrap());
    let cache = cache.path().join("cache");
    let (good, ..) = scan_ahead(dir.path(), &cache, LATER_NS);
    let bytes = fs::read(&cache).unwrap();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] = bad[at].wrapping_add(1);
        for damaged in [&bad, &bytes[..at].to_vec()] {
            fs::write(&cache, damaged).unwrap();
            let (tree, hashed, recorder) = scan_ahead(dir.path(), &cache, LATER_NS);
            assert_eq!((tree.entries(), hashed), (good.entries(), 2), "byte {at}");
            assert_eq!(recorder.warnings().len(), 1);
        }
    }
}

#[test]
fn unwritable_cache_is_a_warning() {
    let dir = tree(&["f"]);
    let blocked = tempfile::NamedTempFile::new().unwrap();
    let (_, hashed, recorder) = scan_ahead(dir.path(), &blocked.path().join("cache"), 0);
    assert_eq!(hashed, 1);
    assert!(recorder.warnings().iter().any(|text| text.starts_with("cannot write the stat cache")));
}

#[test]
fn all_rejected_paths_are_reported_together() {
    let dir = tree(&["ok", ".headwater/x", "sub/.headwater/fine"]);
    let at = |name: &[u8]| dir.path().join(std::ffi::OsStr::from_bytes(name));
    fs::write(at(b"not\xffutf8"), "").unwrap();
    fs::write(at(b"con\ntrol"), "").unwrap();
    fs::write(at(b"back\\slash"), "").unwrap();
    fs::create_dir(at(b"dir\x1b[31m")).unwrap();
    fs::write(at(b"dir\x1b[31m/f"), "").unwrap();
    for (target, name) in [
        ("/etc/passwd", "absolute"),
        ("../x", "escapes"),
        ("a/../b", "behind"),
        ("l2", "l1"),
        ("l1", "l2"),
        ("a\nb", "ctl"),
    ] {
        symlink(target, dir.path().join(name)).unwrap();
    }
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, at(b"fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(at(b"socket")).unwrap();
    let found = offenders(scan(dir.path(), &ScanOptions::default()));
    drop(socket);
    let expected = [
        (".headwater", "is headwater's own directory"),
        ("absolute", "is a symbolic link whose target /etc/passwd is absolute"),
        ("back\\\\slash", "has a backslash"),
        (
            "behind",
            "is a symbolic link whose target a/../b has '..' after a name, which may lead out \
             through another link",
        ),
        ("con\\u{a}trol", "has a control character"),
        ("ctl", "is a symbolic link whose target a\\u{a}b has a control character"),
        ("dir\\u{1b}[31m", "has a control character"),
        ("escapes", "is a symbolic link whose target ../x leads out of the tree"),
        ("fifo", "is a fifo"),
        ("l1", "is a symbolic link in a loop of links"),
        ("l2", "is a symbolic link in a loop of links"),
        ("not\\xffutf8", "is not UTF-8"),
        ("socket", "is a socket"),
    ];
    assert_eq!(found, expected.map(|(path, why)| (path.to_owned(), why.to_owned())));
}

#[test]
fn unreadable_paths_are_reported() {
    let dir = tree(&["ok", "closed/f", "secret"]);
    fs::set_permissions(dir.path().join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let result = scan(dir.path(), &ScanOptions::default());
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    match result {
        Err(ScanError::Unreadable { list }) => {
            assert_eq!(
                list.iter().map(|found| found.path.as_str()).collect::<Vec<_>>(),
                ["closed", "secret"]
            );
        }
        // The superuser may read everything.
        Ok(tree) => assert!(rustix::process::geteuid().is_root() && tree.entries().len() == 3),
        other => panic!("{other:?}"),
    }
}

#[test]
fn excluded_paths_are_not_read() {
    let dir = tree(&[
        "a.log",
        "keep.log",
        "d/x.log",
        "d/keep.log",
        "build/out",
        "src/build",
        "e/.headwaterignore",
    ]);
    put(dir.path(), ".headwaterignore", "# comment\n*.log\n!keep.log\n/build/\n");
    put(dir.path(), "d/.headwaterignore", "keep.log\n!x.log\n");
    fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"build/\xff")), "").unwrap();
    let mut options = ScanOptions::default();
    assert_eq!(paths(&scan(dir.path(), &options).unwrap()), ["d/x.log", "keep.log", "src/build"]);
    options.exclude = vec!["src".to_owned(), "!a.log".to_owned()];
    assert_eq!(paths(&scan(dir.path(), &options).unwrap()), ["a.log", "d/x.log", "keep.log"]);
    options.exclude = vec!["[z-a]".to_owned()];
    assert!(matches!(scan(dir.path(), &options), Err(ScanError::Exclude { .. })));
    put(dir.path(), "d/.headwaterignore", "[z-a]\n");
    let found = offenders(scan(dir.path(), &ScanOptions::default()));
    assert_eq!(
        found,
        [("d/.headwaterignore".to_owned(), "has an invalid pattern in line 1".to_owned())]
    );
    fs::remove_file(dir.path().join("d/.headwaterignore")).unwrap();
    symlink("../.headwaterignore", dir.path().join("d/.headwaterignore")).unwrap();
    let found = offenders(scan(dir.path(), &ScanOptions::default()));
    assert_eq!(
        found,
        [("d/.headwaterignore".to_owned(), "is not a file, as rules must be".to_owned())]
    );
}

#[test]
fn roots_are_merged_at_their_prefixes() {
    let (site, docs) = (tree(&["a", "docs-x", "docs.html", "z"]), tree(&["index.html", "sub/f"]));
    symlink("f", docs.path().join("sub/l")).unwrap();
    symlink("docs/sub", site.path().join("short")).unwrap();
    let roots = [root(site.path()), root_at(docs.path(), "docs")];
    let merged = Tree::scan(&roots, &ScanOptions::default(), &SilentMonitor).unwrap();
    let expected =
        ["a", "docs-x", "docs.html", "docs/index.html", "docs/sub/f", "docs/sub/l", "short", "z"];
    assert_eq!(paths(&merged), expected);
    let resolved = docs.path().canonicalize().unwrap();
    assert_eq!(merged.source_path(4), resolved.join("sub/f"));
    assert_eq!(merged.source_path(5), resolved.join("sub/l"));
    merged.recheck(&SilentMonitor).unwrap();
    fs::remove_file(docs.path().join("sub/l")).unwrap();
    assert_eq!(
        alterations(merged.recheck(&SilentMonitor)),
        [("docs/sub/l".to_owned(), TreeChangeKind::Removed)]
    );
}

#[test]
fn cache_serves_several_roots() {
    let (site, docs, cache) =
        (tree(&["a", "z/y"]), tree(&["a", "m"]), tempfile::tempdir().unwrap());
    let roots = [root_at(site.path(), "z"), root(docs.path())];
    let options =
        ScanOptions { stat_cache: Some(cache.path().join("c")), ..ScanOptions::default() };
    let hashed = |ahead| {
        let recorder = Recorder::default();
        Tree::scan_at(&roots, &options, now_ns() + ahead, &recorder).unwrap();
        let events = recorder.0.lock();
        let count = |event: &Event| {
            if let Event::ScanFinished { hashed_files, .. } = event { *hashed_files } else { 0 }
        };
        events.iter().map(count).sum::<u64>()
    };
    assert_eq!((hashed(LATER_NS), hashed(LATER_NS)), (4, 0));
}

#[test]
fn overlapping_roots_are_refused() {
    let (one, two) = (tree(&["d", "d-x", "f", "g/h"]), tree(&["d/e", "d/k", "f", "i"]));
    let found = offenders(Tree::scan(
        &[root(one.path()), root(two.path())],
        &ScanOptions::default(),
        &SilentMonitor,
    ));
    let why = |path: &str, why: &str| (path.to_owned(), why.to_owned());
    let blocked = "is a directory in another content tree";
    assert_eq!(found, [why("d", blocked), why("f", "is in more than one content tree")]);
}

#[test]
fn links_are_kept_followed_or_refused_as_configured() {
    let (dir, outside) = (tree(&["v1/f", "v1-x"]), tree(&["o/p"]));
    symlink("v1", dir.path().join("latest")).unwrap();
    symlink("v1/f", dir.path().join("l")).unwrap();
    let with = |symlinks| ScanOptions { symlinks, ..ScanOptions::default() };
    let kept = scan(dir.path(), &with(SymlinkMode::Keep)).unwrap();
    assert_eq!(paths(&kept), ["l", "latest", "v1-x", "v1/f"]);
    assert!(
        matches!(&kept.entries()[1].kind, TreeKind::Symlink { target } if target.as_str() == "v1")
    );
    assert!(matches!(kept.open(1), Err(ScanError::Changed { .. })));
    let refused = offenders(scan(dir.path(), &with(SymlinkMode::Refuse)));
    assert_eq!(refused.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["l", "latest"]);

    symlink(outside.path(), dir.path().join("v1.d")).unwrap();
    symlink(outside.path(), dir.path().join("v1")).unwrap_err();
    symlink("v1", dir.path().join("v")).unwrap();
    put(dir.path(), "v-", "");
    let followed = scan(dir.path(), &with(SymlinkMode::Follow)).unwrap();
    assert_eq!(paths(&followed), ["l", "latest/f", "v-", "v/f", "v1-x", "v1.d/o/p", "v1/f"]);
    for index in 0..followed.entries().len() {
        followed.open(index).unwrap();
    }
    followed.recheck(&SilentMonitor).unwrap();
    symlink("..", dir.path().join("v1/up")).unwrap();
    symlink("none", dir.path().join("dangling")).unwrap();
    symlink("self", dir.path().join("self")).unwrap();
    let bad = offenders(scan(dir.path(), &with(SymlinkMode::Follow)));
    let bad: Vec<_> = bad.iter().map(|(path, why)| format!("{path} {why}")).collect();
    assert!(bad.contains(&"dangling is a symbolic link that leads nowhere".to_owned()), "{bad:?}");
    assert!(bad.contains(&"self is a symbolic link in a loop of links".to_owned()), "{bad:?}");
    assert!(
        bad.contains(&"v1/up is a symbolic link to a directory it is in".to_owned()),
        "{bad:?}"
    );
}

#[test]
fn dangling_links_and_unusual_names_cause_one_warning() {
    let dir = tree(&["A", "a", "con", "x.", "B", "b"]);
    for name in ["l1", "l2"] {
        symlink("none", dir.path().join(name)).unwrap();
    }
    let recorder = Recorder::default();
    let roots = [root(dir.path())];
    Tree::scan(&roots, &ScanOptions::default(), &recorder).unwrap();
    let warnings = recorder.warnings();
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].ends_with("in the tree: l1; l2"), "{warnings:?}");
    assert!(warnings[1].ends_with("; and 1 more"), "{warnings:?}");
    let portable = ScanOptions { names: NameRule::Portable, ..ScanOptions::default() };
    let found = offenders(Tree::scan(&roots, &portable, &SilentMonitor));
    assert_eq!(
        found.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["a", "b", "con", "x."]
    );
}

#[test]
fn recheck_finds_every_kind_of_change() {
    let dir = tree(&["changed", "d/removed", "mode", "same", "to-dir", "to-link"]);
    symlink("same", dir.path().join("link")).unwrap();
    let scanned = scan(dir.path(), &ScanOptions::default()).unwrap();
    scanned.recheck(&SilentMonitor).unwrap();
    fs::write(dir.path().join("changed"), "CHANGED!").unwrap();
    fs::remove_file(dir.path().join("d/removed")).unwrap();
    put(dir.path(), "d/added", "");
    fs::set_permissions(dir.path().join("mode"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(dir.path().join("link")).unwrap();
    symlink("mode", dir.path().join("link")).unwrap();
    fs::remove_file(dir.path().join("to-link")).unwrap();
    symlink("same", dir.path().join("to-link")).unwrap();
    fs::remove_file(dir.path().join("to-dir")).unwrap();
    put(dir.path(), "to-dir/x", "");
    put(dir.path(), ".headwater/x", "");
    let found = alterations(scanned.recheck(&SilentMonitor));
    let expected = [
        (".headwater", TreeChangeKind::Changed),
        ("changed", TreeChangeKind::Changed),
        ("d/added", TreeChangeKind::Added),
        ("d/removed", TreeChangeKind::Removed),
        ("link", TreeChangeKind::Changed),
        ("mode", TreeChangeKind::Changed),
        ("to-dir", TreeChangeKind::Removed),
        ("to-dir/x", TreeChangeKind::Added),
        ("to-link", TreeChangeKind::Changed),
    ];
    assert_eq!(found, expected.map(|(path, how)| (path.to_owned(), how)));
    let index = |name| paths(&scanned).iter().position(|path| *path == name).unwrap();
    for name in ["changed", "d/removed", "to-link"] {
        assert!(matches!(scanned.open(index(name)), Err(ScanError::Changed { .. })), "{name}");
    }
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(alterations(scanned.recheck(&SilentMonitor)).len() >= 7);
}

#[test]
fn link_as_root_is_followed_once() {
    let (one, two, links) = (tree(&["f"]), tree(&["g"]), tempfile::tempdir().unwrap());
    let current = links.path().join("current");
    symlink(one.path(), &current).unwrap();
    let scanned = scan(&current, &ScanOptions::default()).unwrap();
    fs::remove_file(&current).unwrap();
    symlink(two.path(), &current).unwrap();
    scanned.recheck(&SilentMonitor).unwrap();
    scanned.open(0).unwrap();
    let missing = scan(&links.path().join("none"), &ScanOptions::default());
    assert!(matches!(missing, Err(ScanError::Root { .. })));
}

#[test]
fn cancelled_scan_stops() {
    struct Stop;
    impl Monitor for Stop {
        fn event(&self, _: Event) {}
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let dir = tree(&["f"]);
    let result = Tree::scan(&[root(dir.path())], &ScanOptions::default(), &Stop);
    assert!(matches!(result, Err(ScanError::Cancelled)));
    let scanned = scan(dir.path(), &ScanOptions::default()).unwrap();
    assert!(matches!(scanned.recheck(&Stop), Err(ScanError::Cancelled)));
}

fn list(dir: &Path, prefix: &str, found: &mut BTreeMap<String, ObjectId>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), &format!("{path}/"), found);
        } else {
            found.insert(path, ObjectId::of(&fs::read(entry.path()).unwrap()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn scan_equals_a_simple_listing(
        files in prop::collection::vec(
            ("[ab.!-]{0,2}[ab0é]", "([ab.-]{0,1}[ab]/){0,3}", "[xy]{0,3}"),
            0..40,
        ),
        jobs in 1usize..4,
    ) {
        let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, parent, content) in &files {
            let parent = dir.path().join(parent);
            // A file may be where a directory should be.
            if fs::create_dir_all(&parent).is_ok() && !parent.join(name).is_dir() {
                fs::write(parent.join(name), content).unwrap();
            }
        }
        let mut expected = BTreeMap::new();
        list(dir.path(), "", &mut expected);
        let stat_cache = Some(cache.path().join("c"));
        let options = ScanOptions { jobs, stat_cache, ..ScanOptions::default() };
        for _ in 0..2 {
            let later = now_ns() + LATER_NS;
            let tree = Tree::scan_at(&[root(dir.path())], &options, later, &SilentMonitor).unwrap();
            let found: Vec<_> = tree.entries().iter().map(|entry| match entry.kind {
                TreeKind::File { object, .. } => (entry.path.as_str().to_owned(), object),
                TreeKind::Symlink { .. } => panic!("{entry:?}"),
            }).collect();
            prop_assert_eq!(&found, &expected.clone().into_iter().collect::<Vec<_>>());
            tree.recheck(&SilentMonitor).unwrap();
        }
    }
}
