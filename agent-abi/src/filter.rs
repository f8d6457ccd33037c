//! Maps that the filter plan becomes, and the budgets.
//!
//! Every key carries a generation (0 or 1): the plan in force stands in one, the next is written into the other, and one
//! write to [`CONTROL_GENERATION`] switches all classes and tests at once. So a change has no gap.

/// Index in the control array: generation in force (0 or 1).
pub const CONTROL_GENERATION: u32 = 0;
/// Index in the control array: the agent's own process id. Its events (but exec, fork and exit) are left out, by identity
/// and never by name; 0: nobody is left out.
pub const CONTROL_OWN_PID: u32 = 1;
/// Index in the control array: start of the agent's own process, ns since boot.
pub const CONTROL_OWN_START: u32 = 2;
/// First of [`crate::GROUPS`] indices in the control array: budget of a group per cgroup and second; 0: no limit.
pub const CONTROL_BUDGET: u32 = 4;
/// Length of the control array.
pub const CONTROL_SLOTS: u32 = 8;

/// [`ClassSwitch::mode`]: the class is off.
pub const MODE_OFF: u8 = 0;
/// [`ClassSwitch::mode`]: every event passes.
pub const MODE_ALL: u8 = 1;
/// [`ClassSwitch::mode`]: an event passes if one of the tests holds.
pub const MODE_TESTS: u8 = 2;

/// [`ClassSwitch::tests`]: opened for writing or created.
pub const TEST_WRITE: u8 = 1;
/// [`ClassSwitch::tests`]: path prefixes (and whole paths, as a prefix that ends in NUL) in the trie.
pub const TEST_PREFIX: u8 = 2;
/// [`ClassSwitch::tests`]: path suffixes in the hash.
pub const TEST_SUFFIX: u8 = 4;
/// [`ClassSwitch::tests`]: ports.
pub const TEST_PORT: u8 = 8;
/// [`ClassSwitch::tests`]: remote networks.
pub const TEST_NET: u8 = 16;
/// [`ClassSwitch::tests`]: the executable has no link (hold only).
pub const TEST_UNLINKED: u8 = 32;

/// [`ClassSwitch::tests`]: the path contains four bytes of [`ClassSwitch::grams`].
pub const TEST_CONTAINS: u8 = 64;
/// [`ClassSwitch::tests`]: the number is a bit of [`ClassSwitch::suffix_lengths`] (bpf commands).
pub const TEST_NUMBER: u8 = 128;

/// Longest suffix that is compared, in bytes. A longer one is cut to its last bytes: more passes, nothing is lost (I1).
pub const SUFFIX_MAX: usize = 128;
/// Longest path in which a text is searched, in bytes; a longer one passes.
pub const SEARCH_MAX: usize = 256;
/// Words of [`ClassSwitch::grams`].
pub const GRAM_WORDS: usize = 16;
/// Longest prefix that is compared, in bytes. A longer one is cut: more passes, nothing is lost (I1).
pub const PREFIX_MAX: usize = 240;

shared! {
    /// What passes of one class.
    pub struct ClassSwitch [184] {
        /// `MODE_*`.
        pub mode: u8,
        /// `TEST_*` bits.
        pub tests: u8,
        /// Longest suffix of the class.
        pub suffix_max: u8,
        /// Zero.
        pub pad: [u8; 5],
        /// Bit n of word n / 64: there is a suffix of n + 1 bytes; with [`TEST_NUMBER`]: the number n passes.
        pub suffix_lengths: [u64; 2],
        /// Bit [`tail_bit`] of the last two bytes of each suffix that is shorter than four bytes, lower case.
        pub tails: [u64; 4],
        /// Bit [`gram_bit`] of four bytes of each text that a path may contain, lower case.
        pub grams: [u64; GRAM_WORDS],
    }
}

shared! {
    /// Key of the trie of paths: `[generation, class, lower-case path …]`, without the trie's own length word.
    pub struct PathKey [244] {
        /// Generation.
        pub generation: u8,
        /// Class.
        pub class: u8,
        /// Zero.
        pub pad: [u8; 2],
        /// Lower-case path, ended by NUL where it is shorter.
        pub path: [u8; PREFIX_MAX],
    }
}

shared! {
    /// Key of the hash of suffixes and ports.
    pub struct TestKey [16] {
        /// Generation.
        pub generation: u8,
        /// Class.
        pub class: u8,
        /// Length of the suffix; 0 for a port.
        pub len: u8,
        /// Zero.
        pub pad: [u8; 5],
        /// [`suffix_step`] over the lower-case suffix from its last byte to its first, or the port.
        pub value: u64,
    }
}

shared! {
    /// Key of the trie of networks, without the trie's own length word.
    pub struct NetKey [20] {
        /// Generation.
        pub generation: u8,
        /// Class.
        pub class: u8,
        /// Zero.
        pub pad: [u8; 2],
        /// IPv6 address; IPv4 as `::ffff:a.b.c.d`.
        pub addr: [u8; 16],
    }
}

shared! {
    /// Key of the budgets.
    pub struct BudgetKey [16] {
        /// cgroup v2 id.
        pub cgroup: u64,
        /// [`crate::Group`].
        pub group: u64,
    }
}

shared! {
    /// What a cgroup has used of a group's budget in the current window.
    pub struct Budget [32] {
        /// Start of the window, ns since boot.
        pub window: u64,
        /// Events in the window.
        pub used: u64,
        /// Events passed since the entry was made.
        pub passed: u64,
        /// Events cut since the entry was made.
        pub cut: u64,
    }
}

shared! {
    /// A process: key of the map of held processes.
    pub struct TaskKey [16] {
        /// Process id.
        pub pid: u32,
        /// Zero.
        pub pad: u32,
        /// Start, ns since boot.
        pub start: u64,
    }
}

shared! {
    /// A process that the kernel has stopped at its exec.
    pub struct HeldTask [16] {
        /// When, ns since boot.
        pub at: u64,
        /// cgroup v2 id.
        pub cgroup: u64,
    }
}

/// Start value of a suffix hash (FNV-1a, 64 bit).
pub const SUFFIX_SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// One step of the suffix hash (FNV-1a, 64 bit, <http://www.isthe.com/chongo/tech/comp/fnv/>).
#[must_use]
#[inline(always)]
pub const fn suffix_step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Place in [`ClassSwitch::tails`] of a path's last two bytes, lower case.
#[must_use]
#[inline(always)]
pub const fn tail_bit(before_last: u8, last: u8) -> u32 {
    (before_last as u32).wrapping_mul(37).wrapping_add((last as u32).wrapping_mul(101)) & 0xff
}

/// Place in [`ClassSwitch::grams`] of four bytes of a path as they stand in memory, lower case.
#[must_use]
#[inline(always)]
pub const fn gram_bit(four: u32) -> u32 {
    four.wrapping_mul(0x9e37_79b1) >> 22
}
