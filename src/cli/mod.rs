//! The command line: the arguments, and the code that each command runs.
//!
//! The only module that uses the terminal, the environment and the process. Uses the crates `clap`,
//! `clap_complete` and `clap_mangen`.

use std::borrow::Cow;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use headwater::fsx::fault;

mod args;
mod commands;
mod output;
mod setup;

use commands::{
    abandon, activate, completions, diff, doctor, heal, init, man, mirrorlist, plan, promote,
    prune, push, releases, repair, rollback, serve, status, token, verify, which,
};
use output::{failure, format, help, print, terminal, verbosity};
use setup::{process, signals};

use output::failure::{Exit, Failure};

/// The environment variable that makes a debug build crash, fail or count steps, for tests.
const FAULT_VARIABLE: &str = "HEADWATER_FAULT";

/// Push a content tree to many mirrors atomically, with every byte verified
///
/// Every mirror switches from one complete release to the next. headwater sends
/// only changed content. Set the root of the web server to MIRROR/current.
#[derive(Debug, Parser)]
// In columns: on a wide terminal, clap would write lines that are too long to read easily.
#[command(name = "headwater", version, after_help = help::TOP, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = args::OUTPUT)]
    quiet: bool,
    /// Print each decision, request and response on stderr, one per line
    #[arg(short, long, global = true, help_heading = args::OUTPUT)]
    verbose: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Publish a content tree on mirrors
    ///
    /// A push first prepares all mirrors and then switches them together (see --require). It does
    /// not send content that a mirror already has. An interrupted push leaves every mirror on a
    /// complete release, and the next push resumes it.
    #[command(after_help = help::PUSH, override_usage = help::PUSH_USAGE)]
    // Boxed, because an enum takes as much memory as its largest variant.
    Push(Box<args::PushArgs>),
    /// Publish the content of one mirror on mirrors with a different history, for example from
    /// staging to production
    ///
    /// Makes a new release on those mirrors, as a push of a tree does: with a note, guard rails and
    /// run numbers. To copy the release unchanged, use `push --from`.
    #[command(after_help = help::PROMOTE)]
    Promote(Box<args::PromoteArgs>),
    /// Show what a push would do, without changing anything
    ///
    /// Takes the same arguments as `push`, and runs the same code up to the first write.
    #[command(after_help = help::PLAN, override_usage = help::PLAN_USAGE)]
    Plan(Box<args::PushArgs>),
    /// Show what differs between two trees, mirrors or kept releases
    #[command(after_help = help::DIFF)]
    Diff(args::DiffArgs),
    /// Show what each mirror serves and how far it lags, worst first
    ///
    /// Returns 1 if a mirror is neither current nor frozen. With --check it returns the codes of
    /// monitoring plug-ins.
    #[command(after_help = help::STATUS)]
    Status(Box<status::StatusArgs>),
    /// Show what each mirror serves at a path, which release last changed it, and what visitors get
    /// there
    ///
    /// Returns 1 if the mirrors differ, if a mirror lacks the path, or if a mirror's visitors get
    /// something else.
    #[command(after_help = help::WHICH)]
    Which(which::WhichArgs),
    /// Check the connection to each mirror before the first push, and show how to fix problems
    ///
    /// Changes nothing. Returns 1 if a push to a mirror would fail.
    #[command(after_help = help::DOCTOR)]
    Doctor(Box<doctor::DoctorArgs>),
    /// List the mirrors that are proven current, for a load balancer or a client
    ///
    /// Lists only mirrors with a `public_url` that serve the newest release, sorted by region and
    /// weight.
    #[command(after_help = help::MIRRORLIST)]
    Mirrorlist(mirrorlist::MirrorlistArgs),
    /// List the releases kept on each mirror
    #[command(after_help = help::RELEASES)]
    Releases(args::ReleasesArgs),
    /// Go back to the content of a kept release
    ///
    /// Makes one new release with the old content for all mirrors, so that caches notice the
    /// change. Later pushes refuse the content that was rolled back unless you pass --again. Guard
    /// rails and CI run numbers do not apply.
    // The shared help for `--order` mentions the CI run number, which a rollback does not use.
    #[command(after_help = help::ROLLBACK, mut_arg("order", |arg| arg.help(help::ROLLBACK_ORDER)))]
    Rollback(Box<args::RollbackArgs>),
    /// Switch all mirrors together to a release that `push --stage-only` prepared
    ///
    /// Needs no tree. Mirrors that lack the release get it from mirrors that have it. --require and
    /// waves apply as in a push.
    #[command(after_help = help::ACTIVATE)]
    Activate(Box<activate::ActivateArgs>),
    /// Drop a staged release
    #[command(after_help = help::ABANDON)]
    Abandon(abandon::AbandonArgs),
    /// Update lagging mirrors to the newest release, from mirrors that have it; suitable for cron
    ///
    /// Needs no tree, and does not wait for a mirror that cannot be reached.
    #[command(after_help = help::HEAL)]
    Heal(Box<heal::HealArgs>),
    /// Read and hash every byte on mirrors, and list every fault
    ///
    /// Returns 1 if it finds a fault; `headwater repair` repairs it.
    #[command(after_help = help::VERIFY)]
    Verify(args::VerifyArgs),
    /// Replace damaged and missing content on mirrors, while they stay online
    #[command(after_help = help::REPAIR)]
    Repair(args::RepairArgs),
    /// Drop old releases and the content that only they need
    ///
    /// A push does this automatically. `prune` also drops the data that crashes and interrupted
    /// pushes left behind, so those pushes can no longer resume. It also stops serving retired
    /// files whose time has passed. The release before the current one stays as long as the idle
    /// slot holds its tree.
    #[command(after_help = help::PRUNE)]
    Prune(args::PruneArgs),
    /// Receive pushes from other machines over HTTP or HTTPS
    ///
    /// Runs until SIGTERM. SIGHUP reloads the certificate and the tokens. Logs to stderr, one JSON
    /// object per line.
    #[command(after_help = help::SERVE, override_usage = help::SERVE_USAGE)]
    Serve(serve::ServeArgs),
    /// Receive a push on standard input and output; SSH runs this command
    #[command(after_help = help::RECEIVE, override_usage = help::RECEIVE_USAGE)]
    Receive(serve::ReceiveArgs),
    /// Create tokens for origins
    #[command(after_help = help::TOKEN, subcommand_required = true)]
    Token {
        /// What to do
        #[command(subcommand)]
        command: token::TokenCommand,
    },
    /// Write a commented headwater.toml to start from
    #[command(after_help = help::INIT)]
    Init(init::InitArgs),
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one page for each subcommand
    #[command(after_help = help::MAN)]
    Man(man::ManArgs),
}

