//! `headwater token new`: a token for an origin, and the `[[token]]` table for its receiver.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueHint};
use headwater::config::{parse_duration, serve as config};
use headwater::receiver::{Permission, Token};
use headwater::tree_path::Site;

use super::failure::{Exit, Failure, eprint_raw};
use super::output::{moment, print};

/// The subcommands of `token`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token: print it once on stdout, and print the table for serve.toml on stderr
    #[command(after_help = super::help::TOKEN)]
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
    /// Check that FILE, a serve.toml, has the sites
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

/// Runs `headwater token`.
pub(crate) fn run(command: &TokenCommand) -> Result<Exit, Failure> {
    let TokenCommand::New(args) = command;
    let mut place = "serve.toml".to_owned();
    if let Some(path) = &args.config {
        let settings = config::load(path).map_err(super::config_failure)?;
        let known =
            |site: &Site| settings.sites.iter().any(|known| known.name.as_ref() == Some(site));
        if let Some(site) = args.sites.iter().find(|site| !known(site)) {
            let failure =
                Failure::new(Exit::Usage, format!("{} has no [[site]] {site}", path.display()));
            return Err(failure.with_hint("add it first, or correct --site"));
        }
        place = path.display().to_string();
    }
    let token = Token::random().map_err(|error| Failure::new(Exit::Failed, error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires = args.expires.map(|expires| moment(now.saturating_add(expires).as_secs()));
    let sites: Vec<String> = args.sites.iter().map(|site| format!("\"{site}\"")).collect();
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
    // Only the secret goes to stdout, for a pipe into a secret store; it never goes to stderr,
    // which may be logged.
    print(&format!("{}\n", token.reveal()))?;
    let text = format!(
        "# add this table to {}, then reload the receiver (SIGHUP, `systemctl reload`); it does \
         not contain the secret\n{table}",
        super::output::escape(&place)
    );
    eprint_raw(&text).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(Exit::Success)
}
