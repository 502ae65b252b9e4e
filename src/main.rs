//! The program `headwater`: parses the arguments, runs the command and returns the exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
