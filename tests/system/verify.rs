//! G14: `verify` finds every flipped bit, `repair` fixes it from another mirror; serving continues.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::checker;
use crate::harness::Sandbox;
use crate::trees::{Rng, Tree};

/// Creates two mirrors with the same three releases.
fn prepare() -> Sandbox {
    let sandbox = Sandbox::new();
    for letter in ["a", "b", "c"] {
        let tree = Tree::small()
            .file("js/app.js", letter)
            .file(&format!("{letter}.css"), letter.repeat(20));
        sandbox.publish(&tree, &["one", "two"], &[]);
    }
    sandbox
}

/// Returns every file of the store whose content can be checked: not the lock, `format` (its store
/// id is random), the history, or files that belong to no release.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        // The bytes of the reserve have no meaning: they only occupy space until it is needed.
        let others =
            ["incoming", "slots/dirty", "lock", "format", "events.jsonl", ".headwater/reserve"];
        let is_other = others.iter().any(|name| path.ends_with(name));
        if meta.is_dir() && !is_other {
            files(&path, found);
        } else if meta.is_file() && meta.len() > 0 && !is_other {
            found.push(path);
        }
    }
}

/// Changes a file in place: the inode, and so each of its names, keeps its times and mode.
fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let before = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    how(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::open(path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(path, before.permissions()).unwrap();
}

fn is_found_and_mended(sandbox: &Sandbox, victim: &Path, what: &str) {
    let one = sandbox.path_text("one");
    let name = victim.strip_prefix(sandbox.path("one")).unwrap().display().to_string();
    let found = sandbox.run(&["verify", &one]);
    assert_eq!(found.code(), Some(1), "{what} in {name} was not found: {found}");
    let mended = sandbox.run(&["repair", &one, "--from", &sandbox.path_text("two")]);
    assert_eq!(mended.code(), Some(0), "{what} in {name}: {mended}");
    let state = checker::check_store(&sandbox.path("one"));
    let served =
        state.unwrap_or_else(|faults| panic!("{what} in {name}: {faults:#?}\n{found}{mended}"));
    assert_eq!(served, sandbox.served("two"), "{what} in {name}: {mended}");
    sandbox.run(&["verify", &one]).expect(&[0]);
}

#[test]
fn flipped_bit_in_any_file_is_found_and_repaired() {
    let mut rng = Rng::new(crate::trees::seed());
    let sandbox = prepare();
    sandbox.save("one");
    let mut places = Vec::new();
    files(&sandbox.path("one"), &mut places);
    places.sort();
    for place in &places {
        sandbox.restore("one");
        change(place, |bytes| {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        });
        is_found_and_mended(&sandbox, place, "a flipped bit");
    }
}

#[test]
fn truncated_emptied_or_removed_file_is_found_and_repaired() {
    let sandbox = prepare();
    sandbox.save("one");
    let mut places = Vec::new();
    files(&sandbox.path("one"), &mut places);
    places.sort();
    for place in &places {
        sandbox.restore("one");
        change(place, |bytes| bytes.truncate(bytes.len() - 1));
        is_found_and_mended(&sandbox, place, "a cut");
        sandbox.restore("one");
        change(place, Vec::clear);
        is_found_and_mended(&sandbox, place, "nothing");
        // A missing record is only detected if it is that of the current release.
        let current = fs::read_link(sandbox.path("one/current")).unwrap();
        let is_unknown = place.parent().unwrap().ends_with("releases")
            && place.file_stem() != current.file_name();
        if !is_unknown {
            sandbox.restore("one");
            fs::remove_file(place).unwrap();
            is_found_and_mended(&sandbox, place, "no file");
        }
    }
}

#[test]
fn served_content_is_repaired_from_the_tree_alone() {
    let sandbox = prepare();
    let served = sandbox.served("one");
    for place in ["index.html", "js/app.js", "bin/tool"] {
        change(&sandbox.path("one/current").join(place), |bytes| bytes[0] ^= 1);
    }
    fs::remove_file(sandbox.path("one/current/c.css")).unwrap();
    sandbox.run(&["verify", "--quick", &sandbox.path_text("one")]).expect(&[1]);
    sandbox
        .run(&["repair", &sandbox.path_text("one"), "--from", &sandbox.path_text("tree")])
        .expect(&[0]);
    assert_eq!(sandbox.served("one"), served, "the same release is complete again");
}
