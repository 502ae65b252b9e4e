//! `serve.toml` as it is written, and the settings of a receiver that result from it. The rules are
//! the same as for `headwater.toml`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::Deserialize;
use toml::Spanned;

use super::{Checker, ConfigError, read};
use crate::fsx;
use crate::mirror::check_control_chars;
use crate::receiver::{
    AuthPolicy, Exposure, Hook, Permission, ReceiverLimits, ReceiverSettings, ServedPermissions,
    SiteSettings, TlsFiles, TokenId, TokenRecord,
};
use crate::tree_path::Site;

/// The default address, with the usual port.
// This machine only: without TLS, nothing may be sent over a network.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7447";

/// Default time limit of a hook, in seconds.
const HOOK_TIMEOUT_SECONDS: u64 = 30;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServeFile {
    listen: Option<Spanned<String>>,
    tls: Option<TlsTable>,
    #[serde(default)]
    behind_proxy: bool,
    #[serde(default)]
    limits: LimitsTable,
    #[serde(default)]
    site: Vec<SiteTable>,
    #[serde(default)]
    token: Vec<TokenTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `cert` and `key`")]
struct TlsTable {
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LimitsTable {
    connections: Option<NonZeroU32>,
    connections_per_address: Option<NonZeroU32>,
    first_byte: Option<Spanned<String>>,
    head: Option<Spanned<String>>,
    idle: Option<Spanned<String>>,
    body_idle: Option<Spanned<String>>,
    body: Option<Spanned<String>>,
    stage: Option<Spanned<String>>,
    shutdown: Option<Spanned<String>>,
    memory: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `name` and `dir`")]
struct SiteTable {
    name: Spanned<String>,
    dir: Spanned<PathBuf>,
    keep: Option<NonZeroU32>,
    quota: Option<Spanned<String>>,
    quota_entries: Option<u64>,
    min_free: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    file_mode: Option<Spanned<String>>,
    dir_mode: Option<Spanned<String>>,
    post_activate: Option<RawCommand>,
    post_activate_timeout: Option<Spanned<String>>,
}

// An enum with one variant, because a bare `Vec<String>` cannot have its own error message.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a command is a list of words, such as [\"systemctl\", \"reload\", \"nginx\"]"
)]
enum RawCommand {
    Words(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table as `headwater token new` prints it")]
struct TokenTable {
    id: Spanned<String>,
    hash: Spanned<String>,
    sites: Vec<Spanned<String>>,
    allow: Spanned<String>,
    expires: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    #[serde(default)]
    token: Vec<TokenTable>,
}

/// Reads and checks the `serve.toml` at `path`. Relative paths in it are relative to its directory.
///
/// # Errors
/// Fails if the file cannot be read or breaks a rule.
pub fn load(path: &Path) -> Result<ReceiverSettings, ConfigError> {
    parse(&read(path)?, path)
}

/// Reads and checks a file that contains only `[[token]]` tables.
///
/// # Errors
/// Fails if the file cannot be read or breaks a rule.
pub fn load_tokens(path: &Path) -> Result<Vec<TokenRecord>, ConfigError> {
    parse_tokens(&read(path)?, path)
}

fn parse_tokens(text: &str, path: &Path) -> Result<Vec<TokenRecord>, ConfigError> {
    let checker = Checker::new(text, path);
    let file: TokenFile = toml::from_str(text).map_err(|error| checker.syntax_error(&error))?;
    // The file is read on its own, so the sites are not known here.
    checker.tokens(file.token, None)
}

/// The sites of the `serve.toml` at `path`; `None` if the file contains only tokens, or nothing. A
/// file that contains only comments is a `serve.toml` without settings.
///
/// # Errors
/// Fails if the file cannot be read or breaks a rule.
pub fn site_names(path: &Path) -> Result<Option<Vec<Site>>, ConfigError> {
    let text = read(path)?;
    if is_token_file(&text) {
        return parse_tokens(&text, path).map(|_| None);
    }
    let sites = parse(&text, path)?.sites;
    Ok(Some(sites.into_iter().filter_map(|site| site.name).collect()))
}

/// Appends `table`, a `[[token]]` table, to the file at `path`: a `serve.toml`, or a file that
/// contains only tokens. If the table would make the file break a rule, the file stays unchanged.
///
/// # Errors
/// Fails if the file does not exist, cannot be written, or would break a rule with the table.
pub fn append_token(path: &Path, table: &str) -> Result<(), ConfigError> {
    let text = read(path)?;
    let space = match &*text {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let added = format!("{space}{table}");
    let whole = format!("{text}{added}");
    if is_token_file(&text) {
        parse_tokens(&whole, path)?;
    } else {
        parse(&whole, path)?;
    }
    Ok(fsx::append(path, added.as_bytes())?)
}

fn is_token_file(text: &str) -> bool {
    let table: toml::Table = text.parse().unwrap_or_default();
    text.trim().is_empty() || !table.is_empty() && table.keys().all(|key| key == "token")
}

/// Checks `text`, the content of the `serve.toml` at `path`. Does not use the disk.
///
/// # Errors
/// Returns [`ConfigError::Invalid`] for the first rule that the text breaks.
pub fn parse(text: &str, path: &Path) -> Result<ReceiverSettings, ConfigError> {
    let checker = Checker::new(text, path);
    let file: RawServeFile = toml::from_str(text).map_err(|error| checker.syntax_error(&error))?;
    let listen = match &file.listen {
        Some(listen) => checker.parse_field(listen, |text| {
            text.parse::<SocketAddr>().map_err(|_| "is not of the form ADDRESS:PORT")
        })?,
        None => DEFAULT_LISTEN.parse().expect("the default is an address"),
    };
    let sites = checker.sites(file.site)?;
    let names: Vec<Site> = sites.iter().filter_map(|site| site.name.clone()).collect();
    let tokens = checker.tokens(file.token, Some(&names))?;
    let tls = file.tls.map(|tls| TlsFiles {
        cert: checker.base_dir.join(tls.cert),
        key: checker.base_dir.join(tls.key),
    });
    let exposure = if file.behind_proxy { Exposure::Proxy } else { Exposure::None };
    let limits = checker.limits(&file.limits)?;
    // Always requires tokens, even if there are none: if the file has no `[[token]]`, no client has
    // access.
    Ok(ReceiverSettings { listen, tls, exposure, auth: AuthPolicy::Tokens(tokens), sites, limits })
}

impl Checker<'_> {
    fn sites(&self, tables: Vec<SiteTable>) -> Result<Vec<SiteSettings>, ConfigError> {
        let mut sites: Vec<SiteSettings> = Vec::with_capacity(tables.len());
        for table in tables {
            let span = table.name.span();
            let site = self.site(table)?;
            if sites.iter().any(|earlier| earlier.name == site.name) {
                return Err(self.error(span, "there is already a site with this name"));
            }
            // Two sites in one directory would be one store under two names.
            if sites.iter().any(|earlier| earlier.directory == site.directory) {
                return Err(self.error(span, "another site has the same directory"));
            }
            sites.push(site);
        }
        Ok(sites)
    }

    fn site(&self, table: SiteTable) -> Result<SiteSettings, ConfigError> {
        let name = self.parse_field(&table.name, Site::new)?;
        if table.dir.as_ref().as_os_str().is_empty() {
            return Err(self.error(table.dir.span(), "the path is empty"));
        }
        check_control_chars(&table.dir.as_ref().to_string_lossy())
            .map_err(|error| self.error(table.dir.span(), error.to_string()))?;
        let readers = self.served_permissions(&table)?;
        let timeout =
            table.post_activate_timeout.as_ref().map(|text| self.duration(text)).transpose()?;
        let timeout = timeout.unwrap_or(std::time::Duration::from_secs(HOOK_TIMEOUT_SECONDS));
        let command = table.post_activate.map_or_else(Vec::new, |RawCommand::Words(words)| words);
        Ok(SiteSettings {
            // With the trailing slash, `/docs2/` is not a path of the site `docs`.
            base: format!("/{name}/"),
            name: Some(name),
            directory: self.base_dir.join(table.dir.into_inner()),
            keep: table.keep.map(|keep| usize::try_from(keep.get()).unwrap_or(usize::MAX)),
            quota_bytes: self.size(&table.quota)?,
            quota_entries: table.quota_entries,
            min_free_bytes: self.size(&table.min_free)?.unwrap_or(0),
            served_permissions: Some(readers),
            post_activate: (!command.is_empty()).then_some(Hook { command, timeout }),
        })
    }

    fn size(&self, text: &Option<Spanned<String>>) -> Result<Option<u64>, ConfigError> {
        let wrong = "is not a size: write it like \"10 GB\" or \"512 MiB\"";
        let parse =
            |text: &str| text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| wrong);
        text.as_ref().map(|text| self.parse_field(text, parse)).transpose()
    }

    fn served_permissions(&self, table: &SiteTable) -> Result<ServedPermissions, ConfigError> {
        if let Some(group) = table.group.as_ref().filter(|group| group.as_ref().trim().is_empty()) {
            return Err(self.error(group.span(), "the group is empty"));
        }
        let file_mode =
            table.file_mode.as_ref().map(|text| self.parse_field(text, str::parse)).transpose()?;
        let dir_mode =
            table.dir_mode.as_ref().map(|text| self.parse_field(text, str::parse)).transpose()?;
        Ok(ServedPermissions {
            group: table.group.as_ref().map(|group| group.as_ref().clone()),
            file_mode: file_mode.unwrap_or_default(),
            dir_mode: dir_mode.unwrap_or_default(),
        })
    }

    fn limits(&self, table: &LimitsTable) -> Result<ReceiverLimits, ConfigError> {
        let defaults = ReceiverLimits::default();
        let or = |text: &Option<Spanned<String>>, default| {
            text.as_ref().map_or(Ok(default), |text| self.duration(text))
        };
        let number = |number: Option<NonZeroU32>, default| {
            number.map_or(default, |number| usize::try_from(number.get()).unwrap_or(usize::MAX))
        };
        Ok(ReceiverLimits {
            connections: number(table.connections, defaults.connections),
            connections_per_address: number(
                table.connections_per_address,
                defaults.connections_per_address,
            ),
            first_byte: or(&table.first_byte, defaults.first_byte)?,
            head: or(&table.head, defaults.head)?,
            idle: or(&table.idle, defaults.idle)?,
            body_idle: or(&table.body_idle, defaults.body_idle)?,
            body: or(&table.body, defaults.body)?,
            stage_idle: or(&table.stage, defaults.stage_idle)?,
            shutdown: or(&table.shutdown, defaults.shutdown)?,
            memory_bytes: self.size(&table.memory)?.unwrap_or(defaults.memory_bytes),
            ..defaults
        })
    }

    /// Checks the tokens; they may name only these sites.
    fn tokens(
        &self,
        tables: Vec<TokenTable>,
        known: Option<&[Site]>,
    ) -> Result<Vec<TokenRecord>, ConfigError> {
        let mut records: Vec<TokenRecord> = Vec::with_capacity(tables.len());
        for table in tables {
            let id = TokenId::new(table.id.as_ref());
            let id = id.ok_or_else(|| {
                self.error(table.id.span(), "an id has 8 lower-case hexadecimal digits")
            })?;
            // A token is looked up by its id, so the second one would never be found.
            if records.iter().any(|earlier| earlier.id == id) {
                return Err(self.error(table.id.span(), "there is already a token with this id"));
            }
            let hash = blake3::Hash::from_hex(table.hash.as_ref().as_bytes())
                .map_err(|_| self.error(table.hash.span(), "a hash has 64 hexadecimal digits"))?;
            let mut sites = Vec::with_capacity(table.sites.len());
            for text in &table.sites {
                let site = self.parse_field(text, Site::new)?;
                // A typo would leave a token that is valid for no site.
                if known.is_some_and(|known| !known.contains(&site)) {
                    return Err(self.error(text.span(), format!("there is no [[site]] {site}")));
                }
                sites.push(site);
            }
            let allow = self.parse_field(&table.allow, str::parse::<Permission>)?;
            let expires = table
                .expires
                .as_ref()
                .map(|text| self.parse_field(text, parse_timestamp))
                .transpose()?;
            records.push(TokenRecord { id, hash, sites, allow, expires });
        }
        Ok(records)
    }
}

fn parse_timestamp(text: &str) -> Result<u64, &'static str> {
    let moment = text
        // An offset or `Z` is required: a time without one would depend on the machine.
        .parse::<jiff::Timestamp>()
        .map_err(|_| "is not a time: write it like 2027-02-21T00:00:00Z")?;
    u64::try_from(moment.as_second()).map_err(|_| "is before 1970")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ReceiverSettings, ConfigError> {
        super::parse(text, Path::new("/etc/headwater/serve.toml"))
    }

    #[test]
    fn complete_file_is_parsed() {
        let hash = blake3::hash(b"x").to_hex();
        let text = format!(
            r#"
            listen = "[::]:7447"
            behind_proxy = true
            tls = {{ cert = "a.pem", key = "/k.pem" }}
            limits = {{ connections = 2000, memory = "64 MiB", head = "5s" }}
            [[site]]
            name = "docs"
            dir = "../www"
            keep = 5
            quota = "10 GB"
            quota_entries = 1000
            min_free = "1 GiB"
            group = "www-data"
            file_mode = "0440"
            post_activate = ["nginx", "-s", "reload"]
            post_activate_timeout = "5s"
            [[token]]
            id = "0123abcd"
            hash = "{hash}"
            sites = ["docs"]
            allow = "read"
            expires = "2027-02-21T00:00:00Z"
            "#
        );
        let settings = parse(&text).unwrap();
        let site = &settings.sites[0];
        assert_eq!(
            (site.base.as_str(), site.keep, site.quota_bytes),
            ("/docs/", Some(5), Some(10_000_000_000))
        );
        assert_eq!((site.quota_entries, site.min_free_bytes), (Some(1000), 1 << 30));
        let readers = site.served_permissions.as_ref().unwrap();
        let modes = (readers.file_mode.to_string(), readers.dir_mode.to_string());
        assert_eq!(
            (readers.group.as_deref(), modes),
            (Some("www-data"), ("0440".into(), "0755".into()))
        );
        assert_eq!(site.directory, Path::new("/etc/headwater/../www"));
        assert_eq!(site.post_activate.as_ref().unwrap().timeout.as_secs(), 5);
        assert_eq!((settings.limits.connections, settings.limits.head.as_secs()), (2000, 5));
        assert_eq!(settings.limits.memory_bytes, 64 << 20);
        assert_eq!(settings.limits.idle, ReceiverLimits::default().idle);
        assert_eq!(settings.tls.unwrap().cert, Path::new("/etc/headwater/a.pem"));
        assert_eq!(settings.exposure, Exposure::Proxy);
        let AuthPolicy::Tokens(tokens) = settings.auth else { panic!("no tokens") };
        assert_eq!((tokens[0].allow, tokens[0].expires), (Permission::Read, Some(1_803_168_000)));
    }

    #[test]
    fn file_in_the_receivers_page_is_valid() {
        let page = include_str!("../../docs/receivers.md");
        let (_, file) =
            page.split_once("```toml\n# /etc/headwater/serve.toml").expect("there is one");
        let settings = parse(&file[file.find('\n').unwrap()..file.find("```").unwrap()]).unwrap();
        let (site, limits) = (&settings.sites[0], ReceiverLimits::default());
        assert!(site.quota_bytes.is_some() && site.quota_entries.is_some() && site.keep.is_some());
        assert!(settings.tls.is_some() && site.post_activate.is_some() && site.min_free_bytes > 0);
        // What the text there says of deadlines is so.
        let seconds = [
            limits.first_byte,
            limits.head,
            limits.idle,
            limits.body_idle,
            limits.body,
            limits.shutdown,
        ];
        assert_eq!(seconds.map(|limit| limit.as_secs()), [10, 10, 75, 30, 60, 30]);
        let numbers =
            (limits.body_bytes_per_second, limits.connections, limits.connections_per_address);
        assert_eq!(numbers, (16 * 1024, 2048, 64));
        let (_, table) = page.split_once("### Limits of the receiver").expect("it is there");
        for (key, value) in [
            ("connections", limits.connections.to_string()),
            ("connections_per_address", limits.connections_per_address.to_string()),
            ("first_byte", format!("{}s", limits.first_byte.as_secs())),
            ("head", format!("{}s", limits.head.as_secs())),
            ("idle", format!("{}s", limits.idle.as_secs())),
            ("body_idle", format!("{}s", limits.body_idle.as_secs())),
            ("body", format!("{}s", limits.body.as_secs())),
            ("stage", format!("{}s", limits.stage_idle.as_secs())),
            ("shutdown", format!("{}s", limits.shutdown.as_secs())),
            ("memory", format!("{} MiB", limits.memory_bytes >> 20)),
        ] {
            assert!(table.contains(&format!("| `{key}` | {value} |")), "{key} = {value}");
        }
    }

    #[test]
    fn errors_are_reported_with_their_position() {
        let site = "[[site]]\nname = \"docs\"\ndir = \"www\"\n";
        let token =
            format!("[[token]]\nid = \"0123abcd\"\nhash = \"{}\"\n", blake3::hash(b"").to_hex());
        for (text, at, words) in [
            ("lisen = \"x\"\n".to_owned(), (1, 1), "unknown field `lisen`"),
            ("listen = \"7447\"\n".to_owned(), (1, 10), "ADDRESS:PORT"),
            (format!("{site}qouta = 1\n"), (4, 1), "unknown field `qouta`"),
            (
                format!("{site}quota = \"much\"\n"),
                (4, 9),
                "\"much\" is not a size: write it like \"10 GB\"",
            ),
            (format!("{site}min_free = \"\"\n"), (4, 12), "is not a size"),
            (
                format!("{site}post_activate = \"nginx -s reload\"\n"),
                (4, 17),
                "[\"systemctl\", \"reload\", \"nginx\"]",
            ),
            (format!("{site}file_mode = \"0640\"\n"), (4, 13), "\"0640\" is not a file mode here"),
            (format!("{site}dir_mode = \"rwx\"\n"), (4, 12), "octal digits"),
            (format!("{site}group = \"\"\n"), (4, 9), "the group is empty"),
            ("[[site]]\nname = \"docs\"\ndir = \"a\\u001b\"\n".to_owned(), (3, 7), "a\\u{1b}"),
            (format!("{site}{site}"), (5, 8), "already a site"),
            (format!("{site}[[site]]\nname = \"x\"\ndir = \"www\"\n"), (5, 8), "same directory"),
            ("[[site]]\nname = \"Docs\"\ndir = \"www\"\n".to_owned(), (2, 8), "Docs"),
            (
                format!("{site}{token}sites = [\"dosc\"]\nallow = \"push\"\n"),
                (7, 10),
                "no [[site]] dosc",
            ),
            (
                format!("{site}{token}sites = [\"docs\"]\nallow = \"all\"\n"),
                (8, 9),
                "`push` or `read`",
            ),
            (
                format!("{site}{token}sites = []\nallow = \"push\"\nexpires = \"soon\"\n"),
                (9, 11),
                "is not a time",
            ),
            (format!("{site}{}", token.replace("0123abcd", "x")), (4, 1), "missing field"),
            (format!("[limits]\nhead = \"x\"\n{site}"), (2, 8), "no duration"),
        ] {
            let Err(ConfigError::Invalid { line, column, message, .. }) = parse(&text) else {
                panic!("{text}")
            };
            assert!(
                (line, column) == at && message.contains(words),
                "{text}{line}:{column} {message}"
            );
        }
    }
}
