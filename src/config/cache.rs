//! What the file says of the cache of the origin: `[cache]`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Deserialize;
use toml::Spanned;

use super::{Checker, ConfigError};

/// The location of the origin's cache and how much content of old releases it keeps; `None` leaves
/// the choice to the command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// The directory.
    pub dir: Option<PathBuf>,
    /// Maximum bytes of content; 0 keeps none.
    pub content_bytes: Option<u64>,
    /// The number of releases whose content is kept.
    pub releases: Option<NonZeroU32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `dir`, `content` and `releases`")]
pub(super) struct RawCache {
    dir: Option<Spanned<String>>,
    content: Option<Spanned<String>>,
    releases: Option<NonZeroU32>,
}

impl Checker<'_> {
    pub(super) fn cache(&self, table: &RawCache) -> Result<CacheConfig, ConfigError> {
        let size = |text: &Spanned<String>| match text.as_ref().parse::<ByteSize>() {
            Ok(size) => Ok(size.as_u64()),
            Err(_) => Err(self.error(
                text.span(),
                "a size is written as in \"8GiB\" or \"500MB\"; \"0\" keeps nothing",
            )),
        };
        let dir = match &table.dir {
            Some(dir) if dir.as_ref().trim().is_empty() => {
                return Err(self.error(dir.span(), "the path is empty"));
            }
            dir => dir.as_ref().map(|dir| self.base.join(dir.as_ref())),
        };
        Ok(CacheConfig {
            dir,
            content_bytes: table.content.as_ref().map(size).transpose()?,
            releases: table.releases,
        })
    }
}
