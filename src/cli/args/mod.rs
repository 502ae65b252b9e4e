//! Groups of arguments that several subcommands share, and the types of their values. The doc
//! comments here are the help text.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueHint};
use headwater::config::{Config, parse_duration, parse_rate};
use headwater::mirror::{ReceiveCommand, SshCommand};
use headwater::push::{LevelChoice, OnFailure, Require, RunNumber};
use headwater::tree_path::{Site, TreePath};

use crate::cli::args::rsync_flags::{DryRunArgs, RsyncFlagArgs};

pub(super) mod corrected_command;
pub(super) mod operands;
pub(super) mod rsync_flags;
pub(super) mod unknown_option;

/// Headings in the help text.
const PUBLISH: &str = "What is published";
const GUARDS: &str = "Guard rails";
pub(crate) const RUN: &str = "How it runs";
const REMOTE: &str = "Mirrors on other machines";
pub(crate) const OUTPUT: &str = "Output";

/// Which configuration and which of its mirrors a command uses.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigArgs {
    /// Read FILE instead of the headwater.toml in the current directory or the nearest directory
    /// above it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = RUN)]
    pub(crate) config: Option<PathBuf>,
    /// Use only these configured mirrors: names or groups, separated by commas
    #[arg(long, value_name = "NAME|GROUP,…", value_delimiter = ',', help_heading = RUN)]
    pub(crate) only: Vec<String>,
    /// Leave out these configured mirrors: names or groups, separated by commas
    #[arg(long, value_name = "NAME|GROUP,…", value_delimiter = ',', help_heading = RUN)]
    pub(crate) skip: Vec<String>,
}

/// What the command prints.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OutputArgs {
    /// Print the result as one JSON object on stdout
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
    /// Hide progress; warnings and errors still appear
    #[arg(short, long, conflicts_with = "verbose", help_heading = OUTPUT)]
    pub(crate) quiet: bool,
    /// Print each decision, request and response on stderr, one per line
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
    /// Write each event to FILE as it happens, one JSON object per line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    pub(crate) events: Option<PathBuf>,
}

/// How much of a list is shown.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct ListArgs {
    /// List every path that differs, not just the first 50 (for `plan` and `diff`)
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) all: bool,
}

/// The mirrors for a command that takes no tree.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MirrorsArgs {
    /// Mirrors: names from the configuration, or locations such as /srv/www or https://host/site
    /// [default: all configured mirrors]
    #[arg(value_name = "MIRROR", value_hint = ValueHint::AnyPath)]
    pub(crate) mirrors: Vec<String>,
}

/// What is pushed, and where.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SourceArgs {
    /// The content tree (a directory) and the mirrors (names from the configuration, or locations)
    ///
    /// An argument with a `/` is a path or a location. A bare word is the name of a mirror or, as
    /// the first argument, a directory. The default tree is `content` in the configuration, and the
    /// default mirrors are all configured mirrors. With --from, every argument is a mirror.
    // clap puts brackets around the name, so the usage reads `[TREE] [MIRROR]...`.
    #[arg(value_name = "TREE] [MIRROR", value_hint = ValueHint::AnyPath)]
    pub(crate) operands: Vec<String>,
    /// Copy the release that this mirror serves to the other mirrors unchanged, instead of pushing
    /// a tree
    #[arg(long, value_name = "MIRROR", value_hint = ValueHint::AnyPath, help_heading = PUBLISH)]
    pub(crate) from: Option<String>,
    /// Exclude paths that match this gitignore pattern, applied after the configured patterns; may
    /// be repeated
    // A pattern may begin with a hyphen, because a file name may.
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true, help_heading = PUBLISH)]
    pub(crate) exclude: Vec<String>,
}

/// The contents of a new release.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ReleaseArgs {
    /// Store this note in the release, for people to read [default in CI: commit, branch and URL of
    /// the run]
    #[arg(long, value_name = "TEXT", help_heading = PUBLISH)]
    pub(crate) note: Option<String>,
    /// Mark this push as run N of STREAM, and refuse to replace a release from a higher N in that
    /// stream [default in CI: the run number]
    #[arg(long, value_name = "STREAM:N", help_heading = PUBLISH)]
    pub(crate) order: Option<RunNumber>,
    /// Keep serving removed files of every kind for this long, so that cached pages still find
    /// them: 0s, 24h, 14d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = PUBLISH)]
    pub(crate) keep_removed: Option<Duration>,
    /// Stop serving PATH and everything below it immediately; refused if the tree still contains
    /// it; may be repeated
    #[arg(long, value_name = "PATH", value_parser = TreePath::new, help_heading = PUBLISH)]
    pub(crate) expunge: Vec<TreePath>,
}

