//! The whole program under faults: kills, full disks, power cuts, races, unreliable links, and web
//! servers during a switch.
//!
//! What a mirror serves is judged by [`checker`], which was written from the
//! format texts and shares no code with the library. Every random test prints
//! its seed (`HEADWATER_SEED`) and takes one. What needs root, nginx or much
//! time is ignored by default: `cargo test --test system -- --ignored`. A sweep
//! tries a sample of its points, and all of them with `HEADWATER_FULL_SWEEPS=1`.
//!
//! `HEADWATER_TEST_DIR` is the directory for mirrors and trees. The default is a file system in
//! memory if there is one: these tests, except `powercut`, do not depend on the disk, and syncs
//! would take most of the time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod balancers;
mod checker;
mod checker_selftest;
mod convergence;
mod corpus;
mod corrupt_store;
mod deltas;
#[cfg(debug_assertions)]
mod disk_errors;
#[allow(dead_code, reason = "the contract suite uses the rest")]
#[path = "../common/flaky_proxy.rs"]
mod flaky_proxy;
mod full_disk;
mod fuzzing;
mod harness;
mod house;
#[cfg(debug_assertions)]
mod kills;
mod late_answers;
mod nginx;
#[allow(dead_code, reason = "the contract suite uses the rest")]
#[path = "../common/origin.rs"]
mod origin;
mod path_escapes;
#[cfg(debug_assertions)]
mod powercut;
mod races;
mod remote;
#[cfg(debug_assertions)]
mod resume;
#[path = "../common/sandbox.rs"]
mod sandbox;
#[cfg(debug_assertions)]
mod scenario;
mod serving;
mod sweep;
#[path = "../common/targets.rs"]
mod targets;
mod trees;
mod two_hubs;
mod validators;
mod verify;

// The targets compile in a file of the library, which expects this module in the root.
use headwater::protocol;
