//! Describes TLS handshake errors.
//!
//! `ureq` returns rustls errors either directly or wrapped in an I/O error. Uses the crate
//! `tokio-rustls` for its rustls.

use std::io;

use tokio_rustls::rustls::{
    AlertDescription, CertificateError, Error as TlsError, InvalidMessage, OtherError,
};

use crate::mirror::transport_error::TransportError;

/// How many of a certificate's names an error lists.
const SHOWN_NAMES: usize = 3;
const DAY_SECONDS: u64 = 24 * 60 * 60;

pub(super) fn describe_tls(error: &TlsError) -> TransportError {
    match error {
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => TransportError::NoTls,
        TlsError::InvalidCertificate(error) => {
            TransportError::Certificate { what: describe_certificate(error) }
        }
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            TransportError::ClientCertificate {
                what: "it requires a client certificate (`client_cert`), but none was sent"
                    .to_owned(),
            }
        }
        TlsError::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => TransportError::ClientCertificate {
            what: "it rejects the client certificate (`client_cert`), or requires one".to_owned(),
        },
        other => TransportError::Tls { what: describe_handshake(other) },
    }
}

fn describe_handshake(error: &TlsError) -> String {
    match error {
        TlsError::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the server supports neither TLS 1.2 nor TLS 1.3".to_owned()
        }
        TlsError::AlertReceived(AlertDescription::HandshakeFailure) => {
            "the server supports no cipher that is supported here".to_owned()
        }
        TlsError::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the server has no certificate for the host name in the URL".to_owned()
        }
        TlsError::AlertReceived(alert) => {
            format!(
                "the server ended it with the alert \"{}\"",
                variant_words(&format!("{alert:?}"))
            )
        }
        TlsError::NoCertificatesPresented => "the server sent no certificate".to_owned(),
        TlsError::PeerIncompatible(what) => format!(
            "the server uses TLS in a way that is not supported here ({})",
            variant_words(&format!("{what:?}"))
        ),
        TlsError::PeerMisbehaved(what) => {
            format!("the server broke the protocol ({})", variant_words(&format!("{what:?}")))
        }
        other => other.to_string(),
    }
}

/// The name of a variant in words: `NoCipherSuitesInCommon` becomes `no cipher suites in common`.
/// Its fields are left out, because they are lists of numbers.
fn variant_words(debug: &str) -> String {
    let name = debug.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    let mut words = String::new();
    for c in name.trim_end_matches("Context").chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

/// Describes a rustls error that is wrapped in an I/O error.
pub(super) fn describe_io(error: &io::Error) -> TransportError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    inner.map_or_else(|| TransportError::Tls { what: error.to_string() }, describe_tls)
}

fn describe_certificate(error: &CertificateError) -> String {
    let days = |from: u64, to: u64| match to.saturating_sub(from) / DAY_SECONDS {
        0 => "less than a day".to_owned(),
        1 => "a day".to_owned(),
        days => format!("{days} days"),
    };
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            format!("it expired {} ago", days(not_after.as_secs(), time.as_secs()))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let ahead = days(time.as_secs(), not_before.as_secs());
            format!("it becomes valid in {ahead}, if the clock here is right")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("it is for {}, not for {}", certificate_names(presented), expected.to_str())
        }
        // An error from the crate webpki; rustls does not export its type, so its text is compared.
        CertificateError::Other(OtherError(error))
            if format!("{error:?}").contains("CaUsedAsEndEntity") =>
        {
            "it is a CA certificate: create a server certificate with basicConstraints=CA:FALSE"
                .to_owned()
        }
        CertificateError::Other(OtherError(error)) => variant_words(&format!("{error:?}")),
        other => plain_description(other)
            .map_or_else(|| variant_words(&format!("{other:?}")), ToOwned::to_owned),
    }
}

/// The description of an error, if it contains no numbers or names.
const fn plain_description(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::UnknownIssuer => "it is not signed by an authority that is trusted here",
        CertificateError::BadSignature => {
            "its signature does not match the certificate of its issuer: one of the two was \
             regenerated"
        }
        CertificateError::Expired => "it has expired",
        CertificateError::NotValidYet => "it is not valid yet, if the clock here is right",
        CertificateError::Revoked => "it was revoked",
        CertificateError::BadEncoding => "it is not a valid X.509 certificate",
        CertificateError::UnhandledCriticalExtension => {
            "it has a critical extension that is not supported here"
        }
        // For example, the self-signed certificate that Debian generates for localhost.
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is not signed by an authority that is trusted here: the trusted certificate of \
             that name has a different kind of key"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
            "the algorithm of a key or of a signature is not supported here: use ECDSA with P-256 \
             or P-384, Ed25519, or RSA with 2048 bits or more, and SHA-256 or better"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers: create a certificate with extendedKeyUsage=serverAuth"
        }
        CertificateError::NotValidForName => "it is not for the host name in the URL",
        _ => return None,
    })
}

/// The names in a certificate, which rustls formats as `DnsName("a.example")` or
/// `IpAddress(127.0.0.1)`.
fn certificate_names(presented: &[String]) -> String {
    let bare = |name: &String| {
        name.split_once('(').map_or(&**name, |(_, name)| name).replace(['"', ')'], "")
    };
    let mut names: Vec<String> = presented.iter().take(SHOWN_NAMES).map(bare).collect();
    if presented.len() > SHOWN_NAMES {
        names.push(format!("{} more", presented.len() - SHOWN_NAMES));
    }
    if names.is_empty() { "no name (subjectAltName)".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_errors_keep_their_text() {
        let words = |error: TlsError| {
            describe_io(&io::Error::new(io::ErrorKind::InvalidData, error)).to_string()
        };
        let alert = |alert| words(TlsError::AlertReceived(alert));
        assert!(alert(AlertDescription::CertificateRequired).contains("`client_cert`"));
        assert!(alert(AlertDescription::UnknownCA).contains("`client_cert`"));
        assert!(alert(AlertDescription::ProtocolVersion).contains("neither TLS 1.2 nor TLS 1.3"));
        assert!(alert(AlertDescription::InternalError).contains("the alert \"internal error\""));
        assert!(
            words(TlsError::InvalidMessage(InvalidMessage::InvalidContentType))
                .contains("not use TLS")
        );
        assert!(
            words(TlsError::InvalidCertificate(CertificateError::Revoked))
                .contains("is not accepted")
        );
        let certificate = |error| words(TlsError::InvalidCertificate(error));
        let unsupported = CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![6, 9, 42],
            public_key_algorithm_id: vec![6, 7, 42],
        };
        let words = "not signed by an authority that is trusted here";
        assert!(certificate(unsupported).contains(words));
        assert!(certificate(CertificateError::InvalidPurpose).contains("serverAuth"));
        assert!(
            certificate(CertificateError::InvalidOcspResponse).ends_with("invalid ocsp response")
        );
        let plain = describe_io(&io::Error::new(io::ErrorKind::InvalidData, "odd"));
        assert_eq!(plain, TransportError::Tls { what: "odd".to_owned() });
    }
}
