//! Rules for a list of mirrors from another source: its author must not choose which secrets leave
//! this machine, where they are sent, or what runs on a mirror with this user's rights.

use toml::Spanned;

use super::{Checker, ConfigError, raw};
use crate::mirror::{Location, has_token};

/// The rules that the configuration sets for a list.
pub(super) struct ListRules {
    /// The environment variables that a line may name as the source of its token.
    token_envs: Vec<String>,
    /// The hosts that mirrors may be on, as `edge1.example` or `*.example`; `None` if any host is
    /// allowed.
    allowed_hosts: Option<Vec<String>>,
}

impl ListRules {
    pub(super) fn token_envs(&self) -> &[String] {
        &self.token_envs
    }

    fn allows_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let is_one = |pattern: &String| match pattern.strip_prefix('*') {
            // The rest of the pattern begins with the dot, so `*.example` matches neither `example`
            // nor `bad-example`.
            Some(end) => host.len() > end.len() && host.ends_with(end),
            None => host == *pattern,
        };
        self.allowed_hosts.as_ref().is_none_or(|patterns| patterns.iter().any(is_one))
    }
}

impl Checker<'_> {
    pub(super) fn list_rules(&self, file: &raw::RawFile) -> Result<ListRules, ConfigError> {
        let is_bad =
            |name: &&Spanned<String>| name.as_ref().trim().is_empty() || has_token(name.as_ref());
        if let Some(name) = file.token_envs.iter().find(is_bad) {
            return Err(self
                .error(name.span(), "`token_envs` contains names of variables that hold a token"));
        }
        let token_envs = file.token_envs.iter().map(|name| name.as_ref().clone()).collect();
        let hosts = file.allowed_hosts.as_ref();
        let allowed_hosts = hosts
            .map(|hosts| hosts.iter().map(|host| self.host_pattern(host)).collect())
            .transpose()?;
        Ok(ListRules { token_envs, allowed_hosts })
    }

    fn host_pattern(&self, host: &Spanned<String>) -> Result<String, ConfigError> {
        let text = host.as_ref().to_ascii_lowercase();
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(self
                .error(host.span(), "a host is written as in \"edge1.example\" or \"*.example\""));
        }
        Ok(text)
    }

    /// Returns an error if a line names secrets, an authority or a command that the configuration
    /// does not name. `defaults` is `[mirror_defaults]` for this mirror.
    pub(super) fn only_allowed_secrets(
        &self,
        listed: &raw::RawMirror,
        defaults: &raw::RawMirror,
        rules: &ListRules,
    ) -> Result<(), ConfigError> {
        // A line may repeat the values of the defaults.
        let differs = |own: &Option<Spanned<String>>, defaults: &Option<Spanned<String>>| {
            let defaults = defaults.as_ref().map(Spanned::as_ref);
            own.as_ref()
                .filter(|own| Some(own.as_ref()) != defaults)
                .map(|own| (own.span(), own.as_ref().clone()))
        };
        let token_env = differs(&listed.token_env, &defaults.token_env);
        if let Some((span, name)) = token_env.filter(|(_, name)| !rules.token_envs.contains(name)) {
            // The text may itself be a secret.
            let name = if has_token(&name) { String::new() } else { format!(" {name:?}") };
            let words = format!(
                "a list may name only variables in `token_envs` or `[mirror_defaults]`, not{name}"
            );
            return Err(self.error(span, words.trim_end_matches(", not")));
        }
        let others = [
            ("token_file", differs(&listed.token_file, &defaults.token_file)),
            // The authority determines which server gets the token.
            ("ca", differs(&listed.ca, &defaults.ca)),
            ("client_cert", differs(&listed.client_cert, &defaults.client_cert)),
            ("client_key", differs(&listed.client_key, &defaults.client_key)),
            ("receive_command", differs(&listed.receive_command, &defaults.receive_command)),
        ];
        match others.into_iter().find_map(|(key, file)| Some((key, file?))) {
            Some((key, (span, _))) => Err(self.error(
                span,
                format!(
                    "`{key}` is allowed in the configuration, as in `[mirror_defaults]`, but not \
                     in a list of mirrors"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Refuses a listed mirror on a host that the configuration does not allow.
    pub(super) fn only_allowed_hosts(
        &self,
        url: &str,
        name: &Spanned<String>,
        rules: &ListRules,
    ) -> Result<(), ConfigError> {
        // An invalid location is refused when it is used.
        let Ok(location) = Location::parse(url) else { return Ok(()) };
        match location.host().filter(|host| !rules.allows_host(host)) {
            Some(host) => {
                Err(self
                    .error(name.span(), format!("the host {host:?} is not one of `allowed_hosts`")))
            }
            None => Ok(()),
        }
    }
}
