//! The effective settings: flags take precedence over the configuration, which takes precedence
//! over the environment.
//!
//! Pure: the environment is read through a closure that the caller passes in. Uses the crate
//! `etcetera` for the location of the cache.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use headwater::config::Config;
use headwater::push::{RetentionRule, RunNumber};
use headwater::tree_path::Site;

use crate::cli::args::ReleaseArgs;
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::setup::ci;

/// The effective settings of a new release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReleaseSettings {
    /// The site, if one is set. Otherwise the mirrors determine it.
    pub(crate) site: Option<Site>,
    /// The note, if there is one.
    pub(crate) note: Option<String>,
    /// The run number, if there is one.
    pub(crate) run_number: Option<RunNumber>,
    /// Rules for how long removed paths are served. The first matching rule applies; the built-in
    /// rules come last.
    pub(crate) keep_removed: Vec<RetentionRule>,
}

impl ReleaseSettings {
    /// Takes each setting from the first source that has it: flags, configuration, environment. An
    /// empty `--note` means no note, even in CI.
    pub(crate) fn merge(
        args: &ReleaseArgs,
        site: Option<&Site>,
        config: &Config,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let site = site.or(config.site.as_ref()).cloned();
        // One rule that matches every path: the flag replaces all rules in the configuration.
        let keep_removed = match args.keep_removed {
            Some(keep) => vec![RetentionRule { pattern: "*".to_owned(), keep }],
            None => config.keep_removed.clone(),
        };
        let note =
            args.note.clone().or_else(|| ci::note(&environment)).filter(|note| !note.is_empty());
        let run_number = args.order.clone().or_else(|| ci::run_number(&environment));
        Self { site, note, run_number, keep_removed }
    }
}

/// The exclude patterns: first those from the configuration, then those from the flags. Later
/// patterns take precedence.
pub(crate) fn exclude_patterns(flags: &[String], config: &Config) -> Vec<String> {
    config.exclude.iter().chain(flags).cloned().collect()
}

/// The directory of the cache: the flag, the configuration, or `headwater` in the XDG cache
/// directory.
pub(crate) fn cache_dir(flag: Option<&Path>, config: &Config) -> Result<PathBuf, Failure> {
    match flag.or(config.cache.dir.as_deref()) {
        Some(dir) => Ok(dir.to_owned()),
        None => etcetera::base_strategy::Xdg::new()
            .map(|base| base.cache_dir().join("headwater"))
            .map_err(|error| {
                Failure::new(Exit::Usage, error)
                    .with_hint("name a directory with --cache or as `dir` of [cache]")
            }),
    }
}

/// Reads an environment variable of this process.
pub(crate) fn environment_variable(name: &str) -> Option<String> {
    // A value that is not UTF-8 counts as unset, because no setting can have such a value.
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gitlab(name: &str) -> Option<String> {
        let pairs = [
            ("GITLAB_CI", "1"),
            ("CI_COMMIT_SHA", "abc"),
            ("CI_PROJECT_PATH", "g/s"),
            ("CI_PIPELINE_IID", "5"),
        ];
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn flags_override_file_and_environment() {
        let text = "site='file'\nexclude=['a']\n[[keep_removed]]\nmatch='*.js'\nfor='2w'";
        let config = Config::parse(text, Path::new("f")).unwrap();
        let site = |name: &str| Some(Site::new(name).unwrap());
        let merge = |args: &ReleaseArgs, site: Option<Site>| {
            ReleaseSettings::merge(args, site.as_ref(), &config, gitlab)
        };

        let from_file = merge(&ReleaseArgs::default(), None);
        assert_eq!(from_file.site, site("file"));
        assert_eq!(from_file.note.as_deref(), Some("abc"));
        assert_eq!(from_file.run_number.unwrap().to_string(), "gitlab:g/s:5");
        assert_eq!(from_file.keep_removed, config.keep_removed);

        let flags = ReleaseArgs {
            note: Some(String::new()),
            order: Some(RunNumber::new("s", 9).unwrap()),
            keep_removed: Some(Duration::ZERO),
            expunge: Vec::new(),
        };
        let from_flags = merge(&flags, site("flag"));
        assert_eq!(from_flags.site, site("flag"));
        assert_eq!(from_flags.note, None);
        assert_eq!(from_flags.run_number.unwrap().to_string(), "s:9");
        assert_eq!(
            from_flags.keep_removed,
            [RetentionRule { pattern: "*".into(), keep: Duration::ZERO }]
        );
        assert_eq!(exclude_patterns(&["!a/b".to_owned()], &config), ["a", "!a/b"]);
    }

    #[test]
    fn missing_settings_have_defaults() {
        let settings =
            ReleaseSettings::merge(&ReleaseArgs::default(), None, &Config::default(), |_| None);
        assert_eq!((settings.site, settings.note, settings.run_number), (None, None, None));
    }

    #[test]
    fn cache_directory_comes_from_the_flag_or_the_file() {
        let config = Config::parse("[cache]\ndir = 'c'", Path::new("/etc/hw/f")).unwrap();
        let flag = Some(Path::new("/flag"));
        assert_eq!(cache_dir(flag, &config).unwrap(), Path::new("/flag"));
        assert_eq!(cache_dir(None, &config).unwrap(), Path::new("/etc/hw/c"));
        assert_eq!(cache_dir(flag, &Config::default()).unwrap(), Path::new("/flag"));
    }
}
