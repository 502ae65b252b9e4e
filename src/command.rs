//! Runs a user-supplied command with limits on its running time and output. The command cannot
//! prompt, and it cannot make this process hang.
//!
//! This module does not interpret the output.

use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::cancel::CANCEL_POLL_INTERVAL;

/// How many of the last bytes of standard error are kept.
// Only its last line is shown, and a command that writes endlessly must not fill memory.
pub(crate) const STDERR_TAIL_BYTES: usize = 1024;

/// The environment variable that holds the token for mirrors without a token of their own.
pub const TOKEN_VARIABLE: &str = "HEADWATER_TOKEN";

/// Removes secrets from the environment of a command: the command inherits neither
/// [`TOKEN_VARIABLE`] nor the variables that a configuration names as sources of tokens.
pub(crate) fn withhold_secrets(command: &mut Command, variables: &[String]) {
    for name in variables.iter().map(String::as_str).chain([TOKEN_VARIABLE]) {
        command.env_remove(name);
    }
}

/// A command to run.
#[derive(Debug, Clone, Copy)]
pub struct CommandSpec<'a> {
    /// The program and its arguments; no shell is involved.
    pub command: &'a [String],
    /// The working directory.
    pub directory: &'a Path,
    /// Environment variables to add to those of this process.
    pub variables: &'a [(&'a str, String)],
    /// Environment variables that the command does not inherit, besides [`TOKEN_VARIABLE`].
    pub secret_variables: &'a [String],
    /// The command's standard input.
    pub input: &'a str,
    /// Maximum bytes of output. Further output is cut off. If 0, all output is discarded.
    pub max_output_bytes: u64,
    /// Time limit for the command and all processes that it starts.
    pub timeout: Duration,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command could not be started.
    #[error("it cannot be run")]
    Run(#[source] io::Error),
    /// The command ended with an error.
    #[error("{status}{}{stderr_text}", if stderr_text.is_empty() { "" } else { ": " })]
    Failed {
        /// The exit status.
        status: ExitStatus,
        /// The last line of its standard error.
        stderr_text: String,
    },
    /// The command did not end in time and was killed, with all processes that it started.
    #[error("it did not end within {} s and was killed", limit.as_secs_f32())]
    Timeout {
        /// The time limit.
        limit: Duration,
    },
    /// The command was killed, with all processes that it started, because the run was cancelled.
    #[error("stopped: it was killed")]
    Cancelled,
    /// The output is not valid text.
    #[error("its output is not UTF-8")]
    NotText,
}

/// Runs a command, waits for it to end and returns its output. The command runs in its own process
/// group, which is killed when the time limit has passed.
///
/// # Errors
/// Fails if the command cannot be started, fails, does not end in time, or writes output that is
/// not valid text.
pub fn run(spec: &CommandSpec<'_>) -> Result<String, CommandError> {
    run_cancellable(spec, &|| false)
}

/// Like [`run`], but also kills the command when `is_cancelled` returns true.
///
/// # Errors
/// Fails like [`run`], or with [`CommandError::Cancelled`].
pub fn run_cancellable(
    spec: &CommandSpec<'_>,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<String, CommandError> {
    let (program, arguments) = spec
        .command
        .split_first()
        .ok_or_else(|| CommandError::Run(io::ErrorKind::InvalidInput.into()))?;
    let mut command = Command::new(program);
    withhold_secrets(&mut command, spec.secret_variables);
    let mut child = command
        .args(arguments)
        .current_dir(spec.directory)
        .envs(spec.variables.iter().map(|(name, value)| (name, value)))
        // A pipe even if the input is empty: if its input were the terminal, a command could wait
        // for the user.
        .stdin(Stdio::piped())
        // The standard output of this process is reserved for the report.
        .stdout(if spec.max_output_bytes == 0 { Stdio::null() } else { Stdio::piped() })
        .stderr(Stdio::piped())
        // A process group of its own, so that the time limit also kills the processes that the
        // command started.
        .process_group(0)
        .spawn()
        .map_err(CommandError::Run)?;
    let id = child.id();
    let stdin = child.stdin.take();
    let input = spec.input.as_bytes().to_vec();
    // The command need not read its input, so a write error is ignored. The pipe is closed in any
    // case.
    let writes = Builder::new().spawn(move || stdin.map(|mut stdin| stdin.write_all(&input).ok()));
    let (sender, ended) = mpsc::channel();
    let kept = spec.max_output_bytes;
    // Processes that the command started may keep the pipes open, so this thread is not joined.
    let waits = Builder::new().spawn(move || sender.send(collect_output(child, kept)).ok());
    if let Err(error) = writes.and(waits) {
        // Without both threads, nothing would notice that the command has ended.
        kill_group(id);
        return Err(CommandError::Run(error));
    }
    let ended =
        receive_result(&ended, spec.timeout, is_cancelled).inspect_err(|_| kill_group(id))?;
    let (status, written, stderr_text) = ended.map_err(CommandError::Run)?;
    // A command may fail because its output was cut off, so that is not an error.
    if !status.success() && (kept == 0 || (written.len() as u64) < kept) {
        return Err(CommandError::Failed { status, stderr_text });
    }
    String::from_utf8(written).map_err(|_| CommandError::NotText)
}

