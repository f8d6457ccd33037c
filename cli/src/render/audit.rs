//! The audit log as a table.

use model::AuditEntry;

use super::{Column, Fit, Table, Window};

pub(crate) fn audit_table(entries: &[AuditEntry], window: Window) -> String {
    if entries.is_empty() {
        return "No entry of the audit log matches.\n".into();
    }
    let mut table = Table::new(vec![
        Column { heading: "SEQ", fit: Fit::Keep },
        Column { heading: "AT", fit: Fit::Keep },
        Column { heading: "ACTOR", fit: Fit::Shrink(8) },
        Column { heading: "KIND", fit: Fit::Drop(3) },
        Column { heading: "INCIDENT", fit: Fit::Drop(2) },
        Column { heading: "HASH", fit: Fit::Drop(4) },
        Column { heading: "WHAT", fit: Fit::Shrink(32) },
    ]);
    for entry in entries {
        table.row([
            entry.seq.to_string(),
            entry.at.to_string(),
            entry.actor.to_string(),
            format!("{:?}", entry.kind),
            entry.incident.as_ref().map_or_else(|| "–".into(), ToString::to_string),
            entry.hash.chars().take(12).collect(),
            entry.what.clone(),
        ]);
    }
    table.render(window)
}
