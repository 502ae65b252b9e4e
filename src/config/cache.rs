//! What the file says of the content that the origin keeps: `[cache]`.

use std::num::NonZeroU32;

use bytesize::ByteSize;
use serde::Deserialize;
use toml::Spanned;

use super::{Checker, ConfigError};

/// How much content of old releases the origin keeps; what is not said is for the push to choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// At most so many bytes; 0 keeps none.
    pub content_bytes: Option<u64>,
    /// Of so many releases.
    pub releases: Option<NonZeroU32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `content` and `releases`")]
pub(super) struct RawCache {
    content: Option<Spanned<String>>,
    releases: Option<NonZeroU32>,
}

impl Checker<'_> {
    pub(super) fn cache(&self, table: &RawCache) -> Result<CacheConfig, ConfigError> {
        let size = |text: &Spanned<String>| match text.as_ref().parse::<ByteSize>() {
            Ok(size) => Ok(size.as_u64()),
            Err(_) => {
                Err(self.error(text.span(), "a size is written as in \"8GiB\" or \"500MB\"; \"0\" keeps nothing"))
            }
        };
        Ok(CacheConfig { content_bytes: table.content.as_ref().map(size).transpose()?, releases: table.releases })
    }
}
