//! Loads the configuration and reports its errors.

use std::path::PathBuf;

use headwater::config::{Config, ConfigError, FILE_NAME};

use crate::cli::args::ConfigArgs;
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::pluralize;
use crate::cli::output::verbosity;
use crate::cli::setup::{config_search, fleet};

/// Loads the configuration: the named file, or else the file in the current directory or in the
/// nearest directory above it. Without a file, the configuration is [`Config::default`].
pub(crate) fn load_config(args: &ConfigArgs) -> Result<Config, Failure> {
    let path = args
        .config
        .clone()
        .or_else(config_search::find)
        .unwrap_or_else(|| PathBuf::from(FILE_NAME));
    let loaded = match Config::load(&path) {
        Err(ConfigError::Read(error))
            // The file is optional, because arguments are enough for every command. But a file that
            // the user named must exist.
            if error.kind() == std::io::ErrorKind::NotFound && args.config.is_none() =>
        {
            verbosity::detail(|| format!("configuration: no {FILE_NAME} here or above"));
            Ok(Config::default())
        }
        other => other.inspect(|config| {
            let mirrors = pluralize(config.mirrors.len() as u64, "mirror", "mirrors");
            verbosity::detail(|| format!("configuration: {}, {mirrors}", path.display()));
        }),
    };
    let mut config = loaded.map_err(|error| match &error {
        ConfigError::Invalid { .. } => config_failure(error)
            .with_hint("run `headwater init FILE` to write a file that explains every key"),
        _ => config_failure(error),
    })?;
    fleet::apply_only_and_skip(&mut config, args)?;
    Ok(config)
}

/// The failure for an invalid configuration, with the lines that show the error.
pub(crate) fn config_failure(error: ConfigError) -> Failure {
    match &error {
        ConfigError::Invalid { snippet, .. } => {
            let snippet = snippet.clone();
            Failure::new(Exit::Usage, error).with_details(snippet)
        }
        ConfigError::Read(_) => Failure::new(Exit::Usage, error)
            .with_hint("check that the file exists and is readable, or name another one with \
                        --config"),
        ConfigError::List(_) | ConfigError::Command { .. } => Failure::new(Exit::Usage, error)
            .with_hint(
            "set `mirrors_from` to a file, or to a command as a list of words; run the command to \
             see its output",
        ),
        ConfigError::TooLarge { .. } | ConfigError::ListTooLarge { .. } => {
            Failure::new(Exit::Usage, error)
                .with_hint("check that --config and `mirrors_from` name the right files")
        }
    }
}

/// The failure for an invalid token file.
pub(crate) fn token_file_failure(error: ConfigError) -> Failure {
    match error {
        ConfigError::Read(error) => Failure::new(
            Exit::Usage,
            format!(
                "cannot use the token file (--token-file): {}",
                headwater::text::error_chain(&error)
            ),
        )
        .with_hint("create a readable file with the token that `headwater token new` prints"),
        error => config_failure(error),
    }
}
