//! The hook: a command that runs after an activation. The push succeeds even if the hook fails.

use std::os::unix::process::CommandExt as _;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::command::{STDERR_TAIL_BYTES, kill_group, last_line, read_tail, withhold_secrets};
use crate::receiver::http::log;
use crate::receiver::{Hook, Log, LogRecord};
use crate::release::ReleaseName;
use crate::tree_path::Site;

/// How often a running command is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Runs hooks in the background.
pub(crate) struct HookRunner {
    log: Arc<dyn Log>,
    running: Mutex<JoinSet<()>>,
}

impl HookRunner {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self { log, running: Mutex::default() }
    }

    /// Starts `hook` for a release that has become current. Calls `began` when the command has
    /// started or failed to start, and then `ended` with the result. `ended` may block.
    pub(crate) fn start(
        &self,
        hook: &Hook,
        (site, release): (Site, ReleaseName),
        began: impl FnOnce() + Send + 'static,
        ended: impl FnOnce(Result<(), String>) + Send + 'static,
    ) {
        let (hook, log) = (hook.clone(), Arc::clone(&self.log));
        let mut running = self.running.lock();
        // Otherwise the results of finished hooks would pile up until the receiver stops.
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            let result = run(&hook, &site, release, began).await;
            if let Err(message) = &result {
                let (site, release) = (site.to_string(), release.to_string());
                log.record(&LogRecord::HookFailed { site, release, message: message.clone() });
            }
            tokio::task::spawn_blocking(move || ended(result)).await.ok();
        });
    }

    /// Waits for the running hooks; each has its own time limit.
    pub(crate) async fn finish(&self) {
        // Taken out of the lock, which must not be held while this waits.
        let mut running = std::mem::take(&mut *self.running.lock());
        while running.join_next().await.is_some() {}
    }
}

async fn run(
    hook: &Hook,
    site: &Site,
    release: ReleaseName,
    began: impl FnOnce(),
) -> Result<(), String> {
    let Some((program, arguments)) = hook.command.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    withhold_secrets(&mut command, &[]);
    let child = command
        .args(arguments)
        .env("HEADWATER_SITE", site.as_str())
        .env("HEADWATER_RELEASE", release.to_string())
        .env("HEADWATER_SEQUENCE", release.sequence().to_string())
        .stdin(Stdio::null())
        // With SSH, the standard output of this process is the connection to the origin.
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A process group of its own, so that the time limit also ends the processes that the
        // command has started.
        .process_group(0)
        .spawn();
    // Called even if the command could not start. Otherwise each start of the receiver would try it
    // again.
    began();
    let mut child = child.map_err(|error| format!("cannot run {program}: {error}"))?;
    let tail = StderrTail::listen(child.stderr.take());
    let deadline = Instant::now() + hook.timeout;
    // The process is polled, because tokio's `process` feature is not compiled in.
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                // The reader thread may not have read the last lines yet.
                tokio::time::sleep(POLL_INTERVAL).await;
                return Err(format!("{program}: {status}{}", tail.last_line()));
            }
            Ok(None) if Instant::now() < deadline => tokio::time::sleep(POLL_INTERVAL).await,
            Ok(None) => {
                kill_group(child.id());
                child.wait().ok();
                let seconds = hook.timeout.as_secs_f32();
                return Err(format!(
                    "{program} did not end within {seconds} s{}",
                    tail.last_line()
                ));
            }
            Err(error) => return Err(format!("cannot wait for {program}: {error}")),
        }
    }
}

/// The last text that a command wrote to standard error.
struct StderrTail(Arc<Mutex<Vec<u8>>>);

impl StderrTail {
    /// Reads until the pipe is closed, so that the command never blocks on a full pipe.
    fn listen(stderr: Option<ChildStderr>) -> Self {
        let tail = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = stderr {
            let kept = Arc::clone(&tail);
            let listen = move || read_tail(stderr, STDERR_TAIL_BYTES, &kept);
            // If the thread cannot start, the pipe is closed, which the command notices.
            std::thread::Builder::new().name("hook".into()).spawn(listen).ok();
        }
        Self(tail)
    }

    /// The last non-empty line, preceded by a colon, to append to an error message.
    fn last_line(&self) -> String {
        let tail = self.0.lock();
        let line = last_line(&tail);
        // The programs that the hook runs may print secrets.
        if line.is_empty() { line } else { format!(": {}", log::peer_text(&line)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stderr_tail_of_a_hook_is_reported_without_tokens() {
        let last_line = |tail: &str| StderrTail(Arc::new(Mutex::new(tail.into()))).last_line();
        assert_eq!(last_line("starting\nno such unit\n\n"), ": no such unit");
        assert_eq!(last_line(""), "");
        assert!(
            !last_line("curl -H 'Authorization: Bearer hw_0123abcd_canary'").contains("canary")
        );
    }
}
