//! Words for what goes wrong while TLS begins.
//!
//! Knows the errors of rustls, which `ureq` hands on as they are or hidden in
//! those of input and output. Uses the crate `tokio-rustls` for its rustls.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError, InvalidMessage, OtherError};

use crate::mirror::transport_error::TransportError;

/// More names of a certificate than these say no more.
const SHOWN_NAMES: usize = 3;
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Words an error of TLS.
pub(super) fn describe_tls(error: &TlsError) -> TransportError {
    match error {
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => TransportError::NoTls,
        TlsError::InvalidCertificate(error) => TransportError::Certificate { what: describe_certificate(error) },
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => TransportError::Tls {
            what: "it asks for a certificate of ours (`client_cert`), and none was sent".to_owned(),
        },
        TlsError::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => TransportError::Tls {
            what: "it does not accept our certificate (`client_cert`), or that there is none".to_owned(),
        },
        other => TransportError::Tls { what: other.to_string() },
    }
}

/// The same, for one that is hidden in an error of input or output.
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
        CertificateError::UnknownIssuer => "nobody that is trusted here has signed it".to_owned(),
        CertificateError::BadSignature => {
            "it was not signed with the key of the certificate that should vouch for it: one of the two was made anew"
                .to_owned()
        }
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("it expired {} ago", days(not_after.as_secs(), time.as_secs()))
        }
        CertificateError::NotValidYet => "it is not valid yet, if the clock here is right".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => {
            let ahead = days(time.as_secs(), not_before.as_secs());
            format!("it is not valid yet, for another {ahead}, if the clock here is right")
        }
        CertificateError::NotValidForName => "it is for another name than the one in the url".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            // They come as `DnsName("a.example")` or `IpAddress(127.0.0.1)`.
            let bare = |name: &String| name.split_once('(').map_or(&**name, |(_, name)| name).replace(['"', ')'], "");
            let mut names: Vec<String> = presented.iter().take(SHOWN_NAMES).map(bare).collect();
            if presented.len() > SHOWN_NAMES {
                names.push(format!("{} more", presented.len() - SHOWN_NAMES));
            }
            let names = if names.is_empty() { "no name (subjectAltName)".to_owned() } else { names.join(", ") };
            format!("it is for {names}, not for {}", expected.to_str())
        }
        // Of the crate webpki, whose errors rustls does not show.
        CertificateError::Other(OtherError(error)) if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            "it is marked as the certificate of an authority: make one with basicConstraints=CA:FALSE".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_error_keeps_its_own_words() {
        let words = |error: TlsError| describe_io(&io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        let alert = |alert| words(TlsError::AlertReceived(alert));
        assert!(alert(AlertDescription::CertificateRequired).contains("`client_cert`"));
        assert!(alert(AlertDescription::UnknownCA).contains("`client_cert`"));
        assert!(alert(AlertDescription::ProtocolVersion).contains("ProtocolVersion"));
        assert!(words(TlsError::InvalidMessage(InvalidMessage::InvalidContentType)).contains("no TLS"));
        assert!(words(TlsError::InvalidCertificate(CertificateError::Revoked)).contains("is not accepted"));
        let plain = describe_io(&io::Error::new(io::ErrorKind::InvalidData, "odd"));
        assert_eq!(plain, TransportError::Tls { what: "odd".to_owned() });
    }
}
