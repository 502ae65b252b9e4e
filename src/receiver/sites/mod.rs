//! A receiver's sites: open stages, activation, uploads for repairs, commands, and each site's
//! share.

pub(super) mod actions;
pub(super) mod decoder_pool;
pub(super) mod hook;
pub(super) mod open_stage;
pub(super) mod repair_uploads;
pub(super) mod served_permissions;
pub(super) mod share;
pub(super) mod site;
pub(super) mod stage;
pub(crate) mod startup;
