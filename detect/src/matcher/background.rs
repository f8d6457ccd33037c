//! What ordinary events look like, to tell a rare literal from a common one. A wrong guess costs time, never a match.

use memchr::memmem;

use super::predicate::Anchor;

/// Frequencies of grams and values in ordinary texts.
#[derive(Debug)]
pub(crate) struct Background {
    texts: Vec<Box<[u8]>>,
    quads: Box<[u16]>,
    bytes: Box<[u32]>,
}

/// Weight of our own guess against the sample: a literal of one byte that the sample does not have is taken to occur in half
/// of all texts, and each further byte makes it three times rarer.
const RARER_PER_BYTE: f32 = 3.0;

/// So many texts are searched for whole literals; of the others only the grams are counted, which takes no time for each literal.
const SEARCHED: usize = 256;

impl Background {
    /// From sampled, folded texts.
    pub(crate) fn new(texts: impl IntoIterator<Item = Box<[u8]>>) -> Self {
        let mut all = Self { texts: Vec::new(), quads: vec![0; 1 << 16].into(), bytes: vec![0; 256].into() };
        for text in texts {
            text.iter().for_each(|byte| all.bytes[usize::from(*byte)] += 1);
            for window in text.windows(4) {
                let gram = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
                let count = &mut all.quads[quad_slot(gram)];
                *count = count.saturating_add(1);
            }
            if all.texts.len() < SEARCHED {
                all.texts.push(text);
            }
        }
        all
    }

    /// The texts that we ship: ordinary command lines and paths of Linux hosts.
    pub(crate) fn ordinary() -> Self {
        Self::new(ORDINARY.lines().map(|line| line.to_ascii_lowercase().into_bytes().into()))
    }

    /// How often the byte occurs.
    pub(crate) fn byte(&self, byte: u8) -> u32 {
        self.bytes[usize::from(byte)]
    }

    /// How often the four-byte gram (little-endian) occurs.
    pub(crate) fn quads(&self, gram: u32) -> u32 {
        u32::from(self.quads[quad_slot(gram)])
    }

    /// Estimated share of texts for which the folded literal holds, above 0 and at most 1.
    pub(crate) fn share(&self, anchor: Anchor, literal: &[u8]) -> f32 {
        let hits = self.texts.iter().filter(|text| match anchor {
            Anchor::Whole => ***text == *literal,
            Anchor::Start => text.starts_with(literal),
            Anchor::End => text.ends_with(literal),
            Anchor::Anywhere => memmem::find(text, literal).is_some(),
        });
        let guess = 0.5 / RARER_PER_BYTE.powi(literal.len().min(16) as i32);
        let total = self.texts.len() as f32 + 1.0;
        ((hits.count() as f32 + guess) / total).clamp(f32::MIN_POSITIVE, 1.0)
    }
}

fn quad_slot(gram: u32) -> usize {
    (gram.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

/// Typical texts, one a line: shells, package managers, daemons, containers, builds, paths of files.
const ORDINARY: &str = include_str!("ordinary.txt");
