//! One file per command, with its run function, and with its arguments unless other commands share
//! them.

pub(super) mod abandon;
pub(super) mod activate;
pub(super) mod completions;
pub(super) mod diff;
pub(super) mod doctor;
pub(super) mod heal;
pub(super) mod init;
pub(super) mod maintenance;
pub(super) mod man;
pub(super) mod mirrorlist;
pub(super) mod plan;
pub(super) mod promote;
pub(super) mod prune;
pub(super) mod push;
pub(super) mod releases;
pub(super) mod repair;
pub(super) mod rollback;
pub(super) mod serve;
pub(super) mod status;
pub(super) mod token;
pub(super) mod verify;
pub(super) mod which;
