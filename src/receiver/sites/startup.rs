//! Checks all sites when the receiver starts, and describes them for the banner.

use std::sync::Arc;

use crate::protocol::BannerSite;
use crate::receiver::sites::site::SiteState;
use crate::receiver::{AuthPolicy, Log, LogRecord, ServeError};
use crate::store::{Store, StoreError};

/// Checks the directories, so that a directory that cannot be used as configured is reported now
/// and not at the first push. A problem that may be temporary is logged and does not stop the other
/// sites. A site that belongs to another user can still be read, so it is refused only if `access`
/// allows a client to push to it.
///
/// # Errors
/// Returns the error of the first site whose path is not a directory, contains other files, or
/// belongs to a different site or another user.
pub(crate) fn check_sites(
    sites: &[Arc<SiteState>],
    access: &AuthPolicy,
    log: &dyn Log,
) -> Result<(), ServeError> {
    for site in sites {
        let path = site.settings.directory.clone();
        let is_pushed = access.allows_push(site.settings.name.as_ref());
        let check_owner = || if is_pushed { Store::check_owner_at(&path) } else { Ok(()) };
        match site.banner().and_then(|_| check_owner()) {
            Ok(()) => {}
            Err(
                source @ (StoreError::NotDirectory { .. }
                | StoreError::NotEmpty { .. }
                | StoreError::OtherSite { .. }
                | StoreError::OtherOwner { .. }),
            ) => {
                return Err(ServeError::Site { path, source });
            }
            Err(error) => {
                let (directory, message) = (path.display().to_string(), error.to_string());
                log.record(&LogRecord::SiteFailed { directory, message });
            }
        }
    }
    Ok(())
}

/// Returns the description of each site for the banner. A missing directory of a store can be
/// repaired, so it is not an error here: the responses of the store name the directory.
///
/// # Errors
/// Returns the error of the first site whose directory cannot be a mirror, or belongs to a
/// different site.
pub(crate) fn banners(sites: &[Arc<SiteState>]) -> Result<Vec<BannerSite>, ServeError> {
    let banner = |site: &Arc<SiteState>| match site.banner() {
        Err(StoreError::MissingDirectory { .. }) => Ok(site.banner_of(None)),
        other => other
            .map_err(|source| ServeError::Site { path: site.settings.directory.clone(), source }),
    };
    sites.iter().map(banner).collect()
}
