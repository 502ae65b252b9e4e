//! Notifications in the configuration: `[hooks]`, `[purge]`, `[metrics]`.
//!
//! The configuration names secrets but never contains them: they are in an environment variable or
//! a file.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use toml::Spanned;

use super::{Checker, ConfigError, TokenSource};
use crate::mirror::{PublicUrl, has_token};
use crate::web::is_encrypted_or_local;

/// Default time limit of a hook.
const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a failed purge request is repeated by default.
const DEFAULT_RETRY_FOR: Duration = Duration::from_secs(300);
/// Default maximum number of URLs in a request; most CDNs accept this many.
const DEFAULT_MAX_URLS: NonZeroUsize = NonZeroUsize::new(30).expect("30 is not 0");
/// Default maximum size of a request, in bytes.
const DEFAULT_MAX_BYTES: u64 = 64 * 1024;

/// Notifications about changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifyConfig {
    /// Commands that run on the origin.
    pub hooks: HooksConfig,
    /// A CDN that must drop the changed content.
    pub purge: Option<PurgeConfig>,
    /// The file for the gauges, which each push replaces.
    pub metrics: Option<PathBuf>,
}

impl NotifyConfig {
    /// The environment variables that contain the secrets of the notifications.
    pub(super) fn secret_variables(&self) -> impl Iterator<Item = &str> {
        let purge = self.purge.as_ref().and_then(|purge| purge.token.as_ref());
        purge.into_iter().filter_map(TokenSource::variable)
    }
}

/// Commands that run on the origin after a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksConfig {
    /// Runs if something changed on a mirror: program and arguments.
    pub on_activated: Option<Vec<String>>,
    /// Runs if a push did not succeed on all mirrors: program and arguments.
    pub on_failed: Option<Vec<String>>,
    /// How long each command may take.
    pub timeout: Duration,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self { on_activated: None, on_failed: None, timeout: DEFAULT_HOOK_TIMEOUT }
    }
}

/// How to purge a CDN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeConfig {
    /// The URL that lists of URLs are posted to.
    pub url: String,
    /// The public URLs below which the tree is served; at least one.
    pub bases: Vec<String>,
    /// The source of the token.
    pub token: Option<TokenSource>,
    /// The name of the header that contains the token.
    pub header: String,
    /// The key of the list in the posted object.
    pub key: String,
    /// Maximum number of URLs in a request.
    pub max_urls: NonZeroUsize,
    /// Maximum size of a request, in bytes.
    pub max_bytes: u64,
    /// How long an unacknowledged request is repeated.
    pub retry_for: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `on_activated` and `on_failed`")]
pub(super) struct RawHooks {
    on_activated: Option<Spanned<Vec<String>>>,
    on_failed: Option<Spanned<Vec<String>>>,
    timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `url` and `base`")]
pub(super) struct RawPurge {
    url: Spanned<String>,
    base: Spanned<OneOrMany>,
    token_env: Option<Spanned<String>>,
    token_file: Option<Spanned<String>>,
    header: Option<Spanned<String>>,
    key: Option<String>,
    max_urls: Option<NonZeroUsize>,
    max_bytes: Option<Spanned<String>>,
    retry_for: Option<Spanned<String>>,
}

#[derive(Deserialize)]
// An untagged enum loses positions inside the value. There are none here: both forms are plain
// strings.
#[serde(untagged, expecting = "a URL, or a list of them")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `file`")]
pub(super) struct RawMetrics {
    file: PathBuf,
}

/// The tables as written in the file.
#[derive(Default)]
pub(super) struct RawNotify {
    pub(super) hooks: Option<RawHooks>,
    pub(super) purge: Option<RawPurge>,
    pub(super) metrics: Option<RawMetrics>,
}

impl Checker<'_> {
    pub(super) fn notify(&self, raw: RawNotify) -> Result<NotifyConfig, ConfigError> {
        Ok(NotifyConfig {
            hooks: raw.hooks.map(|hooks| self.hooks(hooks)).transpose()?.unwrap_or_default(),
            purge: raw.purge.map(|purge| self.purge(&purge)).transpose()?,
            metrics: raw.metrics.map(|metrics| self.base_dir.join(metrics.file)),
        })
    }

