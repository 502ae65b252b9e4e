//! Who we are to a remote mirror, whom we believe it to be, and which way we go.
//!
//! Promises that no token, key or proxy password shows in any text. Uses the
//! crates `ureq`, `tokio-rustls` for its rustls, and `rustls-platform-verifier`
//! for whom this system trusts.

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

use crate::text::Secrets;

/// Longest time for a connection, TLS included.
pub(in crate::mirror) const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence within a transfer.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// Longest name and secret together, in bytes: far more than a header may have.
const MAX_TOKEN_BYTES: usize = 4096;

/// Why something that the user gave for access cannot be used. Nothing of its content is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// A token with characters that none has.
    #[error("the token is empty, too long, or has blanks or line breaks inside")]
    Token,
    /// No certificate in what should have some.
    #[error("it has no certificate in PEM form")]
    NoCertificate,
    /// No private key in what should have one.
    #[error("it has no private key in PEM form")]
    NoKey,
    /// A key and a certificate that do not belong together.
    #[error("the key and the certificate cannot be used together: {what}")]
    KeyMismatch {
        /// Why.
        what: String,
    },
    /// A proxy that is no URL we know.
    #[error("a proxy is http://[user:password@]host:port, or https:// the same")]
    Proxy,
}

/// A secret that opens a mirror.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(String);

impl BearerToken {
    /// The token `text`; white space around it is dropped.
    ///
    /// # Errors
    /// When it can be none.
    pub fn new(text: &str) -> Result<Self, CredentialsError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_TOKEN_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CredentialsError::Token);
        }
        Ok(Self(text.to_owned()))
    }

    /// The value of the header `authorization`.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A certificate of ours with its key, checked to fit.
#[derive(Clone)]
pub struct ClientIdentity(Arc<CertifiedKey>);

impl ClientIdentity {
    /// The identity of these PEM texts.
    ///
    /// # Errors
    /// When there is no certificate, no key, or they do not fit.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CredentialsError::NoKey)?;
        let what = |error: TlsError| CredentialsError::KeyMismatch { what: error.to_string() };
        Ok(Self(Arc::new(CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(what)?)))
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

/// A proxy on the way.
#[derive(Clone)]
pub struct ProxyChoice(Proxy);

impl ProxyChoice {
    /// The proxy `url`, except for hosts that `except` lists as `NO_PROXY` does.
    ///
    /// # Errors
    /// When it is no URL of a proxy.
    pub fn new(url: &str, except: Option<&str>) -> Result<Self, CredentialsError> {
        let plain = Proxy::new(url).map_err(|_| CredentialsError::Proxy)?;
        if !matches!(plain.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
            return Err(CredentialsError::Proxy);
        }
        let mut builder = Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
        if let Some(name) = plain.username() {
            builder = builder.username(name);
        }
        if let Some(password) = plain.password() {
            builder = builder.password(password);
        }
        for host in except.unwrap_or_default().split(',').map(str::trim).filter(|host| !host.is_empty()) {
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

/// Everything about access that is not in a location.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// What opens the mirror.
    pub token: Option<BearerToken>,
    /// Who may vouch for it; nothing: whom this system trusts.
    roots: Option<Vec<CertificateDer<'static>>>,
    /// Who we are, for receivers that ask for certificates.
    pub identity: Option<ClientIdentity>,
    /// Which way; nothing: straight.
    pub proxy: Option<ProxyChoice>,
}

impl Credentials {
    /// Access with this token, this way.
    #[must_use]
    pub fn new(token: Option<BearerToken>, proxy: Option<ProxyChoice>) -> Self {
        Self { token, proxy, ..Self::default() }
    }

    /// What of it must not be repeated.
    pub(super) fn secrets(&self) -> Secrets {
        let token = self.token.as_ref().map(|token| token.0.as_str());
        let password = self.proxy.as_ref().and_then(|proxy| proxy.0.password());
        Secrets::new(token.into_iter().chain(password))
    }

    /// Believes only those whom one of these certificates (PEM) vouches for.
    ///
    /// # Errors
    /// When there is none.
    pub fn trust_only(&mut self, pem: &[u8]) -> Result<(), CredentialsError> {
        self.roots = Some(certificates(pem)?);
        Ok(())
    }

    /// The settings of an agent behind `ssh`, which finds its way and says who it is by itself.
    pub(super) fn config_over_ssh() -> Config {
        // Another child process costs more than a socket, so it is kept, and it is as slow to start as ssh is.
        let day = Duration::from_secs(24 * 60 * 60);
        common(1).max_idle_age(day).proxy(None).timeout_connect(None).build()
    }

    /// The settings of an agent for one mirror. A loopback address never goes through a proxy.
    pub(super) fn config(&self, connections: usize, is_loopback: bool) -> Config {
        let proxy = self.proxy.as_ref().filter(|_| !is_loopback).map(|proxy| proxy.0.clone());
        common(connections).max_idle_age(STALL).proxy(proxy).timeout_connect(Some(CONNECT)).build()
    }

    /// Whom to believe, and who we are.
    ///
    /// # Errors
    /// When it cannot be learned whom this system trusts.
    pub(super) fn tls_config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match &self.roots {
            Some(roots) => {
                let mut trusted = RootCertStore::empty();
                // One that cannot be read vouches for nobody.
                trusted.add_parsable_certificates(roots.iter().cloned());
                builder.with_root_certificates(trusted)
            }
            None => {
                let verifier = rustls_platform_verifier::Verifier::new(provider)?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        Ok(match &self.identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.0))))
            }
            None => builder.with_no_client_auth(),
        })
    }
}

