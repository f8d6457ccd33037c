//! What real programs write of logins, read as the sources that follow them read it.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests; a skip is said")]

mod journal;
mod keycloak;
mod session;
mod sshd;

use hemostat_controller::ingest::read::Told;
use model::Fact;

fn word(one: &Told, field: &str) -> String {
    match one.record.facts.get(field) {
        Some(Fact::Text(text)) => text.clone(),
        Some(Fact::Address(addr)) => addr.to_string(),
        Some(Fact::Bool(truth)) => truth.to_string(),
        _ => String::new(),
    }
}
