//! Scenarios for interruptions: a command on a mirror in a known state, and the allowed states
//! after it. The tests of kills, errors and power cuts share them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::checker::{self, Faults, Served};
use crate::harness::{Outcome, Sandbox, events};
use crate::trees::Tree;

/// The operation of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The mirror does not exist yet.
    FirstPush,
    /// Edits, additions, a changed link; the idle slot has the previous release.
    Update,
    /// Removal of most files, and a directory that becomes a file; the idle slot is the spare one
    /// of the first push.
    Deletion,
    /// A rollback to the previous release.
    Rollback,
    /// A prune of all releases except the current one.
    Prune,
    /// The removal of retired files that are due.
    Expire,
    /// A repair of a flipped byte and a missing object.
    Repair,
}

/// The release that a mirror serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// None: nothing was ever served.
    Nothing,
    /// The old release, unchanged.
    Old,
    /// The release that the command makes current.
    New,
}

/// A prepared sandbox and the operation.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// The sandbox.
    pub(crate) sandbox: Sandbox,
    /// The operation.
    pub(crate) kind: Kind,
    /// The mirror.
    pub(crate) mirror: PathBuf,
    /// What the mirror served before.
    pub(crate) old: Option<Served>,
    /// The faults of the mirror before.
    faults: BTreeSet<String>,
    /// The releases that the mirror kept.
    kept: BTreeSet<String>,
    command: Vec<String>,
}

fn updated() -> Tree {
    let tree =
        Tree::small().file("js/app.js", "let release = 2;").file("index.html", "<h1>second</h1>");
    let tree = tree
        .file("new/page.html", "<p>new</p>")
        .file("new/deep/x.css", "p { }")
        .link("docs/latest", "v2");
    tree.without("js/vendor/lib.js").without("about.html")
}

/// The paths that are retired when this tree follows the small one.
const RETIRED: [&str; 4] = ["css/site.css", "img/copy.bin", "js/app.js", "js/vendor/lib.js"];

fn retiring() -> Tree {
    RETIRED.iter().fold(Tree::small(), |tree, path| tree.without(path))
}

fn reduced() -> Tree {
    let tree =
        Tree::small().without("old/page.html").without("docs/v1/a.html").without("docs/v2/a.html");
    let tree = tree
        .without("docs/latest")
        .without("about.html")
        .without("img/logo.bin")
        .without("img/copy.bin");
    tree.without("js/app.js").without("js/vendor/lib.js").file("js", "a file now")
}

impl Scenario {
    /// Prepares a mirror in the directory `mirror` of a new sandbox.
    pub(crate) fn new(kind: Kind) -> Self {
        let sandbox = Sandbox::new();
        let mirror = sandbox.path("mirror");
        Self::at(kind, sandbox, mirror)
    }

    /// Prepares a mirror in another directory.
    pub(crate) fn at(kind: Kind, sandbox: Sandbox, mirror: PathBuf) -> Self {
        let place = mirror.to_str().unwrap().to_owned();
        let push = |tree: &Tree| {
            sandbox.write("tree", tree);
            sandbox.run(&["push", &sandbox.path_text("tree"), &place]).expect(&[0]);
        };
        let goal = match kind {
            Kind::FirstPush => Tree::small(),
            Kind::Update => {
                push(&Tree::small().without("css/site.css"));
                push(&Tree::small());
                updated()
            }
            Kind::Deletion => {
                push(&Tree::small());
                reduced()
            }
            Kind::Rollback => {
                push(&Tree::small());
                push(&updated());
                Tree::small()
            }
            Kind::Expire => {
                push(&Tree::small());
                push(&retiring());
                retiring()
            }
            Kind::Prune | Kind::Repair => {
                push(&Tree::small());
                push(&reduced());
                push(&updated());
                updated()
            }
        };
        sandbox.write("tree", &goal);
        if kind == Kind::Repair {
            damage(&mirror);
        }
        let tree = sandbox.path_text("tree");
        let events = sandbox.path_text("events");
        let command: &[&str] = match kind {
            Kind::FirstPush | Kind::Update | Kind::Deletion => {
                &["push", &tree, &place, "--wait", "0s", "--events", &events]
            }
            Kind::Rollback => {
                &["rollback", &place, "--to", "1", "--wait", "0s", "--events", &events]
            }
            Kind::Prune => &["prune", &place, "--keep", "1"],
            Kind::Expire => &["prune", &place],
            Kind::Repair => &["repair", &place, "--from", &tree],
        };
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let (old, faults) = match checker::state(&mirror) {
            Ok(old) => (old, BTreeSet::new()),
            Err(faults) => (None, BTreeSet::from_iter(faults)),
        };
        assert_eq!(faults.is_empty(), kind != Kind::Repair, "{kind:?}: {faults:#?}");
        let kept = checker::records(&mirror).into_keys().collect();
        Self { sandbox, kind, mirror, old, faults, kept, command }
    }

    /// Runs the command, with a fault if one is given.
    pub(crate) fn run(&self, fault: Option<&str>) -> Outcome {
        let arguments: Vec<&str> = self.command.iter().map(|word| &**word).collect();
        // Files that an earlier run left in the cache would be removed and shift the steps.
        let cache = std::fs::read_dir(self.sandbox.path("cache/headwater"));
        for left in cache.into_iter().flatten().flatten() {
            if left.file_name().as_encoded_bytes().starts_with(b"push-") {
                std::fs::remove_dir_all(left.path()).unwrap();
            }
        }
        // Two days later.
        const LATER: &str = "clock+172800";
        match fault {
            Some(fault) if self.kind == Kind::Expire => {
                self.sandbox.run_with_fault(&format!("{LATER},{fault}"), &arguments)
            }
            None if self.kind == Kind::Expire => self.sandbox.run_with_fault(LATER, &arguments),
            Some(fault) => self.sandbox.run_with_fault(fault, &arguments),
            None => self.sandbox.run(&arguments),
        }
    }

