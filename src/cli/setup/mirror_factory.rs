//! Creates mirrors from their locations, with the connection settings from flags,
//! configuration and environment.
//!
//! Reads the secrets that the configuration or a flag names. No argument is itself a secret, and no
//! failure contains a secret.

use std::collections::BTreeSet;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::command::TOKEN_VARIABLE;
use headwater::config::{Config, MirrorAccess, RunDefaults, TokenSource};
use headwater::fsx;
use headwater::mirror::{
    BearerToken, ClientIdentity, Credentials, CredentialsError, DirectoryMirror, HttpMirror,
    Limiter, Location, LocationError, Mirror, MirrorIdentity, ProxyChoice, RequestTrace, Semaphore,
    SshSettings, TransferLimits,
};
use headwater::push::Fleet;
use headwater::tree_path::Site;
use parking_lot::Mutex;

use crate::cli::args::operands::MirrorChoice;
use crate::cli::args::{RemoteArgs, WorkArgs};
use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::{hints, verbosity};
use crate::cli::setup::{options, process, signals};

/// The environment variables that may contain a proxy. The first one that is set applies.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The environment variables that may list the hosts that need no proxy.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Default number of mirrors that receive content at the same time.
pub(crate) const DEFAULT_MAX_PARALLEL: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");
/// Maximum size of a token file, in bytes.
const MAX_TOKEN_BYTES: u64 = 8 * 1024;
/// Maximum size of a certificate file, in bytes: twice the size of the system's bundle.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// Creates the mirrors of one run.
pub(crate) struct MirrorFactory {
    started: Instant,
    jobs: NonZeroUsize,
    limits: TransferLimits,
    /// Limits how many directories are filled at the same time.
    directory_semaphore: Option<Arc<Semaphore>>,
    flags: RemoteArgs,
    /// The configuration; flags take precedence.
    run: RunDefaults,
    /// The environment variables that the configuration names as sources of secrets.
    secret_variables: Vec<String>,
    environment: fn(&str) -> Option<String>,
}

