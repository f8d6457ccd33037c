//! Logs followed by a controller: what they tell becomes incidents, once, over restarts and rotations; what is wrong with them is told.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    fs::{OpenOptions, rename, write},
    io::Write as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use detect::{
    load::load,
    matcher::{Options, RuleSet, Swap},
    source::SourceFile,
};
use hemostat_controller::{
    Controller, ControllerConfig, ControllerHandle,
    client::Client,
    ingest::{self, IngestConfig, IngestHandle, Start, Zone},
    wall_clock,
};
use model::{
    AgentEpoch, Down, Entity, FindingId, Incident, IncidentState, NodeId, Report, Seq, Timestamp, Up,
};
use wire::link::{AgentLink, in_process};

const RULES: &str = "title: A Failed Login
id: failed
logsource: {product: linux, service: sshd}
detection: {s: {AuthAction: login, AuthOutcome: failure, AuthMethod|exists: true}, condition: s}
level: high
---
title: Many Failed Logins
id: many-failed
correlation:
  type: event_count
  rules: [failed]
  group-by: [IpAddress]
  timespan: 10m
  condition: {gte: 5}
level: high
tags: [attack.t1110]
---
title: A Shell in a Pod
id: exec
logsource: {product: kubernetes, service: audit}
detection: {s: {objectRef.subresource: exec, verb: create}, condition: s}
level: high
tags: [attack.t1609]
";

struct Lab {
    folder: tempfile::TempDir,
    controller: ControllerHandle,
    client: Client,
    sources: IngestHandle,
}

impl Lab {
    async fn start(folder: tempfile::TempDir) -> Self {
        let rules = folder.path().join("rules.yml");
        write(&rules, RULES).unwrap();
        let mut config = ControllerConfig::in_folders(&folder.path().join("state"), folder.path());
        config.rules = vec![rules];
        let client = Client::new(&config.socket);
        let controller = Controller::start(config).await.unwrap();
        let loaded = load(&[SourceFile { name: "rules.yml".into(), text: RULES.into() }]);
        assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        let set = set.feeding(&loaded.correlations, &loaded.rules);
        let source =
            |format: &str| format!("{format}={}", folder.path().join(format).display()).parse().unwrap();
        let ingest = IngestConfig {
            sources: vec![source("auth"), source("kubernetes-audit"), source("auth")],
            state: folder.path().join("state/sources"),
            start: Start::Beginning,
            rules: Arc::new(Swap::new(Arc::new(set))),
            clock: wall_clock(),
            poll: Duration::from_millis(10),
            zone: Zone::UTC,
        };
        let sources = ingest::start(&ingest, &controller.attacher()).unwrap();
        Self { folder, controller, client, sources }
    }

    async fn stop(mut self) -> tempfile::TempDir {
        let mut sources = self.sources;
        let sources = tokio::task::spawn_blocking(move || {
            sources.stop();
            sources
        });
        self.sources = sources.await.unwrap();
        self.controller.shutdown().await;
        self.sources.join();
        self.folder
    }

    fn append(&self, name: &str, text: &str) {
        append(self.folder.path(), name, text);
    }

