//! The `ssh` child process: its arguments, its banner and its exit.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cancel::CancelToken;
use crate::command::{read_tail, withhold_secrets};
use crate::mirror::MirrorError;
use crate::mirror::attempt::{AttemptError, CONNECT_TIMEOUT, RetryAction};
use crate::mirror::location::SshUrl;
use crate::mirror::ssh::banner::{self, BannerLine, BannerScan};
use crate::mirror::ssh::{SshSettings, attempt_error};
use crate::mirror::transport_error::TransportError;
use crate::text::Secrets;

/// How often the process checks for a request to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How many of the last bytes of stderr are kept.
const KEPT_BYTES: usize = 8 * 1024;
/// How much of the output of `ssh` an error shows, in characters.
const SHOWN_CHARS: usize = 600;
/// How long `ssh` may take to exit before it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The host alias that the pinned key is stored under, whatever the host is called.
const PINNED_HOST_ALIAS: &str = "headwater-pinned";
/// The text that begins the error message in stderr if the receiver exited with an error.
const RECEIVER_ERROR: &str = ": error: ";

/// A running `ssh`; dropping this value ends it.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    pub(super) stream: UnixStream,
    stderr_tail: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
    cancel: CancelToken,
    /// The file with the pinned key. It is kept open, because ssh reads it through `/proc/PID/fd`.
    pinned: Option<File>,
}

/// Quotes a word for the shell on the remote machine.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn arguments(url: &SshUrl, settings: &SshSettings, pinned: Option<&str>) -> Vec<String> {
    let mut options =
        // A password prompt would wait until the time limit, because no user sees it.
        vec!["BatchMode=yes".to_owned(), format!("ConnectTimeout={}", CONNECT_TIMEOUT.as_secs())];
    // A dead connection is detected after 60 s; without these options ssh would keep the pipe open.
    options.extend(["ServerAliveInterval=15".to_owned(), "ServerAliveCountMax=4".to_owned()]);
    if let Some(file) = pinned {
        options.extend([
            format!("UserKnownHostsFile={file}"),
            // Only the pinned key counts, whatever other files say.
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            // Otherwise ssh would try to add further keys to the pinned one.
            "UpdateHostKeys=no".to_owned(),
            format!("HostKeyAlias={PINNED_HOST_ALIAS}"),
        ]);
    }
    let mut arguments: Vec<String> = settings.command.arguments().to_vec();
    arguments.push("-T".to_owned());
    arguments.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
    if let Some(port) = url.port() {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    let command = format!("{} receive {}", settings.receiver.as_str(), quoted(url.directory()));
    arguments.extend([url.destination(), "--".to_owned(), command]);
    arguments
}

