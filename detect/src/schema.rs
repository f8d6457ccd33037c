//! Categories and fields of events, Sigma's names for them, and which events a `logsource` means.
//!
//! One table ([`Field::spec`]) holds every field; [`View::get`] is its accessor; docs/fields.md is made from it. What the kernel tells is read from
//! the typed activity; what other sources tell is written ([`RecordBuilder`]) and read under the table's own names.

mod category;
mod draft;
mod field;
mod markdown;
mod names;
mod record;
mod routing;
mod value;
mod view;

pub use category::{Category, CategorySet};
pub use draft::{DraftError, DraftValue, Drafted};
pub use field::{Field, FieldSpec, Kind};
pub use markdown::fields_markdown;
pub(crate) use names::{AUDIT_TYPES, BPF_COMMANDS, known_absent};
pub use record::RecordBuilder;
pub use routing::{Firing, Routing, Taxonomy, route};
pub use value::{FieldValue, List, Scratch};
pub use view::{Context, View};
