//! Black-box tests of the program: arguments in, output, exit code and disk
//! out. One module a subcommand; names are facts.
//!
//! They run as root and as anybody else. Where permissions matter, which do
//! not bind root, a test says what it does instead. What only root can set up, as a
//! mirror of another user, is in `other_users` and run by `.ci/run`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod habits;
mod harness;
#[path = "../common/terminal.rs"]
mod terminal;

mod after;
mod bad_input;
mod bad_mirrors;
mod cache;
mod config;
mod credentials;
mod diff;
mod docs;
mod doctor;
mod environments;
mod expiry;
mod fleet;
mod histories;
mod hooks;
mod init;
mod misc;
mod on_terminal;
mod other_users;
mod page;
mod places;
mod plan;
mod prometheus;
mod prune;
mod push;
mod push_flags;
mod receiver;
mod releases;
mod repair;
mod rollback;
mod rollouts;
mod secrets;
mod serve;
mod sites;
mod status;
mod story;
mod verify;
mod web;
mod which;
