//! What to do next: the hint to every failure of the library, and its exit code.

use headwater::mirror::{ErrorKind as Kind, MirrorError};
use headwater::push::{BuildError, GuardFault, PushError};
use headwater::release::{ReleaseError, ReleaseName};
use headwater::scan::ScanError;
use headwater::text::error_chain;

use super::failure::{Exit, Failure};

/// The failure of a push, with its code and hint.
pub(crate) fn of_push(error: PushError) -> Failure {
    let (exit, hint) = match &error {
        PushError::Content(error) => (content_exit(error), content_hint(error).map(str::to_owned)),
        PushError::Build(BuildError::Changed { .. } | BuildError::Read { .. }) => {
            (Exit::Content, Some("let the build end before the push begins; nothing was activated".into()))
        }
        PushError::Build(BuildError::Lost { .. }) => (
            Exit::Content,
            Some(
                "bring back a mirror that has it; what was removed from the tree, and is only kept for a while, goes \
                 with --expunge PATH; nothing was activated"
                    .into(),
            ),
        ),
        PushError::Guard(fault) => (Exit::Refused, Some(guard_hint(fault).to_owned())),
        PushError::Superseded { .. } => {
            (Exit::Superseded, Some("to publish the older content all the same: --allow-older".into()))
        }
        PushError::Source { source, .. } => (Exit::Content, of_mirror(source.kind()).map(str::to_owned)),
        PushError::Mirror { source, .. } => (mirror_exit(source.kind()), of_mirror(source.kind()).map(str::to_owned)),
        PushError::EmptySource { .. } => (Exit::Content, Some("push a tree to it first".into())),
        PushError::Nested { .. } => {
            (Exit::Usage, Some("keep the tree, the mirrors and the cache (--cache) apart from one another".into()))
        }
        PushError::NestedMirrors { .. } => (Exit::Usage, Some("name a place that is apart from the others".into())),
        PushError::Rollback(_) | PushError::NoRelease(_) => {
            (Exit::Usage, Some("`headwater releases MIRROR` lists what is kept".into()))
        }
        PushError::SequencesSpent { .. } => (Exit::Refused, Some(BEGIN_ANEW.to_owned())),
        PushError::NotStaged { staged, .. } => (Exit::Usage, Some(of_staged(staged))),
        PushError::NoProbe { .. } => (
            Exit::Refused,
            Some("nothing was sent; the tree lacks it, or `probe` of that [[wave]] names it wrongly".into()),
        ),
        PushError::SitesDiffer { mirrors } => {
            let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            (
                Exit::Usage,
                Some(format!("push to the mirrors of one site: {}", super::retype::for_one_site(&args, mirrors))),
            )
        }
        PushError::SameMirror { .. } => (Exit::Usage, Some("name each mirror once".into())),
        PushError::Manifest { .. } => {
            (Exit::Failed, Some("`headwater repair MIRROR --from ANOTHER` fetches it again".into()))
        }
        PushError::Build(BuildError::Cancelled) | PushError::Cancelled => (Exit::Interrupted, None),
        PushError::NewRelease(ReleaseError::Time) => (Exit::Failed, Some("set the clock of this machine".into())),
        PushError::NewManifest(_) => {
            (Exit::Failed, Some("free some space for the cache, or name another directory with --cache".into()))
        }
        PushError::Build(BuildError::Thread(_)) => (Exit::Failed, Some(MORE_THREADS.into())),
        PushError::Build(_) | PushError::NewRelease(_) => (Exit::Failed, None),
        PushError::Io(_) => (Exit::Failed, Some("--cache names another directory for headwater's own files".into())),
    };
    let failure = Failure::new(exit, error);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// What to do where the system hands out no more threads.
const MORE_THREADS: &str = "raise the limit for processes and threads (`ulimit -u`, TasksMax= of a systemd unit)";

const fn content_exit(error: &ScanError) -> Exit {
    match error {
        ScanError::Cancelled => Exit::Interrupted,
        ScanError::Exclude { .. } | ScanError::TooManyRoots => Exit::Usage,
        ScanError::Thread { .. } => Exit::Failed,
        ScanError::Root { .. }
        | ScanError::RejectedPaths { .. }
        | ScanError::Unreadable { .. }
        | ScanError::Changed { .. } => Exit::Content,
    }
}

fn content_hint(error: &ScanError) -> Option<&'static str> {
    match error {
        ScanError::Root { .. } => Some("build it first, or name another directory"),
        ScanError::RejectedPaths { list } if list.iter().any(|one| one.path == ".headwater") => Some(
            "this tree is a mirror: publish what it serves with `headwater promote`, or bring it to others with \
             `headwater push --from`",
        ),
        ScanError::RejectedPaths { .. } => {
            Some("remove or exclude them (--exclude, .headwaterignore); for links see `symlinks` in headwater.toml")
        }
        ScanError::Unreadable { .. } => Some("make them readable for this user, or exclude them"),
        ScanError::Changed { .. } => Some("let the build end before the push begins; nothing was activated"),
        ScanError::Exclude { .. } => Some("patterns are written as in .gitignore"),
        ScanError::Thread { .. } => Some(MORE_THREADS),
        ScanError::TooManyRoots | ScanError::Cancelled => None,
    }
}