    fn hooks(&self, raw: RawHooks) -> Result<HooksConfig, ConfigError> {
        let command = |words: Option<Spanned<Vec<String>>>| match words {
            Some(words)
                if words.as_ref().first().is_none_or(|program| program.trim().is_empty()) =>
            {
                Err(self.error(
                    words.span(),
                    "a command is written as in [\"./after.sh\", \"argument\"]",
                ))
            }
            words => Ok(words.map(|words| {
                let mut words = words.into_inner();
                // A bare name is searched for in `PATH`, as in a shell.
                if let Some(program) = words.first_mut().filter(|program| program.contains('/')) {
                    *program = self.base_dir.join(&*program).to_string_lossy().into_owned();
                }
                words
            })),
        };
        Ok(HooksConfig {
            on_activated: command(raw.on_activated)?,
            on_failed: command(raw.on_failed)?,
            timeout: self.duration_or(raw.timeout.as_ref(), DEFAULT_HOOK_TIMEOUT)?,
        })
    }

    fn purge(&self, raw: &RawPurge) -> Result<PurgeConfig, ConfigError> {
        let url = self.check_web_url(raw.url.as_ref(), &raw.url)?;
        let token =
            self.secret_source(("token_env", &raw.token_env), ("token_file", &raw.token_file))?;
        // The query of a URL often contains a key.
        if (token.is_some() || url.contains('?')) && !is_encrypted_or_local(&url) {
            return Err(self.error(
                raw.url.span(),
                "a token or a query is sent only over https:, except to this machine",
            ));
        }
        let bases: Vec<&String> = match raw.base.as_ref() {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many.iter().collect(),
        };
        if bases.is_empty() {
            return Err(self.error(
                raw.base.span(),
                "`base` is the public url of the tree, as in https://www.example.org",
            ));
        }
        let header = raw.header.as_ref().map_or("authorization", |header| header.as_ref().as_str());
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if header.is_empty() || !header.chars().all(is_name) {
            let span = raw.header.as_ref().map_or(0..0, Spanned::span);
            return Err(self.error(span, "`header` is the name of a header"));
        }
        let max_bytes = match &raw.max_bytes {
            None => DEFAULT_MAX_BYTES,
            Some(size) => size
                .as_ref()
                .parse::<ByteSize>()
                .map(|size| size.as_u64())
                .ok()
                .filter(|size| *size > 0)
                .ok_or_else(|| self.error(size.span(), "a size is written as in \"64kB\""))?,
        };
        Ok(PurgeConfig {
            url,
            bases: bases
                .into_iter()
                .map(|base| self.check_web_url(base, &raw.base))
                .collect::<Result<_, _>>()?,
            token,
            header: header.to_owned(),
            key: raw.key.clone().unwrap_or_else(|| "files".to_owned()),
            max_urls: raw.max_urls.unwrap_or(DEFAULT_MAX_URLS),
            max_bytes,
            retry_for: self.duration_or(raw.retry_for.as_ref(), DEFAULT_RETRY_FOR)?,
        })
    }

    /// The source of a secret, named by one of two keys.
    fn secret_source(
        &self,
        env: (&str, &Option<Spanned<String>>),
        file: (&str, &Option<Spanned<String>>),
    ) -> Result<Option<TokenSource>, ConfigError> {
        let given = [env.1, file.1].into_iter().flatten().find(|text| {
            text.as_ref().trim().is_empty()
                // The user wrote a URL where the name of a variable or a file was expected.
                || text.as_ref().contains("://")
                || has_token(text.as_ref())
        });
        if let Some(text) = given {
            return Err(self.error(
                text.span(),
                format!(
                    "`{}` and `{}` name the variable or the file of a secret, not the secret \
                     itself",
                    env.0, file.0
                ),
            ));
        }
        match (env.1, file.1) {
            (Some(_), Some(second)) => {
                Err(self
                    .error(second.span(), format!("write `{}` or `{}`, not both", env.0, file.0)))
            }
            (Some(name), None) => Ok(Some(TokenSource::Variable(name.as_ref().clone()))),
            (None, Some(path)) => Ok(Some(TokenSource::File(self.base_dir.join(path.as_ref())))),
            (None, None) => Ok(None),
        }
    }

    /// Checks a plain URL: it must not contain anything that could be a secret.
    fn check_web_url<T>(&self, url: &str, at: &Spanned<T>) -> Result<String, ConfigError> {
        // Some endpoints need a query.
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        if PublicUrl::parse(place).is_some()
            && query.bytes().all(|byte| byte.is_ascii_graphic())
            && !has_token(query)
        {
            return Ok(url.to_owned());
        }
        Err(self.error(
            at.span(),
            "this is not a url such as https://host/path, without a user name or a secret",
        ))
    }

    fn duration_or(
        &self,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        text.map_or(Ok(default), |text| self.duration(text))
    }
}
