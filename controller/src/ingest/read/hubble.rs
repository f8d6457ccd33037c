//! Cilium Hubble's flows as JSON (observer.proto, flow.proto).

use detect::schema::{Field, RecordBuilder};
use model::RecordKind;

use super::{
    Rejected, Told,
    json::{Json, Node as _, address, at, put, required, rfc3339, scalar, text},
    told,
};

/// Reads a line. Lines that are no flows (a node's status, lost events) give nothing.
pub(super) fn read(value: &Json<'_>) -> Result<Option<Told>, Rejected> {
    use Field as F;
    let Some(flow) = value.get("flow") else {
        let known = ["node_status", "lost_events", "agent_event", "debug_event"];
        return if known.iter().any(|key| value.get(key).is_some()) {
            Ok(None)
        } else {
            Err(Rejected::at("flow", "missing"))
        };
    };
    let time = rfc3339(flow, "time").or_else(|_| rfc3339(value, "time"))?;
    let mut builder = RecordBuilder::new(RecordKind::HubbleFlow);
    if let Some(uuid) = text(flow, "uuid") {
        builder.id(&uuid);
    }
    let verdict = match required(flow, "verdict")?.as_ref() {
        "DROPPED" | "ERROR" => "dropped",
        _ => "forwarded",
    };
    builder.text(F::FlowVerdict, verdict);
    let (source, destination) = (address(flow, "IP.source"), address(flow, "IP.destination"));
    if source.is_none() && destination.is_none() {
        // Layer 2: ARP and the like.
        return Ok(None);
    }
    for (field, end) in [(F::SourceIp, source), (F::DestinationIp, destination)] {
        if let Some(addr) = end {
            builder.address(field, addr);
        }
    }
    builder.origin(source);
    for (name, protocol) in
        [("TCP", "tcp"), ("UDP", "udp"), ("ICMPv4", "1"), ("ICMPv6", "58"), ("SCTP", "132")]
    {
        let Some(ports) = flow.get("l4").and_then(|l4| l4.get(name)) else { continue };
        builder.text(F::Protocol, protocol);
        put(&mut builder, F::SourcePort, ports, &["source_port"]);
        put(&mut builder, F::DestinationPort, ports, &["destination_port"]);
    }
    let paths = [
        (F::FlowDropReason, "drop_reason_desc"),
        (F::FlowSourceNamespace, "source.namespace"),
        (F::FlowSourcePod, "source.pod_name"),
        (F::FlowSourceWorkload, "source.workloads.name"),
        (F::FlowSourceLabels, "source.labels"),
        (F::FlowDestinationNamespace, "destination.namespace"),
        (F::FlowDestinationPod, "destination.pod_name"),
        (F::FlowDestinationWorkload, "destination.workloads.name"),
        (F::FlowDestinationLabels, "destination.labels"),
        (F::FlowDestinationNames, "destination_names"),
        (F::FlowHttpMethod, "l7.http.method"),
        (F::FlowHttpUrl, "l7.http.url"),
    ];
    for (field, path) in paths {
        put(&mut builder, field, flow, &[path]);
    }
    if let Some(query) = text(flow, "l7.dns.query") {
        builder.text(F::QueryName, query.trim_end_matches('.').to_ascii_lowercase().as_str());
    }
    match text(flow, "traffic_direction").as_deref() {
        Some("INGRESS") => {
            builder.text(F::FlowDirection, "ingress");
        }
        Some("EGRESS") => {
            builder.text(F::FlowDirection, "egress");
        }
        _ => {}
    }
    let is_reply = at(flow, "is_reply").into_iter().find_map(scalar).is_some_and(|text| text == "true");
    if is_reply {
        // An answer says nothing of who began, and its ends are the other way round.
        return Ok(None);
    }
    if let (Some(namespace), Some(pod)) = (text(flow, "source.namespace"), text(flow, "source.pod_name")) {
        builder.object("pods", Some(&namespace), &pod);
        builder.principal("kubernetes/pods", &format!("{namespace}/{pod}"));
    }
    Ok(Some(told(builder, time)))
}
