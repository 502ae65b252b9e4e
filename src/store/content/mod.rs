//! The content at rest: objects, manifests and release records.

pub(super) mod manifests;
pub(super) mod objects;
pub(super) mod permissions;
pub(super) mod releases;
pub(super) mod signatures;
