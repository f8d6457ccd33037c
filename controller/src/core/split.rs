//! A person takes findings out of an incident that are another story: both go on by themselves, and both say so.

use detect::incident::entities_of;
use model::{Actor, Finding, FindingId, IncidentId, Level, short_hash};

use super::{
    Core,
    incidents::begun,
    ingest::{controller, put_place},
    settle::is_final,
    turn::Turn,
};
use crate::{
    api::{ApiError, ApiErrorKind, Done},
    store::{ReadBack, Table, Visibility, numbered_key},
};

impl Core {
    /// Takes `findings` out of the incident that a person means, into a new one. What was done stays with the incident that it was done
    /// for. The two are never put together again, whatever comes.
    pub(super) fn split(
        &mut self,
        id: &str,
        findings: &[FindingId],
        by: &Actor,
        because: &str,
        turn: &mut Turn,
    ) -> Result<Done, ApiError> {
        let id = self.find(id)?;
        let now = turn.now;
        let (stay, go) = self.parted(&id, findings)?;
        let seed = [id.as_str(), go[0].id.as_str(), &now.0.to_string()];
        let new = IncidentId::new(format!("inc-{}", short_hash(seed, 5)));
        let tail = if because.is_empty() { String::new() } else { format!(": {because}") };
        let said = format!("splits {} findings off into {new}{tail}", go.len());
        self.human(&id, None, None, by, said, turn);

        let weightiest = go.iter().max_by_key(|finding| finding.rule.level).unwrap_or(&go[0]);
        let first = go.iter().map(|finding| finding.first).min().unwrap_or(now);
        let incident = begun(&new, &weightiest.rule.title, weightiest.rule.level, first, now);
        self.state.incidents.open(incident, Visibility::Open);
        let failed = |core: &Self, error: &crate::store::StoreError| core.store_failed(error);
        match self.state.incidents.get(&self.state.store, &new) {
            Ok(Some(whole)) => {
                whole.tell(
                    now,
                    &controller(),
                    format!("{} findings of {id}, split off by {by}{tail}", go.len()),
                );
                for finding in &go {
                    let what = format!("{} ({}), from {id}", finding.rule.title, finding.event.id);
                    whole.tell(finding.first, &controller(), what);
                    if let Some(index) = whole.add(finding.clone(), entities_of(finding), now) {
                        put_place(turn, &finding.id, &new, index);
                    }
                }
            }
            Ok(None) => {}
            Err(error) => return Err(failed(self, &error)),
        }
        match self.state.incidents.get(&self.state.store, &id) {
            Ok(Some(whole)) => {
                let before = whole.row.incident.findings.len();
                whole.row.incident.findings.clear();
                whole.row.incident.entities.clear();
                whole.row.incident.techniques.clear();
                (whole.row.incident.severity, whole.row.incident.title) =
                    (Level::Informational, String::new());
                for finding in &stay {
                    if let Some(index) = whole.add(finding.clone(), entities_of(finding), now) {
                        put_place(turn, &finding.id, &id, index);
                    }
                }
                for index in stay.len()..before {
                    let key = numbered_key(id.as_str(), u32::try_from(index).unwrap_or(u32::MAX));
                    turn.batch.remove(Table::Findings, key);
                }
                whole.touch(now);
            }
            Ok(None) => {}
            Err(error) => return Err(failed(self, &error)),
        }
        let seen =
            |all: &[Finding]| all.iter().map(|one| (self.names_of(one), one.first)).collect::<Vec<_>>();
        let (stay, go_seen) = (seen(&stay), seen(&go));
        self.state.correlator.split(&id, &stay, &new, &go_seen);
        for one in [&id, &new] {
            if let Some(group) = self.state.correlator.group(one) {
                turn.batch.put(Table::Groups, one.as_str().as_bytes().to_vec(), group, ReadBack::No);
            }
            let done = self.enrich(one, now).and_then(|()| self.settle(one, turn));
            done.map_err(|error| self.store_failed(&error))?;
        }
        let what = vec![format!("{} findings are in {new} now; what was done stays with {id}", go.len())];
        Ok(Done { incident: new, what })
    }

    /// The findings that stay and those that go.
    fn parted(
        &mut self,
        id: &IncidentId,
        findings: &[FindingId],
    ) -> Result<(Vec<Finding>, Vec<Finding>), ApiError> {
        let found = self.state.incidents.get(&self.state.store, id);
        let whole = match found {
            Ok(Some(whole)) => whole,
            Ok(None) => {
                return Err(ApiError::new(ApiErrorKind::Unknown, format!("there is no incident {id}")));
            }
            Err(error) => return Err(self.store_failed(&error)),
        };
        let conflict = |what: String| Err(ApiError::new(ApiErrorKind::Conflict, what));
        if let Some(into) = &whole.row.merged_into {
            return conflict(format!("the story of {id} goes on in {into}: split that one"));
        }
        if is_final(&whole.row) {
            return conflict(format!(
                "{id} is closed or judged: what comes next opens another incident anyway"
            ));
        }
        let incident = &whole.row.incident;
        let known = |id: &&FindingId| !incident.findings.iter().any(|finding| finding.id == **id);
        if let Some(unknown) = findings.iter().find(known) {
            return Err(ApiError::new(ApiErrorKind::Unknown, format!("{id} has no finding {unknown}")));
        }
        let (go, stay): (Vec<Finding>, Vec<Finding>) =
            incident.findings.iter().cloned().partition(|finding| findings.contains(&finding.id));
        if go.is_empty() || stay.is_empty() {
            let what = if go.is_empty() { "no finding is named" } else { "all its findings are named" };
            return conflict(format!("{what}: some go and some stay"));
        }
        Ok((stay, go))
    }
}
