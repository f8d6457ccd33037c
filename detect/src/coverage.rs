//! ATT&CK techniques and the rules for them.

use std::collections::{BTreeMap, BTreeSet};

use model::Level;
use serde_json::json;

use crate::{
    ast::{Correlation, Meta, Rule},
    schema::Firing,
};

/// Techniques and the rules for them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Coverage {
    /// By technique id, for example `T1059.004`.
    pub techniques: BTreeMap<String, Vec<Covering>>,
    /// Keys of rules that name no technique.
    pub untagged: Vec<String>,
}

/// A rule for a technique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covering {
    /// [`Rule::key`].
    pub key: String,
    /// `title`.
    pub title: String,
    /// `level`.
    pub level: Level,
    /// Tactics that the rule names, for example `execution`.
    pub tactics: BTreeSet<String>,
    /// Whether the rule can fire on the sources that were given when it was loaded. One that cannot covers nothing.
    pub live: bool,
}

/// What the rules cover.
#[must_use]
pub fn coverage(rules: &[Rule], correlations: &[Correlation]) -> Coverage {
    let mut coverage = Coverage::default();
    for rule in rules {
        coverage.add(&rule.meta, rule.firing == Firing::Can);
    }
    for correlation in correlations {
        let live = correlation.rules.iter().all(|reference| {
            rules
                .iter()
                .find(|rule| rule.key() == reference.key)
                .is_none_or(|rule| rule.firing == Firing::Can)
        });
        coverage.add(&correlation.meta, live);
    }
    coverage
}

impl Coverage {
    fn add(&mut self, meta: &Meta, live: bool) {
        let techniques: BTreeSet<String> = meta.techniques().into_iter().collect();
        if techniques.is_empty() {
            self.untagged.push(meta.key.clone());
        }
        for technique in techniques {
            self.techniques.entry(technique).or_default().push(Covering {
                key: meta.key.clone(),
                title: meta.title.value.clone(),
                level: meta.level_or_default(),
                tactics: meta.tactics().into_iter().collect(),
                live,
            });
        }
    }

    /// Techniques that a live rule is for.
    #[must_use]
    pub fn covered(&self) -> usize {
        self.techniques.values().filter(|rules| rules.iter().any(|rule| rule.live)).count()
    }

    /// A layer for the ATT&CK Navigator (layer format 4.5): the score is the number of live rules, and the comment names all.
    #[must_use]
    pub fn navigator_layer(&self, name: &str) -> String {
        let techniques: Vec<_> = self
            .techniques
            .iter()
            .map(|(technique, rules)| {
                let live = rules.iter().filter(|rule| rule.live).count();
                let lines: Vec<String> = rules
                    .iter()
                    .map(|rule| {
                        format!("{}{}", rule.title, if rule.live { "" } else { " (cannot fire here)" })
                    })
                    .collect();
                json!({
                    "techniqueID": technique,
                    "score": live,
                    "enabled": true,
                    "showSubtechniques": !technique.contains('.'),
                    "comment": lines.join("\n"),
                })
            })
            .collect();
        let most = self.techniques.values().map(|rules| rules.iter().filter(|rule| rule.live).count()).max();
        let layer = json!({
            "name": name,
            "versions": { "layer": "4.5", "navigator": "5.1.0", "attack": "17" },
            "domain": "enterprise-attack",
            "description": "Rules loaded by Hemostat; the score is the number of rules that can fire",
            "filters": { "platforms": ["Linux", "Containers", "Identity Provider", "IaaS", "Network Devices"] },
            "sorting": 3,
            "techniques": techniques,
            "gradient": { "colors": ["#ffffff", "#8ec843"], "minValue": 0, "maxValue": most.unwrap_or(0).max(1) },
        });
        format!("{layer:#}\n")
    }
}
