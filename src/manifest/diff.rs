//! Compares two manifests by merging two sorted streams.

use std::collections::HashMap;
use std::iter::Peekable;

use serde::Serialize;

use crate::hash::ObjectId;
use crate::manifest::entry::{Entry, EntryKind};
use crate::tree_path::TreePath;

/// The entries of two manifests at the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pair {
    /// Only the old manifest has the path.
    Old(Entry),
    /// Only the new manifest has the path.
    New(Entry),
    /// Both manifests have the path: the old and the new entry.
    Both(Entry, Entry),
}

/// Iterates over two manifests at the same time, in path order.
pub struct Pairs<A: Iterator, B: Iterator> {
    old: Peekable<A>,
    new: Peekable<B>,
}

impl<A: Iterator, B: Iterator> std::fmt::Debug for Pairs<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairs").finish_non_exhaustive()
    }
}

impl<A: Iterator, B: Iterator> Pairs<A, B> {
    /// Pairs the entries of `old` and `new`, both in manifest order.
    pub fn new(old: A, new: B) -> Self {
        Self { old: old.peekable(), new: new.peekable() }
    }
}

impl<E, A: Iterator<Item = Result<Entry, E>>, B: Iterator<Item = Result<Entry, E>>> Iterator
    for Pairs<A, B>
{
    type Item = Result<Pair, E>;

    fn next(&mut self) -> Option<Self::Item> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (self.old.peek(), self.new.peek()) {
            (None, None) => return None,
            (Some(Ok(old)), Some(Ok(new))) => old.path.cmp(&new.path),
            // An error is returned immediately, without waiting for a matching entry from the other
            // stream.
            (Some(_), None) | (Some(Err(_)), _) => Less,
            (None, Some(_)) | (_, Some(Err(_))) => Greater,
        };
        Some(match order {
            Less => self.old.next()?.map(Pair::Old),
            Greater => self.new.next()?.map(Pair::New),
            Equal => match (self.old.next()?, self.new.next()?) {
                (Ok(old), Ok(new)) => Ok(Pair::Both(old, new)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
        })
    }
}

/// The kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The path is new, or live again after it was retired.
    Added,
    /// The content, target or mode of the path changed.
    Changed,
    /// A live path with the content of a path that was removed or retired.
    Renamed,
    /// The path is no longer in the tree, but is still served for a while.
    Retired,
    /// The path is no longer served.
    Removed,
}

/// A path at which two manifests differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The kind of change.
    pub kind: ChangeKind,
    /// The path.
    pub path: TreePath,
    /// The old path of a renamed file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<TreePath>,
    /// The size in bytes of the new file, or of the old file if the path was removed; 0 for a link.
    pub size: u64,
    /// The object of the new file, or of the old file if a live path was removed. `None` for a
    /// link, and for a path that was already retired.
    #[serde(skip)]
    pub object: Option<ObjectId>,
    /// The previous object of a changed path.
    #[serde(skip)]
    pub old_object: Option<ObjectId>,
}

/// The differences between two manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Every path that differs, in path order.
    pub changes: Vec<Change>,
    /// The number of live paths that are the same in both.
    pub same: u64,
}

impl Diff {
    /// The number of changes of this kind.
    #[must_use]
    pub fn count(&self, kind: ChangeKind) -> usize {
        self.changes.iter().filter(|change| change.kind == kind).count()
    }
}

fn change(kind: ChangeKind, entry: &Entry) -> Change {
    let file = entry.file();
    Change {
        kind,
        path: entry.path.clone(),
        from: None,
        size: file.map_or(0, |file| file.size),
        object: file.map(|file| file.object),
        old_object: None,
    }
}

fn classify(pair: &Pair) -> Option<Change> {
    match pair {
        Pair::Old(old) if old.is_live() => Some(change(ChangeKind::Removed, old)),
        // The path left the tree in an earlier release, so no path added now can be its new name.
        Pair::Old(old) => Some(Change { object: None, ..change(ChangeKind::Removed, old) }),
        Pair::New(new) if new.is_live() => Some(change(ChangeKind::Added, new)),
        Pair::New(new) => Some(change(ChangeKind::Retired, new)),
        Pair::Both(old, new) => match (old.is_live(), new.is_live()) {
            (true, false) => Some(change(ChangeKind::Retired, new)),
            (false, true) => Some(change(ChangeKind::Added, new)),
            (false, false) => None,
            // Times are not compared: a path whose time alone differs is the same to visitors.
            (true, true) if old.has_content_of(new) => None,
            (true, true) => Some(Change {
                old_object: match &old.kind {
                    EntryKind::File(file) => Some(file.object),
                    EntryKind::Symlink(_) => None,
                },
                ..change(ChangeKind::Changed, new)
            }),
        },
    }
}