impl MirrorFactory {
    /// Creates the factory for commands that send no content, or only repair it. `wait` is the
    /// value of the `--wait` flag, if given.
    pub(crate) fn new(remote: &RemoteArgs, wait: Option<Duration>, config: &Config) -> Self {
        let run = config.run.clone();
        let limits = TransferLimits {
            lock_wait: wait.or(run.wait).unwrap_or(options::DEFAULT_WAIT),
            limit: limiter(run.bwlimit),
            cancel: signals::cancel_token(),
            trace: verbosity::is_verbose().then_some(trace_exchange as fn(&RequestTrace<'_>)),
            ..TransferLimits::default()
        };
        Self {
            started: Instant::now(),
            jobs: options::jobs(None, config),
            limits,
            directory_semaphore: None,
            flags: remote.clone(),
            run,
            secret_variables: config.secret_variables(),
            environment: crate::cli::setup::settings::environment_variable,
        }
    }

    /// Creates the factory for commands that send content.
    pub(crate) fn for_content(work: &WorkArgs, config: &Config) -> Self {
        let mut factory = Self::new(&work.remote, work.wait.wait, config);
        factory.jobs = options::jobs(work.jobs, config);
        if work.traffic.bwlimit.is_some() {
            factory.limits.limit = limiter(work.traffic.bwlimit);
        }
        let at_once = work
            .traffic
            .max_parallel
            .or(config.run.max_parallel)
            .unwrap_or(DEFAULT_MAX_PARALLEL)
            .get();
        let semaphore = Arc::new(Semaphore::new(at_once));
        factory.directory_semaphore = Some(directory_semaphore(&semaphore, at_once));
        factory.limits.semaphore = Some(semaphore);
        factory
    }

    /// Creates these mirrors, without connecting to them.
    pub(crate) fn fleet(
        &self,
        choices: &[MirrorChoice],
        site: Option<&Site>,
    ) -> Result<Fleet, Failure> {
        let jobs = self.jobs_per_mirror(choices.len());
        Ok(Fleet::new(
            choices
                .iter()
                .map(|choice| self.create_mirror(choice, site, jobs))
                .collect::<Result<_, _>>()?,
        ))
    }

    /// The number of threads for one mirror. Each thread holds a pack, so memory grows with the
    /// total number of threads of all mirrors, and a few threads per core are enough.
    fn jobs_per_mirror(&self, mirrors: usize) -> NonZeroUsize {
        const THREADS_PER_CORE: usize = 4;
        let share = self.jobs.get() * THREADS_PER_CORE / mirrors.max(1);
        NonZeroUsize::new(share).map_or(NonZeroUsize::MIN, |share| share.min(self.jobs))
    }

    /// Creates a single mirror.
    pub(crate) fn mirror(
        &self,
        choice: &MirrorChoice,
        site: Option<&Site>,
    ) -> Result<Arc<dyn Mirror>, Failure> {
        self.create_mirror(choice, site, self.jobs)
    }

    fn create_mirror(
        &self,
        choice: &MirrorChoice,
        site: Option<&Site>,
        jobs: NonZeroUsize,
    ) -> Result<Arc<dyn Mirror>, Failure> {
        let identity = MirrorIdentity {
            name: choice.name.clone(),
            location: choice.location.clone(),
            site: site.cloned(),
        };
        let mut limits = self.limits.clone();
        if let Some(rate) = choice.access.bwlimit {
            // The run's limit applies in addition to the mirror's.
            limits.limit = Some(Arc::new(Limiter::new(rate.get(), limits.limit.take())));
        }
        limits.deadline = self.deadline(&choice.access).map(|deadline| self.started + deadline);
        Ok(match Location::parse(&choice.location).map_err(|error| location_failure(&error))? {
            Location::Directory(path) => {
                let mirror = DirectoryMirror::new(identity, path, self.limits.lock_wait, jobs);
                Arc::new(
                    mirror
                        .with_semaphore(self.directory_semaphore.clone())
                        .cancelled_by(&self.limits.cancel),
                )
            }
            Location::Http(place) => {
                let access = self
                    .credentials(&choice.access)
                    .map_err(|failure| failure.into_failure(&choice.name))?;
                Arc::new(HttpMirror::new(identity, &place, &access, limits))
            }
            Location::Ssh(place) => {
                let settings = self.ssh_settings(&choice.access);
                Arc::new(HttpMirror::over_ssh(identity, &place, &settings, limits))
            }
        })
    }

    /// How long after the start of the run headwater gives up on a mirror. The mirror's deadline
    /// takes precedence over the configuration's, but never exceeds the flag's, which ends the run.
    fn deadline(&self, own: &MirrorAccess) -> Option<Duration> {
        match (self.flags.deadline, own.deadline) {
            (Some(run), Some(own)) => Some(run.min(own)),
            (flag, own) => flag.or(own).or(self.run.deadline),
        }
    }

    fn ssh_settings(&self, own: &MirrorAccess) -> SshSettings {
        let commands = [&self.flags.ssh_command, &own.ssh_command, &self.run.ssh_command];
        let receivers =
            [&self.flags.receive_command, &own.receive_command, &self.run.receive_command];
        SshSettings {
            command: commands.into_iter().flatten().next().cloned().unwrap_or_default(),
            receiver: receivers.into_iter().flatten().next().cloned().unwrap_or_default(),
            host_key: own.host_key.clone(),
            secret_variables: self.secret_variables.clone(),
        }
    }

    fn credentials(&self, inputs: &MirrorAccess) -> Result<Credentials, UnusableSetting> {
        let mut access = Credentials::new(self.token(inputs)?, self.proxy(inputs)?);
        let own = inputs.ca.as_ref().map(|ca| ("`ca`", ca));
        if let Some((key, ca)) = own.or_else(|| self.flags.ca.as_ref().map(|ca| ("--ca", ca))) {
            let what = || format!("{key} {}", ca.display());
            access
                .trust_only(read_pem(ca, what)?.as_bytes())
                .map_err(|error| UnusableSetting::new(what(), &error))?;
        }
        if let Some((chain, key)) = &inputs.client {
            let what =
                || format!("`client_cert` {} with `client_key` {}", chain.display(), key.display());
            let identity = ClientIdentity::new(
                read_pem(chain, what)?.as_bytes(),
                read_pem(key, what)?.as_bytes(),
            );
            access.identity = Some(identity.map_err(|error| UnusableSetting::new(what(), &error))?);
        }
        Ok(access)
    }

    fn token(&self, inputs: &MirrorAccess) -> Result<Option<BearerToken>, UnusableSetting> {
        // The most specific setting applies: the mirror's token, then this run's, then the
        // environment's.
        let (text, what) = match (&inputs.token, &self.flags.token_file) {
            (None, Some(path)) => {
                read_token_file(path, format!("--token-file {}", path.display()))?
            }
            (None, None) => match self.first_set_variable(&[TOKEN_VARIABLE]) {
                Some((name, text)) => (text, format!("the token in {name}")),
                None => return Ok(None),
            },
            (Some(TokenSource::Variable(name)), _) => {
                let what = format!("`token_env` {name}");
                let unset = || UnusableSetting {
                    what: what.clone(),
                    why: "this variable is not set".to_owned(),
                };
                ((self.environment)(name).ok_or_else(unset)?, what)
            }
            (Some(TokenSource::File(path)), _) => {
                read_token_file(path, format!("`token_file` {}", path.display()))?
            }
        };
        verbosity::detail(|| format!("token: from {what}"));
        BearerToken::new(&text).map(Some).map_err(|error| UnusableSetting::new(what, &error))
    }

    fn proxy(&self, inputs: &MirrorAccess) -> Result<Option<ProxyChoice>, UnusableSetting> {
        let (url, what) = match &inputs.proxy {
            Some(url) => (url.clone(), "`proxy`".to_owned()),
            None => match self.first_set_variable(&PROXY_VARIABLES) {
                Some((name, url)) => (url, format!("the proxy in {name}")),
                None => return Ok(None),
            },
        };
        // A proxy that is configured for this mirror applies to every host.
        let except =
            self.first_set_variable(&NO_PROXY_VARIABLES).filter(|_| inputs.proxy.is_none());
        verbosity::detail(|| format!("proxy: from {what}"));
        let choice = ProxyChoice::new(&url, except.as_ref().map(|(_, hosts)| hosts.as_str()));
        choice.map(Some).map_err(|error| UnusableSetting::new(what, &error))
    }

    /// The first of these variables that is not empty.
    fn first_set_variable(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        let set =
            |name: &&'static str| (self.environment)(name).filter(|text| !text.trim().is_empty());
        names.iter().find_map(|name| Some((*name, set(name)?)))
    }
}

fn limiter(rate: Option<NonZeroU64>) -> Option<Arc<Limiter>> {
    rate.map(|rate| Arc::new(Limiter::new(rate.get(), None)))
}

/// The limit for directories: all mirrors, or fewer if the system allows only a few open files.
fn directory_semaphore(semaphore: &Arc<Semaphore>, at_once: usize) -> Arc<Semaphore> {
    let most = process::max_parallel_directories();
    if most < at_once { Arc::new(Semaphore::new(most)) } else { Arc::clone(semaphore) }
}

/// Rejects directories on the command line that do not exist, because commands that only read never
/// create one.
pub(crate) fn check_directories_exist(
    choices: &[MirrorChoice],
    config: &Config,
) -> Result<(), Failure> {
    let stores = options::known_stores(None, config);
    // A missing configured mirror is a finding, which the command reports. A location in the
    // arguments may just be misspelt.
    for choice in choices.iter().filter(|choice| config.mirror(&choice.name).is_none()) {
        let Ok(Location::Directory(path)) = Location::parse(&choice.location) else { continue };
        if matches!(fsx::lstat(&path), Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
            let error = format!("{} does not exist", choice.location);
            // A push would not create it again either.
            if let Some(expected) = stores.expected(&choice.name, &choice.location) {
                let failure = Failure::new(Exit::Usage, format!("{error}, but {expected}"));
                return Err(failure.with_hint(hints::LOST_STORE_HINT));
            }
            return Err(Failure::new(Exit::Usage, error)
                .with_hint("check the path; the first push creates a mirror"));
        }
    }
    Ok(())
}

/// A credential or proxy that cannot be used.
struct UnusableSetting {
    what: String,
    why: String,
}

impl UnusableSetting {
    fn new(what: String, error: &CredentialsError) -> Self {
        Self { what, why: error.to_string() }
    }

    fn into_failure(self, mirror: &str) -> Failure {
        let hint = "correct the flag, the variable, or the key of the [[mirror]]; see \"Mirrors\" \
                    in docs/configuration.md";
        Failure::new(Exit::Usage, format!("mirror {mirror:?}: {}: {}", self.what, self.why))
            .with_hint(hint)
    }
}

fn read_pem(path: &Path, what: impl Fn() -> String) -> Result<String, UnusableSetting> {
    fsx::read_text(path, MAX_PEM_BYTES)
        .map_err(|error| UnusableSetting { what: what(), why: error.source.to_string() })
}

/// The content of a token file, and the name of its setting.
fn read_token_file(path: &Path, what: String) -> Result<(String, String), UnusableSetting> {
    warn_if_open(path, &what);
    match fsx::read_text(path, MAX_TOKEN_BYTES) {
        Ok(text) => Ok((text, what)),
        Err(error) => Err(UnusableSetting { what, why: error.source.to_string() }),
    }
}

/// Prints a request for `--verbose`.
fn trace_exchange(exchange: &RequestTrace<'_>) {
    verbosity::detail(|| {
        let RequestTrace { base, method, resource, outcome, elapsed } = exchange;
        let outcome = outcome.map_or_else(str::to_owned, |status| status.to_string());
        format!("{method} {base}{resource}: {outcome} after {} ms", elapsed.as_millis())
    });
}

fn location_failure(error: &LocationError) -> Failure {
    let hint = match error {
        LocationError::Credentials { .. } => {
            "set the token in the variable HEADWATER_TOKEN, with --token-file, or as `token_env` \
             or `token_file` of the [[mirror]]"
        }
        LocationError::Scheme { scheme, .. } => unsupported_scheme_hint(scheme),
        _ => {
            "write a directory, https://host[:port]/path or ssh://[user@]host[:port]/absolute/path"
        }
    };
    Failure::new(Exit::Usage, error.to_string()).with_hint(hint)
}

/// What to use instead of a URL with an unsupported scheme.
fn unsupported_scheme_hint(scheme: &str) -> &'static str {
    match scheme.to_ascii_lowercase().as_str() {
        "s3" | "s3a" | "gs" | "gcs" | "r2" | "b2" | "az" | "azure" | "abfs" | "swift" => {
            "push to a directory and upload its `current` with rclone or the provider's tool, from \
             `on_activated` in [hooks]; buckets cannot be mirrors yet, and such an upload is not \
             atomic"
        }
        "rsync" | "sftp" | "scp" | "ftp" | "ftps" | "fish" => {
            "write ssh://[user@]host[:port]/absolute/path, and install `headwater` on that host; \
             it needs no daemon there"
        }
        "dav" | "davs" | "webdav" | "webdavs" | "smb" | "nfs" | "afp" => {
            "run `headwater serve` on the machine with the disk and push to its https: URL; \
             a mirror cannot be on a network file system"
        }
        _ => {
            "write a directory, https://host[:port]/path or ssh://[user@]host[:port]/absolute/path"
        }
    }
}

/// Warns about a secret that every user on this machine can read. If the check fails, the error is
/// reported when the file is read.
fn warn_if_open(path: &Path, what: &str) {
    /// Files that have already caused a warning: several mirrors may use the same token.
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    // Checks only the bit for others: the user may want a group to read the secret.
    let is_open = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0);
    if is_open && WARNED.lock().insert(path.to_owned()) {
        // If stderr is closed, the warning is lost.
        eprint_raw(&format!(
            "warning: every user on this machine can read {what}: run chmod o-r\n"
        ))
        .ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::WaitArgs;

    fn factory(environment: fn(&str) -> Option<String>) -> MirrorFactory {
        let factory = MirrorFactory::new(&RemoteArgs::default(), None, &Config::default());
        MirrorFactory { environment, ..factory }
    }

    fn canary(name: &str) -> Option<String> {
        (name == TOKEN_VARIABLE || name == "MINE").then(|| "hw_canary".to_owned())
    }

    #[test]
    fn token_is_read_from_the_named_variable() {
        let token = |inputs: &MirrorAccess, environment| {
            factory(environment).token(inputs).map_err(|error| error.why)
        };
        let named = |name: &str| MirrorAccess {
            token: Some(TokenSource::Variable(name.to_owned())),
            ..MirrorAccess::default()
        };
        assert_eq!(token(&MirrorAccess::default(), |_| None), Ok(None));
        assert_eq!(
            token(&MirrorAccess::default(), canary),
            Ok(Some(BearerToken::new("hw_canary").unwrap()))
        );
        assert_eq!(token(&named("MINE"), canary), Ok(Some(BearerToken::new("hw_canary").unwrap())));
        assert!(token(&named("OTHER"), canary).unwrap_err().contains("not set"));
    }

    #[test]
    fn flag_files_apply_to_mirrors_without_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "hw_flag\n").unwrap();
        let remote = RemoteArgs {
            ca: Some("/no/flag.pem".into()),
            token_file: Some(path),
            ..RemoteArgs::default()
        };
        let factory = MirrorFactory {
            environment: canary,
            ..MirrorFactory::new(&remote, None, &Config::default())
        };
        let token = |inputs: &MirrorAccess| factory.token(inputs).map_err(|error| error.why);
        assert_eq!(token(&MirrorAccess::default()), Ok(Some(BearerToken::new("hw_flag").unwrap())));
        let own = MirrorAccess {
            token: Some(TokenSource::Variable("MINE".to_owned())),
            ca: Some("/no/own.pem".into()),
            ..MirrorAccess::default()
        };
        assert_eq!(token(&own), Ok(Some(BearerToken::new("hw_canary").unwrap())));
        let unusable = |inputs: &MirrorAccess| factory.credentials(inputs).unwrap_err().what;
        assert_eq!(unusable(&MirrorAccess::default()), "--ca /no/flag.pem");
        assert_eq!(unusable(&own), "`ca` /no/own.pem");
    }

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("headwater.toml")).unwrap()
    }

    #[test]
    fn flags_override_mirror_settings_and_those_override_the_top_level() {
        let text = "ssh_command = 'top'\nreceive_command = 'top'\ndeadline = '1m'\n[[mirror]]\n\
                    name = 'a'\nurl = 'ssh://a/x'\nssh_command = 'own'\nreceive_command = 'own'\n\
                    deadline = '2m'\n[[mirror]]\nname = 'b'\nurl = 'ssh://b/x'\n";
        let config = parse(text);
        let settings = |flags: &RemoteArgs, name: &str| {
            let factory = MirrorFactory::new(flags, None, &config);
            let access = &config.mirror(name).unwrap().access;
            let SshSettings { command, receiver, .. } = factory.ssh_settings(access);
            let deadline = factory.deadline(access).unwrap().as_secs();
            (command.program().to_owned(), receiver.as_str().to_owned(), deadline)
        };
        let commands = |text: &str, deadline: u64| (text.to_owned(), text.to_owned(), deadline);
        assert_eq!(settings(&RemoteArgs::default(), "a"), commands("own", 120));
        assert_eq!(settings(&RemoteArgs::default(), "b"), commands("top", 60));
        let flags = |seconds: u64| RemoteArgs {
            ssh_command: "flag".parse().ok(),
            receive_command: "flag".parse().ok(),
            deadline: Some(Duration::from_secs(seconds)),
            ..RemoteArgs::default()
        };
        assert_eq!(settings(&flags(90), "a"), commands("flag", 90));
        assert_eq!(settings(&flags(90), "b"), commands("flag", 90));
        assert_eq!(settings(&flags(180), "a"), commands("flag", 120), "its own limit still holds");
        let bare = MirrorFactory::new(&RemoteArgs::default(), None, &Config::default());
        assert_eq!(
            (bare.ssh_settings(&MirrorAccess::default()), bare.deadline(&MirrorAccess::default())),
            Default::default()
        );
    }

    #[test]
    fn threads_and_wait_come_from_the_flag_or_the_file() {
        let config = parse("jobs = 3\nwait = '5m'\n");
        let settings = |work: &WorkArgs, config: &Config| {
            let factory = MirrorFactory::for_content(work, config);
            (factory.jobs.get(), factory.limits.lock_wait.as_secs())
        };
        assert_eq!(settings(&WorkArgs::default(), &config), (3, 300));
        let flags = WorkArgs {
            jobs: NonZeroUsize::new(7),
            wait: WaitArgs { wait: Some(Duration::from_secs(1)) },
            ..WorkArgs::default()
        };
        assert_eq!(settings(&flags, &config), (7, 1));
        assert_eq!(settings(&WorkArgs::default(), &Config::default()).1, 60);
    }

    #[test]
    fn many_mirrors_share_the_threads() {
        let factory = MirrorFactory { jobs: NonZeroUsize::new(2).unwrap(), ..factory(|_| None) };
        assert_eq!(
            [0, 1, 4, 5, 100].map(|mirrors| factory.jobs_per_mirror(mirrors).get()),
            [2, 2, 2, 1, 1]
        );
    }

    #[test]
    fn unusable_secret_is_named_without_its_content() {
        let bad = |name: &str| (name == TOKEN_VARIABLE).then(|| "canary canary".to_owned());
        let failure =
            factory(bad).credentials(&MirrorAccess::default()).unwrap_err().into_failure("eu");
        let text = failure.render();
        assert!(
            text.contains(TOKEN_VARIABLE) && text.contains("eu") && !text.contains("canary"),
            "{text}"
        );
        let proxy = |name: &str| (name == "ALL_PROXY").then(|| "socks5://u:canary@h:1".to_owned());
        let text = factory(proxy)
            .credentials(&MirrorAccess::default())
            .unwrap_err()
            .into_failure("eu")
            .render();
        assert!(text.contains("ALL_PROXY") && !text.contains("canary"), "{text}");
        let inputs = MirrorAccess { ca: Some("/no/such.pem".into()), ..MirrorAccess::default() };
        let text = factory(|_| None).credentials(&inputs).unwrap_err().into_failure("eu").render();
        assert!(text.contains("/no/such.pem"), "{text}");
    }
}
