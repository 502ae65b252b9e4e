//! Errors in the connection to a remote mirror.

use crate::error_kind::ErrorKind;
use crate::text::Secrets;
use crate::tree_path::Site;

/// Why a remote mirror could not be reached, or did not respond like a receiver. The errors contain
/// peers' text unchanged: escape it before you show it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection was established.
    #[error("it cannot be reached: {what}")]
    Unreachable {
        /// Why no connection was established.
        what: String,
    },
    /// The connection broke.
    #[error("the connection was lost: {what}")]
    Lost {
        /// How the connection broke.
        what: String,
    },
    /// A timeout.
    #[error("timed out: {what}")]
    Timeout {
        /// The timeout that fired.
        what: String,
    },
    /// The deadline of the run, or of the mirror, has passed.
    #[error("the deadline has passed")]
    Deadline,
    /// The mirror's certificate was rejected.
    #[error("its TLS certificate is not accepted: {what}")]
    Certificate {
        /// Why the certificate was rejected.
        what: String,
    },
    /// The server, or a proxy in front of it, rejects the client certificate or requires one.
    #[error("the TLS handshake failed: {what}")]
    ClientCertificate {
        /// What the server or proxy requires.
        what: String,
    },
    /// The server sent unencrypted data where TLS was expected.
    #[error(
        "the server does not use TLS: use http:// if the receiver is on this machine; otherwise \
         put a TLS proxy in front of it"
    )]
    NoTls,
    /// The TLS handshake failed for another reason.
    #[error("the TLS handshake failed: {what}")]
    Tls {
        /// Why the handshake failed.
        what: String,
    },
    /// A redirect. Not followed: the token must be sent only to the configured host.
    #[error("it sent a redirect to {to:?}, which headwater does not follow")]
    Redirect {
        /// The destination of the redirect.
        to: String,
    },
    /// A response with status 413 that is not from a receiver.
    #[error(
        "a proxy in front of it refuses a body of {bytes} bytes: raise the proxy's limit \
         (client_max_body_size in nginx)"
    )]
    BodyTooLarge {
        /// The length of the refused body.
        bytes: u64,
    },
    /// A response that does not follow the protocol.
    #[error("unexpected response with status {status}, not from a headwater receiver: {what}")]
    Foreign {
        /// The status.
        status: u16,
        /// The beginning of the response, or what is wrong with it.
        what: String,
    },
    /// The receiver requires a different version of the protocol.
    #[error(
        "it requires protocol version {needed}, but this headwater uses version {}: {message}",
        crate::protocol::VERSION
    )]
    Version {
        /// The version that the receiver requires.
        needed: String,
        /// The receiver's message.
        message: String,
    },
    /// The receiver does not support block signatures.
    #[error(
        "it is headwater {receiver}, which has no block signatures; this is headwater {}",
        env!("CARGO_PKG_VERSION")
    )]
    NoSignatures {
        /// Its version.
        receiver: String,
    },
    /// `ssh` failed.
    #[error("ssh failed: {what}")]
    Ssh {
        /// The output of `ssh`.
        what: String,
    },
    /// The host refused `ssh`'s login.
    #[error("ssh authentication failed: {what}")]
    SshDenied {
        /// The output of `ssh`.
        what: String,
    },
    /// `ssh` does not trust the host's key.
    #[error("its host key is {what}")]
    HostKey {
        /// Why the key is not trusted.
        what: String,
    },
    /// The command that ssh ran is not a headwater receiver.
    #[error("no headwater receiver was found: {what}")]
    NoReceiver {
        /// What `ssh` found instead.
        what: String,
    },
    /// The receiver that ssh started ended with an error.
    #[error("the receiver failed: {what}")]
    ReceiverFailed {
        /// The receiver's error message.
        what: String,
    },
    /// The receiver serves a different directory.
    #[error("the receiver serves {serves}, not {wanted}")]
    OtherDirectory {
        /// The directories that it serves.
        serves: String,
        /// The directory in the URL.
        wanted: String,
    },
    /// The mirror holds a different site.
    #[error("it holds site {:?}, not {:?}", found.as_str(), wanted.as_str())]
    OtherSite {
        /// The site that the mirror holds.
        found: Site,
        /// The expected site.
        wanted: Site,
    },
    /// The receiver has lost packs that it had acknowledged.
    #[error("it lost packs that it had acknowledged")]
    PacksLost,
}

impl TransportError {
    /// Removes secrets from text that came from the peer or from proxies in between.
    pub(super) fn clean(&mut self, secrets: &Secrets) {
        // Without a wildcard, so that each new variant has to say whether its text comes from a
        // peer.
        let texts: [Option<&mut String>; 2] = match self {
            Self::Unreachable { what }
            | Self::Lost { what }
            | Self::Timeout { what }
            | Self::Certificate { what }
            | Self::ClientCertificate { what }
            | Self::Tls { what }
            | Self::Redirect { to: what }
            | Self::Foreign { what, .. }
            | Self::Ssh { what }
            | Self::SshDenied { what }
            | Self::HostKey { what }
            | Self::NoReceiver { what }
            | Self::ReceiverFailed { what }
            | Self::NoSignatures { receiver: what } => [Some(what), None],
            Self::Version { needed, message } => [Some(needed), Some(message)],
            Self::OtherDirectory { serves, .. } => [Some(serves), None],
            Self::Deadline
            | Self::NoTls
            | Self::BodyTooLarge { .. }
            | Self::OtherSite { .. }
            | Self::PacksLost => [None, None],
        };
        for text in texts.into_iter().flatten() {
            *text = secrets.redact(text).into_owned();
        }
    }
}

impl TransportError {
    /// The kind of the failure.
    #[must_use]
    pub(super) const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Ssh { .. } => {
                ErrorKind::Unreachable
            }
            Self::Certificate { .. } => ErrorKind::Certificate,
            Self::ClientCertificate { .. } => ErrorKind::ClientCertificate,
            Self::Tls { .. } => ErrorKind::Tls,
            Self::Foreign { status: 502..=504, .. } => ErrorKind::BadGateway,
            Self::Timeout { .. } | Self::Deadline => ErrorKind::Timeout,
            Self::Version { .. } | Self::NoSignatures { .. } => ErrorKind::Version,
            Self::SshDenied { .. } => ErrorKind::SshAuth,
            Self::HostKey { .. } => ErrorKind::HostKey,
            Self::BodyTooLarge { .. } => ErrorKind::BodyLimit,
            Self::OtherSite { .. } => ErrorKind::OtherSite,
            Self::ReceiverFailed { .. } => ErrorKind::Other,
            Self::NoTls
            | Self::Redirect { .. }
            | Self::Foreign { .. }
            | Self::NoReceiver { .. }
            | Self::OtherDirectory { .. }
            | Self::PacksLost => ErrorKind::Protocol,
        }
    }
}
