//! Reads a store on disk as its format document describes it.
//!
//! Written from `src/store/FORMAT.md` and `src/manifest/FORMAT.md` alone: it shares no code with
//! the library, so that it does not share its bugs. It reads stores in any state that a crash may
//! leave: unfinished content in `incoming`, and a slot named `dirty`, do not affect what is served.

mod record;
mod slot;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use record::Mark;
pub(crate) use record::{Line, Record, content_id};
pub(crate) use slot::read_tree;

/// The file or link at a served path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A file.
    File {
        /// Its object id.
        object: String,
        /// Its length in bytes.
        size: u64,
        /// Its modification time, seconds since 1970.
        mtime: u64,
        /// Whether it is executable.
        exec: bool,
    },
    /// A symbolic link.
    Link {
        /// Its target.
        target: String,
    },
}

/// One served path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// The file or link.
    pub(crate) what: What,
    /// For a retired entry: the time until which it is served.
    pub(crate) until: Option<u64>,
}

impl Item {
    /// Whether the entry is in the tree.
    pub(crate) const fn is_live(&self) -> bool {
        self.until.is_none()
    }
}

/// The content that a mirror serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    /// The name of the current release.
    pub(crate) name: String,
    /// Its record.
    pub(crate) record: Record,
    /// Live and retired entries.
    pub(crate) items: BTreeMap<String, Item>,
}

/// All faults, one line each, sorted.
pub(crate) type Faults = Vec<String>;

/// Returns what the store at `dir` serves. `current` must be exactly one complete release, and
/// everything else in the store that claims to be complete must be complete.
pub(crate) fn check_store(dir: &Path) -> Result<Served, Faults> {
    state(dir)?.ok_or_else(|| vec!["current: missing".into()])
}

/// Like [`check_store`], but returns `None` if nothing was ever activated or there is no store.
pub(crate) fn state(dir: &Path) -> Result<Option<Served>, Faults> {
    if dir.join(".headwater").symlink_metadata().is_err() {
        let names = names(dir);
        return if names.is_empty() {
            Ok(None)
        } else {
            Err(vec![format!("no store, but {names:?}")])
        };
    }
    let mut check =
        Check { dir, faults: Vec::new(), objects: BTreeSet::new(), records: BTreeMap::new() };
    check.top();
    check.objects();
    check.manifests();
    let current = check.current();
    check.releases(current.as_deref());
    check.slots(current.as_deref());
    let served = current.and_then(|name| check.served(name));
    check.faults.sort();
    check.faults.dedup();
    if check.faults.is_empty() { Ok(served) } else { Err(check.faults) }
}

/// Checks that the live entries of `served` are the files and links of the content tree at `tree`.
pub(crate) fn check_equals_tree(served: &Served, tree: &Path) -> Result<(), Faults> {
    let found = read_tree(tree);
    let live: BTreeMap<&String, &Item> =
        served.items.iter().filter(|(_, item)| item.is_live()).collect();
    let mut faults = Vec::new();
    for path in found.keys().chain(live.keys().copied()).collect::<BTreeSet<_>>() {
        match (found.get(path), live.get(path).map(|item| &item.what)) {
            (None, _) => faults.push(format!("{path}: served, but not in the tree")),
            (_, None) => faults.push(format!("{path}: in the tree, but not served")),
            (Some(wanted), Some(served)) if !is_same(wanted, served) => {
                faults.push(format!("{path}: served {served:?}, in the tree {wanted:?}"));
            }
            _ => {}
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Whether two items are equal except for the time.
pub(crate) fn is_same(a: &What, b: &What) -> bool {
    match (a, b) {
        (
            What::File { object, size, exec, .. },
            What::File { object: object_b, size: size_b, exec: exec_b, .. },
        ) => (object, size, exec) == (object_b, size_b, exec_b),
        _ => a == b,
    }
}

/// Returns the records of the releases that the store keeps (a staged one included), by name.
pub(crate) fn records(dir: &Path) -> BTreeMap<String, Record> {
    let releases = dir.join(".headwater/releases");
    let read = |file: String| {
        let name = file.strip_suffix(".json")?.to_owned();
        let record = record::parse_record(&name, &fs::read(releases.join(&file)).ok()?).ok()?;
        Some((name, record))
    };
    names(&releases).into_iter().filter_map(read).collect()
}

/// Returns the lines of a manifest of the store.
pub(crate) fn manifest(dir: &Path, id: &str) -> Result<Vec<Line>, String> {
    let path = dir.join(format!(".headwater/manifests/{id}.zst"));
    let file = fs::File::open(path).map_err(|error| format!("manifest {id}: {error}"))?;
    let mut frame = zstd::stream::read::Decoder::new(file).unwrap().single_frame();
    let mut bytes = Vec::new();
    frame.read_to_end(&mut bytes).map_err(|error| format!("manifest {id}: {error}"))?;
    let mut rest = Vec::new();
    frame.finish().read_to_end(&mut rest).unwrap();
    if !rest.is_empty() {
        return Err(format!("manifest {id}: {} bytes behind its frame", rest.len()));
    }
    record::parse_manifest(id, &bytes)
}

/// Returns the ids of all objects of the store, damaged ones included.
pub(crate) fn object_names(dir: &Path) -> BTreeSet<String> {
    let objects = dir.join(".headwater/objects");
    names(&objects).iter().flat_map(|prefix| names(&objects.join(prefix))).collect()
}

/// Returns the names in a directory, sorted; none if it is missing.
fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().expect("names in a store are UTF-8"))
        .collect();
    names.sort();
    names
}

struct Check<'a> {
    dir: &'a Path,
    faults: Faults,
    /// Objects whose content matches their name.
    objects: BTreeSet<String>,
    /// Records whose content matches their name.
    records: BTreeMap<String, Record>,
}

