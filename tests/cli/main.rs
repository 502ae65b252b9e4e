//! Black-box tests of the program: they pass arguments, and check output, exit code and disk. There
//! is one module per subcommand; the name of a test states a fact.
//!
//! The tests run as root and as other users. Permissions do not restrict root; a test that depends
//! on them states what it does instead. Tests that only root can set up, such as a mirror of
//! another user, are in `other_users` and run by `.ci/run`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod habits;
mod harness;
#[path = "../common/sandbox.rs"]
mod sandbox;
#[path = "../common/terminal.rs"]
mod terminal;

mod all_commands;
mod bad_input;
mod bad_mirrors;
mod cache;
mod config;
mod credentials;
mod diff;
mod docs;
mod doctor;
mod expiry;
mod fleet;
mod histories;
mod hook_environment;
mod hooks;
mod init;
mod locations;
mod notifications;
mod on_terminal;
mod other_users;
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
mod status_page;
mod ten_mirrors;
mod verify;
mod web;
mod which;
