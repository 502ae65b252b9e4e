//! Makes mirrors of their locations: what flags, file and environment say about
//! the way to those on other machines.
//!
//! Reads the secrets that the configuration or a flag names. None of them is an
//! argument itself, and none of them is in a failure.

use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::config::{Config, MirrorAccess, TokenSource};
use headwater::fsx;
use headwater::mirror::{
    Access, AccessError, ClientIdentity, DirectoryMirror, Exchange, HttpMirror, Limiter, Location, LocationError,
    Mirror, Pace, ProxyChoice, SshSettings, Token, Turns,
};
use headwater::push::Fleet;
use headwater::tree_path::Site;

use super::args::{RemoteArgs, TrafficArgs};
use super::failure::{Exit, Failure, eprint_raw};
use super::places::MirrorChoice;
use super::process;
use super::verbosity;

/// The variable with the token of mirrors that name no other one.
pub(crate) const TOKEN_VARIABLE: &str = "HEADWATER_TOKEN";
/// The variables with a proxy, the first that is set.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The variables with the hosts to which no proxy leads.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Longest file with a token, in bytes.
const MAX_TOKEN_BYTES: u64 = 8 * 1024;
/// Longest file with certificates, in bytes: the bundle of a system has half of that.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// How the mirrors of one run are reached.
pub(crate) struct Reach {
    began: Instant,
    jobs: NonZeroUsize,
    pace: Pace,
    /// Which directories may be filled now.
    directories: Option<Arc<Turns>>,
    ssh: SshSettings,
    /// The file of `--ca`, for mirrors that have no `ca` of their own.
    ca: Option<PathBuf>,
    /// The file of `--token-file`, for mirrors that have no token of their own.
    token_file: Option<PathBuf>,
    environment: fn(&str) -> Option<String>,
}

