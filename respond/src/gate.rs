//! Whether a run may act by itself: the playbook's mode, the policies, the switch, budgets, losses in the window, three signals of what was
//! recorded (how surely the rule is right, what else explains it, how often the playbook was right), and whether what the steps are meant for
//! is certain and may be touched. Each is shown with what was found. docs/gate.md has the formulas.

mod confidence;
mod context;
mod explain;
mod history;
mod loss;
pub mod promotion;
mod rules;
mod wants;

use std::collections::BTreeMap;

pub use confidence::{Cases, Corpus, lower_bound};
pub(crate) use context::is_on;
pub use context::{SWITCH, Underway};
use crds::{EvidenceRule, Exclusion, Match, Mode, Protected, ResponsePolicySpec};
pub use explain::{Explanation, PolicyWord, SettingWord, explain};
use model::{
    ActionRecord, Actor, Finding, GateDecision, GateOutcome, Incident, NodeId, RunId, Signal, SignalKind,
    SignalSays, Timestamp, Workload, short_hash, system_names,
};
use rules::Rules;
use serde::{Deserialize, Serialize};
pub use wants::{ACTORS_WITHIN, TARGETS_WITHIN, Want};

use crate::{
    expression::Variables,
    facts::Facts,
    plan::Plan,
    run::{Grants, RunStart},
    target::{self, Unfit, below, narrowest},
    trigger::names_technique,
};

/// What the gate looks at.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// The finding that the playbook answers ([`crate::trigger::choose`]).
    pub finding: &'a Finding,
    /// The node that the finding is from.
    pub node: &'a NodeId,
    /// Every policy, by name.
    pub policies: &'a [(String, ResponsePolicySpec)],
    /// What was done automatically within the last hour.
    pub used: Usage,
    /// What the node did by itself about this incident and what is still in force.
    pub reactions: &'a [ActionRecord],
    /// What was recorded of the rule, the playbook and the place.
    pub evidence: &'a Evidence,
    /// Who keeps everything automatic from beginning, where somebody does.
    pub paused: Option<&'a Paused>,
    /// Now.
    pub now: Timestamp,
}

/// What was recorded. What is absent could not be read, and then a person is asked (I9).
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was said of the findings of the rule.
    pub pattern: Option<Cases>,
    /// What came of the rule's own tests; absent where they are not known here, which asks nobody.
    pub corpus: Option<Corpus>,
    /// What was said of the runs of the playbook.
    pub playbook: Option<Cases>,
    /// What playbooks wanted within the last hour.
    pub wants: Option<Vec<Want>>,
    /// What was said, by verdict and whatever rule found it, of those who did it and of where ([`Want::entities`]); who is absent was never
    /// judged.
    pub entities: Option<BTreeMap<String, Cases>>,
    /// Whether the workload is being rolled out.
    pub rollout: Underway,
    /// Whether the node is being drained.
    pub drain: Underway,
    /// The playbook was taken back by itself ([`promotion`]).
    pub demoted: Option<promotion::Demotion>,
}

impl Evidence {
    /// What there is on the first day: nothing was said, nothing was wanted.
    #[must_use]
    pub fn nothing_yet() -> Self {
        let (pattern, playbook) = (Some(Cases::default()), Some(Cases::default()));
        Self {
            pattern,
            corpus: None,
            playbook,
            wants: Some(Vec::new()),
            entities: Some(BTreeMap::new()),
            rollout: Underway::None,
            drain: Underway::None,
            demoted: None,
        }
    }
}

/// Somebody keeps everything automatic from beginning (`hemostat pause`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Who.
    pub by: Actor,
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub because: String,
}

/// What was done automatically within the last hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Runs that started by themselves.
    pub runs: u32,
    /// Actions that runs made by themselves.
    pub actions: u32,
    /// Of those runs, the ones in the incident's namespace.
    pub runs_here: u32,
    /// Of those actions, the ones in the incident's namespace.
    pub actions_here: u32,
}

