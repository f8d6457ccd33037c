//! Bounds on what a rule file may ask for: rules are hostile input. Each is far above what real rules need.

/// Bytes of one file.
pub const FILE_BYTES: usize = 1 << 20;
/// Documents in one file.
pub const DOCUMENTS: usize = 4096;
/// Nesting of lists and mappings.
pub const DEPTH: usize = 24;
/// YAML nodes of one document.
pub const NODES: usize = 50_000;
/// Identifiers of one rule.
pub const IDENTIFIERS: usize = 256;
/// Tests of one rule, after modifiers have multiplied its values.
pub const TESTS: usize = 20_000;
/// Characters that `windash` exchanges in one value: it makes 5^n texts of it.
pub const WINDASH_CHARACTERS: usize = 4;
/// Texts that `expand` makes of one value.
pub const EXPANSIONS: usize = 4096;
/// Bytes of one value.
pub const VALUE_BYTES: usize = 16 * 1024;
/// Wildcards of one value: each may have to be tried at every place of a text.
pub const WILDCARDS: usize = 64;
/// Bytes of one condition.
pub const CONDITION_BYTES: usize = 4096;
/// Nesting of parentheses and `not` in a condition.
pub const CONDITION_DEPTH: usize = 64;
/// Bytes of a compiled regular expression.
pub const REGEX_BYTES: usize = 1 << 20;
/// Characters that counted repetitions (`a{100}`) may add to a regular expression. In the worst case as many are tried at each character of a
/// text: measured, 16 KiB take 0.2 s at most at this bound, and 2.7 s were it only for [`REGEX_BYTES`].
pub const REGEX_COPIES: u64 = 1024;
/// Rules that one correlation may refer to.
pub const CORRELATION_RULES: usize = 64;
/// Longest window of a correlation, in seconds: 30 days.
pub const TIMESPAN_SECONDS: u64 = 30 * 24 * 3600;
/// Different values that `value_count` counts in one group: each is remembered.
pub const DISTINCT_VALUES: usize = 65_536;
