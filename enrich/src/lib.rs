//! What is known of an incident beside its findings, found within microseconds: threat intelligence, where it is, what was there before.
//! No clock, no file, no socket: feeds come in as bytes, time as a value.
//!
//! The way of a feed: bytes → [`read::read`] → [`Feed`], put into [`Intelligence`] in place of the one before, which whoever is looking
//! something up keeps until it has its answer. The way of an incident: [`join::enrich`] → [`model::Enrichment`].

pub mod classes;
pub mod feed;
mod index;
pub mod indicator;
pub mod intelligence;
pub mod join;
pub mod observe;
pub mod read;
pub mod taxii;

pub use classes::{Class, Classes, ClassesError};
pub use feed::{Feed, FeedReport, FeedSpec, Format, Limits};
pub use index::{Hit, Relation};
pub use indicator::{Refusal, Value};
pub use intelligence::Intelligence;
