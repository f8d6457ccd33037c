//! `kubectl hemostat` as people call it: through kubectl, on a real API server, each under a name of their own.

#![expect(clippy::print_stdout, reason = "the runner counts lines of skips")]
#![expect(clippy::unwrap_used, reason = "a test of its own; what cannot be done fails it")]

mod answers;
mod leader;
mod narrative;
mod pages;
mod plan;
mod rights;
mod scene;
