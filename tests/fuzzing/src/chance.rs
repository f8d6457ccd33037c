//! A small generator of chance with a stated seed, so that every run sees the same rules and events.

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// With a seed: the same one makes the same choices.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From 0 to `below` - 1.
    pub fn below(&mut self, below: usize) -> usize {
        (self.next() >> 33) as usize % below.max(1)
    }

    /// True in `percent` of 100.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of these, of which there must be one.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A made-up word.
    pub fn word(&mut self) -> String {
        const ONSETS: [&str; 20] = [
            "b", "br", "c", "d", "dr", "f", "g", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v",
            "x", "z",
        ];
        const RHYMES: [&str; 16] =
            ["a", "ar", "e", "en", "er", "i", "in", "o", "on", "or", "u", "um", "ax", "ec", "it", "ol"];
        (0..2 + self.below(2)).map(|_| format!("{}{}", self.pick(&ONSETS), self.pick(&RHYMES))).collect()
    }

    /// So many hexadecimal digits.
    pub fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from_digit(self.below(16) as u32, 16).unwrap_or('0')).collect()
    }
}
