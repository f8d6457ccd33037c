//! What the indexes say of a whole process, by the process itself: most connections, file events and parents belong to a few
//! long-running processes, and a pointer is compared faster than the texts behind it are read.
//!
//! An entry holds a weak reference. It keeps the address from being given to another process, and a process that others may
//! see through a reference is never changed in place (`Arc::make_mut` moves it first), so the same address is the same
//! process with the same values. Only the allocation's fixed part outlives the process, never its texts.

use std::sync::{Arc, Weak};

use model::{Process, Truncated};

use super::cache::Size;
use crate::schema::{Category, Field};

/// Longest answer that is kept; a process that meets more literals is looked at again each time.
const MAX_IDS: usize = 28;

/// Of what a field's value depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Only of the process that did it.
    Process,
    /// Only of its parent.
    Parent,
    /// Of the event.
    Event,
}

impl Origin {
    /// Of `field` in events of `category`. Each exec has a process of its own that no earlier event can have shown.
    pub(crate) fn of(field: Field, category: Category) -> Self {
        match field {
            Field::Image
            | Field::CommandLine
            | Field::Args
            | Field::CurrentDirectory
            | Field::Comm
            | Field::ProcessId
            | Field::User
            | Field::Uid
            | Field::Gid
            | Field::Euid
            | Field::Egid
            | Field::LoginUid
            | Field::Tty
            | Field::Capabilities
            | Field::ExeBacking
            | Field::Stdin
            | Field::Stdout
            | Field::Stderr
            | Field::Workload
            | Field::InContainer
            | Field::ContainerId
            | Field::ContainerRuntime
            | Field::PodUid
            | Field::SystemdUnit
            | Field::CgroupPath
                if category != Category::ProcessCreation =>
            {
                Self::Process
            }
            Field::ParentImage
            | Field::ParentCommandLine
            | Field::ParentCurrentDirectory
            | Field::ParentUser
            | Field::ParentComm => Self::Parent,
            _ => Self::Event,
        }
    }
}

/// A cache of the answers for the fields of one origin, owned by one thread. Bounded: two ways per set.
#[derive(Debug)]
pub(crate) struct Processes {
    slots: Box<[Slot]>,
    /// What keeps the addresses in `slots` from being used again; apart, since a look-up does not need it.
    held: Box<[Weak<Process>]>,
    /// Address that missed last in each set: a process is kept when it is seen for the second time.
    seen_once: Box<[usize]>,
}

/// Two cache lines, and only the first for an answer of up to a dozen.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Slot {
    /// 0: empty.
    address: usize,
    count: u8,
    truncated: Truncated,
    ids: [u32; MAX_IDS],
}

const EMPTY: Slot = Slot { address: 0, count: 0, truncated: Truncated::No, ids: [0; MAX_IDS] };

/// What the cache says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known<'a> {
    /// Exactly these literals, and whether a text was cut.
    Hit(&'a [u32], Truncated),
    /// Seen for the second time in a row: worth keeping, in this slot.
    Keep(usize),
    /// Not known, and not worth keeping yet.
    Miss,
}

impl Processes {
    /// An empty cache.
    pub(crate) fn new(size: Size) -> Self {
        let sets = size.sets();
        Self {
            slots: vec![EMPTY; 2 * sets].into(),
            held: (0..2 * sets).map(|_| Weak::new()).collect(),
            seen_once: vec![0; sets].into(),
        }
    }

    /// What is known of the process.
    #[inline]
    pub(crate) fn look_up(&mut self, process: &Arc<Process>) -> Known<'_> {
        let address = Arc::as_ptr(process).addr();
        let mixed = address.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let set = mixed & (self.seen_once.len() - 1);
        for way in [2 * set, 2 * set + 1] {
            if self.slots[way].address == address {
                let slot = &self.slots[way];
                let ids = slot.ids.get(..usize::from(slot.count)).unwrap_or(&[]);
                return Known::Hit(ids, slot.truncated);
            }
        }
        if self.seen_once[set] != address {
            self.seen_once[set] = address;
            return Known::Miss;
        }
        let way = if self.slots[2 * set].address == 0 { 0 } else { mixed >> 16 & 1 };
        Known::Keep(2 * set + way)
    }

    /// Keeps the answer for the process in the slot that [`Known::Keep`] named.
    pub(crate) fn keep(&mut self, way: usize, process: &Arc<Process>, ids: &[u32], truncated: Truncated) {
        if ids.len() > MAX_IDS {
            return;
        }
        let slot = &mut self.slots[way];
        *slot = Slot { address: Arc::as_ptr(process).addr(), count: ids.len() as u8, truncated, ..EMPTY };
        slot.ids[..ids.len()].copy_from_slice(ids);
        self.held[way] = Arc::downgrade(process);
    }
}