fn common(connections: usize) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")))
        .accept("")
        .max_idle_connections_per_host(connections)
        .max_idle_connections(connections)
        .timeout_per_read(Some(STALL))
        .timeout_per_write(Some(STALL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_shows() {
        let token = BearerToken::new(" hw_a_canary\n").unwrap();
        assert_eq!(token.header(), "Bearer hw_a_canary");
        let access = Credentials { token: Some(token), ..Credentials::default() };
        assert!(!format!("{access:?}").contains("canary"));
        for bad in ["", " ", "a b", "a\nb", "é", &"x".repeat(5000)] {
            assert_eq!(BearerToken::new(bad), Err(CredentialsError::Token));
        }
    }

    #[test]
    fn a_proxy_is_an_http_proxy_and_hides_its_password() {
        let proxy = ProxyChoice::new("http://me:canary@proxy.example:3128", Some("a.example, .b.example")).unwrap();
        assert_eq!(format!("{proxy:?}"), "ProxyChoice(proxy.example:3128)");
        assert_eq!(proxy.0.password(), Some("canary"));
        let uri = |text: &str| text.parse::<ureq::http::Uri>().unwrap();
        assert!(proxy.0.is_no_proxy(&uri("https://a.example/")) && proxy.0.is_no_proxy(&uri("https://x.b.example/")));
        assert!(!proxy.0.is_no_proxy(&uri("https://c.example/")));
        assert!(ProxyChoice::new("socks5://h:1", None).is_err() && ProxyChoice::new("", None).is_err());
    }

    #[test]
    fn a_key_must_fit_its_certificate() {
        let make = || rcgen::generate_simple_self_signed(vec!["edge1.example".to_owned()]).unwrap();
        let (one, other) = (make(), make());
        let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        assert!(ClientIdentity::new(chain.as_bytes(), key.as_bytes()).is_ok());
        let foreign = other.signing_key.serialize_pem();
        let error = ClientIdentity::new(chain.as_bytes(), foreign.as_bytes()).unwrap_err();
        assert!(matches!(error, CredentialsError::KeyMismatch { .. }), "{error}");
        assert_eq!(ClientIdentity::new(b"", key.as_bytes()).unwrap_err(), CredentialsError::NoCertificate);
        assert_eq!(ClientIdentity::new(chain.as_bytes(), b"x").unwrap_err(), CredentialsError::NoKey);
        assert!(Credentials::default().trust_only(chain.as_bytes()).is_ok());
        assert_eq!(Credentials::default().trust_only(b"not PEM"), Err(CredentialsError::NoCertificate));
    }
}
