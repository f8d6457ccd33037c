//! What becomes of a match: folded with others of the same cause, given its context, cut to size.

mod fit;
mod fold;
mod recent;

pub use fit::{MAX_REPORT, fit};
pub use fold::{Acted, Cause, Fold, Folded, Repeat};
pub use recent::Recent;
