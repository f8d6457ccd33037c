//! Shadow → Approve → Auto: what would have been done stands beside what the analysts did, over restarts; a month of agreement is proposed as
//! a patch that Git takes; what was promised and broken is taken back by itself.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hemostat_controller::{ControllerConfig, audit::Query};
use model::*;
use respond::gate::promotion::Word;

use crate::{
    lab::{Lab, new_dir},
    support::{Faint, now},
};

const DAY: i64 = 86_400_000_000_000;

#[derive(Clone, Default)]
struct Days(Arc<AtomicI64>);

impl Days {
    fn install(&self, config: &mut ControllerConfig) {
        let days = self.0.clone();
        config.clock = Arc::new(move || Timestamp(now().0 + days.load(Ordering::SeqCst) * DAY));
        // They pass: no clock is set.
        let (days, steady) = (self.0.clone(), config.steady.clone());
        config.steady = Arc::new(move || {
            steady() + Duration::from_nanos((days.load(Ordering::SeqCst) * DAY).unsigned_abs())
        });
    }
}

/// On `day` something happens; gives the incident once its run is recorded.
async fn attack(lab: &mut Lab, days: &Days, day: i64) -> Incident {
    days.0.store(day, Ordering::SeqCst);
    let n = u64::try_from(day).unwrap() + 1;
    let mut attack = crate::whole::apart(n, 100 * n as u32, n * 10);
    let at = Timestamp(now().0 + day * DAY);
    (attack.event.time, attack.first, attack.last) = (at, at, at);
    lab.spool(Report::Finding(attack));
    lab.disconnect().await;
    lab.connect(Faint::Never);
    lab.until(|line| line.opened >= at && line.verdict.is_none() && !line.playbooks.is_empty()).await
}

async fn audited(lab: &Lab, what: &str) -> bool {
    let page = lab.client.audit_of(&Query::after(0, 10_000)).await.unwrap();
    page.entries.iter().any(|entry| entry.kind == AuditKind::Decision && entry.what.contains(what))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_of_agreement_in_shadow_is_proposed_as_a_patch_that_git_takes() {
    let dir = new_dir("Shadow");
    assert!(Command::new("git").current_dir(dir.path()).args(["init", "-q"]).status().unwrap().success());
    let days = Days::default();
    let mut lab = Lab::start_in(dir, |config| days.install(config)).await;
    for day in 0..32 {
        let incident = attack(&mut lab, &days, day).await;
        assert_eq!(incident.runs[0].decision.outcome, GateOutcome::Shadow);
        lab.client.judge(incident.id.as_str(), Verdict::TruePositive, "seen it").await.unwrap();
        let view = &lab.client.promotion(Some("miner")).await.unwrap()[0];
        assert_eq!(view.score.agreed, u32::try_from(day).unwrap() + 1);
        assert_eq!(view.proposed.is_some(), day >= 30, "day {day}: {view:?}");
        if day % 8 == 3 {
            let days = days.clone();
            lab.disconnect().await;
            lab = lab.restart_with(|config| days.install(config)).await;
        }
    }
    assert!(lab.node.lock().unwrap().world().effects.is_empty(), "I8: shadow is silent");
    assert!(audited(&lab, "playbook miner: mode Approve is proposed").await);
    let view = lab.client.promotion(Some("miner")).await.unwrap().remove(0);
    let newest = &view.runs[0];
    assert_eq!(newest.word, Some(Word::Right));
    assert!(newest.would.iter().any(|line| line.contains("freeze")), "{newest:?}");
    assert!(
        newest.did.iter().any(|deed| deed.what.contains("seen it") && deed.by.as_str().starts_with("user:"))
    );
    assert!(view.weeks.len() >= 4 && view.weeks.iter().all(|week| week.score.agreed == week.score.runs));

    // The patch changes the mode, Git takes it, and the next mode begins its own record.
    let patch = view.patch.unwrap();
    fs::write(lab.dir.path().join("p.patch"), &patch.text).unwrap();
    let git = Command::new("git").current_dir(lab.dir.path()).args(["apply", "p.patch"]).output().unwrap();
    assert!(git.status.success(), "{}\n{}", String::from_utf8_lossy(&git.stderr), patch.text);
    let book = fs::read_to_string(lab.dir.path().join("playbooks/miner.yaml")).unwrap();
    assert_eq!(book, crate::support::playbook("Approve"));
    lab.client.reload_playbooks().await.unwrap();
    let view = &lab.client.promotion(None).await.unwrap()[0];
    assert_eq!((view.in_force, view.score.runs), (crds::Mode::Approve, 0));
    assert!(view.proposed.is_none() && view.missing.as_deref().unwrap().starts_with("0 of 20"), "{view:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_false_positives_take_a_playbook_back_until_a_person_says_that_it_was_mended() {
    let dir = new_dir("Auto");
    let days = Days::default();
    let mut lab = Lab::start_in(dir, |config| days.install(config)).await;
    // Both act before anybody has judged the first: after that the gate itself would ask.
    let mut acted = Vec::new();
    for day in 0..2 {
        let incident = attack(&mut lab, &days, day).await;
        assert_eq!(incident.runs[0].decision.outcome, GateOutcome::Automatic);
        acted.push(incident.id);
    }
    for id in acted {
        lab.client.judge(id.as_str(), Verdict::FalsePositive, "a backup").await.unwrap();
    }
    let view = &lab.client.promotion(Some("miner")).await.unwrap()[0];
    assert_eq!((view.mode, view.in_force), (crds::Mode::Auto, crds::Mode::Approve));
    let told =
        |lab: &Lab| lab.handle.plans().borrow().iter().map(|plan| plan.spec().mode).collect::<Vec<_>>();
    assert_eq!(told(&lab), [crds::Mode::Approve], "what nodes may do by themselves goes by it, too");
    assert!(view.patch.as_ref().unwrap().text.contains("+  mode: Approve"), "{view:?}");
    assert!(audited(&lab, "playbook miner: taken back from Auto to Approve: 2 of 2").await);

    let again = days.clone();
    lab.disconnect().await;
    let mut lab = lab.restart_with(|config| again.install(config)).await;
    assert_eq!(told(&lab), [crds::Mode::Approve]);
    let third = attack(&mut lab, &days, 2).await;
    assert_eq!(third.runs[0].decision.outcome, GateOutcome::Approval, "it holds over a restart");
    assert!(third.runs[0].decision.reasons.iter().any(|reason| reason.contains("taken back to Approve")));
    for name in ["rule-miner", "miner"] {
        lab.client.begin_anew(name, "the rule was mended").await.unwrap();
    }
    assert_eq!(told(&lab), [crds::Mode::Auto]);
    let told = lab.client.explain(third.id.as_str(), Some("miner")).await.unwrap();
    assert_eq!(told.outcome, GateOutcome::Automatic, "{:?}", told.reasons);
    lab.client.deny(third.id.as_str(), None, "").await.unwrap();
    lab.stop().await;
}
