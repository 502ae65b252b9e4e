//! headwater: push a content tree to many mirrors, whole, atomic and verified.

pub mod config;
pub mod fsx;
pub mod hash;
pub mod manifest;
pub mod mirror;
pub mod monitor;
pub mod pack;
pub mod push;
pub mod release;
pub mod scan;
pub mod store;
pub mod tree_path;
pub mod varint;
