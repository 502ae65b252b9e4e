//! `staged` beside `current`: a link to the release that is complete here and
//! not served, for a preview host.
//!
//! It says nothing that counts, so nothing here ever fails a push, and what is
//! no link of ours is left alone.

use crate::fsx::FileKind;
use crate::store::layout::{STAGED, current_target, parse_current_target};
use crate::store::{Store, StoreError};

impl Store {
    /// Lets `staged` point to what is staged, or be gone where nothing is.
    pub(super) fn show_staged(&self) {
        // Only people look at it: the next push tries again.
        self.staged_release()
            .and_then(|staged| self.point_staged(staged.map(|staged| current_target(staged.name()))))
            .ok();
    }

    /// Takes `staged` away before its tree is changed.
    pub(super) fn hide_staged(&self) {
        self.point_staged(None).ok();
    }

    fn point_staged(&self, target: Option<String>) -> Result<(), StoreError> {
        const NEW: &str = "staged.new";
        let layout = &self.layout;
        let is_there = match layout.root.stat(STAGED)?.map(|meta| meta.kind) {
            None => false,
            Some(FileKind::Symlink) => {
                let found = layout.root.read_link(STAGED)?;
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
                layout.tmp.rename(NEW, &layout.root, STAGED)?;
            }
            None if is_there => layout.root.unlink(STAGED)?,
            None => {}
        }
        Ok(())
    }
}
