//! The response, as pure decisions: which playbook answers an incident, whether it may act by itself, in which order its steps
//! go, and what follows from every answer of a node and of a person. No clock, no file, no socket: time and facts are values, so
//! replay, shadow mode and tests are the same code as production.

pub mod expression;
pub mod facts;
pub mod run;
