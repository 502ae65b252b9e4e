//! The settings for the mirrors as a fleet: their names and groups, the settings they share, which
//! mirrors switch first, and how many must be ready.
//!
//! This module does not read the clock: the caller passes the time to [`MirrorConfig::is_frozen`].

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::tz::TimeZone;
use toml::{Spanned, Value};

use super::list_rules::ListRules;
use super::mirror_list::{self, ListReader};
use super::{Checker, ConfigError, MirrorAccess, TokenSource, raw};
use crate::hash::StoreId;
use crate::mirror::{Location, PublicUrl};

/// Maximum length of the name of a mirror or a group, in bytes: it must fit in a progress line.
const MAX_NAME_BYTES: usize = 64;

/// The placeholder for the mirror's name in URLs, and in each string of `[mirror_defaults]`.
pub(super) const NAME_PLACEHOLDER: &str = "{name}";

/// A mirror and its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorConfig {
    /// The name of the mirror.
    pub name: MirrorName,
    /// The location: a URL, or a path that contains a `/`.
    pub url: String,
    /// How the mirror is reached, if it is on another machine.
    pub access: MirrorAccess,
    /// The group that the mirror belongs to.
    pub group: Option<Label>,
    /// The region, for clients that choose the nearest mirror.
    pub region: Option<Label>,
    /// The mirror's share of visitors, relative to the weights of the others.
    pub weight: NonZeroU32,
    /// The store that the mirror must have; `None` if the user did not configure one.
    pub store: Option<StoreId>,
    /// The URL at which visitors find the tree.
    pub public_url: Option<PublicUrl>,
    /// How long the mirror is frozen; `None` if it is not.
    pub frozen: Option<Frozen>,
}

impl MirrorConfig {
    /// The environment variable that contains the mirror's token, if the token is in a variable.
    pub(super) fn token_variable(&self) -> Option<&str> {
        self.access.token.as_ref().and_then(TokenSource::variable)
    }

    /// Whether the mirror is frozen at the time `now`.
    #[must_use]
    pub fn is_frozen(&self, now: u64) -> bool {
        match self.frozen {
            None => false,
            Some(Frozen::Always) => true,
            Some(Frozen::Until(until)) => now < until,
        }
    }
}

/// How long a mirror is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// Until the configuration changes.
    Always,
    /// Until this time, in seconds since 1970.
    Until(u64),
}

/// A name for a mirror: visible characters, no `/` and no space, not
/// beginning with `-` or `.`, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorName(Box<str>);

/// The name of a group or a region: it follows the rules for mirror names, and contains no comma.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<str>);

/// The string is not a valid name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a {what}'s name has 1 to 64 visible characters, no '/', ',' or space, and does not begin with \
     '-' or '.'"
)]
pub struct NameError {
    what: &'static str,
}

/// Checks a name that is used in arguments, where `/` means a path and `,` separates two names.
fn check_name(text: &str, what: &'static str) -> Result<Box<str>, NameError> {
    let bad = |c: char| c == '/' || c == ',' || c.is_whitespace() || c.is_control();
    // In arguments, `-` begins a flag, and `.` the name of a directory.
    if text.is_empty()
        || text.len() > MAX_NAME_BYTES
        || text.starts_with(['-', '.'])
        || text.contains(bad)
    {
        return Err(NameError { what });
    }
    Ok(text.into())
}

impl MirrorName {
    /// Checks `text` and turns it into a name.
    ///
    /// # Errors
    /// Fails if `text` breaks a rule.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name(text, "mirror").map(Self)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MirrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Label {
    /// Checks `text` and turns it into a name.
    ///
    /// # Errors
    /// Fails if `text` breaks a rule.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name(text, "group").map(Self)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Mirrors that switch together, after the earlier waves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveConfig {
    /// The groups of these mirrors.
    pub groups: Vec<Label>,
    /// How long these mirrors serve the release before the probes run and the next wave starts.
    pub soak: Duration,
    /// Probes that must succeed after the soak: public URLs, or paths below the public URL of each
    /// mirror.
    pub probes: Vec<String>,
}

/// The list of mirrors that supplements the file.
pub(super) struct MirrorList<'a> {
    pub(super) from: Option<&'a Spanned<Value>>,
    pub(super) read: ListReader,
    pub(super) rules: ListRules,
    /// The environment variables that the file names as sources of secrets, except those for
    /// mirrors.
    pub(super) secret_variables: Vec<String>,
}