const fn guard_hint(fault: &GuardFault) -> &'static str {
    match fault {
        GuardFault::Histories { .. } => {
            "name only mirrors of one history; or begin a new one on all of them, which makes their releases the older ones: \
             push a tree with --new-history"
        }
        GuardFault::EmptyTree => "if it is meant to be empty: --allow-shrink",
        GuardFault::Shrinks { .. } => "if so many are meant to go: --allow-shrink; max_removed sets the limit",
        GuardFault::Expunged { .. } => "take it out of the tree, or leave it out with `exclude`, and push again",
        GuardFault::Lacks { .. } => "the build may have failed; must_have in headwater.toml lists what has to be there",
        GuardFault::Secrets { .. } => {
            "exclude them (--exclude, .headwaterignore); if they are meant to be public: `allow_secrets` in \
             headwater.toml names them, --allow-secrets lets one push through; \
             a mirror is pushed with --from"
        }
        GuardFault::Rejected(_) => "change the content, or push it again with --again",
    }
}

/// What to do where a release is not staged, and these are.
fn of_staged(staged: &[ReleaseName]) -> String {
    if staged.is_empty() {
        return "`headwater push --stage-only` stages one, a later push replaces it".to_owned();
    }
    let names: Vec<String> = staged.iter().map(ReleaseName::to_string).collect();
    format!("staged there: {}", names.join(", "))
}

/// What to do about the failure of one mirror.
pub(crate) const fn of_mirror(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Unreachable => Some("check that its receiver runs and that the network leads there"),
        Kind::Certificate => Some(
            "name the certificates to trust with --ca FILE, or `ca` of the [[mirror]]; the one of the mirror must have the \
             host name of the URL and be valid today; `client_cert` is the one of this machine",
        ),
        Kind::BadGateway => Some(
            "the proxy answers and the receiver behind it does not: see that it runs, and that the proxy leads there",
        ),
        Kind::Unauthorized => Some(
            "give the token in the variable HEADWATER_TOKEN, with --token-file, or as `token_env` or `token_file` of the \
             [[mirror]]; its receiver knows those that `headwater token new` has printed for its serve.toml",
        ),
        Kind::Forbidden => Some(
            "make a token for this site and this right, and add it to its serve.toml: \
             `headwater token new --site NAME --allow push`",
        ),
        Kind::SshAuth => {
            Some("give a key that lets this user in without a password, as in --ssh-command \"ssh -i KEY\"")
        }
        Kind::HostKey => Some(
            "compare the key of the host with /etc/ssh/ssh_host_*.pub there; then put it into known_hosts (`ssh-keyscan`), \
             or into `host_key` of the [[mirror]]",
        ),
        Kind::Timeout => Some("try again; a push goes on where it was"),
        Kind::Protocol => Some(
            "see that the location is that of a `headwater serve`, as in https://host:7447/SITE, or `headwater receive`",
        ),
        Kind::BodyLimit => {
            Some("set `client_max_body_size 1200m` in the nginx in front, or what limits bodies in another proxy")
        }
        Kind::Version => Some("upgrade headwater on the older of the two machines"),
        Kind::Busy => Some("its receiver has too much to do: try again later"),
        Kind::FarBeyond => Some(BEGIN_ANEW),
        Kind::OtherHistory => Some("publish its content with `headwater promote`, or push a tree with --new-history"),
        _ => of_place(kind),
    }
}

