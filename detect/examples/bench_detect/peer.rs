//! rsigma-eval 0.23 on the same events, as favourably as it allows: a typed event without a JSON tree, logsource routing.

use std::{borrow::Cow, collections::HashMap};

use hemostat_detect::schema::{Category, Field, FieldValue, Scratch, View};
use rsigma_eval::{Engine, Event as PeerEvent, EventValue};
use rsigma_parser::LogSource;

/// The peer's engine with our rules.
pub(crate) struct Peer {
    engine: Engine,
    logsources: HashMap<Category, LogSource>,
    names: HashMap<&'static str, Field>,
}

impl Peer {
    pub(crate) fn new(yaml: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let collection = rsigma_parser::parse_sigma_yaml(yaml)?;
        let mut engine = Engine::new();
        engine.add_collection(&collection)?;
        let logsources = Category::ALL
            .iter()
            .map(|category| {
                let source = LogSource {
                    category: Some(category.name().to_owned()),
                    product: Some("linux".to_owned()),
                    ..LogSource::default()
                };
                (*category, source)
            })
            .collect();
        let names = Field::ALL.iter().map(|field| (field.name(), *field)).collect();
        Ok(Self { engine, logsources, names })
    }

    /// Ids of the rules that match.
    pub(crate) fn evaluate(&self, event: &model::Event) -> Vec<String> {
        self.raw(event).into_iter().filter_map(|hit| hit.header.rule_id).collect()
    }

    /// How many rules match.
    pub(crate) fn count(&self, event: &model::Event) -> usize {
        self.raw(event).len()
    }

    fn raw(&self, event: &model::Event) -> Vec<rsigma_eval::EvaluationResult> {
        let view = View::new(event);
        let logsource = &self.logsources[&view.category()];
        self.engine.evaluate_with_logsource(&Typed { view, names: &self.names }, logsource)
    }
}

/// An event without a JSON tree.
struct Typed<'a> {
    view: View<'a>,
    names: &'a HashMap<&'static str, Field>,
}

impl PeerEvent for Typed<'_> {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        value(self.view.get(*self.names.get(path)?))
    }

    fn any_string_value(&self, predicate: &dyn Fn(&str) -> bool) -> bool {
        self.texts().any(predicate)
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        self.texts().map(Cow::Borrowed).collect()
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

impl Typed<'_> {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.view.category().keyword_fields().filter_map(|field| match self.view.get(field) {
            FieldValue::Str(text) => Some(text),
            _ => None,
        })
    }
}

fn value(value: FieldValue<'_>) -> Option<EventValue<'_>> {
    Some(match value {
        FieldValue::Absent => return None,
        FieldValue::Str(text) => EventValue::Str(Cow::Borrowed(text)),
        FieldValue::Num(number) => EventValue::Int(number),
        FieldValue::Bool(truth) => EventValue::Bool(truth),
        FieldValue::List(list) => {
            EventValue::Array(list.iter().map(|text| EventValue::Str(Cow::Borrowed(text))).collect())
        }
        other @ (FieldValue::Ip(_) | FieldValue::Time(_)) => {
            let mut room = Scratch::new();
            EventValue::Str(Cow::Owned(other.text(&mut room)?.to_owned()))
        }
    })
}
