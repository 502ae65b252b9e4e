//! The hint and the exit code for each failure of the library.

use headwater::mirror::{ErrorKind as Kind, MirrorError};
use headwater::push::{BuildError, GuardFault, PushError};
use headwater::release::{ReleaseError, ReleaseName};
use headwater::scan::ScanError;
use headwater::text::error_chain;

use crate::cli::output::failure::{Exit, Failure};

/// The failure of a push, with its exit code and hint.
pub(crate) fn push_failure(error: PushError) -> Failure {
    let (exit, hint) = exit_and_hint(&error);
    let paths = match &error {
        PushError::Content(error) => error.path_lines(),
        _ => None,
    };
    let mut failure = Failure::new(exit, error);
    if let Some((words, lines)) = paths {
        failure = failure.with_paths(words, lines);
    }
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// The exit code of a failed push and the hint for it; the hint is `None` if there is nothing to do
/// or to say.
fn exit_and_hint(error: &PushError) -> (Exit, Option<String>) {
    let hinted = |exit, hint: &str| (exit, Some(hint.to_owned()));
    match error {
        PushError::Content(error) => (content_exit(error), content_hint(error).map(str::to_owned)),
        PushError::Build(BuildError::Changed { .. } | BuildError::Read { .. }) => {
            hinted(Exit::Content, "finish the build before the push; nothing was activated")
        }
        PushError::Build(BuildError::Lost { .. }) => hinted(
            Exit::Content,
            "bring back a mirror that has the content; if the file is no longer in the tree, use \
             --expunge PATH instead; nothing was activated",
        ),
        PushError::Guard(fault) => (Exit::Refused, Some(guard_hint(fault).to_owned())),
        PushError::Superseded { .. } => {
            hinted(Exit::Superseded, "use --allow-older to publish the older content")
        }
        // The mirror is used in place of a tree, so this is missing content.
        PushError::Source { source, .. } => {
            (Exit::Content, mirror_error_hint(source).map(str::to_owned))
        }
        PushError::Mirror { source, .. } => {
            (mirror_exit(source.kind()), mirror_error_hint(source).map(str::to_owned))
        }
        PushError::EmptySource { .. } => hinted(Exit::Content, "push a tree to this mirror first"),
        PushError::TreeOverlaps { .. } => {
            hinted(Exit::Usage, "choose separate directories for tree, mirrors and cache (--cache)")
        }
        PushError::NestedMirrors { .. } => {
            hinted(Exit::Usage, "choose a location outside the other mirrors")
        }
        // The user must choose a different release, as with a wrong argument.
        PushError::Rollback(_) | PushError::NoRelease(_) => {
            hinted(Exit::Usage, "run `headwater releases MIRROR` to list the kept releases")
        }
        // Like a guard rail: no push can succeed until a person has decided what is wrong.
        PushError::SequencesExhausted { .. } => (Exit::Refused, Some(START_OVER_HINT.to_owned())),
        PushError::NotStaged { staged, .. } => (Exit::Usage, Some(not_staged_hint(staged))),
        // Like a guard rail: nothing was sent, and either the tree or the configuration is wrong.
        PushError::ProbePathMissing { .. } => hinted(
            Exit::Refused,
            "add the file to the tree, or correct `probe` of that [[wave]]; nothing was sent",
        ),
        PushError::SitesDiffer { mirrors } => {
            let args: Vec<String> =
                std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            let command = crate::cli::args::corrected_command::for_one_site(&args, mirrors);
            (Exit::Usage, Some(format!("push to the mirrors of one site: {command}")))
        }
        PushError::SameMirror { .. } => hinted(Exit::Usage, "name each mirror once"),
        PushError::Manifest { .. } => hinted(
            Exit::Failed,
            "run `headwater repair MIRROR --from ANOTHER` to fetch the manifest again",
        ),
        PushError::Build(BuildError::Cancelled) | PushError::Cancelled => (Exit::Interrupted, None),
        PushError::NewRelease(ReleaseError::Time) => {
            hinted(Exit::Failed, "correct the clock of this machine")
        }
        PushError::NewManifest(_) => {
            hinted(Exit::Failed, "free some space for the cache, or name another one with --cache")
        }
        PushError::Build(BuildError::Thread(_)) => (Exit::Failed, Some(MORE_THREADS_HINT.into())),
        PushError::Build(_) | PushError::NewRelease(_) => (Exit::Failed, None),
        PushError::Io(_) => {
            hinted(Exit::Failed, "name another directory for the cache with --cache")
        }
    }
}

/// The hint if the system cannot start more threads.
const MORE_THREADS_HINT: &str =
    "raise the limit on processes and threads (`ulimit -u`, TasksMax= of a systemd unit)";

const fn content_exit(error: &ScanError) -> Exit {
    match error {
        ScanError::Cancelled => Exit::Interrupted,
        // These are mistakes in the arguments or in the configuration, not in the tree.
        ScanError::Exclude { .. } | ScanError::TooManyRoots => Exit::Usage,
        ScanError::Thread(_) => Exit::Failed,
        ScanError::Root { .. }
        | ScanError::RejectedPaths { .. }
        | ScanError::Unreadable { .. }
        | ScanError::Changed { .. } => Exit::Content,
    }
}

fn content_hint(error: &ScanError) -> Option<&'static str> {
    match error {
        ScanError::Root { .. } => Some("build it first, or name another directory"),
        ScanError::RejectedPaths { list } if list.iter().any(|one| one.path == ".headwater") => {
            Some(
                "this tree is itself a mirror: to publish its content use `headwater promote`; to \
                 copy its release use `headwater push --from`",
            )
        }
        ScanError::RejectedPaths { .. } => Some(
            "remove or exclude these paths (--exclude, .headwaterignore); for links see `symlinks` \
             in headwater.toml",
        ),
        ScanError::Unreadable { .. } => {
            Some("make these paths readable for this user, or exclude them")
        }
        ScanError::Changed { .. } => {
            Some("finish the build before the push; nothing was activated")
        }
        ScanError::Exclude { .. } => Some("write the pattern in gitignore syntax"),
        ScanError::Thread(_) => Some(MORE_THREADS_HINT),
        ScanError::TooManyRoots | ScanError::Cancelled => None,
    }
}

