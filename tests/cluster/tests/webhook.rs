//! A real API server posts its audit events to us: attacks done with kubectl are told by the rules that ship, once, also those done while nobody
//! listened, and nobody else is listened to.

#![expect(clippy::unwrap_used, reason = "a test of its own; what cannot be done fails it")]

use std::{
    fs,
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use controller::{
    Controller, ControllerConfig, ControllerHandle,
    client::Client,
    config::rules_below,
    ingest::{self, IngestConfig, IngestHandle, Start, Zone},
    wall_clock,
};
use detect::{
    load::load,
    matcher::{Options, RuleSet, Swap},
};
use hemostat_cluster_tests::api_server::{ApiServer, repository};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;

/// Ids of rules/kubernetes/cluster_admin_bound.yml and role_with_all_rights_created.yml are read from them.
fn id_of(file: &str) -> String {
    let text = fs::read_to_string(repository(&format!("rules/kubernetes/{file}.yml"))).unwrap();
    text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned()
}

/// An authority, our own certificate and the API server's.
fn certificates(folder: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, key);
    for name in ["hemostat", "apiserver"] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

struct Listening {
    controller: ControllerHandle,
    client: Client,
    sources: IngestHandle,
}

impl Listening {
    async fn start(folder: &Path, source: &str) -> Self {
        let rules = vec![repository("rules/kubernetes").into()];
        let mut config = ControllerConfig::in_folders(&folder.join("state"), folder);
        config.rules.clone_from(&rules);
        let client = Client::new(&config.socket);
        let controller = Controller::start(config).await.unwrap();
        let loaded = load(&rules_below(&rules).files);
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        let set = set.feeding(&loaded.correlations, &loaded.rules);
        let ingest = IngestConfig {
            sources: vec![source.parse().unwrap()],
            state: folder.join("state/sources"),
            start: Start::Now,
            rules: Arc::new(Swap::new(Arc::new(set))),
            clock: wall_clock(),
            poll: Duration::from_millis(10),
            zone: Zone::UTC,
        };
        let sources = ingest::start(&ingest, &controller.attacher()).unwrap();
        Self { controller, client, sources }
    }

    async fn stop(self) {
        let Self { controller, mut sources, .. } = self;
        let sources = tokio::task::spawn_blocking(move || {
            sources.stop();
            sources
        });
        let sources = sources.await.unwrap();
        controller.shutdown().await;
        sources.join();
    }

    /// How often a rule has told.
    async fn told(&self, rule: &str) -> u64 {
        let mut count = 0;
        for line in self.client.incidents(100).await.unwrap().incidents {
            let incident = self.client.incident(line.id.as_str()).await.unwrap().incident;
            count +=
                incident.findings.iter().filter(|one| one.rule.id == rule).map(|one| one.count).sum::<u64>();
        }
        count
    }

    async fn until_told(&self, rule: &str) {
        let until = Instant::now() + Duration::from_secs(120);
        while self.told(rule).await == 0 {
            assert!(Instant::now() < until, "{rule}: {:?}", self.client.status().await.unwrap().nodes);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_api_server_posts_what_it_audits_and_nothing_is_lost_while_nobody_listens() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    certificates(folder.path());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let source = format!(
        "kubernetes-audit=https://127.0.0.1:{port}/audit,cert={},key={},client-ca={},clients=apiserver",
        at("hemostat.pem"),
        at("hemostat.key"),
        at("ca.pem")
    );
    // As docs/sources.md has it.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "hemostat",
        "clusters": [{"name": "hemostat", "cluster": {"server": format!("https://127.0.0.1:{port}/audit"), "certificate-authority": at("ca.pem")}}],
        "users": [{"name": "apiserver", "user": {"client-certificate": at("apiserver.pem"), "client-key": at("apiserver.key")}}],
        "contexts": [{"name": "hemostat", "context": {"cluster": "hemostat", "user": "apiserver"}}],
    });
    fs::write(at("webhook.json"), config.to_string()).unwrap();
    let words = [
        format!("--audit-policy-file={}", repository("deploy/audit-policy.yaml")),
        format!("--audit-webhook-config-file={}", at("webhook.json")),
        "--audit-webhook-mode=batch".to_owned(),
        "--audit-webhook-batch-max-wait=500ms".to_owned(),
        // The first pause between two tries; it grows.
        "--audit-webhook-initial-backoff=2s".to_owned(),
    ];
    let started = tokio::task::spawn_blocking(move || ApiServer::with(&words)).await.unwrap();
    let Some(server) = started else { return };
    let (bound, powerful) = (id_of("cluster_admin_bound"), id_of("role_with_all_rights_created"));

    let listening = Listening::start(folder.path(), &source).await;
    let bind = [
        "create",
        "clusterrolebinding",
        "own",
        "--clusterrole=cluster-admin",
        "--serviceaccount=default:default",
    ];
    server.kubectl(&bind).unwrap();
    listening.until_told(&bound).await;
    listening.stop().await;

    // Nobody listens now; the API server tries again until somebody does.
    server.kubectl(&["create", "clusterrole", "all", "--verb=*", "--resource=*"]).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let listening = Listening::start(folder.path(), &source).await;
    listening.until_told(&powerful).await;
    assert_eq!((listening.told(&bound).await, listening.told(&powerful).await), (1, 1), "each once");
    let status = listening.client.status().await.unwrap();
    println!(
        "{:?}",
        status
            .nodes
            .iter()
            .filter_map(|node| node.status.as_ref())
            .map(|status| &status.hooks)
            .collect::<Vec<_>>()
    );
    listening.stop().await;
}
