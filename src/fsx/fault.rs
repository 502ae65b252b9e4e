//! Faults that tests inject into debug builds. Release builds do not support them.

#[cfg(debug_assertions)]
use parking_lot::Mutex;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

use std::path::Path;

use super::Result;

/// A fault, and when it occurs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultPoint {
    /// End the process with SIGKILL before the n-th change on disk, counted from 1.
    KillAt(u64),
    /// Make the n-th change on disk fail with this `errno`.
    ErrnoAt(u64, i32),
    /// Make every operation with this name fail with this `errno`. With `OP:PART`, only operations
    /// whose path contains `PART` fail.
    ErrnoOn(String, i32),
    /// Panic in every operation with this name.
    PanicOn(String),
    /// Skip every sync of a directory. Power-cut tests must detect this.
    SkipDirectorySync,
    /// Skip every sync of data. Power-cut tests must detect this.
    SkipDataSync,
    /// Remove the target before a rename. Tests that kill the process must detect this.
    UnlinkBeforeRename,
    /// Set the stores' clock forward by this many seconds.
    ClockAhead(u64),
    /// Record the operation and the path of each change on disk, for [`counted`].
    Count,
}

#[cfg(debug_assertions)]
static STEPS: AtomicU64 = AtomicU64::new(0);
/// The operations counted while [`FaultPoint::Count`] is armed.
#[cfg(debug_assertions)]
static COUNTED: Mutex<Vec<String>> = Mutex::new(Vec::new());
#[cfg(debug_assertions)]
static FAULTS: Mutex<Vec<FaultPoint>> = Mutex::new(Vec::new());

/// Parses a fault: `kill@N`, `errno=E@N`, `errno=E@OP`, `errno=E@OP:PART`, `panic@OP`,
/// `skip-directory-sync`, `skip-data-sync`, `unlink-before-rename`, `clock+SECONDS`, `count`.
#[must_use]
pub fn parse(text: &str) -> Option<FaultPoint> {
    match text.split_once('@') {
        Some(("kill", step)) => step.parse().ok().map(FaultPoint::KillAt),
        Some(("panic", op)) => Some(FaultPoint::PanicOn(op.to_owned())),
        Some((errno, at)) => {
            let errno = errno.strip_prefix("errno=")?.parse().ok()?;
            Some(match at.parse() {
                // No operation has a number as its name, so a number is always a step.
                Ok(step) => FaultPoint::ErrnoAt(step, errno),
                Err(_) => FaultPoint::ErrnoOn(at.to_owned(), errno),
            })
        }
        None => match text {
            "skip-directory-sync" => Some(FaultPoint::SkipDirectorySync),
            "skip-data-sync" => Some(FaultPoint::SkipDataSync),
            "unlink-before-rename" => Some(FaultPoint::UnlinkBeforeRename),
            "count" => Some(FaultPoint::Count),
            _ => text.strip_prefix("clock+")?.parse().ok().map(FaultPoint::ClockAhead),
        },
    }
}

/// Arms `fault` for this process, in addition to faults that are already armed. Returns whether
/// this build supports faults.
#[cfg_attr(
    not(debug_assertions),
    expect(clippy::needless_pass_by_value, reason = "one signature for both builds")
)]
pub fn arm(fault: FaultPoint) -> bool {
    #[cfg(debug_assertions)]
    {
        FAULTS.lock().push(fault);
        true
    }
    #[cfg(not(debug_assertions))]
    {
        drop(fault);
        false
    }
}

/// The number of changes on disk so far; 0 in a release build.
#[must_use]
pub fn steps() -> u64 {
    #[cfg(debug_assertions)]
    return STEPS.load(Ordering::SeqCst);
    #[cfg(not(debug_assertions))]
    0
}

/// Each change on disk so far, in order, as `step N: OPERATION PATH`, if [`FaultPoint::Count`] is
/// armed. Empty in a release build.
#[must_use]
pub fn counted() -> Vec<String> {
    #[cfg(debug_assertions)]
    return COUNTED.lock().clone();
    #[cfg(not(debug_assertions))]
    Vec::new()
}

/// How far ahead the stores' clock is, in seconds; 0 in a release build.
#[must_use]
pub fn clock_ahead() -> u64 {
    #[cfg(debug_assertions)]
    {
        let faults = FAULTS.lock();
        let ahead = |fault: &FaultPoint| {
            if let FaultPoint::ClockAhead(seconds) = fault { Some(*seconds) } else { None }
        };
        faults.iter().find_map(ahead).unwrap_or(0)
    }
    #[cfg(not(debug_assertions))]
    0
}

#[cfg(debug_assertions)]
pub(super) fn is_armed(wanted: &FaultPoint) -> bool {
    FAULTS.lock().contains(wanted)
}

#[cfg(not(debug_assertions))]
pub(super) const fn is_armed(_: &FaultPoint) -> bool {
    false
}

#[cfg(debug_assertions)]
pub(super) fn step(op: &'static str, path: impl Fn() -> std::path::PathBuf) -> Result<()> {
    let step = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
    for fault in &*FAULTS.lock() {
        let errno = match fault {
            FaultPoint::KillAt(at) if *at == step => {
                // SIGKILL cannot be caught or delayed, as with `kill -9` or the OOM killer.
                let killed = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
                unreachable!("survived SIGKILL: {killed:?}");
            }
            FaultPoint::Count => {
                let mut counted = COUNTED.lock();
                counted.push(format!("step {step}: {op} {}", path().display()));
                continue;
            }
            FaultPoint::PanicOn(name) if name == op => panic!("a panic in {op}, as was asked for"),
            FaultPoint::ErrnoAt(at, errno) if *at == step => *errno,
            FaultPoint::ErrnoOn(name, errno) if matches_operation(name, op, &path) => *errno,
            _ => continue,
        };
        return Err(super::IoError::new(op, path(), std::io::Error::from_raw_os_error(errno)));
    }
    Ok(())
}

#[cfg(debug_assertions)]
fn matches_operation(name: &str, op: &str, path: impl Fn() -> std::path::PathBuf) -> bool {
    match name.split_once(':') {
        Some((name, part)) => name == op && path().to_string_lossy().contains(part),
        None => name == op,
    }
}

#[cfg(not(debug_assertions))]
#[expect(clippy::unnecessary_wraps, reason = "one signature for both builds")]
pub(super) fn step(_: &'static str, _: impl Fn() -> std::path::PathBuf) -> Result<()> {
    Ok(())
}

/// Marks an operation that changes nothing. It is not counted, and only faults with its name make
/// it fail.
///
/// # Errors
/// The injected error.
#[cfg(debug_assertions)]
pub fn mark_read(op: &'static str, path: impl Fn() -> std::path::PathBuf) -> Result<()> {
    for fault in &*FAULTS.lock() {
        if let FaultPoint::ErrnoOn(name, errno) = fault
            && matches_operation(name, op, &path)
        {
            return Err(super::IoError::new(op, path(), std::io::Error::from_raw_os_error(*errno)));
        }
    }
    Ok(())
}

/// Marks an operation that changes nothing.
///
/// # Errors
/// Never fails in this build.
#[cfg(not(debug_assertions))]
#[expect(clippy::unnecessary_wraps, reason = "one signature for both builds")]
pub fn mark_read(_: &'static str, _: impl Fn() -> std::path::PathBuf) -> Result<()> {
    Ok(())
}

/// Marks a change on disk that a library makes.
///
/// # Errors
/// The injected error.
pub fn mark_change(op: &'static str, path: &Path) -> Result<()> {
    step(op, || path.to_owned())
}
