//! How two outcomes over the same recordings differ.

use std::collections::{BTreeMap, BTreeSet};

use model::IncidentId;
use serde::{Deserialize, Serialize};

use super::outcome::{Answer, Outcome, Story, Would};

/// How two outcomes differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// What the two setups are called.
    pub setups: (String, String),
    /// In figures.
    pub totals: Vec<Total>,
    /// Rules whose matches or findings differ, or that only one of them has.
    pub rules: Vec<RuleChange>,
    /// Incidents that only the first would have shown.
    pub gone: Vec<Story>,
    /// Incidents that only the second would have shown.
    pub new: Vec<Story>,
    /// Incidents that both would have shown, and not in the same way.
    pub changed: Vec<Changed>,
    /// Incidents that are the same in both.
    pub same: u64,
}

/// A figure of both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Of what.
    pub what: String,
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// A rule of which something else came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleChange {
    /// Its id.
    pub rule: String,
    /// Its title.
    pub title: String,
    /// Events that it matched; nothing where the setup does not have it.
    pub matches: (Option<u64>, Option<u64>),
    /// Findings that came of them.
    pub findings: (Option<u64>, Option<u64>),
}

/// An incident that both would have shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// As the first shows it.
    pub before: Story,
    /// As the second does.
    pub after: Story,
    /// What differs, a line each.
    pub what: Vec<String>,
}

/// Compares two outcomes. Incidents are the same story if they have the same id, or else if they share events.
#[must_use]
pub fn compare(before: &Outcome, after: &Outcome) -> Difference {
    let pairs = pairs(before, after);
    let (mut changed, mut same) = (Vec::new(), 0);
    for (a, b) in &pairs {
        let (Some(a), Some(b)) = (before.incidents.get(*a), after.incidents.get(*b)) else { continue };
        let what = differences(a, b);
        if what.is_empty() {
            same += 1;
        } else {
            changed.push(Changed { before: a.clone(), after: b.clone(), what });
        }
    }
    let ours: BTreeSet<&IncidentId> = pairs.iter().map(|(a, _)| *a).collect();
    let theirs: BTreeSet<&IncidentId> = pairs.iter().map(|(_, b)| *b).collect();
    let without = |all: &Outcome, paired: &BTreeSet<&IncidentId>| {
        in_order(all.incidents.values().filter(|one| !paired.contains(&one.id)).cloned().collect())
    };
    changed.sort_by(|a, b| (a.after.opened, &a.after.id).cmp(&(b.after.opened, &b.after.id)));
    Difference {
        setups: (before.setup.clone(), after.setup.clone()),
        totals: totals(before, after),
        rules: rules(before, after),
        gone: without(before, &ours),
        new: without(after, &theirs),
        changed,
        same,
    }
}

fn in_order(mut stories: Vec<Story>) -> Vec<Story> {
    stories.sort_by(|a, b| (a.opened, &a.id).cmp(&(b.opened, &b.id)));
    stories
}

/// Of the incidents of both that are one story: the ids in either.
fn pairs<'a>(before: &'a Outcome, after: &'a Outcome) -> Vec<(&'a IncidentId, &'a IncidentId)> {
    let mut pairs: Vec<(&IncidentId, &IncidentId)> =
        before.incidents.keys().filter(|id| after.incidents.contains_key(*id)).map(|id| (id, id)).collect();
    let mut taken: BTreeSet<&IncidentId> = pairs.iter().map(|(_, b)| *b).collect();
    let mut by_event: BTreeMap<&str, &IncidentId> = BTreeMap::new();
    for (id, story) in after.incidents.iter().filter(|(id, _)| !taken.contains(*id)) {
        by_event.extend(story.events.iter().map(|event| (event.as_str(), id)));
    }
    for (id, story) in before.incidents.iter().filter(|(id, _)| !after.incidents.contains_key(*id)) {
        let mut shared: BTreeMap<&IncidentId, usize> = BTreeMap::new();
        for other in story.events.iter().filter_map(|event| by_event.get(event.as_str())) {
            *shared.entry(*other).or_default() += 1;
        }
        let free = shared.into_iter().filter(|(other, _)| !taken.contains(*other));
        // The one with the most in common; of those the first.
        let best = free.max_by_key(|(other, events)| (*events, std::cmp::Reverse(*other)));
        if let Some((other, _)) = best {
            taken.insert(other);
            pairs.push((id, other));
        }
    }
    pairs
}

