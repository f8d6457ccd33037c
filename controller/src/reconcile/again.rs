//! A leader with an empty journal hears again what nodes had reported to the one before ([`super::reports`]): findings come back into their
//! incidents, and what nobody had answered yet is answered. What a playbook, or a person, dealt with is known from the objects in the API
//! server, and is not done a second time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use crds::{
    approval::Approval,
    incident::{Incident as ShownIncident, State},
    response_action::ResponseAction,
};
use kube::ResourceExt as _;
use model::{IncidentId, Report};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    ClusterConfig,
    follow::{Known, label_of},
    mirror::{ACTION, Mirror},
    people::parsed,
    reach::{Failure, Reach},
    reports,
    show::object_name,
    succession,
};
use crate::{
    core::{Input, Whose},
    ledger::Told,
    start::Inside,
};

/// How long playbooks and rules are waited for.
const LOADED: Duration = Duration::from_secs(30);
/// An API server that is away is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// What the API server shows.
struct Shown {
    incidents: Known,
    actions: Known,
    approvals: Known,
}

/// Hears it, unless it is in this journal already.
pub(super) async fn hear_once(
    reach: &Reach,
    config: &ClusterConfig,
    mirror: &Mirror,
    ready: &mut watch::Receiver<bool>,
    parts: &Inside,
    (state, journal): (&Path, &str),
) {
    if succession::has_heard(state, journal) {
        return;
    }
    let shown = Shown {
        incidents: mirror.incidents.clone(),
        actions: mirror.actions.clone(),
        approvals: mirror.approvals.clone(),
    };
    let heard = hear(reach, &config.namespace, &shown, ready, parts.inbox.clone()).await;
    if heard > 0 {
        tracing::warn!(heard, "what nodes had reported to a controller that was lost is heard again");
    }
    succession::note_heard(state, journal);
}

/// Tells the core everything that is kept; gives the number of reports.
async fn hear(
    reach: &Reach,
    home: &str,
    shown: &Shown,
    ready: &mut watch::Receiver<bool>,
    inbox: mpsc::WeakSender<Input>,
) -> usize {
    let Some(mut next) = patiently(reach, home, None).await else { return 0 };
    if next.0.is_empty() && next.1.is_none() {
        return 0;
    }
    for known in [&shown.incidents, &shown.actions, &shown.approvals] {
        known.ready().await;
    }
    // Correlations count by rules, and who answers needs playbooks. Without them people answer.
    let _late = tokio::time::timeout(LOADED, ready.wait_for(|ready| *ready)).await;
    let known = Fates::of(shown);
    let mut heard = 0;
    loop {
        let (told, more) = next;
        for mut one in told {
            let whose = known.whose(one.incident.as_ref());
            let whose = if known.strip(&mut one) { whose } else { Whose::Over };
            let Some(inbox) = inbox.upgrade() else { return heard };
            if inbox.send(Input::Again(Box::new(one), whose)).await.is_err() {
                return heard;
            }
            heard += 1;
        }
        let Some(more) = more else { break };
        match patiently(reach, home, Some(&more)).await {
            Some(page) => next = page,
            None => break,
        }
    }
    let (over, is_over) = oneshot::channel();
    if let Some(inbox) = inbox.upgrade()
        && inbox.send(Input::AgainOver(known.handled, over)).await.is_ok()
    {
        // Fails only when the core has ended.
        let _ended = is_over.await;
    }
    heard
}

/// One page, once the API server answers.
async fn patiently(reach: &Reach, home: &str, more: Option<&str>) -> Option<(Vec<Told>, Option<String>)> {
    loop {
        match reports::page(reach, home, more).await {
            Ok(page) => return Some(page),
            Err(Failure::Away(_)) => tokio::time::sleep(AGAIN).await,
            Err(failure) => {
                tracing::error!(%failure, "what nodes reported to the controller that was lost cannot be read");
                return None;
            }
        }
    }
}

/// What became of incidents and actions.
struct Fates {
    /// By object name: whether it is over, and where its story goes on.
    incidents: BTreeMap<String, (bool, Option<String>)>,
    /// Actions that the API server knows.
    actions: BTreeSet<String>,
    /// Incidents that a playbook acted on, or about which a person was asked and answered.
    handled: BTreeSet<IncidentId>,
}

impl Fates {
    fn of(shown: &Shown) -> Self {
        let incidents = shown.incidents.all();
        let incidents = incidents.iter().filter_map(|object| parsed::<ShownIncident>(object));
        let fate = |incident: ShownIncident| {
            let status = incident.status.as_ref();
            let state = status.map(|status| status.state);
            let over = incident.spec.verdict.is_some()
                || incident.spec.closed.is_some()
                || matches!(state, Some(State::Closed | State::RolledBack | State::Remediated));
            let into = status.and_then(|status| status.merged_into.clone());
            // `namespace/name`.
            let into =
                into.map(|into| into.rsplit_once('/').map_or(into.clone(), |(_, name)| name.to_owned()));
            (incident.name_any(), (over, into))
        };
        let mut handled = BTreeSet::new();
        let mut actions = BTreeSet::new();
        for object in shown.actions.all() {
            actions.extend(object.annotations().get(ACTION).cloned());
            // What a node did by itself is no answer of a playbook.
            let by_run = parsed::<ResponseAction>(&object).is_some_and(|one| one.spec.plan.run.is_some());
            handled.extend(label_of(&object).filter(|_| by_run).map(IncidentId::new));
        }
        for object in shown.approvals.all() {
            let answered = parsed::<Approval>(&object).is_some_and(|one| one.spec.decision.is_some());
            handled.extend(label_of(&object).filter(|_| answered).map(IncidentId::new));
        }
        Self { incidents: incidents.map(fate).collect(), actions, handled }
    }

    fn whose(&self, incident: Option<&IncidentId>) -> Whose {
        let Some(incident) = incident else { return Whose::GoesOn };
        let mut name = object_name(incident.as_str());
        for _ in 0..8 {
            match self.incidents.get(&name) {
                Some((_, Some(into))) => name.clone_from(into),
                Some((true, None)) => return Whose::Over,
                Some((false, None)) | None => return Whose::GoesOn,
            }
        }
        Whose::GoesOn
    }

    /// Takes out what nodes did that the API server knows better: it may have been undone since. False where nothing is left.
    fn strip(&self, told: &mut Told) -> bool {
        match &mut told.report {
            Report::Finding(finding) => {
                finding.reactions.retain(|record| !self.actions.contains(record.id.as_str()));
                true
            }
            Report::Repeat { .. } => true,
            Report::Reaction(record) => !self.actions.contains(record.id.as_str()),
        }
    }
}
