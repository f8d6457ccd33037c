//! The narrative of an incident: one document from which a person on call decides without another tool. Pure: an incident and what is planned
//! come in as values, a [`Document`] comes out, and each form ([`html`], [`markdown`], JSON by serde) is made from that alone.
//!
//! Everything in it that did not come from us is hostile: it is bounded when the document is made, and made harmless by the form that shows it,
//! each in one place ([`text`], and the writers in `html` and `markdown`).

mod desk;
mod document;
mod entities;
mod gather;
pub mod html;
mod kept;
pub mod markdown;
mod picture;
mod processes;
mod text;

pub use desk::{Desk, Question};
pub use document::{
    Actor, Answer, Command, Document, EntityKind, EntityNode, Graph, Lane, Link, Milestone, Moment, PlanTold,
    ProcessNode, Response, Seen, Short, StepTold,
};
pub use gather::{Known, answers, document};
pub use text::shown;
