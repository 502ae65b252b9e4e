//! Converts the arguments that several subcommands share: mirrors, trees, options.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater::config::{self, Config};
use headwater::fsx;
use headwater::push::{
    AllowedSecrets, Goal, Guards, KnownStores, Options, Retention, ScratchLocation,
};
use headwater::scan::{Root, ScanOptions};

use crate::cli::args::{GuardArgs, ReleaseArgs, WorkArgs};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::setup::settings::ReleaseSettings;
use crate::cli::setup::{fleet, settings};

/// How long a push waits for the remaining mirrors once enough mirrors are ready.
const STAGE_STRAGGLER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a push waits for the remaining mirrors once enough mirrors have responded. A distant
/// mirror, or one over SSH, responds within a second or two.
const POLL_STRAGGLER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long commands wait for a lock by default.
pub(crate) const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The number of threads: the flag, the configuration, or the number of cores.
pub(crate) fn jobs(flag: Option<NonZeroUsize>, config: &Config) -> NonZeroUsize {
    flag.or(config.run.jobs)
        // This respects the CPU limits of a container; the number of cores does not.
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN)
}

/// The roots of a push: the named tree, or the configured content.
pub(crate) fn roots(tree: Option<&str>, config: &Config) -> Vec<Root> {
    match tree {
        Some(tree) => vec![Root { path: tree.into(), tree_prefix: None }],
        None => config.content.clone(),
    }
}

/// The options for a scan.
pub(crate) fn scan_options(
    exclude: &[String],
    config: &Config,
    jobs: NonZeroUsize,
    stat_cache: Option<PathBuf>,
) -> ScanOptions {
    ScanOptions {
        exclude: settings::exclude_patterns(exclude, config),
        symlinks: config.symlinks,
        names: config.names,
        jobs: jobs.get(),
        stat_cache,
    }
}

/// Where a push keeps its files; `cache` is the directory of the cache.
pub(crate) fn scratch_location(cache: Result<&Path, &Failure>) -> ScratchLocation {
    // The push gets the error: a service user may have no home directory, and a temporary directory
    // is good enough.
    let directory = cache.map(Path::to_owned).map_err(Failure::error_text);
    ScratchLocation { directory, temporary: std::env::temp_dir() }
}

/// The name of the stat cache for these roots. It depends on their paths, because a stat cache
/// knows files by their path in the tree.
pub(crate) fn stat_cache_name(roots: &[Root]) -> String {
    let mut hasher = blake3::Hasher::new();
    // A zero byte follows each part. Otherwise two lists of parts could result in the same bytes.
    for root in roots {
        // The scan reports a tree that does not exist.
        let path = fsx::resolve(&root.path).unwrap_or_else(|_| root.path.clone());
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(&[0]);
        hasher.update(root.tree_prefix.as_ref().map_or("", |at| at.as_str()).as_bytes());
        hasher.update(&[0]);
    }
    format!("stat-cache-{}", &hasher.finalize().to_hex()[..16])
}

/// The store that each mirror is known to have, from the cache and the configuration.
pub(crate) fn known_stores(cache: Option<&Path>, config: &Config) -> KnownStores {
    let store = |mirror: &config::MirrorConfig| Some((mirror.name.to_string(), mirror.store?));
    let configured = config.all_mirrors().filter_map(store).collect();
    KnownStores::new(
        settings::cache_dir(cache, config).ok().map(|dir| dir.join("stores")),
        configured,
    )
}

/// All inputs of a push or a rollback.
pub(crate) struct PushInputs<'a> {
    pub(crate) config: &'a Config,
    pub(crate) release: &'a ReleaseArgs,
    pub(crate) guards: &'a GuardArgs,
    pub(crate) work: &'a WorkArgs,
    pub(crate) goal: Goal,
}

impl PushInputs<'_> {
    /// The options of a push from `source`.
    pub(crate) fn options(
        &self,
        settings: ReleaseSettings,
        scratch: ScratchLocation,
    ) -> Result<Options, Failure> {
        let retention = Retention::new(&settings.keep_removed, self.release.expunge.clone())
            .map_err(|error| Failure::new(Exit::Usage, format!("keep_removed: {error}")))?;
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Ok(Options {
            site: settings.site,
            note: settings.note.map(|note| one_line(&note)),
            run_number: settings.run_number,
            allow_older: self.guards.allow_older,
            allow_rejected: self.guards.again,
            new_history: self.guards.new_history,
            guards: self.guard_rails()?,
            retention,
            mtime: self.config.mtime,
            require: self.work.require.unwrap_or(self.config.require),
            policy: fleet::policy(self.config, self.work.on_failure, self.goal)?,
            partial: None,
            jobs: jobs(self.work.jobs, self.config),
            level: self.work.level.or(self.config.run.level).unwrap_or_default(),
            scratch,
            stores: known_stores(self.work.cache.as_deref(), self.config).with_init(self.work.init),
            keep_content: self.config.cache.keep,
            began: u64::try_from(began).unwrap_or(u64::MAX),
            straggler_timeout: STAGE_STRAGGLER_TIMEOUT,
            response_timeout: POLL_STRAGGLER_TIMEOUT,
        })
    }

    fn guard_rails(&self) -> Result<Guards, Failure> {
        let allowed_secrets = AllowedSecrets::new(&self.config.allow_secrets)
            .map_err(|error| Failure::new(Exit::Usage, format!("allow_secrets: {error}")))?;
        Ok(Guards {
            must_have: self.config.must_have.clone(),
            expunged: self.release.expunge.clone(),
            max_removed: self.config.max_removed,
            allow_shrink: self.guards.allow_shrink,
            allow_secrets: self.guards.allow_secrets,
            allowed_secrets,
        })
    }
}

/// Turns a note into one line of at most 1,024 bytes. A longer commit message is cut, not refused.
fn one_line(note: &str) -> String {
    let mut line: String = note.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while line.len() > headwater::release::MAX_NOTE_BYTES {
        line.pop();
    }
    line
}
