//! Credentials for a remote mirror: token, client certificate, trusted roots and proxy.
//!
//! Promises that no token, key or proxy password appears in any text. It uses the crates `ureq`,
//! `tokio-rustls` for its rustls, and `rustls-platform-verifier` for the system's trust store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{ClientConfig, Error as TlsError, RootCertStore};
use ureq::config::{Config, ConfigBuilder};
use ureq::typestate::AgentScope;
use ureq::{Agent, Proxy, ProxyProtocol};

use crate::mirror::attempt::CONNECT_TIMEOUT;
use crate::text::Secrets;

/// The maximum duration of one read or write within a transfer.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum length of a token, in bytes. headwater's tokens are far shorter.
const MAX_TOKEN_BYTES: usize = 4096;

/// Why a credential cannot be used. The message never includes any part of the credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The token is empty, too long or contains an invalid character.
    #[error("the token is empty, too long, or contains a character that is not visible ASCII")]
    Token,
    /// The PEM text contains no certificate.
    #[error("it contains no certificate in PEM form")]
    NoCertificate,
    /// The PEM text contains no private key.
    #[error("it contains no private key in PEM form")]
    NoKey,
    /// The key does not belong to the certificate.
    #[error("the key and the certificate cannot be used together: {what}")]
    KeyMismatch {
        /// Why the key and the certificate do not match.
        what: String,
    },
    /// The string is not the URL of an HTTP proxy.
    #[error(
        "write a proxy as http://[user:password@]host:port or https://[user:password@]host:port"
    )]
    Proxy,
}

/// The token for a mirror.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(String);

impl BearerToken {
    /// Checks a token. Whitespace around the token is removed.
    ///
    /// # Errors
    /// Fails if the string is not a valid token.
    pub fn new(text: &str) -> Result<Self, CredentialsError> {
        let text = text.trim();
        if text.is_empty()
            || text.len() > MAX_TOKEN_BYTES
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(CredentialsError::Token);
        }
        Ok(Self(text.to_owned()))
    }

    /// The value of the `authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A client certificate and its private key.
#[derive(Clone)]
pub struct ClientIdentity(Arc<CertifiedKey>);

impl ClientIdentity {
    /// Reads a certificate chain and a private key from PEM files.
    ///
    /// # Errors
    /// Fails if there is no certificate or no key, or the key does not match the certificate.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CredentialsError::NoKey)?;
        let what = |error: TlsError| CredentialsError::KeyMismatch { what: error.to_string() };
        Ok(Self(Arc::new(
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(what)?,
        )))
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(…)")
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(CredentialsError::NoCertificate)
}

/// An HTTP proxy.
#[derive(Clone)]
pub struct ProxyChoice(Proxy);

impl ProxyChoice {
    /// The proxy at `url`, for all hosts except those in `except`, a list in the format of
    /// `NO_PROXY`.
    ///
    /// # Errors
    /// Fails if `url` is not the URL of an HTTP proxy.
    pub fn new(url: &str, except: Option<&str>) -> Result<Self, CredentialsError> {
        let plain = Proxy::new(url).map_err(|_| CredentialsError::Proxy)?;
        if !matches!(plain.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
            return Err(CredentialsError::Proxy);
        }
        // Rebuilt part by part: a proxy that is parsed from a URL cannot have exceptions.
        let mut builder = Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
        if let Some(name) = plain.username() {
            builder = builder.username(name);
        }
        if let Some(password) = plain.password() {
            builder = builder.password(password);
        }
        for host in
            except.unwrap_or_default().split(',').map(str::trim).filter(|host| !host.is_empty())
        {
            builder = builder.no_proxy(host);
        }
        builder.build().map(Self).map_err(|_| CredentialsError::Proxy)
    }
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyChoice({}:{})", self.0.host(), self.0.port())
    }
}

/// The credentials for a mirror, and the proxy to it.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The token for the mirror.
    pub token: Option<BearerToken>,
    /// The only trusted roots; `None` to trust the system's roots.
    roots: Option<Vec<CertificateDer<'static>>>,
    /// The client certificate, for servers that require one.
    pub identity: Option<ClientIdentity>,
    /// The proxy; `None` for a direct connection.
    pub proxy: Option<ProxyChoice>,
}

impl Credentials {
    /// Credentials that consist of only a token and a proxy.
    #[must_use]
    pub fn new(token: Option<BearerToken>, proxy: Option<ProxyChoice>) -> Self {
        Self { token, proxy, ..Self::default() }
    }

    /// The secrets in these credentials, which must not appear in any text.
    pub(super) fn secrets(&self) -> Secrets {
        let token = self.token.as_ref().map(|token| token.0.as_str());
        let password = self.proxy.as_ref().and_then(|proxy| proxy.0.password());
        Secrets::new(token.into_iter().chain(password))
    }

    /// Trusts only these root certificates (PEM) instead of the system's roots.
    ///
    /// # Errors
    /// Fails if the PEM text contains no certificate.
    pub fn trust_only(&mut self, pem: &[u8]) -> Result<(), CredentialsError> {
        self.roots = Some(certificates(pem)?);
        Ok(())
    }