/// The whole command tree, with the exit codes in its help text.
pub(crate) fn command() -> clap::Command {
    Cli::command().after_long_help(format!("{}\n\n{}", help::TOP, failure::exit_code_help()))
}

/// Runs the program: arguments, environment, exit code.
pub(crate) fn main() -> ExitCode {
    process::prepare();
    terminal::clear_block_on_panic();
    let counts_steps = match arm_fault() {
        Ok(counts_steps) => counts_steps,
        Err(failure) => {
            failure.print();
            return failure.exit().into();
        }
    };
    let mut root = command();
    // Not `Cli::parse`, which prints the error and exits: tips must be replaced and tokens hidden
    // first.
    let parsed = root.try_get_matches_from_mut(std::env::args_os());
    let code = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => {
            let json = json_command_name(&cli.command);
            verbosity::set(cli.verbose, cli.quiet);
            match map_interruption(run(cli.command, cli.quiet)) {
                Ok(exit) => exit.into(),
                Err(failure) => {
                    failure.print();
                    // If stdout is closed too, only the exit code reports the failure. The JSON
                    // object lets a script that parses stdout read the failure there.
                    json.and_then(|command| {
                        print::print_json(&failure.json_output(command, failure.exit())).ok()
                    });
                    failure.exit().into()
                }
            }
        }
        Err(mut error) => {
            let arguments = std::env::args_os().skip(1);
            let arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
            args::unknown_option::replace_tips(&mut error, &mut root, arguments);
            print_clap_error(&error);
            // clap returns 0 for help and version, and 2 for wrong arguments, which is also
            // `Exit::Usage`.
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    };
    if counts_steps {
        // A test chooses steps from this list, and then makes a run fail at each of them.
        let counted: String = fault::counted().iter().map(|step| format!("{step}\n")).collect();
        failure::eprint_raw(&format!("{counted}steps: {}\n", fault::steps())).ok();
    }
    code
}

/// Prints an error in the arguments. To clap, help and version are errors too; they go to stdout
/// and have code 0.
fn print_clap_error(error: &clap::Error) {
    let text = error.render().to_string();
    // clap quotes the argument, and a user may have written a token there.
    match format::without_tokens(&text) {
        // This text has no colours.
        Cow::Owned(clean) if error.use_stderr() => failure::eprint_raw(&clean).ok(),
        _ => error.print().ok(),
    };
}

/// If the user interrupted the run, sets the exit code for interruption, because the interruption
/// caused the failure.
fn map_interruption(result: Result<Exit, Failure>) -> Result<Exit, Failure> {
    match result {
        // The signal came after the work was done.
        Ok(Exit::Success) => result,
        Ok(_) if signals::cancel_token().is_cancelled() => Ok(Exit::Interrupted),
        Err(failure) if signals::cancel_token().is_cancelled() => {
            Err(failure.with_exit(Exit::Interrupted))
        }
        other => other,
    }
}

