//! From an incident to its document.

use model::{
    ActionState, Activity, Finding, GateOutcome, Incident, IncidentState, RunState, RunSummary, SignalSays,
    Timestamp, UndoClass,
};

use crate::{
    desk::{Desk, Word},
    document::{Answer, Command, Document, Lane, Milestone, Moment, PlanTold, Response, Seen, Short},
    entities, processes,
    text::{LONGEST, shown, span},
};

/// Findings told in full (I11).
const MOST_FINDINGS: usize = 32;
/// Moments of the timeline (I11); the middle is left out.
const MOST_MOMENTS: usize = 120;
/// Lines of one list (I11).
const MOST_LINES: usize = 64;

/// What is known beside the incident itself.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The plan of each run.
    pub plans: &'a [PlanTold],
    /// Where no playbook answered: why, in words.
    pub unanswered: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// Tells an incident to one who answers on the controller's machine; [`answers`] has the commands of other places.
#[must_use]
pub fn document(incident: &Incident, known: &Known<'_>) -> Document {
    let (processes, processes_left_out) = processes::forest(incident);
    let (timeline, timeline_left_out) = timeline(incident);
    let kept = incident.findings.len().min(MOST_FINDINGS);
    Document {
        incident: incident.id.clone(),
        title: shown(&incident.title, 200),
        severity: incident.severity,
        state: incident.state,
        verdict: incident.verdict,
        told: known.now,
        techniques: incident.techniques.iter().take(MOST_LINES).map(|one| shown(one, 20)).collect(),
        summary: summary(incident, known),
        answers: answers(incident, known.now, &Desk::Socket),
        milestones: milestones(incident),
        timeline,
        timeline_left_out,
        processes,
        processes_left_out,
        graph: entities::graph(incident),
        findings: incident.findings.iter().take(kept).map(seen).collect(),
        findings_left_out: (incident.findings.len() - kept) as u64 + incident.findings_dropped,
        known: incident.enrichment.clone(),
        responses: incident.runs.iter().map(|run| response(run, incident, known.plans)).collect(),
    }
}

fn after(incident: &Incident, at: Timestamp) -> u64 {
    u64::try_from(at.since(incident.first_event).as_micros()).unwrap_or(u64::MAX)
}

fn summary(incident: &Incident, known: &Known<'_>) -> Vec<String> {
    let findings = incident.findings.len() as u64 + incident.findings_dropped;
    let about = incident.pod_path().map(|path| format!("pod {path}"));
    let about = about.or_else(|| incident.entities.first().map(ToString::to_string));
    let mut out = vec![format!(
        "{} {} since {}, about {}.",
        findings,
        if findings == 1 { "finding" } else { "findings" },
        incident.first_event,
        shown(&about.unwrap_or_else(|| "nothing that is known by name".into()), 200)
    )];
    out.push(match incident.contained {
        Some(at) => format!("Contained {} after the first event.", span(after(incident, at))),
        None => "Not contained.".into(),
    });
    let force: Vec<&str> = incident
        .actions
        .iter()
        .filter(|a| processes::in_force(a) && a.action.undo().has_undo())
        .map(|a| a.action.name())
        .collect();
    if !force.is_empty() {
        out.push(format!("In force: {}; all of it can be undone.", force.join(", ")));
    }
    if incident.runs.is_empty() {
        out.push(if known.unanswered.is_empty() {
            "No playbook answers it.".into()
        } else {
            shown(known.unanswered, LONGEST)
        });
    }
    let lost: u64 = incident.findings.iter().flat_map(|finding| finding.loss.lost.values()).sum();
    if lost > 0 {
        out.push(format!("{lost} events were lost around it: the picture may have gaps."));
    }
    out
}

