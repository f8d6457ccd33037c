//! Which policy decides what: for people who want to know before, or why.

use crds::ResponsePolicySpec;
use model::{GateOutcome, PlaybookName, Signal};
use serde::{Deserialize, Serialize};

use super::{
    Situation,
    context::is_on,
    decide, in_force, mismatch,
    rules::{Rules, Setting, strictest},
};
use crate::plan::Plan;

/// What holds for an incident and a playbook, and whose word it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The playbook.
    pub playbook: PlaybookName,
    /// Every policy that there is, and whether it speaks of the incident.
    pub policies: Vec<PolicyWord>,
    /// Each setting.
    pub settings: Vec<SettingWord>,
    /// What the gate would say now.
    pub outcome: GateOutcome,
    /// Why.
    pub reasons: Vec<String>,
    /// Its signals.
    pub signals: Vec<Signal>,
}

/// Whether a policy speaks of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyWord {
    /// Its name.
    pub policy: String,
    /// The part of its `match` that does not fit; it speaks of the incident when absent.
    pub fails: Option<String>,
}

/// A setting that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingWord {
    /// Its name in a policy.
    pub setting: String,
    /// What holds.
    pub value: String,
    /// Whose word it is: a policy's name, `the playbook`, or `when no policy says`.
    pub by: String,
    /// What other policies said.
    pub overruled: Vec<String>,
}

/// Tells which policy decides what.
#[must_use]
pub fn explain(plan: &Plan, situation: &Situation<'_>) -> Explanation {
    let of = |(name, policy): &(String, ResponsePolicySpec)| PolicyWord {
        policy: name.clone(),
        fails: mismatch(&policy.matches, plan, situation).map(str::to_owned),
    };
    let policies = situation.policies.iter().map(of).collect();
    let matching: Vec<&(String, ResponsePolicySpec)> = situation
        .policies
        .iter()
        .filter(|(_, policy)| mismatch(&policy.matches, plan, situation).is_none())
        .collect();
    let rules = Rules::of(plan, &matching);
    let mut settings = vec![
        word("mode", &rules.mode, "the playbook", |mode| format!("{mode:?}")),
        word("widest", &rules.widest, UNSAID, ToString::to_string),
        word("gate.evidence", &rules.evidence, UNSAID, |rule| format!("{rule:?}")),
        word("gate.beginning", &rules.beginning, UNSAID, |rule| format!("{rule:?}")),
        word("gate.judgedRuns", &rules.judged_runs, UNSAID, ToString::to_string),
        word("gate.targets", &rules.targets, UNSAID, ToString::to_string),
        word("gate.namespaces", &rules.namespaces, UNSAID, ToString::to_string),
    ];
    type Budget = (&'static str, fn(&ResponsePolicySpec) -> Option<u32>);
    let budgets: [Budget; 4] = [
        ("budgets.runsPerHour", |policy| policy.budgets.runs_per_hour),
        ("budgets.actionsPerHour", |policy| policy.budgets.actions_per_hour),
        ("budgets.runsPerHourAndNamespace", |policy| policy.budgets.runs_per_hour_and_namespace),
        ("budgets.actionsPerHourAndNamespace", |policy| policy.budgets.actions_per_hour_and_namespace),
    ];
    for (name, of) in budgets {
        let setting = strictest(&matching, u32::MAX, &of, |new, old| new < old);
        settings.push(word(name, &setting, UNSAID, |most| match *most {
            u32::MAX => "no limit".into(),
            most => most.to_string(),
        }));
    }
    let timeout = strictest(
        &matching,
        crds::Approvals::default().timeout,
        &|policy| Some(policy.approvals.timeout),
        |new, old| new < old,
    );
    settings.push(word("approvals.timeout", &timeout, UNSAID, ToString::to_string));
    let start = decide(plan, situation);
    let approvers = &start.grants.approvers;
    let named: Vec<&str> = matching
        .iter()
        .filter(|(_, policy)| !policy.approvals.approvers.is_empty())
        .map(|(name, _)| name.as_str())
        .collect();
    settings.push(SettingWord {
        setting: "approvals.approvers".into(),
        value: if approvers.is_empty() { "anybody with access".into() } else { approvers.join(", ") },
        by: if named.is_empty() { UNSAID.into() } else { named.join(" and ") },
        overruled: Vec::new(),
    });
    for (action, by) in &start.grants.standing {
        settings.push(SettingWord {
            setting: format!("standingApprovals[{action}]"),
            value: "needs no asking".into(),
            by: by.clone(),
            overruled: Vec::new(),
        });
    }
    settings.extend(matching.iter().flat_map(|(name, policy)| times(name, policy, plan, situation)));
    Explanation {
        playbook: plan.name.clone(),
        policies,
        settings,
        outcome: start.decision.outcome,
        reasons: start.decision.reasons,
        signals: start.decision.signals,
    }
}

/// Exclusions and times of planned work of a policy that speaks of the incident, and whether each holds now. They overrule nothing: each holds by
/// itself.
fn times(
    name: &str,
    policy: &ResponsePolicySpec,
    plan: &Plan,
    situation: &Situation<'_>,
) -> Vec<SettingWord> {
    let setting = |setting: &str, value: String| SettingWord {
        setting: setting.into(),
        value,
        by: format!("policy {name}"),
        overruled: Vec::new(),
    };
    let exclusions = policy.exclusions.iter().map(|one| {
        let holds = match &one.expires {
            Some(end) if !in_force(one, situation.now) => format!("it ended {}", end.0),
            _ if one.matches.is_empty() => "it names nothing and excludes nothing".into(),
            until => match mismatch(&one.matches, plan, situation) {
                Some(part) => format!("not this incident: its match.{part} does not fit"),
                None => {
                    let until = until.as_ref().map(|end| format!(" until {}", end.0)).unwrap_or_default();
                    format!("only recorded{until}")
                }
            },
        };
        setting("exclusions", format!("{holds}: {}", one.reason))
    });
    let maintenance = policy.maintenance.iter().map(|one| {
        let asks = if is_on(one, situation.now) { "a person is asked now" } else { "not now" };
        let again = one.every.map(|every| format!(", again every {every}")).unwrap_or_default();
        setting("maintenance", format!("{asks}: {} to {}{again}: {}", one.from.0, one.until.0, one.reason))
    });
    exclusions.chain(maintenance).collect()
}

const UNSAID: &str = "when no policy says";

fn word<T>(name: &str, setting: &Setting<'_, T>, unsaid: &str, show: impl Fn(&T) -> String) -> SettingWord {
    SettingWord {
        setting: name.into(),
        value: show(&setting.value),
        by: setting.by.map_or_else(|| unsaid.to_owned(), |policy| format!("policy {policy}")),
        overruled: setting
            .overruled
            .iter()
            .map(|(policy, value)| format!("{policy}: {}", show(value)))
            .collect(),
    }
}