impl Check<'_> {
    fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    fn inner(&self, name: &str) -> std::path::PathBuf {
        self.dir.join(".headwater").join(name)
    }

    /// Checks that there is nothing that the format does not describe.
    fn top(&mut self) {
        for name in names(self.dir) {
            if !["current", "staged", ".headwater"].contains(&&*name) {
                self.fault(format!("{name}: an unexpected file beside current"));
            }
        }
        const FILES: [&str; 4] = ["format", "lock", "expired", "events.jsonl"];
        const DIRECTORIES: [&str; 6] =
            ["objects", "manifests", "releases", "slots", "incoming", "reserve"];
        for name in names(&self.inner("")) {
            let meta = self.inner(&name).symlink_metadata().unwrap();
            let is_ours = FILES.contains(&&*name) && meta.is_file()
                || DIRECTORIES.contains(&&*name) && meta.is_dir();
            // Before `format` is written, the creation of the store is not finished.
            let is_store = self.inner("format").symlink_metadata().is_ok();
            if is_store && !is_ours {
                self.fault(format!(".headwater/{name}: an unexpected file"));
            }
        }
        if !self.dir.join(".headwater").symlink_metadata().unwrap().is_dir() {
            self.fault(".headwater: not a directory".into());
        }
    }

    fn objects(&mut self) {
        for prefix in names(&self.inner("objects")) {
            let is_directory =
                self.inner("objects").join(&prefix).symlink_metadata().unwrap().is_dir();
            if !record::is_hex(&prefix, 2) || !is_directory {
                self.fault(format!("objects/{prefix}: an unexpected file"));
            }
            for id in names(&self.inner("objects").join(&prefix)) {
                let path = self.inner("objects").join(&prefix).join(&id);
                let meta = path.symlink_metadata().unwrap();
                let mode = meta.permissions().mode() & 0o7777;
                if !record::is_hex(&id, 64) || !id.starts_with(&prefix) || !meta.is_file() {
                    self.fault(format!("objects/{prefix}/{id}: an unexpected file"));
                } else if blake3::hash(&fs::read(&path).unwrap()).to_hex().as_str() != id {
                    self.fault(format!("object {id}: other bytes than its name says"));
                } else if mode != 0o444 && mode != 0o555 {
                    self.fault(format!("object {id}: mode {mode:o}"));
                } else {
                    self.objects.insert(id);
                }
            }
        }
    }

    fn manifests(&mut self) {
        for file in names(&self.inner("manifests")) {
            match file.strip_suffix(".zst").map(|id| manifest(self.dir, id)) {
                None => self.fault(format!("manifests/{file}: an unexpected file")),
                Some(Err(fault)) => self.fault(fault),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Returns the name of the release that is served.
    fn current(&mut self) -> Option<String> {
        let meta = self.dir.join("current").symlink_metadata().ok()?;
        if !meta.is_symlink() {
            self.fault("current: not a link".into());
            return None;
        }
        let target = fs::read_link(self.dir.join("current")).unwrap();
        let name = target.to_str().and_then(|target| target.strip_prefix(".headwater/slots/"));
        match name.filter(|name| record::sequence_of(name).is_some()) {
            Some(name) => Some(name.to_owned()),
            None => {
                self.fault(format!("current: leads to {}", target.display()));
                None
            }
        }
    }

    /// Checks that each record is valid and that each kept release has all of its content.
    fn releases(&mut self, current: Option<&str>) {
        let site = match fs::read(self.inner("format")) {
            Ok(bytes) => record::parse_format(&bytes).map_err(|fault| self.fault(fault)).ok(),
            Err(error) => {
                // Creation writes it last: before that, nothing was served.
                if current.is_some() {
                    self.fault(format!("format: {error}"));
                }
                None
            }
        };
        for file in names(&self.inner("releases")) {
            // The release is no longer kept, and its content is being dropped.
            if file.strip_suffix(".gone").and_then(record::sequence_of).is_some() {
                continue;
            }
            let Some(name) = file.strip_suffix(".json") else {
                self.fault(format!("releases/{file}: an unexpected file"));
                continue;
            };
            match record::parse_record(name, &fs::read(self.inner("releases").join(&file)).unwrap())
            {
                Err(fault) => self.fault(fault),
                Ok(record) => {
                    if site.as_ref().is_some_and(|site| *site != record.site) {
                        self.fault(format!("release {name}: of site {}", record.site));
                    }
                    self.records.insert(name.to_owned(), record);
                }
            }
        }
        for (name, record) in self.records.clone() {
            let was_served = current
                .and_then(record::sequence_of)
                .is_some_and(|served| record.sequence < served);
            if was_served || Some(&*name) == current {
                self.complete(&name, &record);
            }
        }
    }

    fn complete(&mut self, name: &str, record: &Record) {
        let lines = match manifest(self.dir, &record.manifest) {
            Ok(lines) => lines,
            Err(fault) => return self.fault(format!("release {name}: {fault}")),
        };
        let live = || lines.iter().filter(|line| line.until.is_none());
        let count = |lines: usize| u64::try_from(lines).unwrap();
        let until = lines.iter().filter_map(|line| line.until).min();
        let retired = count(lines.len() - live().count());
        let bytes: u64 = live().filter_map(|line| line.size).sum();
        if (record.entries, record.retired.unwrap_or(0), record.bytes, record.until)
            != (count(lines.len()), retired, bytes, until)
        {
            self.fault(format!("release {name}: its totals are not those of its manifest"));
        }
        if record.content != record::content_id(&lines) {
            self.fault(format!("release {name}: its content id is not that of its manifest"));
        }
        for line in &lines {
            if line.object.as_ref().is_some_and(|object| !self.objects.contains(object)) {
                self.fault(format!("release {name}: lacks the object of {}", line.path));
            }
        }
    }

    /// Decides which retired entries may be absent.
    fn mark(&mut self) -> Mark {
        let Ok(bytes) = fs::read(self.inner("expired")) else { return Mark::default() };
        record::parse_mark(&bytes).unwrap_or_else(|fault| {
            self.fault(fault);
            Mark::default()
        })
    }

    /// Checks that each slot with the name of a release contains that release.
    fn slots(&mut self, current: Option<&str>) {
        let served = current.and_then(record::sequence_of);
        let mark = self.mark();
        for slot in names(&self.inner("slots")) {
            if slot == "dirty" {
                continue;
            }
            let name = slot.strip_suffix(".spare").unwrap_or(&slot).to_owned();
            let Some(sequence) = record::sequence_of(&name) else {
                self.fault(format!("slots/{slot}: an unexpected file"));
                continue;
            };
            match self.records.get(&name).cloned() {
                // A push that ended before its activation staged it.
                None if served.is_none_or(|served| sequence >= served)
                    && Some(&*name) != current => {}
                None => self.fault(format!("slot {slot}: there is no such release")),
                Some(record) => match manifest(self.dir, &record.manifest) {
                    Ok(lines) => {
                        let root = self.inner("slots").join(&slot);
                        // The mark names the release whose slot has no expired entries.
                        let is_clean =
                            mark.release.as_ref() == Some(&slot) && Some(&*slot) == current;
                        self.faults.extend(slot::check(
                            &slot,
                            &root,
                            &lines,
                            mark.through,
                            is_clean,
                        ));
                        let next = lines
                            .iter()
                            .filter_map(|line| line.until)
                            .filter(|until| *until > mark.through)
                            .min();
                        if is_clean && next != mark.next {
                            self.fault(format!(
                                "expired: next is {:?} instead of {next:?}",
                                mark.next
                            ));
                        }
                    }
                    Err(fault) => self.fault(format!("slot {slot}: {fault}")),
                },
            }
        }
        if let Some(name) = current {
            let is_directory =
                self.inner("slots").join(name).symlink_metadata().is_ok_and(|meta| meta.is_dir());
            if !is_directory {
                self.fault(format!("slot {name}: current leads to it, and it is not there"));
            }
        }
    }

    fn served(&self, name: String) -> Option<Served> {
        let record = self.records.get(&name)?.clone();
        let lines = manifest(self.dir, &record.manifest).ok()?;
        let items = lines
            .into_iter()
            .map(|line| (line.path.clone(), Item { until: line.until, what: what(line) }));
        Some(Served { items: items.collect(), name, record })
    }
}

fn what(line: Line) -> What {
    match (line.symlink, line.object) {
        (Some(target), _) => What::Link { target },
        (None, object) => What::File {
            object: object.unwrap_or_default(),
            size: line.size.unwrap_or(0),
            mtime: line.mtime.unwrap_or(0),
            exec: line.exec.unwrap_or(false),
        },
    }
}
