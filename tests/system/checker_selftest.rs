//! Tests of the checker: for each single fault in a sound store it reports exactly one error.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::checker;
use crate::corrupt_store::forge;
use crate::harness::Sandbox;
use crate::trees::Tree;

/// Breaks one thing in the store at a path.
type Break = (&'static str, fn(&Path));

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Changes the bytes of a file in a new inode; time and mode stay.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let meta = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::open(path).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
}

fn flip(path: &Path) {
    rewrite(path, |bytes| *bytes.last_mut().unwrap() ^= 1);
}

fn slot(store: &Path) -> PathBuf {
    store.join("current").canonicalize().unwrap()
}

/// Returns a file of a store directory that has one.
fn any(store: &Path, room: &str) -> PathBuf {
    let mut names: Vec<PathBuf> = fs::read_dir(store.join(".headwater").join(room))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    names.remove(0)
}

/// Returns the object with this content.
fn object(store: &Path, bytes: &[u8]) -> PathBuf {
    let id = blake3::hash(bytes).to_hex();
    store.join(".headwater/objects").join(&id[..2]).join(id.as_str())
}

fn relink(store: &Path, target: &str) {
    fs::remove_file(store.join("current")).unwrap();
    symlink(target, store.join("current")).unwrap();
}

const BREAKS: [Break; 27] = [
    ("object flipped", |store| flip(&object(store, b"<h1>about</h1>"))),
    ("object empty", |store| rewrite(&object(store, b"<h1>about</h1>"), Vec::clear)),
    ("object writable", |store| mode(&object(store, b"<h1>about</h1>"), 0o644)),
    ("object of the old release gone", |store| {
        fs::remove_file(object(store, b"let release = 1;")).unwrap();
    }),
    ("object astray", |store| {
        fs::rename(object(store, b"<h1>about</h1>"), store.join(".headwater/objects/astray"))
            .unwrap();
    }),
    ("slot file flipped", |store| flip(&slot(store).join("about.html"))),
    ("slot file cut", |store| rewrite(&slot(store).join("about.html"), |bytes| bytes.truncate(3))),
    ("slot file gone", |store| fs::remove_file(slot(store).join("js/app.js")).unwrap()),
    ("slot file too many", |store| fs::write(slot(store).join("js/more.js"), "").unwrap()),
    ("slot directory too many", |store| fs::create_dir(slot(store).join("more")).unwrap()),
    ("slot file writable", |store| mode(&slot(store).join("about.html"), 0o644)),
    ("slot file executable", |store| mode(&slot(store).join("about.html"), 0o555)),
    ("slot directory closed", |store| mode(&slot(store).join("js"), 0o700)),
    ("slot link moved", |store| {
        fs::remove_file(slot(store).join("docs/latest")).unwrap();
        symlink("v2", slot(store).join("docs/latest")).unwrap();
    }),
    ("slot file a link", |store| {
        fs::remove_file(slot(store).join("about.html")).unwrap();
        symlink(object(store, b"<h1>about</h1>"), slot(store).join("about.html")).unwrap();
    }),
    ("slot file of another time", |store| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        fs::File::open(slot(store).join("about.html")).unwrap().set_modified(time).unwrap();
    }),
    ("manifest flipped", |store| flip(&any(store, "manifests"))),
    ("manifest gone", |store| fs::remove_file(any(store, "manifests")).unwrap()),
    ("manifest longer", |store| rewrite(&any(store, "manifests"), |bytes| bytes.push(0))),
    ("release flipped", |store| flip(&any(store, "releases"))),
    ("release of the served slot gone", |store| {
        let name = slot(store).file_name().unwrap().to_str().unwrap().to_owned();
        fs::remove_file(store.join(format!(".headwater/releases/{name}.json"))).unwrap();
    }),
    ("current to nowhere", |store| relink(store, ".headwater/slots/9-0000000000000000")),
    ("current to dirty", |store| relink(store, ".headwater/slots/dirty")),
    ("current absolute", |store| relink(store, slot(store).to_str().unwrap())),
    ("format garbled", |store| fs::write(store.join(".headwater/format"), "{}\n").unwrap()),
    ("an unexpected file", |store| fs::write(store.join("stranger"), "").unwrap()),
    ("entry that no slot has", |store| {
        forge(store, |forgery| {
            let mut line = forgery.lines[0].clone();
            line.path.push('x');
            forgery.lines.push(line);
        });
    }),
];

#[test]
fn checker_finds_every_fault_of_a_store() {
    let sandbox = Sandbox::new();
    sandbox.publish(&Tree::small(), &["mirror"], &[]);
    sandbox.publish(&Tree::small().file("js/app.js", "let release = 2;"), &["mirror"], &[]);
    sandbox.save("mirror");
    for (what, damage) in BREAKS {
        sandbox.restore("mirror");
        assert!(checker::check_store(&sandbox.path("mirror")).is_ok());
        damage(&sandbox.path("mirror"));
        assert!(checker::check_store(&sandbox.path("mirror")).is_err(), "not seen: {what}");
    }
    fs::remove_file(sandbox.path("mirror/current")).unwrap();
    assert!(checker::check_store(&sandbox.path("mirror")).is_err());
}

#[test]
fn checker_finds_every_difference_from_the_tree() {
    let sandbox = Sandbox::new();
    let served = sandbox.publish(&Tree::small(), &["mirror"], &[]);
    let mut exec = Tree::small();
    exec.put("bin/tool", "#!/bin/sh\n");
    let others = [
        Tree::small().file("more", ""),
        Tree::small().without("img/empty"),
        Tree::small().file("about.html", "<h1>About</h1>"),
        Tree::small().link("docs/latest", "v2"),
        Tree::small().file("docs/latest", "v1"),
        exec,
    ];
    for tree in others {
        sandbox.write("tree", &tree);
        assert!(checker::check_equals_tree(&served, &sandbox.path("tree")).is_err(), "{tree:?}");
    }
}
