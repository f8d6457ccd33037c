//! The interpreter against rsigma-eval 0.23, an independent engine. docs/sigma.md lists where the two differ and the sentence of the
//! specification that decides; [`differs`] leaves exactly those out.

use std::sync::Arc;

use hemostat_detect::{
    ast::{FieldName, Item, ItemValue, Modifier, Polarity, Rule, Value},
    matcher::{self, RuleSet},
    reference,
    schema::{DraftValue, Drafted, Field, FieldValue, Scratch},
    source::Spanned,
};
use proptest::prelude::*;
use rsigma_eval::{Engine, JsonEvent};
use serde_json::{Map, Value as Json};

use crate::{generate, print};

/// The fields that random rules name.
const NAMED: [Field; 7] = [
    Field::Image,
    Field::CommandLine,
    Field::ParentImage,
    Field::Tty,
    Field::ProcessId,
    Field::Uid,
    Field::UtcTime,
];

fn json(event: &Drafted) -> Json {
    let view = event.view();
    let mut object = Map::new();
    for field in NAMED {
        let value = match view.get(field) {
            FieldValue::Absent => continue,
            FieldValue::Num(number) => Json::from(number),
            other => Json::from(other.text(&mut Scratch::new()).unwrap_or_default()),
        };
        object.insert(field.name().into(), value);
    }
    Json::Object(object)
}

fn items(rule: &Rule) -> Vec<&Item> {
    rule.detection.identifiers.iter().flat_map(|identifier| identifier.search.items()).collect()
}

/// rsigma looks for keywords in every text, we in the text fields of the schema: events for rules with keywords have no others.
fn comparable(rule: &Rule, event: &[(Field, DraftValue)]) -> Vec<(Field, DraftValue)> {
    let keywords = has_keywords(rule);
    let other_text = |field: Field| matches!(field, Field::ParentImage | Field::Tty);
    event.iter().filter(|(field, _)| !(keywords && other_text(*field))).cloned().collect()
}

fn has_keywords(rule: &Rule) -> bool {
    items(rule).iter().any(|item| item.field.is_none())
}

/// Differences that docs/sigma.md gives reasons for.
fn differs(rule: &Rule, event: &Drafted) -> bool {
    let absent = |name: &FieldName| name.field.is_none_or(|field| event.view().get(field).is_absent());
    items(rule).iter().any(|item| {
        // "The value is expected at the beginning": rsigma anchors a value with wildcards at the other end.
        let one_sided = |modifier: &Spanned<Modifier>| {
            matches!(modifier.value, Modifier::StartsWith | Modifier::EndsWith)
        };
        // One of the tools is written with a wildcard.
        let wildcard = |value: &ItemValue| {
            matches!(&value.value.value, Value::Text(text) if text.contains(['*', '?']) || text.contains("%tools%"))
        };
        if item.modifiers.iter().any(one_sided) && item.values.iter().any(wildcard) {
            return true;
        }
        // "The value is expected to be contained": rsigma compares true and false as wholes, also under these modifiers.
        let within = |modifier: &Spanned<Modifier>| {
            matches!(modifier.value, Modifier::Contains | Modifier::StartsWith | Modifier::EndsWith)
        };
        let truth = |value: &ItemValue| matches!(value.value.value, Value::Bool(_));
        if item.modifiers.iter().any(within) && item.values.iter().any(truth) {
            return true;
        }
        // "Except the first and last byte": rsigma looks for a last character that depends on what follows, so what it finds is right
        // and what it does not find may be there.
        if item.modifiers.iter().any(|modifier| modifier.value == Modifier::Base64Offset) {
            return true;
        }
        // "Transforms value to UTF16-LE encoding": by itself it is without effect in rsigma.
        let is = |wanted: &[Modifier]| item.modifiers.iter().any(|modifier| wanted.contains(&modifier.value));
        let wide = [Modifier::Wide, Modifier::Utf16Le, Modifier::Utf16Be, Modifier::Utf16];
        if is(&wide) && !is(&[Modifier::Base64]) {
            return true;
        }
        // "Strings that are applied to the full log message": rsigma compares keywords with `all` to whole values.
        if item.field.is_none() && !item.modifiers.is_empty() {
            return true;
        }
        // "The field is different from the specified values": so is a field that is not there.
        item.polarity == Polarity::MustNot && item.field.as_ref().is_some_and(absent)
    })
}

fn compares_a_time(item: &Item) -> bool {
    let compares = |modifier: &Spanned<Modifier>| {
        matches!(modifier.value, Modifier::Lt | Modifier::Lte | Modifier::Gt | Modifier::Gte)
    };
    item.field.as_ref().is_some_and(|field| field.text == "UtcTime") && item.modifiers.iter().any(compares)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 3000, max_global_rejects: 60_000, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn agrees_with_rsigma(rule in generate::rule(), events in prop::collection::vec(generate::event(), 6)) {
        let text = print::rule(&rule);
        let loaded = generate::load(&text);
        // "Parts of a timestamp" are numbers to compare; rsigma refuses the rule. The compiled matcher is compared below.
        prop_assume!(!items(&loaded.rules[0]).iter().any(|item| compares_a_time(item)));
        // Without `expand` two keys of one mapping may be the same, which YAML does not allow: of such rsigma sees only the last.
        let expanded = generate::expanded(&rule);
        prop_assume!(!generate::repeats_a_key(&expanded));
        let theirs = rsigma_parser::parse_sigma_yaml(&print::rule(&expanded)).unwrap();
        let mut engine = Engine::new();
        engine.add_collection(&theirs).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        for fields in &events {
            let event = generate::drafted(&comparable(&loaded.rules[0], fields));
            if differs(&loaded.rules[0], &event) {
                continue;
            }
            let ours = reference::matches(&loaded.rules[0], &event.view());
            let mut shown = json(&event);
            // Words are looked for in texts: as a number the time is none for rsigma either.
            if let (true, Some(object)) = (has_keywords(&loaded.rules[0]), shown.as_object_mut()) {
                object.insert(Field::UtcTime.name().into(), Json::from(event.event().time.unix_seconds()));
            }
            let theirs = !engine.evaluate(&JsonEvent::borrow(&shown)).is_empty();
            prop_assert_eq!(ours, theirs, "ours, theirs of\n{}\non {}", text, shown);
        }
    }

    /// The same rules and events, compiled: nothing is left out here.
    #[test]
    fn the_matcher_agrees_with_the_interpreter(rule in generate::rule(), events in prop::collection::vec(generate::event(), 6)) {
        let text = print::rule(&rule);
        let loaded = generate::load(&text);
        prop_assert_eq!(loaded.rules.len(), 1, "{}", text);
        let mut matcher = Arc::new(RuleSet::compile(&loaded.rules, matcher::Options::default()).0).matcher();
        for fields in &events {
            let event = generate::drafted(fields);
            let mut hits = vec![];
            matcher.evaluate_with(event.event(), event.context(), &mut hits);
            let expected = reference::matches(&loaded.rules[0], &event.view());
            prop_assert_eq!(!hits.is_empty(), expected, "{}\n{:#?}", text, fields);
        }
    }
}