/// The guard rails that are switched off. They are independent, so each is a bool.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GuardArgs {
    /// Push even if a newer run has already been published
    #[arg(long, help_heading = GUARDS)]
    pub(crate) allow_older: bool,
    /// Push content even if it has been rolled back
    #[arg(long, help_heading = GUARDS)]
    pub(crate) again: bool,
    /// Start a new history for the site on mirrors whose histories differ; the new history replaces
    /// all of them
    #[arg(long, help_heading = GUARDS)]
    pub(crate) new_history: bool,
    /// Return 0 if a newer push has won
    #[arg(long, help_heading = GUARDS)]
    pub(crate) superseded_ok: bool,
    /// Push even if most or all of the files are gone
    #[arg(long, help_heading = GUARDS)]
    pub(crate) allow_shrink: bool,
    /// Push even if the tree contains .git, .env, private keys or similar files
    #[arg(long, help_heading = GUARDS)]
    pub(crate) allow_secrets: bool,
}

/// How the work is done.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WorkArgs {
    /// Switch mirrors only when this many are ready: all, any, a number or a percentage [default:
    /// `require` in the configuration, or all]
    #[arg(long, value_name = "all|N|N%|any", help_heading = RUN)]
    pub(crate) require: Option<Require>,
    /// Use this many threads [default: `jobs` in the configuration, or one per core]
    #[arg(
        short,
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroUsize>,
        help_heading = RUN
    )]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// If a mirror fails to switch, leave the mirrors that have already switched, or revert them
    /// [default: `on_failure` in the configuration, or leave]
    #[arg(long, value_name = "leave|revert", value_parser = parse_on_failure, help_heading = RUN)]
    pub(crate) on_failure: Option<OnFailure>,
    /// Fill mirrors that had a store before but are now empty or have a different store
    #[arg(long, help_heading = RUN)]
    pub(crate) init: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    /// Keep hashes and old content in DIR between runs; DIR may be deleted at any time [default:
    /// `dir` under `[cache]` in the configuration, or headwater in the XDG cache directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = RUN)]
    pub(crate) cache: Option<PathBuf>,
    /// Compress content for sending: auto (none for directories on this machine, more for distant
    /// or slow mirrors), raw (none), or a zstd level from 1 to 19 [default: `level` in the
    /// configuration, or auto]
    #[arg(long, value_name = "auto|raw|1..19", help_heading = RUN)]
    pub(crate) level: Option<LevelChoice>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
}

/// The site that mirrors must have, and the connection to mirrors on other machines.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RemoteArgs {
    /// The site that the mirrors must have [default: the mirrors' own site; for commands that
    /// publish, `site` in the configuration if set]
    #[arg(long, value_name = "NAME", help_heading = RUN)]
    pub(crate) site: Option<Site>,
    /// Stop after this long; mirrors that are not ready by then stay on their current release
    /// [default: `deadline` in the configuration, or none]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = REMOTE)]
    pub(crate) deadline: Option<Duration>,
    /// Trust only the CA certificates in FILE, for mirrors without their own `ca`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = REMOTE)]
    pub(crate) ca: Option<PathBuf>,
    /// Read the token from FILE, for mirrors without their own token [default: the variable
    /// HEADWATER_TOKEN]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = REMOTE)]
    pub(crate) token_file: Option<PathBuf>,
    /// Run this ssh command, for example "ssh -i key"; headwater splits it into words as a shell
    /// does [default: `ssh_command` for the mirror or in the configuration, or ssh]
    #[arg(long, value_name = "COMMAND", help_heading = REMOTE)]
    pub(crate) ssh_command: Option<SshCommand>,
    /// Run this headwater command on the mirror, over ssh and through the mirror's shell [default:
    /// `receive_command` for the mirror or in the configuration, or headwater]
    #[arg(long, value_name = "COMMAND", help_heading = REMOTE)]
    pub(crate) receive_command: Option<ReceiveCommand>,
}

// The type belongs to the library, which does not use clap, so it cannot derive `ValueEnum`.
fn parse_on_failure(text: &str) -> Result<OnFailure, String> {
    match text {
        "leave" => Ok(OnFailure::Leave),
        "revert" => Ok(OnFailure::Revert),
        _ => Err("write `leave` or `revert`".to_owned()),
    }
}

/// Parses a nonzero number.
fn parse_count<T: FromStr>(text: &str) -> Result<T, String> {
    // clap would print the error from `parse`, which does not say which values are valid.
    text.parse().map_err(|_| "write a number of at least 1".to_owned())
}

/// Limits for transfers.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TrafficArgs {
    /// Send at most this many bytes per second to all mirrors on other machines together: 500kB,
    /// 2MB [default: `bwlimit` in the configuration, or no limit]
    #[arg(long, value_name = "RATE", value_parser = parse_rate, help_heading = REMOTE)]
    pub(crate) bwlimit: Option<NonZeroU64>,
    /// Send content to at most this many mirrors at once [default: `max_parallel` in the
    /// configuration, or 16]
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroUsize>,
        help_heading = REMOTE
    )]
    pub(crate) max_parallel: Option<NonZeroUsize>,
}

