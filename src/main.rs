//! The program `headwater`: parse, run, exit code.

// The subcommands that use these parts come with the rooms they need.
#![allow(dead_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
