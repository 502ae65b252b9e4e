//! The names of files in a store, and handles to its directories.

use crate::fsx::{Dir, FileKind, Result};
use crate::hash::{BundleKey, ManifestId, ObjectId};
use crate::release::ReleaseName;
use crate::store::StoreError;

pub(super) const HEADWATER: &str = ".headwater";
pub(super) const CURRENT: &str = "current";
pub(super) const STAGED: &str = "staged";
pub(super) const FORMAT: &str = "format";
pub(super) const LOCK: &str = "lock";
pub(super) const PENDING_SWITCH: &str = "switched";
pub(super) const DIRTY: &str = "dirty";
pub(super) const EXPIRED: &str = "expired";
pub(super) const RESERVE: &str = "reserve";
pub(super) const HISTORY: &str = "events.jsonl";
const SLOTS: &str = "slots";
const SPARE: &str = ".spare";

#[derive(Debug)]
pub(super) struct Layout {
    pub(super) root: Dir,
    pub(super) headwater: Dir,
    pub(super) objects: Dir,
    pub(super) manifests: Dir,
    pub(super) releases: Dir,
    pub(super) slots: Dir,
    pub(super) incoming: Dir,
    pub(super) tmp: Dir,
}

impl Layout {
    /// Opens the directories below `root`. If `create` is true, creates missing directories.
    pub(super) fn open(root: Dir, create: bool) -> Result<Self> {
        let open =
            |dir: &Dir, name: &str| if create { dir.ensure_dir(name) } else { dir.open_dir(name) };
        let headwater = open(&root, HEADWATER)?;
        let objects = open(&headwater, "objects")?;
        if create {
            for byte in 0..=255u8 {
                objects.ensure_dir(&fan_out_name(byte))?;
            }
        }
        let incoming = open(&headwater, "incoming")?;
        Ok(Self {
            objects,
            manifests: open(&headwater, "manifests")?,
            releases: open(&headwater, "releases")?,
            slots: open(&headwater, SLOTS)?,
            tmp: open(&incoming, "tmp")?,
            incoming,
            headwater,
            root,
        })
    }

    /// Returns an error if one of the 256 object directories is not a directory, so that no path
    /// through one of them leads elsewhere.
    pub(super) fn check_objects(&self) -> std::result::Result<(), StoreError> {
        for byte in 0..=255u8 {
            let name = fan_out_name(byte);
            let path = || self.objects.join(&name);
            // Objects are opened by the path `xx/<id>`. If `xx` were a link, the kernel would
            // follow it.
            match self.objects.stat(&name)?.map(|meta| meta.kind) {
                Some(FileKind::Directory) => {}
                Some(_) => {
                    return Err(StoreError::Format {
                        path: path(),
                        what: "it is not a directory".to_owned(),
                    });
                }
                None => return Err(StoreError::MissingDirectory { path: path() }),
            }
        }
        Ok(())
    }
}

/// The directory of objects whose ids begin with `byte`.
pub(super) fn fan_out_name(byte: u8) -> String {
    format!("{byte:02x}")
}

/// The path of an object below `objects`.
pub(super) fn object_name(object: &ObjectId) -> String {
    let mut name = Vec::with_capacity(67);
    object.push_hex(&mut name);
    let mut path = String::with_capacity(67);
    let hex = std::str::from_utf8(&name).expect("hexadecimal is ASCII");
    path.push_str(&hex[..2]);
    path.push('/');
    path.push_str(hex);
    path
}

pub(super) fn manifest_name(manifest: &ManifestId) -> String {
    format!("{manifest}.zst")
}

// A release is deleted by renaming its record from the first suffix to the second. This is one
// step, and afterwards the record still shows what may be dropped.
pub(super) const RECORD_SUFFIX: &str = ".json";
pub(super) const DELETED_SUFFIX: &str = ".gone";

pub(super) fn release_file(release: ReleaseName) -> String {
    format!("{release}{RECORD_SUFFIX}")
}

pub(super) fn deleted_file(release: ReleaseName) -> String {
    format!("{release}{DELETED_SUFFIX}")
}

pub(super) fn quarantine_name(key: &BundleKey) -> String {
    key.to_string()
}

/// The target of `current` for a release.
pub(super) fn current_target(release: ReleaseName) -> String {
    format!("{HEADWATER}/{SLOTS}/{release}")
}

/// The release that a target of `current` names.
pub(super) fn parse_current_target(target: &str) -> Option<ReleaseName> {
    target
        .strip_prefix(HEADWATER)?
        .strip_prefix('/')?
        .strip_prefix(SLOTS)?
        .strip_prefix('/')?
        .parse()
        .ok()
}

/// The name of a release's tree in `slots`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotName {
    pub(super) release: ReleaseName,
    pub(super) is_spare: bool,
}

impl SlotName {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (release, is_spare) =
            name.strip_suffix(SPARE).map_or((name, false), |release| (release, true));
        Some(Self { release: release.parse().ok()?, is_spare })
    }
}

impl std::fmt::Display for SlotName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.release, if self.is_spare { SPARE } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_link_targets_name_a_release() {
        let name: ReleaseName = "12-9f3ac1d2e4b5a697".parse().unwrap();
        assert_eq!(parse_current_target(&current_target(name)), Some(name));
        for wrong in [
            "",
            "/etc",
            ".headwater/slots/",
            "./.headwater/slots/12-9f3ac1d2e4b5a697",
            ".headwater/slots/../x",
        ] {
            assert_eq!(parse_current_target(wrong), None, "{wrong}");
        }
        let spare = SlotName { release: name, is_spare: true };
        assert_eq!(SlotName::parse(&spare.to_string()), Some(spare));
        assert_eq!(SlotName::parse("dirty"), None);
    }
}
