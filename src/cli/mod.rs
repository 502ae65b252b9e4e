//! The command line: what can be typed, and which code runs then.
//!
//! The one room that knows the terminal, the environment and the process.
//! Uses the crates `clap`, `clap_complete` and `clap_mangen`.

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use headwater::config::{Config, ConfigError, FILE_NAME};
use headwater::fsx::fault;

mod args;
mod ci;
mod ci_report;
mod completions;
mod config_file;
mod context;
mod doctor;
mod event_log;
mod expiry;
mod failure;
mod fleet;
mod habits;
mod help;
mod hints;
mod init;
mod live;
mod maintenance;
mod man;
mod metrics;
mod mirrorlist;
mod next_steps;
mod notifications;
mod operands;
mod output;
mod person;
mod plan;
mod process;
mod progress;
mod push;
mod releases;
mod remote;
mod retype;
mod rollback;
mod serve;
mod settings;
mod signals;
mod staged;
mod status;
mod terminal;
mod token;
mod transfer_counts;
mod verbosity;
mod watcher;
mod which;

use failure::{Exit, Failure};

/// The variable by which a test lets a debug build die, fail or count.
const FAULT_VARIABLE: &str = "HEADWATER_FAULT";

/// Push a content tree to many mirrors, whole, atomic and verified
///
/// Every mirror switches from one complete release to the next. Only changed
/// content travels. A web server's root is MIRROR/current.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, after_help = help::TOP, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = args::OUTPUT)]
    quiet: bool,
    /// Say on stderr what is decided, what each mirror is asked and what it answers, a line each
    #[arg(short, long, global = true, help_heading = args::OUTPUT)]
    verbose: bool,
}

/// One file a subcommand.
#[derive(Debug, Subcommand)]
enum Command {
    /// Bring mirrors to the state of a content tree
    ///
    /// All mirrors are made ready first and then switched together (see --require). What a mirror has already is
    /// not sent. A push that is interrupted leaves every mirror on a whole release; the next one goes on from there.
    #[command(after_help = help::PUSH, override_usage = help::PUSH_USAGE)]
    Push(Box<args::PushArgs>),
    /// Publish what one mirror serves on mirrors of another history, as staging to production
    ///
    /// Makes a release there, on top of theirs, as if its content were a tree: with a note, guard rails and orders.
    /// To bring a release to other mirrors as it is, use `push --from`.
    #[command(after_help = help::PROMOTE)]
    Promote(Box<args::PromoteArgs>),
    /// Show what a push would do, and do nothing
    ///
    /// The same code as push, with the same arguments, up to the first write.
    #[command(after_help = help::PLAN, override_usage = help::PLAN_USAGE)]
    Plan(Box<args::PushArgs>),
    /// Show what differs between two trees, mirrors or kept releases
    #[command(after_help = help::DIFF)]
    Diff(args::DiffArgs),
    /// Show what each mirror serves and how far it lags, worst first
    ///
    /// Ends with 1 when a mirror is not current, unless it is frozen; with --check as monitoring plug-ins do.
    #[command(after_help = help::STATUS)]
    Status(Box<status::StatusArgs>),
    /// Show what each mirror has at a path, since which release, and what visitors get there
    ///
    /// Ends with 1 when mirrors differ, lack it, or their visitors get something else.
    #[command(after_help = help::WHICH)]
    Which(which::WhichArgs),
    /// Try the way to each mirror before the first push, and say what to do
    ///
    /// Changes nothing. Ends with 1 when a push to a mirror would fail.
    #[command(after_help = help::DOCTOR)]
    Doctor(Box<doctor::DoctorArgs>),
    /// List the mirrors that are proven current, for a balancer or a client
    ///
    /// Only mirrors with a `public_url` that serve the newest release, by region and weight.
    #[command(after_help = help::MIRRORLIST)]
    Mirrorlist(mirrorlist::MirrorlistArgs),
    /// List the kept releases of mirrors
    #[command(after_help = help::RELEASES)]
    Releases(args::ReleasesArgs),
    /// Go back to the content of a kept release
    ///
    /// Makes a new release with the old content, the same for all mirrors, so caches notice it. The content that
    /// was left is not pushed again without --again. No guard rail and no order of CI stands in the way.
    #[command(after_help = help::ROLLBACK, mut_arg("order", |arg| arg.help(help::ROLLBACK_ORDER)))]
    Rollback(Box<args::RollbackArgs>),
    /// Serve a release that `push --stage-only` made ready, on all mirrors together
    ///
    /// Needs no tree. Mirrors that were not ready get it from those that are; --require and waves count as in a push.
    #[command(after_help = help::ACTIVATE)]
    Activate(Box<staged::ActivateArgs>),
    /// Drop a release that is staged and not served
    #[command(after_help = help::ABANDON)]
    Abandon(staged::AbandonArgs),
    /// Bring mirrors that lag to the newest release, from those that have it: for cron
    ///
    /// Needs no tree, and never waits for a mirror that cannot be reached.
    #[command(after_help = help::HEAL)]
    Heal(Box<staged::HealArgs>),
    /// Check every byte of mirrors against its hash, and name every fault
    ///
    /// Ends with 1 when a fault was found; `headwater repair` mends it.
    #[command(after_help = help::VERIFY)]
    Verify(args::VerifyArgs),
    /// Fetch again what is damaged or missing on mirrors; they stay served
    #[command(after_help = help::REPAIR)]
    Repair(args::RepairArgs),
    /// Drop old releases and what only they need
    ///
    /// A push does this by itself; by hand it also drops what crashes and interrupted pushes have left, so that these
    /// cannot be resumed. Retired files whose time is over are no longer served. The release before the
    /// current one stays while the idle slot has its tree.
    #[command(after_help = help::PRUNE)]
    Prune(args::PruneArgs),
    /// Take pushes from other machines, over HTTP or HTTPS
    ///
    /// Runs until SIGTERM; SIGHUP reads the certificate and the tokens again. Logs to stderr, a JSON object a line.
    #[command(after_help = help::SERVE, override_usage = help::SERVE_USAGE)]
    Serve(serve::ServeArgs),
    /// Take a push on standard input and output: what SSH runs
    #[command(after_help = help::RECEIVE, override_usage = help::RECEIVE_USAGE)]
    Receive(serve::ReceiveArgs),
    /// Make tokens for those who push
    #[command(after_help = help::TOKEN, subcommand_required = true)]
    Token {
        /// What to do
        #[command(subcommand)]
        command: token::TokenCommand,
    },
    /// Write a commented headwater.toml to begin with
    #[command(after_help = help::INIT)]
    Init(init::InitArgs),
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one page for each subcommand
    #[command(after_help = help::MAN)]
    Man(man::ManArgs),
}

