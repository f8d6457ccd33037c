//! What becomes of a match that is the first of its cause: given its context, cut to size.

mod fit;
mod recent;

pub use fit::{MAX_REPORT, fit};
pub use recent::Recent;
