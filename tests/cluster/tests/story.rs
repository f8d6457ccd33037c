//! One attack seen by two sources, real ones: twelve logins that a real sshd refused, one that it let in, then `kubectl exec` through a real API
//! server from the same host are one incident, and its history tells all 14 events in order.

#![expect(clippy::unwrap_used, reason = "a test of its own; what cannot be done fails it")]

use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use controller::{
    Controller, ControllerConfig,
    client::Client,
    config::rules_below,
    ingest::{self, IngestConfig, Start, Zone},
    wall_clock,
};
use detect::{
    load::load,
    matcher::{Options, RuleSet, Swap},
};
use hemostat_cluster_tests::{Xtask, api_server::repository, sshd::Sshd, state};
use model::{Incident, TimelineEntry};

struct Down<'a>(&'a Xtask);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _best_effort = self.0.cluster(&["down"]);
    }
}

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"}, "spec": {"terminationGracePeriodSeconds": 0,
 "containers": [{"name": "w", "image": "hemostat.dev/busybox:1", "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "sleep 3600"]}]}}"#;

/// Titles of the rules that tell of the events.
const EVENTS: [&str; 3] = ["Failed ssh Login", "Successful ssh Login", "Command Executed in a Pod"];

/// The machine's end of the cluster's link: from there it speaks to the API server, which is told in the administrator's kubeconfig.
fn machine(kubeconfig: &Path) -> IpAddr {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let server = text.split("https://").nth(1).unwrap();
    let node: std::net::Ipv4Addr = server.split([':', '"', '\n']).next().unwrap().parse().unwrap();
    let [a, b, c, _] = node.octets();
    IpAddr::from([a, b, c, 1])
}

fn events(incident: &Incident) -> Vec<TimelineEntry> {
    let ours = |line: &TimelineEntry| EVENTS.iter().any(|title| line.what.starts_with(title));
    incident.history().into_iter().filter(ours).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_refused_logins_one_that_succeeds_and_an_exec_are_one_incident_with_fourteen_events_in_order()
{
    let Some(xtask) = Xtask::here() else { return };
    xtask.cluster(&["down"]).unwrap();
    let _down = Down(&xtask);
    xtask.cluster(&["up"]).unwrap();
    let kubeconfig = xtask.cluster(&["kubeconfig"]).unwrap();
    let address = machine(Path::new(kubeconfig.trim()));
    let Some(sshd) = Sshd::at(address) else { return };
    let manifest = state().join("story.json");
    std::fs::write(&manifest, POD).unwrap();
    xtask.kubectl(&["apply", "--filename", manifest.to_str().unwrap()]).unwrap();
    xtask.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let rules = ["rules/identity", "rules/kubernetes"].map(|folder| repository(folder).into()).to_vec();
    let mut config = ControllerConfig::in_folders(&folder.path().join("state"), folder.path());
    config.rules.clone_from(&rules);
    let client = Client::new(&config.socket);
    let controller = Controller::start(config).await.unwrap();
    let loaded = load(&rules_below(&rules).files);
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let set = set.feeding(&loaded.correlations, &loaded.rules);
    let sources = [
        format!("auth={}", sshd.log().display()),
        format!("kubernetes-audit={}", state().join("audit.log").display()),
    ];
    let ingest = IngestConfig {
        sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        state: folder.path().join("state/sources"),
        start: Start::Beginning,
        rules: Arc::new(Swap::new(Arc::new(set))),
        clock: wall_clock(),
        poll: Duration::from_millis(10),
        zone: Zone::UTC,
    };
    let mut following = ingest::start(&ingest, &controller.attacher()).unwrap();
    let from_here = xtask.clone();
    let attack = tokio::task::spawn_blocking(move || {
        for _ in 0..12 {
            assert!(!sshd.login("root", "stranger"));
        }
        let let_in = sshd.login("root", "user");
        assert!(let_in, "{}", sshd.until(|_| true));
        from_here.kubectl(&["exec", "web", "--", "/bin/echo", "taken"]).unwrap();
        sshd
    });
    let sshd = attack.await.unwrap();

    let until = Instant::now() + Duration::from_secs(120);
    let incident = loop {
        let mut fullest: Option<Incident> = None;
        for line in client.incidents(100).await.unwrap().incidents {
            let incident = client.incident(line.id.as_str()).await.unwrap().incident;
            if fullest.as_ref().is_none_or(|known| events(known).len() < events(&incident).len()) {
                fullest = Some(incident);
            }
        }
        match fullest {
            Some(incident) if events(&incident).len() >= 14 => break incident,
            fullest if Instant::now() >= until => {
                let log = sshd.until(|_| true);
                panic!("{:#?}\n{log}", fullest.map(|incident| incident.history()));
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    assert_eq!(incident.title, "ssh Login Succeeds After Many Failures From the Same Address");
    let told: Vec<String> = events(&incident).into_iter().map(|line| line.what).collect();
    assert_eq!(told.len(), 14, "{told:#?}");
    assert!(told[..12].iter().all(|line| line.starts_with(EVENTS[0])), "{told:#?}");
    assert!(told[12].starts_with(EVENTS[1]) && told[13].starts_with(EVENTS[2]), "{told:#?}");
    for line in &told[..13] {
        let outcome = if line.starts_with(EVENTS[0]) {
            "login failure by publickey"
        } else {
            "login success by publickey"
        };
        assert!(line.contains(&format!("root@bastion from {address}")) && line.contains(outcome), "{line}");
    }
    assert!(told[13].contains(&format!("from {address}: pods default/web")), "{}", told[13]);
    let times: Vec<_> = incident.history().iter().map(|line| line.at).collect();
    assert!(times.is_sorted(), "{times:?}");
    // One story, told so too to who reads the document.
    let shown = client.incidents(100).await.unwrap().incidents;
    assert_eq!(shown.len(), 1, "{shown:#?}");
    let page = client.narrative(incident.id.as_str(), "md").await.unwrap();
    let places: Vec<usize> = (2..=12)
        .map(|n| {
            page.find(&format!("Failed ssh Login ({n} of 12): root@bastion"))
                .unwrap_or_else(|| panic!("{n}: {page}"))
        })
        .chain(
            ["Successful ssh Login: root@bastion", "Command Executed in a Pod: "]
                .map(|words| page.find(words).unwrap()),
        )
        .collect();
    assert!(places.is_sorted(), "{page}");
    println!("{}", told.join("\n"));

    let following = tokio::task::spawn_blocking(move || {
        following.stop();
        following
    });
    let following = following.await.unwrap();
    controller.shutdown().await;
    following.join();
}
