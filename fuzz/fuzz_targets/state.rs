//! `cargo +nightly fuzz run state`

#![no_main]

use headwater::wire;

#[allow(dead_code, reason = "each program has one target")]
#[path = "../../tests/common/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::state(data));
