//! Records written down by their fields.

use model::{NodeId, RecordKind};

use super::{
    BEGIN, DraftError, DraftValue, Drafted,
    written::{Written, parse_time},
};
use crate::schema::{Category, Field, FieldValue, Kind, RecordBuilder};

/// A record of these fields, each known to exist in the category.
pub(super) fn record(category: Category, fields: &[(Field, DraftValue)]) -> Result<Drafted, DraftError> {
    // Every category is the kernel's or has a kind of records.
    let kind = category.record_kind().unwrap_or(RecordKind::Flow);
    let mut builder = RecordBuilder::new(kind);
    let mut time = BEGIN;
    for (field, value) in fields {
        let written = Written { field: *field, value };
        match (field, field.spec().kind) {
            (Field::UtcTime, _) => {
                time = parse_time(&written.text()?).ok_or_else(|| written.bad("2026-01-31T23:59:59Z"))?;
            }
            // They follow from the addresses; what is written is compared.
            (Field::SourceIsIpv6 | Field::DestinationIsIpv6, _) => {}
            (Field::RecordId, _) => {
                builder.id(&written.text()?);
            }
            (_, Kind::List) => {
                builder.list(*field, written.texts().iter().map(String::as_str));
            }
            (_, kind) => {
                builder.text(*field, &written.text()?);
                let fits = match (kind, builder.get(*field)) {
                    (Kind::Number, FieldValue::Num(_))
                    | (Kind::Bool, FieldValue::Bool(_))
                    | (Kind::Address, FieldValue::Ip(_))
                    | (Kind::Text | Kind::Keyword, FieldValue::Str(_)) => true,
                    _ => written.text()?.is_empty(),
                };
                if !fits {
                    let expected = match kind {
                        Kind::Number => "a whole number",
                        Kind::Bool => "`true` or `false`",
                        _ => "an address",
                    };
                    return Err(written.bad(expected));
                }
            }
        }
    }
    let event = builder.build().into_event(&NodeId::new("source"), time);
    Ok(Drafted { event, target: None })
}
