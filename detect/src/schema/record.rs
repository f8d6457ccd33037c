//! Records' values under the names of the table: written by whoever reads a source, read by [`crate::schema::View`].

use std::net::IpAddr;

use model::{Fact, Facts, NodeId, ObjectSight, Principal, Record, RecordKind, RecordObject, RecordWriter};

use crate::schema::{Category, Field, FieldValue, Kind, List};

/// Makes a record. A value is kept in the type that the table gives its field, and only where events of the category have the field.
#[derive(Debug, Clone)]
pub struct RecordBuilder {
    category: Category,
    record: Record,
}

impl RecordBuilder {
    /// An empty record of `kind`.
    #[must_use]
    pub fn new(kind: RecordKind) -> Self {
        let facts = Facts::default();
        let record = Record {
            kind,
            id: String::new(),
            principal: None,
            origin: None,
            object: None,
            sight: None,
            writer: None,
            facts,
        };
        Self { category: Category::of_record(kind), record }
    }

    /// Its identity in its log: [`model::Record::id`].
    pub fn id(&mut self, id: &str) -> &mut Self {
        let cut = id.floor_char_boundary(256);
        self.record.id = id[..cut].to_owned();
        self.text(Field::RecordId, id)
    }

    /// Who did it.
    pub fn principal(&mut self, realm: &str, name: &str) -> &mut Self {
        self.record.principal = Some(Principal { realm: short(realm), name: short(name) });
        self
    }

    /// From where.
    pub fn origin(&mut self, addr: Option<IpAddr>) -> &mut Self {
        self.record.origin = addr.map(|addr| addr.to_canonical());
        self
    }

    /// To what.
    pub fn object(&mut self, kind: &str, namespace: Option<&str>, name: &str) -> &mut Self {
        self.record.object =
            Some(RecordObject { kind: short(kind), namespace: namespace.map(short), name: short(name) });
        self
    }

    /// What the answer says of the very object.
    pub fn sight(&mut self, sight: ObjectSight) -> &mut Self {
        self.record.sight =
            Some(ObjectSight { uid: short(&sight.uid), version: short(&sight.version), ..sight });
        self
    }

    /// Which process wrote it.
    pub fn writer(&mut self, writer: Option<RecordWriter>) -> &mut Self {
        self.record.writer =
            writer.map(|writer| RecordWriter { host: NodeId::new(short(writer.host.as_str())), ..writer });
        self
    }

    /// A value by its text; one that is no value of the field's type is kept as a text, so that rules still see it.
    pub fn text(&mut self, field: Field, text: &str) -> &mut Self {
        let fact = match field.spec().kind {
            Kind::Text | Kind::Keyword | Kind::Time => None,
            Kind::Number => text.parse().ok().map(Fact::Number),
            Kind::Bool => text.to_ascii_lowercase().parse().ok().map(Fact::Bool),
            Kind::Address => text.parse().ok().map(|addr: IpAddr| Fact::Address(addr.to_canonical())),
            Kind::List => Some(Fact::List(vec![text.to_owned()])),
        };
        self.set(field, fact.unwrap_or_else(|| Fact::Text(text.to_owned())))
    }

    /// As [`RecordBuilder::text`], where there is one.
    pub fn maybe(&mut self, field: Field, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(field, text),
            None => self,
        }
    }

    /// A number.
    pub fn number(&mut self, field: Field, number: i64) -> &mut Self {
        match field.spec().kind {
            Kind::Number => self.set(field, Fact::Number(number)),
            _ => self.text(field, &number.to_string()),
        }
    }

    /// A truth value.
    pub fn truth(&mut self, field: Field, truth: bool) -> &mut Self {
        self.text(field, if truth { "true" } else { "false" })
    }

    /// An address.
    pub fn address(&mut self, field: Field, addr: IpAddr) -> &mut Self {
        self.set(field, Fact::Address(addr.to_canonical()))
    }

    /// Several texts, of a list field; nothing where there are none.
    pub fn list<'a>(&mut self, field: Field, texts: impl IntoIterator<Item = &'a str>) -> &mut Self {
        let texts: Vec<String> = texts.into_iter().take(Facts::MAX_LIST + 1).map(str::to_owned).collect();
        if texts.is_empty() { self } else { self.set(field, Fact::List(texts)) }
    }

    /// Says that rules see less of `what` than there was: [`Facts::cut`].
    pub fn miss(&mut self, what: &str) -> &mut Self {
        self.record.facts.miss(what);
        self
    }

    /// The value so far.
    #[must_use]
    pub fn get(&self, field: Field) -> FieldValue<'_> {
        value(&self.record.facts, field)
    }

    /// The record.
    #[must_use]
    pub fn build(self) -> Record {
        self.record
    }

    fn set(&mut self, field: Field, fact: Fact) -> &mut Self {
        debug_assert!(field.exists_in(self.category), "{} in {}", field.name(), self.category.name());
        if field.exists_in(self.category) {
            self.record.facts.set_named(field.fact(), fact);
        }
        self
    }
}

/// A name that tells two things apart, also where it is too long to be kept.
fn short(name: &str) -> String {
    const LONGEST: usize = 320;
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    format!("{}…{}", &name[..name.floor_char_boundary(LONGEST)], model::short_hash([name], 8))
}

/// A record's value, without allocation.
pub(super) fn value(facts: &Facts, field: Field) -> FieldValue<'_> {
    match facts.named(field.fact()) {
        None => FieldValue::Absent,
        Some(Fact::Text(text)) => FieldValue::Str(text),
        Some(Fact::Number(number)) => FieldValue::Num(*number),
        Some(Fact::Bool(truth)) => FieldValue::Bool(*truth),
        Some(Fact::Address(addr)) => FieldValue::Ip(*addr),
        Some(Fact::List(texts)) => FieldValue::List(List::Strings(texts)),
    }
}

/// What follows from other values: whether the ends of a flow are IPv6.
pub(super) fn derived(facts: &Facts, field: Field) -> Option<FieldValue<'_>> {
    let of = match field {
        Field::SourceIsIpv6 => Field::SourceIp,
        Field::DestinationIsIpv6 => Field::DestinationIp,
        _ => return None,
    };
    match facts.named(of.fact()) {
        Some(Fact::Address(addr)) => Some(FieldValue::Bool(addr.is_ipv6())),
        _ => None,
    }
}
