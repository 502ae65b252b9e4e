//! A temporary directory for a test, and an environment for programs that run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A directory for a test: in `HEADWATER_TEST_DIR` if it is set, else in memory if there is such a
/// file system, because syncs to a disk would take most of the time.
pub(crate) fn directory() -> TempDir {
    let given = std::env::var_os("HEADWATER_TEST_DIR").map(PathBuf::from);
    let memory = || Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir());
    let parent = given.or_else(memory).unwrap_or_else(std::env::temp_dir);
    let builder = || tempfile::Builder::new().prefix("headwater-test-").to_owned();
    // `tempfile` removes it, also if the test fails. If the test is killed, it stays.
    builder().tempdir_in(parent).or_else(|_| builder().tempdir()).unwrap()
}

/// Lets `command` run in `directory`, with a home there, a cache at the path `cache` below it, and
/// without the variables of a CI system, of the user, or of a terminal.
pub(crate) fn isolate(command: &mut Command, directory: &Path, cache: &str) {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory.join("home"))
        .env("XDG_CACHE_HOME", directory.join(cache))
        .env("LC_ALL", "C")
        .current_dir(directory)
        .stdin(Stdio::null());
}