/// Writes the pinned key to an anonymous file. Returns the file and the path where a child reads
/// it.
fn write_known_hosts(key: &str) -> io::Result<(File, String)> {
    // In memory: a killed run leaves no file behind.
    let memory = rustix::fs::memfd_create("known_hosts", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    writeln!(file, "{PINNED_HOST_ALIAS} {key}")?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Ok((file, path))
}

impl Child {
    pub(super) fn start(
        url: &SshUrl,
        settings: &SshSettings,
        cancel: CancelToken,
    ) -> Result<Self, AttemptError> {
        let failed = |what: &str, error: &io::Error| {
            attempt_error(
                TransportError::Ssh { what: format!("{what}: {error}") },
                RetryAction::Never,
            )
        };
        let program = settings.command.program();
        let pinned = settings.host_key.as_deref().map(write_known_hosts).transpose();
        let pinned = pinned.map_err(|error| failed("cannot hand over the host key", &error))?;
        let (stream, other) =
            // A socket, not two pipes: only a socket has timeouts for reads and writes, and can be
            // shut down by another thread.
            UnixStream::pair().map_err(|error| failed("cannot make a socket", &error))?;
        let other = OwnedFd::from(other);
        let second = other.try_clone().map_err(|error| failed("cannot make a socket", &error))?;
        let mut command = Command::new(program);
        withhold_secrets(&mut command, &settings.secret_variables);
        let spawned = command
            .args(arguments(url, settings, pinned.as_ref().map(|(_, path)| path.as_str())))
            .stdin(Stdio::from(other))
            .stdout(Stdio::from(second))
            .stderr(Stdio::piped())
            .spawn();
        let mut process =
            spawned.map_err(|error| failed(&format!("cannot run {program}"), &error))?;
        let stderr_tail = Arc::new(Mutex::new(Vec::new()));
        let stderr = process.stderr.take();
        let kept = Arc::clone(&stderr_tail);
        let listen = move || {
            if let Some(stderr) = stderr {
                read_tail(stderr, KEPT_BYTES, &kept);
            }
        };
        let listener = match Builder::new().spawn(listen) {
            Ok(listener) => Some(listener),
            Err(error) => {
                process.kill().and_then(|()| process.wait()).ok();
                return Err(failed("cannot start a thread", &error));
            }
        };
        Ok(Self {
            process,
            stream,
            stderr_tail,
            stderr_reader: listener,
            cancel,
            pinned: pinned.map(|(file, _)| file),
        })
    }

    /// Waits for the banner of the receiver.
    pub(super) fn read_banner(
        &mut self,
        time: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<BannerLine, AttemptError> {
        let end = Instant::now() + time;
        let mut output = Vec::new();
        loop {
            if stop() {
                self.process.kill().ok();
                return Err(AttemptError::final_(MirrorError::Cancelled));
            }
            match banner::scan(&output) {
                BannerScan::Line(line) => return Ok(line),
                BannerScan::Malformed => return Err(self.no_receiver(&output, "")),
                BannerScan::Incomplete => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // There is no banner yet, so there is no work to finish: kill the process
                // immediately.
                self.process.kill().ok();
                let what = format!("no receiver banner{}", self.quote(&output));
                return Err(attempt_error(TransportError::Timeout { what }, RetryAction::Later));
            }
            let mut some = [0; 4096];
            let read = self
                .stream
                .set_read_timeout(Some(left.min(POLL_INTERVAL)))
                .and_then(|()| self.stream.read(&mut some));
            match read {
                Ok(0) => return Err(self.exit_error(&output)),
                Ok(count) => output.extend_from_slice(&some[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(self.exit_error(&output)),
            }
        }
    }

    fn no_receiver(&self, output: &[u8], why: &str) -> AttemptError {
        attempt_error(
            TransportError::NoReceiver {
                what: format!("{why}the output has no receiver banner{}", self.quote(output)),
            },
            RetryAction::Never,
        )
    }

    /// Ends the process and describes why it closed its output before sending the banner.
    fn exit_error(&mut self, output: &[u8]) -> AttemptError {
        let status = self.finish();
        let quote = self.quote(output);
        match status.as_ref().ok().and_then(ExitStatus::code) {
            // 255 is the exit code of `ssh` itself; every other code is that of the command.
            Some(255) => {
                let what = format!("exit code 255{quote}");
                if quote.contains("Host key verification failed") {
                    let what = self.describe_host_key(quote.trim_start_matches(": "));
                    attempt_error(TransportError::HostKey { what }, RetryAction::Never)
                } else if quote.contains("Permission denied")
                    || quote.contains("Too many authentication")
                {
                    attempt_error(TransportError::SshDenied { what }, RetryAction::Never)
                } else {
                    attempt_error(TransportError::Ssh { what }, RetryAction::Later)
                }
            }
            // The exit code that a shell returns for a command that was not found.
            Some(127) => {
                let what = format!(
                    "install it, or name it with --receive-command or `receive_command`{quote}"
                );
                attempt_error(TransportError::NoReceiver { what }, RetryAction::Never)
            }
            Some(_) if quote.starts_with(RECEIVER_ERROR) => {
                let what = quote[RECEIVER_ERROR.len()..].to_owned();
                attempt_error(TransportError::ReceiverFailed { what }, RetryAction::Never)
            }
            Some(code) => self.no_receiver(output, &format!("exit code {code}, ")),
            None => self.no_receiver(output, "ended by a signal, "),
        }
    }

    /// Describes why the host key was rejected. The warning of ssh is not quoted: it names the
    /// known_hosts file for the pinned key, which no longer exists when the user reads the message.
    fn describe_host_key(&self, quote: &str) -> String {
        let all = String::from_utf8_lossy(&self.stderr_tail.lock()).into_owned();
        let print = all.split_whitespace().find(|word| word.starts_with("SHA256:"));
        let found = print
            .map_or_else(String::new, |print| format!(": it has {}", print.trim_end_matches('.')));
        match (self.pinned.is_some(), all.contains("HAS CHANGED")) {
            (true, _) => format!("not the one that `host_key` pins{found}"),
            (false, true) => format!("not the one in known_hosts{found}"),
            (false, false) => format!("not known here: {quote}"),
        }
    }

    /// Quotes the stderr of `ssh`, and then `output`, for an error message.
    fn quote(&self, output: &[u8]) -> String {
        let quote = self.stderr_tail.lock().clone();
        let text = [String::from_utf8_lossy(&quote), String::from_utf8_lossy(output)].concat();
        let text = Secrets::default().redact(&text);
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let text = lines.join(" / ");
        match text.char_indices().rev().nth(SHOWN_CHARS) {
            _ if text.is_empty() => String::new(),
            Some((at, _)) => format!(": …{}", &text[at..]),
            None => format!(": {text}"),
        }
    }

    /// Closes the input of the process, waits up to [`EXIT_TIMEOUT`] for it to exit, then kills it.
    fn finish(&mut self) -> io::Result<ExitStatus> {
        // The receiver sees the end of its input, completes its work and exits.
        self.stream.shutdown(Shutdown::Write).ok();
        let time = if self.cancel.is_cancelled() { Duration::ZERO } else { EXIT_TIMEOUT };
        let end = Instant::now() + time;
        let mut rest = [0; 4096];
        // Drain the output of the process: the stream ends when the process has exited.
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                break;
            }
            match self.stream.read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // Usually the process exits immediately. A process that closed its output but keeps running
        // is killed below.
        while Instant::now() < end && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::yield_now();
        }
        self.process.kill().ok();
        let status = self.process.wait();
        if let Some(listener) =
            self.stderr_reader.take().filter(|listener| listener.is_finished() || status.is_ok())
        {
            // A helper of ssh (a shared connection) may keep stderr open: do not wait long for it
            // to close.
            let end = Instant::now() + POLL_INTERVAL;
            while !listener.is_finished() && Instant::now() < end {
                std::thread::yield_now();
            }
        }
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.stderr_reader.is_some() {
            self.finish().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::Location;

    fn place(text: &str) -> SshUrl {
        match Location::parse(text) {
            Ok(Location::Ssh(place)) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ssh_runs_one_command_and_never_asks_for_a_password() {
        let settings =
            SshSettings { command: "ssh -i key".parse().unwrap(), ..SshSettings::default() };
        let all = arguments(&place("ssh://me@edge2:2222/srv/it's"), &settings, None).join(" ");
        assert_eq!(
            all,
            "-i key -T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o \
             ServerAliveCountMax=4 -p 2222 me@edge2 -- headwater receive '/srv/it'\\''s'"
        );
        let pinned =
            arguments(&place("ssh://edge2/srv"), &SshSettings::default(), Some("/x")).join(" ");
        assert!(
            pinned.contains("UserKnownHostsFile=/x")
                && pinned.contains("StrictHostKeyChecking=yes"),
            "{pinned}"
        );
    }

    #[test]
    fn command_that_cannot_start_is_reported() {
        let settings =
            SshSettings { command: "/no/such/ssh".parse().unwrap(), ..SshSettings::default() };
        let error = Child::start(&place("ssh://h/srv"), &settings, CancelToken::default())
            .unwrap_err()
            .error;
        assert!(error.to_string().contains("/no/such/ssh"), "{error}");
    }

    fn greeting(script: &str) -> (Result<BannerLine, AttemptError>, u32) {
        greeting_of(script, None)
    }

    fn greeting_of(
        script: &str,
        host_key: Option<&str>,
    ) -> (Result<BannerLine, AttemptError>, u32) {
        let command = shell_words::join(["/bin/sh", "-c", script]).parse().unwrap();
        let settings = SshSettings {
            command,
            host_key: host_key.map(str::to_owned),
            ..SshSettings::default()
        };
        let mut child =
            Child::start(&place("ssh://h/srv"), &settings, CancelToken::default()).unwrap();
        let id = child.process.id();
        (child.read_banner(Duration::from_secs(20), &|| false), id)
    }

    #[test]
    fn exit_status_is_explained() {
        let error = |script: &str| match greeting(script).0.unwrap_err().error {
            MirrorError::Transport(error) => error,
            other => panic!("{other}"),
        };
        let ssh = error("echo 'connect to host h port 22: Connection refused' >&2; exit 255");
        assert!(
            matches!(&ssh, TransportError::Ssh { what } if what.contains("Connection refused")),
            "{ssh}"
        );
        let denied = error("echo 'me@h: Permission denied (publickey).' >&2; exit 255");
        assert!(matches!(denied, TransportError::SshDenied { .. }));
        let none = error("echo motd; echo 'sh: headwater: command not found' >&2; exit 127");
        let words = ["--receive-command", "command not found", "motd"];
        assert!(
            matches!(
                &none,
                TransportError::NoReceiver { what } if words.iter().all(|word| what.contains(word))
            ),
            "{none}"
        );
        let noise = error("yes | head -c 100000");
        assert!(matches!(noise, TransportError::NoReceiver { .. }), "{noise}");
        let other = error("exit 3");
        assert!(
            matches!(&other, TransportError::NoReceiver { what } if what.contains("exit code 3")),
            "{other}"
        );
    }

    #[test]
    fn receiver_error_is_not_reported_as_a_missing_program() {
        let failed = greeting("echo 'error: cannot serve /srv/www: it is full' >&2; exit 1")
            .0
            .unwrap_err()
            .error;
        assert_eq!(failed.to_string(), "the receiver failed: cannot serve /srv/www: it is full");
    }

    #[test]
    fn changed_host_key_is_reported_without_the_ssh_banner() {
        let warning =
            "@@@@@ / WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! / sent by the remote host is";
        let changed = format!(
            "echo '{warning}' >&2; echo 'SHA256:abc/+1.' >&2; echo 'Add correct host key in \
             /proc/1/fd/8' >&2; echo 'Host key verification failed.' >&2; exit 255"
        );
        let unknown = "echo 'Host key verification failed.' >&2; exit 255";
        for (script, host_key, says) in [
            (
                &*changed,
                Some("ssh-ed25519 AAAA"),
                "its host key is not the one that `host_key` pins: it has SHA256:abc/+1",
            ),
            (unknown, Some("ssh-ed25519 AAAA"), "its host key is not the one that `host_key` pins"),
            (&*changed, None, "its host key is not the one in known_hosts: it has SHA256:abc/+1"),
            (unknown, None, "its host key is not known here: Host key verification failed."),
        ] {
            assert_eq!(greeting_of(script, host_key).0.unwrap_err().error.to_string(), says);
        }
    }

    #[test]
    fn dropped_child_is_killed() {
        let (found, id) = greeting("echo 'headwater receive 9 {}'; exec sleep 1000");
        assert_eq!(found.unwrap(), BannerLine::OtherVersion("9".into()));
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn child_that_closes_its_pipes_and_continues_is_ended() {
        let began = Instant::now();
        let (found, id) = greeting("exec sleep 30 <&- >&-");
        assert!(
            found.is_err() && began.elapsed() < Duration::from_secs(15),
            "{:?}",
            began.elapsed()
        );
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn pinned_key_is_readable_by_the_child() {
        let (_file, path) = write_known_hosts("ssh-ed25519 AAAA").unwrap();
        let output = Command::new("cat").arg(path).output().unwrap();
        assert_eq!(output.stdout, b"headwater-pinned ssh-ed25519 AAAA\n");
    }
}
