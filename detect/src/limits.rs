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
/// Bytes of one condition.
pub const CONDITION_BYTES: usize = 4096;
/// Nesting of parentheses and `not` in a condition.
pub const CONDITION_DEPTH: usize = 64;
/// Bytes of a compiled regular expression.
pub const REGEX_BYTES: usize = 1 << 20;
/// Rules that one correlation may refer to.
pub const CORRELATION_RULES: usize = 64;
/// Longest window of a correlation, in seconds: 30 days.
pub const TIMESPAN_SECONDS: u64 = 30 * 24 * 3600;
/// Different values that `value_count` counts in one group: each is remembered.
pub const DISTINCT_VALUES: usize = 65_536;