/// The whole command tree, with the exit codes in its help.
pub(crate) fn command() -> clap::Command {
    Cli::command().after_long_help(format!("{}\n\n{}", help::TOP, failure::help()))
}

/// Runs the program: arguments, environment, exit code.
pub(crate) fn main() -> ExitCode {
    process::prepare();
    terminal::guard_panics();
    let counts = match arm_fault() {
        Ok(counts) => counts,
        Err(failure) => {
            failure.print();
            return failure.exit().into();
        }
    };
    let code = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => {
            let json = json_of(&cli.command);
            verbosity::set(cli.verbose, cli.quiet);
            match stopped(run(cli.command, cli.quiet)) {
                Ok(exit) => exit.into(),
                Err(failure) => {
                    failure.print();
                    // When stdout is gone too there is nobody left to tell; the code remains.
                    json.and_then(|command| output::print_json(&failure.answer(command, failure.exit())).ok());
                    failure.exit().into()
                }
            }
        }
        Err(error) => {
            print_usage(&error);
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    };
    if counts {
        failure::eprint_raw(&format!("steps: {}\n", fault::steps())).ok();
    }
    code
}

/// Prints what is wrong with the arguments. Help and version are such errors too, for stdout and with code 0.
fn print_usage(error: &clap::Error) {
    let text = error.render().to_string();
    match output::without_tokens(&text) {
        // Then it has no colours.
        Cow::Owned(clean) if error.use_stderr() => failure::eprint_raw(&clean).ok(),
        _ => error.print().ok(),
    };
}

/// What failed after the user asked to stop failed because of that.
fn stopped(result: Result<Exit, Failure>) -> Result<Exit, Failure> {
    match result {
        Ok(Exit::Success) => result,
        Ok(_) if signals::token().is_cancelled() => Ok(Exit::Interrupted),
        Err(failure) if signals::token().is_cancelled() => Err(failure.with_exit(Exit::Interrupted)),
        other => other,
    }
}

fn run(command: Command, is_quiet: bool) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => init::run(&args, is_quiet),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Push(args) => push::run(&args),
        Command::Promote(args) => push::promote(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Diff(args) => plan::diff(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Which(args) => which::run(&args),
        Command::Mirrorlist(args) => mirrorlist::run(&args, is_quiet),
        Command::Releases(args) => releases::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Activate(args) => staged::activate(&args),
        Command::Abandon(args) => staged::abandon(&args),
        Command::Heal(args) => staged::heal(&args),
        Command::Verify(args) => maintenance::verify(&args),
        Command::Repair(args) => maintenance::repair(&args),
        Command::Prune(args) => maintenance::prune(&args),
        Command::Serve(args) => serve::serve(&args, is_quiet),
        Command::Receive(args) => serve::receive(&args),
        Command::Token { command } => token::run(&command),
    }
}

