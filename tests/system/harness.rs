//! Runs the program in a temporary directory with its own home, cache, trees and mirrors, and
//! without the environment of the caller.

#[cfg(debug_assertions)]
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use tempfile::TempDir;

use crate::checker::{self, Served};
use crate::sandbox;
use crate::trees::Tree;

/// The directory of one test, with a home, a cache, trees and mirrors.
#[derive(Debug)]
pub(crate) struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    /// Creates an empty sandbox.
    pub(crate) fn new() -> Self {
        let sandbox = Self { dir: sandbox::directory() };
        for name in ["home", "cache"] {
            fs::create_dir(sandbox.path(name)).unwrap();
        }
        sandbox
    }

    /// Returns the path of a file in the sandbox.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the same as text, for arguments.
    pub(crate) fn path_text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    /// Writes a content tree.
    pub(crate) fn write(&self, name: &str, tree: &Tree) {
        tree.write_to(&self.path(name));
    }

    /// Returns the program with the environment of this sandbox.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        self.isolate(&mut command);
        command.args(arguments);
        command
    }

    /// Gives a command the environment of this sandbox and nothing else: no CI variables, no
    /// locale.
    pub(crate) fn isolate(&self, command: &mut Command) {
        sandbox::isolate(command, self.dir.path(), "cache");
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments))
    }

    /// Runs the program with a fault (debug builds only).
    pub(crate) fn run_with_fault(&self, fault: &str, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).env("HEADWATER_FAULT", fault))
    }

    /// Pushes a tree to mirrors, all named relative to this sandbox.
    pub(crate) fn push(&self, tree: &str, mirrors: &[&str], flags: &[&str]) -> Outcome {
        let places: Vec<String> =
            std::iter::once(&tree).chain(mirrors).map(|name| self.path_text(name)).collect();
        let arguments: Vec<&str> =
            std::iter::once("push").chain(places.iter().map(|place| &**place)).collect();
        self.run(&[&arguments, flags].concat())
    }

    /// Writes a tree, pushes it to mirrors, and asserts that the push succeeds and that they serve
    /// it.
    pub(crate) fn publish(&self, tree: &Tree, mirrors: &[&str], flags: &[&str]) -> Served {
        self.write("tree", tree);
        self.push("tree", mirrors, flags).expect(&[0]);
        let served: Vec<Served> = mirrors.iter().map(|mirror| self.served(mirror)).collect();
        for served in &served {
            checker::check_equals_tree(served, &self.path("tree")).unwrap();
        }
        served.into_iter().next().expect("a mirror")
    }

    /// Checks a mirror completely and returns what it serves.
    pub(crate) fn served(&self, mirror: &str) -> Served {
        checker::check_store(&self.path(mirror))
            .unwrap_or_else(|faults| panic!("{mirror}: {faults:#?}"))
    }

    /// Saves a copy of `name` (with hard links, times and modes) for [`Sandbox::restore`].
    pub(crate) fn save(&self, name: &str) {
        copy(&self.path(name), &self.path(format!("saved-{name}")));
    }

    /// Restores `name` from the saved copy.
    pub(crate) fn restore(&self, name: &str) {
        copy(&self.path(format!("saved-{name}")), &self.path(name));
    }
}

/// Makes `to` a copy of `from`, with hard links, times and modes. Removes `to` if there is no
/// `from`.
pub(crate) fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    if from.exists() {
        shell("cp", &["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
    }
}

/// Runs a program of the system, which must succeed.
pub(crate) fn shell(program: &str, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    what: String,
    status: ExitStatus,
    /// What it wrote to stdout.
    pub(crate) stdout: String,
    /// What it wrote to stderr.
    pub(crate) stderr: String,
}

impl Outcome {
    /// Runs `command` to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self::from(format!("{command:?}"), output)
    }

    /// Takes the result of a process that was started elsewhere.
    pub(crate) fn from(what: String, output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Self {
            what,
            status: output.status,
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Returns the exit code; `None` if a signal ended the process.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether SIGKILL ended the process.
    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    /// Asserts that the exit code is one of these.
    #[track_caller]
    pub(crate) fn expect(self, codes: &[i32]) -> Self {
        assert!(
            self.code().is_some_and(|code| codes.contains(&code)),
            "expected exit code {codes:?}: {self}"
        );
        self
    }

    /// Returns the number of steps of a run with the fault `count`.
    #[cfg(debug_assertions)]
    pub(crate) fn steps(&self) -> u64 {
        let line = self.stderr.lines().find_map(|line| line.strip_prefix("steps: "));
        line.unwrap_or_else(|| panic!("the number of steps was not printed: {self}"))
            .trim()
            .parse()
            .unwrap()
    }

    /// Returns the operation and the path of each step of a run with the fault `count`, by its
    /// number.
    #[cfg(debug_assertions)]
    pub(crate) fn operations(&self) -> BTreeMap<u64, (String, PathBuf)> {
        let parse = |line: &str| {
            let (number, what) = line.strip_prefix("step ")?.split_once(": ")?;
            let (operation, path) = what.split_at(what.find(" /")?);
            Some((number.parse().ok()?, (operation.to_owned(), PathBuf::from(path.trim_start()))))
        };
        self.stderr.lines().filter_map(parse).collect()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}", self.what, self.status)?;
        writeln!(f, "--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// Returns the events in a file that `--events` wrote, without a last line that a kill has
/// truncated.
pub(crate) fn events(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Returns the visible state of a tree of files: names, kinds, times, number of links, bytes.
pub(crate) fn fingerprint(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = root.symlink_metadata().unwrap();
    // ctime changes with every chmod, link, rename and write, even with those that restore the
    // rest.
    let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let mut lines =
        vec![format!("{} {:o} {} {times:?}", root.display(), meta.mode(), meta.nlink())];
    if meta.is_dir() {
        let mut names: Vec<PathBuf> =
            fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        lines.extend(names.iter().flat_map(|name| fingerprint(name)));
    } else if meta.is_file() {
        lines.push(blake3::hash(&fs::read(root).unwrap()).to_hex().to_string());
    }
    lines
}
