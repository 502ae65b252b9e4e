//! `headwater.toml` as it is written: keys and types, nothing checked that
//! the types do not check. Texts carry where they stood.

use std::fmt;
use std::num::NonZeroU32;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor, value::SeqAccessDeserializer};
use toml::Spanned;

use super::notify::{RawHooks, RawMetrics, RawPing, RawPurge};
use super::{MaxRemoved, MtimeSource, NamePolicy, SymlinkMode};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) site: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "content")]
    pub(super) content: Vec<Content>,
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<String>>,
    pub(super) keep: Option<NonZeroU32>,
    #[serde(default, deserialize_with = "some")]
    pub(super) keep_removed: Vec<KeepRemoved>,
    #[serde(default)]
    pub(super) mtime: MtimeSource,
    #[serde(default)]
    pub(super) symlinks: SymlinkMode,
    #[serde(default)]
    pub(super) names: NamePolicy,
    #[serde(default)]
    pub(super) must_have: Vec<Spanned<String>>,
    #[serde(default, deserialize_with = "max_removed")]
    pub(super) max_removed: Option<MaxRemoved>,
    #[serde(default, deserialize_with = "some")]
    pub(super) mirror: Vec<Mirror>,
    pub(super) hooks: Option<RawHooks>,
    pub(super) purge: Option<RawPurge>,
    pub(super) ping: Option<Spanned<RawPing>>,
    pub(super) metrics: Option<RawMetrics>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `path` and `at`")]
pub(super) struct Content {
    pub(super) path: Spanned<String>,
    pub(super) at: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `match` and `for`")]
pub(super) struct KeepRemoved {
    #[serde(rename = "match")]
    pub(super) pattern: Spanned<String>,
    #[serde(rename = "for")]
    pub(super) keep: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `name` and `url`")]
pub(super) struct Mirror {
    pub(super) name: Spanned<String>,
    pub(super) url: Spanned<String>,
    pub(super) token_env: Option<Spanned<String>>,
    pub(super) token_file: Option<Spanned<String>>,
    pub(super) ca: Option<Spanned<String>>,
    pub(super) client_cert: Option<Spanned<String>>,
    pub(super) client_key: Option<Spanned<String>>,
    pub(super) proxy: Option<Spanned<String>>,
    pub(super) host_key: Option<Spanned<String>>,
    pub(super) bwlimit: Option<Spanned<String>>,
}

/// A list that has something in it: `mirror = []` says less than no key and
/// is most likely a template gone wrong. (`exclude = []` says what it means.)
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(deserializer)?;
    if list.is_empty() { Err(D::Error::custom("the list is empty: leave the key out")) } else { Ok(list) }
}

/// One text, or tables. Not an untagged enum: that would drop the messages
/// and the places of what is wrong inside.
fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Content>, D::Error> {
    struct PathOrTables;

    impl<'de> Visitor<'de> for PathOrTables {
        type Value = Vec<Content>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path, or [[content]] tables with `path` and `at`")
        }

        fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Self::Value, E> {
            if path.is_empty() {
                return Err(E::custom("the path is empty"));
            }
            Ok(vec![Content { path: Spanned::new(0..0, path.to_owned()), at: None }])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, tables: A) -> Result<Self::Value, A::Error> {
            some(SeqAccessDeserializer::new(tables))
        }
    }

    deserializer.deserialize_any(PathOrTables)
}

fn max_removed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MaxRemoved>, D::Error> {
    struct TextOrCount;

    impl Visitor<'_> for TextOrCount {
        type Value = MaxRemoved;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a percentage such as \"50%\", or a number of paths")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MaxRemoved, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<MaxRemoved, E> {
            let count = u64::try_from(count).map_err(|_| E::custom("must not be negative"))?;
            Ok(MaxRemoved::Count(count))
        }
    }

    deserializer.deserialize_any(TextOrCount).map(Some)
}
