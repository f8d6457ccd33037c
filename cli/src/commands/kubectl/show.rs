//! Tables of what the resources say.

use anyhow::Result;
use crds::{
    Moment,
    approval::Approval,
    incident::{Incident, State},
    response_action::ResponseAction,
};
use kube::ResourceExt as _;
use model::Timestamp;

use super::{Cluster, named::belongs};
use crate::{
    commands::now,
    exit::Exit,
    render::{Column, Fit, Table, Window, age, one_line, write_out},
};

const fn keep(heading: &'static str) -> Column {
    Column { heading, fit: Fit::Keep }
}

const fn shrink(heading: &'static str, least: usize) -> Column {
    Column { heading, fit: Fit::Shrink(least) }
}

const fn left_out(heading: &'static str, order: u8) -> Column {
    Column { heading, fit: Fit::Drop(order) }
}

/// Incidents: what waits for a person first, then by severity, then the newest.
pub(super) async fn triage(cluster: &Cluster, all: bool, window: Window) -> Result<Exit> {
    let over = |state: State| matches!(state, State::Closed | State::RolledBack | State::Remediated);
    let mut incidents: Vec<Incident> = cluster.all().await?;
    // What is over and still wants a word (a verdict on what was done) is not over for triage.
    let quiet =
        |status: &crds::incident::IncidentStatus| over(status.state) && status.summary.needs.is_empty();
    incidents.retain(|one| all || !one.status.as_ref().is_some_and(quiet));
    incidents.sort_by_key(|one| {
        let status = one.status.as_ref();
        let waits = status.is_some_and(|status| !status.summary.needs.is_empty());
        let severity = status.map(|status| status.severity);
        std::cmp::Reverse((waits, severity, one.spec.first_event))
    });
    let mut table = Table::new(vec![
        left_out("NAMESPACE", 5),
        keep("INCIDENT"),
        keep("SEV"),
        keep("STATE"),
        keep("NEEDS"),
        shrink("TARGET", 12),
        left_out("PLAYBOOK", 6),
        left_out("ACTS", 3),
        left_out("TTC", 2),
        keep("AGE"),
        Column { heading: "TITLE", fit: Fit::Spare(16, 9) },
    ]);
    let waiting = incidents
        .iter()
        .filter(|one| one.status.as_ref().is_some_and(|s| s.summary.needs == "Approval"))
        .count();
    for one in &incidents {
        let status = one.status.as_ref();
        let text = |of: fn(&crds::incident::Summary) -> &String| {
            status.map(|s| of(&s.summary).clone()).unwrap_or_default()
        };
        table.row([
            one.namespace().unwrap_or_default(),
            one.name_any(),
            status.map(|s| format!("{:?}", s.severity)).unwrap_or_default(),
            status.map(|s| format!("{:?}", s.state)).unwrap_or_default(),
            dash(text(|s| &s.needs)),
            text(|s| &s.target),
            dash(text(|s| &s.playbook)),
            dash(text(|s| &s.actions)),
            dash(text(|s| &s.time_to_contain)),
            age(one.spec.first_event.0, now()),
            one.spec.title.clone(),
        ]);
    }
    if incidents.is_empty() {
        write_out("no incident is open\n")?;
        return Ok(Exit::Good);
    }
    write_out(&table.render(window))?;
    if waiting > 0 {
        write_out(&format!("{waiting} wait for a yes or a no: kubectl hemostat approve|deny INCIDENT\n"))?;
    }
    Ok(Exit::Good)
}

