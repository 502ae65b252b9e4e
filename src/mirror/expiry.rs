//! When the credentials of a connection to a mirror expire: the token and the certificate.

use std::time::Duration;

use serde::Serialize;

/// A token or certificate that expires within two weeks is reported as a warning.
pub const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// When a connection's token and certificate expire, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Expiries {
    /// The token that was sent; `None` if no token was sent, it does not expire, or the receiver
    /// does not report when it does.
    #[serde(rename = "token_expires", skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The server certificate; `None` without TLS.
    #[serde(rename = "certificate_expires", skip_serializing_if = "Option::is_none")]
    pub certificate: Option<u64>,
}

/// A token or certificate, and when it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Whether it is the token or the certificate.
    pub kind: CredentialKind,
    /// When it expires, in seconds since 1970.
    pub time: u64,
}

/// A credential that can expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// The token that was sent.
    Token,
    /// The certificate that the receiver, or the proxy in front of it, presents.
    Certificate,
}

impl Expiries {
    /// All known expiry times, earliest first.
    #[must_use]
    pub fn all(&self) -> Vec<Expiry> {
        let expiry = |what, time: Option<u64>| time.map(|time| Expiry { kind: what, time });
        let all = [
            expiry(CredentialKind::Token, self.token),
            expiry(CredentialKind::Certificate, self.certificate),
        ];
        let mut all: Vec<Expiry> = all.into_iter().flatten().collect();
        all.sort_by_key(|expiry| expiry.time);
        all
    }

    /// The tokens and certificates that have expired or will expire within [`EXPIRES_SOON`] after
    /// `now`, earliest first.
    #[must_use]
    pub fn expiring_soon(&self, now: u64) -> Vec<Expiry> {
        let limit = now.saturating_add(EXPIRES_SOON.as_secs());
        self.all().into_iter().filter(|expiry| expiry.time <= limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_within_two_weeks_is_soon() {
        let (now, weeks) = (1_000_000, EXPIRES_SOON.as_secs());
        let soon = |token, certificate| {
            let soon = Expiries { token, certificate }.expiring_soon(now);
            soon.into_iter().map(|expiry| expiry.kind).collect::<Vec<_>>()
        };
        assert_eq!(soon(None, None), []);
        assert_eq!(soon(Some(now + weeks + 1), Some(u64::MAX)), []);
        assert_eq!(soon(Some(now + weeks), None), [CredentialKind::Token]);
        assert_eq!(
            soon(Some(now + 2), Some(now - 1)),
            [CredentialKind::Certificate, CredentialKind::Token]
        );
    }
}
