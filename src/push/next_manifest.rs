//! Builds the next manifest from the tree, the last manifest and the time.
//!
//! Pure: takes two sorted streams and returns one. It implements two rules. First, an entry's time
//! changes whenever the content that visitors get at its path changes, even if only a link was
//! moved, since web servers compute their validators from the time. Second, a removed path stays
//! retired for a while, so that cached pages still find their assets.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use crate::hash::ObjectId;
use crate::manifest::{
    Entry, EntryKind, ManifestError, ManifestWriter, Pair, Pairs, Totals, join_renames,
};
use crate::packing::source_entries::SourceEntries;
use crate::push::options::MtimeSource;
use crate::push::outcome::ChangeCounts;
use crate::push::retention::Retention;
use crate::tree_path::TreePath;

/// Maximum number of links on the way to a file, as in the kernel. A longer chain counts as a loop.
const MAX_LINKS: usize = 40;

/// The settings for the next manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct ManifestOptions<'a> {
    /// The `created` time of the next release, in seconds since 1970.
    pub(super) created: u64,
    pub(super) mtime: MtimeSource,
    pub(super) retention: &'a Retention,
}

/// The result of comparing the tree with the last manifest.
#[derive(Debug, Default)]
pub(super) struct ManifestPlan {
    /// Retired entries of the next manifest, in path order.
    retired: Vec<Retired>,
    /// Directories and files that are reachable through a new or moved link.
    link_affected: HashSet<String>,
    /// The number of live paths in the last manifest.
    pub(super) total: u64,
    /// The number of those paths that the tree lacks.
    pub(super) removed: u64,
    /// How the next manifest differs from the last.
    pub(super) change_counts: ChangeCounts,
}

#[derive(Debug)]
struct Retired {
    entry: Entry,
    /// Whether the entry was still live in the last manifest.
    is_newly_retired: bool,
}

/// Added paths and removed live paths, with their objects, in path order.
#[derive(Debug, Default)]
struct RenameCandidates {
    added: Vec<(ObjectId, ())>,
    removed: Vec<(ObjectId, TreePath)>,
}

impl RenameCandidates {
    fn record(&mut self, pair: &Pair) {
        // All empty files are equal, so each would count as a rename of every other.
        let object =
            |entry: &Entry| entry.file().filter(|file| file.size > 0).map(|file| file.object);
        match pair {
            Pair::Old(old) if old.is_live() => {
                self.removed.extend(object(old).map(|object| (object, old.path.clone())));
            }
            Pair::New(new) => self.added.extend(object(new).map(|object| (object, ()))),
            Pair::Both(old, new) if !old.is_live() => {
                self.added.extend(object(new).map(|object| (object, ())));
            }
            Pair::Old(_) | Pair::Both(..) => {}
        }
    }

    /// The paths whose content moved to a different path.
    fn renamed(self) -> HashSet<TreePath> {
        join_renames(self.added, self.removed).into_iter().map(|((), from)| from).collect()
    }
}

/// Sets the time of a live file so that visitors' caches notice a change.
fn set_time(
    new: &mut Entry,
    old: Option<&Entry>,
    options: &ManifestOptions<'_>,
    is_link_affected: bool,
) {
    let EntryKind::File(file) = &mut new.kind else { return };
    let old = old.filter(|old| old.is_live()).and_then(Entry::file);
    match (options.mtime, old) {
        // A build that rewrites the same bytes must not change the validators.
        (MtimeSource::Source, Some(old)) if old.object == file.object => file.mtime = old.mtime,
        (MtimeSource::Source, _) => {}
        (MtimeSource::Push, Some(old))
            if old.object == file.object && old.exec == file.exec && !is_link_affected =>
        {
            file.mtime = old.mtime;
        }
        (MtimeSource::Push, _) => file.mtime = options.created,
    }
}

fn link_destination(entry: &Entry) -> Option<String> {
    match &entry.kind {
        EntryKind::Symlink(target) => target.destination(&entry.path),
        EntryKind::File(_) => None,
    }
}

