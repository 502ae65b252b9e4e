//! The settings for the origin's cache: `[cache]`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Deserialize;
use toml::Spanned;

use super::{Checker, ConfigError};
use crate::push::KeepContent;

/// The location of the origin's cache and how much content of old releases it keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// The directory; `None` leaves the choice to the command.
    pub dir: Option<PathBuf>,
    /// How much content is kept.
    pub keep: KeepContent,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `dir`, `content` and `releases`")]
pub(super) struct RawCache {
    dir: Option<Spanned<String>>,
    content: Option<Spanned<String>>,
    releases: Option<NonZeroUsize>,
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
            dir => dir.as_ref().map(|dir| self.base_dir.join(dir.as_ref())),
        };
        let mut keep = KeepContent::default();
        if let Some(releases) = table.releases {
            keep.releases = releases.get();
        }
        if let Some(content) = &table.content {
            keep.max_bytes = size(content)?;
        }
        Ok(CacheConfig { dir, keep })
    }
}
