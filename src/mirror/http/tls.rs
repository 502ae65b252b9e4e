//! A TLS connector for `ureq` that records when the server's certificate expires.
//!
//! The connector in `ureq` verifies certificates the same way but does not expose them. Uses the
//! crates `ureq`, and `tokio-rustls` for its rustls.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, ClientConnection, Error as TlsError, RootCertStore, StreamOwned,
};
use ureq::http::Uri;
use ureq::http::uri::Authority;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::time::{Duration as Time, Instant as Moment};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout,
    TcpConnector, Transport, TransportAdapter,
};
use ureq::{Agent, Error};

use crate::mirror::http::Credentials;
use crate::mirror::location::HttpUrl;

/// When a mirror's certificate expires, according to the last connection.
#[derive(Debug, Clone, Default)]
pub(super) struct CertificateExpiry(Arc<AtomicU64>);

impl CertificateExpiry {
    const UNKNOWN: u64 = 0;

    /// When the certificate expires, in seconds since 1970; `None` if there was no TLS connection.
    pub(super) fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|end| *end != Self::UNKNOWN)
    }

    fn record(&self, chain: Option<&[CertificateDer<'_>]>) {
        let end = chain.and_then(|chain| expiry_of(chain.first()?));
        self.0.store(end.unwrap_or(Self::UNKNOWN), Ordering::Relaxed);
    }
}

/// When `certificate` expires, in seconds since 1970.
fn expiry_of(certificate: &CertificateDer<'_>) -> Option<u64> {
    // rustls exposes the expiry date of a certificate only in its error for an expired certificate.
    // It checks the dates before the signature, so a check at the end of time yields that error for
    // any issuer.
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let no_roots = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(&parsed, &no_roots, &[], end_of_time, &[]) {
        Err(TlsError::InvalidCertificate(CertificateError::ExpiredContext {
            not_after, ..
        })) => Some(not_after.as_secs()),
        _ => None,
    }
}

/// Creates the agent for the mirror at `place`. The agent records in `end` when the certificate
/// expires.
pub(super) fn agent(
    credentials: &Credentials,
    url: &HttpUrl,
    connections: usize,
    end: CertificateExpiry,
) -> Agent {
    let mirror = url.base().parse::<Uri>().ok().and_then(|uri| uri.authority().cloned());
    let tls =
        TlsConnector { credentials: credentials.clone(), config: OnceLock::new(), mirror, end };
    let connector =
        ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default()).chain(tls);
    Agent::with_parts(
        credentials.config(connections, url.is_loopback()),
        connector,
        DefaultResolver::default(),
    )
}

#[derive(Debug)]
struct TlsConnector {
    credentials: Credentials,
    config: OnceLock<Arc<ClientConfig>>,
    /// The host and port of the mirror. The certificate of an HTTPS proxy is not recorded.
    mirror: Option<Authority>,
    end: CertificateExpiry,
}

impl TlsConnector {
    /// Returns the configuration. It is created on first use, so the system's trust store is read
    /// only if there is a TLS connection.
    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        // Two threads may both get here. The first result is kept, and the other one is equal.
        let config = Arc::new(self.credentials.tls_config()?);
        Ok(Arc::clone(self.config.get_or_init(|| config)))
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        below: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(below) = below else { return Ok(None) };
        if !details.needs_tls() || below.is_tls() {
            return Ok(Some(Either::A(below)));
        }
        let host = details.uri.host().unwrap_or_default();
        // An IPv6 address has brackets in a URL but not in a certificate.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| Error::Tls("the host is not a valid name"))?;
        let mut connection = ClientConnection::new(self.config()?, name)?;
        let mut socket = TransportAdapter::new(below.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(time_left(details));
        // Completes the handshake here, within the connect timeout, and not during the first write.
        connection.complete_io(&mut socket)?;
        if details.uri.authority() == self.mirror.as_ref() {
            self.end.record(connection.peer_certificates());
        }
        let (input, output) =
            (details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned { conn: connection, sock: socket };
        Ok(Some(Either::B(TlsTransport { buffers: LazyBuffers::new(input, output), stream })))
    }
}

/// The time left of the connect timeout, which includes the TLS handshake.
fn time_left(details: &ConnectionDetails<'_>) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Time::Exact(limit), Moment::Exact(began), Moment::Exact(now)) =
        (timeout.after, details.now, (details.current_time)())
    {
        timeout.after = Time::Exact(limit.saturating_sub(now.saturating_duration_since(began)));
    }
    timeout
}

struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport")
            .field("below", &self.stream.sock.inner())
            .finish_non_exhaustive()
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_expiry_is_known_despite_other_errors() {
        let (key, far) = (rcgen::KeyPair::generate().unwrap(), 253_402_300_799);
        for (end, is_ca) in
            [(1, false), (1_767_225_599, false), (4_102_444_800, true), (far, false)]
        {
            let mut params =
                rcgen::CertificateParams::new(vec!["edge1.example".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(1970, 1, 1);
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
            if is_ca {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }
            let made = params.self_signed(&key).unwrap();
            let seen = CertificateExpiry::default();
            seen.record(Some(&[made.der().clone()]));
            assert_eq!(seen.get(), Some(end));
        }
        let seen = CertificateExpiry::default();
        seen.record(Some(&[CertificateDer::from_slice(b"no certificate")]));
        assert_eq!(seen.get(), None);
        seen.record(None);
        assert_eq!(seen.get(), None);
    }
}
