//! One value a line.

use super::{Said, Taker, lines};

/// Comments: a whole line, or after a blank.
const COMMENTS: [&str; 3] = ["#", ";", "//"];

pub(super) fn read(bytes: &[u8], taker: &mut Taker<'_>) {
    lines(bytes, taker, |taker, number, line| {
        let line = line.trim();
        if line.is_empty() || COMMENTS.iter().any(|comment| line.starts_with(comment)) {
            return;
        }
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let rest = words.clone().next();
        // A hosts file sends the names to nowhere.
        if matches!(first, "0.0.0.0" | "127.0.0.1" | "::" | "::1") && rest.is_some() {
            let names = words.take_while(|word| !word.starts_with('#'));
            for name in names.filter(|name| !is_of_every_machine(name)) {
                taker.take(number, name, Said::default());
            }
            return;
        }
        // What comes after the value is its note, a comment's sign or not.
        let note = line.get(first.len()..).unwrap_or_default();
        let note = note.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '#' | ';' | '/' | ','));
        taker.take(number, first.trim_end_matches([',', ';']), Said { note, ..Said::default() });
    });
}

/// What every hosts file begins with.
fn is_of_every_machine(name: &str) -> bool {
    matches!(name, "localhost" | "localhost.localdomain" | "local" | "broadcasthost" | "0.0.0.0")
        || name.starts_with("ip6-")
}