fn differences(a: &Story, b: &Story) -> Vec<String> {
    let mut what = Vec::new();
    let mut differs = |name: &str, before: String, after: String| {
        if before != after {
            what.push(format!("{name}: {before} → {after}"));
        }
    };
    differs("severity", format!("{:?}", a.severity), format!("{:?}", b.severity));
    differs("gate", word(a.answer()).into(), word(b.answer()).into());
    differs("playbooks", playbooks(a), playbooks(b));
    differs("state", format!("{:?}", a.state), format!("{:?}", b.state));
    differs("findings", a.findings.to_string(), b.findings.to_string());
    for (sign, one, other) in [("no longer", a, b), ("now", b, a)] {
        for rule in one.rules.difference(&other.rules) {
            what.push(format!("{sign} found by {rule}"));
        }
    }
    let done = |story: &Story| -> BTreeMap<(String, String), usize> {
        let mut all = BTreeMap::new();
        for Would { action, target, .. } in &story.actions {
            *all.entry((action.clone(), target.clone())).or_default() += 1;
        }
        all
    };
    let (ours, theirs) = (done(a), done(b));
    for (sign, one, other) in [("no longer", &ours, &theirs), ("now", &theirs, &ours)] {
        for ((action, target), times) in one {
            if other.get(&(action.clone(), target.clone())).copied().unwrap_or(0) < *times {
                what.push(format!("{sign} {action} on {target}"));
            }
        }
    }
    what
}

/// As people read it.
#[must_use]
pub fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Automatic => "acts by itself",
        Answer::Asked => "asks",
        Answer::Shadow => "shadow",
        Answer::Nothing => "no playbook",
    }
}

fn playbooks(story: &Story) -> String {
    let names: BTreeSet<&str> = story.decisions.iter().map(|one| one.playbook.as_str()).collect();
    if names.is_empty() { "none".into() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
}

fn rules(before: &Outcome, after: &Outcome) -> Vec<RuleChange> {
    let ids: BTreeSet<&String> = before.matches.keys().chain(after.matches.keys()).collect();
    let change = |id: &String| {
        let (a, b) = (before.matches.get(id), after.matches.get(id));
        let numbers = |one: Option<&super::RuleCount>| one.map(|one| (one.matches, one.findings));
        (numbers(a) != numbers(b)).then(|| RuleChange {
            rule: id.clone(),
            title: b.or(a).map(|one| one.title.clone()).unwrap_or_default(),
            matches: (a.map(|one| one.matches), b.map(|one| one.matches)),
            findings: (a.map(|one| one.findings), b.map(|one| one.findings)),
        })
    };
    ids.into_iter().filter_map(change).collect()
}

fn totals(before: &Outcome, after: &Outcome) -> Vec<Total> {
    let mut all = vec![total("rules", before.rules as u64, after.rules as u64)];
    all.push(total("playbooks", before.playbooks as u64, after.playbooks as u64));
    all.push(total("findings", before.findings, after.findings));
    let count = |of: &Outcome, wanted: &dyn Fn(&Story) -> bool| {
        of.incidents.values().filter(|story| wanted(story)).count() as u64
    };
    let mut counted = |what: &str, wanted: &dyn Fn(&Story) -> bool| {
        all.push(total(what, count(before, wanted), count(after, wanted)));
    };
    counted("incidents", &|_| true);
    for level in [model::Level::Critical, model::Level::High, model::Level::Medium] {
        counted(&format!("… {}", format!("{level:?}").to_lowercase()), &|story| story.severity == level);
    }
    for answer in [Answer::Automatic, Answer::Asked, Answer::Shadow, Answer::Nothing] {
        counted(&format!("… {}", word(answer)), &|story| story.answer() == answer);
    }
    let actions = |of: &Outcome| of.incidents.values().map(|story| story.actions.len() as u64).sum();
    all.push(total("actions", actions(before), actions(after)));
    all
}

fn total(what: &str, before: u64, after: u64) -> Total {
    Total { what: what.into(), before, after }
}