/// One incident with its actions and questions.
pub(super) async fn incident(cluster: &Cluster, name: &str, window: Window) -> Result<Exit> {
    let (incident, actions, approvals) = whole(cluster, name).await?;
    let mut out = format!("{}: {}\n", incident.name_any(), one_line(&incident.spec.title, 256));
    if let Some(status) = &incident.status {
        let target = one_line(&status.target, 1024);
        out.push_str(&format!("{:?}, {:?}, about {target}\n", status.severity, status.state));
        if !status.techniques.is_empty() {
            out.push_str(&format!("techniques: {}\n", status.techniques.join(" ")));
        }
        for run in &status.runs {
            let because = one_line(&run.because, 1024);
            out.push_str(&format!("{} of {}: {:?}: {because}\n", run.name, run.playbook, run.state));
        }
    }
    if !actions.is_empty() {
        let mut table = Table::new(vec![
            shrink("ACTION", 16),
            keep("WHAT"),
            keep("STATE"),
            left_out("UNDO", 2),
            left_out("TOOK", 3),
            shrink("TARGET", 12),
        ]);
        for one in &actions {
            let status = one.status.as_ref();
            table.row([
                one.name_any(),
                one.spec.plan.action.0.clone(),
                status.map(|s| format!("{:?}", s.state)).unwrap_or_default(),
                format!("{:?}", one.spec.plan.undo.class),
                status.map(|s| s.summary.took.clone()).unwrap_or_default(),
                status.map(|s| s.target.clone()).unwrap_or_default(),
            ]);
        }
        out.push('\n');
        out.push_str(&table.render(window));
    }
    if !approvals.is_empty() {
        let mut table = Table::new(vec![
            keep("APPROVAL"),
            keep("STATE"),
            left_out("UNTIL", 1),
            left_out("BY", 2),
            shrink("WOULD", 20),
        ]);
        for one in &approvals {
            let status = one.status.as_ref();
            table.row([
                one.name_any(),
                status.map(|s| format!("{:?}", s.state)).unwrap_or_default(),
                status.map(|s| s.summary.until.clone()).unwrap_or_default(),
                status.map(|s| dash(s.summary.by.clone())).unwrap_or_default(),
                one.spec.request.would.clone(),
            ]);
        }
        out.push('\n');
        out.push_str(&table.render(window));
    }
    write_out(&out)?;
    Ok(Exit::Good)
}

/// What happened when, as far as the resources tell.
pub(super) async fn timeline(cluster: &Cluster, name: &str, window: Window) -> Result<Exit> {
    let (incident, actions, approvals) = whole(cluster, name).await?;
    let mut lines: Vec<(Timestamp, String, String)> = Vec::new();
    let mut say = |at: Moment, who: &str, what: String| lines.push((at.0, who.to_owned(), what));
    say(incident.spec.first_event, "node", incident.spec.title.clone());
    for one in &actions {
        let Some(status) = &one.status else { continue };
        let what = format!("{} on {}", one.spec.plan.action.0, status.target);
        if let Some(capture) = &status.capture {
            say(capture.at, "controller", format!("planned: {what}"));
        }
        if let Some(at) = status.applied {
            say(at, one.spec.plan.node.as_deref().unwrap_or("cluster"), format!("done: {what}"));
        }
        let undone = status.conditions.iter().find(|c| c.kind == "Reverted" && c.status == crds::Holds::True);
        if let Some(undone) = undone {
            say(undone.last_transition_time, "controller", format!("undone: {what}"));
        }
    }
    if let Some(at) = incident.status.as_ref().and_then(|status| status.contained) {
        say(at, "controller", "every containment is in force".into());
    }
    for one in &approvals {
        let by = one.spec.decision.as_ref().map_or("nobody", |decision| decision.by.as_str());
        if let Some((at, state)) = one.status.as_ref().and_then(|status| Some((status.over?, status.state))) {
            say(at, by, format!("{state:?}: {}", one.spec.request.would));
        }
    }
    // The API server's times are of whole seconds: within one the order is that of the story.
    lines.sort_by_key(|(at, _, _)| *at);
    let mut table = Table::new(vec![keep("AT"), shrink("WHO", 8), shrink("WHAT", 30)]);
    for (at, who, what) in lines {
        table.row([at.to_string().get(..19).unwrap_or_default().to_owned() + "Z", who, what]);
    }
    write_out(&table.render(window))?;
    Ok(Exit::Good)
}

async fn whole(cluster: &Cluster, name: &str) -> Result<(Incident, Vec<ResponseAction>, Vec<Approval>)> {
    let incident = cluster.incident(name).await?;
    let mut actions: Vec<ResponseAction> = cluster.all().await?;
    actions.retain(|one| belongs(one, &incident, one.spec.plan.incident.as_deref().unwrap_or_default()));
    actions.sort_by_key(|one| {
        one.status.as_ref().and_then(|status| status.capture.as_ref()).map(|capture| capture.at)
    });
    let mut approvals: Vec<Approval> = cluster.all().await?;
    approvals.retain(|one| belongs(one, &incident, &one.spec.request.incident));
    Ok((incident, actions, approvals))
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}
