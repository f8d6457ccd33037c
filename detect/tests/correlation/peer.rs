//! rsigma-eval 0.23 on the same hits. It tells a correlation with every hit for which its condition is true; here that is made to what is
//! told once: with the first of them, and again after one for which it was not, or after an empty window.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;

use hemostat_detect::{ast::CorrelationKind, load::Loaded};
use rsigma_eval::{CorrelationConfig, CorrelationEngine, JsonEvent};
use serde_json::json;

use crate::{naive, stream::At};

/// (correlation, hit), of hits in order of time.
pub(crate) fn run(text: &str, loaded: &Loaded, hits: &[At]) -> Vec<(String, u64)> {
    let mut engine = CorrelationEngine::new(CorrelationConfig::default());
    engine.add_collection(&rsigma_parser::parse_sigma_yaml(text).unwrap()).unwrap();
    // By correlation and group: when it was last fed, and whether its condition was true then.
    let mut last = HashMap::<(&str, Vec<Option<String>>), (i64, bool)>::new();
    let mut told = vec![];
    for (reference, at) in (0..).zip(hits) {
        let event = json!({
            "Image": format!("/{}", at.rule()),
            "Uid": at.user.to_string(),
            "ProcessId": at.value,
            "ParentImage": at.field("ParentImage"),
        });
        let result = engine.process_event_at(&JsonEvent::borrow(&event), at.time / 1000);
        let fired: HashMap<&str, f64> = result
            .iter()
            .filter_map(|one| Some((one.header.rule_id.as_deref()?, one.as_correlation()?.aggregated_value)))
            .collect();
        for correlation in &loaded.correlations {
            if !correlation.rules.iter().any(|rule| rule.key == at.rule()) {
                continue;
            }
            let key = correlation.meta.key.as_str();
            let group = correlation.group_by.iter().map(|field| at.field(&field.value)).collect();
            let span = i64::try_from(correlation.timespan.value.as_millis()).unwrap();
            let before = last.get(&(key, group)).copied();
            let group: Vec<Option<String>> =
                correlation.group_by.iter().map(|field| at.field(&field.value)).collect();
            // It tells percentiles without comparing them with anything.
            let percentile = correlation.kind.value == CorrelationKind::ValuePercentile;
            let compared = |value: &f64| {
                !percentile || correlation.condition.bounds.iter().all(|bound| naive::within(bound, *value))
            };
            let holds = fired.get(key).is_some_and(compared);
            let held = before.is_some_and(|(time, held)| held && time > at.time - span);
            if holds && !held {
                told.push((key.to_owned(), reference));
            }
            last.insert((key, group), (at.time, holds));
        }
    }
    told
}
