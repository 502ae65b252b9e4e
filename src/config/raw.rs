//! `headwater.toml` as it is written: keys and types, without further checks. Strings keep their
//! position in the file.

use std::fmt;
use std::marker::PhantomData;
use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor, value::SeqAccessDeserializer};
use toml::{Spanned, Value};

use super::cache::RawCache;
use super::notify::{RawHooks, RawMetrics, RawPurge};
use crate::push::{LevelChoice, MaxRemoved, MtimeSource, OnFailure, Require};
use crate::scan::{NameRule, SymlinkMode};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) site: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "content")]
    pub(super) content: Vec<RawContent>,
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<String>>,
    pub(super) keep: Option<NonZeroU32>,
    #[serde(default, deserialize_with = "some")]
    pub(super) keep_removed: Vec<RawKeepRemoved>,
    #[serde(default)]
    pub(super) mtime: MtimeSource,
    #[serde(default)]
    pub(super) symlinks: SymlinkMode,
    #[serde(default)]
    pub(super) names: NameRule,
    #[serde(default)]
    pub(super) must_have: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) allow_secrets: Vec<Spanned<String>>,
    #[serde(default, deserialize_with = "max_removed")]
    pub(super) max_removed: Option<MaxRemoved>,
    pub(super) hooks: Option<RawHooks>,
    pub(super) purge: Option<RawPurge>,
    pub(super) metrics: Option<RawMetrics>,
    #[serde(default)]
    pub(super) cache: RawCache,
    #[serde(default, deserialize_with = "some")]
    pub(super) mirror: Vec<Spanned<RawMirror>>,
    #[serde(default)]
    pub(super) mirror_defaults: RawMirror,
    pub(super) mirrors_from: Option<Spanned<Value>>,
    #[serde(default)]
    pub(super) token_envs: Vec<Spanned<String>>,
    pub(super) allowed_hosts: Option<Vec<Spanned<String>>>,
    #[serde(default, deserialize_with = "some")]
    pub(super) wave: Vec<RawWave>,
    #[serde(default, deserialize_with = "require")]
    pub(super) require: Option<Require>,
    #[serde(default)]
    pub(super) on_failure: OnFailure,
    #[serde(default, deserialize_with = "level")]
    pub(super) level: Option<LevelChoice>,
    pub(super) jobs: Option<NonZeroUsize>,
    pub(super) wait: Option<Spanned<String>>,
    pub(super) max_parallel: Option<NonZeroUsize>,
    pub(super) bwlimit: Option<Spanned<String>>,
    pub(super) deadline: Option<Spanned<String>>,
    pub(super) ssh_command: Option<Spanned<String>>,
    pub(super) receive_command: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `path` and `at`")]
pub(super) struct RawContent {
    pub(super) path: Spanned<String>,
    pub(super) at: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `match` and `for`")]
pub(super) struct RawKeepRemoved {
    #[serde(rename = "match")]
    pub(super) pattern: Spanned<String>,
    #[serde(rename = "for")]
    pub(super) keep: Spanned<String>,
}

/// The settings for one mirror, or the settings that all mirrors share.
#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields, expecting = "a table with `name` and `url`")]
pub(super) struct RawMirror {
    pub(super) name: Option<Spanned<String>>,
    pub(super) url: Option<Spanned<String>>,
    pub(super) group: Option<Spanned<String>>,
    pub(super) region: Option<Spanned<String>>,
    pub(super) weight: Option<NonZeroU32>,
    pub(super) public_url: Option<Spanned<String>>,
    pub(super) frozen: Option<Spanned<bool>>,
    pub(super) until: Option<Spanned<Value>>,
    pub(super) token_env: Option<Spanned<String>>,
    pub(super) token_file: Option<Spanned<String>>,
    pub(super) ca: Option<Spanned<String>>,
    pub(super) client_cert: Option<Spanned<String>>,
    pub(super) client_key: Option<Spanned<String>>,
    pub(super) proxy: Option<Spanned<String>>,
    pub(super) host_key: Option<Spanned<String>>,
    pub(super) ssh_command: Option<Spanned<String>>,
    pub(super) receive_command: Option<Spanned<String>>,
    pub(super) store: Option<Spanned<String>>,
    pub(super) bwlimit: Option<Spanned<String>>,
    pub(super) deadline: Option<Spanned<String>>,
}

impl RawMirror {
    /// Returns a copy in which `text` replaces each `place` in the strings.
    pub(super) fn with_placeholder_replaced(&self, place: &str, text: &str) -> Self {
        let mut replaced = self.clone();
        // `name` and `store` are missing, because the defaults must not contain them.
        let strings = [
            &mut replaced.url,
            &mut replaced.group,
            &mut replaced.region,
            &mut replaced.public_url,
            &mut replaced.token_env,
            &mut replaced.token_file,
            &mut replaced.ca,
            &mut replaced.client_cert,
            &mut replaced.client_key,
            &mut replaced.proxy,
            &mut replaced.host_key,
            &mut replaced.ssh_command,
            &mut replaced.receive_command,
            &mut replaced.bwlimit,
            &mut replaced.deadline,
        ];
        for string in strings.into_iter().flatten() {
            *string = Spanned::new(string.span(), string.as_ref().replace(place, text));
        }
        replaced
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `groups`, `soak` and `probe`")]
pub(super) struct RawWave {
    pub(super) groups: Spanned<Vec<Spanned<String>>>,
    pub(super) soak: Option<Spanned<String>>,
    pub(super) probe: Option<Spanned<Value>>,
}

/// Parses a list that must not be empty: `mirror = []` makes no sense, and probably comes from a
/// broken template. (`exclude = []` has a clear meaning.)
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(deserializer)?;
    if list.is_empty() {
        Err(D::Error::custom("the list is empty: leave the key out"))
    } else {
        Ok(list)
    }
}

/// Parses one string, or tables. Not an untagged enum, which would lose the messages and positions
/// of inner errors.
fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RawContent>, D::Error> {
    struct PathOrTables;

    impl<'de> Visitor<'de> for PathOrTables {
        type Value = Vec<RawContent>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path, or [[content]] tables with `path` and `at`")
        }

        fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Self::Value, E> {
            if path.is_empty() {
                return Err(E::custom("the path is empty"));
            }
            // A visitor does not know the position.
            Ok(vec![RawContent { path: Spanned::new(0..0, path.to_owned()), at: None }])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, tables: A) -> Result<Self::Value, A::Error> {
            some(SeqAccessDeserializer::new(tables))
        }
    }

    deserializer.deserialize_any(PathOrTables)
}

fn max_removed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MaxRemoved>, D::Error> {
    text_or_count(deserializer, "a percentage such as \"50%\", or a number of paths")
}

fn require<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Require>, D::Error> {
    text_or_count(
        deserializer,
        "\"all\", \"any\", a number of mirrors, or a percentage such as \"80%\"",
    )
}

fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LevelChoice>, D::Error> {
    text_or_count(deserializer, "`auto`, `raw`, or a number from 1 to 19")
}

/// Parses a value written as a string, or as a plain number if it is a number.
fn text_or_count<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expecting: &'static str,
) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: fmt::Display>,
{
    // TOML has numbers, and a user may write `require = 2` as well as `require = "80%"`. Both are
    // parsed as the string that a flag accepts.
    struct TextOrCount<T>(&'static str, PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for TextOrCount<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<T, E> {
            self.visit_str(&count.to_string())
        }
    }

    deserializer.deserialize_any(TextOrCount(expecting, PhantomData)).map(Some)
}
