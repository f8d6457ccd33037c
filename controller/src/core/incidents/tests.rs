use model::{BootNs, FreezeScope, NodeAction, Pid, ProcessKey, Target};

use super::*;
use crate::store::Store;

fn at(n: i64) -> Timestamp {
    Timestamp(n)
}

fn id(n: usize) -> IncidentId {
    IncidentId::new(format!("inc-{n:05}"))
}

fn new(incidents: &mut Incidents, n: usize, state: IncidentState) -> &mut Whole {
    let when = at(n as i64);
    let incident = Incident { state, ..begun(&id(n), "x", Level::High, when, when) };
    incidents.open(incident, Visibility::Open)
}

fn record(n: usize, state: ActionState) -> ActionRecord {
    ActionRecord {
        id: ActionId::new(format!("act-{n}")),
        incident: None,
        run: None,
        step: None,
        action: NodeAction::Freeze(FreezeScope::Subtree),
        target: Target::Process { process: ProcessKey { pid: Pid(7), start: BootNs(7) } },
        state,
        rollback: None,
        planned: at(0),
        applied: None,
        detail: String::new(),
    }
}

#[test]
fn i11_the_timeline_loses_its_middle_first() {
    let mut incidents = Incidents::default();
    let whole = new(&mut incidents, 1, IncidentState::Open);
    let all = Incident::MAX_TIMELINE * 2;
    for n in 0..all {
        whole.tell(at(n as i64), &Actor::new("system:controller"), format!("line {n}"));
    }
    let timeline = &whole.row.incident.timeline;
    assert_eq!(timeline.len(), Incident::MAX_TIMELINE);
    assert_eq!(timeline[0].what, "line 0", "how it began");
    assert_eq!(timeline[timeline.len() - 1].what, format!("line {}", all - 1), "and what came last");
}

#[test]
fn i11_the_actions_of_one_incident_are_bounded_and_those_in_force_stay() {
    let mut incidents = Incidents::default();
    let whole = new(&mut incidents, 1, IncidentState::Open);
    for n in 0..MAX_ACTIONS {
        let state = if n == 5 { ActionState::Reverted } else { ActionState::Applied };
        let record = record(n, state);
        assert!(whole.takes(&record.id));
        whole.record(&record, at(1));
    }
    assert!(whole.takes(&ActionId::new("act-7")), "one that is there already");
    assert!(whole.takes(&ActionId::new("act-new")), "the one that is over makes room");
    whole.record(&record(MAX_ACTIONS, ActionState::Applied), at(2));
    assert_eq!(whole.row.incident.actions.len(), MAX_ACTIONS);
    assert!(whole.row.incident.actions.iter().all(|known| known.id.as_str() != "act-5"));
    assert!(!whole.takes(&ActionId::new("act-newer")), "none that is in force is forgotten");
}

#[test]
fn i11_the_oldest_incidents_that_are_over_are_forgotten_and_no_others() {
    let mut incidents = Incidents::default();
    for n in 0..10 {
        let state = if n % 2 == 0 { IncidentState::Closed } else { IncidentState::Open };
        new(&mut incidents, n, state);
    }
    let mut batch = Batch::default();
    incidents.flush(&mut batch);
    let (gone, too_many) = incidents.retire(7, &mut batch);
    assert_eq!((gone, too_many), (vec![id(0), id(2), id(4)], 0));
    let (gone, too_many) = incidents.retire(1, &mut batch);
    assert_eq!(
        (gone, too_many),
        (vec![id(6), id(8)], 4),
        "open ones stay, and how many are too many is told"
    );
    assert_eq!(incidents.visible().count(), 5);
}

#[test]
fn i11_findings_in_memory_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("journal.redb")).unwrap();
    let mut incidents = Incidents::default();
    for n in 0..100 {
        new(&mut incidents, n, IncidentState::Open);
    }
    let mut batch = Batch::default();
    incidents.flush(&mut batch);
    store.commit(&batch).unwrap();
    assert!(incidents.get(&store, &id(3)).unwrap().is_some());
    incidents.evict(10);
    assert_eq!(incidents.whole.len(), 9);
    assert!(incidents.whole.contains_key(&id(3)), "what was used last stays");
    assert!(incidents.get(&store, &id(50)).unwrap().is_some(), "and the others are read again");
}

#[test]
fn an_incident_is_meant_by_its_id_or_enough_of_it_and_never_by_nothing() {
    let mut incidents = Incidents::default();
    new(&mut incidents, 12_345, IncidentState::Open);
    let said = |incidents: &Incidents, word: &str| {
        incidents.meant(word).map(|id| id.to_string()).map_err(|error| (error.kind, error.message))
    };
    // It is the only one, and still nothing is not it.
    for nothing in ["", " ", "inc-", "\t"] {
        assert_eq!(said(&incidents, nothing).unwrap_err().0, ApiErrorKind::Malformed, "{nothing:?}");
    }
    for short in ["i", "in", "inc", "inc-1", "inc-123", "123"] {
        let (kind, message) = said(&incidents, short).unwrap_err();
        assert_eq!(kind, ApiErrorKind::Unknown);
        assert!(
            message.contains("at least 4 characters") && message.contains("hemostat incidents"),
            "{message}"
        );
    }
    for enough in ["inc-1234", "1234", "12345", "inc-12345"] {
        assert_eq!(said(&incidents, enough).unwrap(), "inc-12345");
    }
    new(&mut incidents, 12_346, IncidentState::Open);
    assert!(said(&incidents, "1234").unwrap_err().1.contains("the beginning of 2 incidents"));
    assert!(said(&incidents, "inc-9999").unwrap_err().1.contains("there is no incident"));
}

/// A process ends, and with it what was decided about it; an account does not, so the latest decision about it holds for a day.
#[test]
fn a_decision_about_an_account_holds_for_a_day_and_the_latest_one_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("journal.redb")).unwrap();
    let mut incidents = Incidents::default();
    for n in [1, 2] {
        new(&mut incidents, n, IncidentState::Closed);
    }
    let what = |pid, object: Option<&str>| Undone {
        node: model::NodeId::new("n"),
        process: ProcessKey { pid: Pid(pid), start: BootNs(5) },
        rule: "r".into(),
        object: object.map(|name| model::RecordObject {
            kind: "pods".into(),
            namespace: None,
            name: name.into(),
        }),
    };
    let (process, account) = (what(7, None), what(0, Some("api-0")));
    for n in [1, 2] {
        for what in [&process, &account] {
            incidents.undid(&store, &id(n), (*what).clone()).unwrap();
        }
    }
    let mut batch = Batch::default();
    incidents.flush(&mut batch);
    store.commit(&batch).unwrap();
    let day = 24 * 60 * 60 * 1_000_000_000;
    for incidents in [incidents, Incidents::load(&store, 0).unwrap()] {
        assert_eq!(incidents.undone_in(&process, at(9 * day)), Some(&id(2)));
        assert_eq!(incidents.undone_in(&account, at(2 + day)), Some(&id(2)));
        assert_eq!(incidents.undone_in(&account, at(3 + day)), None);
        assert_eq!(incidents.undone_in(&what(0, Some("api-1")), at(3)), None, "it was about something else");
    }
}
