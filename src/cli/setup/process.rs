//! Limits and signals of the process, for every command.
//!
//! Uses the crates `rustix` and `signal-hook`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

/// The number of open files that a fleet of hundreds of mirrors needs. Child processes inherit the
/// limit, and a much higher one would slow down programs that close every possible descriptor.
const OPEN_FILE_LIMIT: u64 = 16 * 1024;
/// The number of open files for everything except directory mirrors: standard streams, the tree,
/// packs, sockets.
const RESERVED_FILES: u64 = 64;
/// The number of open files for one directory mirror while it is being filled.
const FILES_PER_MIRROR: u64 = 32;

/// Prepares the process: raises the limit on open files, and turns the signal for an oversized file
/// into an error.
pub(crate) fn prepare() {
    raise_file_limit();
    // If SIGXFSZ has a handler, the write fails with EFBIG; without a handler, the signal ends the
    // process. In safe code, a handler is the only way to prevent that. Nothing reads the flag.
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).ok();
}

/// Raises the soft limit on open files to the hard limit. The usual limit of 1,024 exists for
/// programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILE_LIMIT, |most| OPEN_FILE_LIMIT.min(most));
    if limit.current.is_some_and(|current| current < wanted) {
        // If the system refuses, fewer mirrors are filled at the same time.
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).ok();
    }
}

/// How many directory mirrors can be filled at the same time under the limit on open files; at
/// least one.
pub(crate) fn max_parallel_directories() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(OPEN_FILE_LIMIT);
    directories_for_file_limit(files)
}

fn directories_for_file_limit(files: u64) -> usize {
    usize::try_from(files.saturating_sub(RESERVED_FILES) / FILES_PER_MIRROR)
        .unwrap_or(usize::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_open_file_limit_reduces_parallel_mirrors() {
        assert_eq!([0, 64, 256, 1024, 16_384].map(directories_for_file_limit), [1, 1, 6, 30, 510]);
    }
}
