//! A person takes findings out of an incident: both go on, and both say so.

use hemostat_controller::api::ApiErrorKind;
use hemostat_controller::client::ClientError;
use model::{Level, Report};

use crate::{
    lab::Lab,
    support::{Faint, finding},
};

#[tokio::test(flavor = "multi_thread")]
async fn splitting_an_incident_leaves_a_trace_in_both_and_survives_a_restart() {
    let mut lab = Lab::start("Shadow").await;
    for (seq, pid) in [(1, 100), (2, 100), (3, 100)] {
        lab.spool(Report::Finding(finding(seq, pid, Level::High)));
    }
    lab.connect(Faint::Never);
    let whole = lab.until(|line| line.findings == 3).await;
    let ids: Vec<_> = whole.findings.iter().map(|one| one.id.clone()).collect();
    let refused = lab.client.split(whole.id.as_str(), &ids, "all").await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused(error) if error.kind == ApiErrorKind::Conflict),
        "{refused:?}"
    );
    let done = lab.client.split(whole.id.as_str(), &ids[1..], "two attackers").await.unwrap();
    assert_ne!(done.incident, whole.id);
    let mut lab = lab.restart().await;
    lab.connect(Faint::Never);
    for (id, findings, line) in [
        (&whole.id, &ids[..1], format!("splits 2 findings off into {}: two attackers", done.incident)),
        (&done.incident, &ids[1..], format!("2 findings of {}, split off by", whole.id)),
    ] {
        let incident = lab.client.incident(id.as_str()).await.unwrap().incident;
        let mut known: Vec<_> = incident.findings.iter().map(|one| one.id.clone()).collect();
        let mut wanted = findings.to_vec();
        known.sort();
        wanted.sort();
        assert_eq!(known, wanted, "{id}");
        let told: Vec<&str> = incident.timeline.iter().map(|entry| entry.what.as_str()).collect();
        assert!(told.iter().any(|what| what.contains(&line)), "{told:#?}");
    }
    let log = std::fs::read_to_string(crate::lab::config(lab.dir.path()).audit_log).unwrap();
    assert_eq!(log.matches("splits 2 findings off").count(), 1);
    // A count of a finding that moved goes to where it is now.
    lab.disconnect().await;
    lab.spool(Report::Repeat {
        finding: ids[2].clone(),
        count: 7,
        last: crate::support::now(),
        moments: model::Moments::default(),
    });
    lab.connect(Faint::Never);
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE;
    loop {
        let incident = lab.client.incident(done.incident.as_str()).await.unwrap().incident;
        if incident.findings.iter().any(|one| one.id == ids[2] && one.count == 7) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    lab.stop().await;
}
