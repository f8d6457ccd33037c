//! Questions, answered from what is stored.

use model::{ActionId, GateOutcome, IncidentId, PlaybookName, RunId, StepName};

use super::{
    Ask, Core, Merged,
    incidents::{is_in_force, is_over},
    runs::RunRow,
    to_json,
};
use crate::{
    api::{
        ActionView, ApiError, ApiErrorKind, AuditPage, IncidentList, IncidentSummary, IncidentView, LinkView,
        NodeView, Playbooks, RunStory, Status, Story,
    },
    audit::Anchor,
};

impl Core {
    pub(super) fn answer(&mut self, what: Ask) -> Result<Vec<u8>, ApiError> {
        match what {
            Ask::Status => to_json(&self.status()),
            Ask::Incidents { since, limit, merged } => to_json(&self.list(since, limit, merged)),
            Ask::Incident(id) => to_json(&self.view(&id)?),
            Ask::Explain { id, playbook } => to_json(&self.explain(&id, playbook.as_deref())?),
            Ask::Story(id) => to_json(&self.story(&id)?),
            Ask::Loose => to_json(&self.loose()),
            Ask::Owner(action, run) => to_json(&self.owner(&action, run.as_ref())),
            Ask::Actions { all } => to_json(&self.actions(all)?),
            Ask::Playbooks => to_json(&self.playbooks()),
            Ask::Narrative(id) => to_json(&self.narrative(&id)?),
            Ask::Promotion(name) => to_json(&self.promotion(name.as_deref())?),
            Ask::Audit => to_json(&self.audit_page()),
        }
    }

    /// The playbooks in use, with what became of their runs.
    fn playbooks(&self) -> Playbooks {
        let mut shown = self.state.book.show();
        for view in &mut shown.loaded {
            let name = PlaybookName::new(view.name.clone());
            let cases = self.state.trust.of_playbook(&name);
            (view.judged, view.right) =
                (u64::from(cases.right) + u64::from(cases.wrong), u64::from(cases.right));
            if let (Some(demotion), Some((plan, _))) =
                (self.state.promotions.demotion(&name), self.state.book.find(&view.name))
            {
                view.in_force = format!("{:?}", plan.spec().mode.min(demotion.to));
            }
            // Those that are not over are in memory.
            let rows = self.state.runs.keys().filter_map(|run| self.state.rows.get(run));
            let of_it = |row: &&RunRow| row.answers.as_ref().is_some_and(|answers| answers.playbook == name);
            let goes_on = |row: &&RunRow| row.is_live() && row.outcome != GateOutcome::Shadow;
            view.running = rows.filter(goes_on).filter(of_it).count() as u64;
        }
        shown
    }