/// Decides, and gives everything that the run is decided from.
#[must_use]
pub fn decide(plan: &Plan, situation: &Situation<'_>) -> RunStart {
    let matching: Vec<&(String, ResponsePolicySpec)> =
        situation.policies.iter().filter(|(_, policy)| matches(&policy.matches, plan, situation)).collect();
    let facts = Facts::of(situation.incident, situation.finding, situation.node);
    let grants = grants(plan, situation, &matching);
    let rules = Rules::of(plan, &matching);
    let mut verdict = Verdict { outcome: GateOutcome::Automatic, reasons: Vec::new(), signals: Vec::new() };
    mode(&mut verdict, plan, &matching);
    demotion(&mut verdict, situation);
    pause(&mut verdict, situation);
    exclusions(&mut verdict, plan, situation, &matching);
    budgets(&mut verdict, plan, situation, &matching);
    loss::look(&mut verdict, situation);
    signals(&mut verdict, plan, situation, &rules);
    targets(&mut verdict, plan, &facts, &grants);
    undo(&mut verdict, plan, &grants);
    RunStart {
        run: run_id(plan, situation.incident),
        incident: situation.incident.id.clone(),
        node: situation.node.clone(),
        playbook: plan.name.clone(),
        spec: plan.spec.clone(),
        decision: GateDecision {
            outcome: verdict.outcome,
            reasons: verdict.reasons,
            signals: verdict.signals,
        },
        grants,
        facts,
        // a shadow run never sends anything, so it cannot answer for what is in force: `adopt` makes a run that can
        reactions: match verdict.outcome {
            GateOutcome::Shadow => Vec::new(),
            GateOutcome::Automatic | GateOutcome::Approval => situation.reactions.to_vec(),
        },
    }
}

/// What judgements of a run say something of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgedAs {
    /// Of what rule and playbook do when there is an attack.
    #[default]
    Attacks,
    /// Of a drill, a demo, a bench (`gate: {evidence: Shown}` in a policy): they say nothing of attacks.
    Exercises,
}

/// What judgements of a run of `plan` in this situation say something of.
#[must_use]
pub fn judged_as(plan: &Plan, situation: &Situation<'_>) -> JudgedAs {
    let matching: Vec<&(String, ResponsePolicySpec)> =
        situation.policies.iter().filter(|(_, policy)| matches(&policy.matches, plan, situation)).collect();
    match Rules::of(plan, &matching).evidence.value {
        EvidenceRule::Shown => JudgedAs::Exercises,
        EvidenceRule::Enforced => JudgedAs::Attacks,
    }
}

/// A run of nothing but the node's own reactions, so that they can be rolled back where no playbook answers, or one only in shadow.
#[must_use]
pub fn adopt(situation: &Situation<'_>) -> RunStart {
    let plan = Plan::reactions_only();
    let reasons = vec!["no playbook answers this incident; the node acted by itself".into()];
    RunStart {
        run: run_id(&plan, situation.incident),
        incident: situation.incident.id.clone(),
        node: situation.node.clone(),
        playbook: plan.name.clone(),
        grants: grants(&plan, situation, &[]),
        spec: plan.spec,
        decision: GateDecision { outcome: GateOutcome::Automatic, reasons, signals: Vec::new() },
        facts: Facts::of(situation.incident, situation.finding, situation.node),
        reactions: situation.reactions.to_vec(),
    }
}

/// As [`adopt`], for reactions that no finding tells of.
#[must_use]
pub fn adopt_without_finding(incident: &Incident, node: &NodeId, reactions: &[ActionRecord]) -> RunStart {
    let plan = Plan::reactions_only();
    let wait = crds::Approvals::default().timeout.0;
    RunStart {
        run: run_id(&plan, incident),
        incident: incident.id.clone(),
        node: node.clone(),
        playbook: plan.name.clone(),
        spec: plan.spec,
        decision: GateDecision {
            outcome: GateOutcome::Automatic,
            reasons: vec!["no finding tells of it; the node acted by itself".into()],
            signals: Vec::new(),
        },
        // a run without steps asks for nothing
        grants: Grants {
            standing: BTreeMap::new(),
            approvers: Vec::new(),
            approval_timeout_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            widest: narrowest(std::iter::empty()),
            protected: Protected::default(),
        },
        facts: Facts::without_finding(incident, node),
        reactions: reactions.to_vec(),
    }
}

