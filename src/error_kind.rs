//! One enum for the kinds of all errors.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What kind of failure an error is, for code that decides what to do about it.
///
/// Stores, receivers, clients, reports and exit codes use this one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// We may not: permissions.
    Denied,
    /// Its file system is read-only.
    ReadOnly,
    /// It belongs to another user.
    OtherOwner,
    /// It is the mirror of another site.
    OtherSite,
    /// It has another store than before, or none any more.
    OtherStore,
    /// There are files that are not ours.
    NotEmpty,
    /// No mirror can be at this place.
    UnsuitableLocation,
    /// It was written by a newer headwater.
    NewerFormat,
    /// It has too little room.
    NoSpace,
    /// The site may not have so much there, whatever the disk could take.
    OverQuota,
    /// A file is larger than the system lets the process write.
    FileTooLarge,
    /// Somebody else is at work.
    Locked,
    /// Another release became current meanwhile.
    Conflict,
    /// It serves a release of another history.
    OtherHistory,
    /// Its sequences cannot be those of its fleet.
    FarBeyond,
    /// The fault is at the origin.
    SourceUnavailable,
    /// The mirror's base for the manifest change is damaged.
    DamagedBase,
    /// A directory of the store is missing.
    DamagedStore,
    /// No way there, or it broke.
    Unreachable,
    /// TLS that did not begin, mostly because a certificate was not accepted.
    Certificate,
    /// A proxy in front of it that does not reach it.
    BadGateway,
    /// No token, or one that is not known there.
    Unauthorized,
    /// A token that has expired, is for another site, or may not do this.
    Forbidden,
    /// `ssh` was not let in.
    SshAuth,
    /// A host with another key than the one that is known.
    HostKey,
    /// Silence, or a deadline.
    Timeout,
    /// What answers is no receiver of headwater, or not the one that was meant.
    Protocol,
    /// A proxy in front of it that takes no body of such a length.
    BodyLimit,
    /// A receiver that needs another version of the protocol.
    Version,
    /// The receiver has too much to do.
    Busy,
    /// The user asked to stop.
    Cancelled,
    /// A request that breaks the protocol.
    Malformed,
    /// A request or a message beyond its limit.
    TooLarge,
    /// Content that the receiver did not ask for.
    NotAskedFor,
    /// The named thing is not there.
    Unknown,
    /// Everything else, also the kinds of newer receivers.
    Other,
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

    /// Its name in the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::ReadOnly => "read_only",
            Self::OtherOwner => "other_owner",
            Self::OtherSite => "other_site",
            Self::OtherStore => "other_store",
            Self::NotEmpty => "not_empty",
            Self::UnsuitableLocation => "bad_place",
            Self::NewerFormat => "newer_format",
            Self::NoSpace => "no_space",
            Self::OverQuota => "over_quota",
            Self::FileTooLarge => "file_too_large",
            Self::Locked => "locked",
            Self::Conflict => "conflict",
            Self::OtherHistory => "other_history",
            Self::FarBeyond => "far_beyond",
            Self::SourceUnavailable => "origin",
            Self::DamagedBase => "damaged",
            Self::DamagedStore => "damaged_store",
            Self::Unreachable => "unreachable",
            Self::Certificate => "certificate",
            Self::BadGateway => "bad_gateway",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::SshAuth => "ssh_auth",
            Self::HostKey => "host_key",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::BodyLimit => "body_limit",
            Self::Version => "version",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::NotAskedFor => "not_asked_for",
            Self::Unknown => "unknown",
            Self::Other => "other",
        }
    }

    /// Its name in reports: kinds that differ only in what a person has to do have one.
    #[must_use]
    pub const fn report_name(self) -> &'static str {
        match self {
            Self::OverQuota => Self::NoSpace.name(),
            Self::Certificate | Self::BadGateway => Self::Unreachable.name(),
            Self::Forbidden | Self::SshAuth | Self::HostKey => Self::Unauthorized.name(),
            Self::BodyLimit => Self::Protocol.name(),
            _ => self.name(),
        }
    }
}

impl ErrorKind {
    /// All of them.
    const ALL: [Self; 36] = [
        Self::Denied,
        Self::ReadOnly,
        Self::OtherOwner,
        Self::OtherSite,
        Self::OtherStore,
        Self::NotEmpty,
        Self::UnsuitableLocation,
        Self::NewerFormat,
        Self::NoSpace,
        Self::OverQuota,
        Self::FileTooLarge,
        Self::Locked,
        Self::Conflict,
        Self::OtherHistory,
        Self::FarBeyond,
        Self::SourceUnavailable,
        Self::DamagedBase,
        Self::DamagedStore,
        Self::Unreachable,
        Self::Certificate,
        Self::BadGateway,
        Self::Unauthorized,
        Self::Forbidden,
        Self::SshAuth,
        Self::HostKey,
        Self::Timeout,
        Self::Protocol,
        Self::BodyLimit,
        Self::Version,
        Self::Busy,
        Self::Cancelled,
        Self::Malformed,
        Self::TooLarge,
        Self::NotAskedFor,
        Self::Unknown,
        Self::Other,
    ];

    /// The kind of a name in the protocol; [`Self::Other`] if this version does not know it.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or(Self::Other)
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
    fn every_kind_has_a_name_of_its_own_and_unknown_names_are_kept_as_other() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.name()), kind);
        }
        let read: ErrorKind = serde_json::from_str("\"of_the_future\"").unwrap();
        assert_eq!(read, ErrorKind::Other);
    }
}