fn run(command: Command, is_quiet: bool) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => init::run(&args, is_quiet),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Push(args) => push::run(&args),
        Command::Promote(args) => promote::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Which(args) => which::run(&args),
        Command::Mirrorlist(args) => mirrorlist::run(&args, is_quiet),
        Command::Releases(args) => releases::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Activate(args) => activate::run(&args),
        Command::Abandon(args) => abandon::run(&args),
        Command::Heal(args) => heal::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Prune(args) => prune::run(&args),
        Command::Serve(args) => serve::serve(&args, is_quiet),
        Command::Receive(args) => serve::receive(&args),
        Command::Token { command } => token::run(&command),
    }
}

/// The name of the command if it has `--json`. Such a command prints one object even if it fails.
fn json_command_name(command: &Command) -> Option<&'static str> {
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

/// Arms the fault that a test requested. Returns whether to count steps.
fn arm_fault() -> Result<bool, Failure> {
    let Some(text) = std::env::var_os(FAULT_VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(false);
    };
    let usage = |words: &str| {
        let hint = format!("{FAULT_VARIABLE} is for tests: unset it");
        Failure::new(Exit::Usage, format!("{FAULT_VARIABLE} {words}")).with_hint(hint)
    };
    let faults: Option<Vec<fault::FaultPoint>> =
        text.to_str().and_then(|text| text.split(',').map(fault::parse).collect());
    let faults = faults.ok_or_else(|| usage("names no fault"))?;
    let counts_steps = faults.contains(&fault::FaultPoint::Count);
    // A release build refuses the variable: otherwise a test that arms a fault would pass without
    // the fault.
    if faults.into_iter().all(fault::arm) {
        Ok(counts_steps)
    } else {
        Err(usage("needs a debug build"))
    }
}

#[cfg(test)]
mod tests {
    use headwater::pack::Level;
    use headwater::push::LevelChoice;

    use super::setup::configuration::load_config;
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn command_definitions_are_valid() {
        command().debug_assert();
    }

    #[test]
    fn every_argument_and_subcommand_has_help_and_an_example() {
        let mut root = command();
        root.build();
        for sub in root.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = sub.get_name();
            assert!(sub.get_about().is_some(), "{name}");
            let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("headwater {name}")), "{name} has no example");
            let long = examples.lines().find(|line| line.chars().count() > 80);
            assert_eq!(
                long, None,
                "{name}: clap would break this line at a terminal of 80 columns"
            );
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{name} {}", arg.get_id());
            }
        }
    }

    #[test]
    fn help_fits_80_columns() {
        let text =
            format!("{}\n{}", command().get_after_help().unwrap(), failure::exit_code_help());
        assert_eq!(text.lines().find(|line| line.chars().count() > 80), None);
    }

    #[test]
    fn usage_errors_name_arguments_as_typed() {
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
    fn push_accepts_every_documented_flag() {
        let line = "headwater push public /srv/a eu --site docs --note n --order build:7 \
                    --allow-older --again --superseded-ok --allow-shrink --allow-secrets \
                    --keep-removed 14d --expunge a/b --expunge c --require 2 --jobs 3 --wait 5m \
                    --cache /c --level raw --exclude *.map --json --quiet --events e --config f \
                    --deadline 10m --ssh-command ssh --receive-command hw --bwlimit 2MB \
                    --max-parallel 4";
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Command::Push(push) = parse(&line).unwrap() else { panic!("not push") };
        assert_eq!(push.source.operands, ["public", "/srv/a", "eu"]);
        assert_eq!(push.release.order.as_ref().map(headwater::push::RunNumber::number), Some(7));
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
    fn push_without_arguments_uses_the_file() {
        let Command::Push(push) = parse("headwater push").unwrap() else { panic!("not push") };
        let work = &push.work;
        assert_eq!((work.require, work.level, work.jobs, work.wait.wait), (None, None, None, None));
        assert_eq!(
            (work.traffic.bwlimit, work.traffic.max_parallel, work.remote.deadline),
            (None, None, None)
        );
    }

    #[test]
    fn other_subcommands_accept_their_flags() {
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
    fn config_error_is_a_usage_failure_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hw.toml");
        std::fs::write(&path, "sitte = 'x'\n").unwrap();
        let failure = load_config(&args::ConfigArgs { config: Some(path), ..Default::default() })
            .unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        let text = failure.render();
        assert!(
            text.contains("hw.toml line 1, column 1: unknown field `sitte`")
                && text.contains("1 | sitte"),
            "{text}"
        );
        let missing =
            args::ConfigArgs { config: Some(dir.path().join("none")), ..Default::default() };
        assert_eq!(load_config(&missing).unwrap_err().exit(), Exit::Usage);
    }
}