/// What a person is asked, with the commands by which they answer at `desk`.
#[must_use]
pub fn answers(incident: &Incident, now: Timestamp, desk: &Desk<'_>) -> Vec<Answer> {
    let mut out = Vec::new();
    for run in &incident.runs {
        for request in &run.waiting {
            let command = |verb| desk.answer(verb, incident, &run.id, &request.step);
            let left = u64::try_from(request.expires.since(now).as_micros()).unwrap_or(u64::MAX);
            out.push(Answer {
                question: format!(
                    "May playbook {} go on ({}; {} left)?",
                    shown(run.playbook.as_str(), 80),
                    shown(request.step.as_str(), 80),
                    span(left)
                ),
                would: shown(&request.would, LONGEST),
                because: shown(&request.because, LONGEST * 4),
                until: Some(request.expires),
                commands: vec![
                    Command { label: "Approve".into(), command: command("approve") },
                    Command { label: "Deny".into(), command: command("deny") },
                ],
            });
        }
    }
    if incident.verdict.is_none() && incident.state != IncidentState::Closed {
        let undo = incident
            .actions
            .iter()
            .any(|action| processes::in_force(action) && action.action.undo().has_undo());
        let mut commands = vec![
            Command { label: "An attack".into(), command: desk.word(Word::TruePositive, incident) },
            Command { label: "A false positive".into(), command: desk.word(Word::FalsePositive, incident) },
        ];
        if undo {
            commands.push(Command {
                label: "Undo everything".into(),
                command: desk.word(Word::UndoAll, incident),
            });
        }
        out.push(Answer {
            question: "What was it?".into(),
            would: "A false positive undoes everything that can be undone; either word teaches the gate."
                .into(),
            because: "The gate goes by what people say of incidents.".into(),
            until: None,
            commands,
        });
    }
    out
}

fn milestones(incident: &Incident) -> Vec<Milestone> {
    let named = |name: &str, at: Timestamp| Milestone { name: name.into(), after_us: after(incident, at) };
    let mut out = vec![named("first event", incident.first_event), named("incident", incident.opened)];
    let first = |wanted: fn(&model::ActionRecord) -> bool| {
        incident.actions.iter().filter(|a| wanted(a)).filter_map(|a| a.applied).min()
    };
    if let Some(at) = first(|action| action.action.undo().has_undo()) {
        out.push(named("first hold", at));
    }
    out.extend(incident.contained.map(|at| named("contained", at)));
    if matches!(
        incident.state,
        IncidentState::Remediated | IncidentState::RolledBack | IncidentState::Closed | IncidentState::Failed
    ) {
        out.push(named("last change", incident.updated));
    }
    out.sort_by_key(|milestone| milestone.after_us);
    out
}

fn timeline(incident: &Incident) -> (Vec<Moment>, u64) {
    let mut all: Vec<Moment> = Vec::new();
    for finding in &incident.findings {
        let count = if finding.count > 1 { format!(" (×{})", finding.count) } else { String::new() };
        all.push(Moment {
            at: finding.first,
            after_us: after(incident, finding.first),
            lane: Lane::Seen,
            actor: shown(finding.event.id.node.as_str(), 80),
            what: shown(&format!("{}{count}: {}", finding.rule.title, told(finding)), LONGEST),
        });
        all.extend(finding.repetitions().into_iter().map(|entry| Moment {
            at: entry.at,
            after_us: after(incident, entry.at),
            lane: Lane::Seen,
            actor: shown(finding.event.id.node.as_str(), 80),
            what: shown(&entry.what, LONGEST),
        }));
    }
    for entry in &incident.timeline {
        let actor = entry.actor.as_str();
        let lane = match actor.split(':').next() {
            Some("user") => Lane::Person,
            Some("agent" | "node") => Lane::Done,
            _ => Lane::Decided,
        };
        all.push(Moment {
            at: entry.at,
            after_us: after(incident, entry.at),
            lane,
            actor: shown(actor, 80),
            what: shown(&entry.what, LONGEST),
        });
    }
    for action in incident.actions.iter().filter(|action| action.state != ActionState::Failed) {
        if let Some(at) = action.applied {
            all.push(Moment {
                at,
                after_us: after(incident, at),
                lane: Lane::Done,
                actor: "in force".into(),
                what: shown(&format!("{} on {}", action.action.name(), action.target), LONGEST),
            });
        }
    }
    all.sort_by_key(|moment| (moment.at, moment.lane));
    let left_out = all.len().saturating_sub(MOST_MOMENTS);
    if left_out > 0 {
        all.drain(MOST_MOMENTS / 2..MOST_MOMENTS / 2 + left_out);
    }
    (all, left_out as u64)
}

fn seen(finding: &Finding) -> Seen {
    let matched = finding.matched.iter().take(MOST_LINES);
    Seen {
        at: finding.first,
        title: shown(&finding.rule.title, 200),
        rule: shown(&finding.rule.id, 128),
        level: finding.rule.level,
        techniques: finding.rule.techniques.iter().take(16).map(|one| shown(one, 20)).collect(),
        count: finding.count,
        what: shown(&told(finding), LONGEST),
        matched: matched.map(|(field, value)| (shown(field, 80), shown(value, LONGEST))).collect(),
        lost: finding.loss.lost.values().sum(),
    }
}

