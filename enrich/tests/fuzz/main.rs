//! The fuzz targets' bodies on the stable compiler: every file of the corpus, and texts made of them by a seeded generator.
//! `HEMOSTAT_FUZZ_ROUNDS=100000` makes it go on; the seed is drawn anew with `HEMOSTAT_FUZZ_SEED`.
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../fuzz/bodies.rs"]
mod bodies;
#[path = "../../../detect/examples/bench_detect/chance.rs"]
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
    files.iter().map(|file| fs::read(file).expect("a file of the corpus")).collect()
}

/// One to a few changes: a byte, a piece taken out, doubled, or brought from another text.
fn changed(chance: &mut Chance, corpus: &[Vec<u8>]) -> Vec<u8> {
    const TELLING: [&[u8]; 18] = [
        b"\n",
        b"\"",
        b"'",
        b",",
        b"\\",
        b"[",
        b"{",
        b"}",
        b"|",
        b"-1",
        b"0.0.0.0/0",
        b"::/0",
        b"\xc4",
        b" OR ",
        b" AND ",
        b"//",
        b"#",
        b"127.0.0.1",
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
                "target {target}, seed {seed}, round {round}: add these bytes to enrich/fuzz/seeds/{target}: {:?}",
                String::from_utf8_lossy(&text)
            );
        }
    }
}

#[test]
fn i11_any_bytes_are_a_list_or_are_refused() {
    run("plain");
}

#[test]
fn i11_any_bytes_are_a_table_or_are_refused() {
    run("csv");
}

#[test]
fn i11_any_bytes_are_a_misp_document_or_are_refused() {
    run("misp");
}

#[test]
fn i11_any_bytes_are_a_stix_bundle_or_are_refused() {
    run("stix");
}

#[test]
fn i11_any_bytes_are_a_pattern_or_are_refused() {
    run("pattern");
}