    /// The settings for an agent over `ssh`, which does its own name resolution and authentication.
    pub(super) fn config_over_ssh() -> Config {
        // A new ssh process costs more than a socket, so an idle process is kept for a day.
        // Starting it may take longer than opening a connection, so there is no connect timeout
        // here.
        let day = Duration::from_secs(24 * 60 * 60);
        // `None` for the proxy, because ureq would otherwise take a proxy from the environment.
        // Only one connection, because each connection is a login.
        common(1).max_idle_age(day).proxy(None).timeout_connect(None).build()
    }

    /// The agent settings for one mirror. Connections to a loopback address never use a proxy.
    pub(super) fn config(&self, connections: usize, is_loopback: bool) -> Config {
        let proxy = self.proxy.as_ref().filter(|_| !is_loopback).map(|proxy| proxy.0.clone());
        // This client closes idle connections after 60 seconds, before a receiver closes them after
        // 75.
        common(connections)
            .max_idle_age(IO_TIMEOUT)
            .proxy(proxy)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .build()
    }

    /// The TLS configuration: trusted roots and client certificate.
    ///
    /// # Errors
    /// Fails if the system's trust store cannot be read.
    pub(super) fn tls_config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.roots {
            Some(roots) => {
                let mut trusted = RootCertStore::empty();
                // A certificate that cannot be parsed is skipped: skipping it never makes anything
                // trusted.
                trusted.add_parsable_certificates(roots.iter().cloned());
                builder.with_root_certificates(trusted)
            }
            None => {
                let verifier = rustls_platform_verifier::Verifier::new(provider)?;
                // rustls calls every custom verifier dangerous. This one checks certificates as the
                // system does.
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        Ok(match &self.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                Arc::clone(&identity.0),
            ))),
            None => builder.with_no_client_auth(),
        })
    }
}

fn common(connections: usize) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        // If a status were an error, it would come without the body, which states the reason.
        .http_status_as_error(false)
        // The token is for the configured host only. The redirect is returned as a response, not as
        // an error, so that the message can say where it leads.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")))
        .accept("")
        // ureq keeps only three idle connections by default, so the other workers would have to
        // connect again for each request.
        .max_idle_connections_per_host(connections)
        .max_idle_connections(connections)
        // The timeout applies to each operation, not to a whole transfer, which may take hours and
        // still make progress.
        .timeout_per_read(Some(IO_TIMEOUT))
        .timeout_per_write(Some(IO_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_never_appears_in_debug_output() {
        let token = BearerToken::new(" hw_a_canary\n").unwrap();
        assert_eq!(token.header(), "Bearer hw_a_canary");
        let access = Credentials { token: Some(token), ..Credentials::default() };
        assert!(!format!("{access:?}").contains("canary"));
        for bad in ["", " ", "a b", "a\nb", "é", &"x".repeat(5000)] {
            assert_eq!(BearerToken::new(bad), Err(CredentialsError::Token));
        }
    }

    #[test]
    fn proxy_requires_http_and_hides_its_password() {
        let proxy =
            ProxyChoice::new("http://me:canary@proxy.example:3128", Some("a.example, .b.example"))
                .unwrap();
        assert_eq!(format!("{proxy:?}"), "ProxyChoice(proxy.example:3128)");
        assert_eq!(proxy.0.password(), Some("canary"));
        let uri = |text: &str| text.parse::<ureq::http::Uri>().unwrap();
        assert!(
            proxy.0.is_no_proxy(&uri("https://a.example/"))
                && proxy.0.is_no_proxy(&uri("https://x.b.example/"))
        );
        assert!(!proxy.0.is_no_proxy(&uri("https://c.example/")));
        assert!(
            ProxyChoice::new("socks5://h:1", None).is_err() && ProxyChoice::new("", None).is_err()
        );
    }

    #[test]
    fn key_must_match_its_certificate() {
        let make = || rcgen::generate_simple_self_signed(vec!["edge1.example".to_owned()]).unwrap();
        let (one, other) = (make(), make());
        let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        assert!(ClientIdentity::new(chain.as_bytes(), key.as_bytes()).is_ok());
        let foreign = other.signing_key.serialize_pem();
        let error = ClientIdentity::new(chain.as_bytes(), foreign.as_bytes()).unwrap_err();
        assert!(matches!(error, CredentialsError::KeyMismatch { .. }), "{error}");
        assert_eq!(
            ClientIdentity::new(b"", key.as_bytes()).unwrap_err(),
            CredentialsError::NoCertificate
        );
        assert_eq!(
            ClientIdentity::new(chain.as_bytes(), b"x").unwrap_err(),
            CredentialsError::NoKey
        );
        assert!(Credentials::default().trust_only(chain.as_bytes()).is_ok());
        assert_eq!(
            Credentials::default().trust_only(b"not PEM"),
            Err(CredentialsError::NoCertificate)
        );
    }
}