const fn guard_hint(fault: &GuardFault) -> &'static str {
    match fault {
        GuardFault::Histories { .. } => {
            "name only mirrors with the same history; to replace all these histories, push a tree \
             with --new-history"
        }
        GuardFault::EmptyTree => {
            "check whether the build failed; use --allow-shrink to push an empty tree"
        }
        GuardFault::TooManyRemoved { .. } => {
            "use --allow-shrink if the removals are intended; `max_removed` sets the limit"
        }
        GuardFault::Expunged { .. } => {
            "remove the path from the tree, or exclude it with `exclude`, and push again"
        }
        GuardFault::MissingPaths { .. } => {
            "check whether the build failed; `must_have` in headwater.toml lists the required paths"
        }
        GuardFault::Secrets { .. } => {
            "exclude these files (--exclude, .headwaterignore); to publish them, list them in \
             `allow_secrets` of headwater.toml, or use --allow-secrets for one push; if this tree \
             is a copy of a mirror, push with --from instead"
        }
        GuardFault::Rejected(_) => "change the content, or use --again to publish it",
    }
}

/// The hint for a release that is not staged; `staged` are the staged releases.
fn not_staged_hint(staged: &[ReleaseName]) -> String {
    if staged.is_empty() {
        return "run `headwater push --stage-only` to stage a release; a later push replaces it"
            .to_owned();
    }
    let names: Vec<String> = staged.iter().map(ReleaseName::to_string).collect();
    format!("name a staged release: {}", names.join(", "))
}

/// The machine on which an operation on a mirror failed, and so the one the hint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureSide {
    /// The mirror is a directory on this machine.
    Local,
    /// The mirror is behind a receiver.
    Receiver,
}

impl FailureSide {
    /// The side of the mirror at `location`.
    pub(crate) fn from_location(location: &str) -> Self {
        // A `file:` URL names a directory on this machine.
        let is_remote = location.contains("://") && !location.starts_with("file:");
        if is_remote { Self::Receiver } else { Self::Local }
    }
}

/// The hint for the failure of one mirror.
pub(crate) fn mirror_error_hint(error: &MirrorError) -> Option<&'static str> {
    let is_remote = matches!(error, MirrorError::Remote { .. });
    kind_hint(error.kind(), if is_remote { FailureSide::Receiver } else { FailureSide::Local })
}

