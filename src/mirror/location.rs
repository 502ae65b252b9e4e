//! The location of a mirror, as the user writes it.
//!
//! Promises that `ssh` cannot parse an accepted location as an option, that the location contains
//! no password, and that no token is sent unencrypted to another machine.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::text::escape;
use crate::tree_path::Site;

/// Why a string is not a valid mirror location. No message repeats text that may contain a
/// password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// The string is empty.
    #[error("a mirror's location is empty")]
    Empty,
    /// The string contains a control character.
    #[error("\"{location}\": the location of a mirror must not have a control character")]
    Control {
        /// The whole string, escaped; `…` if it contains a token.
        location: String,
    },
    /// A URL with a scheme that is not supported.
    #[error("{location:?}: mirrors at {scheme}: URLs are not supported")]
    Scheme {
        /// The whole string.
        location: String,
        /// The part before `://`.
        scheme: String,
    },
    /// A `file:` URL with a host, or with a relative path.
    #[error("{location:?}: write a file URL as file:///absolute/path")]
    File {
        /// The whole string.
        location: String,
    },
    /// A URL contains a user, a password or a token.
    #[error("the URL of a mirror on {host:?} contains a user, a password or a token")]
    Credentials {
        /// The host and its port.
        host: String,
    },
    /// `http:` to another machine.
    #[error("{location:?}: http: is not encrypted; use https: for a mirror on another machine")]
    Unencrypted {
        /// The whole string.
        location: String,
    },
    /// `host:/path`, which rsync and scp interpret as a path on another machine.
    #[error("{location:?}: for a mirror over ssh write {url}; for a directory write ./{location}")]
    HostPath {
        /// The whole string.
        location: String,
        /// The URL that the user probably meant.
        url: String,
    },
    /// A malformed URL.
    #[error("{location:?}: {what}")]
    Malformed {
        /// The whole string.
        location: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// Where a mirror is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory on this machine.
    Directory(PathBuf),
    /// A receiver that is reached over HTTP.
    Http(HttpUrl),
    /// A receiver that is started over SSH.
    Ssh(SshUrl),
}

/// A receiver that is reached over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    base: String,
    host: String,
    is_loopback: bool,
}

impl HttpUrl {
    /// The base path of the site, as a URL that ends in `/`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The site named by the last segment of the URL's path; `None` if the path is empty or that
    /// segment is not a valid site name.
    #[must_use]
    pub fn site(&self) -> Option<Site> {
        let (_, path) = self.base.split_once("://")?.1.trim_end_matches('/').split_once('/')?;
        Site::new(path.rsplit('/').next()?).ok()
    }

    /// Whether the receiver is on this machine.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.is_loopback
    }
}

/// A receiver that is started over SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshUrl {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    directory: String,
}

impl SshUrl {
    /// `user@host` or `host`, as `ssh` expects it; never begins with `-`.
    #[must_use]
    pub fn destination(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if the URL has one.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// The absolute path of the mirror on that host, without a trailing `/`.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.directory
    }
}

impl Location {
    /// Parses a location: a path, `file:///absolute/path`, `https://host[:port]/path`, `http://`
    /// for this machine only, or `ssh://[user@]host[:port]/absolute/path`. `host:/path`, which
    /// rsync interprets as a path on another machine, is refused; for a local directory with that
    /// name, write `./host:/path`.
    ///
    /// # Errors
    /// Fails if the string is not a valid location.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        check_control_chars(text)?;
        let Some((scheme, rest)) = text.split_once("://") else {
            return host_path_error(text).map_or_else(|| Ok(Self::Directory(text.into())), Err);
        };
        // Checked before anything else, because the other errors repeat the string.
        if scheme != "file" && has_token(rest) {
            let place = rest.split(['/', '?', '#']).next().filter(|place| !has_token(place));
            return Err(LocationError::Credentials { host: place.unwrap_or("…").to_owned() });
        }
        match scheme {
            "file" if Path::new(rest).is_absolute() => Ok(Self::Directory(rest.into())),
            "file" => Err(LocationError::File { location: text.to_owned() }),
            "https" | "http" => parse_http(text, scheme, rest).map(Self::Http),
            "ssh" => parse_ssh(text, rest).map(Self::Ssh),
            _ => {
                Err(LocationError::Scheme { location: text.to_owned(), scheme: scheme.to_owned() })
            }
        }
    }
}

