//! I11: what waits, what is kept and what is shown has its limit, and what happens there is as documented (docs/controller.md, "Limits").

use std::{sync::Arc, time::Duration};

use hemostat_controller::{ControllerConfig, api::Condition};
use model::*;

use crate::{
    lab::{Lab, PATIENCE},
    support::{Faint, finding, reaction},
    whole::apart,
};

async fn with(adjust: impl FnOnce(&mut ControllerConfig)) -> Lab {
    Lab::start_with("Shadow", adjust).await
}

/// Waits until something shown is as wanted.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_senders_wait_where_the_queue_is_full_and_nothing_is_lost() {
    let mut lab = with(|config| {
        config.limits.inbox = 1;
        config.limits.batch = 1;
    })
    .await;
    let reports = (1..=100).map(|n| Report::Finding(finding(n, 100, Level::High)));
    lab.node.lock().unwrap().spool_all(reports);
    lab.connect(Faint::Never);
    lab.until(|line| line.findings == 100).await;
    lab.until_world(|world| world.spool.is_empty()).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_more_open_incidents_than_the_limit_are_said_and_closed_ones_make_room() {
    let mut lab = with(|config| config.limits.incidents = 3).await;
    for n in 1..=5_u32 {
        lab.spool(Report::Finding(apart(u64::from(n), n * 100, u64::from(n) * 10)));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let problem = until("it is said", async || {
        let health = lab.client.health().await.unwrap();
        health.problems.into_iter().find(|problem| problem.part == "grouping")
    })
    .await;
    assert!(problem.what.starts_with("2 incidents more than the limit"), "{problem:?}");
    let all = lab.client.incidents(10).await.unwrap().incidents;
    assert_eq!(all.len(), 5, "open ones are not forgotten");
    for line in &all[..2] {
        lab.client.close(line.id.as_str(), "drill").await.unwrap();
    }
    until("room is made", async || {
        let shown = lab.client.incidents(10).await.unwrap().incidents.len();
        let good = lab.client.health().await.unwrap().condition == Condition::Good;
        (shown == 3 && good).then_some(())
    })
    .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_of_finding_ids_the_oldest_are_forgotten_and_the_position_still_tells_repeats() {
    let mut lab = with(|config| config.limits.seen = 3).await;
    let findings: Vec<Finding> = (1..=8).map(|n| finding(n, 100, Level::High)).collect();
    for finding in &findings {
        lab.spool(Report::Finding(finding.clone()));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let mut lab = lab.restart().await;
    // The same positions once more, as if no acknowledgement had arrived.
    lab.node.lock().unwrap().forget_acks();
    for finding in &findings {
        lab.spool(Report::Finding(finding.clone()));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let incident = lab.until(|_| true).await;
    assert_eq!(incident.findings.len() as u64 + incident.findings_dropped, 8, "each once");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_reactions_without_an_incident_are_bounded_and_those_in_force_are_forgotten_last() {
    let mut lab = with(|config| config.limits.orphans = 3).await;
    for n in 0..6_u32 {
        let mut record = reaction(&format!("act-{n}"), 1000 + n);
        if n < 4 {
            record.state = ActionState::Reverted;
        }
        lab.spool(Report::Reaction(record));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let listed = lab.client.actions().await.unwrap();
    let ids: Vec<&str> = listed.iter().map(|action| action.record.id.as_str()).collect();
    assert_eq!(listed.len(), 3, "{ids:?}");
    assert!(ids.contains(&"act-4") && ids.contains(&"act-5"), "{ids:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_what_is_not_in_memory_is_read_again() {
    let mut lab = with(|config| config.limits.cached_findings = 2).await;
    for n in 1..=10_u32 {
        lab.spool(Report::Finding(apart(u64::from(n), n * 100, u64::from(n) * 10)));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    for line in lab.client.incidents(20).await.unwrap().incidents {
        let whole = lab.client.incident(line.id.as_str()).await.unwrap().incident;
        assert_eq!((whole.findings.len(), whole.id), (1, line.id));
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_no_name_from_an_event_becomes_a_label() {
    let mut lab = Lab::start("Auto").await;
    for n in 1..=20_u32 {
        let mut strange = apart(u64::from(n), n * 100, u64::from(n) * 10);
        strange.rule.id = format!("rule-{n}-\"{{}}");
        let mut process = (*strange.event.process).clone();
        process.exe = format!("/tmp/evil-{n}");
        strange.event.process = Arc::new(process);
        lab.spool(Report::Finding(strange));
    }
    lab.spool(Report::Finding(finding(100, 77, Level::High)));
    lab.connect(Faint::Never);
    lab.until_state(IncidentState::NeedsApproval).await;
    let text = lab.client.metrics().await.unwrap();
    for name in ["evil", "rule-", "node-1", "inc-", "run-", "act-", "fnd-", "miner"] {
        assert!(!text.contains(name), "{name} in\n{text}");
    }
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 120, "{series} series");
    lab.stop().await;
}

/// Not a test: how the time for findings and for the list grows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, minutes; run with --release --ignored --nocapture"]
async fn figures_of_a_hundred_thousand_findings_and_ten_thousand_incidents() {
    let lab = with(|_| {}).await;
    let (mut agent, link) = crate::support::link();
    lab.handle.attach(link);
    let hello = Up::Hello { node: NodeId::new(crate::support::NODE), epoch: AgentEpoch(1) };
    agent.up.send(hello).await.unwrap();
    let (total, step) = (100_000_u32, 10_000_u32);
    let mut begun = std::time::Instant::now();
    let up = agent.up.clone();
    let sender = tokio::spawn(async move {
        for n in 1..=total {
            // Ten findings an incident: ten thousand incidents.
            let report = Report::Finding(apart(u64::from(n), 1000 + n, 1000 + u64::from(n % 10_000)));
            let up = up.send(Up::Report { seq: Seq(u64::from(n)), report: Box::new(report) });
            up.await.unwrap();
        }
    });
    let mut next = step;
    while next <= total {
        if let Down::Ack { upto } = agent.down.recv().await.unwrap()
            && upto.0 >= u64::from(next)
        {
            println!("findings {} to {next}: {:?}", next - step, begun.elapsed());
            begun = std::time::Instant::now();
            next += step;
        }
    }
    sender.await.unwrap();
    for limit in [100, 1000, 10_000] {
        let begun = std::time::Instant::now();
        let list = lab.client.incidents(limit).await.unwrap().incidents;
        println!("list of {}: {:?}", list.len(), begun.elapsed());
    }
    let begun = std::time::Instant::now();
    lab.client.status().await.unwrap();
    println!("status: {:?}", begun.elapsed());
    drop(agent);
    lab.stop().await;
}