/// One run of a playbook for an incident, however often it is decided (I3).
fn run_id(plan: &Plan, incident: &Incident) -> RunId {
    let hash = short_hash([incident.id.as_str(), plan.name.as_str()], 4);
    RunId::new(format!("run-{hash}-{}", plan.name))
}

struct Verdict {
    outcome: GateOutcome,
    reasons: Vec<String>,
    signals: Vec<Signal>,
}

impl Verdict {
    /// States what was found; the outcome becomes no freer than `at_most`.
    fn note(&mut self, at_most: GateOutcome, reason: String) {
        self.outcome = stricter(self.outcome, at_most);
        self.reasons.push(reason);
    }
}

fn stricter(one: GateOutcome, other: GateOutcome) -> GateOutcome {
    let strictness = |outcome| match outcome {
        GateOutcome::Automatic => 0,
        GateOutcome::Approval => 1,
        GateOutcome::Shadow => 2,
    };
    if strictness(other) > strictness(one) { other } else { one }
}

fn of_mode(mode: Mode) -> GateOutcome {
    match mode {
        Mode::Shadow => GateOutcome::Shadow,
        Mode::Approve => GateOutcome::Approval,
        Mode::Auto => GateOutcome::Automatic,
    }
}

fn mode(verdict: &mut Verdict, plan: &Plan, matching: &[&(String, ResponsePolicySpec)]) {
    verdict.note(of_mode(plan.spec.mode), format!("mode of the playbook: {:?}", plan.spec.mode));
    for (name, policy) in matching {
        match policy.mode {
            None => {}
            Some(mode) if mode > plan.spec.mode => verdict.note(
                GateOutcome::Automatic,
                format!("policy {name} would allow {mode:?}; a policy does not widen a playbook"),
            ),
            Some(mode) => verdict.note(of_mode(mode), format!("policy {name} allows at most {mode:?}")),
        }
    }
}

fn demotion(verdict: &mut Verdict, situation: &Situation<'_>) {
    if let Some(demotion) = &situation.evidence.demoted {
        let what = format!("taken back to {:?} at {}: {}", demotion.to, demotion.at, demotion.because);
        verdict.note(of_mode(demotion.to), what);
    }
}

fn pause(verdict: &mut Verdict, situation: &Situation<'_>) {
    if let Some(paused) = situation.paused {
        let why = if paused.because.is_empty() { String::new() } else { format!(": {}", paused.because) };
        let what = format!("{} paused everything automatic at {}{why}", paused.by, paused.at);
        verdict.note(GateOutcome::Approval, what);
    }
}

/// The three signals of the evidence. A run acts by itself only if all of them let it.
fn signals(verdict: &mut Verdict, plan: &Plan, situation: &Situation<'_>, rules: &Rules<'_>) {
    let all = [
        confidence::signal(plan, situation, rules),
        context::signal(plan, situation, rules),
        history::signal(plan, situation, rules),
    ];
    for signal in all {
        let numbers = match (signal.found, signal.needed) {
            (Some(found), Some(needed)) => format!(" {found}, {needed} needed"),
            _ => String::new(),
        };
        let evidence = signal.evidence.join("; ");
        // Judgements of exercises say nothing of attacks; what else explains a finding does.
        let shown = rules.evidence.value == EvidenceRule::Shown && signal.kind != SignalKind::Context;
        let (at_most, aside) = match (signal.says, rules.evidence.by.filter(|_| shown)) {
            (SignalSays::Act, _) => (GateOutcome::Automatic, String::new()),
            (SignalSays::Ask, None) => (GateOutcome::Approval, String::new()),
            (SignalSays::Ask, Some(policy)) => {
                (GateOutcome::Automatic, format!(" (policy {policy} shows it and does not enforce it)"))
            }
        };
        verdict.note(at_most, format!("{}{numbers}: {evidence}{aside}", signal.kind));
        verdict.signals.push(signal);
    }
}

