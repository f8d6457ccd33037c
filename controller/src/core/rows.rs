//! A line of every run, found by what is asked of them: with ten thousand incidents nothing may look through all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{Finding, FindingId, GateOutcome, IncidentId, NodeId, ProcessKey, RunId, Timestamp};

use respond::gate::Want;

use super::runs::RunRow;

/// The lines of all runs.
#[derive(Debug, Default)]
pub(super) struct Rows {
    all: BTreeMap<RunId, RunRow>,
    by_process: HashMap<(NodeId, ProcessKey), BTreeSet<RunId>>,
    by_finding: HashMap<FindingId, BTreeSet<RunId>>,
    by_incident: HashMap<IncidentId, BTreeSet<RunId>>,
    /// Of those that act by themselves, by when they began by a clock that nobody sets.
    automatic: BTreeSet<(Timestamp, RunId)>,
    /// Of those whose playbook wanted something, as above.
    wanting: BTreeSet<(Timestamp, RunId)>,
}

impl Rows {
    pub(super) fn insert(&mut self, row: RunRow) {
        let run = row.run.clone();
        if let Some(answers) = &row.answers {
            let process = (row.node.clone(), answers.process);
            self.by_process.entry(process).or_default().insert(run.clone());
            self.by_finding.entry(answers.finding.clone()).or_default().insert(run.clone());
        }
        self.by_incident.entry(row.incident.clone()).or_default().insert(run.clone());
        if row.outcome == GateOutcome::Automatic {
            self.automatic.insert((row.began_steadily(), run.clone()));
        }
        if row.want.is_some() {
            self.wanting.insert((row.began_steadily(), run.clone()));
        }
        self.all.insert(run, row);
    }

    pub(super) fn remove(&mut self, run: &RunId) {
        let Some(row) = self.all.remove(run) else { return };
        if let Some(answers) = &row.answers {
            take_out(&mut self.by_process, &(row.node.clone(), answers.process), run);
            take_out(&mut self.by_finding, &answers.finding, run);
        }
        take_out(&mut self.by_incident, &row.incident, run);
        self.automatic.remove(&(row.began_steadily(), run.clone()));
        self.wanting.remove(&(row.began_steadily(), run.clone()));
    }

    pub(super) fn contains(&self, run: &RunId) -> bool {
        self.all.contains_key(run)
    }

    pub(super) fn get(&self, run: &RunId) -> Option<&RunRow> {
        self.all.get(run)
    }

    /// What a run is about does not change: only how it stands may be written here.
    pub(super) fn get_mut(&mut self, run: &RunId) -> Option<&mut RunRow> {
        self.all.get_mut(run)
    }

    /// The runs that answer this finding, its process or an ancestor of it, in order of their names.
    pub(super) fn about(&self, finding: &Finding) -> impl Iterator<Item = &RunRow> {
        let node = &finding.event.id.node;
        let ancestors = finding.ancestors.iter().map(|ancestor| ancestor.key);
        let runs: BTreeSet<&RunId> = std::iter::once(finding.event.process.key)
            .chain(ancestors)
            .filter_map(|process| self.by_process.get(&(node.clone(), process)))
            .chain(self.by_finding.get(&finding.id))
            .flatten()
            .collect();
        runs.into_iter().filter_map(|run| self.all.get(run))
    }

    /// The runs that were begun for an incident.
    pub(super) fn of(&self, incident: &IncidentId) -> impl Iterator<Item = &RunRow> {
        self.by_incident.get(incident).into_iter().flatten().filter_map(|run| self.all.get(run))
    }

    /// The runs that act by themselves and were begun after `at`, by a clock that nobody sets.
    pub(super) fn automatic_since(&self, at: Timestamp) -> impl Iterator<Item = &RunRow> {
        let after = self.automatic.iter().rev().take_while(move |(began, _)| *began > at);
        after.filter_map(|(_, run)| self.all.get(run))
    }

    /// What playbooks wanted after `at`, each with how far the clock had been set then.
    pub(super) fn wants_since(&self, at: Timestamp) -> impl Iterator<Item = (&Want, i64)> {
        let after = self.wanting.iter().rev().take_while(move |(began, _)| *began > at);
        after.filter_map(|(_, run)| self.all.get(run)).filter_map(|row| Some((row.want.as_ref()?, row.set)))
    }

    /// When the latest of all these began.
    pub(super) fn latest(&self) -> Option<Timestamp> {
        let last = |of: &BTreeSet<(Timestamp, RunId)>| of.last().map(|(began, _)| *began);
        last(&self.automatic).max(last(&self.wanting))
    }
}

fn take_out<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<RunId>>, key: &K, run: &RunId) {
    if let Some(runs) = index.get_mut(key) {
        runs.remove(run);
        if runs.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{BootNs, Pid, PlaybookName};

    use super::*;
    use crate::core::runs::{Answers, Grip, Life};

    fn process(pid: u32) -> ProcessKey {
        ProcessKey { pid: Pid(pid), start: BootNs(u64::from(pid)) }
    }

    fn row(n: u32, pid: u32, outcome: GateOutcome) -> RunRow {
        RunRow {
            run: RunId::new(format!("run-{n}")),
            incident: IncidentId::new(format!("inc-{}", n % 3)),
            node: NodeId::new("n"),
            life: Life::Live,
            undoes: Vec::new(),
            began: Timestamp(i64::from(n)),
            set: 0,
            outcome,
            actions: 1,
            answers: Some(Answers {
                playbook: PlaybookName::new("p"),
                finding: FindingId::new(format!("fnd-{n}")),
                rule: "r".into(),
                process: process(pid),
                object: None,
            }),
            grip: Grip::None,
            want: None,
            judged_as: respond::gate::JudgedAs::default(),
        }
    }

    #[test]
    fn what_is_asked_of_runs_is_found_and_what_is_removed_is_not() {
        let mut rows = Rows::default();
        for n in 0..30 {
            let outcome = if n % 2 == 0 { GateOutcome::Automatic } else { GateOutcome::Shadow };
            rows.insert(row(n, n % 5, outcome));
        }
        let names = |rows: Vec<&RunRow>| rows.into_iter().map(|row| row.run.to_string()).collect::<Vec<_>>();
        let key = (NodeId::new("n"), process(2));
        assert_eq!(rows.by_process[&key].len(), 6);
        assert_eq!(names(rows.of(&IncidentId::new("inc-0")).collect()).len(), 10);
        assert_eq!(names(rows.automatic_since(Timestamp(25)).collect()), ["run-28", "run-26"]);
        for n in 0..30 {
            rows.remove(&RunId::new(format!("run-{n}")));
        }
        assert!(rows.by_process.is_empty() && rows.by_finding.is_empty() && rows.by_incident.is_empty());
        assert!(rows.automatic.is_empty() && rows.all.is_empty());
    }
}
