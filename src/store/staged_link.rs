//! `staged`, next to `current`: a link to the staged release, for a preview host.
//!
//! No push depends on this link, so errors here never make a push fail, and anything else with that
//! name is left alone. `verify` reads it to recognise a store that has not served anything yet.

use crate::fsx::FileKind;
use crate::release::ReleaseName;
use crate::store::layout::{STAGED, current_target, parse_current_target};
use crate::store::open::LockedStore;
use crate::store::{Store, StoreError};

impl Store {
    /// The release that `staged` points to.
    pub(super) fn staged_link_target(&self) -> Result<Option<ReleaseName>, StoreError> {
        let root = &self.layout.root;
        if root.stat(STAGED)?.is_none_or(|meta| meta.kind != FileKind::Symlink) {
            return Ok(None);
        }
        Ok(root.read_link(STAGED)?.and_then(|target| parse_current_target(target.to_str()?)))
    }
}

impl LockedStore<'_> {
    /// Points `staged` to the staged release, or removes the link if no release is staged.
    pub(super) fn update_staged_link(&self) {
        // The link is for people only; the next push tries again.
        self.staged_release()
            .and_then(|staged| {
                self.set_staged_link(staged.map(|staged| current_target(staged.name())))
            })
            .ok();
    }

    /// Removes `staged` before the tree that it points to is changed.
    pub(super) fn remove_staged_link(&self) {
        self.set_staged_link(None).ok();
    }

    fn set_staged_link(&self, target: Option<String>) -> Result<(), StoreError> {
        const NEW: &str = "staged.new";
        let layout = &self.layout;
        let is_there = match layout.root.stat(STAGED)?.map(|meta| meta.kind) {
            None => false,
            Some(FileKind::Symlink) => {
                let found = layout.root.read_link(STAGED)?;
                // A link to anything but a slot was made by someone else.
                if found.and_then(|found| parse_current_target(found.to_str()?)).is_none() {
                    return Ok(());
                }
                true
            }
            Some(_) => return Ok(()),
        };
        match target {
            Some(target) => {
                layout.tmp.unlink_if_any(NEW)?;
                layout.tmp.symlink(&target, NEW)?;
                // Never synced: after a power cut the old link may be back, and the next push
                // replaces it.
                layout.tmp.rename(NEW, &layout.root, STAGED)?;
            }
            None if is_there => layout.root.unlink(STAGED)?,
            None => {}
        }
        Ok(())
    }
}
