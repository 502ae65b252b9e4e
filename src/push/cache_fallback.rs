//! Runs a push without its cache if the cache's disk is full.

use crate::error_kind::ErrorKind;
use crate::manifest::ManifestError;
use crate::origin::ScratchLocation;
use crate::packing::BuildError;
use crate::push::PushError;
use crate::push::options::Options;
use crate::text::error_chain;

/// Runs `work`. If the cache's disk is full, runs it again with a temporary directory in place of
/// the cache: the cache only saves time, so a full cache must not make a push fail.
pub(super) fn with_cache_or_without<T>(
    options: &Options,
    work: impl Fn(&Options) -> Result<T, PushError>,
) -> Result<T, PushError> {
    let result = work(options);
    let Err(error) = &result else { return result };
    let Some(why) = disk_full_reason(error, &options.scratch) else { return result };
    let mut options = options.clone();
    options.scratch.directory = Err(why);
    work(&options)
}

/// Why the cache cannot hold the files of a push; `None` if `error` has a different cause.
fn disk_full_reason(error: &PushError, location: &ScratchLocation) -> Option<String> {
    let directory = location.directory.as_ref().ok()?;
    let is_disk_full =
        |kind| matches!(ErrorKind::of_io(kind), ErrorKind::NoSpace | ErrorKind::FileTooLarge);
    match error {
        PushError::Io(error) | PushError::Build(BuildError::Io(error)) => {
            (is_disk_full(error.kind()) && error.path.starts_with(directory))
                .then(|| error_chain(error))
        }
        // The new manifest is written to the scratch directory.
        PushError::NewManifest(ManifestError::Io(error)) if is_disk_full(error.kind()) => {
            Some(format!("cannot write {}: {error}", directory.display()))
        }
        _ => None,
    }
}
