//! Keys and values of the network quarantine: one object per action, its maps filled before it is attached.

/// [`Policy::mode`]: every packet is dropped but to and from the networks.
pub const MODE_ISOLATE: u32 = 0;
/// [`Policy::mode`]: packets to and from the networks are dropped, all others pass.
pub const MODE_BLOCK: u32 = 1;

/// The one entry of the policy array.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// [`MODE_ISOLATE`] or [`MODE_BLOCK`].
    pub mode: u32,
}
const _: () = assert!(core::mem::size_of::<Policy>() == 4, "Policy changed its size");

/// What stands behind a network of the tries.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The peer's port in host order; 0: all, also protocols without ports.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(core::mem::size_of::<Peer>() == 4, "Peer changed its size");

/// Networks in each trie.
pub const MAX_NETWORKS: u32 = 4096;

/// Index of the counters: packets that came in and passed.
pub const COUNT_PASSED_IN: u32 = 0;
/// Packets that went out and passed.
pub const COUNT_PASSED_OUT: u32 = 1;
/// Packets dropped on the way in.
pub const COUNT_DROPPED_IN: u32 = 2;
/// Packets dropped on the way out.
pub const COUNT_DROPPED_OUT: u32 = 3;
/// connect(2) and sendmsg(2) refused with EPERM.
pub const COUNT_REFUSED: u32 = 4;
/// Length of the counter array.
pub const COUNTS: u32 = 5;
