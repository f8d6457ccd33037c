//! Runs the bodies of fuzz targets without a fuzzer: every file of the corpus, and texts made of them by a seeded generator.
//!
//! `cargo xtask fuzz` runs the same bodies guided by coverage. `HEMOSTAT_FUZZ_ROUNDS=100000` makes these runs go on;
//! `HEMOSTAT_FUZZ_SEED` draws other texts.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "it is called by tests only, and a panic is a test's answer"
)]

mod chance;

use std::{fs, path::Path};

pub use chance::Chance;

/// What a target does with its bytes.
pub type Body = fn(&[u8]);

/// Pieces that many formats give a meaning to.
const TELLING: [&[u8]; 16] = [
    b"\n",
    b"'",
    b"\"",
    b"*",
    b"\\",
    b": ",
    b",",
    b"[",
    b"{",
    b"}",
    b"|",
    b"-1",
    b"18446744073709551615",
    b"\xc4",
    b"0",
    b"#",
];

/// Texts made for each target.
const ROUNDS: usize = 1500;

/// The targets of one crate.
#[derive(Debug)]
pub struct Campaign<'a> {
    /// The crate's own folder (`env!("CARGO_MANIFEST_DIR")`): `fuzz/seeds/TARGET` below it has the corpus.
    pub folder: &'a str,
    /// Its bodies by name.
    pub targets: &'a [(&'a str, Body)],
    /// Pieces that its formats give a meaning to, beside the usual ones.
    pub telling: &'a [&'a [u8]],
}

impl Campaign<'_> {
    /// Runs a target over its corpus and changes of it.
    ///
    /// # Panics
    /// If the body does, with the bytes that made it; or if there is no such target or corpus.
    pub fn run(&self, target: &str) {
        let body = self.targets.iter().find(|(name, _)| *name == target).expect("a target").1;
        let corpus = self.corpus(target);
        corpus.iter().for_each(|text| body(text));
        let seed = number("HEMOSTAT_FUZZ_SEED").unwrap_or(4);
        let mut chance = Chance::new(seed as u64);
        for round in 0..number("HEMOSTAT_FUZZ_ROUNDS").unwrap_or(ROUNDS) {
            let text = self.changed(&mut chance, &corpus);
            if std::panic::catch_unwind(|| body(&text)).is_err() {
                panic!(
                    "target {target}, seed {seed}, round {round}: add these bytes to fuzz/seeds/{target}: {:?}",
                    String::from_utf8_lossy(&text)
                );
            }
        }
    }

    fn corpus(&self, target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(self.folder).join("fuzz/seeds").join(target);
        let entries = fs::read_dir(&folder).expect("the corpus");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files.iter().map(|file| fs::read(file).expect("a file of the corpus")).collect()
    }

    /// One to a few changes: a byte, a piece taken out, doubled, or brought from another text.
    fn changed(&self, chance: &mut Chance, corpus: &[Vec<u8>]) -> Vec<u8> {
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
                3 => {
                    let number = chance.below(TELLING.len() + self.telling.len());
                    let telling = TELLING.iter().chain(self.telling).nth(number).copied().unwrap_or_default();
                    drop(text.splice(piece.start..piece.start, telling.iter().copied()));
                }
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
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../detect");

    fn refuses_zeros(bytes: &[u8]) {
        assert!(!bytes.contains(&0), "a zero");
    }

    #[test]
    fn a_body_that_panics_is_told_with_its_bytes() {
        let campaign = Campaign { folder: FOLDER, targets: &[("load", refuses_zeros)], telling: &[b"\0"] };
        let told = std::panic::catch_unwind(|| campaign.run("load")).expect_err("some text has a zero");
        let told = told.downcast::<String>().expect("a text");
        assert!(told.contains("target load") && told.contains("\\0"), "{told}");
    }
}
