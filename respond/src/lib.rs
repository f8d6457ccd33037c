//! The response, as pure decisions: which playbook answers an incident, whether it may act by itself, in which order its steps
//! go, and what follows from every answer of a node and of a person. No clock, no file, no socket: time and facts are values, so
//! replay, shadow mode and tests are the same code as production.
//!
//! The way of an incident: [`plan::Plan::check`] (once, when playbooks are loaded) → [`trigger::choose`] → [`gate::decide`] →
//! [`run::Run::begin`] → [`run::Run::step`] with every answer, until the run is over.

pub mod action;
pub mod alone;
mod check;
pub mod expression;
pub mod facts;
pub mod gate;
pub mod graph;
pub mod plan;
pub mod run;
pub mod target;
pub mod trigger;
