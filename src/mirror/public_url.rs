//! The public URL of a mirror, as the user writes it.
//!
//! Promises that its parts are well-formed: a host that is copied into the configuration of another
//! program (nginx, haproxy) cannot inject a directive.

use std::fmt;
use std::net::IpAddr;

use super::location::{authority, has_token};

/// `http[s]://host[:port][/path]`, without a user, query, fragment or token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    text: String,
    host: String,
    port: u16,
    is_tls: bool,
}

impl PublicUrl {
    /// Parses a URL and drops a trailing `/`. Returns `None` if the string is not such a URL.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let is_plain = |c: char| {
            c.is_ascii_graphic()
                && !matches!(c, '?' | '#' | '@' | '"' | '<' | '>' | '\\' | '{' | '}')
        };
        if !path.chars().all(is_plain) || has_token(text) {
            return None;
        }
        let authority = authority(text, place).ok()?;
        let port = authority.port.unwrap_or(if is_tls { 443 } else { 80 });
        Some(Self {
            text: text.trim_end_matches('/').to_owned(),
            host: authority.host.to_owned(),
            port,
            is_tls,
        })
    }

    /// The URL, without a trailing `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host of the URL: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host and port of the URL, as `host:port` or `[address]:port`.
    #[must_use]
    pub fn authority(&self) -> String {
        let is_v6 = self.host.contains(':');
        if is_v6 {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The host of the URL as an IP address; `None` if the host is a name.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether the URL begins with `https:`.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.is_tls
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_url_authority_is_host_and_port_only() {
        let parts =
            |text: &str| PublicUrl::parse(text).map(|url| (url.authority(), url.host, url.is_tls));
        assert_eq!(
            parts("https://a.example/docs/").unwrap(),
            ("a.example:443".into(), "a.example".into(), true)
        );
        assert_eq!(
            parts("http://a.example:8080").unwrap(),
            ("a.example:8080".into(), "a.example".into(), false)
        );
        assert_eq!(parts("https://[::1]:9/x").unwrap(), ("[::1]:9".into(), "::1".into(), true));
        for bad in [
            "https://127.0.0.1:1;hash",
            "https://h;weight=1/",
            "https://h:1 backup/",
            "https://h:x/",
            "https://h:0/",
            "https://[::1/",
            "https://[h]:1/",
            "https://-h/",
            "https://",
            "https:///x",
            "https://u@h/",
            "https://h/?q",
            "https://h/{x}",
            "https://h/hw_0123abcd_5ec2e7",
            "ftp://h/",
            "h/x",
            "https://h\n/",
            "https://h'/",
            "https://$host/",
        ] {
            assert!(PublicUrl::parse(bad).is_none(), "{bad}");
        }
    }
}