fn receive_result<T>(
    ended: &mpsc::Receiver<T>,
    limit: Duration,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<T, CommandError> {
    let began = Instant::now();
    loop {
        let left = limit.saturating_sub(began.elapsed());
        match ended.recv_timeout(left.min(CANCEL_POLL_INTERVAL)) {
            Ok(ended) => return Ok(ended),
            Err(_) if is_cancelled() => return Err(CommandError::Cancelled),
            Err(_) if left.is_zero() => return Err(CommandError::Timeout { limit }),
            Err(_) => {}
        }
    }
}

/// Reads the output of the command until it ends. Returns its exit status, its output, and the last
/// line of its standard error.
fn collect_output(mut child: Child, kept_bytes: u64) -> io::Result<(ExitStatus, Vec<u8>, String)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Both pipes are read at the same time: a command that fills an unread pipe would never end.
    let listener = Builder::new().spawn(move || {
        let stderr_text = Mutex::default();
        if let Some(stderr) = stderr {
            read_tail(stderr, STDERR_TAIL_BYTES, &stderr_text);
        }
        stderr_text.into_inner()
    })?;
    let mut written = Vec::new();
    if let Some(stdout) = stdout {
        // The pipe is then closed, so a command that keeps writing gets SIGPIPE and ends.
        stdout.take(kept_bytes).read_to_end(&mut written)?;
    }
    let stderr_text = listener.join().map_err(|_| io::ErrorKind::Other)?;
    Ok((child.wait()?, written, last_line(&stderr_text)))
}

/// The last non-empty line of standard error.
pub(crate) fn last_line(stderr_text: &[u8]) -> String {
    let stderr_text = String::from_utf8_lossy(stderr_text);
    stderr_text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// Reads `from` to its end and keeps the last `most` bytes in `kept`, which other threads may read
/// at the same time.
pub(crate) fn read_tail(mut from: impl Read, most: usize, kept: &Mutex<Vec<u8>>) {
    let mut some = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut some) {
        let mut kept = kept.lock();
        kept.extend_from_slice(&some[..count]);
        let surplus = kept.len().saturating_sub(most);
        kept.drain(..surplus);
    }
}

/// Kills the process group that the child `id` leads.
pub(crate) fn kill_group(id: u32) {
    let group = i32::try_from(id).ok().and_then(Pid::from_raw);
    // The kill fails if the processes have already ended, which is fine.
    group.map(|group| kill_process_group(group, Signal::KILL).ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &str, limit: Duration) -> Result<String, CommandError> {
        let command = ["sh", "-c", script].map(str::to_owned);
        run(&CommandSpec { timeout: limit, input, ..order(&command) })
    }

    fn order(command: &[String]) -> CommandSpec<'_> {
        CommandSpec {
            command,
            directory: Path::new("/"),
            variables: &[],
            secret_variables: &[],
            input: "",
            max_output_bytes: 1000,
            timeout: LONG,
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn command_reads_stdin_and_reports_how_it_failed() {
        sh("test \"$(cat)\" = 'a\nb'", "a\nb\n", LONG).unwrap();
        let error = sh("echo one >&2; echo two >&2; exit 7", "", LONG).unwrap_err().to_string();
        assert!(error.contains('7') && error.ends_with(": two"), "{error}");
        // One that reads nothing, and one that says much.
        sh("true", &"x\n".repeat(500_000), LONG).unwrap();
        sh("head -c 1000000 /dev/zero >&2", "", LONG).unwrap();
        let much = "seq 100000 >&2; echo the end >&2; exit 1";
        let error = sh(much, "", LONG).unwrap_err().to_string();
        assert!(error.ends_with(": the end"), "{error}");
        let none = ["/no/such/program".to_owned()];
        assert!(matches!(run(&order(&none)), Err(CommandError::Run(_))));
        assert!(matches!(run(&order(&[])), Err(CommandError::Run(_))));
    }

    #[test]
    fn command_output_is_kept_up_to_a_limit() {
        assert_eq!(sh("pwd; cat", "in", LONG).unwrap(), "/\nin");
        assert_eq!(sh("yes", "", LONG).unwrap().len(), 1000);
        assert!(matches!(sh("printf '\\377'", "", LONG), Err(CommandError::NotText)));
        let command = ["sh", "-c", "echo $WHAT; test $WHAT = docs"].map(str::to_owned);
        let variables = [("WHAT", "docs".to_owned())];
        assert_eq!(
            run(&CommandSpec { variables: &variables, ..order(&command) }).unwrap(),
            "docs\n"
        );
        assert_eq!(
            run(&CommandSpec { variables: &variables, max_output_bytes: 0, ..order(&command) })
                .unwrap(),
            ""
        );
    }

    #[test]
    fn command_inherits_no_secrets() {
        // What every process of a test has stands for a secret.
        let command = ["sh", "-c", "echo ${CARGO_MANIFEST_DIR-none}"].map(str::to_owned);
        assert_ne!(run(&order(&command)).unwrap(), "none\n");
        let secret_variables = ["CARGO_MANIFEST_DIR".to_owned()];
        assert_eq!(
            run(&CommandSpec { secret_variables: &secret_variables, ..order(&command) }).unwrap(),
            "none\n"
        );
    }

    #[test]
    fn endless_command_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let script =
            format!("sh -c 'exec 3>{0}; exec sleep 600' & exec 3>{0}; sleep 600", fifo.display());
        let opened = std::thread::spawn({
            let fifo = fifo.clone();
            // Ends when no process has the pipe open for writing.
            move || io::copy(&mut std::fs::File::open(fifo).unwrap(), &mut io::sink()).unwrap()
        });
        let error = sh(&script, "", Duration::from_millis(400)).unwrap_err();
        assert!(matches!(error, CommandError::Timeout { .. }), "{error}");
        assert_eq!(opened.join().unwrap(), 0);
    }
}