/// What was done, in words.
fn told(finding: &Finding) -> String {
    let event = &finding.event;
    if let Some(record) = event.record() {
        return record.told();
    }
    let process = &event.process;
    let who = format!("{} ({})", process.exe, process.key.pid);
    match &event.activity {
        Activity::Exec { .. } => format!("{who} ran: {}", process.command_line),
        Activity::Connect(flow) => format!("{who} connected to {}:{}", flow.remote.addr, flow.remote.port),
        Activity::Accept(flow) => format!("{who} was called by {}:{}", flow.remote.addr, flow.remote.port),
        Activity::FileOpen { file, .. } => format!("{who} opened {}", file.path),
        Activity::FileDelete { file } => format!("{who} deleted {}", file.path),
        Activity::FileRename { from, to } => format!("{who} renamed {} to {}", from.path, to.path),
        Activity::DnsQuery { name, .. } => format!("{who} asked for {name}"),
        Activity::Ptrace { target, .. } => format!("{who} traced {}", target.pid),
        Activity::ModuleLoad { name } => format!("{who} loaded the kernel module {name}"),
        Activity::Mount { target, .. } => format!("{who} mounted {}", target.path),
        _ => format!("{who}: {}", process.command_line),
    }
}

fn response(run: &RunSummary, incident: &Incident, plans: &[PlanTold]) -> Response {
    let signal_fails = run.decision.signals.iter().filter(|signal| signal.says == SignalSays::Ask);
    let short = signal_fails.map(|signal| Short {
        signal: signal.kind.to_string(),
        numbers: match (signal.found, signal.needed) {
            (Some(found), Some(needed)) => format!("{found} found, {needed} needed"),
            (None, Some(needed)) => format!("nothing found, {needed} needed"),
            _ => String::new(),
        },
        evidence: signal.evidence.iter().take(MOST_LINES).map(|line| shown(line, LONGEST)).collect(),
    });
    let mut plan = plans.iter().find(|plan| plan.run == run.id.as_str()).cloned();
    for step in plan.iter_mut().flat_map(|plan| &mut plan.steps) {
        let of_step = |action: &&model::ActionRecord| {
            action.run.as_ref() == Some(&run.id)
                && action.step.as_ref().is_some_and(|name| name.as_str() == step.name)
        };
        if let Some(action) = incident.actions.iter().rev().find(of_step) {
            step.state = state_of(action.state).into();
            step.undo = undo(&action.action.undo());
            if !action.detail.is_empty() {
                step.would = shown(
                    &format!("{} on {}: {}", action.action.name(), action.target, action.detail),
                    LONGEST,
                );
            }
        }
    }
    Response {
        playbook: shown(run.playbook.as_str(), 128),
        run: shown(run.id.as_str(), 200),
        state: run_state(run).into(),
        outcome: run.decision.outcome,
        plan,
        short: short.collect(),
        signals: run.decision.signals.clone(),
        reasons: run.decision.reasons.iter().take(MOST_LINES).map(|line| shown(line, LONGEST * 2)).collect(),
    }
}

/// How an action is undone, in words.
fn undo(class: &UndoClass) -> String {
    match class {
        UndoClass::Exact => "exactly".into(),
        UndoClass::Nothing => "changes nothing".into(),
        UndoClass::Compensable { residual } => format!("all but: {}", shown(residual, 200)),
        UndoClass::Irreversible { residual } => format!("cannot be: {}", shown(residual, 200)),
    }
}

fn run_state(run: &RunSummary) -> &'static str {
    match (run.state, run.decision.outcome) {
        (RunState::Shadow, _) => "recorded only (shadow)",
        (RunState::Waiting, GateOutcome::Approval) => "recommended: waits for a person",
        (RunState::Waiting, _) => "waits for a person",
        (RunState::Running, _) => "running",
        (RunState::Succeeded, _) => "done",
        (RunState::Failed, _) => "failed",
        (RunState::RollingBack, _) => "is being undone",
        (RunState::RolledBack, _) => "undone",
        (RunState::Denied, _) => "denied by a person",
    }
}

fn state_of(state: ActionState) -> &'static str {
    match state {
        ActionState::Planned => "planned",
        ActionState::Prepared => "prepared",
        ActionState::Applying => "being done",
        ActionState::Applied => "in force",
        ActionState::Verified => "in force, seen",
        ActionState::Unverified => "in force, not seen",
        ActionState::Failed => "failed",
        ActionState::Reverting => "being undone",
        ActionState::Reverted => "undone",
        ActionState::RevertBlocked => "undo blocked",
        ActionState::Vacuous => "target gone",
    }
}
