//! One incident on one page: what happened, who did it, what was done about it, what it waits for.

use std::fmt::Write;

use model::{ActionRecord, ActionState, GateOutcome, Incident, RunState, Timestamp, UndoClass, Workload};

use super::{
    Column, Fit, Table, Window, age,
    incidents::{level, state},
    one_line, process_tree, span,
};

/// Findings shown in full; the rest are counted.
const SHOWN_FINDINGS: usize = 8;
/// Timeline entries shown; the middle is left out.
const SHOWN_TIMELINE: usize = 60;

pub(crate) fn incident_page(incident: &Incident, now: Timestamp, window: Window) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!("{}  {}", incident.id, one_line(&incident.title, window.width.saturating_sub(20))));
    line(format!(
        "{} · {} · opened {} ({} ago) · techniques {}",
        level(incident.severity),
        state(incident.state),
        incident.opened,
        age(incident.opened, now),
        if incident.techniques.is_empty() { "none".into() } else { incident.techniques.join(", ") },
    ));
    match incident.contained {
        Some(at) => line(format!("contained {} after the first event", span(at.since(incident.first_event)))),
        None => line("not contained".into()),
    }
    if let Some(verdict) = incident.verdict {
        line(format!("verdict: {verdict:?}"));
    }
    if !incident.entities.is_empty() {
        let entities: Vec<String> = incident.entities.iter().map(ToString::to_string).collect();
        line(format!("about: {}", one_line(&entities.join(", "), window.width.saturating_sub(7))));
    }
    findings(&mut out, incident, window);
    enrichment(&mut out, incident, now, window);
    runs(&mut out, incident, now);
    actions(&mut out, incident, window);
    timeline(&mut out, incident, window);
    out
}

fn heading(out: &mut String, text: &str) {
    let _never_fails = write!(out, "\n{text}\n");
}

fn findings(out: &mut String, incident: &Incident, window: Window) {
    heading(out, &format!("FINDINGS ({})", incident.findings.len() as u64 + incident.findings_dropped));
    for finding in incident.findings.iter().take(SHOWN_FINDINGS) {
        let count = if finding.count > 1 { format!(" ×{}", finding.count) } else { String::new() };
        let _never_fails = writeln!(
            out,
            "{}  {}{count}  [{}; {}]",
            level(finding.rule.level),
            one_line(&finding.rule.title, window.width.saturating_sub(30)),
            finding.rule.id,
            finding.rule.techniques.join(", "),
        );
        for (field, value) in &finding.matched {
            let _never_fails = writeln!(
                out,
                "    {field} = {}",
                one_line(value, window.width.saturating_sub(field.len() + 8))
            );
        }
        if let Some(record) = finding.event.record() {
            // Another source than the kernel: there is no process to draw.
            let told = format!("{}: {record}", finding.event.id.node);
            let _never_fails = writeln!(out, "    {}", one_line(&told, window.width.saturating_sub(8)));
            continue;
        }
        if let Some(workload) = workload(&finding.event.process.workload) {
            let _never_fails =
                writeln!(out, "    in {}", one_line(&workload, window.width.saturating_sub(8)));
        }
        for drawn in process_tree(finding, window.width.saturating_sub(4)).lines() {
            let _never_fails = writeln!(out, "    {drawn}");
        }
        let lost: u64 = finding.loss.lost.values().sum();
        if lost > 0 {
            let _never_fails =
                writeln!(out, "    {lost} events were lost around it: the picture may have gaps");
        }
    }
    let more = incident.findings.len().saturating_sub(SHOWN_FINDINGS) as u64 + incident.findings_dropped;
    if more > 0 {
        let _never_fails = writeln!(out, "… and {more} more (-o json shows all that are kept)");
    }
}

fn workload(workload: &Workload) -> Option<String> {
    match workload {
        Workload::Container { container_id, pod_uid, .. } => Some(match pod_uid {
            Some(uid) => format!("container {container_id} of pod {uid}"),
            None => format!("container {container_id}"),
        }),
        Workload::Unit { unit, .. } => Some(format!("unit {unit}")),
        Workload::Host { cgroup_path } => Some(format!("cgroup {cgroup_path}")),
        Workload::Unresolved { .. } => None,
    }
}

