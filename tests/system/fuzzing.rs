//! The corpora of the fuzz targets and mutations of them: a short version of a `cargo fuzz` run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sweep;
use crate::targets::{ALL, Target};
use crate::trees::{Rng, seed};

/// Mutants of each target, in a full sweep and otherwise.
const MUTANTS: [usize; 2] = [5000, 1000];

/// The directory of the inputs of a target.
pub(crate) fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

/// The inputs of a target, in the order of their names.
fn inputs(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Calls a target. If it panics, the message contains the input, not only its file name.
fn call(name: &str, target: Target, input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| target(input));
    assert!(outcome.is_ok(), "{name} fails for b\"{}\"", input.escape_ascii());
}

#[test]
fn every_target_has_a_corpus_and_a_program_and_passes() {
    let mut named: Vec<String> =
        fs::read_dir(corpus("")).unwrap().map(|entry| name_of(&entry.unwrap().path())).collect();
    named.sort();
    assert_eq!(named, ALL.map(|(name, _)| name.to_owned()));
    for (name, target) in ALL {
        let inputs = inputs(name);
        assert!(inputs.len() >= 4, "{name} has {} inputs", inputs.len());
        inputs.iter().for_each(|input| call(name, target, input));
        let program =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
        assert!(
            fs::read_to_string(program).unwrap().contains(&format!("targets::{name}(data)")),
            "{name}"
        );
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn every_target_passes_on_mutants_of_its_corpus() {
    let mut rng = Rng::new(seed());
    for (name, target) in ALL {
        let inputs = inputs(name);
        for _ in 0..sweep::rounds(MUTANTS) {
            call(name, target, &mutant(&inputs, &mut rng));
        }
    }
}

/// Returns one of these inputs, changed in a few places.
pub(crate) fn mutant(inputs: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = rng.pick(inputs);
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(6) {
            0 => bytes.truncate(at),
            1 => {
                let end = (at + 1 + rng.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            2 => {
                let other = rng.pick(inputs);
                let from = rng.below(other.len() + 1);
                let end = (from + rng.below(64)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            3 => {
                let number = rng.pick(&[
                    b"\0".as_slice(),
                    b"\xff\xff\xff\xff\x0f",
                    b"\x80\0",
                    b"18446744073709551616",
                ]);
                bytes.splice(at..at, number.iter().copied());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    bytes
}
