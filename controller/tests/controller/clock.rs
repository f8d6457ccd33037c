//! A wall clock that is set while the controller runs: nothing that was accepted is lost, and what comes is still counted and answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hemostat_controller::{
    ControllerConfig,
    api::Condition,
    audit::{Anchor, AuditKey, verify_log},
};
use model::*;

use crate::{
    lab::Lab,
    support::{Faint, now},
};

const HOUR: i64 = 3_600_000_000_000;

/// The real clock, how far it was set, and how much time is said to have passed.
#[derive(Clone, Default)]
struct Set {
    set: Arc<AtomicI64>,
    passed: Arc<AtomicI64>,
}

impl Set {
    fn to(&self, hours: i64) {
        self.set.store(hours * HOUR, Ordering::SeqCst);
    }

    fn pass(&self, hours: i64) {
        self.passed.fetch_add(hours * HOUR, Ordering::SeqCst);
    }

    fn install(&self, config: &mut ControllerConfig) {
        let (set, passed) = (self.set.clone(), self.passed.clone());
        let by = move || set.load(Ordering::SeqCst) + passed.load(Ordering::SeqCst);
        config.clock = Arc::new(move || Timestamp(now().0 + by()));
        let (steady, passed) = (config.steady.clone(), self.passed.clone());
        config.steady =
            Arc::new(move || steady() + Duration::from_nanos(passed.load(Ordering::SeqCst).unsigned_abs()));
    }
}

/// An attack by the node's clock, which was set with the controller's.
fn attack(n: u64, hours: i64) -> Finding {
    let mut attack = crate::whole::apart(n, 100 * n as u32, n * 10);
    let at = Timestamp(now().0 + hours * HOUR);
    (attack.event.time, attack.first, attack.last) = (at, at, at);
    attack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_forth_and_back_loses_nothing() {
    let clock = Set::default();
    let mut lab = Lab::start_with("Auto", |config| clock.install(config)).await;
    let mut ids = Vec::new();
    for (n, hours) in [0, 30, -5, 0].into_iter().enumerate() {
        clock.to(hours);
        lab.spool(Report::Finding(attack(n as u64 + 1, hours)));
        lab.connect(Faint::Never);
        let incident = lab
            .until(|line| !ids.contains(&line.id) && line.actions_in_force == 2 && line.waiting == 1)
            .await;
        ids.push(incident.id);
        lab.disconnect().await;
    }
    lab.connect(Faint::Never);
    // Thirty hours that never passed have expired no approval, and five that came twice keep nothing in force for longer.
    let open = lab.client.incidents(10).await.unwrap().incidents;
    assert_eq!(
        open.iter().map(|line| (line.waiting, line.actions_in_force)).collect::<Vec<_>>(),
        [(1, 2); 4]
    );
    let told = lab.client.audit(0, 1000).await.unwrap().entries;
    assert_eq!(told.iter().filter(|entry| entry.what.starts_with("the wall clock was set by")).count(), 3);
    for id in &ids {
        lab.client.rollback_incident(id.as_str(), "drill").await.unwrap();
    }
    lab.until_world(|world| world.in_force.is_empty() && world.spool.is_empty()).await;
    assert_eq!(lab.client.health().await.unwrap().condition, Condition::Good);
    let dir = lab.stop().await;
    let config = crate::lab::config(dir.path());
    let key = AuditKey::load(&config.audit_key).unwrap();
    let anchor = Anchor::read(&config.audit_anchor).unwrap();
    assert_eq!(verify_log(&config.audit_log, &key, Some(&anchor)).unwrap().problems, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn correlations_count_again_after_the_clock_was_a_day_ahead() {
    let clock = Set::default();
    let dir = crate::correlate::dir_with(crate::correlate::RULES);
    let mut lab = Lab::start_in(dir, |config| clock.install(config)).await;
    clock.to(24);
    // It is told the time at once: something happens.
    lab.client.reload_playbooks().await.unwrap();
    clock.to(0);
    for report in crate::correlate::five_steps() {
        lab.spool(report);
    }
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert_eq!(incident.findings[0].matched["value"], "5");
    lab.stop().await;
}

/// What one more attack comes to.
async fn comes_to(lab: &mut Lab, n: u64, hours: i64) -> GateOutcome {
    lab.disconnect().await;
    // What was set is told before what it brings.
    lab.client.reload_playbooks().await.unwrap();
    let attack = attack(n, hours);
    let id = attack.id.clone();
    lab.spool(Report::Finding(attack));
    lab.connect(Faint::Never);
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE;
    loop {
        for line in lab.client.incidents(100).await.unwrap().incidents {
            let incident = lab.client.incident(line.id.as_str()).await.unwrap().incident;
            let run = incident.runs.last().filter(|_| incident.findings.iter().any(|one| one.id == id));
            if let Some(run) = run {
                return run.decision.outcome;
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "no run of attack {n}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A budget is used up for an hour that passes, whatever the wall clock is set to, also over restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_neither_frees_a_budget_nor_locks_it() {
    use GateOutcome::{Approval, Automatic};
    let clock = Set::default();
    let dir = crate::lab::new_dir("Auto");
    let policy = "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata: {name: careful}\nspec: {budgets: {runsPerHour: 1}}\n";
    std::fs::write(dir.path().join("playbooks/policy.yaml"), policy).unwrap();
    let mut lab = Lab::start_in(dir, |config| clock.install(config)).await;
    assert_eq!(comes_to(&mut lab, 1, 0).await, Automatic);
    assert_eq!(comes_to(&mut lab, 2, 0).await, Approval, "it is used up");
    for (n, hours) in [(3, 30), (4, -5), (5, 0)] {
        clock.to(hours);
        assert_eq!(comes_to(&mut lab, n, hours).await, Approval, "set by {hours} hours, and none passed");
    }
    clock.to(-5);
    assert_eq!(comes_to(&mut lab, 6, -5).await, Approval);
    let mut lab = lab.restart_with(|config| clock.install(config)).await;
    assert_eq!(comes_to(&mut lab, 7, -5).await, Approval, "what it was set by is remembered");
    clock.pass(2);
    assert_eq!(
        comes_to(&mut lab, 8, -3).await,
        Automatic,
        "the hour is over though the clock shows an earlier one"
    );
    assert_eq!(comes_to(&mut lab, 9, -3).await, Approval);
    // Set back while no controller runs: an hour at most, and not until the clock has caught up.
    lab.disconnect().await;
    clock.to(-50);
    let mut lab = lab.restart_with(|config| clock.install(config)).await;
    assert_eq!(comes_to(&mut lab, 10, -48).await, Approval);
    let lab = lab.restart_with(|config| clock.install(config)).await;
    clock.pass(2);
    let mut lab = lab.restart_with(|config| clock.install(config)).await;
    assert_eq!(comes_to(&mut lab, 11, -46).await, Automatic);
    lab.stop().await;
}
