//! The corpus of every fuzz target, and mutations of it, in each run of the tests; `fuzz/` has the targets themselves.

#[path = "../fuzz/surfaces.rs"]
mod surfaces;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use surfaces::{SURFACES, surface};

/// How many mutations of each surface a run tries; more by `TELESONDE_FUZZ_ROUNDS`, others by `TELESONDE_FUZZ_SEED`.
const ROUNDS: u64 = 300;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(surface: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(root().join("corpus").join(surface)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A generator that gives the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            if data.is_empty() {
                data.push(0);
            }
            let at = self.below(data.len());
            match self.below(6) {
                0 => data[at] = self.below(256) as u8,
                1 => data[at] ^= 1 << self.below(8),
                2 => data.truncate(at),
                3 => drop(data.remove(at)),
                4 => data[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let part = other[self.below(other.len() + 1)..].to_vec();
                    drop(data.splice(at..at, part));
                }
            }
        }
        data
    }
}

#[test]
fn every_surface_has_a_target_and_a_corpus() {
    let names = |directory: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let surfaces: BTreeSet<String> = SURFACES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!((names("fuzz_targets"), names("corpus")), (surfaces.clone(), surfaces));
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for (name, _) in SURFACES {
        let target = fs::read_to_string(root().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(target.contains(&format!("surface(\"{name}\")")), "{target}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        assert!(corpus(name).len() >= 2, "{name}");
    }
}

#[test]
fn whatever_comes_nothing_panics() {
    let wish = |key: &str| std::env::var(key).ok().and_then(|value| value.parse::<u64>().ok());
    let rounds = wish("TELESONDE_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    for (name, _) in SURFACES {
        let surface = surface(name);
        let seeds = corpus(name);
        let mut random = Random(wish("TELESONDE_FUZZ_SEED").unwrap_or(0x7e1e_50de).max(1));
        // A configuration takes as long as ten of anything else.
        let share = if ["configuration", "environment"].contains(name) { rounds / 10 } else { rounds };
        let mutated = std::iter::repeat_with(|| random.mutate(&seeds)).take(share as usize);
        for data in seeds.iter().cloned().chain(mutated) {
            let taken = std::panic::catch_unwind(|| surface(&data));
            assert!(taken.is_ok(), "{name} panics at {}", data.escape_ascii());
        }
    }
}