    /// The incident with a finding of `rule` that satisfies.
    async fn until(&self, rule: &str, fits: impl Fn(&Incident) -> bool) -> Incident {
        for _ in 0..300 {
            for line in self.client.incidents(100).await.unwrap().incidents {
                let incident = self.client.incident(line.id.as_str()).await.unwrap().incident;
                if incident.findings.iter().any(|finding| finding.rule.id == rule) && fits(&incident) {
                    return incident;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no incident of {rule}: {:#?}", self.client.incidents(100).await.unwrap());
    }

    async fn until_read(&self, name: &str, word: &str) {
        for _ in 0..300 {
            for node in self.client.status().await.unwrap().nodes {
                let said = node.status.map(|status| format!("{:?}", status.hooks)).unwrap_or_default();
                if node.node.as_str().starts_with(name) && said.contains(word) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{name} never read {word}: {:#?}", self.client.status().await.unwrap().nodes);
    }

    async fn until_degraded(&self, name: &str, word: &str) -> String {
        for _ in 0..300 {
            for node in self.client.status().await.unwrap().nodes {
                let said = node.status.map(|status| status.degraded.join("; ")).unwrap_or_default();
                if node.node.as_str().starts_with(name) && said.contains(word) {
                    return said;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{name} never said {word}: {:#?}", self.client.status().await.unwrap().nodes);
    }
}

fn append(folder: &Path, name: &str, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(folder.join(name)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn failed(port: u16) -> String {
    let now = (wall_clock())();
    format!("{now} bastion sshd[7]: Failed password for root from 203.0.113.5 port {port} ssh2\n")
}

fn exec(id: &str, user: &str) -> String {
    let now = (wall_clock())();
    format!(
        "{{\"kind\":\"Event\",\"auditID\":\"{id}\",\"stage\":\"ResponseStarted\",\"verb\":\"create\",\"requestURI\":\"/api/v1/namespaces/pay/pods/api/exec?command=sh\",\
         \"user\":{{\"username\":\"{user}\"}},\"sourceIPs\":[\"203.0.113.5\"],\"objectRef\":{{\"resource\":\"pods\",\"namespace\":\"pay\",\"name\":\"api\",\"subresource\":\"exec\"}},\
         \"requestReceivedTimestamp\":\"{now}\"}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_become_incidents_and_what_is_wrong_with_them_is_told() {
    let lab = Lab::start(tempfile::tempdir().unwrap()).await;
    lab.until_degraded("kubernetes-audit:", "No such file").await;
    for port in 0..6 {
        lab.append("auth", &failed(40_000 + port));
    }
    lab.append("auth", "nonsense\n");
    lab.append("kubernetes-audit", &exec("a-1", "dana"));
    lab.append("kubernetes-audit", &exec("a-1", "dana"));
    let incident = lab.until("exec", |_| true).await;
    assert_eq!(
        incident.findings.iter().filter(|finding| finding.rule.id == "exec").count(),
        1,
        "I3: one request, told twice"
    );
    let many = lab.until("many-failed", |_| true).await;
    // They share the address, so they are one story.
    assert_eq!(many.id, lab.until("exec", |_| true).await.id);
    let has = |entity: &str| many.entities.iter().any(|one| one.to_string() == entity);
    assert!(
        has("address 203.0.113.5") && has("account dana@kubernetes") && has("pods pay/api"),
        "{:?}",
        many.entities
    );
    assert!(
        !many.entities.iter().any(|one| matches!(one, Entity::Process { .. })),
        "I9: there is no process: {:?}",
        many.entities
    );
    assert!(matches!(many.state, IncidentState::Open), "{:?}", many.state);
    let said = lab.until_degraded("auth:", "refused").await;
    assert!(said.contains("RFC 3339"), "{said}");
    let letters = std::fs::read_dir(lab.folder.path().join("state/sources")).unwrap();
    let letters: Vec<_> = letters
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("dead"))
        .collect();
    assert_eq!(letters.len(), 1);
    assert!(std::fs::read_to_string(&letters[0]).unwrap().contains("nonsense"));
    lab.stop().await;
}

/// The first line of each file stands at its beginning, in a file that was empty when it was opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_lines_of_rotated_files_are_told_apart() {
    let lab = Lab::start(tempfile::tempdir().unwrap()).await;
    let path = lab.folder.path().join("auth");
    for number in 0..5 {
        write(&path, "").unwrap();
        lab.until_read("auth:", "at byte 0").await;
        lab.append("auth", &failed(41_000 + number));
        lab.until_read("auth:", &format!("{} records", number + 1)).await;
        rename(&path, lab.folder.path().join(format!("auth.{}", 9 - number))).unwrap();
    }
    lab.until("many-failed", |_| true).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_restart_reads_on_where_it_was_through_a_rotation() {
    let lab = Lab::start(tempfile::tempdir().unwrap()).await;
    lab.append("kubernetes-audit", &exec("a-1", "dana"));
    lab.until("exec", |_| true).await;
    let folder = lab.stop().await;
    append(folder.path(), "kubernetes-audit", &exec("a-2", "eve"));
    rename(folder.path().join("kubernetes-audit"), folder.path().join("kubernetes-audit.1")).unwrap();
    append(folder.path(), "kubernetes-audit", &exec("a-3", "mallory"));
    let lab = Lab::start(folder).await;
    let of = |incident: &Incident| {
        let mut names: Vec<String> = incident
            .findings
            .iter()
            .filter_map(|finding| Some(finding.event.record()?.principal.as_ref()?.name.clone()))
            .collect();
        names.sort();
        names
    };
    let incident = lab.until("exec", |incident| incident.findings.len() >= 3).await;
    assert_eq!(of(&incident), ["dana", "eve", "mallory"]);
    let folder = lab.stop().await;
    // The position is lost: everything is read again, and nothing comes twice.
    for entry in std::fs::read_dir(folder.path().join("state/sources")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let lab = Lab::start(folder).await;
    lab.append("kubernetes-audit", &exec("a-4", "zoe"));
    let incident = lab.until("exec", |incident| of(incident).contains(&"zoe".to_owned())).await;
    assert_eq!(of(&incident), ["dana", "eve", "mallory", "zoe"]);
    lab.stop().await;
}

async fn say(link: &AgentLink, seq: u64) {
    let report = Report::Repeat {
        finding: FindingId::new("nobody's"),
        count: 2,
        last: Timestamp(0),
        moments: model::Moments::default(),
    };
    link.up.send(Up::Report { seq: Seq(seq), report: Box::new(report) }).await.unwrap();
}

/// Up to which of its reports a source is answered by now.
async fn answered(link: &mut AgentLink, seq: u64) -> u64 {
    loop {
        match link.down.recv().await.unwrap() {
            Down::Ack { upto } if upto.0 >= seq => return upto.0,
            _ => {}
        }
    }
}

/// Order and not time: a report of a quiet source is stored after no more of a flooding one's than what waits is bounded to, though far more of
/// these were ready to come before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_source_does_not_delay_anothers_report() {
    const FLOOD: u64 = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let mut config = ControllerConfig::in_folders(&folder.path().join("state"), folder.path());
    config.limits.inbox = 64;
    let controller = Controller::start(config).await.unwrap();
    let open = |name: &str| {
        let (link, end) = in_process(NodeId::new(name), 64);
        controller.attach(end);
        link
    };
    let hello = |name: &str| Up::Hello { node: NodeId::new(name), epoch: AgentEpoch(1) };
    let (loud, mut quiet) = (open("flood:/a"), open("quiet:/b"));
    loud.up.send(hello("flood:/a")).await.unwrap();
    quiet.up.send(hello("quiet:/b")).await.unwrap();
    let AgentLink { up, mut down } = loud;
    let sending = tokio::spawn(async move {
        for seq in 1..=FLOOD {
            let report = Report::Repeat {
                finding: FindingId::new("nobody's"),
                count: 2,
                last: Timestamp(0),
                moments: model::Moments::default(),
            };
            if up.send(Up::Report { seq: Seq(seq), report: Box::new(report) }).await.is_err() {
                return;
            }
        }
    });
    // How far the flood is answered, as it is.
    let (tell, flooded) = tokio::sync::watch::channel(0);
    let hearing = tokio::spawn(async move {
        while let Some(said) = down.recv().await {
            if let Down::Ack { upto } = said {
                tell.send_replace(upto.0);
            }
        }
    });
    flooded.clone().wait_for(|upto| *upto > 200).await.unwrap();
    let mut most = 0;
    for seq in 1..=10 {
        let before = *flooded.borrow();
        say(&quiet, seq).await;
        answered(&mut quiet, seq).await;
        most = most.max(*flooded.borrow() - before);
    }
    let upto = *flooded.borrow();
    assert!(upto < FLOOD / 2, "the flood was not over: {upto}");
    // The core's queue, the flood's own link and what is decided together.
    assert!(most <= 64 + 64 + 2 * 64 + 64, "{most} of the flood came before a report of the quiet one");
    println!(
        "at most {most} reports of the flood came before one of the quiet source's; {} waited",
        FLOOD - upto
    );
    sending.abort();
    controller.shutdown().await;
    hearing.abort();
}
