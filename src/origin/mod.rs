//! The files that the origin keeps between pushes, and its scratch directory.
//!
//! The origin remembers which store and release each mirror had, how fast the link to it was, and
//! the manifests of earlier releases. A push is correct without any of this, but sends more.

pub(crate) mod link_speed;
pub(crate) mod scratch;
pub(crate) mod stores;

pub use scratch::ScratchLocation;
pub use stores::KnownStores;
