//! `headwater token new`: a token for an origin, and what its receiver keeps of it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueHint};
use headwater::config::{parse_duration, serve as config};
use headwater::receiver::{Permission, Token};
use headwater::tree_path::Site;

use super::failure::{Exit, Failure, eprint_raw};
use super::output::{moment, print};

/// What can be done about tokens.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token: printed once on stdout, and the lines for serve.toml on stderr
    #[command(after_help = super::help::TOKEN)]
    New(NewArgs),
}

/// The arguments of `token new`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewArgs {
    /// The site that it holds for; may be repeated
    #[arg(long = "site", value_name = "NAME", required = true)]
    sites: Vec<Site>,
    /// What it permits: push (which includes read) or read
    #[arg(long, value_name = "push|read")]
    allow: Permission,
    /// It ends after this long, for example 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires: Option<Duration>,
    /// Check that this serve.toml has the sites
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

/// Runs `headwater token`.
pub(crate) fn run(command: &TokenCommand) -> Result<Exit, Failure> {
    let TokenCommand::New(args) = command;
    let mut place = "serve.toml".to_owned();
    if let Some(path) = &args.config {
        let settings = config::load(path).map_err(super::config_failure)?;
        let known = |site: &Site| settings.sites.iter().any(|known| known.name.as_ref() == Some(site));
        if let Some(site) = args.sites.iter().find(|site| !known(site)) {
            let failure = Failure::new(Exit::Usage, format!("{} has no [[site]] {site}", path.display()));
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
    // The secret alone on stdout, for a pipe into a secret store; nothing that keeps stderr keeps it.
    print(&format!("{}\n", token.reveal()))?;
    let text = format!(
        "# add this to {}, then have the receiver read it (SIGHUP, `systemctl reload`); it does not hold the secret\n{table}",
        super::output::escape(&place)
    );
    eprint_raw(&text).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(Exit::Success)
}
