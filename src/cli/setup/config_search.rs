//! Finds the default `headwater.toml`: in the current directory, or in the nearest
//! directory above it.
//!
//! Ignores a file in a higher directory if it belongs to another user, because the file can name
//! commands.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use headwater::config::FILE_NAME;

use crate::cli::output::failure::eprint_raw;
use crate::cli::output::format::escape;
use crate::cli::output::verbosity;

/// Returns the path of the file relative to the current directory. Searches up to the first
/// directory with `.git`, or up to the root. Returns `None` if none of these directories contains
/// the file. If the file is not in the current directory, prints its path on stderr.
pub(crate) fn find() -> Option<PathBuf> {
    let depth = std::env::current_dir()
        .map_or(0, |directory| directory.ancestors().count().saturating_sub(1));
    let path =
        find_above(Path::new(""), depth, rustix::process::geteuid().as_raw(), &|path, owner| {
            warn(&format!(
                "warning: {} is ignored: it belongs to another user (uid {owner})",
                path.display()
            ));
        })?;
    // Users may not expect a file in a higher directory, so its path is printed.
    if path != Path::new(FILE_NAME) && !verbosity::is_quiet() {
        // A command may load the configuration twice.
        static PATH_PRINTED: Once = Once::new();
        PATH_PRINTED.call_once(|| warn(&format!("using {}", path.display())));
    }
    Some(path)
}

/// Finds the file in `start` or in one of the `depth` directories above it.
fn find_above(
    start: &Path,
    depth: usize,
    user: u32,
    on_ignored: &dyn Fn(&Path, u32),
) -> Option<PathBuf> {
    let mut directory = start.to_owned();
    for level in 0..=depth {
        let path = directory.join(FILE_NAME);
        match owner_of(&path, user) {
            FileOwner::NoFile => {}
            // The user has chosen a file in the current directory, as with `--config`.
            FileOwner::Other(owner) if level > 0 => on_ignored(&path, owner),
            FileOwner::Other(_) | FileOwner::Trusted => return Some(path),
        }
        // A file above a repository is not part of the project. In a worktree `.git` is a file.
        if directory.join(".git").symlink_metadata().is_ok() {
            return None;
        }
        directory.push("..");
    }
    None
}

/// Who owns a file, or the link to the file.
enum FileOwner {
    NoFile,
    /// The user or root owns it.
    Trusted,
    Other(u32),
}

fn owner_of(path: &Path, user: u32) -> FileOwner {
    // Checks both owners, because the owner of a link chooses which file is read.
    let (Ok(link), Ok(file)) = (fs::symlink_metadata(path), fs::metadata(path)) else {
        return FileOwner::NoFile;
    };
    let other = [link.uid(), file.uid()].into_iter().find(|owner| *owner != user && *owner != 0);
    other.map_or(FileOwner::Trusted, FileOwner::Other)
}

fn warn(line: &str) {
    // If stderr is closed, the line is lost.
    eprint_raw(&format!("{}\n", escape(line))).ok();
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn nearest_file_up_to_the_repository_root_is_used() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let user = rustix::process::geteuid().as_raw();
        let find = |depth| find_above(&inner, depth, user, &|_, _| panic!("ignored"));
        assert_eq!(find(2), None);
        fs::write(top.path().join(FILE_NAME), "").unwrap();
        assert_eq!((find(1), find(2)), (None, Some(inner.join("../..").join(FILE_NAME))));
        fs::write(top.path().join("a/.git"), "gitdir: x").unwrap();
        assert_eq!(find(2), None);
        fs::write(top.path().join("a").join(FILE_NAME), "").unwrap();
        assert_eq!(find(2), Some(inner.join("..").join(FILE_NAME)));
        fs::write(inner.join(FILE_NAME), "").unwrap();
        assert_eq!(find(2), Some(inner.join(FILE_NAME)));
    }

    #[test]
    fn parent_directory_file_of_another_user_is_ignored() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("a");
        fs::create_dir_all(&inner).unwrap();
        let path = top.path().join(FILE_NAME);
        fs::write(&path, "").unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        let ignored = Cell::new(0);
        let find =
            |start: &Path| find_above(start, 1, owner + 1, &|_, _| ignored.set(ignored.get() + 1));
        let is_root = owner == 0;
        assert_eq!((find(&inner).is_some(), ignored.get()), (is_root, u32::from(!is_root)));
        assert_eq!(find(top.path()), Some(path));
    }
}
