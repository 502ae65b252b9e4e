//! The files that the origin keeps between pushes, and its scratch directory.
//!
//! The origin remembers which store and release each mirror had, how fast the link to each mirror
//! was, and the manifests of earlier releases. A correct push needs none of this, but sends more
//! without it.

pub(crate) mod link_speed;
pub(crate) mod scratch;
pub(crate) mod stores;

pub use scratch::ScratchLocation;
pub use stores::KnownStores;
