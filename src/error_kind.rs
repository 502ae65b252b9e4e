//! A single enum for the kinds of all errors.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Declares the kinds with their names, so that each has exactly one name.
macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)+) => {
        /// The kind of a failure, for code that decides what to do about it.
        ///
        /// Stores, receivers, clients, reports and exit codes use this one type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)+
        }

        impl ErrorKind {
            /// All kinds.
            const ALL: &[Self] = &[$(Self::$kind),+];

            /// The name of the kind in the protocol.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }
        }
    };
}

error_kinds! {
    /// The user lacks the required permission.
    Denied = "denied",
    /// The file system of the mirror is read-only.
    ReadOnly = "read_only",
    /// The mirror belongs to a different user.
    OtherOwner = "other_owner",
    /// The mirror belongs to a different site.
    OtherSite = "other_site",
    /// The mirror's store is not the one it had before, or is gone.
    OtherStore = "other_store",
    /// The directory contains files that do not belong to a store.
    NotEmpty = "not_empty",
    /// The location cannot hold a mirror.
    UnsuitableLocation = "bad_place",
    /// A newer headwater wrote the store.
    NewerFormat = "newer_format",
    /// The mirror has too little space.
    NoSpace = "no_space",
    /// The release exceeds the quota of the site.
    OverQuota = "over_quota",
    /// A file exceeds the maximum size that the system lets the process write.
    FileTooLarge = "file_too_large",
    /// Another process is changing the mirror.
    Locked = "locked",
    /// Another release became current in the meantime.
    Conflict = "conflict",
    /// The mirror serves a release from a different history.
    OtherHistory = "other_history",
    /// The mirror's sequences are far above those of its fleet.
    ImplausibleSequence = "far_beyond",
    /// The origin cannot supply the content, or its machine lacks a resource.
    SourceUnavailable = "origin",
    /// The mirror's base for the manifest delta is damaged.
    DamagedBase = "damaged",
    /// A directory of the store is missing.
    DamagedStore = "damaged_store",
    /// No connection could be established, or it was lost.
    Unreachable = "unreachable",
    /// The mirror's certificate is not accepted.
    Certificate = "certificate",
    /// The mirror, or the proxy in front of it, requires a different client certificate.
    ClientCertificate = "client_certificate",
    /// The TLS handshake failed for another reason.
    Tls = "tls",
    /// The proxy in front of the receiver cannot reach it.
    BadGateway = "bad_gateway",
    /// The token is missing, or the receiver does not know it.
    Unauthorized = "unauthorized",
    /// The token has expired, is for a different site, or lacks the permission.
    Forbidden = "forbidden",
    /// SSH authentication failed.
    SshAuth = "ssh_auth",
    /// The SSH host key is not the known one.
    HostKey = "host_key",
    /// There was no response in time, or the deadline has passed.
    Timeout = "timeout",
    /// The response does not come from a headwater receiver, or comes from an unexpected one.
    Protocol = "protocol",
    /// The proxy in front of the receiver refuses a body of this length.
    BodyLimit = "body_limit",
    /// The receiver requires a different version of the protocol.
    Version = "version",
    /// The receiver is overloaded.
    Busy = "busy",
    /// The user asked to stop.
    Cancelled = "cancelled",
    /// The request breaks the protocol.
    Malformed = "malformed",
    /// The request or the message exceeds its limit.
    TooLarge = "too_large",
    /// The receiver did not ask for the content.
    NotRequested = "not_asked_for",
    /// The named thing does not exist.
    Unknown = "unknown",
    /// Everything else, including the kinds of newer receivers.
    Other = "other",
}

impl ErrorKind {
    /// Whether access was denied.
    #[must_use]
    pub const fn is_denial(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::OtherOwner
                | Self::OtherSite
                | Self::Unauthorized
                | Self::Forbidden
                | Self::SshAuth
                | Self::HostKey
        )
    }

    /// The name in reports. Kinds that differ only in what a person must do share a name.
    #[must_use]
    pub const fn report_name(self) -> &'static str {
        match self {
            Self::OverQuota => Self::NoSpace.name(),
            Self::ClientCertificate => Self::Certificate.name(),
            Self::Tls | Self::BadGateway => Self::Unreachable.name(),
            Self::Forbidden | Self::SshAuth | Self::HostKey => Self::Unauthorized.name(),
            Self::BodyLimit => Self::Protocol.name(),
            _ => self.name(),
        }
    }

    /// The kind of an operating system error.
    #[must_use]
    pub const fn of_io(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::FileTooLarge => Self::FileTooLarge,
            _ => Self::Other,
        }
    }

    /// The kind with this name in the protocol; [`Self::Other`] if this version does not know the
    /// name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::ALL.iter().copied().find(|kind| kind.name() == name).unwrap_or(Self::Other)
    }
}

impl Serialize for ErrorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ErrorKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_name(&Cow::<str>::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_unique_name_and_unknown_names_are_other() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.name()), *kind);
        }
        let read: ErrorKind = serde_json::from_str("\"of_the_future\"").unwrap();
        assert_eq!(read, ErrorKind::Other);
    }
}
