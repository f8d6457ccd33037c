//! Event classes and what becomes of an event, as numbers.

/// Event classes, in the order of the model's `EventClass::ALL` (a test in the agent compares them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the model's class of the same name")]
pub enum Class {
    Exec = 0,
    Fork,
    Exit,
    Credentials,
    Namespaces,
    FileOpen,
    FileDelete,
    FileRename,
    FileLink,
    FileMode,
    FileOwner,
    Connect,
    Accept,
    Bind,
    Listen,
    SocketClose,
    Dns,
    Module,
    Bpf,
    Ptrace,
    Memfd,
    Mount,
    ProcessVmWrite,
    IoUring,
}

/// How many classes there are.
pub const CLASSES: u32 = 24;
/// Pseudo class of the hold tests in the filter maps.
pub const HOLD: u8 = 31;
/// Pseudo class of the tests for opens that can write; [`Class::FileOpen`] has those for opens that only read.
pub const OPEN_WRITE: u8 = 30;
/// Room per generation in the class switch array: classes and pseudo classes.
pub const CLASS_SLOTS: u32 = 32;

/// Which ring a class goes to and whose budget it uses up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Group {
    /// exec, credentials, namespaces, modules, bpf, ptrace, memfd, mount, process_vm_writev, io_uring: critical ring.
    Critical = 0,
    /// fork and exit: critical ring, no wake-up of their own.
    Life,
    /// Files: bulk ring.
    File,
    /// Network: bulk ring.
    Net,
}

/// How many groups there are.
pub const GROUPS: usize = 4;

impl Class {
    /// The group it belongs to.
    #[must_use]
    #[inline(always)]
    pub const fn group(self) -> Group {
        match self {
            Self::Fork | Self::Exit => Group::Life,
            Self::FileOpen
            | Self::FileDelete
            | Self::FileRename
            | Self::FileLink
            | Self::FileMode
            | Self::FileOwner => Group::File,
            Self::Connect | Self::Accept | Self::Bind | Self::Listen | Self::SocketClose | Self::Dns => {
                Group::Net
            }
            _ => Group::Critical,
        }
    }
}

/// What became of an event: index into [`ClassCounts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// The hook ran for a class that is switched on.
    Seen = 0,
    /// Handed to the ring.
    Submitted,
    /// No loaded rule could match.
    Filtered,
    /// The ring was full.
    LostRing,
    /// The cgroup's budget was used up.
    LostBudget,
    /// The kernel could not read what the record needs, or had no scratch space free.
    LostRead,
}

/// Counters of one class on one CPU, indexed by [`Fate`]; padded to a cache line.
pub type ClassCounts = [u64; 8];