/// The name of a command of which `--json` was asked: it prints one object, whatever happens.
fn json_of(command: &Command) -> Option<&'static str> {
    let (name, output) = match command {
        Command::Push(args) => ("push", &args.output),
        Command::Promote(args) => ("promote", &args.output),
        Command::Plan(args) => ("plan", &args.output),
        Command::Diff(args) => ("diff", &args.output),
        Command::Status(args) => ("status", &args.output),
        Command::Doctor(args) => ("doctor", &args.output),
        Command::Which(args) => ("which", &args.output),
        Command::Releases(args) => ("releases", &args.output),
        Command::Rollback(args) => ("rollback", &args.output),
        Command::Activate(args) => ("activate", &args.output),
        Command::Abandon(args) => ("abandon", &args.output),
        Command::Heal(args) => ("heal", &args.output),
        Command::Verify(args) => ("verify", &args.output),
        Command::Repair(args) => ("repair", &args.output),
        Command::Prune(args) => ("prune", &args.output),
        Command::Init(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Mirrorlist(_)
        | Command::Serve(_)
        | Command::Receive(_)
        | Command::Token { .. } => return None,
    };
    output.json.then_some(name)
}

/// The configuration: the file that was named, else that of the current
/// directory or the nearest one above it, else none, which is [`Config::default`].
pub(crate) fn load_config(args: &args::ConfigArgs) -> Result<Config, Failure> {
    let path = args.config.clone().or_else(config_file::find).unwrap_or_else(|| PathBuf::from(FILE_NAME));
    let loaded = match Config::load(&path) {
        Err(ConfigError::Read(error)) if error.kind() == std::io::ErrorKind::NotFound && args.config.is_none() => {
            verbosity::detail(|| format!("configuration: no {FILE_NAME} here or above"));
            Ok(Config::default())
        }
        other => other.inspect(|config| {
            let mirrors = output::counted(config.mirrors.len() as u64, "mirror", "mirrors");
            verbosity::detail(|| format!("configuration: {}, {mirrors}", path.display()));
        }),
    };
    let mut config = loaded.map_err(|error| match &error {
        ConfigError::Invalid { .. } => {
            config_failure(error).with_hint("`headwater init` writes a file with every key explained")
        }
        _ => config_failure(error),
    })?;
    fleet::narrow(&mut config, args)?;
    Ok(config)
}

/// A configuration that cannot be used, with the lines that show why.
fn config_failure(error: ConfigError) -> Failure {
    match &error {
        ConfigError::Invalid { snippet, .. } => {
            let snippet = snippet.clone();
            Failure::new(Exit::Usage, error).with_details(snippet)
        }
        ConfigError::Read(_) => {
            Failure::new(Exit::Usage, error).with_hint("the file must exist and be readable; see --config")
        }
        ConfigError::List(_) | ConfigError::Command { .. } => Failure::new(Exit::Usage, error).with_hint(
            "`mirrors_from` names a file, or a command as a list of words; run it by hand to see what it says",
        ),
        ConfigError::TooLarge { .. } | ConfigError::ListTooLarge { .. } => Failure::new(Exit::Usage, error)
            .with_hint("is it the right one? no fleet needs a megabyte: see --config and `mirrors_from`"),
    }
}

/// The same, for a file of nothing but tokens.
fn token_file_failure(error: ConfigError) -> Failure {
    match error {
        ConfigError::Read(error) => Failure::new(
            Exit::Usage,
            format!("cannot use the file of --token-file: {}", headwater::text::error_chain(&error)),
        )
        .with_hint("it must exist and be readable; `headwater token new` prints what goes into it"),
        error => config_failure(error),
    }
}

/// Arms the fault that a test asked for; answers whether steps are counted.
fn arm_fault() -> Result<bool, Failure> {
    let Some(text) = std::env::var_os(FAULT_VARIABLE).filter(|text| !text.is_empty()) else { return Ok(false) };
    let usage = |words: &str| {
        let hint = format!("{FAULT_VARIABLE} is for tests: unset it");
        Failure::new(Exit::Usage, format!("{FAULT_VARIABLE} {words}")).with_hint(hint)
    };
    let faults: Option<Vec<fault::FaultPoint>> =
        text.to_str().and_then(|text| text.split(',').map(fault::parse).collect());
    let faults = faults.ok_or_else(|| usage("names no fault"))?;
    let counts = faults.contains(&fault::FaultPoint::Count);
    if faults.into_iter().all(fault::arm) { Ok(counts) } else { Err(usage("needs a debug build")) }
}

