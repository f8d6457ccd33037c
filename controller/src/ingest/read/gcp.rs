//! GCP's VPC flow logs as Cloud Logging exports them (cloud.google.com/vpc/docs/about-flow-logs-records): log entries of `vpc_flows`.

use detect::schema::{Field, RecordBuilder};
use model::RecordKind;
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{address, put, required, rfc3339, text},
    told,
};

/// Reads an entry. Entries of other logs give nothing.
pub(super) fn read(value: &Value) -> Result<Option<Told>, Rejected> {
    use Field as F;
    let log = required(value, "logName")?;
    if !log.ends_with("vpc_flows") {
        return Ok(None);
    }
    let payload = value.get("jsonPayload").ok_or_else(|| Rejected::at("jsonPayload", "missing"))?;
    let time = rfc3339(payload, "start_time").or_else(|_| rfc3339(value, "timestamp"))?;
    let mut builder = RecordBuilder::new(RecordKind::Flow);
    if let Some(id) = text(value, "insertId") {
        // An insert id tells entries of one log apart.
        builder.id(&format!("{log}/{id}"));
    }
    let end = |path: &'static str| address(payload, path).ok_or_else(|| Rejected::at(path, "no address"));
    let (source, destination) = (end("connection.src_ip")?, end("connection.dest_ip")?);
    builder.address(F::SourceIp, source).address(F::DestinationIp, destination).origin(Some(source));
    let protocol = match text(payload, "connection.protocol").as_deref() {
        Some("6") => Some("tcp".to_owned()),
        Some("17") => Some("udp".to_owned()),
        other => other.map(str::to_owned),
    };
    builder.maybe(F::Protocol, protocol.as_deref());
    // Only what was let through is told of.
    builder.text(F::FlowVerdict, "forwarded");
    match text(payload, "reporter").as_deref() {
        Some("SRC" | "SRC_GATEWAY") => {
            builder.text(F::FlowDirection, "egress");
        }
        Some("DEST" | "DEST_GATEWAY") => {
            builder.text(F::FlowDirection, "ingress");
        }
        _ => {}
    }
    let paths: [(Field, &[&str]); 10] = [
        (F::SourcePort, &["connection.src_port"]),
        (F::DestinationPort, &["connection.dest_port"]),
        (F::SentBytes, &["bytes_sent"]),
        (F::FlowPackets, &["packets_sent"]),
        (F::FlowAccount, &["src_instance.project_id", "dest_instance.project_id"]),
        (F::FlowInstance, &["src_instance.vm_name", "dest_instance.vm_name"]),
        (F::FlowSourceNamespace, &["src_gke_details.pod.pod_namespace"]),
        (F::FlowSourcePod, &["src_gke_details.pod.pod_name"]),
        (F::FlowDestinationNamespace, &["dest_gke_details.pod.pod_namespace"]),
        (F::FlowDestinationPod, &["dest_gke_details.pod.pod_name"]),
    ];
    for (field, paths) in paths {
        put(&mut builder, field, payload, paths);
    }
    if let Some(instance) = text(payload, "src_instance.vm_name") {
        builder.object("instance", text(payload, "src_instance.project_id").as_deref(), &instance);
    }
    Ok(Some(told(builder, time)))
}
