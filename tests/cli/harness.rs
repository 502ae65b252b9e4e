//! A separate directory for each test, in which the program runs with its own home and cache, and
//! without the variables that a CI sets.
//!
//! Every run is checked: its output contains no terminal control sequences, and with `--json`
//! stdout is one object whose exit code equals that of the process.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::sandbox;
use crate::terminal::Terminal;

/// The files of [`Workspace::with_tree`].
pub(crate) const TREE: [(&str, &str); 5] = [
    ("app.js", "console.log(1)\n"),
    ("assets/deep/er/logo.svg", "<svg/>\n"),
    ("assets/style.css", "body { color: red }\n"),
    ("docs/a.html", "<h1>a</h1>\n"),
    ("index.html", "<h1>hello</h1>\n"),
];

/// The id of the user nobody, and of the group.
const NOBODY: u32 = 65_534;
/// The copy of the program in a workspace, for other users.
const PROGRAM_COPY: &str = "headwater-copy";

/// A directory in which the program runs.
pub(crate) struct Workspace {
    dir: TempDir,
}

impl Workspace {
    /// Creates an empty workspace.
    pub(crate) fn new() -> Self {
        Self { dir: sandbox::directory() }
    }

    /// Creates a workspace with a small content tree in `tree`.
    pub(crate) fn with_tree() -> Self {
        let workspace = Self::new();
        TREE.iter().for_each(|(path, content)| workspace.write(&format!("tree/{path}"), content));
        workspace
    }

