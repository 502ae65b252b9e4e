//! A command that is given lines on its standard input, a time limit and no way to hang us.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// What is kept of its standard error, in bytes.
const MAX_SAID_BYTES: u64 = 16 * 1024;

/// A command to run.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The program and its arguments; no shell is between.
    pub command: &'a [String],
    /// Variables beside those that we have.
    pub variables: &'a [(&'a str, String)],
    /// What it reads.
    pub input: &'a str,
    /// How long it may take, with all that it starts.
    pub limit: Duration,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("it cannot be run")]
    Run(#[source] io::Error),
    /// It failed.
    #[error("{status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The last line that it wrote to standard error.
        said: String,
    },
    /// It did not end in time and was killed, with all that it had started.
    #[error("it did not end within {} s and was killed", limit.as_secs_f32())]
    Timeout {
        /// The time that it had.
        limit: Duration,
    },
}

/// Runs a command and waits for its end. It has a process group of its own, which is killed when its time is over.
///
/// # Errors
/// When it cannot be started, fails, or does not end in time.
pub fn run(order: &Order<'_>) -> Result<(), CommandError> {
    let (program, arguments) =
        order.command.split_first().ok_or_else(|| CommandError::Run(io::ErrorKind::InvalidInput.into()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(order.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        // Ours has the report and nothing else.
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(CommandError::Run)?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let stdin = child.stdin.take();
    let input = order.input.as_bytes().to_vec();
    // It need not read what it is given; it gets the end of it all the same.
    std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input).ok()));
    let (sender, ended) = mpsc::channel();
    // What it started may keep its standard error open: nobody waits for this thread then.
    std::thread::spawn(move || sender.send(wait(child)).ok());
    let Ok(heard) = ended.recv_timeout(order.limit) else {
        // It may have ended by itself meanwhile; then there is nothing to kill.
        group.map(|group| kill_process_group(group, Signal::KILL).ok());
        return Err(CommandError::Timeout { limit: order.limit });
    };
    let (status, said) = heard.map_err(CommandError::Run)?;
    if status.success() { Ok(()) } else { Err(CommandError::Failed { status, said }) }
}

fn wait(mut child: Child) -> io::Result<(ExitStatus, String)> {
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = stderr;
        (&mut stderr).take(MAX_SAID_BYTES).read_to_end(&mut said)?;
        // What is over that is read too, so that it does not wait for us.
        io::copy(&mut stderr, &mut io::sink())?;
    }
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Ok((child.wait()?, last.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &str, limit: Duration) -> Result<(), CommandError> {
        let command = ["sh", "-c", script].map(str::to_owned);
        run(&Order { command: &command, variables: &[("WHAT", "docs".to_owned())], input, limit })
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn it_reads_its_lines_and_tells_how_it_failed() {
        sh("test \"$(cat)\" = 'a\nb' && test $WHAT = docs", "a\nb\n", LONG).unwrap();
        let error = sh("echo one >&2; echo two >&2; exit 7", "", LONG).unwrap_err().to_string();
        assert!(error.contains('7') && error.ends_with(": two"), "{error}");
        // One that reads nothing, and one that says much.
        sh("true", &"x\n".repeat(500_000), LONG).unwrap();
        sh("head -c 1000000 /dev/zero >&2", "", LONG).unwrap();
        let none = ["/no/such/program".to_owned()];
        let order = Order { command: &none, variables: &[], input: "", limit: LONG };
        assert!(matches!(run(&order), Err(CommandError::Run(_))));
        assert!(matches!(run(&Order { command: &[], ..order }), Err(CommandError::Run(_))));
    }

    #[test]
    fn one_that_never_ends_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let script = format!("sh -c 'exec 3>{0}; exec sleep 600' & exec 3>{0}; sleep 600", fifo.display());
        let opened = std::thread::spawn({
            let fifo = fifo.clone();
            // Ends when nobody has it open for writing any more.
            move || io::copy(&mut std::fs::File::open(fifo).unwrap(), &mut io::sink()).unwrap()
        });
        let error = sh(&script, "", Duration::from_millis(400)).unwrap_err();
        assert!(matches!(error, CommandError::Timeout { .. }), "{error}");
        assert_eq!(opened.join().unwrap(), 0);
    }
}
