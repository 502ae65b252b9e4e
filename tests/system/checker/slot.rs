//! Compares a tree on disk with its manifest: no entry may be missing, and none may be extra.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::record::{Line, ancestors};
use super::{Faults, What};

/// Compares the slot `name` at `root` with the lines of its manifest. Retired entries that were due
/// at `through` may be absent, and so may directories that only they need. If `is_clean`, they must
/// be absent.
pub(super) fn check(
    name: &str,
    root: &Path,
    lines: &[Line],
    through: u64,
    is_clean: bool,
) -> Faults {
    if !root.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return vec![format!("slot {name}: not a directory")];
    }
    let wanted: BTreeMap<&str, &Line> = lines.iter().map(|line| (&*line.path, line)).collect();
    let has_expired = |line: &Line| line.until.is_some_and(|until| until <= through);
    let needing = lines.iter().filter(|line| !is_clean || !has_expired(line));
    let directories: BTreeSet<&str> = needing.flat_map(|line| ancestors(&line.path)).collect();
    let mut seen = BTreeSet::new();
    let mut faults = Faults::new();
    let mut fault = |path: &str, what: String| faults.push(format!("slot {name}: {path}: {what}"));
    walk(root, "", &mut |path, meta| {
        seen.insert(path.to_owned());
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            if !directories.contains(path) && !path.is_empty() {
                fault(path, "a directory that nothing needs".into());
            } else if mode != 0o755 {
                fault(path, format!("mode {mode:o}"));
            }
            return;
        }
        let Some(line) = wanted.get(path) else { return fault(path, "not in the manifest".into()) };
        if is_clean && has_expired(line) {
            fault(path, "expired, and is there".into());
        } else if let Err(what) = check_file(&root.join(path), meta, line) {
            fault(path, what);
        }
    });
    for (path, _) in
        wanted.iter().filter(|(path, line)| !seen.contains(**path) && !has_expired(line))
    {
        fault(path, "missing".into());
    }
    faults
}

fn check_file(path: &Path, meta: &fs::Metadata, line: &Line) -> Result<(), String> {
    if let Some(target) = &line.symlink {
        let found = fs::read_link(path).map_err(|_| "not a link".to_owned())?;
        return if found.as_os_str() == &**target {
            Ok(())
        } else {
            Err(format!("leads to {}", found.display()))
        };
    }
    if !meta.is_file() {
        return Err("not a regular file".into());
    }
    let mode = if line.exec == Some(true) { 0o555 } else { 0o444 };
    if meta.permissions().mode() & 0o7777 != mode {
        return Err(format!("mode {:o}", meta.permissions().mode() & 0o7777));
    }
    if Some(meta.len()) != line.size {
        return Err(format!("{} bytes instead of {:?}", meta.len(), line.size));
    }
    if u64::try_from(meta.mtime()).ok() != line.mtime || meta.mtime_nsec() != 0 {
        return Err(format!(
            "modified at {}.{:09} instead of {:?}",
            meta.mtime(),
            meta.mtime_nsec(),
            line.mtime
        ));
    }
    let found = blake3::hash(&fs::read(path).unwrap()).to_hex();
    if line.object.as_deref() == Some(found.as_str()) {
        Ok(())
    } else {
        Err(format!("has the bytes of {found}"))
    }
}

/// Calls `visit` with the root (as the empty path) and everything in it, without following links.
fn walk(root: &Path, path: &str, visit: &mut dyn FnMut(&str, &fs::Metadata)) {
    let meta = root.join(path).symlink_metadata().unwrap();
    visit(path, &meta);
    if !meta.is_dir() {
        return;
    }
    for entry in fs::read_dir(root.join(path)).unwrap() {
        let name = entry.unwrap().file_name().into_string().expect("names in a store are UTF-8");
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        walk(root, &path, visit);
    }
}

/// Returns the files and links of a content tree, with the times in the tree.
pub(crate) fn read_tree(root: &Path) -> BTreeMap<String, What> {
    let mut found = BTreeMap::new();
    walk(root, "", &mut |path, meta| {
        let full = root.join(path);
        if meta.is_symlink() {
            let target = fs::read_link(&full).unwrap().into_os_string().into_string().unwrap();
            found.insert(path.to_owned(), What::Link { target });
        } else if meta.is_file() {
            let object = blake3::hash(&fs::read(&full).unwrap()).to_hex().to_string();
            let mtime = u64::try_from(meta.mtime()).unwrap_or(0);
            let exec = meta.permissions().mode() & 0o100 != 0;
            found.insert(path.to_owned(), What::File { object, size: meta.len(), mtime, exec });
        }
    });
    found
}