/// The retired form of an entry that the tree lacks; `None` if its retention has ended.
fn retire(old: Entry, options: &ManifestOptions<'_>) -> Option<Retired> {
    if options.retention.is_expunged(&old.path) {
        return None;
    }
    // The end is set when the entry is retired; later pushes do not extend it.
    let until = old.until.unwrap_or_else(|| {
        options.created.saturating_add(options.retention.duration_for(&old.path).as_secs())
    });
    let is_fresh = old.is_live();
    (until > options.created).then_some(Retired {
        entry: Entry { until: Some(until), ..old },
        is_newly_retired: is_fresh,
    })
}

/// Drops retired entries that conflict with a live entry: a file at the path of a directory, the
/// reverse, or names that some file systems cannot tell apart.
fn drop_conflicts(retired: &mut Vec<Retired>, live: &SourceEntries) {
    if retired.is_empty() {
        return;
    }
    retired.retain(|Retired { entry, .. }| {
        let path = entry.path.as_str();
        let below = format!("{path}/");
        let at = live.position(&below);
        let has_below = at < live.len() && live.path(at).as_str().starts_with(&below);
        let mut ancestors = path.match_indices('/').map(|(index, _)| &path[..index]);
        !has_below && !ancestors.any(|ancestor| live.find(ancestor).is_some())
    });
    let mut folded: HashMap<String, bool> =
        retired.iter().map(|retired| (retired.entry.path.folded(), false)).collect();
    for path in live.paths() {
        if let Some(collides) = folded.get_mut(&path.folded()) {
            *collides = true;
        }
    }
    retired.retain(|retired| {
        !folded.get(&retired.entry.path.folded()).is_some_and(|collides| *collides)
    });
}

/// Follows the links in the tree from `destination` to the content.
fn resolve_links(destination: &str, live: &SourceEntries) -> Option<String> {
    let mut pending: Vec<String> =
        destination.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let mut place = String::new();
    let mut links = 0;
    while let Some(part) = pending.pop() {
        let next = if place.is_empty() { part } else { format!("{place}/{part}") };
        match live.find(&next).as_ref().and_then(link_destination) {
            Some(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                place.clear();
                pending.extend(
                    target.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned),
                );
            }
            None => place = next,
        }
    }
    Some(place)
}

/// The paths that moved links lead to, including paths that are reached through further links
/// inside those paths.
fn propagate_link_changes(moved: Vec<String>, live: &SourceEntries) -> HashSet<String> {
    let mut touched = HashSet::new();
    let mut pending = moved;
    while let Some(destination) = pending.pop() {
        let Some(place) = resolve_links(&destination, live) else { continue };
        // Links may form a loop, so each place is visited only once.
        if touched.contains(&place) {
            continue;
        }
        let below = if place.is_empty() { String::new() } else { format!("{place}/") };
        let inside = (live.position(&below)..live.len())
            .take_while(|index| live.path(*index).as_str().starts_with(&below));
        pending.extend(inside.filter_map(|index| link_destination(&live.entry(index))));
        touched.insert(place);
    }
    touched
}

impl ManifestPlan {
    /// Compares the tree with the last manifest.
    pub(super) fn compare(
        previous: impl Iterator<Item = Result<Entry, ManifestError>>,
        live: &SourceEntries,
        options: &ManifestOptions<'_>,
    ) -> Result<Self, ManifestError> {
        let mut plan = Self::default();
        let mut moved = Vec::new();
        let mut rename_candidates = RenameCandidates::default();
        for pair in Pairs::new(previous, live.entries().map(Ok)) {
            let pair = pair?;
            plan.count(&pair);
            rename_candidates.record(&pair);
            match pair {
                Pair::Old(old) => plan.retired.extend(retire(old, options)),
                Pair::New(new) => moved.extend(link_destination(&new)),
                Pair::Both(old, new) if !old.is_live() || old.kind != new.kind => {
                    moved.extend(link_destination(&new));
                }
                Pair::Both(..) => {}
            }
        }
        // The comparison is complete before anything is written, so that a guard rail can still
        // refuse the release.
        drop_conflicts(&mut plan.retired, live);
        plan.apply_renames(&rename_candidates.renamed());
        plan.link_affected = propagate_link_changes(moved, live);
        Ok(plan)
    }

