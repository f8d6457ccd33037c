//! The fuzz targets' bodies on the stable compiler: every file of the corpus, and texts made of them by a seeded generator.
//! `HEMOSTAT_FUZZ_ROUNDS=100000` makes it go on; the seed is drawn anew with `HEMOSTAT_FUZZ_SEED`.
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../fuzz/bodies.rs"]
mod bodies;
#[path = "../../examples/bench_detect/chance.rs"]
#[expect(dead_code, reason = "the bench uses all of it")]
mod chance;

use std::{fs, path::Path};

use chance::Chance;

/// Texts made for each target.
const ROUNDS: usize = 1500;

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("the corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let mut all: Vec<_> = files.iter().map(|file| fs::read(file).expect("a file of the corpus")).collect();
    if target == "checkpoint" {
        all.extend(bodies::a_checkpoint());
    }
    all
}

/// One to a few changes: a byte, a piece taken out, doubled, or brought from another text.
fn changed(chance: &mut Chance, corpus: &[Vec<u8>]) -> Vec<u8> {
    const TELLING: [&[u8]; 14] = [
        b"\n",
        b"'",
        b"*",
        b"\\",
        b": ",
        b"[",
        b"{",
        b"|",
        b"-1",
        b"18446744073709551615",
        b"\xc4",
        b"&a *a",
        b"not ",
        b"0",
    ];
    let mut text = chance.pick(corpus).clone();
    for _ in 0..1 + chance.below(4) {
        let (from, to) = (chance.below(text.len() + 1), chance.below(text.len() + 1));
        let piece = from.min(to)..from.max(to).min(from.min(to) + 64);
        match chance.below(6) {
            0 => drop(text.drain(piece)),
            1 => {
                let copy = text[piece.clone()].to_vec();
                drop(text.splice(piece.start..piece.start, copy));
            }
            2 => {
                let other = chance.pick(corpus);
                let start = chance.below(other.len() + 1);
                let brought = other[start..other.len().min(start + 64)].to_vec();
                drop(text.splice(piece, brought));
            }
            3 => drop(text.splice(piece.start..piece.start, chance.pick(&TELLING).iter().copied())),
            _ if text.is_empty() => {}
            4 => {
                let at = chance.below(text.len());
                text[at] = chance.next() as u8;
            }
            _ => {
                let at = chance.below(text.len());
                text[at] ^= 1 << chance.below(8);
            }
        }
    }
    text
}

fn run(target: &str) {
    let body = bodies::TARGETS.iter().find(|(name, _)| *name == target).expect("a target").1;
    let corpus = corpus(target);
    corpus.iter().for_each(|text| body(text));
    let seed = number("HEMOSTAT_FUZZ_SEED").unwrap_or(4);
    let mut chance = Chance::new(seed as u64);
    for round in 0..number("HEMOSTAT_FUZZ_ROUNDS").unwrap_or(ROUNDS) {
        let text = changed(&mut chance, &corpus);
        if std::panic::catch_unwind(|| body(&text)).is_err() {
            panic!(
                "target {target}, seed {seed}, round {round}: add these bytes to detect/fuzz/seeds/{target}: {:?}",
                String::from_utf8_lossy(&text)
            );
        }
    }
}

#[test]
fn i11_any_text_is_a_rule_file_or_is_refused() {
    run("load");
}

#[test]
fn i11_any_text_is_a_test_file_or_is_refused() {
    run("rule_tests");
}

#[test]
fn rules_and_events_of_any_bytes_are_judged_alike() {
    run("matcher");
}

#[test]
fn i11_any_text_is_a_checkpoint_or_is_refused() {
    run("checkpoint");
}
