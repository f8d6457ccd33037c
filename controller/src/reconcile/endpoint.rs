//! Where the Service sends agents: to the one that leads. The Service has no selector, and whoever leads writes its EndpointSlice; those that
//! stand by are ready, for the Deployment, and get nobody sent.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, api::DynamicObject, core::ApiResource};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    ClusterConfig,
    reach::{Failure, Reach},
};
use crate::ingest::Door;

/// What somebody else changed is put right this often.
const AGAIN: Duration = Duration::from_secs(15);
/// What could not be written is tried again after this.
const SOON: Duration = Duration::from_secs(1);

/// The Service through which agents come, and where its leader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Its name, in our own namespace.
    pub name: String,
    /// Our own pod's address.
    pub address: IpAddr,
}

/// Writes it until `stop`. One that could not be written is said, and agents do not come until it is.
pub(super) async fn lead(
    reach: Reach,
    config: ClusterConfig,
    service: ServiceConfig,
    stop: CancellationToken,
) {
    let name = format!("{}-leader", service.name);
    let slice = slice(&name, &config, &service);
    let api: Api<DynamicObject> = Api::namespaced_with(
        reach.client.clone(),
        &config.namespace,
        &ApiResource::erase::<EndpointSlice>(&()),
    );
    loop {
        let wait = match reach.apply(&api, &name, &slice).await {
            Ok(_) => AGAIN,
            Err(Failure::Away(_) | Failure::NotLeading | Failure::Conflict(_)) => SOON,
            Err(failure) => {
                tracing::error!(%failure, service = service.name, "agents cannot be sent here: the Service's EndpointSlice cannot be written");
                AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn slice(name: &str, config: &ClusterConfig, service: &ServiceConfig) -> serde_json::Value {
    let family = if service.address.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": config.namespace, "labels": {
            "kubernetes.io/service-name": service.name,
            "endpointslice.kubernetes.io/managed-by": "hemostat.dev",
            "app.kubernetes.io/managed-by": "hemostat",
        }},
        "addressType": family,
        "endpoints": [{
            "addresses": [service.address],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": config.namespace, "name": config.identity},
        }],
        "ports": ports(config),
    })
}

/// As the chart calls them.
fn ports(config: &ClusterConfig) -> Vec<serde_json::Value> {
    let port =
        |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let sources = config.sources.iter().filter_map(|source| match &source.door {
        Door::Https(door) => Some(("TCP", door.listen.port())),
        Door::Udp(door) => Some(("UDP", door.listen.port())),
        Door::Log(_) | Door::Folder(_) | Door::Relay(_) => None,
    });
    // Several sources may share a port.
    let sources: BTreeSet<(&str, u16)> = sources.collect();
    let mut all =
        vec![port("agents", "TCP", config.links.port()), port("health", "TCP", config.probes.port())];
    all.extend(
        sources.into_iter().map(|(protocol, number)| {
            port(&format!("{}-{number}", protocol.to_lowercase()), protocol, number)
        }),
    );
    all
}