    /// Counts a path. Until [`ManifestPlan::apply_renames`], retired and renamed paths count as
    /// removed.
    fn count(&mut self, pair: &Pair) {
        match pair {
            Pair::Old(old) => {
                self.total += u64::from(old.is_live());
                self.removed += u64::from(old.is_live());
                self.change_counts.removed += 1;
            }
            Pair::New(_) => self.change_counts.added += 1,
            Pair::Both(old, new) => {
                self.total += u64::from(old.is_live());
                let counter = match (old.is_live(), old.has_content_of(new)) {
                    (false, _) => &mut self.change_counts.added,
                    (true, false) => &mut self.change_counts.changed,
                    (true, true) => &mut self.change_counts.same,
                };
                *counter += 1;
            }
        }
    }

    /// Counts each path in `renamed`, the old paths of moved content, as one rename instead of an
    /// added path and a removed path. Counts retired paths separately from removed paths.
    fn apply_renames(&mut self, renamed: &HashSet<TreePath>) {
        let fresh = || {
            self.retired
                .iter()
                .filter(|retired| retired.is_newly_retired)
                .map(|retired| &retired.entry)
        };
        let until = || fresh().filter_map(|entry| entry.until);
        let retired = fresh().filter(|entry| !renamed.contains(&entry.path)).count() as u64;
        let still_served = fresh().count() as u64;
        let renamed_and_removed = renamed.len() as u64 - (still_served - retired);
        self.change_counts = ChangeCounts {
            added: self.change_counts.added - renamed.len() as u64,
            renamed: renamed.len() as u64,
            retired,
            still_served,
            first_until: until().min(),
            last_until: until().max(),
            removed: self.change_counts.removed - self.retired.len() as u64 - renamed_and_removed,
            ..self.change_counts
        };
    }

    fn is_link_affected(&self, entry: &Entry) -> bool {
        let path = entry.path.as_str();
        let ancestors = path.match_indices('/').map(|(at, _)| &path[..at]);
        !self.link_affected.is_empty()
            && ["", path]
                .into_iter()
                .chain(ancestors)
                .any(|place| self.link_affected.contains(place))
    }

