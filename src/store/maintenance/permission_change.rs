//! Changes the permissions of everything in a store, in place.

use std::io;

use crate::fsx::{Dir, FileKind};
use crate::store::StoreError;
use crate::store::content::permissions::Permissions;
use crate::store::open::LockedStore;

impl LockedStore<'_> {
    /// Gives all objects and all slots these permissions, without syncing them.
    pub(in crate::store) fn rewrite_permissions(
        &self,
        permissions: Permissions,
    ) -> Result<(), StoreError> {
        for (shard, _) in self.layout.objects.entries()? {
            let Some(shard) = shard.to_str() else { continue };
            rewrite_below(&self.layout.objects.open_dir(shard)?, permissions)?;
        }
        for slot in self.slot_names()? {
            rewrite(&self.layout.slots, &slot.to_string(), permissions)?;
        }
        Ok(())
    }
}

/// Gives `name` in `parent`, and everything below it, these permissions. Executable files stay
/// executable, and others do not become executable.
fn rewrite(parent: &Dir, name: &str, permissions: Permissions) -> Result<(), StoreError> {
    let Some(meta) = parent.stat(name)? else { return Ok(()) };
    let mode = match meta.kind {
        // Changed in place although these inodes are served: the releases share them, and copies
        // would take as much space as the tree again.
        FileKind::File => permissions.file(meta.mode & 0o100 != 0),
        FileKind::Directory => permissions.directory(),
        FileKind::Symlink | FileKind::Other => return Ok(()),
    };
    if !mode.matches(&meta) {
        match parent.set_mode(name, mode) {
            // The file belongs to another user: `verify` reports it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    if meta.kind == FileKind::Directory {
        rewrite_below(&parent.open_dir(name)?, permissions)?;
    }
    Ok(())
}

fn rewrite_below(dir: &Dir, permissions: Permissions) -> Result<(), StoreError> {
    for (name, _) in dir.entries()? {
        if let Some(name) = name.to_str() {
            rewrite(dir, name, permissions)?;
        }
    }
    Ok(())
}
