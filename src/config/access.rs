//! How `[[mirror]]` describes access to mirrors on other machines: the credentials, the identity
//! that the other machine must have, and the connection.
//!
//! The configuration names secrets but never contains them: they are in an environment variable or
//! a file.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;

use super::fleet::NAME_PLACEHOLDER;
use super::{Checker, ConfigError, parse_rate, raw};
use crate::mirror::{ReceiveCommand, SshCommand, has_token};

/// The source of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The token is in this environment variable.
    Variable(String),
    /// The token is in this file.
    File(PathBuf),
}

impl TokenSource {
    /// The environment variable that contains the token, if the token is in a variable.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        match self {
            Self::Variable(name) => Some(name),
            Self::File(_) => None,
        }
    }
}

/// How a mirror on another machine is reached. File paths are relative to the directory of the
/// configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MirrorAccess {
    /// The source of the token; `None` for the command's default.
    pub token: Option<TokenSource>,
    /// The file with the trusted certificate authorities, instead of the system's authorities.
    pub ca: Option<PathBuf>,
    /// The files with the client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The proxy to use.
    pub proxy: Option<String>,
    /// The only key that the ssh host may have, as in `ssh-ed25519 AAAA…`.
    pub host_key: Option<String>,
    /// The ssh command; `None` for the command of [`RunDefaults`](super::RunDefaults).
    pub ssh_command: Option<SshCommand>,
    /// The command that ssh runs on the mirror; `None` for the command of
    /// [`RunDefaults`](super::RunDefaults).
    pub receive_command: Option<ReceiveCommand>,
    /// The bandwidth limit in bytes per second; `None` if the mirror has no limit of its own.
    pub bwlimit: Option<NonZeroU64>,
    /// How long after the start of a run headwater gives up on the mirror; `None` for the value of
    /// [`RunDefaults`](super::RunDefaults).
    pub deadline: Option<Duration>,
}

/// How a mirror is reached. Some keys apply only to some kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransportKind {
    Local,
    Web,
    Ssh,
}

impl TransportKind {
    fn from_url(url: &str) -> Self {
        match url.split_once("://") {
            Some(("https" | "http", _)) => Self::Web,
            Some(("ssh", _)) => Self::Ssh,
            _ => Self::Local,
        }
    }
}

impl MirrorAccess {
    /// Adds the missing keys from `defaults`, if they apply to this kind of mirror.
    fn or_defaults(self, defaults: &Self, transport: TransportKind) -> Self {
        let common = defaults.clone();
        match transport {
            // `[mirror_defaults]` is for mirrors of every kind, so keys that do not apply to this
            // kind are not errors there.
            TransportKind::Local => self,
            // No token: ssh identifies the client.
            TransportKind::Ssh => Self {
                host_key: self.host_key.or(common.host_key),
                ssh_command: self.ssh_command.or(common.ssh_command),
                receive_command: self.receive_command.or(common.receive_command),
                bwlimit: self.bwlimit.or(common.bwlimit),
                deadline: self.deadline.or(common.deadline),
                ..self
            },
            TransportKind::Web => Self {
                token: self.token.or(common.token),
                ca: self.ca.or(common.ca),
                client: self.client.or(common.client),
                proxy: self.proxy.or(common.proxy),
                bwlimit: self.bwlimit.or(common.bwlimit),
                deadline: self.deadline.or(common.deadline),
                host_key: None,
                ssh_command: None,
                receive_command: None,
            },
        }
    }
}