/// The mirrors found so far, and the values that no two of them may share.
struct Roster<'a> {
    defaults: &'a raw::RawMirror,
    mirrors: Vec<MirrorConfig>,
    names_by_location: BTreeMap<String, MirrorName>,
}

impl Checker<'_> {
    pub(super) fn mirrors(
        &self,
        tables: Vec<Spanned<raw::RawMirror>>,
        defaults: &raw::RawMirror,
        list: &MirrorList<'_>,
    ) -> Result<Vec<MirrorConfig>, ConfigError> {
        if let Some(name) = &defaults.name {
            return Err(self.error(name.span(), "each mirror has a name of its own"));
        }
        if let Some(store) = &defaults.store {
            return Err(self.error(store.span(), "each mirror has a store of its own"));
        }
        let mut roster =
            Roster { defaults, mirrors: Vec::new(), names_by_location: BTreeMap::new() };
        // Errors in `[mirror_defaults]` are reported at that table, even if no mirror uses the key.
        self.parse_access(defaults)?;
        self.public_url(defaults.public_url.as_ref(), "name")?;
        self.frozen(defaults)?;
        for table in tables {
            let span = table.span();
            let missing =
                |key: &str| self.error(span.start..span.start, format!("missing field `{key}`"));
            self.add(&mut roster, &table.into_inner(), missing)?;
        }
        // Added after the file's tables, so that if a name is in both, the error is about the list.
        self.add_listed(&mut roster, list)?;
        self.check_groups(roster.mirrors)
    }

    fn add_listed(
        &self,
        roster: &mut Roster<'_>,
        list: &MirrorList<'_>,
    ) -> Result<(), ConfigError> {
        let Some(from) = list.from else { return Ok(()) };
        // All secret variables that the file has named so far. The command that lists the mirrors
        // inherits none of them.
        let mut secret_variables = list.secret_variables.clone();
        secret_variables.extend(
            roster.mirrors.iter().filter_map(MirrorConfig::token_variable).map(str::to_owned),
        );
        secret_variables
            .extend(roster.defaults.token_env.as_ref().map(|name| name.as_ref().clone()));
        secret_variables.extend_from_slice(list.rules.token_envs());
        let source = self.list_source(from, secret_variables)?;
        for line in mirror_list::lines(&(list.read)(&source, self.base_dir)?, &source)? {
            line.check(self.base_dir, |checker, table| {
                // Checked before the line is used: another team may write the list.
                checker.forbid_local_command(&table)?;
                let name = table.name.as_ref().map_or("", |name| name.as_ref());
                let defaults = &roster.defaults.with_placeholder_replaced(NAME_PLACEHOLDER, name);
                checker.only_allowed_secrets(&table, defaults, &list.rules)?;
                let missing = |key: &str| checker.error(0..0, format!("missing field `{key}`"));
                checker.add(roster, &table, missing)?;
                match (roster.mirrors.last(), &table.name) {
                    (Some(mirror), Some(name)) => {
                        checker.only_allowed_hosts(&mirror.url, name, &list.rules)
                    }
                    _ => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    fn add(
        &self,
        roster: &mut Roster<'_>,
        table: &raw::RawMirror,
        missing: impl Fn(&str) -> ConfigError,
    ) -> Result<(), ConfigError> {
        let name = table.name.as_ref().ok_or_else(|| missing("name"))?;
        self.check_name_in_commands(roster.defaults, name)?;
        let (text, name_span) = (name.as_ref(), name.span());
        let name =
            MirrorName::new(text).map_err(|error| self.error(name.span(), error.to_string()))?;
        if roster.mirrors.iter().any(|earlier| earlier.name == name) {
            return Err(self.error(name_span, format!("there is already a mirror named {text:?}")));
        }
        let defaults = &roster.defaults.with_placeholder_replaced(NAME_PLACEHOLDER, text);
        let url = table.url.as_ref().or(defaults.url.as_ref()).ok_or_else(|| missing("url"))?;
        // An error in the shared URL is reported at the mirror that it affects.
        let span = table.url.as_ref().map_or(name_span, Spanned::span);
        let url =
            self.url(&Spanned::new(span.clone(), url.as_ref().replace(NAME_PLACEHOLDER, text)))?;
        // A mirror with two names would be pushed to twice at the same time, and counted twice.
        if let Some(other) = roster.names_by_location.insert(canonical_location(&url), name.clone())
        {
            return Err(
                self.error(span, format!("the mirror {:?} has the same url", other.as_str()))
            );
        }
        let label = |own: &Option<Spanned<String>>, defaults: &Option<Spanned<String>>| {
            let label = own.as_ref().or(defaults.as_ref());
            label.map(|label| {
                Label::new(label.as_ref())
                    .map_err(|error| self.error(label.span(), error.to_string()))
            })
        };
        let mirror = MirrorConfig {
            access: self.resolve_access(&url, table, &self.parse_access(defaults)?)?,
            url,
            group: label(&table.group, &defaults.group).transpose()?,
            region: label(&table.region, &defaults.region).transpose()?,
            store: table.store.as_ref().map(|id| self.store(id)).transpose()?,
            // By default, all mirrors have equal shares.
            weight: table.weight.or(defaults.weight).unwrap_or(NonZeroU32::MIN),
            public_url: self
                .public_url(table.public_url.as_ref().or(defaults.public_url.as_ref()), text)?,
            // Both keys together: a table that only sets `frozen = false` must not get `until` from
            // the defaults.
            frozen: if table.frozen.is_some() || table.until.is_some() {
                self.frozen(table)?
            } else {
                self.frozen(defaults)?
            },
            name,
        };
        roster.mirrors.push(mirror);
        Ok(())
    }

    fn store(&self, id: &Spanned<String>) -> Result<StoreId, ConfigError> {
        let words = "the id of a store has 32 lower-case hexadecimal digits; it is in the mirror's \
                     .headwater/format";
        id.as_ref().parse().map_err(|_| self.error(id.span(), words))
    }

    /// A name after --only is the name of a mirror or of a group, never of both.
    fn check_groups(&self, mirrors: Vec<MirrorConfig>) -> Result<Vec<MirrorConfig>, ConfigError> {
        let is_group = |name: &str| {
            mirrors
                .iter()
                .any(|mirror| mirror.group.as_ref().is_some_and(|group| group.as_str() == name))
        };
        match mirrors.iter().find(|mirror| is_group(mirror.name.as_str())) {
            Some(both) => Err(self.error(
                // No position: one of the two names may come from a list.
                0..0,
                format!("{:?} is the name of a mirror and of a group", both.name.as_str()),
            )),
            None => Ok(mirrors),
        }
    }

    /// Returns a URL unchanged, and a path relative to the directory of the file. The path always
    /// contains a `/`.
    fn url(&self, url: &Spanned<String>) -> Result<String, ConfigError> {
        let text: &str = url.as_ref();
        if text.trim().is_empty() {
            return Err(self.error(url.span(), "the url is empty"));
        }
        if text.contains("://") {
            return Ok(text.to_owned());
        }
        // Always with a `/`, so that a location is never mistaken for a name.
        let path = self.base_dir.join(text);
        let path = path
            .to_str()
            .ok_or_else(|| self.error(url.span(), "the path to this file is not UTF-8"))?;
        Ok(path.to_owned())
    }

    fn public_url(
        &self,
        url: Option<&Spanned<String>>,
        name: &str,
    ) -> Result<Option<PublicUrl>, ConfigError> {
        let Some(url) = url else { return Ok(None) };
        let parsed = PublicUrl::parse(&url.as_ref().replace(NAME_PLACEHOLDER, name));
        let words = "a public url is https://host[:port][/path], without user, query or fragment";
        parsed.map(Some).ok_or_else(|| self.error(url.span(), words))
    }

    fn frozen(&self, table: &raw::RawMirror) -> Result<Option<Frozen>, ConfigError> {
        let is_frozen = table.frozen.as_ref().is_some_and(|frozen| *frozen.as_ref());
        match &table.until {
            Some(until) if !is_frozen => {
                Err(self.error(until.span(), "`until` goes with `frozen = true`"))
            }
            Some(until) => self.time(until).map(Frozen::Until).map(Some),
            None => Ok(is_frozen.then_some(Frozen::Always)),
        }
    }

    /// A date or a time, in seconds since 1970. A time without an offset is in UTC.
    fn time(&self, value: &Spanned<Value>) -> Result<u64, ConfigError> {
        let text = match value.as_ref() {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        // UTC, because the same file must mean the same on every machine.
        let civil =
            || text.parse::<jiff::civil::DateTime>().and_then(|time| time.to_zoned(TimeZone::UTC));
        let time =
            text.parse::<jiff::Timestamp>().or_else(|_| civil().map(|time| time.timestamp()));
        let seconds = time.ok().and_then(|time| u64::try_from(time.as_second()).ok());
        seconds.ok_or_else(|| {
            self.error(value.span(), "a time is written as in 2026-12-24 or 2026-12-24T18:00:00Z")
        })
    }

    pub(super) fn waves(
        &self,
        tables: Vec<raw::RawWave>,
        mirrors: &[MirrorConfig],
    ) -> Result<Vec<WaveConfig>, ConfigError> {
        let mut waves: Vec<WaveConfig> = Vec::with_capacity(tables.len());
        for table in tables {
            let wave = self.wave(table, &waves, mirrors)?;
            waves.push(wave);
        }
        Ok(waves)
    }

    fn wave(
        &self,
        table: raw::RawWave,
        earlier: &[WaveConfig],
        mirrors: &[MirrorConfig],
    ) -> Result<WaveConfig, ConfigError> {
        let span = table.groups.span();
        let mut groups = Vec::new();
        for group in table.groups.into_inner() {
            let label = Label::new(group.as_ref())
                .map_err(|error| self.error(group.span(), error.to_string()))?;
            // Otherwise a typo would leave a wave without mirrors, and its probes without effect.
            if !mirrors.iter().any(|mirror| mirror.group.as_ref() == Some(&label)) {
                return Err(self.error(
                    group.span(),
                    format!("no mirror is in the group {:?}", label.as_str()),
                ));
            }
            if groups.contains(&label) || earlier.iter().any(|wave| wave.groups.contains(&label)) {
                return Err(self.error(
                    group.span(),
                    format!("the group {:?} is already in a wave", label.as_str()),
                ));
            }
            groups.push(label);
        }
        if groups.is_empty() {
            return Err(self.error(span, "a wave has at least one group"));
        }
        let soak =
            table.soak.as_ref().map(|soak| self.duration(soak)).transpose()?.unwrap_or_default();
        let probes = match &table.probe {
            Some(probe) => self.probes(probe, &groups, mirrors)?,
            None => Vec::new(),
        };
        Ok(WaveConfig { groups, soak, probes })
    }

    fn probes(
        &self,
        probe: &Spanned<Value>,
        groups: &[Label],
        mirrors: &[MirrorConfig],
    ) -> Result<Vec<String>, ConfigError> {
        let texts: Option<Vec<&str>> = match probe.as_ref() {
            Value::String(one) => Some(vec![one]),
            Value::Array(many) if !many.is_empty() => many.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let texts = texts.ok_or_else(|| {
            self.error(probe.span(), "a probe is a url or a path, or a list of them")
        })?;
        let in_wave = |mirror: &&MirrorConfig| {
            mirror.group.as_ref().is_some_and(|group| groups.contains(group))
        };
        for text in &texts {
            let is_url = text.contains("://");
            if text.is_empty() || is_url && PublicUrl::parse(text).is_none() {
                return Err(self.error(
                    probe.span(),
                    format!("{text:?}: a probe is https://host/path, or a path such as index.html"),
                ));
            }
            // A path is fetched below the public URL of each mirror in the wave, so each mirror
            // needs one.
            if let Some(mirror) =
                mirrors.iter().filter(in_wave).find(|mirror| !is_url && mirror.public_url.is_none())
            {
                let name = mirror.name.as_str();
                return Err(self.error(
                    probe.span(),
                    format!(
                        "{text:?} is fetched from every mirror, but {name:?} has no `public_url`"
                    ),
                ));
            }
        }
        Ok(texts.into_iter().map(str::to_owned).collect())
    }
}

/// Returns a form that is equal for two URLs of the same location, as far as the text alone can
/// tell.
fn canonical_location(url: &str) -> String {
    Location::parse(url).map_or_else(|_| url.to_owned(), |location| location.canonical())
}
