//! Records the store and the release that each mirror had after the last push. Before anything is
//! written there, the store id reveals an unmounted volume or a replaced directory. The release
//! reveals what another origin has published.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fsx;
use crate::hash::StoreId;
use crate::mirror::{ExpectedStore, Location, MirrorError};
use crate::release::ReleaseName;

/// Maximum size of a note in bytes. A note is one short line.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// The stores that mirrors are known to have.
#[derive(Debug, Clone, Default)]
pub struct KnownStores {
    /// The directory of notes, one for each location. If `None`, nothing is recorded.
    dir: Option<PathBuf>,
    /// The configured stores, by mirror name.
    configured: BTreeMap<String, StoreId>,
    /// Whether any mirror may have a new store.
    allow_new_stores: bool,
}

/// The note about a mirror.
#[derive(Debug, Serialize, Deserialize)]
struct StoreRecord {
    location: String,
    store: StoreId,
    /// The release that was last pushed to the mirror from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<ReleaseName>,
}

impl KnownStores {
    /// The stores recorded in `dir`, and the configured stores, by mirror name. Without `dir`, only
    /// the latter are known.
    #[must_use]
    pub const fn new(dir: Option<PathBuf>, configured: BTreeMap<String, StoreId>) -> Self {
        Self { dir, configured, allow_new_stores: false }
    }

    /// If `init` is true, any mirror may have a new store.
    #[must_use]
    pub fn with_init(self, init: bool) -> Self {
        Self { allow_new_stores: init, ..self }
    }

    /// The store that a mirror must have; `None` if it is unknown, or if any mirror may have a new
    /// store.
    #[must_use]
    pub fn expected(&self, name: &str, location: &str) -> Option<ExpectedStore> {
        if self.allow_new_stores {
            return None;
        }
        let configured = self.configured.get(name).copied().map(ExpectedStore::Configured);
        configured.or_else(|| Some(ExpectedStore::Remembered(self.recorded(location)?.store)))
    }

    /// Returns an error if the store is not the known one.
    ///
    /// # Errors
    /// [`MirrorError::OtherStore`].
    pub fn check(
        &self,
        name: &str,
        location: &str,
        found: Option<StoreId>,
    ) -> Result<(), MirrorError> {
        match self.expected(name, location) {
            Some(expected) if found != Some(expected.id()) => {
                Err(MirrorError::OtherStore { expected, found })
            }
            _ => Ok(()),
        }
    }

    /// The release that was last pushed to a mirror from here; `None` if unknown.
    pub(crate) fn last_pushed_release(&self, location: &str) -> Option<ReleaseName> {
        self.recorded(location)?.release
    }

    /// Records the store of a mirror, and the `release` that was just pushed there, if any. Errors
    /// are ignored; the next push then lacks this record.
    pub(crate) fn record(&self, location: &str, store: StoreId, release: Option<ReleaseName>) {
        // A note about another store says nothing about this one.
        let noted = self.recorded(location).filter(|noted| noted.store == store);
        let release = release.or_else(|| noted.as_ref()?.release);
        let is_noted = noted.is_some_and(|noted| noted.release == release);
        let Some(path) = self.path_of(location).filter(|_| !is_noted) else { return };
        let note = StoreRecord { location: location_key(location), store, release };
        let bytes = serde_json::to_vec(&note).expect("a note has plain values");
        let dir = path.parent().unwrap_or(Path::new("."));
        fsx::create_dir_all(dir)
            .and_then(|()| fsx::replace_file(&path, |out| out.write_all(&bytes)))
            .ok();
    }

    fn path_of(&self, location: &str) -> Option<PathBuf> {
        // A hash, because a location may contain any character and be too long for a file name.
        let hash = blake3::hash(location_key(location).as_bytes()).to_hex();
        Some(self.dir.as_ref()?.join(format!("{}.json", &hash[..32])))
    }

    fn recorded(&self, location: &str) -> Option<StoreRecord> {
        let text = fsx::read_text(&self.path_of(location)?, MAX_RECORD_BYTES).ok()?;
        let note: StoreRecord = serde_json::from_str(&text).ok()?;
        (note.location == location_key(location)).then_some(note)
    }
}

/// A key for a location, independent of the working directory.
fn location_key(location: &str) -> String {
    match Location::parse(location) {
        Ok(Location::Directory(path)) => {
            let path = std::path::absolute(&path).unwrap_or(path);
            // `absolute` keeps a trailing slash, so the path is rebuilt from its components.
            path.components().collect::<PathBuf>().display().to_string()
        }
        _ => location.trim_end_matches('/').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_other_than_the_recorded_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| StoreId::random().unwrap());
        let stores =
            KnownStores::new(Some(dir.path().join("stores")), [("eu".to_owned(), second)].into());
        assert!(
            stores.check("a", "/srv/a", None).is_ok()
                && stores.check("a", "/srv/a", Some(first)).is_ok()
        );
        let release: ReleaseName = "7-0123456789abcdef".parse().unwrap();
        stores.record("/srv/./a/", first, Some(release));
        stores.record("/srv/a", first, None);
        stores.record("https://h:1/x/", second, None);
        assert_eq!(
            (stores.last_pushed_release("/srv/a"), stores.last_pushed_release("https://h:1/x")),
            (Some(release), None)
        );
        assert_eq!(
            (stores.expected("a", "/srv/a"), stores.expected("b", "https://h:1/x")),
            (Some(ExpectedStore::Remembered(first)), Some(ExpectedStore::Remembered(second)))
        );
        for found in [None, Some(second)] {
            let error = stores.check("a", "/srv/a", found).unwrap_err();
            let words = format!("remembers an earlier push to store {first}");
            assert!(error.to_string().contains(&words), "{error}");
            assert!(stores.clone().with_init(true).check("a", "/srv/a", found).is_ok());
        }
        assert!(stores.check("a", "/srv/a", Some(first)).is_ok());
        let error = stores.check("eu", "/srv/eu", Some(first)).unwrap_err().to_string();
        assert!(error.contains(&format!("the configuration names store {second}")), "{error}");
    }
}
