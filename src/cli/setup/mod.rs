//! The code that commands share besides arguments and output: the configuration, the environment,
//! mirrors, options, polling, and notifications.

pub(super) mod ci;
pub(super) mod config_search;
pub(super) mod configuration;
pub(super) mod fleet;
pub(super) mod fleet_poller;
pub(super) mod mirror_factory;
pub(super) mod notifications;
pub(super) mod operator;
pub(super) mod options;
pub(super) mod prepared_push;
pub(super) mod process;
pub(super) mod settings;
pub(super) mod signals;
pub(super) mod tree_or_mirror;
