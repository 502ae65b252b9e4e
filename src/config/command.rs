//! Runs the command that lists mirrors: with a time limit, a limit on what it
//! writes, and no way to ask anything.
//!
//! Refuses to know what the output means.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// A list is there after this time, or something hangs.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What is kept of the words of a command that fails, in bytes.
const MAX_SAID_BYTES: u64 = 16 * 1024;

/// Why a command gave nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It did not start, or its end could not be seen.
    #[error("it cannot be run")]
    Run(#[from] io::Error),
    /// It failed.
    #[error("{status}{said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// `: ` and the last line on its standard error, or nothing.
        said: String,
    },
    /// It did not end in time, and was ended.
    #[error("it did not end within {} s", timeout.as_secs_f32())]
    Timeout {
        /// The limit.
        timeout: Duration,
    },
    /// It wrote something else than text.
    #[error("its output is not UTF-8")]
    NotText,
}

/// The standard output of the command `words`, run in `directory`: at most
/// `limit` bytes, behind which it is cut off.
pub(super) fn output(words: &[String], directory: &Path, limit: u64) -> Result<String, CommandError> {
    output_within(words, directory, limit, TIMEOUT)
}

fn output_within(words: &[String], directory: &Path, limit: u64, timeout: Duration) -> Result<String, CommandError> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::NotFound).map_err(io::Error::from)?;
    let child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (sender, ended) = mpsc::channel();
    // What it started may keep the pipes open for ever: then nobody waits for this thread.
    std::thread::spawn(move || sender.send(listen(child, limit)).ok());
    let (status, written, said) = match ended.recv_timeout(timeout) {
        Ok(heard) => heard?,
        Err(_) => {
            // It may have ended by itself meanwhile; then there is nothing to end.
            group.map(|group| kill_process_group(group, Signal::KILL).ok());
            return Err(CommandError::Timeout { timeout });
        }
    };
    // One that is cut off may well fail of it.
    if !status.success() && written.len() as u64 <= limit {
        return Err(CommandError::Failed { status, said: last_line(&said) });
    }
    String::from_utf8(written).map_err(|_| CommandError::NotText)
}

/// Takes what the command writes until it ends.
fn listen(mut child: Child, limit: u64) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let words = std::thread::spawn(move || take(stderr, MAX_SAID_BYTES));
    let written = take(stdout, limit + 1)?;
    let said = words.join().map_err(|_| io::ErrorKind::Other)??;
    Ok((child.wait()?, written, said))
}

fn take(pipe: Option<impl Read>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn last_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {}", line.trim())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, timeout: Duration) -> Result<String, CommandError> {
        let words = ["sh", "-c", script].map(str::to_owned);
        output_within(&words, Path::new("/"), 1000, timeout)
    }

    #[test]
    fn output_is_taken_and_every_way_to_fail_has_its_words() {
        let long = Duration::from_secs(20);
        assert_eq!(run("pwd; cat", long).unwrap(), "/\n");
        let failed = run("echo one >&2; echo 'no such fleet' >&2; exit 3", long).unwrap_err().to_string();
        assert!(failed.contains('3') && failed.ends_with(": no such fleet"), "{failed}");
        assert_eq!(run("yes", long).unwrap().len(), 1001);
        assert!(matches!(run("printf '\\377'", long), Err(CommandError::NotText)));
        assert!(matches!(output(&["/no/such".to_owned()], Path::new("/"), 9), Err(CommandError::Run(_))));
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let script = format!("mkfifo {0}; sh -c 'echo up > {0}; exec sleep 600' & cat {0}; wait", fifo.display());
        let error = run(&script, Duration::from_millis(500)).unwrap_err();
        assert_eq!(error.to_string(), "it did not end within 0.5 s");
    }
}
