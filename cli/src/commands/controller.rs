//! `hemostat controller`: the controller of a cluster. It takes rules and playbooks from the API server and shows incidents there.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueHint;
use controller::{
    Controller, ControllerConfig,
    ingest::SourceSpec,
    intel::FeedSource,
    reconcile::{self, ClusterConfig, ClusterError, ServiceConfig, lease::LeaseConfig},
};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::standalone::{make_private, start_log};
use crate::{
    Shared,
    exit::{Ended, Exit},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where agents connect.
    #[arg(long, default_value = "0.0.0.0:7443", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    probes: SocketAddr,
    /// Hemostat's own namespace: its Lease, its authority, and the incidents that are about no pod.
    #[arg(long, env = "HEMOSTAT_NAMESPACE", default_value = "hemostat-system")]
    namespace: String,
    /// This replica's name in the election.
    #[arg(long, env = "HEMOSTAT_IDENTITY")]
    identity: Option<String>,
    /// Service account of the agents, as NAMESPACE/NAME; `hemostat-agent` in the own namespace when absent.
    #[arg(long, env = "HEMOSTAT_AGENTS", value_name = "NAMESPACE/NAME")]
    agents: Option<String>,
    /// The Service through which agents come, in the own namespace: it is pointed to whoever leads. It must have no selector.
    #[arg(long, env = "HEMOSTAT_SERVICE", value_name = "NAME", requires = "pod_address")]
    service: Option<String>,
    /// This pod's own address, for that Service.
    #[arg(long, env = "HEMOSTAT_POD_ADDRESS", value_name = "ADDRESS")]
    pod_address: Option<IpAddr>,
    /// How long a certificate of an agent is valid, in seconds.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..=604_800))]
    certificate_seconds: u64,
    /// State folder: journal and audit log. Replicas share it, or each has one of its own and takes over what stands in the API server.
    #[arg(long, env = "HEMOSTAT_STATE", default_value = "/var/lib/hemostat")]
    state: PathBuf,
    /// How the API server is reached, where this does not run in a pod.
    #[arg(long, env = "KUBECONFIG", value_hint = ValueHint::FilePath)]
    kubeconfig: Option<PathBuf>,
    /// Where people are told: a YAML list of channels, each with name, kind and what it needs (docs/actions.md, notify.send).
    #[arg(long, env = "HEMOSTAT_CHANNELS", value_name = "FILE", value_hint = ValueHint::FilePath)]
    channels: Option<PathBuf>,
    /// What looks for known vulnerabilities in images, and the image that it comes in: trivy=IMAGE or grype=IMAGE (docs/actions.md,
    /// cluster.scan-image).
    #[arg(long, env = "HEMOSTAT_SCANNER", value_name = "KIND=IMAGE")]
    scanner: Option<controller::act::Scanner>,
    /// A further word of the scanner's command, for example where its database comes from. May be given several times.
    #[arg(long = "scanner-argument", value_name = "WORD", allow_hyphen_values = true, requires = "scanner")]
    scanner_arguments: Vec<String>,
    /// A Secret of type kubernetes.io/dockerconfigjson in the own namespace, by which the scanner may pull what it looks at.
    #[arg(long, value_name = "SECRET", requires = "scanner")]
    scanner_pull_secret: Option<String>,
    /// What to read beside the nodes, as FORMAT=PLACE, for example kubernetes-audit=/var/log/kubernetes/audit.log (formats and places:
    /// `hemostat standalone --help`, docs/sources.md). May be given several times.
    #[arg(long = "source", value_name = "FORMAT=PLACE")]
    sources: Vec<SourceSpec>,
    /// A feed of threat intelligence, as FORMAT=PATH (`hemostat standalone --help`). May be given several times.
    #[arg(long = "feed", value_name = "FORMAT=PATH")]
    feeds: Vec<FeedSource>,
    /// The data classification policy, as YAML: what is at stake in which namespaces and pods (docs/attribution.md). Read at the start.
    #[arg(long, env = "HEMOSTAT_CLASSES", value_name = "FILE", value_hint = ValueHint::FilePath)]
    classes: Option<PathBuf>,
    /// Send each incident's trace to this OpenTelemetry collector (OTLP over gRPC), for example http://127.0.0.1:4317. Off without it.
    #[arg(long, value_name = "URL")]
    traces: Option<String>,
    /// Log lines as JSON.
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(shared: &Shared, options: Options) -> Result<Exit> {
    start_log(options.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("hemostat-async")
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(shared, options))
}

async fn serve(shared: &Shared, options: Options) -> Result<Exit> {
    let classes = super::classes(options.classes.as_deref())?;
    let client = client(options.kubeconfig.as_deref()).await?;
    Controller::look_at_path(&shared.socket).context("start the controller")?;
    make_private(&options.state)?;
    let identity =
        options.identity.clone().unwrap_or_else(|| format!("{}-{}", agent::host_name(), std::process::id()));
    let cluster = ClusterConfig {
        agents: options.agents.clone().unwrap_or_else(|| format!("{}/hemostat-agent", options.namespace)),
        lease: LeaseConfig::new(options.namespace.clone(), identity.clone()),
        namespace: options.namespace.clone(),
        identity,
        links: options.listen,
        probes: options.probes,
        service: options
            .service
            .clone()
            .zip(options.pod_address)
            .map(|(name, address)| ServiceConfig { name, address }),
        sources: options.sources.clone(),
        certificate_life: Duration::from_secs(options.certificate_seconds),
        channels: channels(options.channels.as_deref())?,
        scanner: options.scanner.clone().map(|scanner| controller::act::Scanner {
            arguments: options.scanner_arguments.clone(),
            pull_secret: options.scanner_pull_secret.clone(),
            ..scanner
        }),
    };
    let config = ControllerConfig {
        socket: shared.socket.clone(),
        feeds: options.feeds.clone(),
        classes,
        traces: options.traces.clone(),
        ..ControllerConfig::in_folders(&options.state, &options.state)
    };
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        signal(SignalKind::interrupt()).context("listen for SIGINT")?,
    );
    let told = stop.clone();
    let listening = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; what is in force stays in force");
        told.cancel();
    });
    let ended = reconcile::run(client, cluster, config, stop).await;
    listening.abort();
    match ended {
        Ok(()) => Ok(Exit::Good),
        Err(error @ ClusterError::Deposed { .. }) => Err(Ended::with(Exit::Bad, error.to_string())),
        Err(error) => Err(anyhow::Error::new(error).context("run the controller")),
    }
}

fn channels(file: Option<&std::path::Path>) -> Result<Vec<controller::act::Channel>> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

/// In a pod by its service account, elsewhere by a kubeconfig.
async fn client(kubeconfig: Option<&std::path::Path>) -> Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("use {}", path.display()))?
        }
        None => Config::infer().await.map_err(|error| {
            Ended::with(
                Exit::Bad,
                format!(
                    "there is no cluster to control: this runs in no pod with a service account, and no kubeconfig says how the API server is \
                     reached. Give --kubeconfig FILE (or KUBECONFIG), deploy it with the chart (docs/install-kubernetes.md), or watch this host alone \
                     with `hemostat standalone`. ({error})"
                ),
            )
        })?,
    };
    super::api_server::client(config).context("make a client of the API server")
}
