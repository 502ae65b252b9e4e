//! Makes packs: chooses the bases of each new object, reads content, encodes blocks, and hands
//! packs to mirrors.
//!
//! Does not know which mirrors a push uses or when they switch.

pub(crate) mod base_content;
pub(crate) mod base_selection;
pub(crate) mod cache_writer;
pub(crate) mod content_source;
pub(crate) mod mirror_sources;
pub(crate) mod pack_builder;
pub(crate) mod pack_queue;
mod parallel;
pub(crate) mod signed_bases;
mod similarity;
pub(crate) mod source_entries;

pub use pack_builder::BuildError;