/// The hint for a failure of this kind, for a mirror on `side`.
pub(crate) const fn kind_hint(kind: Kind, side: FailureSide) -> Option<&'static str> {
    match kind {
        Kind::Unreachable => Some(
            "check the host and the port in the URL, that the receiver is running, that its \
             `listen` is not a loopback address, and that no firewall is in the way",
        ),
        Kind::Certificate => Some(
            "set the trusted certificates with --ca FILE, or as `ca` of the [[mirror]]; if the \
             certificate of the mirror is self-signed, FILE is that certificate; it must be valid \
             for the host name in the URL",
        ),
        Kind::ClientCertificate => Some(
            "set `client_cert` and `client_key` of the [[mirror]] to a certificate of this machine \
             that the server at the URL accepts",
        ),
        Kind::Tls => Some(
            "check that the URL names the host and the port of the receiver, or of a proxy in \
             front of it; the server there must support TLS 1.2 or 1.3",
        ),
        Kind::BadGateway => Some(
            "check that the receiver behind the proxy is running, and that the proxy forwards \
             requests to it; only the proxy responded",
        ),
        Kind::Unauthorized => Some(
            "set the token in the variable HEADWATER_TOKEN, with --token-file, or as `token_env` \
             or `token_file` of the [[mirror]]; the receiver's serve.toml must contain the table \
             that `headwater token new` made for it, and the receiver must then be reloaded",
        ),
        Kind::Forbidden => Some(
            "create a token for this site with `headwater token new --site NAME --allow push`, and \
             add its table to the receiver's serve.toml",
        ),
        Kind::SshAuth => Some(
            "use a key that the mirror accepts without a password, for example --ssh-command \"ssh \
             -i KEY\"",
        ),
        Kind::HostKey => Some(
            "compare the host key with /etc/ssh/ssh_host_*.pub on the mirror; then add it to \
             known_hosts (`ssh-keyscan`), or set it as `host_key` of the [[mirror]]",
        ),
        Kind::Timeout => Some("try again; the push resumes where it stopped"),
        Kind::Protocol => Some(
            "check that the path in the URL is the name of one of the receiver's [[site]] tables, \
             as in https://host:7447/SITE, and that `headwater serve` or `headwater receive` is \
             running there",
        ),
        Kind::BodyLimit => Some(
            "set `client_max_body_size 1200m` in nginx, or raise the request body limit of \
             whichever proxy you use",
        ),
        Kind::Version => Some("upgrade headwater on the older of the two machines"),
        Kind::Busy => Some("try again later; the receiver is overloaded"),
        Kind::ImplausibleSequence => Some(START_OVER_HINT),
        Kind::OtherHistory => Some(
            "publish the content of the mirror with `headwater promote`, or push a tree with \
             --new-history",
        ),
        _ => match (receiver_hint(kind), side) {
            // The hint is about the receiver's user and machine, not the origin's.
            (Some(hint), FailureSide::Receiver) => Some(hint),
            _ => directory_hint(kind),
        },
    }
}

/// The hint for a mirror whose receiver cannot use the mirror's directory, if the hint for a
/// directory on this machine does not fit.
const fn receiver_hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::OtherOwner => Some(
            "run the receiver as the user who owns the directory, or give the directory and \
             everything in it to the user that the receiver runs as (`chown -R`)",
        ),
        Kind::Denied => {
            Some("give write permission for the directory to the user that the receiver runs as")
        }
        Kind::UnsuitableLocation => Some(
            "set `dir` of the [[site]] in the receiver's serve.toml to a directory on a local \
             disk, and create its parent",
        ),
        Kind::NewerFormat => Some("upgrade headwater on the receiver's machine"),
        _ => None,
    }
}

/// The hint for a mirror whose sequences are at the limit or implausible.
const START_OVER_HINT: &str = "check what the mirror serves; if it is wrong, empty its directory \
                               and push to it with --init, or leave the mirror out with --skip";

/// The hint for a mirror that no longer has its previous store.
pub(crate) const LOST_STORE_HINT: &str = "mount the volume of the mirror or restore its directory; \
                                     to start a new store there, push with --init";