impl Location {
    /// The host; `None` for a directory on this machine.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Directory(_) => None,
            Self::Http(place) => Some(&place.host),
            Self::Ssh(place) => Some(&place.host),
        }
    }

    /// A normalized form that is equal for two spellings of the same location. It does not resolve
    /// symbolic links or host names.
    #[must_use]
    pub fn canonical(&self) -> String {
        match self {
            Self::Directory(path) => {
                path.components().collect::<PathBuf>().to_string_lossy().into_owned()
            }
            Self::Http(place) => {
                let (scheme, rest) = place.base.split_once("://").unwrap_or_default();
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let usual = if scheme == "https" { ":443" } else { ":80" };
                // Host names are case-insensitive; paths are not.
                let host = host.to_ascii_lowercase();
                format!("{scheme}://{}/{path}", host.strip_suffix(usual).unwrap_or(&host))
            }
            Self::Ssh(place) => {
                let user = place.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let (host, port) = (place.host.to_ascii_lowercase(), place.port.unwrap_or(22));
                format!("ssh://{user}{host}:{port}{}", place.directory)
            }
        }
    }
}

/// Returns an error if the location `text` contains a control character. Paths in a tree may not
/// contain one either.
///
/// # Errors
/// [`LocationError::Control`].
pub fn check_control_chars(text: &str) -> Result<(), LocationError> {
    if !text.contains(char::is_control) {
        return Ok(());
    }
    let location = if has_token(text) { "…".into() } else { escape(text) };
    Err(LocationError::Control { location: location.into_owned() })
}

/// Returns an error if `text` is `[user@]host:/absolute/path`, the form that rsync and scp use.
fn host_path_error(text: &str) -> Option<LocationError> {
    let (place, path) = text.split_once(":/").filter(|(place, _)| !place.contains([':', '/']))?;
    let url = format!("ssh://{place}/{}", path.trim_matches('/'));
    let is_one = !has_token(text) && parse_ssh(&url, url.strip_prefix("ssh://")?).is_ok();
    is_one.then(|| LocationError::HostPath { location: text.to_owned(), url })
}

/// Makes the error for a malformed URL. Drops the query and fragment, which often contain secrets.
fn malformed(location: &str, what: &'static str) -> LocationError {
    let shown = location.split(['?', '#']).next().unwrap_or_default();
    LocationError::Malformed { location: shown.to_owned(), what }
}

/// Whether `text` contains a headwater token and so must not be repeated.
#[must_use]
pub fn has_token(text: &str) -> bool {
    let is_token = |(at, _): (usize, &str)| {
        let id = text[at + 3..].split('_').next().unwrap_or_default();
        id.len() == 8
            && id.len() + 3 < text.len() - at
            && id.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    text.match_indices("hw_").any(is_token)
}

pub(super) struct Authority<'t> {
    pub(super) host: &'t str,
    pub(super) port: Option<u16>,
}

pub(super) fn authority<'t>(location: &str, text: &'t str) -> Result<Authority<'t>, LocationError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => (host, rest.strip_prefix(':')),
        Some(_) => return Err(malformed(location, "the text in brackets is not an IPv6 address")),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_name) {
        return Err(malformed(location, "a host consists of letters, digits, '.', '-' and '_'"));
    }
    // `ssh` would interpret such a host as an option, and options can name commands.
    if host.starts_with('-') {
        return Err(malformed(location, "a host does not begin with '-'"));
    }
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match port.map(number) {
        Some(None) => Err(malformed(
            location,
            "a port is a number from 1 to 65535, and no colon separates host and path",
        )),
        Some(port) => Ok(Authority { host, port }),
        None => Ok(Authority { host, port: None }),
    }
}

