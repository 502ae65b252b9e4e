//! `headwater token new`: creates a token for an origin, and the `[[token]]` table for its
//! receiver.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueHint};
use headwater::config::{ConfigError, parse_duration, serve as config};
use headwater::receiver::{Permission, Token};
use headwater::text::error_chain;
use headwater::tree_path::Site;

use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::format::{escape, format_time};
use crate::cli::output::print::print;
use crate::cli::setup::configuration::config_failure;

/// The subcommands of `token`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token: print it once on stdout, and add its table to a file or print it on stderr
    #[command(after_help = crate::cli::output::help::TOKEN)]
    New(NewArgs),
}

/// The arguments of `token new`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewArgs {
    /// A site for which the token is valid; may be repeated
    #[arg(long = "site", value_name = "NAME", required = true)]
    sites: Vec<Site>,
    /// What the token permits: push (which includes read) or read
    #[arg(long, value_name = "push|read")]
    allow: Permission,
    /// The token expires after this long, for example 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires: Option<Duration>,
    /// Add the table to FILE, a serve.toml or a file for `serve --token-file`, instead of printing
    /// it. FILE must exist; a serve.toml must contain the sites
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    append: Option<PathBuf>,
    /// Check that FILE, a serve.toml, contains the sites
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "append")]
    config: Option<PathBuf>,
}

pub(crate) fn run(command: &TokenCommand) -> Result<Exit, Failure> {
    let TokenCommand::New(args) = command;
    let mut destination = "serve.toml".to_owned();
    if let Some(path) = &args.config {
        let sites = config::load(path).map_err(config_failure)?.sites;
        check_sites(
            &args.sites,
            &sites.into_iter().filter_map(|site| site.name).collect::<Vec<_>>(),
            path,
        )?;
        destination = path.display().to_string();
    }
    // Checked before a token is made, because a token for an unknown site would never be accepted.
    if let Some(path) = &args.append
        && let Some(known) =
            config::site_names(path).map_err(|error| append_failure(path, error))?
    {
        check_sites(&args.sites, &known, path)?;
    }
    let token = Token::random().map_err(|error| Failure::new(Exit::Failed, error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires = args.expires.map(|expires| format_time(now.saturating_add(expires).as_secs()));
    let sites: Vec<String> = args.sites.iter().map(|site| format!("\"{site}\"")).collect();
    // The receiver gets only the hash, so that a stolen serve.toml gives no access.
    let mut table = format!(
        "[[token]]\nid = \"{}\"\nhash = \"{}\"\nsites = [{}]\nallow = \"{}\"\n",
        token.id(),
        token.hash().to_hex(),
        sites.join(", "),
        args.allow.name()
    );
    if let Some(expires) = expires {
        table.push_str(&format!("expires = \"{expires}\"\n"));
    }
    // Only the secret goes to stdout, so that it can be piped into a secret store; it never goes to
    // stderr, which may be logged.
    let text = if let Some(path) = &args.append {
        // Before the token is printed, because the token would be useless without its table.
        config::append_token(path, &table).map_err(|error| append_failure(path, error))?;
        print(&format!("{}\n", token.reveal()))?;
        format!(
            "the token's table was added to {}; a running receiver reads it on SIGHUP (`systemctl \
             reload headwater`)\n",
            escape(&path.to_string_lossy())
        )
    } else {
        print(&format!("{}\n", token.reveal()))?;
        format!(
            "# add this table to {}, then reload the receiver (SIGHUP, `systemctl reload`); it \
             does not contain the secret\n{table}",
            escape(&destination)
        )
    };
    eprint_raw(&text).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(Exit::Success)
}

/// Fails if one of `sites` is not one of `known`, the sites of the `serve.toml` at `path`.
fn check_sites(sites: &[Site], known: &[Site], path: &Path) -> Result<(), Failure> {
    let Some(site) = sites.iter().find(|site| !known.contains(site)) else { return Ok(()) };
    let failure = Failure::new(Exit::Usage, format!("{} has no [[site]] {site}", path.display()));
    Err(failure.with_hint("add it first, or correct --site"))
}

/// The failure if the table cannot be appended to a file.
fn append_failure(path: &Path, error: ConfigError) -> Failure {
    match error {
        ConfigError::Read(error) => {
            let words = error_chain(&error);
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "correct --append, or create the file first",
                _ => "run the command as a user who may read and change the file",
            };
            let text = format!("cannot add the token to {}: {words}", path.display());
            Failure::new(Exit::Usage, text).with_hint(hint)
        }
        error => config_failure(error),
    }
}
