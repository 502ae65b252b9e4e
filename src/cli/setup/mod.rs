//! The code that commands share besides arguments and output: the configuration, the environment,
//! mirrors, options, polls of the mirrors, and notifications.

pub(super) mod ci;
pub(super) mod config_file;
pub(super) mod configuration;
pub(super) mod context;
pub(super) mod fleet;
pub(super) mod notifications;
pub(super) mod person;
pub(super) mod prepared_push;
pub(super) mod process;
pub(super) mod remote;
pub(super) mod settings;
pub(super) mod signals;
pub(super) mod tree_or_mirror;
pub(super) mod watcher;