fn enrichment(out: &mut String, incident: &Incident, now: Timestamp, window: Window) {
    let known = &incident.enrichment;
    if known.intelligence.is_empty() && known.facts.is_empty() {
        return;
    }
    heading(out, "KNOWN OF IT");
    let room = window.width.saturating_sub(2);
    for one in &known.intelligence {
        let note = if one.note.is_empty() { String::new() } else { format!(" ({})", one.note) };
        let line = format!(
            "{} is {} {} of feed {}, confidence {}, written {} ago{note}; seen in {}",
            one.observed,
            one.relation,
            one.indicator,
            one.feed,
            one.confidence,
            age(one.written, now),
            one.seen_in
        );
        let _never_fails = writeln!(out, "  {}", one_line(&line, room));
    }
    for one in &known.facts {
        let line = format!("{} [{}, {} ago]", one.what, one.source, age(one.known, now));
        let _never_fails = writeln!(out, "  {}", one_line(&line, room));
    }
    for one in &known.missing {
        let line = format!("not known: {}: {}", one.what, one.because);
        let _never_fails = writeln!(out, "  {}", one_line(&line, room));
    }
}

fn runs(out: &mut String, incident: &Incident, now: Timestamp) {
    for run in &incident.runs {
        let decided = match run.decision.outcome {
            GateOutcome::Automatic => "automatic",
            GateOutcome::Approval => "needs approval",
            GateOutcome::Shadow => "shadow: recorded only",
        };
        let state = match run.state {
            RunState::Shadow => "shadow",
            RunState::Running => "running",
            RunState::Waiting => "waiting",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::RollingBack => "rolling back",
            RunState::RolledBack => "rolled back",
            RunState::Denied => "denied by a person",
        };
        heading(out, &format!("PLAYBOOK {} ({}; {state})", run.playbook, decided));
        for reason in &run.decision.reasons {
            let _never_fails = writeln!(out, "  because {}", one_line(reason, 300));
        }
        for request in &run.waiting {
            let _never_fails = writeln!(
                out,
                "  WAITS for a person: step {} is {} ({}; {} left)\n    hemostat approve {} {}\n    hemostat deny {} {}",
                request.step,
                one_line(&request.would, 300),
                one_line(&request.because, 300),
                age(now, request.expires),
                incident.id,
                request.step,
                incident.id,
                request.step,
            );
        }
    }
}

fn actions(out: &mut String, incident: &Incident, window: Window) {
    if incident.actions.is_empty() {
        return;
    }
    heading(out, "ACTIONS");
    let mut table = Table::new(vec![
        Column { heading: "ACTION", fit: Fit::Keep },
        Column { heading: "STATE", fit: Fit::Keep },
        Column { heading: "AFTER", fit: Fit::Drop(4) },
        Column { heading: "TARGET", fit: Fit::Shrink(12) },
        Column { heading: "UNDO", fit: Fit::Drop(3) },
        Column { heading: "ID", fit: Fit::Drop(1) },
        Column { heading: "DETAIL", fit: Fit::Drop(5) },
    ]);
    for action in &incident.actions {
        table.row([
            action.action.name().into(),
            format!("{:?}", action.state),
            action.applied.map_or_else(|| "–".into(), |at| span(at.since(incident.first_event))),
            action.target.to_string(),
            undo(action),
            action.id.to_string(),
            action.detail.clone(),
        ]);
    }
    out.push_str(&table.render(window));
    if incident.actions.iter().any(is_in_force) {
        let _never_fails = writeln!(out, "undo all of it: hemostat rollback {}", incident.id);
    }
}

fn undo(action: &ActionRecord) -> String {
    match action.action.undo() {
        UndoClass::Exact => "exact".into(),
        UndoClass::Nothing => "nothing to undo".into(),
        UndoClass::Compensable { residual } => format!("all but: {residual}"),
        UndoClass::Irreversible { residual } => format!("none: {residual}"),
    }
}

fn is_in_force(action: &ActionRecord) -> bool {
    action.action.undo().has_undo()
        && matches!(action.state, ActionState::Applied | ActionState::Verified | ActionState::Unverified)
}

fn timeline(out: &mut String, incident: &Incident, window: Window) {
    heading(out, "TIMELINE");
    let entries = &incident.history();
    let left_out = entries.len().saturating_sub(SHOWN_TIMELINE);
    for (index, entry) in entries.iter().enumerate() {
        if left_out > 0 && index == SHOWN_TIMELINE / 2 {
            let _never_fails = writeln!(out, "… {left_out} entries left out (-o json shows all)");
        }
        if left_out > 0 && (SHOWN_TIMELINE / 2..SHOWN_TIMELINE / 2 + left_out).contains(&index) {
            continue;
        }
        let when = format!("+{}", span(entry.at.since(incident.first_event)));
        let room = window.width.saturating_sub(12);
        let what = format!("{}: {}", entry.actor, entry.what);
        let _never_fails = writeln!(out, "{when:>9}  {}", one_line(&what, room));
    }
}