/// The hint for a failure that a mirror's location or disk caused.
const fn directory_hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::NotEmpty => Some(
            "push to a new directory NEW; headwater left this one unchanged; set the root of \
             the web server to NEW/current; see \"Start from an existing web root\" in \
             docs/tutorial.md",
        ),
        Kind::OtherStore => Some(LOST_STORE_HINT),
        Kind::OtherOwner => Some("run headwater as the user who owns the mirror"),
        Kind::OtherSite => Some(
            "pass the site of the mirror with --site, change `site` in headwater.toml, or name \
             another mirror",
        ),
        Kind::Denied => Some(
            "give this user write permission for a push, or read permission for `status` and \
             `verify`",
        ),
        Kind::ReadOnly => {
            Some("find out why the file system is read-only, mount it for writing, then push again")
        }
        Kind::UnsuitableLocation => Some(
            "name a directory on a local disk, and create its parent; the push creates the \
             directory itself",
        ),
        Kind::NewerFormat => Some("upgrade headwater on this machine"),
        Kind::NoSpace => {
            Some("free some space, or run `headwater prune` with a smaller --keep, then push again")
        }
        Kind::FileTooLarge => Some(
            "raise the limit on file sizes (`ulimit -f`, LimitFSIZE= of a systemd unit) on the \
             mirror",
        ),
        Kind::Locked => {
            Some("try again, or wait longer with --wait; another run is changing the mirror")
        }
        Kind::DamagedBase => Some(
            "run `headwater verify` to list the faults, and `headwater repair --from` to repair \
             them",
        ),
        Kind::DamagedStore => Some(
            "run `headwater repair MIRROR --from TREE|MIRROR` to create missing files and to fetch \
             the objects again",
        ),
        Kind::OverQuota => Some(
            "raise `quota` or `quota_entries` of the [[site]] in the serve.toml and restart the \
             receiver, or publish less",
        ),
        _ => None,
    }
}

/// The hint for the failure of a command that needs an existing mirror.
pub(crate) fn read_error_hint(error: &MirrorError) -> Option<&'static str> {
    match error.kind() {
        Kind::NotEmpty => {
            Some("name the directory of a mirror: it contains `.headwater` and `current`")
        }
        _ => mirror_error_hint(error),
    }
}

/// The failure of a command on one mirror.
pub(crate) fn mirror_failure(mirror: &str, error: &MirrorError) -> Failure {
    let kind = error.kind();
    let hint = read_error_hint(error);
    let error = error_chain(error);
    // Do not repeat the mirror's location if the error already starts with it.
    let is_named = error.strip_prefix(mirror).is_some_and(|rest| rest.starts_with(' '));
    let text = if is_named { error } else { format!("{mirror}: {error}") };
    let failure = Failure::new(mirror_exit(kind), text);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

const fn mirror_exit(kind: Kind) -> Exit {
    match kind {
        Kind::Locked => Exit::Locked,
        Kind::Cancelled => Exit::Interrupted,
        kind if kind.is_denial() => Exit::Denied,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater::mirror::TransportError;
    use headwater::protocol::{ErrorDetail, ProtocolError};

    #[test]
    fn oversized_manifest_hint_names_the_flag() {
        let full = headwater::manifest::ManifestError::Io(std::io::ErrorKind::StorageFull.into());
        assert!(push_failure(PushError::NewManifest(full)).hint().unwrap().contains("--cache"));
    }

    #[test]
    fn hints_name_the_next_step() {
        let refused = |kind: Kind, detail: Option<ErrorDetail>| MirrorError::Remote {
            refusal: ProtocolError { detail, ..ProtocolError::new(kind, "no") },
        };
        let what = || "x".to_owned();
        for (error, name, words) in [
            (refused(Kind::NoSpace, Some(ErrorDetail::Quota)), "no_space", "`quota`"),
            (refused(Kind::NoSpace, None), "no_space", "free some space"),
            (refused(Kind::Unauthorized, None), "unauthorized", "HEADWATER_TOKEN"),
            (
                refused(Kind::Unauthorized, Some(ErrorDetail::Expired)),
                "unauthorized",
                "headwater token new --site",
            ),
            (refused(Kind::Forbidden, None), "unauthorized", "headwater token new --site"),
            (TransportError::Certificate { what: what() }.into(), "certificate", "`ca`"),
            (
                TransportError::ClientCertificate { what: what() }.into(),
                "certificate",
                "`client_cert`",
            ),
            (TransportError::Tls { what: what() }.into(), "unreachable", "TLS 1.2 or 1.3"),
            (TransportError::BodyTooLarge { bytes: 1 }.into(), "protocol", "client_max_body_size"),
            (
                TransportError::Foreign { status: 502, what: what() }.into(),
                "unreachable",
                "behind the proxy",
            ),
            (
                TransportError::Foreign { status: 400, what: what() }.into(),
                "protocol",
                "the path in the URL",
            ),
            (TransportError::SshDenied { what: what() }.into(), "unauthorized", "a key"),
            (TransportError::HostKey { what: what() }.into(), "unauthorized", "known_hosts"),
        ] {
            let hint = mirror_error_hint(&error).unwrap();
            assert_eq!(error.kind().report_name(), name, "{error}");
            assert!(hint.contains(words), "{error}: {hint}");
        }
    }
}
