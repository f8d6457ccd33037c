//! How a rule set is compiled.

use model::Event;

/// How a rule set is compiled.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Ordinary events of the place where the rules will run; a few hundred of each category tell rare literals from common
    /// ones better than the built-in guess. Only speed depends on it.
    pub sample: &'a [Event],
    /// Longest text that is compared, in bytes; longer ones are cut to it and [`super::Evaluation::truncated`] says so.
    pub text_bytes: usize,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { sample: &[], text_bytes: 16 * 1024 }
    }
}
