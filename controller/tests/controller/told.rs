//! What is told of an incident: its narrative in each form, and the measures, which a restart does not change.

use hemostat_controller::api::ApiErrorKind;
use model::*;

use crate::{
    lab::Lab,
    support::{Faint, finding},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_narrative_has_the_plan_what_fell_short_and_the_two_commands() {
    let mut lab = Lab::start("Approve").await;
    let mut attack = finding(1, 100, Level::High);
    attack.matched.insert("CommandLine".into(), "<script>alert(1)</script> `x` \u{1b}[2J".into());
    lab.spool(Report::Finding(attack));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.waiting == 1).await;
    let id = incident.id.as_str();
    for form in ["html", "md", "json"] {
        let text = lab.client.narrative(id, form).await.unwrap();
        for needed in [format!("hemostat approve {id} run"), format!("hemostat deny {id} run")] {
            assert!(text.contains(&needed), "{form}: {text}");
        }
        for needed in
            ["node.net-quarantine", "the processes are gone", "mode of the playbook: Approve", "Workload"]
        {
            assert!(text.contains(needed), "{form} lacks {needed}: {text}");
        }
        assert!(!text.contains('\u{1b}') && (form != "html" || !text.contains("<script")));
    }
    let json: serde_json::Value =
        serde_json::from_str(&lab.client.narrative(id, "json").await.unwrap()).unwrap();
    let steps = json["responses"][0]["plan"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().any(|step| step["undo"].as_str().unwrap().starts_with("cannot be")), "{steps:?}");
    for (which, form, kind) in
        [(id, "pdf", ApiErrorKind::Malformed), ("inc-none", "md", ApiErrorKind::Unknown)]
    {
        let refused = lab.client.narrative(which, form).await;
        assert!(
            matches!(&refused, Err(hemostat_controller::client::ClientError::Refused(error)) if error.kind == kind),
            "{refused:?}"
        );
    }
    lab.client.deny(id, None, "").await.unwrap();
    lab.stop().await;
}

/// The lines of the measures.
async fn measures(lab: &Lab) -> Vec<String> {
    let text = lab.client.metrics().await.unwrap();
    let ours = ["_time_to_", "_measure_", "_volume_"];
    let lines =
        text.lines().filter(|line| !line.starts_with('#') && ours.iter().any(|one| line.contains(one)));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measures_are_made_of_what_is_stored_and_a_restart_changes_none() {
    let mut lab = Lab::start("Auto").await;
    for n in 1..=3 {
        lab.spool(Report::Finding(crate::whole::apart(n, 100 * n as u32, n * 10)));
    }
    lab.connect(Faint::Never);
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE * 2;
    let all = loop {
        let all = lab.client.incidents(10).await.unwrap().incidents;
        if all.len() == 3 && all.iter().all(|line| line.contained.is_some()) {
            break all;
        }
        assert!(tokio::time::Instant::now() < deadline, "{all:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    lab.client.judge(all[0].id.as_str(), Verdict::FalsePositive, "").await.unwrap();
    lab.client.judge(all[1].id.as_str(), Verdict::TruePositive, "").await.unwrap();
    lab.until_world(|world| world.in_force.len() == 4).await;
    let wanted = [
        "hemostat_controller_volume_incidents{window=\"1d\",level=\"high\"} 3",
        "hemostat_controller_measure_ratios{measure=\"false_positive\",window=\"7d\",playbook=\"miner\"} 0.5",
        "hemostat_controller_measure_cases{measure=\"containment_precision\",window=\"30d\",playbook=\"*\"} 2",
        "hemostat_controller_measure_cases{measure=\"rollback\",window=\"1d\",playbook=\"*\"} 6",
    ];
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE * 2;
    let before = loop {
        let before = measures(&lab).await;
        let has = |wanted: &&str| before.iter().any(|line| line == wanted);
        let rolled = before
            .iter()
            .any(|line| line.contains("measure=\"rollback\",window=\"1d\",playbook=\"*\"} 0.333"));
        if wanted.iter().all(has) && rolled {
            break before;
        }
        assert!(tokio::time::Instant::now() < deadline, "{before:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    lab.disconnect().await;
    let lab = lab.restart().await;
    assert_eq!(
        measures(&lab).await,
        before,
        "also for whoever asks before the core has taken its first turn"
    );
    lab.stop().await;
}