/// The start delay and the result files of a push.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ScheduleArgs {
    /// Before starting, wait a random time, at most this long, so that many origins do not start
    /// together
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = RUN)]
    pub(crate) jitter: Option<Duration>,
    /// After the run, write the state of the mirrors as gauges to FILE, for Prometheus's textfile
    /// collector
    #[arg(long, value_name = "FILE.prom", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    metrics: Option<PathBuf>,
    /// Write the result as NAME=VALUE lines to FILE, for a GitLab dotenv report
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    pub(crate) dotenv: Option<PathBuf>,
}

impl ScheduleArgs {
    /// The file for the gauges, if one is set.
    pub(crate) fn metrics<'a>(&'a self, config: &'a Config) -> Option<&'a Path> {
        self.metrics.as_deref().or(config.notify.metrics.as_deref())
    }
}

/// How long a command waits for a lock.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WaitArgs {
    /// Wait this long for a mirror that another run is changing [default: `wait` in the
    /// configuration, or 60s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = RUN)]
    pub(crate) wait: Option<Duration>,
}

/// The arguments of `push` and `plan`: a plan is exact only if it takes every argument of the push.
#[derive(Debug, Clone, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) release: ReleaseArgs,
    /// Prepare the release on the mirrors without serving it; `headwater activate` serves it later
    #[arg(long, help_heading = RUN)]
    pub(crate) stage_only: bool,
    #[command(flatten)]
    pub(crate) guards: GuardArgs,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    pub(crate) rsync_flags: RsyncFlagArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The arguments of `promote`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PromoteArgs {
    /// The mirror whose content is published: a name from the configuration, or a location
    #[arg(value_name = "FROM", value_hint = ValueHint::AnyPath)]
    pub(crate) from: String,
    /// The mirrors that get the new release
    #[arg(value_name = "TO", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) mirrors: Vec<String>,
    #[command(flatten)]
    pub(crate) release: ReleaseArgs,
    /// Prepare the release on the mirrors without serving it; `headwater activate` serves it later
    #[arg(long, help_heading = RUN)]
    pub(crate) stage_only: bool,
    /// Show what the command would do, as `headwater plan` does, without changing anything
    #[arg(short = 'n', long, help_heading = RUN)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) guards: GuardArgs,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The arguments of `diff`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DiffArgs {
    /// The old side: a tree, a mirror, or a kept release as MIRROR:SEQ
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath)]
    pub(crate) old: String,
    /// The new side, in the same form
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath)]
    pub(crate) new: String,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The arguments of `releases`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReleasesArgs {
    #[command(flatten)]
    pub(crate) mirrors: MirrorsArgs,
    /// Also show the disk space that mirrors on other machines use; this reads the manifests of all
    /// kept releases from each mirror
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) disk: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The arguments of `rollback`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RollbackArgs {
    /// Mirrors: names from the configuration, or locations; all go back to the same release
    /// [default: all configured mirrors, after confirmation]
    #[arg(value_name = "MIRROR", value_hint = ValueHint::AnyPath)]
    pub(crate) mirrors: Vec<String>,
    /// Roll back all configured mirrors without confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Go back to the kept release with this sequence [default: the release before the current one]
    #[arg(long, value_name = "SEQ")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) release: ReleaseArgs,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
}

/// The arguments of `verify`.
#[derive(Debug, Clone, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) mirrors: MirrorsArgs,
    /// Compare only the sizes and times of the served files, without reading them
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The arguments of `repair`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RepairArgs {
    /// Mirrors to repair: names from the configuration, or locations
    #[arg(value_name = "MIRROR", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) mirrors: Vec<String>,
    /// Fetch damaged content from this tree or mirror; only content with the right hash is accepted
    #[arg(long, value_name = "TREE|MIRROR", value_hint = ValueHint::AnyPath)]
    pub(crate) from: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
}

/// The arguments of `prune`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) mirrors: MirrorsArgs,
    /// Keep this many releases [default: `keep` in the configuration, or 3]
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroU32>)]
    pub(crate) keep: Option<NonZeroU32>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_split_at_the_last_colon() {
        let order: RunNumber = "github:me/site/CI: all:17".parse().unwrap();
        assert_eq!((order.stream(), order.number()), ("github:me/site/CI: all", 17));
        for bad in [
            "",
            "build",
            "build:",
            ":3",
            "build:-1",
            "build:x",
            "a\nb:3",
            &format!("{}:1", "s".repeat(201)),
        ] {
            assert!(bad.parse::<RunNumber>().is_err(), "{bad}");
        }
    }
}
