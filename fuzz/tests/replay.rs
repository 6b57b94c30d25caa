//! Runs every committed input through its target, on any toolchain and without the fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

/// A corpus that grew past this is to be minimised, in bytes of all files.
const MAX_CORPUS_BYTES: u64 = 1 << 20;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let Ok(dir) = fs::read_dir(corpus().join(target)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = dir.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_input_of_the_corpus_holds() {
    let mut bytes = 0;
    for (name, _) in umbra_fuzz::TARGETS {
        let paths = inputs(name);
        assert!(!paths.is_empty(), "{name} has no corpus");
        for path in &paths {
            let input = fs::read(path).unwrap();
            bytes += input.len() as u64;
            println!("{}", path.strip_prefix(corpus()).unwrap().display());
            umbra_fuzz::run(name, &input);
        }
        println!("{name}: {} inputs", paths.len());
    }
    assert!(bytes <= MAX_CORPUS_BYTES, "the corpus has grown to {bytes} bytes");
}

#[test]
fn every_target_has_its_binary_and_every_corpus_its_target() {
    let manifest = include_str!("../Cargo.toml");
    for (name, _) in umbra_fuzz::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} has no binary");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), umbra_fuzz::TARGETS.len());
    for entry in fs::read_dir(corpus()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(umbra_fuzz::TARGETS.iter().any(|(known, _)| *known == name), "{name}: no target");
    }
}

/// Cheap mutations of every input: what a fuzzer tries first, for those who have none.
#[test]
fn truncated_and_flipped_inputs_hold() {
    for (name, _) in umbra_fuzz::TARGETS {
        for path in inputs(name).iter().take(4) {
            let input = fs::read(path).unwrap();
            let step = (input.len() / 24).max(1);
            for at in (0..input.len()).step_by(step) {
                umbra_fuzz::run(name, &input[..at]);
                let mut flipped = input.clone();
                flipped[at] ^= 1 << (at % 8);
                umbra_fuzz::run(name, &flipped);
            }
        }
    }
}