/// Compares two manifests, both in manifest order. Times are ignored: a path with the same content
/// counts as unchanged. Memory grows with the number of changes.
///
/// # Errors
/// The first error from either stream.
pub fn diff<E>(
    old: impl Iterator<Item = Result<Entry, E>>,
    new: impl Iterator<Item = Result<Entry, E>>,
) -> Result<Diff, E> {
    let mut result = Diff::default();
    for pair in Pairs::new(old, new) {
        let pair = pair?;
        match classify(&pair) {
            Some(change) => result.changes.push(change),
            None => result.same += u64::from(matches!(&pair, Pair::Both(_, new) if new.is_live())),
        }
    }
    merge_renames(&mut result.changes);
    Ok(result)
}

/// Joins each added path with a removed path that has the same object. If there are several, joins
/// the first in path order. Both lists must be in path order and without empty files. Returns the
/// joined pairs.
pub(crate) fn join_renames<A, G>(
    added: Vec<(ObjectId, A)>,
    removed: Vec<(ObjectId, G)>,
) -> Vec<(A, G)> {
    let mut by_object: HashMap<ObjectId, Vec<G>> = HashMap::new();
    // Reversed, so that `pop` returns the first path.
    for (object, from) in removed.into_iter().rev() {
        by_object.entry(object).or_default().push(from);
    }
    let join = |(object, to): (ObjectId, A)| Some((to, by_object.get_mut(&object)?.pop()?));
    added.into_iter().filter_map(join).collect()
}

/// Merges an added path and a removed path with the same content into one rename.
fn merge_renames(changes: &mut Vec<Change>) {
    let of_kinds = |kinds: &[ChangeKind]| -> Vec<(ObjectId, usize)> {
        let indexes = changes
            .iter()
            .enumerate()
            // All empty files have the same object, but none is the new name of another.
            .filter(|(_, change)| kinds.contains(&change.kind) && change.size > 0);
        indexes.filter_map(|(index, change)| Some((change.object?, index))).collect()
    };
    let added = of_kinds(&[ChangeKind::Added]);
    let removed = of_kinds(&[ChangeKind::Removed, ChangeKind::Retired]);
    let mut is_joined = vec![false; changes.len()];
    for (to, from) in join_renames(added, removed) {
        is_joined[from] = true;
        changes[to].kind = ChangeKind::Renamed;
        changes[to].from = Some(changes[from].path.clone());
    }
    let mut is_joined = is_joined.into_iter();
    changes.retain(|_| !is_joined.next().unwrap_or(false));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::entry::FileEntry;

    fn file(path: &str, content: &str, until: Option<u64>) -> Entry {
        let object = ObjectId::of(content.as_bytes());
        let file = FileEntry { object, size: content.len() as u64, mtime: 1, exec: false };
        Entry { path: TreePath::new(path).unwrap(), kind: EntryKind::File(file), until }
    }

    fn kinds(old: Vec<Entry>, new: Vec<Entry>) -> Vec<(ChangeKind, String)> {
        let stream = |entries: Vec<Entry>| entries.into_iter().map(Ok::<_, ()>);
        diff(stream(old), stream(new))
            .unwrap()
            .changes
            .into_iter()
            .map(|change| (change.kind, change.path.into()))
            .collect()
    }

    #[test]
    fn each_kind_of_change_is_reported() {
        use ChangeKind::{Added, Changed, Removed, Renamed, Retired};
        let old = vec![
            file("a", "1", None),
            file("b", "2", None),
            file("c", "3", None),
            file("d", "4", None),
            file("f", "6", Some(9)),
        ];
        let new = vec![
            file("a", "1", None),
            file("b", "x", None),
            file("c", "3", Some(8)),
            file("e", "4", None),
            file("f", "6", None),
            file("g", "7", None),
        ];
        let got = kinds(old, new);
        let want = [(Changed, "b"), (Retired, "c"), (Renamed, "e"), (Added, "f"), (Added, "g")];
        assert_eq!(got, want.map(|(kind, path)| (kind, path.to_owned())));
        assert_eq!(kinds(vec![file("a", "1", None)], vec![]), [(Removed, "a".to_owned())]);
    }

    #[test]
    fn error_of_either_side_ends_the_diff() {
        let good = vec![Ok(file("a", "1", None))];
        let bad = vec![Ok(file("a", "1", None)), Err("broken")];
        assert_eq!(diff(good.clone().into_iter(), bad.clone().into_iter()), Err("broken"));
        assert_eq!(diff(bad.into_iter(), good.into_iter()), Err("broken"));
    }
}
