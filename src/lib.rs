//! headwater: push a content tree to many mirrors, whole, atomic and verified.

pub mod config;
pub mod fsx;
pub mod hash;
pub mod manifest;
pub mod monitor;
pub mod pack;
pub mod scan;
pub mod tree_path;
pub mod varint;
