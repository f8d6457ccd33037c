//! All maps that more than one family uses.

use agent_abi::{
    Budget, BudgetKey, CLASS_SLOTS, CLASSES, CONTROL_SLOTS, ClassCounts, ClassSwitch, HeldTask, NetKey,
    Offsets, PathKey, Quick, TaskKey, TestKey,
};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};

use crate::scratch::{SLOTS, Slot};

/// Offsets of the running kernel, written before load. Read through [`crate::off`] only: a plain read would be folded to
/// the value below.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

/// exec, credentials, namespaces, kernel surface, fork and exit. The agent sets the sizes of both rings.
#[map]
pub static CRITICAL: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
/// Files and network.
#[map]
pub static BULK: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Generation in force, the agent's own process, budgets (`CONTROL_*`).
#[map]
pub static CONTROL: Array<u64> = Array::with_max_entries(CONTROL_SLOTS, 0);
/// Per class and generation: what passes.
#[map]
pub static SWITCHES: Array<ClassSwitch> = Array::with_max_entries(2 * CLASS_SLOTS, 0);
/// Per class and generation: what a quick look at a file tells.
#[map]
pub static QUICK: Array<Quick> = Array::with_max_entries(2 * CLASS_SLOTS, 0);
/// Path prefixes and whole paths. BPF_F_NO_PREALLOC.
#[map]
pub static PATHS: LpmTrie<PathKey, u8> = LpmTrie::with_max_entries(32_768, 1);
/// Path suffixes and ports. BPF_F_NO_PREALLOC.
#[map]
pub static TESTS: HashMap<TestKey, u8> = HashMap::with_max_entries(65_536, 1);
/// Networks. BPF_F_NO_PREALLOC.
#[map]
pub static NETS: LpmTrie<NetKey, u8> = LpmTrie::with_max_entries(65_536, 1);

/// What became of the events, by class.
#[map]
pub static COUNTS: PerCpuArray<ClassCounts> = PerCpuArray::with_max_entries(CLASSES, 0);
/// Budgets by cgroup and group. When it is full the least recently used goes, so that a limit never stops limiting.
#[map]
pub static BUDGETS: LruHashMap<BudgetKey, Budget> = LruHashMap::with_max_entries(8192, 0);
/// Processes stopped at exec. Pinned, so that they are found again after a crash of the agent.
#[map]
pub static HELD: HashMap<TaskKey, HeldTask> = HashMap::with_max_entries(16_384, 1);

/// Memory to build records in.
#[map]
pub static SCRATCH: PerCpuArray<Slot> = PerCpuArray::with_max_entries(SLOTS, 0);
/// Which slots are taken.
#[map]
pub static SCRATCH_BUSY: PerCpuArray<[u64; SLOTS as usize]> = PerCpuArray::with_max_entries(1, 0);
