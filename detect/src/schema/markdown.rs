//! docs/fields.md, made from the table.

use std::fmt::Write;

use crate::schema::{Category, Field, Kind};

/// The page. A test compares it with the file.
#[must_use]
pub fn fields_markdown() -> String {
    let mut page = String::from(
        "# Fields\n\nMade from the table in detect/src/schema/field.rs by `detect::schema::fields_markdown`; a test compares them.\n\n\
         A field that an event does not have is absent: only `null` and `exists: false` match it. Numbers, addresses and times are \
         compared as their usual text where a rule gives a text, so `DestinationPort|startswith: '44'` and \
         `DestinationIp|startswith: '10.'` work. On a list a test holds if it holds for one element.\n\n\
         `service: auditd` rules may use the names in the third column: they see the same events as the records that auditd would \
         write. Keywords look into the fields marked with ¶.\n\n\
         ## Categories\n\n| category | fed by |\n| --- | --- |\n",
    );
    for category in Category::ALL {
        let source = category
            .class()
            .map_or("another source, later".to_owned(), |class| format!("kernel ({class:?})"));
        let _ = writeln!(page, "| `{}` | {source} |", category.name());
    }
    page.push_str("\n## Fields of every kernel event\n\n");
    table(&mut page, kernel_wide);
    page.push_str("\n## Fields of some events\n\n| field | other names | auditd | type | what | only in |\n| --- | --- | --- | --- | --- | --- |\n");
    for field in Field::ALL.iter().copied().filter(|field| !kernel_wide(*field)) {
        let _ = writeln!(page, "{} {} |", row(field), field.spec().categories);
    }
    page
}

fn table(page: &mut String, wanted: impl Fn(Field) -> bool) {
    page.push_str("| field | other names | auditd | type | what |\n| --- | --- | --- | --- | --- |\n");
    for field in Field::ALL.iter().copied().filter(|field| wanted(*field)) {
        let _ = writeln!(page, "{}", row(field));
    }
}

fn kernel_wide(field: Field) -> bool {
    Category::ALL.iter().all(|category| category.class().is_none() || field.exists_in(*category))
}

fn row(field: Field) -> String {
    let spec = field.spec();
    let names = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let kind = match spec.kind {
        Kind::Text => "text",
        Kind::Keyword => "text ¶",
        Kind::Number => "number",
        Kind::Bool => "truth value",
        Kind::Address => "address",
        Kind::Time => "time",
        Kind::List => "list",
    };
    format!("| `{}` | {} | {} | {kind} | {} |", spec.name, names(spec.aliases), names(spec.auditd), spec.doc)
}
