//! All output for people and programs: text, tables, JSON, progress, and errors with hints.

pub(super) mod ci_report;
pub(super) mod event_log;
pub(super) mod expiry;
pub(super) mod failure;
pub(super) mod format;
pub(super) mod help;
pub(super) mod hints;
pub(super) mod metrics;
pub(super) mod next_steps;
pub(super) mod print;
pub(super) mod progress;
pub(super) mod progress_block;
pub(super) mod push_report;
pub(super) mod terminal;
pub(super) mod transfer_counts;
pub(super) mod verbosity;
