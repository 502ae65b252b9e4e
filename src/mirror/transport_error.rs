//! What can go wrong on the way to a remote mirror.

use crate::error_kind::ErrorKind;
use crate::text::Secrets;
use crate::tree_path::Site;

/// Why a mirror was not reached, or not understood. What peers said is in it as
/// they said it: to be escaped before it is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection.
    #[error("it cannot be reached: {what}")]
    Unreachable {
        /// Why.
        what: String,
    },
    /// A connection that broke.
    #[error("the connection was lost: {what}")]
    Lost {
        /// How.
        what: String,
    },
    /// Silence.
    #[error("it took too long: {what}")]
    Timeout {
        /// What was waited for.
        what: String,
    },
    /// The deadline of the run, or of the mirror.
    #[error("the deadline has passed")]
    Deadline,
    /// Its certificate.
    #[error("its TLS certificate is not accepted: {what}")]
    Certificate {
        /// Why.
        what: String,
    },
    /// Something in the clear where TLS was expected.
    #[error(
        "it speaks no TLS there: on this machine its url may begin with http://, elsewhere a proxy with TLS stands in \
         front of it"
    )]
    NoTls,
    /// TLS, else.
    #[error("TLS did not begin: {what}")]
    Tls {
        /// Why.
        what: String,
    },
    /// A redirect; it is not followed.
    #[error("it answers with a redirect to {to:?}, which is not followed")]
    Redirect {
        /// Where it points to.
        to: String,
    },
    /// A 413 that no receiver of ours sends.
    #[error("a proxy in front of it refuses bodies of {bytes} bytes: raise its limit (client_max_body_size of nginx)")]
    BodyTooLarge {
        /// The length of what was refused.
        bytes: u64,
    },
    /// An answer that is not of our protocol.
    #[error("it answers {status}, not as a headwater receiver does: {what}")]
    Foreign {
        /// The status.
        status: u16,
        /// How the answer begins, or what is wrong with it.
        what: String,
    },
    /// Another version of the protocol.
    #[error(
        "it needs version {needed} of the protocol, and this headwater speaks {}: {said}",
        crate::protocol::VERSION
    )]
    Version {
        /// The version it speaks.
        needed: String,
        /// What it said.
        said: String,
    },
    /// `ssh` failed.
    #[error("ssh failed: {what}")]
    Ssh {
        /// What it said.
        what: String,
    },
    /// `ssh` was not let in.
    #[error("ssh was not let in: {what}")]
    SshDenied {
        /// What it said.
        what: String,
    },
    /// `ssh` does not trust the host.
    #[error("its host key is {what}")]
    HostKey {
        /// What it is not.
        what: String,
    },
    /// There is no headwater behind ssh.
    #[error("no headwater was found there: {what}")]
    NoReceiver {
        /// What was said instead.
        what: String,
    },
    /// The headwater behind ssh ended with an error of its own.
    #[error("headwater cannot receive there: {what}")]
    ReceiverFailed {
        /// Its error.
        what: String,
    },
    /// A receiver that serves something else.
    #[error("the receiver there serves {serves}, not {wanted}")]
    OtherDirectory {
        /// What it serves.
        serves: String,
        /// What was asked for.
        wanted: String,
    },
    /// A mirror of another site.
    #[error("it holds site {:?}, not {:?}", found.as_str(), wanted.as_str())]
    OtherSite {
        /// Its site.
        found: Site,
        /// The one that was meant.
        wanted: Site,
    },
    /// Packs that were acknowledged and are not there.
    #[error("it has lost packs that it had acknowledged")]
    Forgotten,
}

impl TransportError {
    /// Takes secrets out of what was said by whoever is on the way.
    pub(super) fn clean(&mut self, secrets: &Secrets) {
        let texts: [Option<&mut String>; 2] = match self {
            Self::Unreachable { what }
            | Self::Lost { what }
            | Self::Timeout { what }
            | Self::Certificate { what }
            | Self::Tls { what }
            | Self::Redirect { to: what }
            | Self::Foreign { what, .. }
            | Self::Ssh { what }
            | Self::SshDenied { what }
            | Self::HostKey { what }
            | Self::NoReceiver { what }
            | Self::ReceiverFailed { what } => [Some(what), None],
            Self::Version { needed, said } => [Some(needed), Some(said)],
            Self::OtherDirectory { serves, .. } => [Some(serves), None],
            Self::Deadline | Self::NoTls | Self::BodyTooLarge { .. } | Self::OtherSite { .. } | Self::Forgotten => {
                [None, None]
            }
        };
        for text in texts.into_iter().flatten() {
            *text = secrets.clean(text).into_owned();
        }
    }
}

impl TransportError {
    /// What kind of failure it is.
    #[must_use]
    pub(super) const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Ssh { .. } => ErrorKind::Unreachable,
            Self::Certificate { .. } | Self::Tls { .. } => ErrorKind::Certificate,
            Self::Foreign { status: 502..=504, .. } => ErrorKind::BadGateway,
            Self::Timeout { .. } | Self::Deadline => ErrorKind::Timeout,
            Self::Version { .. } => ErrorKind::Version,
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
            | Self::Forgotten => ErrorKind::Protocol,
        }
    }
}