fn exclusions(
    verdict: &mut Verdict,
    plan: &Plan,
    situation: &Situation<'_>,
    matching: &[&(String, ResponsePolicySpec)],
) {
    for (name, policy) in matching {
        for exclusion in policy.exclusions.iter().filter(|e| in_force(e, situation.now)) {
            if !exclusion.matches.is_empty() && matches(&exclusion.matches, plan, situation) {
                verdict.note(GateOutcome::Shadow, format!("policy {name} excludes it: {}", exclusion.reason));
            }
        }
    }
}

fn in_force(exclusion: &Exclusion, now: Timestamp) -> bool {
    exclusion.expires.is_none_or(|end| now < end.0)
}

fn budgets(
    verdict: &mut Verdict,
    plan: &Plan,
    situation: &Situation<'_>,
    matching: &[&(String, ResponsePolicySpec)],
) {
    let used = situation.used;
    let planned = u32::try_from(plan.steps.len()).unwrap_or(u32::MAX);
    for (name, policy) in matching {
        let budgets = &policy.budgets;
        let of_runs = [
            (budgets.runs_per_hour, used.runs, ""),
            (budgets.runs_per_hour_and_namespace, used.runs_here, " in the namespace"),
        ];
        for (most, used, place) in of_runs {
            let Some(most) = most else { continue };
            let at_most = if used >= most { GateOutcome::Approval } else { GateOutcome::Automatic };
            verdict.note(at_most, format!("policy {name}: {used} of {most} automatic runs this hour{place}"));
        }
        let of_actions = [
            (budgets.actions_per_hour, used.actions, ""),
            (budgets.actions_per_hour_and_namespace, used.actions_here, " in the namespace"),
        ];
        for (most, used, place) in of_actions {
            let Some(most) = most else { continue };
            let beyond = used.saturating_add(planned) > most;
            let at_most = if beyond { GateOutcome::Approval } else { GateOutcome::Automatic };
            let text =
                format!("policy {name}: {used} of {most} automatic actions this hour{place}, {planned} more");
            verdict.note(at_most, text);
        }
    }
}

/// Steps whose target does not depend on earlier steps are resolved now: what cannot be touched is known before anything begins.
fn targets(verdict: &mut Verdict, plan: &Plan, facts: &Facts, grants: &Grants) {
    let variables = Variables::of(facts);
    let (mut looked_at, mut unfit) = (0_usize, 0_usize);
    for step in &plan.steps {
        let Some(way) = step.ways.first() else { continue };
        if way.needs_outputs() {
            continue;
        }
        looked_at += 1;
        if let Err(error) = target::resolve(way, facts, &variables, &plan.spec.blast_radius, grants) {
            unfit += 1;
            let invariant = match error {
                Unfit::Unresolved { .. } | Unfit::Evaluation(_) => "I9",
                Unfit::Protected { .. } | Unfit::TooWide { .. } => "I6",
            };
            verdict.note(
                GateOutcome::Approval,
                format!("step {} will not be done ({invariant}): {error}", step.name),
            );
        }
    }
    if unfit == 0 {
        verdict.note(GateOutcome::Automatic, "every target is certain and may be touched".into());
    } else if unfit == looked_at && looked_at == plan.steps.len() {
        verdict.note(GateOutcome::Shadow, "no step can be done".into());
    }
}

fn undo(verdict: &mut Verdict, plan: &Plan, grants: &Grants) {
    for step in &plan.steps {
        let Some(way) = step.ways.first() else { continue };
        let undo = way.kind.undo();
        let Some(residual) = undo.residual() else { continue };
        let text = match grants.standing.get(way.kind.name()) {
            Some(by) => {
                format!("step {} cannot be undone ({residual}); standing approval of {by}", step.name)
            }
            None => format!("step {} cannot be undone ({residual}); it waits for a person", step.name),
        };
        verdict.note(GateOutcome::Automatic, text);
    }
}