/// What to do about a mirror whose sequences leave no room, or cannot be true.
const BEGIN_ANEW: &str = "look at what it serves; if that is wrong, empty its directory and push to it with --init, or leave \
     it out with --skip";

/// What to do about the failure of one mirror that its place or its disk is the reason of.
const fn of_place(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::NotEmpty => Some(
            "name a new directory beside it, push there, and let the web server's root be NEW/current; \
             see \"Start from an existing web root\" in docs/tutorial.md",
        ),
        Kind::OtherStore => {
            Some("mount its volume, or bring its directory back; to fill it from the beginning, use --init")
        }
        Kind::OtherOwner => Some("run headwater as the user who owns the mirror"),
        Kind::OtherSite => {
            Some("name the site that it holds with --site, or change `site` in headwater.toml, or name another mirror")
        }
        Kind::Denied => Some("a push needs to write there, `status` and `verify` to read"),
        Kind::ReadOnly => Some("look why its file system is read-only, mount it for writing, then push again"),
        Kind::UnsuitableLocation => {
            Some("name a directory on a local disk; create its parent first, the push creates the mirror itself")
        }
        Kind::NewerFormat => Some("upgrade headwater here"),
        Kind::NoSpace => Some("free some space, or `headwater prune` with a smaller --keep, then push again"),
        Kind::FileTooLarge => Some(
            "raise the limit for the size of files (`ulimit -f`, LimitFSIZE= of a systemd unit) where that mirror is",
        ),
        Kind::Locked => Some("another headwater is at work there: try again, or wait longer with --wait"),
        Kind::DamagedBase => Some("`headwater verify` names what is damaged, `headwater repair --from` repairs it"),
        Kind::OverQuota => Some(
            "raise `quota` or `quota_entries` of the [[site]] in its serve.toml and restart its receiver, or publish less",
        ),
        _ => None,
    }
}

/// The failure of a command on one mirror.
pub(crate) fn on_mirror(mirror: &str, error: &MirrorError) -> Failure {
    let kind = error.kind();
    let error = error_chain(error);
    // A location that the error names already is not said twice.
    let is_named = error.strip_prefix(mirror).is_some_and(|rest| rest.starts_with(' '));
    let text = if is_named { error } else { format!("{mirror}: {error}") };
    let failure = Failure::new(mirror_exit(kind), text);
    match of_mirror(kind) {
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
    use headwater::protocol::{Detail, ProtocolError};

    #[test]
    fn a_manifest_that_does_not_fit_the_cache_names_the_flag() {
        let full = headwater::manifest::ManifestError::Io(std::io::ErrorKind::StorageFull.into());
        assert!(of_push(PushError::NewManifest(full)).hint().unwrap().contains("--cache"));
    }

    #[test]
    fn hints_speak_of_what_is_to_be_done() {
        let refused = |kind: Kind, detail: Option<Detail>| MirrorError::Remote {
            refusal: ProtocolError { detail, ..ProtocolError::new(kind, "no") },
        };
        let what = || "x".to_owned();
        for (error, name, words) in [
            (refused(Kind::NoSpace, Some(Detail::Quota)), "no_space", "`quota`"),
            (refused(Kind::NoSpace, None), "no_space", "free some space"),
            (refused(Kind::Unauthorized, None), "unauthorized", "HEADWATER_TOKEN"),
            (refused(Kind::Unauthorized, Some(Detail::Expired)), "unauthorized", "headwater token new --site"),
            (refused(Kind::Forbidden, None), "unauthorized", "headwater token new --site"),
            (TransportError::Tls { what: what() }.into(), "unreachable", "`ca`"),
            (TransportError::BodyTooLarge { bytes: 1 }.into(), "protocol", "client_max_body_size"),
            (TransportError::Foreign { status: 502, what: what() }.into(), "unreachable", "behind it does not"),
            (TransportError::Foreign { status: 400, what: what() }.into(), "protocol", "location"),
            (TransportError::SshDenied { what: what() }.into(), "unauthorized", "a key"),
            (TransportError::HostKey { what: what() }.into(), "unauthorized", "known_hosts"),
        ] {
            let hint = of_mirror(error.kind()).unwrap();
            assert_eq!(error.kind().report_name(), name, "{error}");
            assert!(hint.contains(words), "{error}: {hint}");
        }
    }
}
