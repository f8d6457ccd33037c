//! Where the controller may die, so that a test can make it die there (I7).
//!
//! In production this is [`NeverCrash`], which does nothing. A test passes its own [`CrashPoints`], which kills the process
//! with SIGKILL at the n-th point; so every point of a run can be enumerated.

/// A moment in the life of one group of journalled transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Decided in memory, nothing stored.
    BeforeWrite,
    /// Stored in the journal and read back; the audit log does not have it yet.
    AfterWrite,
    /// In the audit log too; no effect has happened.
    AfterAudit,
    /// Commands, acknowledgements and answers have left.
    AfterEffect,
}

impl Moment {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::BeforeWrite, Self::AfterWrite, Self::AfterAudit, Self::AfterEffect];
}

/// Told of each moment, on the thread that writes the journal.
pub trait CrashPoints: Send + Sync + 'static {
    /// The moment has come for `transitions`, the names of what the journal holds of it, in order.
    fn reached(&self, moment: Moment, transitions: &[String]);

    /// An effect is written down by a witness ([`crate::witness`]) and not yet commanded. Not on that thread.
    fn witnessed(&self, _action: &str) {}
}

/// Does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NeverCrash;

impl CrashPoints for NeverCrash {
    fn reached(&self, _: Moment, _: &[String]) {}
}
