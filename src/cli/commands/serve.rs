//! `headwater serve` and `headwater receive`: settings, signals and the log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueHint};
use headwater::config::{ConfigError, serve as config};
use headwater::mirror::check_control_chars;
use headwater::receiver::{
    self, AuthPolicy, Exposure, GroupError, Handle, Log, LogRecord, ReceiverSettings, ServeError,
    Server, SiteSettings, TokenRecord,
};
use headwater::store::StoreError;
use headwater::text::error_chain;
use headwater::tree_path::Site;
use jiff::Timestamp;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::print::json_line;
use crate::cli::output::verbosity;
use crate::cli::setup::configuration::{config_failure, token_file_failure};

/// The arguments of `serve`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// The directory of the only mirror to serve, at the path /; the first push creates it
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, required_unless_present = "config")]
    dir: Option<PathBuf>,
    /// Serve the sites that FILE (a serve.toml) lists
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = ["dir", "site", "no_auth", "token_file"]
    )]
    config: Option<PathBuf>,
    /// Listen on this address [default: 127.0.0.1:7447]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Accept only this site [default: the site of the mirror, or of the first push]
    #[arg(long, value_name = "NAME")]
    site: Option<Site>,
    /// Accept requests without a token; works only on a loopback address
    #[arg(long, conflicts_with = "token_file")]
    no_auth: bool,
    /// Require one of the tokens in FILE: the [[token]] tables that `headwater token new` prints
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "site")]
    token_file: Option<PathBuf>,
    /// Allow plain HTTP because a proxy in front uses TLS and is the only client
    #[arg(long)]
    behind_proxy: bool,
}

/// The arguments of `receive`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReceiveArgs {
    /// The directory of the only mirror
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, required_unless_present = "config")]
    dir: Option<PathBuf>,
    /// Serve the sites that FILE (a serve.toml) lists; the tokens and the address in FILE have no
    /// effect
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = ["dir", "site"]
    )]
    config: Option<PathBuf>,
    /// Accept only this site [default: the site of the mirror, or of the first push]
    #[arg(long, value_name = "NAME")]
    site: Option<Site>,
}

/// Writes records to stderr, one JSON object per line.
struct StderrLog {
    /// Whether successful requests are left out.
    is_quiet: bool,
}

#[derive(Serialize)]
struct LogLine<'a> {
    time: String,
    #[serde(flatten)]
    record: &'a LogRecord,
}

impl Log for StderrLog {
    fn record(&self, record: &LogRecord) {
        if self.is_quiet && matches!(record, LogRecord::RequestHandled { status: ..400, .. }) {
            return;
        }
        let line = LogLine { time: format!("{:.3}", Timestamp::now()), record };
        // If stderr is closed, the record is lost.
        json_line(&line).ok().and_then(|line| eprint_raw(&line).ok());
    }
}

/// Returns the log on stderr, which also records panics. No other code may write to stderr.
fn stderr_log(is_quiet: bool) -> Arc<dyn Log> {
    let log: Arc<dyn Log> = Arc::new(StderrLog { is_quiet });
    receiver::log_panics(Arc::clone(&log));
    log
}