    /// Returns how many changes of the disk the command makes.
    pub(crate) fn steps(&self) -> u64 {
        self.run(Some("count")).expect(&[0]).steps()
    }

    /// Returns the same, and the steps that every sweep tries: the first and the last of each
    /// operation, and the activation with the step after it.
    pub(crate) fn steps_and_named(&self) -> (u64, BTreeSet<u64>) {
        let outcome = self.run(Some("count")).expect(&[0]);
        let operations = outcome.operations();
        assert_eq!(operations.len() as u64, outcome.steps(), "{outcome}");
        let (mut first, mut last, mut named) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for (step, (operation, path)) in &operations {
            first.entry(operation).or_insert(*step);
            last.insert(operation, *step);
            if path.ends_with("mirror/current") {
                named.extend([*step, *step + 1]);
            }
        }
        named.extend(first.into_values().chain(last.into_values()));
        (outcome.steps(), named)
    }

    /// Returns which release is served, if it is one complete release: the old or the new one.
    pub(crate) fn check_served(&self) -> Result<Found, Faults> {
        if self.kind == Kind::Repair {
            return self.check_repair();
        }
        let served = match checker::state(&self.mirror)? {
            None if self.kind == Kind::FirstPush => return Ok(Found::Nothing),
            None => return Err(vec!["current: gone".into()]),
            Some(served) => served,
        };
        if self.kind == Kind::Expire {
            return self.check_expiry(&served);
        }
        if self.kind == Kind::Prune {
            let is_old = self.old.as_ref() == Some(&served);
            return if is_old {
                Ok(Found::New)
            } else {
                Err(vec![format!("serves {}", served.name)])
            };
        }
        if self.old.as_ref() == Some(&served) {
            return Ok(Found::Old);
        }
        let before = self.old.as_ref().map_or(0, |old| old.record.sequence);
        // A sequence that was staged and not activated is not used again.
        if served.record.sequence <= before {
            return Err(vec![format!("serves {} after sequence {before}", served.name)]);
        }
        checker::check_equals_tree(&served, &self.sandbox.path("tree")).map(|()| Found::New)
    }

    /// Like [`Scenario::check_served`], but the release that the last run reported as current must
    /// be served.
    pub(crate) fn check_reported(&self, outcome: &Outcome) -> Result<Found, Faults> {
        let side = self.check_served()?;
        let is_reported =
            events(&self.sandbox.path("events")).iter().any(|event| event["event"] == "activated");
        if side != Found::New && (is_reported || outcome.code() == Some(0)) {
            return Err(vec![format!("reported as current, but found {side:?}")]);
        }
        Ok(side)
    }

    /// Checks that the release stays, and that only retired entries are missing.
    fn check_expiry(&self, served: &Served) -> Result<Found, Faults> {
        if self.old.as_ref() != Some(served) {
            return Err(vec![format!("serves {}", served.name)]);
        }
        let is_there =
            |path: &&str| self.mirror.join("current").join(path).symlink_metadata().is_ok();
        let directories = ["css", "js/vendor", "js"];
        Ok(if RETIRED.iter().chain(&directories).any(is_there) { Found::Old } else { Found::New })
    }

    /// Checks that the repair damaged nothing that was intact.
    fn check_repair(&self) -> Result<Found, Faults> {
        match checker::state(&self.mirror) {
            Ok(Some(_)) => Ok(Found::New),
            Ok(None) => Err(vec!["current: gone".into()]),
            Err(faults) if faults.iter().all(|fault| self.faults.contains(fault)) => Ok(Found::Old),
            Err(faults) => {
                Err(faults.into_iter().filter(|fault| !self.faults.contains(fault)).collect())
            }
        }
    }

    /// Runs the interrupted command again: it must succeed at once (no stale lock, no repair) and
    /// complete the operation.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let interrupted = checker::state(&self.mirror).ok().flatten().map(|served| served.name);
        let outcome = self.run(None);
        if outcome.code() != Some(0) {
            return Err(format!("the next run failed: {outcome}"));
        }
        match self.check_served() {
            Ok(Found::New) => {}
            other => return Err(format!("after the next run: {other:#?}\n{outcome}")),
        }
        let served =
            checker::check_store(&self.mirror).expect("the result was checked before").name;
        let known = |name: &String| {
            *name == served || self.kept.contains(name) || Some(name) == interrupted.as_ref()
        };
        match checker::records(&self.mirror).into_keys().find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => Err(format!("{name} is kept and was never served\n{outcome}")),
        }
    }
}

/// Flips a byte of one object (and so of the slots that share its inode) and removes another
/// object.
fn damage(mirror: &Path) {
    let objects = mirror.join(".headwater/objects");
    let place = |bytes: &[u8]| {
        let id = blake3::hash(bytes).to_hex();
        objects.join(&id[..2]).join(id.as_str())
    };
    let victim = place(b"<h1>second</h1>");
    let before = fs::metadata(&victim).unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&victim, "<h1>sECOND</h1>").unwrap();
    fs::File::open(&victim).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(&victim, before.permissions()).unwrap();
    fs::remove_file(place(b"<p>new</p>")).unwrap();
}