    /// Writes the next manifest from the compared entries.
    pub(super) fn write<W: Write>(
        &self,
        previous: impl Iterator<Item = Result<Entry, ManifestError>>,
        live: &SourceEntries,
        options: &ManifestOptions<'_>,
        out: W,
    ) -> Result<(W, Totals), ManifestError> {
        let mut writer = ManifestWriter::new(out);
        let mut retired = self.retired.iter().peekable();
        for pair in Pairs::new(previous, live.entries().map(Ok)) {
            let (old, mut new) = match pair? {
                Pair::Old(old) => {
                    if let Some(retired) = retired.next_if(|retired| retired.entry.path == old.path)
                    {
                        writer.push(&retired.entry)?;
                    }
                    continue;
                }
                Pair::New(new) => (None, new),
                Pair::Both(old, new) => (Some(old), new),
            };
            let is_link_affected = self.is_link_affected(&new);
            set_time(&mut new, old.as_ref(), options, is_link_affected);
            writer.push(&new)?;
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::ObjectId;
    use crate::manifest::{FileEntry, ManifestReader, diff};
    use crate::push::retention::RetentionRule;
    use crate::tree_path::{LinkTarget, TreePath};
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn paths_at_or_below_a_touched_path_are_touched() {
        let manifest_plan = |places: &[&str]| ManifestPlan {
            link_affected: places.iter().map(|place| (*place).to_owned()).collect(),
            ..ManifestPlan::default()
        };
        let is_touched = |manifest_plan: &ManifestPlan, path: &str| {
            manifest_plan.is_link_affected(&file(path, "x", 0, None))
        };
        let some = manifest_plan(&["a", "b/c"]);
        for (path, expected) in [
            ("a", true),
            ("a/x/y", true),
            ("b/c", true),
            ("b/c/d", true),
            ("ab", false),
            ("b/cd", false),
        ] {
            assert_eq!(is_touched(&some, path), expected, "{path}");
        }
        assert!(
            is_touched(&manifest_plan(&[""]), "anything")
                && !is_touched(&manifest_plan(&[]), "anything")
        );
    }

    fn file(path: &str, content: &str, mtime: u64, until: Option<u64>) -> Entry {
        let object = ObjectId::of(content.as_bytes());
        let file = FileEntry { object, size: content.len() as u64, mtime, exec: false };
        Entry { path: TreePath::new(path).unwrap(), kind: EntryKind::File(file), until }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry {
            path: TreePath::new(path).unwrap(),
            kind: EntryKind::Symlink(LinkTarget::new(target).unwrap()),
            until: None,
        }
    }

    fn next(previous: &[Entry], live: Vec<Entry>, created: u64) -> Vec<Entry> {
        next_with_sums(previous, live, created).0
    }

    fn sums(previous: &[Entry], live: Vec<Entry>, created: u64) -> ChangeCounts {
        next_with_sums(previous, live, created).1
    }

    fn next_with_sums(
        previous: &[Entry],
        live: Vec<Entry>,
        created: u64,
    ) -> (Vec<Entry>, ChangeCounts) {
        let rules = [RetentionRule { pattern: "*.js".into(), keep: Duration::from_secs(10) }];
        let retention = Retention::new(&rules, vec![TreePath::new("gone").unwrap()]).unwrap();
        let rules = ManifestOptions { created, mtime: MtimeSource::Push, retention: &retention };
        let live = SourceEntries::Entries(live);
        let stream = || previous.iter().cloned().map(Ok);
        let manifest_plan = ManifestPlan::compare(stream(), &live, &rules).unwrap();
        let (bytes, _) = manifest_plan.write(stream(), &live, &rules, Vec::new()).unwrap();
        let entries: Vec<Entry> =
            ManifestReader::new(&bytes[..], None).unwrap().collect::<Result<_, _>>().unwrap();
        let paths = ChangeCounts::from(&diff(stream(), entries.iter().cloned().map(Ok)).unwrap());
        let ChangeCounts { still_served, first_until, last_until, .. } =
            manifest_plan.change_counts;
        let fresh = entries.iter().filter(|new| {
            !new.is_live() && previous.iter().any(|old| old.is_live() && old.path == new.path)
        });
        assert_eq!(still_served, fresh.count() as u64);
        assert_eq!(
            manifest_plan.change_counts,
            ChangeCounts { still_served, first_until, last_until, ..paths },
            "a plan counts what a push counts"
        );
        (entries, manifest_plan.change_counts)
    }

    #[test]
    fn time_changes_only_with_content() {
        let old = [
            file("a.js", "1", 5, None),
            file("b.js", "2", 5, None),
            file("c.js", "3", 5, Some(99)),
        ];
        let new = next(
            &old,
            vec![
                file("a.js", "1", 0, None),
                file("b.js", "x", 0, None),
                file("c.js", "3", 0, None),
            ],
            50,
        );
        let times: Vec<_> = new.iter().map(|entry| entry.file().unwrap().mtime).collect();
        assert_eq!(times, [5, 50, 50]);
    }

    #[test]
    fn removed_entry_is_retired_once_and_then_removed() {
        let old = [
            file("a.js", "1", 5, None),
            file("b.html", "2", 5, None),
            file("gone/c.js", "3", 5, None),
        ];
        let second = next(&old, vec![file("z", "z", 0, None)], 50);
        assert_eq!(second[0], file("a.js", "1", 5, Some(60)));
        assert_eq!(second.len(), 2);
        assert_eq!(next(&second, vec![file("z", "z", 0, None)], 59)[0].until, Some(60));
        assert_eq!(next(&second, vec![file("z", "z", 0, None)], 60).len(), 1);
    }

    #[test]
    fn retired_entry_never_conflicts_with_a_live_one() {
        for (old, new) in [
            ("a.js", "a.js/b"),
            ("a.js/b.js", "a.js"),
            ("A.js", "a.js"),
            ("\u{e9}.js", "e\u{301}.js"),
        ] {
            let got = next(&[file(old, "1", 5, None)], vec![file(new, "2", 0, None)], 50);
            assert_eq!(got, [file(new, "2", 50, None)], "{old} -> {new}");
        }
    }

    #[test]
    fn changed_link_renews_everything_behind_it() {
        let tree = |target| {
            vec![
                link("latest", target),
                file("other/f", "o", 5, None),
                file("v1/f", "1", 5, None),
                file("v2/f", "2", 5, None),
                link("v2/in", "../other"),
            ]
        };
        let times = |entries: Vec<Entry>| {
            entries
                .iter()
                .filter_map(|e| Some((e.path.to_string(), e.file()?.mtime)))
                .collect::<Vec<_>>()
        };
        let got = times(next(&tree("v1"), tree("v2"), 50));
        assert_eq!(
            got,
            [("other/f".to_owned(), 50), ("v1/f".to_owned(), 5), ("v2/f".to_owned(), 50)]
        );
        let unmoved = times(next(&tree("v1"), tree("v1"), 50));
        assert!(unmoved.iter().all(|(_, mtime)| *mtime == 5));
    }

    #[test]
    fn moved_file_is_renamed_and_its_old_path_is_retired() {
        let old =
            [file("a.js", "1", 5, None), file("b.html", "2", 5, None), file("e.js", "", 5, None)];
        let live = vec![
            file("c.js", "1", 0, None),
            file("d.html", "2", 0, None),
            file("f.js", "", 0, None),
        ];
        let sums = sums(&old, live, 50);
        assert_eq!(
            (sums.renamed, sums.added, sums.retired, sums.removed),
            (2, 1, 1, 0),
            "an empty file is not renamed"
        );
        assert_eq!((sums.still_served, sums.last_until), (2, Some(60)));
    }

    #[test]
    fn earlier_retired_entry_is_not_renamed() {
        let old = [file("a.js", "1", 5, Some(40)), file("z", "z", 5, None)];
        let sums = sums(&old, vec![file("b.js", "1", 0, None), file("z", "z", 0, None)], 50);
        assert_eq!((sums.renamed, sums.added, sums.removed, sums.same), (0, 1, 1, 1));
    }

    /// A tree with a fixed set of paths. Each path has the given content, or does not exist.
    fn tree(contents: &[Option<u8>]) -> Vec<Entry> {
        let paths = ["A.js", "a.js", "b.html", "b.js", "d/e.js", "gone", "x.js", "x.js/y.js"];
        let entry = |(path, content): (&&str, &Option<u8>)| match content {
            Some(0) => Some(file(path, "", 0, None)),
            Some(1) => Some(link(path, "d")),
            other => other.map(|content| file(path, &content.to_string(), 0, None)),
        };
        let mut entries: Vec<Entry> = paths.iter().zip(contents).filter_map(entry).collect();
        let has_file = entries.iter().any(|entry| entry.path.as_str() == "x.js");
        entries.retain(|entry| !(has_file && entry.path.as_str() == "x.js/y.js"));
        entries
    }

    proptest! {
        /// [`next`] compares its sums with those of the difference, for any sequence of trees.
        #[test]
        fn counts_match_the_difference(trees in prop::collection::vec(
            (prop::collection::vec(prop::option::of(0..4_u8), 8), 1..12_u64), 1..5,
        )) {
            let mut entries = Vec::new();
            let mut created = 50;
            for (contents, seconds) in trees {
                created += seconds;
                entries = next(&entries, tree(&contents), created);
            }
        }
    }

    #[test]
    fn link_loops_terminate() {
        let tree = vec![link("a", "b"), link("b", "a"), file("c", "1", 0, None)];
        assert_eq!(next(&[], tree, 50).len(), 3);
    }
}
