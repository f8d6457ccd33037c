//! Whether a run deals already with what was found.

use model::{Finding, GateOutcome, PlaybookName};

use super::runs::{Grip, RunRow, object};

/// Whether a run already deals with the process of a finding, its own or one that descends from it: it is not over, or has hold
/// of it. One that is over and holds nothing covers only the finding that it answered, and only until that is seen again. What an account
/// did is dealt with by what was done about it and the same object: it may do the same to many.
pub(super) fn covers(row: &RunRow, playbook: &PlaybookName, finding: &Finding, new: &Finding) -> bool {
    let Some(answers) = row.answers.as_ref().filter(|answers| answers.playbook == *playbook) else {
        return false;
    };
    let deals = row.is_live() || row.grip == Grip::Holds;
    let about = (finding.event.process.key == answers.process && object(finding) == answers.object)
        || finding.ancestors.iter().any(|ancestor| ancestor.key == answers.process);
    let answered = answers.finding == finding.id && finding.id != new.id;
    row.node == finding.event.id.node && ((deals && about) || answered)
}

/// Whether a run in shadow says already what would be done about the process of a finding.
pub(super) fn says(row: &RunRow, playbook: &PlaybookName, finding: &Finding) -> bool {
    row.outcome == GateOutcome::Shadow
        && row.node == finding.event.id.node
        && row.answers.as_ref().is_some_and(|answers| {
            answers.playbook == *playbook
                && answers.process == finding.event.process.key
                && answers.object == object(finding)
        })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use detect::schema::RecordBuilder;
    use model::{
        BootNs, FindingId, IncidentId, Level, LossWindow, Moments, NodeId, Pid, Process, ProcessKey,
        Reaction, RecordKind, RuleRef, RunId, Timestamp,
    };

    use super::*;
    use crate::core::runs::{Answers, Life};

    fn playbook() -> PlaybookName {
        PlaybookName::new("p")
    }

    fn run_for(finding: &Finding, life: Life, grip: Grip, outcome: GateOutcome) -> RunRow {
        RunRow {
            run: RunId::new("run"),
            incident: IncidentId::new("inc"),
            node: finding.event.id.node.clone(),
            life,
            undoes: Vec::new(),
            began: Timestamp(0),
            set: 0,
            outcome,
            actions: 1,
            answers: Some(Answers::new(playbook(), finding)),
            grip,
            want: None,
            judged_as: respond::gate::JudgedAs::default(),
        }
    }

    /// `who` did something to a pod.
    fn done(n: u32, who: &str, pod: &str) -> Finding {
        let mut record = RecordBuilder::new(RecordKind::KubernetesAudit);
        record.id(&format!("audit-{n}")).principal("kubernetes", who).object("pods", Some("pay"), pod);
        let event = record.build().into_event(&NodeId::new("kubernetes:audit"), Timestamp(1));
        Finding {
            id: FindingId::derive(&event.id, "r"),
            rule: RuleRef {
                id: "r".into(),
                title: "r".into(),
                level: Level::High,
                techniques: Vec::new(),
                tactics: Vec::new(),
                reaction: Reaction::None,
            },
            first: event.time,
            last: event.time,
            event,
            matched: BTreeMap::new(),
            count: 1,
            ancestors: Vec::new(),
            context: Vec::new(),
            reactions: Vec::new(),
            moments: Moments::default(),
            loss: LossWindow::default(),
        }
    }

    fn process(pid: u32) -> Arc<Process> {
        let key = ProcessKey { pid: Pid(pid), start: BootNs(u64::from(pid)) };
        Arc::new(Process { key, ..Process::nobody(None, None) })
    }

    #[test]
    fn what_an_account_does_to_something_else_is_answered_for_itself() {
        let (one, again) = (done(1, "alice", "api-0"), done(2, "alice", "api-0"));
        let others = [done(3, "alice", "api-1"), done(4, "bob", "api-0")];
        for (life, grip) in [(Life::Live, Grip::None), (Life::Over, Grip::Holds)] {
            let row = run_for(&one, life, grip, GateOutcome::Automatic);
            assert!(covers(&row, &playbook(), &again, &again));
            assert!(!covers(&row, &PlaybookName::new("another"), &again, &again));
            for other in &others {
                assert!(!covers(&row, &playbook(), other, other), "{:?}", other.event.record());
            }
        }
        let shadow = run_for(&one, Life::Over, Grip::None, GateOutcome::Shadow);
        assert!(says(&shadow, &playbook(), &again));
        assert!(others.iter().all(|other| !says(&shadow, &playbook(), other)));
    }

    #[test]
    fn what_a_process_begins_is_dealt_with_while_something_holds_it() {
        let of = |process: &Arc<Process>, ancestors: &[u32]| {
            let mut finding = done(process.key.pid.0, "x", "y");
            finding.event.activity = model::Activity::Exec { requested: "x".into() };
            finding.event.process = Arc::clone(process);
            finding.ancestors = ancestors.iter().map(|pid| self::process(*pid)).collect();
            finding
        };
        let (one, child, other) =
            (of(&process(7), &[1]), of(&process(9), &[8, 7, 1]), of(&process(10), &[1]));
        let held = run_for(&one, Life::Over, Grip::Holds, GateOutcome::Automatic);
        let (mut over, mut elsewhere) = (held.clone(), held.clone());
        over.grip = Grip::None;
        elsewhere.node = NodeId::new("another");
        assert!(covers(&held, &playbook(), &child, &child));
        for row in [&over, &elsewhere] {
            assert!(!covers(row, &playbook(), &child, &child));
        }
        assert!(!covers(&held, &playbook(), &other, &other));
        assert!(covers(&over, &playbook(), &one, &child), "answered, until it is seen again");
        assert!(!covers(&over, &playbook(), &one, &one));
    }
}