    /// Creates a workspace with the tree pushed to `./www`.
    pub(crate) fn with_mirror() -> Self {
        let workspace = Self::with_tree();
        workspace.ok("push tree ./www");
        workspace
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes a file and creates the directories above it.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.path(path);
        let is_dir = path.symlink_metadata().unwrap().is_dir();
        if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    pub(crate) fn mkdir(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::create_dir_all(self.path(to).parent().unwrap()).unwrap();
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub(crate) fn link(&self, target: &str, path: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    pub(crate) fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn meta(&self, path: &str) -> fs::Metadata {
        self.path(path).symlink_metadata().unwrap()
    }

    /// Overwrites a read-only file in place: its inode stays.
    pub(crate) fn tamper(&self, path: &str, content: &str) {
        let mode = self.meta(path).mode();
        self.chmod(path, 0o644);
        fs::write(self.path(path), content).unwrap();
        self.chmod(path, mode & 0o7777);
    }

    /// Returns the program with the environment of this workspace.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command.args(args);
        self.isolate(&mut command);
        command
    }

    /// Returns a shell command line with the program in its PATH and the environment of this
    /// workspace.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        self.isolate(&mut command);
        let program = Path::new(env!("CARGO_BIN_EXE_headwater")).parent().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::iter::once(program.to_owned()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(directories).unwrap());
        command
    }

    fn isolate(&self, command: &mut Command) {
        sandbox::isolate(command, self.dir.path(), "home/cache");
    }

    /// Runs a command line, split at spaces.
    pub(crate) fn run(&self, line: &str) -> Run {
        self.args(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs with these arguments.
    pub(crate) fn args(&self, args: &[&str]) -> Run {
        Run::new(args, &self.command(args).output().unwrap())
    }

    /// Runs a command line with additional environment variables.
    pub(crate) fn run_with(&self, variables: &[(&str, &str)], line: &str) -> Run {
        let args: Vec<&str> = line.split_whitespace().collect();
        Run::new(&args, &self.command(&args).envs(variables.iter().copied()).output().unwrap())
    }

    /// Runs a command line as a user to whom permissions apply: as the user nobody, who becomes the
    /// owner of this workspace, if the tests run as root; else as the current user.
    pub(crate) fn run_unprivileged(&self, line: &str) -> Run {
        if !is_root() {
            return self.run(line);
        }
        self.give_to(NOBODY);
        self.run_as_nobody(line)
    }

    /// Makes the user `uid` the owner of this workspace and of the program. Only root can.
    pub(crate) fn give_to(&self, uid: u32) {
        self.copy_program();
        walk(self.dir.path(), &mut |path, _| {
            std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
        });
    }

    /// Runs a command line as the user nobody, who can read this workspace. Only root can.
    pub(crate) fn run_as_nobody(&self, line: &str) -> Run {
        self.run_as(NOBODY, &[], line)
    }

    /// Runs a command line as the user `uid`, with the program `runner` and its arguments in front
    /// of it if `runner` is not empty. Only root can.
    pub(crate) fn run_as(&self, uid: u32, runner: &[&str], line: &str) -> Run {
        self.copy_program();
        self.chmod("", 0o755);
        let args: Vec<&str> = line.split_whitespace().collect();
        let mut words = runner.iter().map(PathBuf::from).chain([self.path(PROGRAM_COPY)]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(&args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .uid(uid)
            .gid(uid);
        for (name, value) in self.command(&args).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Run::new(&args, &command.output().unwrap())
    }

    /// Copies the program, because other users cannot reach the target directory.
    fn copy_program(&self) {
        let copy = self.path(PROGRAM_COPY);
        if !copy.exists() {
            // Uses `cp`: another test that starts a process just then would inherit a file that is
            // open for writing here (ETXTBSY).
            let copied = Command::new("cp")
                .arg(env!("CARGO_BIN_EXE_headwater"))
                .arg(&copy)
                .status()
                .unwrap();
            assert!(copied.success());
        }
    }

    /// Starts a command line on a terminal with this number of columns.
    pub(crate) fn on_terminal(&self, columns: u16, line: &str) -> Terminal {
        Terminal::start(self.command(&line.split_whitespace().collect::<Vec<_>>()), columns)
    }

    /// Starts a command line and does not wait for it.
    pub(crate) fn start(&self, line: &str) -> Child {
        let args: Vec<&str> = line.split_whitespace().collect();
        self.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a push that writes its events to `events.jsonl`, and waits until it has staged a
    /// mirror.
    pub(crate) fn start_until_staged(&self, line: &str) -> Child {
        let mut child = self.start(&format!("{line} --events events.jsonl"));
        while !fs::read_to_string(self.path("events.jsonl"))
            .unwrap_or_default()
            .contains("\"staged\"")
        {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the push ended before it staged a mirror"
            );
            std::thread::yield_now();
        }
        child
    }

    /// Runs a command line that must succeed.
    pub(crate) fn ok(&self, line: &str) -> Run {
        self.run(line).code(0)
    }

    /// Runs a command line with `--json` and returns the object.
    pub(crate) fn json(&self, line: &str, code: i32) -> Value {
        self.run(&format!("{line} --json")).code(code).json()
    }

    /// Runs a command line with `--events` and returns the events, without the header.
    pub(crate) fn events(&self, line: &str, code: i32) -> Vec<Value> {
        self.run(&format!("{line} --events events.jsonl")).code(code);
        let lines = self.read("events.jsonl");
        lines.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the kept releases of a mirror, as in `releases --json`, in ascending order.
    pub(crate) fn releases(&self, mirror: &str) -> Vec<Value> {
        let answer = self.json(&format!("releases {mirror}"), 0);
        answer["mirrors"][0]["releases"].as_array().unwrap().clone()
    }

    /// Returns the sequence to which `current` of a mirror points.
    pub(crate) fn current(&self, mirror: &str) -> u64 {
        let target = fs::read_link(self.path(&format!("{mirror}/current"))).unwrap();
        let name = target.to_str().unwrap().strip_prefix(".headwater/slots/").unwrap().to_owned();
        name.split_once('-').unwrap().0.parse().unwrap()
    }

    /// Returns everything below a directory: files with their content, links with their target.
    pub(crate) fn files(&self, path: &str) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        walk(&self.path(path).join(""), &mut |path, meta| {
            let content = match meta.is_symlink() {
                true => format!("-> {}", fs::read_link(path).unwrap().display()),
                false if meta.is_file() => {
                    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
                }
                false => return,
            };
            files.insert(path.to_string_lossy().into_owned(), content);
        });
        let root = self.path(path).join("").to_string_lossy().into_owned();
        files.into_iter().map(|(path, content)| (path[root.len()..].to_owned(), content)).collect()
    }

    /// Returns what a visitor of a mirror gets.
    pub(crate) fn served(&self, mirror: &str) -> BTreeMap<String, String> {
        self.files(&format!("{mirror}/current"))
    }

    /// Returns content and metadata of everything below a path, except access times.
    pub(crate) fn fingerprint(&self, path: &str) -> Vec<String> {
        let mut lines = Vec::new();
        walk(&self.path(path), &mut |path, meta| {
            let content = match (meta.is_symlink(), meta.is_file()) {
                (true, _) => format!("-> {}", fs::read_link(path).unwrap().display()),
                (_, true) => blake3::hash(&fs::read(path).unwrap()).to_hex().to_string(),
                _ => String::new(),
            };
            let (path, mode, inode) = (path.display(), meta.mode(), meta.ino());
            let time = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
            lines.push(format!(
                "{path} {mode:o} {inode} {} {} {time:?} {content}",
                meta.nlink(),
                meta.len()
            ));
        });
        lines
    }

    /// Returns the files of a store whose path below `.headwater` starts with `prefix`, sorted.
    pub(crate) fn inside(&self, mirror: &str, prefix: &str) -> Vec<String> {
        let store = format!("{mirror}/.headwater");
        let files = self.files(&store);
        files
            .keys()
            .filter(|path| path.starts_with(prefix))
            .map(|path| format!("{store}/{path}"))
            .collect()
    }

    /// Returns the path of the object with this content.
    pub(crate) fn object(&self, mirror: &str, content: &str) -> String {
        let id = blake3::hash(content.as_bytes()).to_hex().to_string();
        format!("{mirror}/.headwater/objects/{}/{id}", &id[..2])
    }
}

fn walk(path: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let Ok(meta) = path.symlink_metadata() else { return };
    visit(path, &meta);
    if meta.is_dir() {
        let mut entries: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| walk(entry, visit));
    }
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Run {
    line: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Takes the result of a run with `args`, and checks what must hold for every run.
    pub(crate) fn new(args: &[&str], output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the output is UTF-8");
        let run = Self {
            line: args.join(" "),
            // A run ended by a signal has no exit code.
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        let steers = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{202a}'..='\u{202e}');
        // Completions and manual pages are programs for a shell and for man.
        if !matches!(args.first(), Some(&("completions" | "man"))) {
            assert!(
                !run.stdout.contains(steers) && !run.stderr.contains(steers),
                "{}",
                run.describe()
            );
        }
        assert!(!run.stderr.contains("panicked"), "{}", run.describe());
        if args.contains(&"--json") && run.code >= 0 && run.code != 2 {
            assert_eq!(run.stdout.lines().count(), 1, "{}", run.describe());
            let code = run.json()["exit_code"].clone();
            assert!(code.is_null() || code == run.code, "{}", run.describe());
        }
        run
    }

    fn describe(&self) -> String {
        let Self { line, code, stdout, stderr } = self;
        format!("headwater {line}\nended with {code}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "expected exit code {code}: {}", self.describe());
        self
    }

    /// Returns the one object on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.describe()));
        assert!(value.is_object(), "{}", self.describe());
        value
    }

    /// Asserts that stdout contains these words.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.stdout.contains(words), "expected {words:?} on stdout: {}", self.describe());
        self
    }

    /// Asserts that stderr contains these words.
    #[track_caller]
    pub(crate) fn warns(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "expected {words:?} on stderr: {}", self.describe());
        self
    }
}

/// Returns the events of one kind.
pub(crate) fn of_kind<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

/// Whether the tests run as root, to whom permissions do not apply.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns one field of each row of a JSON array as text: `column(&answer["changes"], "path")`.
pub(crate) fn column(rows: &Value, key: &str) -> Vec<String> {
    let rows = rows.as_array().unwrap_or_else(|| panic!("no array: {rows}"));
    rows.iter()
        .map(|row| row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned))
        .collect()
}

/// Asserts that a push ends with `code`, prints `words` on stderr, and leaves the mirror unchanged.
#[track_caller]
pub(crate) fn assert_refused(workspace: &Workspace, line: &str, code: i32, words: &str) -> Run {
    let before = workspace.fingerprint("www");
    let run = workspace.run(line).code(code).warns(words).warns("hint: ");
    assert_eq!(run.stdout, "");
    assert_eq!(workspace.json(line, code)["exit_code"], code);
    assert_eq!(workspace.fingerprint("www"), before);
    run
}
