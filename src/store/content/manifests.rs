//! Stored manifests: one zstd frame each.

use std::fs::File;
use std::io::{BufReader, Write as _};

use crate::fsx::{self, Context as _, FileMode};
use crate::hash::ManifestId;
use crate::manifest::{Entry, ManifestError, ManifestReader, Totals, WINDOW_LOG_MAX};
use crate::store::layout::manifest_name;
use crate::store::open::LockedStore;
use crate::store::{Store, StoreError, is_damage, unless_damaged};

/// zstd level. Object ids are incompressible, and paths compress equally well at any level, so a
/// higher level gains nothing.
const LEVEL: i32 = 1;

/// The entries in a stored manifest. The id is checked at the end.
pub type ManifestStream = ManifestReader<zstd::Decoder<'static, BufReader<File>>>;

impl Store {
    /// Opens a manifest.
    ///
    /// # Errors
    /// Fails if the manifest is missing or its start is malformed. The stream reports any damage
    /// after the start.
    pub fn manifest(&self, id: &ManifestId) -> Result<ManifestStream, StoreError> {
        let decoder = self.manifest_bytes(id)?;
        ManifestReader::new(decoder, Some(*id)).map_err(self.manifest_error(id))
    }

    /// Opens a manifest's canonical bytes, without checking them.
    ///
    /// # Errors
    /// Fails if the manifest is missing.
    pub fn manifest_bytes(
        &self,
        id: &ManifestId,
    ) -> Result<zstd::Decoder<'static, BufReader<File>>, StoreError> {
        let name = manifest_name(id);
        let file = self.layout.manifests.open_file(&name)?;
        let mut decoder =
            zstd::Decoder::new(file).context("read", || self.layout.manifests.join(&name))?;
        decoder
            .window_log_max(WINDOW_LOG_MAX)
            .context("read", || self.layout.manifests.join(&name))?;
        Ok(decoder)
    }

    /// Opens a manifest's stored file, one zstd frame, without checking it.
    ///
    /// # Errors
    /// Fails if the manifest is missing.
    pub fn manifest_file(&self, id: &ManifestId) -> Result<File, StoreError> {
        Ok(self.layout.manifests.open_file(&manifest_name(id))?)
    }

    /// Converts an error from a manifest's stream into one that names the file.
    pub(in crate::store) fn manifest_error(
        &self,
        id: &ManifestId,
    ) -> impl Fn(ManifestError) -> StoreError + use<> {
        let path = self.layout.manifests.join(manifest_name(id));
        move |source| StoreError::Manifest { path: path.clone(), source }
    }

    /// The entries in a manifest. Errors name the file.
    pub(in crate::store) fn entries(
        &self,
        manifest: &ManifestId,
    ) -> Result<impl Iterator<Item = Result<Entry, StoreError>> + use<>, StoreError> {
        let to_store_error = self.manifest_error(manifest);
        Ok(self.manifest(manifest)?.map(move |entry| entry.map_err(&to_store_error)))
    }

    /// Reads a manifest to its end.
    ///
    /// # Errors
    /// [`StoreError::Manifest`] if it is missing or damaged; other errors if it cannot be read.
    pub(in crate::store) fn check_manifest(&self, id: &ManifestId) -> Result<(), StoreError> {
        let mut entries = match self.manifest(id) {
            // Reported as a manifest error, so that a missing file gets the kind `DamagedBase`. The
            // origin then sends everything without a base.
            Err(StoreError::Io(error)) if is_damage(&error.source) => {
                return Err(self.manifest_error(id)(ManifestError::Io(std::io::Error::other(
                    error,
                ))));
            }
            other => other?,
        };
        entries.try_for_each(|entry| entry.map(drop)).map_err(self.manifest_error(id))
    }

    /// Whether a manifest is present and intact.
    ///
    /// # Errors
    /// Fails if the manifest cannot be read.
    pub(in crate::store) fn is_manifest_intact(&self, id: &ManifestId) -> Result<bool, StoreError> {
        Ok(unless_damaged(self.check_manifest(id))?.is_some())
    }

    /// Whether a manifest is present. Does not check for damage.
    pub(in crate::store) fn has_manifest(&self, id: &ManifestId) -> Result<bool, StoreError> {
        Ok(self.layout.manifests.stat(&manifest_name(id))?.is_some())
    }
}

impl LockedStore<'_> {
    /// Writes a manifest to the temporary file `name`, without syncing it. `write` writes the
    /// uncompressed bytes.
    pub(in crate::store) fn write_manifest(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn std::io::Write) -> Result<Totals, StoreError>,
    ) -> Result<Totals, StoreError> {
        let tmp = &self.layout.tmp;
        let path = || tmp.join(name);
        tmp.unlink_if_any(name)?;
        let file = tmp.create_file(name)?;
        fsx::fault::mark_change("write", &path())?;
        let mut encoder = zstd::Encoder::new(&file, LEVEL).context("write", path)?;
        encoder.include_checksum(true).context("write", path)?;
        let mut out = std::io::BufWriter::with_capacity(64 * 1024, encoder);
        let totals = write(&mut out)?;
        out.flush().context("write", path)?;
        let encoder =
            out.into_inner().map_err(std::io::IntoInnerError::into_error).context("write", path)?;
        encoder.finish().context("write", path)?;
        fsx::set_metadata(&file, FileMode::RECORD, None, path)?;
        Ok(totals)
    }

    /// Renames the temporary manifest `name`, which must be durable, to its id. The rename is not
    /// synced.
    pub(in crate::store) fn adopt_manifest(
        &self,
        name: &str,
        id: &ManifestId,
    ) -> Result<(), StoreError> {
        Ok(self.layout.tmp.rename(name, &self.layout.manifests, &manifest_name(id))?)
    }
}