fn parse_http(location: &str, scheme: &str, rest: &str) -> Result<HttpUrl, LocationError> {
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    // The last `@`: everything before it is the user and password, and must not be shown.
    if let Some((_, host)) = place.rsplit_once('@') {
        return Err(LocationError::Credentials { host: host.to_owned() });
    }
    let is_plain = |c: char| {
        c.is_ascii_graphic()
            && !matches!(c, '?' | '#' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
    };
    if !path.chars().all(is_plain) {
        return Err(malformed(
            location,
            "a mirror's URL must not have a query, and its path must be ASCII",
        ));
    }
    // A server or a proxy may resolve these segments, and the request would then go to a site other
    // than the one that the URL seems to name.
    if path.split('/').any(|part| part == "." || part == "..") {
        return Err(malformed(location, "a mirror's URL must not have '.' or '..' in its path"));
    }
    let Authority { host, .. } = authority(location, place)?;
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if scheme == "http" && !is_loopback {
        return Err(LocationError::Unencrypted { location: location.to_owned() });
    }
    let path = path.trim_end_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    let base = format!("{scheme}://{place}/{path}{slash}");
    Ok(HttpUrl { base, host: host.to_owned(), is_loopback })
}

fn parse_ssh(location: &str, rest: &str) -> Result<SshUrl, LocationError> {
    let (place, directory) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, place) =
        place.rsplit_once('@').map_or((None, place), |(user, host)| (Some(user), host));
    if user.is_some_and(|user| user.contains(':')) {
        return Err(LocationError::Credentials { host: place.to_owned() });
    }
    // Excludes every character that a shell or `ssh` interprets.
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    if user
        .is_some_and(|user| user.is_empty() || user.starts_with('-') || !user.chars().all(is_name))
    {
        return Err(malformed(
            location,
            "a user consists of letters, digits, '.', '-', '_' and '+', and does not begin with \
             '-'",
        ));
    }
    let Authority { host, port } = authority(location, place)?;
    let directory = directory.trim_end_matches('/');
    if directory.is_empty() {
        return Err(malformed(
            location,
            "write an ssh URL as ssh://[user@]host[:port]/absolute/path",
        ));
    }
    Ok(SshUrl {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port,
        directory: format!("/{directory}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> String {
        match Location::parse(text) {
            Ok(Location::Http(place)) => place.base,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn paths_and_file_urls_are_directories_and_others_are_refused() {
        for (text, path) in
            [("/srv/www", "/srv/www"), ("./x", "./x"), ("file:///srv/www", "/srv/www")]
        {
            assert_eq!(Location::parse(text), Ok(Location::Directory(path.into())));
        }
        assert_eq!(Location::parse(""), Err(LocationError::Empty));
        assert!(matches!(Location::parse("file://host/x"), Err(LocationError::File { .. })));
        assert!(matches!(
            Location::parse("gopher://h/x"),
            Err(LocationError::Scheme { scheme, .. }) if scheme == "gopher"
        ));
    }

    #[test]
    fn rsync_style_host_is_suggested_as_an_ssh_url() {
        for (text, offered) in [
            ("edge2:/srv/www", "ssh://edge2/srv/www;"),
            ("me@edge2.example:/srv/www/", "ssh://me@edge2.example/srv/www;"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(matches!(error, LocationError::HostPath { .. }), "{error}");
            assert!(
                error.to_string().contains(offered)
                    && error.to_string().contains(&format!("./{text}")),
                "{error}"
            );
        }
        for text in ["./edge2:/srv", "a/b:/c", "edge2:", "edge2:/", "a b:/c", ":/x", "edge2:www"] {
            assert_eq!(Location::parse(text), Ok(Location::Directory(text.into())));
        }
    }

    #[test]
    fn http_url_is_the_base_of_a_site() {
        assert_eq!(base("https://edge1.example:7447/docs"), "https://edge1.example:7447/docs/");
        assert_eq!(base("https://edge1.example/a/b//"), "https://edge1.example/a/b/");
        for text in ["https://edge1.example", "https://edge1.example/"] {
            assert_eq!(base(text), "https://edge1.example/");
        }
        for text in
            ["http://127.0.0.1:80/x", "http://localhost/x", "http://[::1]:9/x", "http://127.9.9.9/"]
        {
            assert!(base(text).starts_with("http://"));
        }
    }

    #[test]
    fn location_has_one_canonical_form() {
        let canonical = |text: &str| Location::parse(text).unwrap().canonical();
        for (one, other) in [
            ("/srv/www", "file:///srv//./www/"),
            ("https://Edge.example:443/docs/", "https://edge.example/docs"),
            ("http://127.0.0.1:80/x", "http://127.0.0.1/x"),
            ("ssh://me@H:22/srv/www/", "ssh://me@h/srv/www"),
        ] {
            assert_eq!(canonical(one), canonical(other));
        }
        for (one, other) in [
            ("/srv/www", "/srv/WWW"),
            ("https://h/docs", "https://h/Docs"),
            ("https://h:80/docs", "https://h/docs"),
            ("ssh://me@h/srv", "ssh://you@h/srv"),
        ] {
            assert_ne!(canonical(one), canonical(other));
        }
    }

    #[test]
    fn plain_http_is_refused_except_on_loopback() {
        for text in [
            "http://edge1.example/docs",
            "http://10.0.0.1/",
            "http://localhost.example/",
            "http://[2001:db8::1]/",
        ] {
            assert!(
                matches!(Location::parse(text), Err(LocationError::Unencrypted { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn passwords_are_refused_and_not_repeated() {
        for text in [
            "https://me:hush@h/x",
            "https://hush@h/x",
            "ssh://me:hush@h/srv",
            "http://a:hush@127.0.0.1/",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(matches!(error, LocationError::Credentials { .. }), "{text}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn token_in_a_url_is_refused_and_not_repeated() {
        let token = "hw_0123abcd_5ec2e7";
        for text in [
            format!("https://h/docs?token={token}"),
            format!("https://h/{token}/docs"),
            format!("https://{token}@h/docs"),
            format!("https://{token}"),
            format!("ssh://{token}@h/srv"),
            "https://h/docs?key=5ec2e7".to_owned(),
            "https://h/docs#5ec2e7".to_owned(),
        ] {
            let error = Location::parse(&text).unwrap_err();
            assert!(!error.to_string().contains("5ec2e7"), "{error}");
        }
        assert_eq!(base("https://h/hw_docs"), "https://h/hw_docs/");
        assert_eq!(base("https://h/hw_0123abcd"), "https://h/hw_0123abcd/");
    }

    #[test]
    fn ssh_url_requires_a_host_and_an_absolute_path() {
        let Ok(Location::Ssh(place)) = Location::parse("ssh://deploy@edge2:2222/srv/www/") else {
            panic!("not ssh")
        };
        assert_eq!((place.destination().as_str(), place.port()), ("deploy@edge2", Some(2222)));
        assert_eq!((place.host(), place.directory()), ("edge2", "/srv/www"));
        let Ok(Location::Ssh(place)) = Location::parse("ssh://[::1]/srv/with space") else {
            panic!("not ssh")
        };
        assert_eq!((place.destination().as_str(), place.directory()), ("::1", "/srv/with space"));
    }

    #[test]
    fn control_characters_are_refused_in_every_kind_of_location() {
        for (text, shown) in [
            ("/srv/a\x1bb", "/srv/a\\u{1b}b"),
            ("./a\nb", "./a\\u{a}b"),
            ("file:///srv/a\x07", "file:///srv/a\\u{7}"),
            ("ssh://h/srv/a\u{9b}", "ssh://h/srv/a\\u{9b}"),
            ("https://h/a\t", "https://h/a\\u{9}"),
            ("ed\rge:/srv", "ed\\u{d}ge:/srv"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(matches!(error, LocationError::Control { .. }), "{error}");
            assert!(error.to_string().starts_with(&format!("\"{shown}\": ")), "{error}");
        }
        let error = Location::parse("https://h/hw_0123abcd_5ec2e7\n").unwrap_err();
        assert!(!error.to_string().contains("5ec2e7"), "{error}");
    }

    #[test]
    fn ssh_host_that_looks_like_an_option_is_refused() {
        for text in [
            "ssh://-oProxyCommand=x/srv",
            "ssh://-l@h/srv",
            "ssh://h",
            "ssh://h/",
            "ssh:///srv",
            "ssh://h:0/srv",
            "ssh://h:x/srv",
            "ssh://a b@h/srv",
            "ssh://h;x/srv",
            "https:///x",
            "https://h:99999/",
            "https://h/x?y",
            "https://h/../x",
            "https://[h]/",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(matches!(error, LocationError::Malformed { .. }), "{text}: {error}");
            assert!(error.to_string().contains(text.split('?').next().unwrap()), "{error}");
        }
    }
}
