//! The fuzzer's seeds, as they are and mutated. What finds more is the fuzzer itself, which is told what a mutation reached;
//! this runs with every test, and longer with `LARIAT_FUZZ_SECONDS` for each target.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::*;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] =
    &[("otlp", otlp), ("log", log), ("manifest", manifest), ("mapping", mapping), ("forward", forward), ("grpc", grpc)];
/// Mutated seeds of a target in an ordinary run.
const MUTATIONS: usize = 300;
/// What breaks readers where a number is expected, or a text.
const WORDS: [&[u8]; 16] = [
    b"0",
    b"-1",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551615",
    b"1e308",
    b"\"NaN\"",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    &[0xff; 8],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
    &[0, 0, 0, 0, 0, 0, 0, 0x80],
    &[0xff, 0xff, 0xff, 0x7f],
    b"\n  ",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|seed| seed.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seed for {target}");
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn every_seed_of_the_fuzzer_is_read_without_a_panic() {
    for (name, target) in TARGETS {
        for seed in seeds(name) {
            target(&seed);
        }
    }
}

/// A place, and the end of a run of numerals or a few bytes from there.
fn piece(random: &mut StdRng, bytes: &[u8]) -> std::ops::Range<usize> {
    let from = random.random_range(0..bytes.len());
    let numerals = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let to = if numerals > 0 { from + numerals } else { from + random.random_range(0..12) };
    from..to.min(bytes.len())
}

fn mutate(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..6) {
        if bytes.is_empty() {
            break;
        }
        let piece = piece(random, &bytes);
        match random.random_range(0..6) {
            0 => bytes[piece.start] ^= 1 << random.random_range(0..8),
            1 => bytes[piece.start] = random.random(),
            2 => drop(bytes.drain(piece)),
            3 => {
                let copy = bytes[piece.clone()].to_vec();
                bytes.splice(piece.start..piece.start, copy);
            }
            4 => drop(bytes.splice(piece, WORDS.choose(random).copied().unwrap_or_default().iter().copied())),
            _ => {
                let other = seeds.choose(random).cloned().unwrap_or_default();
                let from = random.random_range(0..=other.len());
                bytes.splice(piece, other[from..].iter().copied().take(64));
            }
        }
    }
    bytes
}

#[test]
#[allow(clippy::print_stdout, reason = "how far it came is what a long run is for")]
fn mutated_seeds_are_read_without_a_panic_and_what_is_said_of_them_holds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("LARIAT_FUZZ_SECONDS").map(Duration::from_secs);
    let seed = number("LARIAT_SEED").unwrap_or(1);
    for (name, target) in TARGETS {
        let (mut random, seeds, started) = (StdRng::seed_from_u64(seed), seeds(name), Instant::now());
        let mut done = 0;
        while seconds.map_or(done < MUTATIONS, |seconds| started.elapsed() < seconds) {
            let bytes = mutate(&mut random, &seeds);
            if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
                panic!("{name}, seed {seed}, input {}: {:?}", hex::encode(&bytes), String::from_utf8_lossy(&bytes));
            }
            done += 1;
        }
        println!("{name}: {done} inputs in {:?}", started.elapsed());
    }
}