fn serve_failure(error: ServeError) -> Failure {
    if let ServeError::Site { path, source: StoreError::OtherOwner { .. } } = &error {
        let hint = format!(
            "run the receiver as the user who owns {path}, or give {path} and everything in it to \
             the user that the receiver runs as (`chown -R`)",
            path = path.display()
        );
        return Failure::new(Exit::Failed, error).with_hint(hint);
    }
    let (exit, hint) = match &error {
        ServeError::InTheClear { .. } => (
            Exit::Usage,
            Some(
                "set a certificate ([tls] in serve.toml), or put a proxy with TLS in front \
                 (--behind-proxy)",
            ),
        ),
        ServeError::Open { .. } => (
            Exit::Usage,
            Some("run `headwater token new` to create a token; --no-auth works only on 127.0.0.1"),
        ),
        ServeError::NoSites => {
            (Exit::Usage, Some("name a directory, or add a [[site]] to serve.toml"))
        }
        ServeError::Certificate { .. } => (
            Exit::Usage,
            Some("set `cert` to a PEM chain, and `key` to the PEM key of its first certificate"),
        ),
        // The settings may be right, but another program is using the address.
        ServeError::Listen { .. } => (
            Exit::Failed,
            Some(
                "stop the program that listens on this address, or choose another one with \
                 --listen",
            ),
        ),
        ServeError::Group { source: GroupError::Unknown(_), .. } => (
            Exit::Usage,
            Some(
                "create the group, or name one that exists in /etc/group or in the directory \
                 service of this machine",
            ),
        ),
        ServeError::Group { source: GroupError::NotMember { .. }, .. } => (
            Exit::Usage,
            Some("add the user that the receiver runs as to the group, and restart the receiver"),
        ),
        ServeError::Site { .. } | ServeError::Io(_) | ServeError::Runtime(_) => {
            (Exit::Failed, None)
        }
    };
    let failure = Failure::new(exit, error);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// The directory of the receiver's only mirror.
fn directory(dir: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    let dir = dir.cloned().unwrap_or_default();
    check_control_chars(&dir.to_string_lossy()).map_err(|error| {
        Failure::new(Exit::Usage, error).with_hint("name a directory without control characters")
    })?;
    Ok(dir)
}

fn load(path: &Path) -> Result<ReceiverSettings, Failure> {
    config::load(path).map_err(config_failure)
}

pub(crate) fn serve(args: &ServeArgs, is_quiet: bool) -> Result<Exit, Failure> {
    let mut settings = match (&args.config, &args.dir) {
        (Some(path), _) => load(path)?,
        (None, dir) => single_site_settings(args, directory(dir.as_ref())?)?,
    };
    if let Some(listen) = args.listen {
        settings.listen = listen;
    }
    if args.behind_proxy {
        settings.exposure = Exposure::Proxy;
    }
    show_sites(&settings);
    let server = Server::bind(&settings, stderr_log(is_quiet)).map_err(serve_failure)?;
    if matches!(&settings.auth, AuthPolicy::Tokens(tokens) if tokens.is_empty()) {
        return Err(no_token_failure(
            "run `headwater token new` and add the [[token]] table to serve.toml, or to the file \
             that --token-file names",
        ));
    }
    let handle = server.handle();
    let files = (args.config.clone(), args.token_file.clone());
    let reload = move || {
        handle.reload();
        if let Some(tokens) = read_tokens(&files) {
            handle.use_tokens(tokens.map_err(|error| error_chain(&error)));
        }
    };
    watch_signals(server.handle(), reload).map_err(|error| Failure::new(Exit::Failed, error))?;
    server.run().map_err(serve_failure)?;
    Ok(Exit::Success)
}

/// With `--verbose`, writes each site to stderr, one JSON object per line, as in the log.
fn show_sites(settings: &ReceiverSettings) {
    for site in settings.sites.iter().filter(|_| verbosity::is_verbose()) {
        let line = serde_json::json!({
            "time": format!("{:.3}", Timestamp::now()),
            "event": "site",
            "site": site.name.as_ref().map(Site::as_str),
            "directory": site.directory,
            "base": site.base,
        });
        // If stderr is closed, the line is lost.
        json_line(&line).ok().and_then(|line| eprint_raw(&line).ok());
    }
}

fn no_token_failure(hint: &str) -> Failure {
    Failure::new(Exit::Usage, "no client could push: no token is configured").with_hint(hint)
}

fn single_site_settings(args: &ServeArgs, dir: PathBuf) -> Result<ReceiverSettings, Failure> {
    let access = match &args.token_file {
        Some(path) => AuthPolicy::Tokens(config::load_tokens(path).map_err(token_file_failure)?),
        None if args.no_auth => AuthPolicy::Open,
        None => {
            let hint = "pass --token-file FILE with a table from `headwater token new`; --no-auth \
                        works only on 127.0.0.1";
            return Err(no_token_failure(hint));
        }
    };
    let listen =
        config::DEFAULT_LISTEN.parse().map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(ReceiverSettings::new(listen, vec![SiteSettings::new(dir, args.site.clone())], access))
}

/// Reads the tokens from their file again. Returns `None` if no file was given.
fn read_tokens(
    files: &(Option<PathBuf>, Option<PathBuf>),
) -> Option<Result<Vec<TokenRecord>, ConfigError>> {
    let of_access = |settings: ReceiverSettings| match settings.auth {
        AuthPolicy::Tokens(tokens) => tokens,
        AuthPolicy::Open => Vec::new(),
    };
    match files {
        // Only the tokens are used. A change to a site or to the address takes a restart.
        (Some(config), _) => Some(config::load(config).map(of_access)),
        (None, Some(file)) => Some(config::load_tokens(file)),
        (None, None) => None,
    }
}

/// On SIGTERM and SIGINT, the receiver stops once all running requests have finished. On SIGHUP, it
/// reloads its certificate and its tokens.
fn watch_signals(handle: Handle, reload: impl Fn() + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    // Runs on a thread, because a signal handler may do almost nothing.
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP { reload() } else { handle.stop() }
        }
    })?;
    Ok(())
}

/// Runs `headwater receive`. SSH has authenticated the client. The command that the client
/// requested (`SSH_ORIGINAL_COMMAND`) has no effect.
pub(crate) fn receive(args: &ReceiveArgs) -> Result<Exit, Failure> {
    let mut settings = match (&args.config, &args.dir) {
        (Some(path), _) => load(path)?,
        (None, dir) => {
            let listen = config::DEFAULT_LISTEN
                .parse()
                .map_err(|error| Failure::new(Exit::Failed, error))?;
            let site = SiteSettings::new(directory(dir.as_ref())?, args.site.clone());
            ReceiverSettings::new(listen, vec![site], AuthPolicy::Open)
        }
    };
    // SSH has authenticated the client, so the tokens of a `serve.toml` are not checked.
    settings.auth = AuthPolicy::Open;
    let log: Arc<dyn Log> =
        // Over SSH, the origin reads stderr and quotes its end if the receiver fails. A log would
        // hide the error.
        if verbosity::is_verbose() { stderr_log(false) } else { Arc::new(receiver::NoLog) };
    receiver::receive(&settings, log).map_err(serve_failure)?;
    Ok(Exit::Success)
}
