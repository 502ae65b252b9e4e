//! headwater publishes a content tree to many mirrors. Every update is complete, atomic and
//! verified.
//!
//! The modules, roughly from the lowest layer up; no module imports one from a higher layer:
//!
//! * [`hash`], [`tree_path`], [`varint`]: ids, validated names and variable-length integers.
//! * [`fsx`]: all file system operations.
//! * [`monitor`]: the events that the library reports as it works. [`cancel`]: cancellation.
//! * [`error_kind`]: the kinds of errors. [`text`]: escapes untrusted text and removes secrets.
//! * [`threads`]: starts threads, and manages with fewer if the system has none left.
//! * [`manifest`]: the sorted entries of a release, and the encoded delta between two manifests.
//! * [`release`]: the record of a release, which contains the id of its manifest.
//! * [`pack`]: blocks and packs, the format in which content is transferred.
//! * [`cache`]: keeps old content on the origin.
//! * [`scan`]: turns content trees into a sorted list of paths and object ids.
//! * [`store`]: keeps releases on a mirror's disk and switches between them.
//! * [`protocol`]: the messages between origin and receiver.
//! * [`mirror`]: the operations on a mirror, local or remote.
//! * [`origin`]: the files that the origin keeps between pushes. [`packing`]: builds the packs for
//!   a push.
//! * [`push`]: publishes a source to a fleet and reports the outcome on every mirror.
//! * [`web`]: a small HTTP client for probes and CDN purges. [`notify`]: notifies a
//!   CDN of changed paths. [`command`]: runs configured commands.
//! * [`fleet_status`]: judges the state of a fleet by the states of its mirrors.
//! * [`receiver`]: answers origins on behalf of the sites on this machine, over HTTP(S) or a pipe.
//! * [`config`]: parses `headwater.toml`.
//! * [`users`]: the names of the users and groups on this machine.
//!
//! `docs/architecture.md` in the repository contains the glossary, the directories in import order,
//! the path of a file, a manifest and an error through them, and where to make which change.
//!
//! [`push::push`] is the entry point on the origin, and [`receiver::Server`] on the receiver. Every
//! kind of mirror implements [`mirror::Mirror`]; [`store::Store`] is the directory of one mirror.
//! [`monitor::Monitor`] receives events, and [`config`] reads the configuration files.
//!
//! The library never prints, exits or reads the environment; the program does.

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
