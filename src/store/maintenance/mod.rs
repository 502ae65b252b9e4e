//! The work that keeps a store in order between pushes: verify, repair and prune.

mod permission_change;
pub(super) mod prune;
pub(super) mod repair;
pub(super) mod verify;
