//! Hemostat's resources as plain data: a [`Playbook`] in Git, in a folder, in the cluster and in a test is this one type.
//!
//! [`source::read`] turns YAML text into resources and says of everything it could not read where it stands, what was
//! expected, and what was probably meant. [`definitions`] are the CustomResourceDefinitions.
//!
//! The five that exist in the cluster only are in modules of their own, since their names are also those of other things:
//! [`rule_set::RuleSet`], [`incident::Incident`], [`response_action::ResponseAction`], [`approval::Approval`],
//! [`narrative::Narrative`].

#![expect(clippy::duplicated_attributes, reason = "the columns of a table are alike in type and priority")]

pub mod approval;
mod cel;
mod condition;
mod conflict;
mod cut;
pub mod definitions;
pub mod incident;
pub mod narrative;
mod network;
mod observe;
mod period;
mod playbook;
mod policy;
mod promotion;
pub mod response_action;
pub mod rule_set;
pub mod source;
mod standing;
mod step;
mod suggest;

pub use condition::{Condition, Holds};
pub use conflict::conflicts;
pub use cut::cut;
pub use network::Network;
pub use observe::*;
pub use period::{Moment, Period};
pub use playbook::*;
pub use policy::*;
pub use promotion::*;
pub use standing::*;
pub use step::*;
pub use suggest::nearest;

/// The group of all resources.
pub const GROUP: &str = "hemostat.dev";
/// The only version there is.
pub const VERSION: &str = "v1alpha1";
