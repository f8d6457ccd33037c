//! The audit log: what was decided, by whom, and what came of it, so that nobody can change the story afterwards (I10).
//!
//! One JSON object a line, each with the HMAC-SHA-256 of its canonical form and of the line before it ([`chain`]). The key
//! lies apart from the log. The log is a row of files ([`segments`]), through which the chain goes on. How many lines there are and what the last one's hash is ([`Anchor`]) is kept in the journal
//! database, in a file of its own and in every `audit show`, so that cutting off the tail is found as well.
//!
//! An entry is stored in the journal in the same transaction as the transition that it tells of, which is synced, then appended to the log,
//! and only then may the effect happen. The log itself is synced a little later, and until then the journal keeps the entry: no effect
//! waits for the disk twice. A crash between the two, of the controller or of the machine, is repaired at the next start from the journal.

mod anchor;
mod chain;
mod index;
mod key;
mod log;
mod segments;
mod verify;

pub use anchor::{Anchor, AnchorError, Genuine};
pub use chain::{ChainHead, Draft};
pub use index::Query;
pub use key::{AuditKey, KeyError};
pub use log::{AuditLog, LogError, Recovered, SEGMENT_BYTES, Selection};
pub(crate) use verify::FIRST_WORDS;
pub use verify::{Problem, ProblemKind, VerifyReport, verify, verify_log};
