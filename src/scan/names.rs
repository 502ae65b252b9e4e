//! Finds names that other systems cannot hold or cannot tell apart.
//!
//! Visitors and mirrors may use Windows, or file systems that ignore case or Unicode normalization.
//! This module only finds such names; the configuration decides whether they are warnings or
//! errors.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;

use super::TreeEntry;
use super::error::{RejectedPath, escape};
use crate::tree_path::{MAX_PATH_BYTES, TreePath};

/// Windows device names, with any extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// Windows device names that are followed by a digit from 1 to 9.
const NUMBERED_DEVICES: [&str; 2] = ["com", "lpt"];

/// A path, or a directory above one, and the hash of its folded form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Folded {
    hash: u64,
    entry: u32,
    /// Length of the relevant part of the path, in bytes.
    bytes: u16,
}

/// Finds problematic names in these entries, which must be sorted by path: paths that differ only
/// in case or normalization, and components that are not valid on Windows.
pub(super) fn find_unportable(entries: &[TreeEntry]) -> Vec<RejectedPath> {
    let mut rejected = Vec::new();
    let mut folded = Vec::with_capacity(entries.len());
    let mut is_any_folded = false;
    let mut last = "";
    for (index, entry) in entries.iter().enumerate() {
        let path = entry.path.as_str();
        for end in new_parts(last, path) {
            let part = &path[..end];
            let name = &part[part.rfind('/').map_or(0, |slash| slash + 1)..];
            if let Some(why) = windows_fault(name) {
                rejected.push(RejectedPath { path: escape(part.as_bytes()), why: why.to_owned() });
            }
            let (hash, is_changed) = fold_hash(part);
            is_any_folded |= is_changed;
            if let (Ok(entry), Ok(bytes)) = (u32::try_from(index), u16::try_from(end)) {
                folded.push(Folded { hash, entry, bytes });
            }
        }
        last = path;
    }
    // If two different paths have the same folded form, folding changes at least one of them.
    if is_any_folded {
        push_collisions(entries, folded, &mut rejected);
    }
    rejected.sort_unstable();
    rejected
}

/// The end offsets of the prefixes of `path` (each parent directory, and `path` itself) that are
/// not also prefixes of the previous path, `last`.
fn new_parts<'p>(last: &str, path: &'p str) -> impl Iterator<Item = usize> + use<'p> {
    let common = last.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
    let slashes = path.as_bytes()[common..].iter().enumerate().filter(|&(_, &byte)| byte == b'/');
    slashes.map(move |(offset, _)| common + offset).chain(std::iter::once(path.len()))
}

/// The hash of the folded form of `path`, and whether folding changes it.
fn fold_hash(path: &str) -> (u64, bool) {
    // Stores hashes rather than folded names, which would take as much memory again as all paths.
    // If hashes are equal, the names are compared in full below.
    let mut hasher = DefaultHasher::new();
    let mut buffer = [0; MAX_PATH_BYTES];
    let is_changed = match (buffer.get_mut(..path.len()), path.is_ascii()) {
        // Like `TreePath::folded`, without allocating a `String` for each of a million paths.
        (Some(lower), true) => {
            lower.copy_from_slice(path.as_bytes());
            lower.make_ascii_lowercase();
            hasher.write(lower);
            lower != path.as_bytes()
        }
        _ => {
            let folded = fold(path);
            hasher.write(folded.as_bytes());
            folded != path
        }
    };
    (hasher.finish(), is_changed)
}

fn fold(path: &str) -> String {
    TreePath::new(path).map_or_else(|_| path.to_owned(), |path| path.folded())
}

fn push_collisions(
    entries: &[TreeEntry],
    mut folded: Vec<Folded>,
    rejected: &mut Vec<RejectedPath>,
) {
    folded.sort_unstable();
    let text =
        |item: &Folded| &entries[item.entry as usize].path.as_str()[..usize::from(item.bytes)];
    for group in folded.chunk_by(|a, b| a.hash == b.hash).filter(|group| group.len() > 1) {
        let first = text(&group[0]);
        for other in group[1..].iter().map(text) {
            // Different names may have equal hashes.
            if other != first && fold(other) == fold(first) {
                let why = format!(
                    "differs from {} only in case or normal form",
                    escape(first.as_bytes())
                );
                rejected.push(RejectedPath { path: escape(other.as_bytes()), why });
            }
        }
    }
}

fn windows_fault(name: &str) -> Option<&'static str> {
    if name.ends_with(['.', ' ']) {
        return Some("ends in a dot or space, which Windows drops");
    }
    if name.bytes().any(|byte| b"<>:\"|?*".contains(&byte)) {
        return Some("has one of <>:\"|?*, which Windows forbids in names");
    }
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem).trim_end_matches(' ');
    let is_device = match stem.len() {
        3 => DEVICES.iter().any(|device| stem.eq_ignore_ascii_case(device)),
        4 => {
            let (device, digit) = stem.split_at_checked(3)?;
            matches!(digit.as_bytes(), [b'1'..=b'9'])
                && NUMBERED_DEVICES.iter().any(|numbered| device.eq_ignore_ascii_case(numbered))
        }
        _ => false,
    };
    is_device.then_some("is the name of a device on Windows")
}

#[cfg(test)]
mod tests {
    use super::super::TreeKind;
    use super::*;
    use crate::tree_path::LinkTarget;

    fn rejected(paths: &[&str]) -> Vec<String> {
        let kind = TreeKind::Symlink { target: LinkTarget::new("x").unwrap() };
        let entry =
            |path: &&str| TreeEntry { path: TreePath::new(path).unwrap(), kind: kind.clone() };
        let mut entries: Vec<_> = paths.iter().map(entry).collect();
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        find_unportable(&entries).into_iter().map(|rejected| rejected.path).collect()
    }

    #[test]
    fn names_differing_in_case_or_normal_form_collide() {
        assert_eq!(rejected(&["A", "a"]), ["a"]);
        assert_eq!(rejected(&["caf\u{e9}", "cafe\u{301}"]), ["caf\u{e9}"]);
        assert_eq!(rejected(&["Docs/x", "docs/y"]), ["docs"]);
        assert_eq!(rejected(&["README", "readme/x"]), ["readme"]);
        assert_eq!(rejected(&["a/B/c", "a/b-d", "a/bb"]), [""; 0]);
        assert_eq!(rejected(&["X/a", "X/b", "y/a", "y/b"]), [""; 0]);
    }

    #[test]
    fn names_invalid_on_windows_are_reported_once() {
        for bad in [
            "con",
            "Con.txt",
            "nul.tar.gz",
            "COM1",
            "lpt9.x",
            "a.",
            "a ",
            "a:b",
            "what?",
            "a*",
            "a|b",
            "\"q\"",
        ] {
            assert_eq!(rejected(&[&format!("{bad}/1"), &format!("{bad}/2")]).len(), 1, "{bad}");
        }
        for good in ["console", "com0", "com10", "lpt", "comé", "a.b", ".con", "nul_"] {
            assert!(rejected(&[good]).is_empty(), "{good}");
        }
    }
}
