//! A real Cilium's flows, asked for at its own socket and followed.

#![expect(clippy::unwrap_used, reason = "a test of its own; what cannot be done fails it")]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use controller::{
    Controller, ControllerConfig,
    client::Client,
    ingest::{self, IngestConfig, Start, Zone},
    wall_clock,
};
use detect::{
    load::load,
    matcher::{Options, RuleSet, Swap},
    source::SourceFile,
};
use hemostat_cluster_tests::{Xtask, wait_until};

struct Down<'a>(&'a Xtask);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _best_effort = self.0.cluster(&["down"]);
    }
}

/// Where xtask/src/cluster/cilium.rs has it: in the mounts of the cluster's own.
fn socket() -> Option<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let agents = processes.filter(|path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == "cilium-agent")
    });
    agents.map(|path| path.join("root/run/cilium/hubble.sock")).find(|path| path.exists())
}

const RULE: &str = "title: Any Flow
id: any-flow
logsource: {product: cilium, service: hubble}
detection: {s: {DestinationIp|exists: true}, condition: s}
level: medium
";

#[tokio::test(flavor = "multi_thread")]
async fn flows_of_a_real_cilium_are_read() {
    let Some(xtask) = Xtask::here() else { return };
    if !hemostat_cluster_tests::cache().is_some_and(|cache| cache.join("cluster/cilium/version").exists()) {
        println!(
            "SKIPPED: flows of a real Cilium: it is not built; `cargo xtask cluster up --cni cilium` builds it"
        );
        return;
    }
    xtask.cluster(&["down"]).unwrap();
    let _down = Down(&xtask);
    xtask.cluster(&["up", "--cni", "cilium"]).unwrap();
    // The agent makes it some time after the cluster is up.
    wait_until(|| socket().is_some()).unwrap();
    let socket = socket().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = ControllerConfig::in_folders(&folder.path().join("state"), folder.path());
    let client = Client::new(&config.socket);
    let controller = Controller::start(config).await.unwrap();
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: RULE.into() }]);
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let ingest = IngestConfig {
        sources: vec![format!("hubble=unix:{}", socket.display()).parse().unwrap()],
        state: folder.path().join("sources"),
        start: Start::Beginning,
        rules: Arc::new(Swap::new(Arc::new(set))),
        clock: wall_clock(),
        poll: Duration::from_millis(10),
        zone: Zone::UTC,
    };
    let mut sources = ingest::start(&ingest, &controller.attacher()).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while client.incidents(10).await.unwrap().incidents.is_empty() {
        assert!(Instant::now() < until, "{:?}", client.status().await.unwrap().nodes);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stopped = tokio::task::spawn_blocking(move || {
        sources.stop();
        sources
    });
    let sources = stopped.await.unwrap();
    controller.shutdown().await;
    sources.join();
}
