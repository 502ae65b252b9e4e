//! Who we are to a remote mirror, whom we believe it to be, and which way we go.
//!
//! Promises that no token, key or proxy password shows in any text. Uses the
//! crate `tokio-rustls` for its rustls, to try a key before `ureq` does: that
//! panics on one that does not fit.

use std::fmt;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::sign::CertifiedKey;
use ureq::config::{Config, ConfigBuilder};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Proxy, ProxyProtocol};

/// Longest time for a connection, TLS included.
pub(in crate::mirror) const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence within a transfer.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// Longest name and secret together, in bytes: far more than a header may have.
const MAX_TOKEN_BYTES: usize = 4096;

/// Why something that the user gave for access cannot be used. Nothing of its content is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
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
pub struct Token(String);

impl Token {
    /// The token `text`; white space around it is dropped.
    ///
    /// # Errors
    /// When it can be none.
    pub fn new(text: &str) -> Result<Self, AccessError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_TOKEN_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AccessError::Token);
        }
        Ok(Self(text.to_owned()))
    }

    /// The value of the header `authorization`.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A certificate of ours with its key, checked to fit.
#[derive(Clone)]
pub struct ClientIdentity(ClientCert);

impl ClientIdentity {
    /// The identity of these PEM texts.
    ///
    /// # Errors
    /// When there is no certificate, no key, or they do not fit.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, AccessError> {
        let der = certificates(chain)?;
        let private = PrivateKeyDer::from_pem_slice(key).map_err(|_| AccessError::NoKey)?;
        let what = |error: tokio_rustls::rustls::Error| AccessError::KeyMismatch { what: error.to_string() };
        CertifiedKey::from_der(der.clone(), private, &ring::default_provider()).map_err(what)?;
        let chain: Vec<_> = der.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
        let key = PrivateKey::from_pem(key).map_err(|_| AccessError::NoKey)?;
        Ok(Self(ClientCert::new_with_certs(&chain, key)))
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(…)")
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(AccessError::NoCertificate)
}

/// A proxy on the way.
#[derive(Clone)]
pub struct ProxyChoice(Proxy);

impl ProxyChoice {
    /// The proxy `url`, except for hosts that `except` lists as `NO_PROXY` does.
    ///
    /// # Errors
    /// When it is no URL of a proxy.
    pub fn new(url: &str, except: Option<&str>) -> Result<Self, AccessError> {
        let plain = Proxy::new(url).map_err(|_| AccessError::Proxy)?;
        if !matches!(plain.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
            return Err(AccessError::Proxy);
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
        builder.build().map(Self).map_err(|_| AccessError::Proxy)
    }
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyChoice({}:{})", self.0.host(), self.0.port())
    }
}

/// Everything about access that is not in a location.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// What opens the mirror.
    pub token: Option<Token>,
    /// Who may vouch for it; nothing: whom this system trusts.
    roots: Option<Vec<Certificate<'static>>>,
    /// Who we are, for receivers that ask for certificates.
    pub identity: Option<ClientIdentity>,
    /// Which way; nothing: straight.
    pub proxy: Option<ProxyChoice>,
}

impl Access {
    /// Access with this token, this way.
    #[must_use]
    pub fn new(token: Option<Token>, proxy: Option<ProxyChoice>) -> Self {
        Self { token, proxy, ..Self::default() }
    }

    /// Believes only those whom one of these certificates (PEM) vouches for.
    ///
    /// # Errors
    /// When there is none.
    pub fn trust_only(&mut self, pem: &[u8]) -> Result<(), AccessError> {
        self.roots = Some(certificates(pem)?.iter().map(|one| Certificate::from_der(one).to_owned()).collect());
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
        let roots = match &self.roots {
            Some(roots) => RootCerts::new_with_certs(roots),
            None => RootCerts::PlatformVerifier,
        };
        let identity = self.identity.as_ref().map(|identity| identity.0.clone());
        let tls = TlsConfig::builder().root_certs(roots).client_cert(identity).build();
        let proxy = self.proxy.as_ref().filter(|_| !is_loopback).map(|proxy| proxy.0.clone());
        common(connections).max_idle_age(STALL).tls_config(tls).proxy(proxy).timeout_connect(Some(CONNECT)).build()
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
        let token = Token::new(" hw_a_canary\n").unwrap();
        assert_eq!(token.header(), "Bearer hw_a_canary");
        let access = Access { token: Some(token), ..Access::default() };
        assert!(!format!("{access:?}").contains("canary"));
        for bad in ["", " ", "a b", "a\nb", "é", &"x".repeat(5000)] {
            assert_eq!(Token::new(bad), Err(AccessError::Token));
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
        assert!(matches!(error, AccessError::KeyMismatch { .. }), "{error}");
        assert_eq!(ClientIdentity::new(b"", key.as_bytes()).unwrap_err(), AccessError::NoCertificate);
        assert_eq!(ClientIdentity::new(chain.as_bytes(), b"x").unwrap_err(), AccessError::NoKey);
        assert!(Access::default().trust_only(chain.as_bytes()).is_ok());
        assert_eq!(Access::default().trust_only(b"not PEM"), Err(AccessError::NoCertificate));
    }
}
