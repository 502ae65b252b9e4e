//! A small HTTP client for URLs that are not receivers: public files, and the API of a CDN to
//! purge.
//!
//! It does not follow redirects, keep cookies or use proxies. Its errors do not contain the URL,
//! which may be a secret; the caller names what was requested. Uses the crates `ureq` and
//! `percent-encoding`.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::config::Config;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::hash::{ObjectId, hash_reader};

/// Maximum time to connect, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A longer `Retry-After` in a response is reduced to this value.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The ASCII characters that must be encoded in a URL's path (RFC 3986).
const NOT_IN_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Why a request failed. No part of the URL is included.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebError {
    /// The text is not a valid URL.
    #[error("it is not a usable http:// or https:// URL")]
    BadUrl,
    /// The request would send a secret unencrypted to another machine.
    #[error("a secret is sent only over https:, except to this machine")]
    Unencrypted,
    /// The server cannot be reached, or the connection broke.
    #[error("it cannot be reached: {what}")]
    Unreachable {
        /// Why the server cannot be reached, or how the connection broke.
        what: String,
    },
    /// The server did not respond, or did not finish, in time.
    #[error("it did not respond within {} s", limit.as_secs_f32())]
    Timeout {
        /// The time limit.
        limit: Duration,
    },
    /// The server responded with a status other than success.
    #[error(
        "it responded with status {status}{}",
        if matches!(status, 300..400) { ", a redirect (not followed)" } else { "" }
    )]
    Status {
        /// The status.
        status: u16,
    },
    /// The response is larger than the content can be.
    #[error("its response is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
}

/// Text that is never displayed: a token, or a secret URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The content fetched from a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedPage {
    /// The hash of the content.
    pub object: ObjectId,
    /// The length of the content, in bytes.
    pub size: u64,
}

/// The response to a `POST` request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostResponse {
    /// The status.
    pub status: u16,
    /// How long the server asked the client to wait before the next request.
    pub retry_after: Option<Duration>,
}

/// The client. Every request has a time limit.
#[derive(Clone)]
pub struct HttpClient {
    agent: Agent,
    limit: Duration,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl HttpClient {
    /// Creates a client whose requests take at most `limit`, from the start of the request to the
    /// end of the response.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config: Config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .tls_config(tls)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(limit)))
            .timeout_global(Some(limit))
            .build();
        Self { agent: Agent::new_with_config(config), limit }
    }

    /// Fetches `url` without content encoding, and hashes at most `max_bytes` of the content.
    ///
    /// # Errors
    /// Fails if the response is incomplete or its status is not 200.
    pub fn fetch(&self, url: &str, max_bytes: u64) -> Result<FetchedPage, WebError> {
        let mut answer =
            self.map_error(self.agent.get(url).header("accept-encoding", "identity").call())?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(WebError::Status { status });
        }
        // One more byte shows whether the content is too large.
        let read = hash_reader(answer.body_mut().with_config().limit(max_bytes + 1).reader());
        let (object, size) =
            read.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(ureq::Error::BodyExceedsLimit(_)) => WebError::TooLarge { limit: max_bytes },
                Some(ureq::Error::Timeout(_)) => WebError::Timeout { limit: self.limit },
                _ => WebError::Unreachable { what: error.to_string() },
            })?;
        if size > max_bytes {
            Err(WebError::TooLarge { limit: max_bytes })
        } else {
            Ok(FetchedPage { object, size })
        }
    }

    /// Posts `body` with these headers.
    ///
    /// # Errors
    /// Fails if there is no response. A response with any status is not an error.
    pub fn post(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<PostResponse, WebError> {
        let mut request = self.agent.post(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.map_error(request.send(body))?;
        Ok(PostResponse {
            status: answer.status().as_u16(),
            retry_after: retry_after(answer.headers()),
        })
    }

    fn map_error(
        &self,
        asked: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, WebError> {
        asked.map_err(|error| match error {
            ureq::Error::Timeout(_) => WebError::Timeout { limit: self.limit },
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => WebError::BadUrl,
            ureq::Error::HostNotFound => {
                WebError::Unreachable { what: "its host has no address".to_owned() }
            }
            ureq::Error::Io(error) => WebError::Unreachable { what: error.to_string() },
            ureq::Error::ConnectionFailed => {
                WebError::Unreachable { what: "no connection".to_owned() }
            }
            ureq::Error::Tls(what) => WebError::Unreachable { what: what.to_owned() },
            // Some of the other errors contain the URL.
            _ => WebError::Unreachable { what: "the exchange broke off".to_owned() },
        })
    }
}

/// Whether nobody else can read requests to `url`: it uses https, or is on this machine.
#[must_use]
pub fn is_encrypted_or_local(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback =
        || host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_loopback(),
        _ => false,
    }
}

/// Parses the header's number of seconds or date (RFC 9110).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let seconds = text.parse().ok().or_else(|| {
        let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        u64::try_from(until.duration_since(jiff::Timestamp::now()).as_secs()).ok()
    })?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Returns `path`, percent-encoded for a URL (RFC 3986). Characters that are allowed in a segment
/// are kept.
#[must_use]
pub fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, NOT_IN_PATHS).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_percent_encoded() {
        assert_eq!(encode_path("a/b-c_d.~!$&'()*+,;=:@"), "a/b-c_d.~!$&'()*+,;=:@");
        assert_eq!(encode_path("50% of é?#[x] y"), "50%25%20of%20%C3%A9%3F%23%5Bx%5D%20y");
    }

    #[test]
    fn retry_after_accepts_seconds_and_dates() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("99999999999"), Some(MAX_RETRY_AFTER));
        assert!(after("Wed, 01 Jan 2070 00:00:00 GMT").is_some());
        for none in ["", "soon", "-1", "Wed, 01 Jan 2020 00:00:00 GMT"] {
            assert_eq!(after(none), None, "{none}");
        }
    }

    #[test]
    fn secret_is_sent_only_over_tls_or_loopback() {
        for url in
            ["https://h/x?y", "http://127.0.0.1:80/x", "http://[::1]:9/", "http://localhost/"]
        {
            assert!(is_encrypted_or_local(url), "{url}");
        }
        let plain = [
            "http://h/x",
            "http://10.0.0.1/",
            "http://localhost.example/",
            "http://localhost@h/",
            "h/x",
            "",
        ];
        for url in plain {
            assert!(!is_encrypted_or_local(url), "{url}");
        }
    }

    #[test]
    fn errors_do_not_contain_the_url() {
        let web = HttpClient::new(Duration::from_secs(5));
        for url in [
            "http://canary canary",
            "canary",
            "ftp://127.0.0.1/canary",
            "http://127.0.0.1:1/canary",
            "http://canary.invalid/canary",
        ] {
            for error in
                [web.fetch(url, 9).unwrap_err(), web.post(url, &[("x", "y")], b"").unwrap_err()]
            {
                assert!(!format!("{error} {error:?}").contains("canary"), "{url}: {error:?}");
            }
        }
    }
}
