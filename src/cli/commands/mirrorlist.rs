//! `headwater mirrorlist`: lists the mirrors that are proven current, for a load balancer or a
//! client that chooses a mirror.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use headwater::config::MirrorConfig;
use headwater::fsx;
use headwater::mirror::PublicUrl;
use serde_json::json;

use crate::cli::args::{ConfigArgs, MirrorsArgs, OUTPUT, OutputArgs, RemoteArgs};
use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::format::{escape, pluralize};
use crate::cli::output::print::print;
use crate::cli::setup::fleet_poller::FleetPoller;

/// Maximum size, in bytes, of an old list that is compared with the new list.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// The highest weight that haproxy accepts.
const MAX_HAPROXY_WEIGHT: u32 = 256;

/// The format of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// One public URL per line
    Txt,
    /// One JSON object
    Json,
    /// Lines for an nginx `upstream`
    Nginx,
    /// Lines for a haproxy `backend`
    Haproxy,
}

/// The arguments of `mirrorlist`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MirrorlistArgs {
    #[command(flatten)]
    mirrors: MirrorsArgs,
    /// The format of the list
    #[arg(long, value_enum, default_value = "txt", help_heading = OUTPUT)]
    format: ListFormat,
    /// Replace FILE atomically if the list changed; an empty list never replaces it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    output: Option<PathBuf>,
    /// List only mirrors whose visitors get the release; to check this, fetch some files through
    /// each `public_url`
    #[arg(long, help_heading = OUTPUT)]
    public: bool,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(crate) fn run(args: &MirrorlistArgs, is_quiet: bool) -> Result<Exit, Failure> {
    let poller = FleetPoller::new(
        &args.mirrors.mirrors,
        &args.remote,
        &args.config,
        &OutputArgs::default(),
    )?;
    if !poller.config.mirrors.iter().any(|mirror| mirror.public_url.is_some()) {
        let hint = "set `public_url` in each [[mirror]], or in [mirror_defaults] with {name}";
        return Err(Failure::new(Exit::Usage, "no mirror has a `public_url`").with_hint(hint));
    }
    let mut fleet_poll = poller.poll();
    if args.public {
        poller.add_public_checks(&mut fleet_poll);
    }
    poller.progress.finish();
    let mut listed: Vec<ListedMirror<'_>> = fleet_poll
        .proven_current(&poller.config)
        .into_iter()
        .filter_map(ListedMirror::new)
        .collect();
    listed.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
    // An error, not an empty list: an empty list would take the site off its load balancer.
    if listed.is_empty() {
        return Err(none_current_failure(args, fleet_poll.mirror_statuses.len() as u64));
    }
    let text = render(&listed, args.format);
    match &args.output {
        None => print(&text)?,
        Some(path) => replace_if_changed(path, &text, is_quiet)?,
    }
    Ok(Exit::Success)
}

fn none_current_failure(args: &MirrorlistArgs, mirrors: u64) -> Failure {
    let kept = match &args.output {
        Some(path) if path.exists() => format!("; {} is unchanged", path.display()),
        _ => String::new(),
    };
    let error =
        format!("none of {} is proven current{kept}", pluralize(mirrors, "mirror", "mirrors"));
    Failure::new(Exit::Failed, error)
        .with_hint("run `headwater status` to see the state of each mirror")
}

/// Writes the list if it differs from the file's content.
fn replace_if_changed(path: &Path, text: &str, is_quiet: bool) -> Result<(), Failure> {
    // A program that watches the file to reload a load balancer must not see a change if there is
    // none.
    if fsx::read_text(path, MAX_BYTES).is_ok_and(|before| before == text) {
        return Ok(());
    }
    fsx::replace_file(path, |out| out.write_all(text.as_bytes())).map_err(|error| {
        Failure::new(Exit::Failed, error)
            .with_hint("name a file in a writable directory with --output")
    })?;
    if is_quiet {
        return Ok(());
    }
    eprint_raw(&format!("wrote {}\n", escape(&path.to_string_lossy())))
        .map_err(|error| Failure::new(Exit::Failed, error))
}

/// A mirror in the list.
#[derive(Debug, Clone, Copy)]
struct ListedMirror<'a> {
    mirror: &'a MirrorConfig,
    url: &'a PublicUrl,
}

impl<'a> ListedMirror<'a> {
    fn new(mirror: &'a MirrorConfig) -> Option<Self> {
        Some(Self { mirror, url: mirror.public_url.as_ref()? })
    }

    fn region(&self) -> Option<&'a str> {
        self.mirror.region.as_ref().map(headwater::config::Label::as_str)
    }

    /// Sorts by region, then by descending weight.
    fn sort_key(&self) -> impl Ord + use<'a> {
        (self.region(), std::cmp::Reverse(self.mirror.weight), self.mirror.name.as_str())
    }
}

fn render(listed: &[ListedMirror<'_>], format: ListFormat) -> String {
    match format {
        ListFormat::Txt => listed.iter().map(|one| format!("{}\n", one.url)).collect(),
        ListFormat::Json => json(listed),
        // Prints only the host and the port, which have been parsed: the rest of a URL could end
        // this directive and begin another one.
        ListFormat::Nginx => listed
            .iter()
            .map(|one| format!("server {} weight={};\n", one.url.authority(), one.mirror.weight))
            .collect(),
        ListFormat::Haproxy => listed.iter().map(haproxy).collect(),
    }
}

fn json(listed: &[ListedMirror<'_>]) -> String {
    let mirrors: Vec<_> = listed
        .iter()
        .map(|one| {
            json!({
                "name": one.mirror.name.as_str(),
                "url": one.url.as_str(),
                "region": one.region(),
                "weight": one.mirror.weight,
            })
        })
        .collect();
    format!("{}\n", json!({ "headwater": "mirrorlist", "version": 1, "mirrors": mirrors }))
}

fn haproxy(one: &ListedMirror<'_>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // haproxy accepts these characters in a server name, and few others.
    let name: String =
        one.mirror.name.as_str().chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let (authority, host) = (one.url.authority(), one.url.host());
    let weight = one.mirror.weight.get().min(MAX_HAPROXY_WEIGHT);
    let tls = match (one.url.is_tls(), one.url.address()) {
        (false, _) => String::new(),
        (true, None) => format!(" ssl verify required sni str({host})"),
        // TLS never sends an IP address as the server name (RFC 6066).
        (true, Some(_)) => format!(" ssl verify required verifyhost {host}"),
    };
    format!("server {name} {authority} weight {weight} check{tls}\n")
}