#[cfg(test)]
mod tests {
    use headwater::pack::Level;
    use headwater::push::LevelChoice;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_command_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_argument_and_subcommand_is_documented_with_an_example() {
        let mut root = command();
        root.build();
        for sub in root.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = sub.get_name();
            assert!(sub.get_about().is_some(), "{name}");
            let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("headwater {name}")), "{name} has no example");
            let long = examples.lines().find(|line| line.chars().count() > 80);
            assert_eq!(long, None, "{name}: clap would break this line at a terminal of 80 columns");
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{name} {}", arg.get_id());
            }
        }
    }

    #[test]
    fn the_help_of_the_program_fits_80_columns() {
        let text = format!("{}\n{}", command().get_after_help().unwrap(), failure::help());
        assert_eq!(text.lines().find(|line| line.chars().count() > 80), None);
    }

    #[test]
    fn usage_names_each_argument_as_it_is_typed() {
        for (line, usage) in [
            ("headwater push --require", "headwater push [OPTIONS] [TREE] [MIRROR]..."),
            ("headwater plan --require", "headwater plan [OPTIONS] [TREE] [MIRROR]..."),
            ("headwater push -q -v", "headwater push [OPTIONS] [TREE] [MIRROR]..."),
            ("headwater serve", "headwater serve [OPTIONS] --config <FILE>"),
            ("headwater receive", "headwater receive [OPTIONS] --config <FILE>"),
        ] {
            let shown = parse(line).unwrap_err().to_string();
            assert!(line.ends_with("require") || shown.contains(usage), "{line}: {shown}");
            assert!(!shown.contains("<TREE]"), "{line}: {shown}");
        }
    }

    #[test]
    fn push_takes_every_flag_of_the_manual() {
        let line = "headwater push public /srv/a eu --site docs --note n --order build:7 --allow-older --again \
                    --superseded-ok --allow-shrink --allow-secrets --keep-removed 14d --expunge a/b --expunge c \
                    --require 2 --jobs 3 --wait 5m --cache /c --level raw --exclude *.map --json --quiet \
                    --events e --config f --deadline 10m --ssh-command ssh --receive-command hw --bwlimit 2MB \
                    --max-parallel 4";
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Command::Push(push) = parse(&line).unwrap() else { panic!("not push") };
        assert_eq!(push.source.places, ["public", "/srv/a", "eu"]);
        assert_eq!(push.release.order.as_ref().map(args::RunNumberArg::number), Some(7));
        assert_eq!(push.release.keep_removed.map(|keep| keep.as_secs()), Some(14 * 86_400));
        assert_eq!(push.release.expunge.len(), 2);
        assert_eq!(push.work.level, Some(LevelChoice::Fixed(Level::Raw)));
        assert_eq!(push.work.wait.wait.map(|wait| wait.as_secs()), Some(300));
        assert_eq!(push.work.traffic.bwlimit.map(std::num::NonZero::get), Some(2_000_000));
        assert_eq!(push.work.remote.deadline.map(|deadline| deadline.as_secs()), Some(600));
        assert!(push.guards.again && push.output.json);
        assert!(matches!(parse(&line.replacen("push", "plan", 1)), Ok(Command::Plan(_))));
    }

    #[test]
    fn push_without_arguments_leaves_the_rest_to_the_file() {
        let Command::Push(push) = parse("headwater push").unwrap() else { panic!("not push") };
        let work = &push.work;
        assert_eq!((work.require, work.level, work.jobs, work.wait.wait), (None, None, None, None));
        assert_eq!((work.traffic.bwlimit, work.traffic.max_parallel, work.remote.deadline), (None, None, None));
    }

    #[test]
    fn the_other_subcommands_take_theirs() {
        for line in [
            "headwater diff /srv/www:41 public --json",
            "headwater status",
            "headwater releases /srv/www",
            "headwater rollback /srv/www eu --to 4 --require any",
            "headwater verify /srv/www --quick",
            "headwater repair /srv/www --from public",
            "headwater prune --keep 2",
            "headwater init",
            "headwater completions zsh",
            "headwater man /tmp/x",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "headwater",
            "headwater rollback --to x",
            "headwater repair /srv/www",
            "headwater diff a",
            "headwater push --wait 5",
            "headwater push --site A",
            "headwater push --expunge ../x",
            "headwater push --jobs 0",
            "headwater prune --keep 0",
            "headwater psh",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_mistake_in_the_file_is_a_usage_failure_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hw.toml");
        std::fs::write(&path, "sitte = 'x'\n").unwrap();
        let failure = load_config(&args::ConfigArgs { config: Some(path), ..Default::default() }).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        let text = failure.render();
        assert!(
            text.contains("hw.toml line 1, column 1: unknown field `sitte`") && text.contains("1 | sitte"),
            "{text}"
        );
        let missing = args::ConfigArgs { config: Some(dir.path().join("none")), ..Default::default() };
        assert_eq!(load_config(&missing).unwrap_err().exit(), Exit::Usage);
    }
}