fn grants(plan: &Plan, situation: &Situation<'_>, matching: &[&(String, ResponsePolicySpec)]) -> Grants {
    let mut grants = Grants {
        standing: BTreeMap::new(),
        approvers: Vec::new(),
        approval_timeout_ms: 0,
        widest: narrowest(matching.iter().map(|(_, policy)| policy.widest)),
        protected: Protected::default(),
    };
    let mut wait: Option<std::time::Duration> = None;
    for (_, policy) in matching {
        for standing in policy.standing_approvals.iter().filter(|s| situation.now < s.expires.0) {
            if standing.playbooks.iter().any(|name| name == plan.name.as_str()) {
                grants.standing.insert(standing.action.0.clone(), standing.approved_by.clone());
            }
        }
        let named = &policy.approvals.approvers;
        if grants.approvers.is_empty() {
            grants.approvers.clone_from(named);
        } else if !named.is_empty() {
            grants.approvers.retain(|who| named.contains(who));
            if grants.approvers.is_empty() {
                // policies that agree on nobody let nobody approve: no actor is a group, and none is called so
                grants.approvers.push("group:(nobody)".into());
            }
        }
        wait = Some(wait.map_or(policy.approvals.timeout.0, |known| known.min(policy.approvals.timeout.0)));
    }
    // protection does not ask which incidents a policy is for: what one owner protects, no playbook touches
    for (_, policy) in situation.policies {
        let (all, more) = (&mut grants.protected, &policy.protected);
        all.cgroup_paths.extend(more.cgroup_paths.iter().cloned());
        all.units.extend(more.units.iter().cloned());
        all.paths.extend(more.paths.iter().cloned());
        all.networks.extend(more.networks.iter().copied());
        all.namespaces.extend(more.namespaces.iter().cloned());
        all.accounts.extend(more.accounts.iter().cloned());
    }
    let wait = wait.unwrap_or(crds::Approvals::default().timeout.0);
    grants.approval_timeout_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    grants
}

fn matches(wanted: &Match, plan: &Plan, situation: &Situation<'_>) -> bool {
    mismatch(wanted, plan, situation).is_none()
}

/// The first part of a `match` that does not fit.
fn mismatch(wanted: &Match, plan: &Plan, situation: &Situation<'_>) -> Option<&'static str> {
    let workload = situation.finding.event.process.workload.as_ref();
    let any = |list: &[String], fits: &dyn Fn(&str) -> bool| {
        list.is_empty() || list.iter().any(|entry| fits(entry))
    };
    let in_path = |entry: &str| workload.cgroup_path().is_some_and(|path| below(path, entry));
    // What a user calls a unit of his own is no word of the policy's author.
    let in_unit = |entry: &str| match workload {
        Workload::Unit { cgroup_path, .. } => system_names(cgroup_path).last() == Some(entry),
        _ => false,
    };
    let in_container = |entry: &str| match workload {
        Workload::Container { container_id, .. } => entry.len() >= 12 && container_id.starts_with(entry),
        _ => false,
    };
    let in_pod = |entry: &str| match workload {
        Workload::Container { pod_uid: Some(uid), .. } => uid == entry,
        _ => false,
    };
    let parts = [
        ("cgroupPaths", any(&wanted.cgroup_paths, &in_path)),
        ("units", any(&wanted.units, &in_unit)),
        ("containers", any(&wanted.containers, &in_container)),
        ("pods", any(&wanted.pods, &in_pod)),
        ("levels", wanted.levels.is_empty() || wanted.levels.contains(&situation.incident.severity)),
        (
            "techniques",
            wanted.techniques.is_empty()
                || names_technique(&wanted.techniques, &situation.incident.techniques),
        ),
        ("playbooks", any(&wanted.playbooks, &|entry| entry == plan.name.as_str())),
    ];
    parts.into_iter().find(|(_, fits)| !fits).map(|(name, _)| name)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
