//! Two incidents that turn out to be about one pod: it is known only later whose an address was.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hemostat_controller::attribute::{Pods, index::Limits, listed};
use model::*;

use crate::{
    lab::Lab,
    support::{Faint, finding, now},
};

const POD: &str = r#"{"items": [
  {"kind": "Pod", "metadata": {"name": "web-1", "namespace": "pay", "uid": "u-web", "resourceVersion": "1",
                               "creationTimestamp": "2026-01-01T00:00:00Z"},
   "spec": {"containers": [{"name": "web"}]}, "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.7"}]}}
]}"#;

/// A process of the pod did something.
fn within(seq: u64) -> Finding {
    let mut within = finding(seq, 100, Level::High);
    let mut process = (*within.event.process).clone();
    process.cgroup = CgroupId(700);
    process.workload = Arc::new(Workload::Container {
        runtime: Runtime::Containerd,
        container_id: "c".into(),
        pod_uid: Some("u-web".into()),
        cgroup_path: "/kubepods/podu-web/c".into(),
    });
    within.event.process = Arc::new(process);
    within
}

/// Another process, elsewhere, spoke with the pod's address.
fn with_its_address(seq: u64) -> Finding {
    let mut with = finding(seq, 200, Level::High);
    let mut process = (*with.event.process).clone();
    process.cgroup = CgroupId(800);
    with.event.process = Arc::new(process);
    let end = |addr: [u8; 4]| Endpoint { addr: IpAddr::from(addr), port: 8080 };
    let (local, remote) = (end([192, 0, 2, 1]), end([10, 244, 0, 7]));
    with.event.activity = Activity::Connect(Flow { protocol: Protocol::Tcp, local, remote });
    with
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_incidents_that_turn_out_to_be_about_one_pod_are_merged_with_a_trace() {
    // A clock that is slow, so that a busy machine does not miss how long it is waited for word of a pod.
    let (began, since) = (now(), Instant::now());
    let clock: hemostat_controller::config::Clock = Arc::new(move || began.plus(since.elapsed() / 20));
    let pods = Pods::new(Limits::default(), Arc::clone(&clock));
    let known = pods.clone();
    let mut lab = Lab::start_with("Approval", move |config| {
        config.pods = Some(known);
        config.clock = clock;
    })
    .await;
    let (one, two) = (within(1), with_its_address(2));
    lab.spool(Report::Finding(one.clone()));
    lab.spool(Report::Finding(two.clone()));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let apart = lab.client.incidents(10).await.unwrap().incidents;
    assert_eq!(apart.len(), 2, "nothing links them: {apart:#?}");
    assert!(apart.iter().all(|line| line.merged_into.is_none()));

    for (_, fact) in listed::facts(POD.as_bytes()).unwrap() {
        pods.tell(fact);
    }
    let both = lab.until(|line| line.findings == 2).await;
    let other = apart.iter().find(|line| line.id != both.id).unwrap();
    let view = lab.client.incident(other.id.as_str()).await.unwrap();
    let gone = view.incident;
    assert_eq!(view.merged_into.as_ref(), Some(&both.id));
    let into = lab.client.incident(both.id.as_str()).await.unwrap();
    assert_eq!(into.absorbed, std::slice::from_ref(&gone.id));
    let told: Vec<&FindingId> = into.incident.findings.iter().map(|finding| &finding.id).collect();
    assert!(told.len() == 2 && told.contains(&&one.id) && told.contains(&&two.id), "{told:?}");
    let said =
        |incident: &Incident, words: &str| incident.timeline.iter().any(|line| line.what.contains(words));
    assert!(said(&into.incident, "is the same story (pod u-web)"), "{:#?}", into.incident.timeline);
    assert!(
        said(&gone, &format!("the same story as {} (pod u-web)", into.incident.id)),
        "{:#?}",
        gone.timeline
    );
    // What is found out about either is found out about the one story.
    let until = Instant::now() + Duration::from_secs(120);
    while lab.client.incident(into.incident.id.as_str()).await.unwrap().incident.pod_path().as_deref()
        != Some("pay/web-1")
    {
        assert!(Instant::now() < until, "the pod is not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It stays so after a restart, and whatever comes again.
    lab.node.lock().unwrap().forget_acks();
    let mut lab = lab.restart().await;
    lab.spool(Report::Finding(two));
    lab.spool(Report::Finding(one));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let all = lab.client.incidents(10).await.unwrap().incidents;
    assert_eq!(
        all.iter().map(|line| (&line.id, line.findings)).collect::<Vec<_>>(),
        [(&both.id, 2)],
        "{all:#?}"
    );
    lab.stop().await;
}
