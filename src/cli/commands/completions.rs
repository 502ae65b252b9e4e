//! `headwater completions`: prints a shell completion script.

use clap::Args;
use clap_complete::Shell;

use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::print::print_raw;

/// The arguments of `completions`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<Exit, Failure> {
    print_raw(&script(args.shell))?;
    Ok(Exit::Success)
}

fn script(shell: Shell) -> Vec<u8> {
    // clap_complete panics if it cannot write, for example to a pipe that `head` has closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::command(), "headwater", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_of_every_shell_have_the_flags() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let script = String::from_utf8(script(shell)).unwrap();
            assert!(script.contains("superseded-ok") && script.contains("rollback"), "{shell}");
        }
    }
}
