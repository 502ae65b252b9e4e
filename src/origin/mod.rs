//! What the origin keeps between pushes, and its scratch directory.
//!
//! Remembers which store and release each mirror had, how fast the way to each mirror was, and the
//! manifests of earlier releases. None of it is needed for a correct push: without it, more is
//! sent.

pub(crate) mod link_speed;
pub(crate) mod scratch;
pub(crate) mod stores;

pub use scratch::ScratchLocation;
pub use stores::KnownStores;