impl Reach {
    /// As told; `traffic` is for commands that send content.
    pub(crate) fn new(remote: &RemoteArgs, traffic: Option<&TrafficArgs>, wait: Duration, jobs: NonZeroUsize) -> Self {
        let (defaults, began) = (SshSettings::default(), Instant::now());
        let pace = Pace {
            wait,
            deadline: remote.deadline.map(|deadline| began + deadline),
            limit: traffic.and_then(|traffic| traffic.bwlimit).map(|rate| Arc::new(Limiter::new(rate.get(), None))),
            turns: traffic.map(|traffic| Arc::new(Turns::new(traffic.max_parallel.get()))),
            trace: verbosity::is_verbose().then_some(show_exchange as fn(&Exchange<'_>)),
        };
        let ssh = SshSettings {
            command: remote.ssh_command.as_ref().map_or(defaults.command, |words| words.0.clone()),
            receiver: remote.receive_command.clone().unwrap_or(defaults.receiver),
            host_key: None,
        };
        let directories = pace.turns.as_ref().zip(traffic).map(|(turns, traffic)| directories(turns, traffic));
        Self {
            began,
            jobs,
            pace,
            directories,
            ssh,
            ca: remote.ca.clone(),
            token_file: remote.token_file.clone(),
            environment: super::settings::environment,
        }
    }

    /// Opens nothing yet: the mirrors of these choices.
    pub(crate) fn fleet(&self, choices: &[MirrorChoice], site: Option<&Site>) -> Result<Fleet, Failure> {
        let jobs = self.jobs_of_each(choices.len());
        Ok(Fleet::new(choices.iter().map(|choice| self.with_jobs(choice, site, jobs)).collect::<Result<_, _>>()?))
    }

    /// Threads of one of so many mirrors. Each holds a pack, so that memory grows with all of them together, and a few
    /// for each core keep it at work.
    fn jobs_of_each(&self, mirrors: usize) -> NonZeroUsize {
        const FOR_EACH_CORE: usize = 4;
        let share = self.jobs.get() * FOR_EACH_CORE / mirrors.max(1);
        NonZeroUsize::new(share).map_or(NonZeroUsize::MIN, |share| share.min(self.jobs))
    }

    /// The mirror of a choice.
    pub(crate) fn mirror(&self, choice: &MirrorChoice, site: Option<&Site>) -> Result<Arc<dyn Mirror>, Failure> {
        self.with_jobs(choice, site, self.jobs)
    }

    fn with_jobs(
        &self,
        choice: &MirrorChoice,
        site: Option<&Site>,
        jobs: NonZeroUsize,
    ) -> Result<Arc<dyn Mirror>, Failure> {
        let (name, text, site) = (choice.name.clone(), choice.location.clone(), site.cloned());
        let mut pace = self.pace.clone();
        if let Some(rate) = choice.access.bwlimit {
            pace.limit = Some(Arc::new(Limiter::new(rate.get(), pace.limit.take())));
        }
        if let Some(deadline) = choice.access.deadline {
            let own = self.began + deadline;
            pace.deadline = Some(pace.deadline.map_or(own, |all| all.min(own)));
        }
        Ok(match Location::parse(&choice.location).map_err(|error| wrong_location(&error))? {
            Location::Directory(path) => {
                let mirror = DirectoryMirror::new(name, text, path, site, self.pace.wait, jobs);
                Arc::new(mirror.with_turns(self.directories.clone()))
            }
            Location::Http(place) => {
                let access = self.access(&choice.access).map_err(|failure| failure.of(&choice.name))?;
                Arc::new(HttpMirror::new(name, text, &place, &access, site, pace))
            }
            Location::Ssh(place) => {
                let settings = SshSettings { host_key: choice.access.host_key.clone(), ..self.ssh.clone() };
                Arc::new(HttpMirror::over_ssh(name, text, &place, &settings, site, pace))
            }
        })
    }

    fn access(&self, told: &MirrorAccess) -> Result<Access, Unusable> {
        let mut access = Access::new(self.token(told)?, self.proxy(told)?);
        let own = told.ca.as_ref().map(|ca| ("`ca`", ca));
        if let Some((key, ca)) = own.or_else(|| self.ca.as_ref().map(|ca| ("--ca", ca))) {
            let what = || format!("{key} {}", ca.display());
            access.trust_only(read(ca, what)?.as_bytes()).map_err(|error| Unusable::new(what(), &error))?;
        }
        if let Some((chain, key)) = &told.client {
            let what = || format!("`client_cert` {} with `client_key` {}", chain.display(), key.display());
            let identity = ClientIdentity::new(read(chain, what)?.as_bytes(), read(key, what)?.as_bytes());
            access.identity = Some(identity.map_err(|error| Unusable::new(what(), &error))?);
        }
        Ok(access)
    }

    fn token(&self, told: &MirrorAccess) -> Result<Option<Token>, Unusable> {
        let (text, what) = match (&told.token, &self.token_file) {
            (None, Some(path)) => token_of_file(path, format!("--token-file {}", path.display()))?,
            (None, None) => match self.first(&[TOKEN_VARIABLE]) {
                Some((name, text)) => (text, format!("the token in {name}")),
                None => return Ok(None),
            },
            (Some(TokenSource::Variable(name)), _) => {
                let what = format!("`token_env` {name}");
                let unset = || Unusable { what: what.clone(), why: "this variable is not set".to_owned() };
                ((self.environment)(name).ok_or_else(unset)?, what)
            }
            (Some(TokenSource::File(path)), _) => token_of_file(path, format!("`token_file` {}", path.display()))?,
        };
        verbosity::detail(|| format!("token: from {what}"));
        Token::new(&text).map(Some).map_err(|error| Unusable::new(what, &error))
    }

    fn proxy(&self, told: &MirrorAccess) -> Result<Option<ProxyChoice>, Unusable> {
        let (url, what) = match &told.proxy {
            Some(url) => (url.clone(), "`proxy`".to_owned()),
            None => match self.first(&PROXY_VARIABLES) {
                Some((name, url)) => (url, format!("the proxy in {name}")),
                None => return Ok(None),
            },
        };
        // What the file says of this mirror is meant for it.
        let except = self.first(&NO_PROXY_VARIABLES).filter(|_| told.proxy.is_none());
        verbosity::detail(|| format!("proxy: from {what}"));
        let choice = ProxyChoice::new(&url, except.as_ref().map(|(_, hosts)| hosts.as_str()));
        choice.map(Some).map_err(|error| Unusable::new(what, &error))
    }

    /// The first of these variables that says something.
    fn first(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        let set = |name: &&'static str| (self.environment)(name).filter(|text| !text.trim().is_empty());
        names.iter().find_map(|name| Some((*name, set(name)?)))
    }
}

/// The turns of directories: those of all mirrors, or fewer where the system allows few open files.
fn directories(turns: &Arc<Turns>, traffic: &TrafficArgs) -> Arc<Turns> {
    let most = process::directories_at_once();
    if most < traffic.max_parallel.get() { Arc::new(Turns::new(most)) } else { Arc::clone(turns) }
}

/// Refuses directories that were named on the command line and are not there: a look makes none.
pub(crate) fn check_there(choices: &[MirrorChoice], config: &Config) -> Result<(), Failure> {
    for choice in choices.iter().filter(|choice| config.mirror(&choice.name).is_none()) {
        let Ok(Location::Directory(path)) = Location::parse(&choice.location) else { continue };
        if matches!(fsx::lstat(&path), Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
            let error = format!("there is nothing at {}", choice.location);
            return Err(Failure::new(Exit::Usage, error).with_hint("check the path; the first push makes a mirror"));
        }
    }
    Ok(())
}

/// Something for access that cannot be used.
struct Unusable {
    what: String,
    why: String,
}

impl Unusable {
    fn new(what: String, error: &AccessError) -> Self {
        Self { what, why: error.to_string() }
    }

    fn of(self, mirror: &str) -> Failure {
        let hint = "see \"Mirrors on other machines\" in the README";
        Failure::new(Exit::Usage, format!("mirror {mirror:?}: {}: {}", self.what, self.why)).with_hint(hint)
    }
}

fn read(path: &Path, what: impl Fn() -> String) -> Result<String, Unusable> {
    fsx::read_text(path, MAX_PEM_BYTES).map_err(|error| Unusable { what: what(), why: error.source.to_string() })
}

/// The content of a file with a token, and what names the file.
fn token_of_file(path: &Path, what: String) -> Result<(String, String), Unusable> {
    warn_if_open(path, &what);
    match fsx::read_text(path, MAX_TOKEN_BYTES) {
        Ok(text) => Ok((text, what)),
        Err(error) => Err(Unusable { what, why: error.source.to_string() }),
    }
}

/// Shows a request of `--verbose`.
fn show_exchange(exchange: &Exchange<'_>) {
    verbosity::detail(|| {
        let Exchange { base, method, resource, outcome, elapsed } = exchange;
        let outcome = outcome.map_or_else(str::to_owned, |status| status.to_string());
        format!("{method} {base}{resource}: {outcome} after {} ms", elapsed.as_millis())
    });
}

fn wrong_location(error: &LocationError) -> Failure {
    let hint = match error {
        LocationError::Credentials { .. } => {
            "a token comes from the variable HEADWATER_TOKEN, from --token-file, or as `token_env` or `token_file` of a [[mirror]]"
        }
        LocationError::Scheme { scheme, .. } => instead_of(scheme),
        _ => "a mirror is a directory, https://host[:port]/path or ssh://[user@]host[:port]/absolute/path",
    };
    Failure::new(Exit::Usage, error.to_string()).with_hint(hint)
}

/// What works today in place of a URL of this kind.
fn instead_of(scheme: &str) -> &'static str {
    match scheme.to_ascii_lowercase().as_str() {
        "s3" | "s3a" | "gs" | "gcs" | "r2" | "b2" | "az" | "azure" | "abfs" | "swift" => {
            "buckets cannot be mirrors yet: push to a directory and upload its `current` with rclone or the provider's \
             tool in `on_activated` of [hooks]; such an upload does not switch at once"
        }
        "rsync" | "sftp" | "scp" | "ftp" | "ftps" | "fish" => {
            "write ssh://[user@]host[:port]/absolute/path: it needs `headwater` installed there, and no daemon"
        }
        "dav" | "davs" | "webdav" | "webdavs" | "smb" | "nfs" | "afp" => {
            "run `headwater serve` on the machine with the disk and push to its https: URL; \
             a file system that is mounted here from another machine is not accepted as a directory"
        }
        _ => "a mirror is a directory, https://host[:port]/path or ssh://[user@]host[:port]/absolute/path",
    }
}

/// Warns of a secret that everybody on this machine may read. What cannot be examined is told when it is read.
fn warn_if_open(path: &Path, what: &str) {
    let is_open = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0);
    if is_open {
        // A terminal that is gone needs no warning.
        eprint_raw(&format!("warning: everybody on this machine may read {what}: chmod o-r\n")).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(environment: fn(&str) -> Option<String>) -> Reach {
        let reach = Reach::new(&RemoteArgs::default(), None, Duration::ZERO, NonZeroUsize::MIN);
        Reach { environment, ..reach }
    }

    fn canary(name: &str) -> Option<String> {
        (name == TOKEN_VARIABLE || name == "MINE").then(|| "hw_canary".to_owned())
    }

    #[test]
    fn a_token_comes_from_the_variable_that_is_named() {
        let token = |told: &MirrorAccess, environment| reach(environment).token(told).map_err(|error| error.why);
        let named = |name: &str| MirrorAccess {
            token: Some(TokenSource::Variable(name.to_owned())),
            ..MirrorAccess::default()
        };
        assert_eq!(token(&MirrorAccess::default(), |_| None), Ok(None));
        assert_eq!(token(&MirrorAccess::default(), canary), Ok(Some(Token::new("hw_canary").unwrap())));
        assert_eq!(token(&named("MINE"), canary), Ok(Some(Token::new("hw_canary").unwrap())));
        assert!(token(&named("OTHER"), canary).unwrap_err().contains("not set"));
    }

    #[test]
    fn files_of_flags_count_where_a_mirror_has_none_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "hw_flag\n").unwrap();
        let remote = RemoteArgs { ca: Some("/no/flag.pem".into()), token_file: Some(path), ..RemoteArgs::default() };
        let reach = Reach { environment: canary, ..Reach::new(&remote, None, Duration::ZERO, NonZeroUsize::MIN) };
        let token = |told: &MirrorAccess| reach.token(told).map_err(|error| error.why);
        assert_eq!(token(&MirrorAccess::default()), Ok(Some(Token::new("hw_flag").unwrap())));
        let own = MirrorAccess {
            token: Some(TokenSource::Variable("MINE".to_owned())),
            ca: Some("/no/own.pem".into()),
            ..MirrorAccess::default()
        };
        assert_eq!(token(&own), Ok(Some(Token::new("hw_canary").unwrap())));
        let unusable = |told: &MirrorAccess| reach.access(told).unwrap_err().what;
        assert_eq!(unusable(&MirrorAccess::default()), "--ca /no/flag.pem");
        assert_eq!(unusable(&own), "`ca` /no/own.pem");
    }

    #[test]
    fn many_mirrors_share_the_threads() {
        let reach = Reach { jobs: NonZeroUsize::new(2).unwrap(), ..reach(|_| None) };
        assert_eq!([0, 1, 4, 5, 100].map(|mirrors| reach.jobs_of_each(mirrors).get()), [2, 2, 2, 1, 1]);
    }

    #[test]
    fn what_cannot_be_used_is_named_without_its_content() {
        let bad = |name: &str| (name == TOKEN_VARIABLE).then(|| "canary canary".to_owned());
        let failure = reach(bad).access(&MirrorAccess::default()).unwrap_err().of("eu");
        let text = failure.render();
        assert!(text.contains(TOKEN_VARIABLE) && text.contains("eu") && !text.contains("canary"), "{text}");
        let proxy = |name: &str| (name == "ALL_PROXY").then(|| "socks5://u:canary@h:1".to_owned());
        let text = reach(proxy).access(&MirrorAccess::default()).unwrap_err().of("eu").render();
        assert!(text.contains("ALL_PROXY") && !text.contains("canary"), "{text}");
        let told = MirrorAccess { ca: Some("/no/such.pem".into()), ..MirrorAccess::default() };
        let text = reach(|_| None).access(&told).unwrap_err().of("eu").render();
        assert!(text.contains("/no/such.pem"), "{text}");
    }
}