fn web_keys(mirror: &raw::RawMirror) -> [(&'static str, &Option<Spanned<String>>); 6] {
    [
        ("token_env", &mirror.token_env),
        ("token_file", &mirror.token_file),
        ("ca", &mirror.ca),
        ("client_cert", &mirror.client_cert),
        ("client_key", &mirror.client_key),
        ("proxy", &mirror.proxy),
    ]
}

fn ssh_keys(mirror: &raw::RawMirror) -> [(&'static str, &Option<Spanned<String>>); 3] {
    [
        ("host_key", &mirror.host_key),
        ("ssh_command", &mirror.ssh_command),
        ("receive_command", &mirror.receive_command),
    ]
}

impl Checker<'_> {
    /// The access to a mirror at `url`: its own keys, and the missing ones from
    /// `[mirror_defaults]`.
    pub(super) fn resolve_access(
        &self,
        url: &str,
        mirror: &raw::RawMirror,
        defaults: &MirrorAccess,
    ) -> Result<MirrorAccess, ConfigError> {
        let transport = TransportKind::from_url(url);
        if transport != TransportKind::Web {
            self.forbid_keys(&web_keys(mirror), "an https: url")?;
        }
        if transport == TransportKind::Local {
            let keys = [("bwlimit", &mirror.bwlimit), ("deadline", &mirror.deadline)];
            self.forbid_keys(&keys, "an https: or ssh: url")?;
        }
        if transport != TransportKind::Ssh {
            self.forbid_keys(&ssh_keys(mirror), "an ssh: url")?;
        }
        Ok(self.parse_access(mirror)?.or_defaults(defaults, transport))
    }

    /// The access keys of a table, wherever the mirror is.
    pub(super) fn parse_access(
        &self,
        mirror: &raw::RawMirror,
    ) -> Result<MirrorAccess, ConfigError> {
        for (key, text) in web_keys(mirror).iter().copied().chain([("host_key", &mirror.host_key)])
        {
            if let Some(text) = text.as_ref().filter(|text| text.as_ref().trim().is_empty()) {
                return Err(self.error(text.span(), format!("`{key}` is empty")));
            }
        }
        // The message does not repeat the text: the error goes to a terminal or a log.
        if let Some(text) = [&mirror.token_env, &mirror.token_file]
            .into_iter()
            .flatten()
            .find(|text| has_token(text.as_ref()))
        {
            return Err(self.error(
                text.span(),
                "this is a token, not the name of a variable or file: create a new token",
            ));
        }
        let file = |text: &Option<Spanned<String>>| {
            text.as_ref().map(|text| self.base_dir.join(text.as_ref()))
        };
        let token = match (&mirror.token_env, &mirror.token_file) {
            // An error, not an order of preference that the user would have to know.
            (Some(_), Some(second)) => {
                return Err(self.error(
                    second.span(),
                    "a token comes from `token_env` or from `token_file`, not both",
                ));
            }
            (Some(name), None) => Some(TokenSource::Variable(name.as_ref().clone())),
            (None, path) => file(path).map(TokenSource::File),
        };
        let client = match (file(&mirror.client_cert), file(&mirror.client_key)) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            _ => {
                let one = [&mirror.client_cert, &mirror.client_key].into_iter().flatten().next();
                let span = one.map_or(0..0, Spanned::span);
                return Err(self.error(span, "`client_cert` and `client_key` go together"));
            }
        };
        let host_key = mirror.host_key.as_ref().map(|key| self.host_key(key)).transpose()?;
        let proxy = mirror.proxy.as_ref().map(|proxy| proxy.as_ref().clone());
        let bwlimit = mirror.bwlimit.as_ref().map(|rate| self.rate(rate)).transpose()?;
        let deadline = mirror.deadline.as_ref().map(|text| self.duration(text)).transpose()?;
        let ssh_command = self.command(mirror.ssh_command.as_ref())?;
        let receive_command = self.command(mirror.receive_command.as_ref())?;
        Ok(MirrorAccess {
            token,
            ca: file(&mirror.ca),
            client,
            proxy,
            host_key,
            ssh_command,
            receive_command,
            bwlimit,
            deadline,
        })
    }

    pub(super) fn command<T: FromStr<Err: fmt::Display>>(
        &self,
        text: Option<&Spanned<String>>,
    ) -> Result<Option<T>, ConfigError> {
        let parse = |text: &Spanned<String>| {
            text.as_ref()
                .parse()
                .map_err(|error: T::Err| self.error(text.span(), error.to_string()))
        };
        text.map(parse).transpose()
    }

    /// Returns an error if a list of mirrors names a command that would run on this machine. Only
    /// the configuration may do that.
    pub(super) fn forbid_local_command(&self, listed: &raw::RawMirror) -> Result<(), ConfigError> {
        match &listed.ssh_command {
            Some(command) => Err(self.error(
                command.span(),
                "`ssh_command` is allowed in the configuration, but not in a list of mirrors",
            )),
            None => Ok(()),
        }
    }

    /// Refuses a name that would be more than part of a single word in a command in
    /// `[mirror_defaults]`.
    pub(super) fn check_name_in_commands(
        &self,
        defaults: &raw::RawMirror,
        name: &Spanned<String>,
    ) -> Result<(), ConfigError> {
        // The name may come from a list, and the command is split into words or passed to a shell.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.as_ref().chars().all(is_plain) {
            return Ok(());
        }
        let commands = [
            ("ssh_command", &defaults.ssh_command),
            ("receive_command", &defaults.receive_command),
        ];
        match commands.iter().find(|(_, text)| {
            text.as_ref().is_some_and(|text| text.as_ref().contains(NAME_PLACEHOLDER))
        }) {
            Some((key, _)) => {
                let rule = "only ASCII letters, digits, '-', '_' and '.' may stand for {name} in";
                Err(self.error(name.span(), format!("{rule} `{key}`")))
            }
            None => Ok(()),
        }
    }

    fn forbid_keys(
        &self,
        keys: &[(&str, &Option<Spanned<String>>)],
        of: &str,
    ) -> Result<(), ConfigError> {
        match keys.iter().find_map(|(key, text)| text.as_ref().map(|text| (key, text.span()))) {
            Some((key, span)) => {
                Err(self.error(span, format!("`{key}` is for a mirror with {of}")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn rate(&self, rate: &Spanned<String>) -> Result<NonZeroU64, ConfigError> {
        parse_rate(rate.as_ref()).map_err(|error| self.error(rate.span(), error.to_string()))
    }

    /// Parses one public key: its kind and its base64 form, without anything that could be a second
    /// line or an option.
    fn host_key(&self, key: &Spanned<String>) -> Result<String, ConfigError> {
        let words: Vec<&str> = key.as_ref().split(' ').filter(|word| !word.is_empty()).collect();
        let is_kind = |kind: &str| {
            kind.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'@'))
        };
        let is_base64 = |text: &str| {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
        };
        // The third word is a comment and is dropped. The key becomes a line in a `known_hosts`
        // file, where a line break would add a second key.
        match words[..] {
            [kind, text] | [kind, text, _]
                if is_kind(kind) && is_base64(text) && text.len() >= 32 =>
            {
                Ok(format!("{kind} {text}"))
            }
            _ => Err(self.error(
                key.span(),
                "a host key is written as in \"ssh-ed25519 AAAAC3Nz…\", on one line",
            )),
        }
    }
}
