//! Checks where symbolic links that are kept as links lead within the scanned tree.
//!
//! `LinkTarget` checks a single target. This module follows a link through the other links in the
//! tree, as the kernel on a mirror's machine will. It never follows links on disk, because the
//! files around the tree are not the same there as on a mirror.

use super::error::{ScanFault, escape};
use super::{TreeEntry, TreeKind};
use crate::tree_path::{LinkTarget, TreePath};

/// Maximum number of links in one path, as on Linux (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Where a link finally leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkEnd {
    Found,
    Dangling,
    Loop,
}

/// Checks the links in `entries`, which must be sorted. Returns a fault for each link in a loop,
/// and the paths of links that lead nowhere.
pub(super) fn check(entries: &[TreeEntry]) -> (Vec<ScanFault>, Vec<String>) {
    let (mut faults, mut dangling) = (Vec::new(), Vec::new());
    for entry in entries {
        let TreeKind::Symlink { target } = &entry.kind else { continue };
        let shown = || escape(entry.path.as_str().as_bytes());
        match follow(entries, &entry.path, target) {
            LinkEnd::Found => {}
            LinkEnd::Dangling => dangling.push(shown()),
            LinkEnd::Loop => {
                faults.push(ScanFault::rejected(shown(), "is a symbolic link in a loop of links"));
            }
        }
    }
    (faults, dangling)
}

fn find<'e>(entries: &'e [TreeEntry], path: &str) -> Option<&'e TreeEntry> {
    let index = entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()?;
    entries.get(index)
}

fn is_directory(entries: &[TreeEntry], path: &str) -> bool {
    // Directories are not entries. A directory exists if entries lie below it, and these are
    // adjacent in path order.
    let below = format!("{path}/");
    let index = entries.partition_point(|entry| entry.path.as_str() < below.as_str());
    path.is_empty()
        || entries.get(index).is_some_and(|entry| entry.path.as_str().starts_with(&below))
}

fn follow(entries: &[TreeEntry], path: &TreePath, target: &LinkTarget) -> LinkEnd {
    let Some(mut goal) = target.destination(path) else { return LinkEnd::Dangling };
    // Each link found here has a real path, because the links above it have already been followed,
    // so `destination` is exact.
    for _ in 0..MAX_LINKS {
        match first_link(entries, &goal) {
            Err(end) => return end,
            Ok((link, target, rest)) => match target.destination(link) {
                Some(at) if at.is_empty() => goal = rest.trim_start_matches('/').to_owned(),
                Some(at) => goal = at + rest,
                None => return LinkEnd::Dangling,
            },
        }
    }
    LinkEnd::Loop
}

/// The first link on the path `goal`, its target, and what follows the link in `goal`. If there is
/// no link, returns where the path ends.
fn first_link<'e, 'g>(
    entries: &'e [TreeEntry],
    goal: &'g str,
) -> Result<(&'e TreePath, &'e LinkTarget, &'g str), LinkEnd> {
    let ends = goal.match_indices('/').map(|(index, _)| index).chain(std::iter::once(goal.len()));
    for end in ends {
        let (part, rest) = goal.split_at(end);
        match find(entries, part) {
            Some(TreeEntry { path, kind: TreeKind::Symlink { target } }) => {
                return Ok((path, target, rest));
            }
            Some(_) => {
                return Err(if rest.is_empty() { LinkEnd::Found } else { LinkEnd::Dangling });
            }
            None => {}
        }
    }
    Err(if is_directory(entries, goal) { LinkEnd::Found } else { LinkEnd::Dangling })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsx::FileStat;
    use crate::hash::ObjectId;

    fn tree(files: &[&str], links: &[(&str, &str)]) -> Vec<TreeEntry> {
        let stamp = FileStat { size: 0, mtime_ns: 0, ctime_ns: 0, inode: 0, device: 0 };
        let file = TreeKind::File {
            object: ObjectId::of(b""),
            stamp,
            exec: false,
            has_private_key: false,
            root: 0,
        };
        let path = |text: &str| TreePath::new(text).unwrap();
        let mut entries: Vec<_> =
            files.iter().map(|text| TreeEntry { path: path(text), kind: file.clone() }).collect();
        entries.extend(links.iter().map(|(text, target)| {
            let target = LinkTarget::new(target).unwrap();
            TreeEntry { path: path(text), kind: TreeKind::Symlink { target } }
        }));
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        entries
    }

    #[test]
    fn links_to_links_are_followed() {
        let good = tree(
            &["v1/sub/f", "v1-x"],
            &[
                ("latest", "v1"),
                ("f", "latest/sub/f"),
                ("v1/up", "../latest/sub"),
                ("g", "v1/up/f"),
                ("root", "."),
                ("h", "root/latest/up/f"),
            ],
        );
        assert_eq!(check(&good), (Vec::new(), Vec::new()));
    }

    #[test]
    fn loops_are_refused_and_dangling_links_reported() {
        let bad = tree(
            &["f"],
            &[("a", "b"), ("b", "a"), ("self", "self/x"), ("n", "none"), ("m", "f/x"), ("d", "n")],
        );
        let (faults, dangling) = check(&bad);
        let refused = |path: &str| {
            ScanFault::rejected(path.to_owned(), "is a symbolic link in a loop of links")
        };
        assert_eq!(faults, ["a", "b", "self"].map(refused));
        assert_eq!(dangling, ["d", "m", "n"]);
    }

    #[test]
    fn chain_of_more_than_forty_links_is_refused() {
        let names: Vec<_> =
            (0..50).map(|n| (format!("l{n:02}"), format!("l{:02}", n + 1))).collect();
        let links: Vec<_> = names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let (faults, dangling) = check(&tree(&["l50"], &links));
        assert_eq!((faults.len(), dangling.len()), (10, 0));
    }
}
