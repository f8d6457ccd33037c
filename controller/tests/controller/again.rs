//! What comes after an incident is over, and reactions that no finding tells of.

use model::*;

use crate::lab::Lab;
use crate::support::{Faint, finding, reaction};
use crate::whole::names;

fn another_rule(mut finding: Finding) -> Finding {
    finding.rule.id = "another".into();
    finding
}

fn again(of: &Finding, count: u64) -> Report {
    Report::Repeat {
        finding: of.id.clone(),
        count,
        last: crate::support::now(),
        moments: model::Moments::default(),
    }
}

async fn all(lab: &Lab) -> Vec<hemostat_controller::api::IncidentSummary> {
    lab.client.incidents(100).await.unwrap().incidents
}

/// Waits until exactly these actions are in force: the node's answer comes after its deed.
async fn until_in_force(lab: &Lab, ids: &[&str]) {
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE;
    loop {
        let listed = lab.client.actions_in_force().await.unwrap();
        if listed.iter().map(|a| a.record.id.as_str()).eq(ids.iter().copied()) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never came: {listed:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Delivers what is in the spool to a controller that was started again.
async fn then(lab: Lab, reports: impl IntoIterator<Item = Report>) -> Lab {
    let mut lab = lab.restart().await;
    for report in reports {
        lab.spool(report);
    }
    lab.connect(Faint::Never);
    lab.until_world(|w| w.spool.is_empty()).await;
    lab
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reaction_that_is_listed_can_be_undone_with_a_finding_or_without() {
    let mut lab = Lab::start("Auto").await;
    // Two identical processes, two reactions, one finding: the second was folded into the first.
    let mut one = another_rule(finding(1, 100, Level::High));
    one.reactions = vec![reaction("act-one", 100)];
    lab.spool(Report::Finding(one.clone()));
    lab.spool(Report::Reaction(reaction("act-two", 101)));
    lab.spool(again(&one, 2));
    lab.connect(Faint::Never);
    lab.until_world(|w| w.spool.is_empty()).await;
    let listed = lab.client.actions_in_force().await.unwrap();
    assert_eq!(listed.len(), 2, "{listed:#?}");
    for action in listed {
        lab.client.rollback_action(action.record.id.as_str(), "a drill").await.unwrap();
    }
    let world = lab.until_world(|w| w.effects.len() == 2).await;
    assert_eq!(names(&world), ["revert node.freeze", "revert node.freeze"]);
    until_in_force(&lab, &[]).await;
    let incidents = all(&lab).await;
    assert_eq!(incidents.len(), 2, "the folded one has an incident of its own: {incidents:#?}");
    // Once more finds nothing to undo, and says so.
    let refused = lab.client.rollback_action("act-two", "").await.unwrap_err().to_string();
    assert!(refused.contains("nothing to undo"), "{refused}");
    let lab = then(lab, []).await;
    assert!(lab.client.actions_in_force().await.unwrap().is_empty(), "also after a restart");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_positive_lifts_what_belongs_to_the_incident_and_the_rest_stays_liftable() {
    let mut lab = Lab::start("Auto").await;
    let mut one = another_rule(finding(1, 100, Level::High));
    one.reactions = vec![reaction("act-one", 100)];
    // Before its finding, and after it: of the same process, so of the same incident.
    lab.spool(Report::Reaction(reaction("act-early", 100)));
    lab.spool(Report::Finding(one));
    lab.spool(Report::Reaction(reaction("act-late", 100)));
    lab.spool(Report::Reaction(reaction("act-two", 101)));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.actions == 3).await;
    lab.until_world(|w| w.spool.is_empty()).await;
    lab.client.judge(incident.id.as_str(), Verdict::FalsePositive, "a backup job").await.unwrap();
    lab.until_world(|w| w.effects.len() == 3).await;
    until_in_force(&lab, &["act-two"]).await;
    lab.client.rollback_action("act-two", "a backup job, too").await.unwrap();
    lab.until_world(|w| w.effects.len() == 4).await;
    until_in_force(&lab, &[]).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_closes_the_group_and_the_next_attacker_is_answered() {
    let mut lab = Lab::start("Auto").await;
    let one = finding(1, 100, Level::High);
    lab.spool(Report::Finding(one.clone()));
    lab.connect(Faint::Never);
    let judged = lab.until_state(IncidentState::NeedsApproval).await;
    lab.client.judge(judged.id.as_str(), Verdict::FalsePositive, "a backup job").await.unwrap();
    lab.until_state(IncidentState::RolledBack).await;
    let before = lab.until_world(|w| w.in_force.is_empty()).await;
    // The same process and the same rule: shown, and left alone, as a person decided.
    let lab =
        then(lab, [Report::Finding(finding(2, 100, Level::High)), again(&one, 9), again(&one, 9)]).await;
    let shown = all(&lab).await;
    assert_eq!(shown.len(), 2, "{shown:#?}");
    let new = lab.until(|line| line.verdict.is_none()).await;
    assert_eq!((new.state, new.findings.len(), new.runs.len()), (IncidentState::Open, 2, 0));
    assert!(new.timeline.iter().any(|line| line.what.contains("a person undid")), "{:#?}", new.timeline);
    assert_eq!(lab.node.lock().unwrap().world().effects, before.effects);
    // Nor what it begins by the same rule.
    let mut child = finding(4, 102, Level::High);
    child.ancestors = vec![crate::support::process(100)];
    let lab = then(lab, [Report::Finding(child)]).await;
    let new = lab.until(|line| line.verdict.is_none() && line.findings == 3).await;
    let told = new.timeline.iter().any(|line| line.what.contains("of which 102 is a descendant"));
    assert!(told && new.runs.is_empty(), "{:#?}", new.timeline);
    assert_eq!(lab.node.lock().unwrap().world().effects, before.effects);
    // Another process is another matter.
    let lab = then(lab, [Report::Finding(finding(3, 101, Level::High))]).await;
    let new = lab.until(|line| line.waiting == 1).await;
    assert_eq!((new.runs.len(), new.verdict), (1, None));
    assert_ne!(new.id, judged.id);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_true_positive_does_not_mute_what_follows() {
    let mut lab = Lab::start("Auto").await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    let judged = lab.until_state(IncidentState::NeedsApproval).await;
    lab.client.judge(judged.id.as_str(), Verdict::TruePositive, "").await.unwrap();
    // What holds the first process still holds it; the second is answered in an incident of its own. Without a restart.
    lab.spool(Report::Finding(finding(2, 100, Level::High)));
    lab.spool(Report::Finding(finding(3, 200, Level::High)));
    lab.connect(Faint::Never);
    let new = lab.until(|line| line.verdict.is_none() && line.waiting == 1).await;
    assert_eq!((new.findings.len(), new.runs.len()), (2, 1));
    assert!(
        new.timeline.iter().any(|line| line.what.contains("deals with 100 already")),
        "{:#?}",
        new.timeline
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_after_the_incident_is_closed_opens_another_once() {
    let mut lab = Lab::start("Shadow").await;
    let one = finding(1, 100, Level::High);
    lab.spool(Report::Finding(one.clone()));
    lab.connect(Faint::Never);
    let closed = lab.until(|line| !line.playbooks.is_empty()).await;
    lab.client.close(closed.id.as_str(), "seen").await.unwrap();
    let lab = then(lab, [again(&one, 5), again(&one, 5), again(&one, 6)]).await;
    let shown = all(&lab).await;
    assert_eq!(shown.len(), 2, "{shown:#?}");
    let new = lab.until(|line| line.state == IncidentState::Open).await;
    assert_ne!(new.id, closed.id);
    assert_eq!((new.findings.len(), new.findings[0].count, new.runs.len()), (1, 6, 1));
    let old = lab.client.incident(closed.id.as_str()).await.unwrap().incident;
    assert_eq!(old.state, IncidentState::Closed);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_undid_the_machine_does_not_do_again_but_the_incident_is_open_again() {
    let mut lab = Lab::start("Auto").await;
    let one = finding(1, 100, Level::High);
    lab.spool(Report::Finding(one.clone()));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    lab.client.rollback_incident(incident.id.as_str(), "not this one").await.unwrap();
    lab.until_state(IncidentState::RolledBack).await;
    let before = lab.until_world(|w| w.in_force.is_empty()).await;
    let lab = then(lab, [again(&one, 2), Report::Finding(finding(2, 100, Level::High))]).await;
    let open = lab.until_state(IncidentState::Open).await;
    assert_eq!((open.id.clone(), open.runs.len(), open.findings[0].count), (incident.id.clone(), 1, 2));
    assert_eq!(lab.node.lock().unwrap().world().effects, before.effects);
    // Another process of the same incident is answered.
    let lab = then(lab, [Report::Finding(finding(3, 200, Level::High))]).await;
    let open = lab.until(|line| line.waiting == 1).await;
    assert_eq!((open.id, open.runs.len()), (incident.id, 2));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_over_and_holds_nothing_covers_nothing() {
    let mut lab = Lab::start("Auto").await;
    // Evidence alone holds nobody.
    let text = crate::support::playbook("Auto");
    let text =
        text[..text.find("    - name: isolate").unwrap()].replace("node.freeze", "node.capture-evidence");
    let text = text.replace("      with: { scope: Subtree }\n", "").replace("name: freeze", "name: evidence");
    std::fs::write(lab.dir.path().join("playbooks/miner.yaml"), text).unwrap();
    assert_eq!(lab.client.reload_playbooks().await.unwrap().broken, Vec::<String>::new());
    let one = finding(1, 100, Level::High);
    lab.spool(Report::Finding(one.clone()));
    lab.connect(Faint::Never);
    lab.until_state(IncidentState::Remediated).await;
    let lab = then(lab, [again(&one, 2), again(&one, 2)]).await;
    let incident =
        lab.until(|line| line.playbooks.len() == 2 && line.state == IncidentState::Remediated).await;
    assert_eq!(incident.findings[0].count, 2);
    let evidence = names(&lab.until_world(|w| w.effects.len() == 2).await);
    assert_eq!(evidence, ["apply node.capture-evidence", "apply node.capture-evidence"]);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_of_runs_a_person_is_told() {
    let mut lab = Lab::start_with("Auto", |config| config.limits.runs_per_playbook = 2).await;
    for n in 1..=3 {
        lab.spool(Report::Finding(finding(n, 100 * u32::try_from(n).unwrap(), Level::High)));
    }
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.waiting == 2 && line.findings == 3).await;
    assert!(
        incident.timeline.iter().any(|line| line.what.contains("no more by itself")),
        "{:#?}",
        incident.timeline
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_denied_or_lifted_on_the_node_is_not_done_again() {
    let mut lab = Lab::start("Approve").await;
    let one = finding(1, 100, Level::High);
    lab.spool(Report::Finding(one.clone()));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.waiting == 1).await;
    lab.client.deny(incident.id.as_str(), None, "no").await.unwrap();
    lab.until(|line| line.waiting == 0).await;
    let lab = then(lab, [again(&one, 2), Report::Finding(finding(2, 100, Level::High))]).await;
    let incident = lab.until(|line| line.findings == 2).await;
    assert_eq!((incident.runs.len(), incident.runs[0].state), (1, RunState::Denied));
    assert!(lab.node.lock().unwrap().world().effects.is_empty());
    lab.stop().await;

    let mut lab = Lab::start("Auto").await;
    lab.spool(Report::Finding(one.clone()));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    lab.client.deny(incident.id.as_str(), None, "no").await.unwrap();
    let incident = lab.until(|line| line.waiting == 0).await;
    let lifted = incident.actions.iter().filter(|a| a.action.undo() == UndoClass::Exact);
    let lifted = lifted.map(|a| Report::Reaction(ActionRecord { state: ActionState::Reverted, ..a.clone() }));
    let lab = then(lab, lifted).await;
    let incident = lab.until(|line| line.actions_in_force == 0).await;
    let lab = then(lab, [again(&one, 2)]).await;
    let after = lab.until(|line| line.state == IncidentState::Open).await;
    assert_eq!((&after.id, after.runs.len(), after.findings[0].count), (&incident.id, 1, 2));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_repeat_of_a_merged_incident_goes_where_its_story_went() {
    use crate::whole::apart;
    let mut lab = Lab::start("Shadow").await;
    let two = apart(2, 200, 20);
    lab.spool(Report::Finding(apart(1, 100, 10)));
    lab.spool(Report::Finding(two.clone()));
    lab.spool(Report::Finding(apart(3, 200, 10)));
    lab.spool(again(&two, 4));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.findings == 3).await;
    lab.until_world(|w| w.spool.is_empty()).await;
    let view = lab.client.incident(incident.id.as_str()).await.unwrap().incident;
    assert_eq!(view.findings.iter().find(|f| f.id == two.id).map(|f| f.count), Some(4));
    assert_eq!(all(&lab).await.len(), 1, "a merged incident is not one that a person closed");
    lab.stop().await;
}
