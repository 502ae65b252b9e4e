//! headwater: push a content tree to many mirrors, whole, atomic and verified.
//!
//! How content flows, a sentence a room, from the ids up; imports point the same way:
//!
//! * [`hash`], [`tree_path`], [`varint`]: ids, validated names, numbers. [`fsx`]: every
//!   touch of the disk. [`monitor`]: what the library tells while it works. [`cancel`]: the request to stop it.
//! * [`error_kind`]: the kinds of all errors. [`text`]: text that came from elsewhere. [`threads`]: threads, also where the system hands out none.
//! * [`manifest`]: the sorted entries of a release, how two of them differ, and how
//!   that difference travels. [`release`]: the small record that names a manifest.
//! * [`pack`]: blocks and packs, in which content travels.
//! * [`cache`]: keeps old content at the origin.
//! * [`scan`]: turns content trees into a sorted list of paths and object ids.
//! * [`store`]: keeps releases on a mirror's disk and switches between them.
//! * [`protocol`]: what origin and receiver say to each other.
//! * [`mirror`]: what can be asked of a mirror, wherever it is.
//! * [`origin`]: what the origin keeps between pushes. [`packing`]: makes the packs of a push.
//! * [`push`]: brings a source to a whole fleet, or says honestly where it did not.
//! * [`web`]: a small client for URLs of others. [`command`]: runs what the user names. [`notify`]: who is told of a change.
//! * [`fleet_status`]: how the mirrors of a fleet stand, judged by what they say.
//! * [`receiver`]: answers origins for the sites of this machine, over HTTP(S) or a pipe.
//! * [`config`]: what `headwater.toml` says.
//! * [`users`]: names of users and groups of this machine.
//!
//! The library never prints, exits or reads the environment; the program around it does.

pub mod cache;
pub mod cancel;
pub mod command;
pub mod config;
pub mod error_kind;
pub mod fleet_status;
pub mod fsx;
pub mod hash;
pub mod manifest;
pub mod mirror;
pub mod monitor;
pub mod notify;
pub mod origin;
pub mod pack;
pub mod packing;
pub mod protocol;
pub mod push;
pub mod receiver;
pub mod release;
pub mod scan;
pub mod store;
pub mod text;
pub mod threads;
pub mod tree_path;
pub mod users;
pub mod varint;
pub mod web;
