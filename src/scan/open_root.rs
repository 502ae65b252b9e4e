//! A root as it was when the scan began, and the paths below it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Root;
use super::error::{ScanError, escape, escape_path};
use crate::fsx::{self, Dir};
use crate::tree_path::{PathFault, TreePath};

/// A root, opened when the scan began.
#[derive(Debug)]
pub(super) struct OpenRoot {
    /// The path without links, so that a root that is a link refers to the same tree until the end.
    pub(super) path: PathBuf,
    pub(super) dir: Dir,
    tree_prefix: Option<TreePath>,
}

impl OpenRoot {
    pub(super) fn open(root: &Root) -> Result<Self, ScanError> {
        let wrong = |source| ScanError::Root { path: root.path.clone(), source };
        let path = fsx::resolve(&root.path).map_err(wrong)?;
        let dir = Dir::open(&path).map_err(wrong)?;
        Ok(Self { path, dir, tree_prefix: root.tree_prefix.clone() })
    }

    /// The part of `path` below the root.
    pub(super) fn relative<'p>(&self, path: &'p Path) -> &'p [u8] {
        let root = self.path.as_os_str().as_bytes();
        let skip = if root.ends_with(b"/") { root.len() } else { root.len() + 1 };
        path.as_os_str().as_bytes().get(skip..).unwrap_or_default()
    }

    /// The part of a tree path below the root.
    pub(super) fn relative_in_tree<'p>(&self, path: &'p TreePath) -> &'p str {
        let skip = self.tree_prefix.as_ref().map_or(0, |at| at.as_str().len() + 1);
        path.as_str().get(skip..).unwrap_or_default()
    }

    pub(super) fn tree_path(&self, relative: &[u8]) -> Result<TreePath, PathFault> {
        let text = std::str::from_utf8(relative).map_err(|_| PathFault::NotUtf8)?;
        match &self.tree_prefix {
            None => TreePath::new(text),
            Some(at) => TreePath::new(&format!("{at}/{text}")),
        }
    }

    /// The path in the tree, escaped for messages.
    pub(super) fn display_path(&self, relative: &[u8]) -> String {
        match &self.tree_prefix {
            _ if relative.is_empty() => escape_path(&self.path),
            None => escape(relative),
            Some(at) => format!("{}/{}", escape(at.as_str().as_bytes()), escape(relative)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_that_is_a_file_or_missing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        for name in ["f", "none", "f/x"] {
            let root = Root { path: dir.path().join(name), tree_prefix: None };
            assert!(matches!(OpenRoot::open(&root), Err(ScanError::Root { .. })), "{name}");
        }
    }
}