    fn status(&self) -> Status {
        let incidents = &self.state.incidents;
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            started: self.started,
            health: self.health.show(),
            nodes: self
                .state
                .links
                .iter()
                .map(|(id, node)| NodeView {
                    node: id.clone(),
                    link: if node.is_up() { LinkView::Up } else { LinkView::Down },
                    status: node.status.clone(),
                    commands_waiting: node.waiting() as u64,
                })
                .collect(),
            open_incidents: incidents.visible().filter(|i| !is_over(i)).count() as u64,
            approvals_waiting: incidents.visible().map(|i| i.waiting).sum(),
            actions_in_force: incidents.visible().map(|i| i.actions_in_force).sum(),
            playbooks: self.state.book.len() as u64,
            correlations: self.state.correlations.len() as u64,
            paused: self.paused((self.config.clock)()),
            feeds: crate::intel::views(&self.config.intelligence.snapshot()),
        }
    }

    fn list(&self, since: u64, limit: usize, merged: Merged) -> IncidentList {
        let shown = |line: &&IncidentSummary| {
            line.revision > since && (merged == Merged::Shown || line.merged_into.is_none())
        };
        let mut incidents: Vec<_> = self.state.incidents.visible().filter(shown).cloned().collect();
        incidents.sort_by(|a, b| (b.opened, &b.id).cmp(&(a.opened, &a.id)));
        incidents.truncate(limit);
        IncidentList { revision: self.state.incidents.revision(), incidents }
    }

    pub(super) fn view(&mut self, id: &str) -> Result<IncidentView, ApiError> {
        let id = self.find(id)?;
        let whole = self.state.incidents.get(&self.state.store, &id);
        match whole {
            Ok(Some(whole)) => Ok(IncidentView {
                incident: whole.row.incident.clone(),
                merged_into: whole.row.merged_into.clone(),
                absorbed: whole.row.absorbed.clone(),
            }),
            Ok(None) => Err(ApiError::new(ApiErrorKind::Unknown, format!("there is no incident {id}"))),
            Err(error) => Err(self.store_failed(&error)),
        }
    }

    fn story(&mut self, id: &IncidentId) -> Result<Story, ApiError> {
        let view = self.view(id.as_str())?;
        let incident = &view.incident;
        let nodes = incident.actions.iter().map(|record| (record.id.clone(), self.node_of(record))).collect();
        let mut runs = Vec::new();
        for run in &incident.runs {
            let whole = self.run(&run.id)?;
            let start = whole.start();
            runs.push(RunStory {
                run: run.id.clone(),
                node: start.node.clone(),
                approvers: start.grants.approvers.clone(),
                standing: start.grants.standing.clone(),
                approved: whole.approved(),
                until: whole.last_word(),
                steps: start
                    .spec
                    .steps
                    .iter()
                    .map(|step| (StepName::new(step.name.clone()), step.action.0.clone()))
                    .collect(),
            });
        }
        self.stories += 1;
        Ok(Story { number: self.stories, view, nodes, runs })
    }

    fn owner(&mut self, action: &ActionId, run: Option<&RunId>) -> Option<IncidentId> {
        let of_run = run.or_else(|| self.state.owners.get(action)).and_then(|run| self.state.rows.get(run));
        let incident = match (of_run, self.state.adopted.get(action)) {
            (Some(row), _) => row.incident.clone(),
            (None, Some(adopted)) => adopted.incident.clone().unwrap_or_else(|| IncidentId::new("-")),
            (None, None) => return None,
        };
        Some(self.root(&incident))
    }

    fn loose(&self) -> Vec<ActionView> {
        let loose = self.state.adopted.values().filter(|a| a.incident.is_none());
        loose.map(|a| ActionView { node: a.node.clone(), record: a.record.clone() }).collect()
    }

    fn actions(&mut self, all: bool) -> Result<Vec<ActionView>, ApiError> {
        let ids: Vec<_> = self
            .state
            .incidents
            .visible()
            .filter(|i| i.actions > 0 && (all || i.actions_in_force > 0))
            .map(|i| i.id.clone())
            .collect();
        let mut views = Vec::new();
        for id in ids {
            let found = self.state.incidents.get(&self.state.store, &id);
            let records = match found {
                Ok(whole) => whole.map(|w| w.row.incident.actions.clone()).unwrap_or_default(),
                Err(error) => return Err(self.store_failed(&error)),
            };
            for record in records.into_iter().filter(|r| all || is_in_force(r)) {
                views.push(ActionView { node: self.node_of(&record), record });
            }
        }
        let orphans = self.state.adopted.values().filter(|a| a.incident.is_none());
        let orphans = orphans.filter(|a| all || is_in_force(&a.record));
        views.extend(orphans.map(|a| ActionView { node: a.node.clone(), record: a.record.clone() }));
        views.sort_by(|a, b| (a.record.planned, &a.record.id).cmp(&(b.record.planned, &b.record.id)));
        Ok(views)
    }

    /// Without entries: who asks reads them, since this thread decides and must not wait for a long file.
    fn audit_page(&self) -> AuditPage {
        AuditPage {
            entries: Vec::new(),
            anchor: Anchor::new(&self.state.audit.key, &self.state.audit.head),
            log: self.state.audit.log.path().display().to_string(),
            bytes_read: 0,
        }
    }

    /// The incident that a person means.
    pub(super) fn find(&self, id: &str) -> Result<model::IncidentId, ApiError> {
        self.state.incidents.meant(id)
    }
}
