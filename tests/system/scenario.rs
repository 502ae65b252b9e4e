//! Scenarios for interruptions: a command on a mirror in a known state, and the allowed states
//! after it. The tests of kills, errors and power cuts share them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::checker::{self, Faults, Served};
use crate::harness::{Outcome, World, events};
use crate::trees::Tree;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The mirror does not exist yet.
    FirstPush,
    /// Edits, additions, a moved link; the idle slot has the release before.
    Update,
    /// Most files go, a directory becomes a file; the idle slot is the spare of the first push.
    Deletion,
    /// Back to the release before.
    Rollback,
    /// All but the current release go.
    Prune,
    /// Retired files whose time is over are served no more.
    Expire,
    /// A flipped byte and a missing object.
    Repair,
}

/// What a mirror was found to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Nothing was ever served.
    Nothing,
    /// The release from before, untouched.
    Old,
    /// What the command was to bring about.
    New,
}

/// A prepared world.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// Where it takes place.
    pub(crate) world: World,
    /// What is done.
    pub(crate) kind: Kind,
    /// The mirror.
    pub(crate) mirror: PathBuf,
    /// What the mirror served before.
    pub(crate) old: Option<Served>,
    /// What was wrong with it before.
    faults: BTreeSet<String>,
    /// The releases that it kept.
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

/// What is retired when this follows the small tree.
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
    /// Prepares the mirror at `world`/mirror.
    pub(crate) fn new(kind: Kind) -> Self {
        let world = World::new();
        let mirror = world.path("mirror");
        Self::at(kind, world, mirror)
    }

    /// Prepares a mirror elsewhere.
    pub(crate) fn at(kind: Kind, world: World, mirror: PathBuf) -> Self {
        let place = mirror.to_str().unwrap().to_owned();
        let push = |tree: &Tree| {
            world.write("tree", tree);
            world.run(&["push", &world.at("tree"), &place]).expect(&[0]);
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
        world.write("tree", &goal);
        if kind == Kind::Repair {
            damage(&mirror);
        }
        let tree = world.at("tree");
        let events = world.at("events");
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
        Self { world, kind, mirror, old, faults, kept, command }
    }

    /// Runs the command, with a fault armed if one is given.
    pub(crate) fn run(&self, fault: Option<&str>) -> Outcome {
        let arguments: Vec<&str> = self.command.iter().map(|word| &**word).collect();
        // What an earlier run left in the cache is swept up: that would move the steps.
        for place in
            std::fs::read_dir(self.world.path("cache/headwater")).into_iter().flatten().flatten()
        {
            for left in std::fs::read_dir(place.path()).into_iter().flatten().flatten() {
                if left.file_name().as_encoded_bytes().starts_with(b"push-") {
                    std::fs::remove_dir_all(left.path()).unwrap();
                }
            }
        }
        // Two days later.
        const LATER: &str = "clock+172800";
        match fault {
            Some(fault) if self.kind == Kind::Expire => {
                self.world.run_with_fault(&format!("{LATER},{fault}"), &arguments)
            }
            None if self.kind == Kind::Expire => self.world.run_with_fault(LATER, &arguments),
            Some(fault) => self.world.run_with_fault(fault, &arguments),
            None => self.world.run(&arguments),
        }
    }

    /// How many changes of the disk the command makes.
    pub(crate) fn steps(&self) -> u64 {
        self.run(Some("count")).expect(&[0]).steps()
    }

    /// The same, and the steps that every sweep tries: the first and the last of each operation,
    /// and the switch with the step behind it.
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

    /// What is served now, if that is one complete release: the old or the new one.
    pub(crate) fn judge(&self) -> Result<Side, Faults> {
        if self.kind == Kind::Repair {
            return self.judge_repair();
        }
        let served = match checker::state(&self.mirror)? {
            None if self.kind == Kind::FirstPush => return Ok(Side::Nothing),
            None => return Err(vec!["current: gone".into()]),
            Some(served) => served,
        };
        if self.kind == Kind::Expire {
            return self.judge_expiry(&served);
        }
        if self.kind == Kind::Prune {
            let is_old = self.old.as_ref() == Some(&served);
            return if is_old {
                Ok(Side::New)
            } else {
                Err(vec![format!("serves {}", served.name)])
            };
        }
        if self.old.as_ref() == Some(&served) {
            return Ok(Side::Old);
        }
        let before = self.old.as_ref().map_or(0, |old| old.record.sequence);
        // A sequence that was staged and not activated is not given again.
        if served.record.sequence <= before {
            return Err(vec![format!("serves {} after sequence {before}", served.name)]);
        }
        checker::check_equals_tree(&served, &self.world.path("tree")).map(|()| Side::New)
    }

    /// As [`Scenario::judge`], but what the last run told to be current must be served.
    pub(crate) fn judge_told(&self, outcome: &Outcome) -> Result<Side, Faults> {
        let side = self.judge()?;
        let is_told =
            events(&self.world.path("events")).iter().any(|event| event["event"] == "activated");
        if side != Side::New && (is_told || outcome.code() == Some(0)) {
            return Err(vec![format!("told to be current, and it is {side:?}")]);
        }
        Ok(side)
    }

    /// The release stays; of what is retired all or some is still there, or nothing.
    fn judge_expiry(&self, served: &Served) -> Result<Side, Faults> {
        if self.old.as_ref() != Some(served) {
            return Err(vec![format!("serves {}", served.name)]);
        }
        let is_there =
            |path: &&str| self.mirror.join("current").join(path).symlink_metadata().is_ok();
        let directories = ["css", "js/vendor", "js"];
        Ok(if RETIRED.iter().chain(&directories).any(is_there) { Side::Old } else { Side::New })
    }

    /// A repair never damages anything that was sound.
    fn judge_repair(&self) -> Result<Side, Faults> {
        match checker::state(&self.mirror) {
            Ok(Some(_)) => Ok(Side::New),
            Ok(None) => Err(vec!["current: gone".into()]),
            Err(faults) if faults.iter().all(|fault| self.faults.contains(fault)) => Ok(Side::Old),
            Err(faults) => {
                Err(faults.into_iter().filter(|fault| !self.faults.contains(fault)).collect())
            }
        }
    }

    /// Does again what was interrupted: it must succeed at once (no stale lock, no repair) and be
    /// complete.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let interrupted = checker::state(&self.mirror).ok().flatten().map(|served| served.name);
        let outcome = self.run(None);
        if outcome.code() != Some(0) {
            return Err(format!("the next run failed: {outcome}"));
        }
        match self.judge() {
            Ok(Side::New) => {}
            other => return Err(format!("after the next run: {other:#?}\n{outcome}")),
        }
        let served = checker::check_store(&self.mirror).expect("it was judged").name;
        let known = |name: &String| {
            *name == served || self.kept.contains(name) || Some(name) == interrupted.as_ref()
        };
        match checker::records(&self.mirror).into_keys().find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => Err(format!("{name} is kept and was never served\n{outcome}")),
        }
    }
}

/// Flips a byte of one object (and so of the slots that share its inode) and removes another.
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
