//! A flow as Hubble itself exports it, so that there is one reader of both ([`super::super::super::read`]).

use model::Timestamp;
use serde_json::{Value, json};

use super::proto::{Endpoint, Flow, layer4::Protocol, layer7::Record};

pub(super) fn text(flow: &Flow, time: Timestamp) -> Vec<u8> {
    let time =
        jiff::Timestamp::from_nanosecond(time.0.into()).map(|time| time.to_string()).unwrap_or_default();
    let mut value = json!({
        "time": time,
        "uuid": flow.uuid,
        "verdict": flow.verdict().as_str_name(),
        "node_name": flow.node_name,
        "source": end(flow.source.as_ref()),
        "destination": end(flow.destination.as_ref()),
        "destination_names": flow.destination_names,
        "traffic_direction": flow.traffic_direction().as_str_name(),
        "is_reply": flow.is_reply,
    });
    if let Some(ip) = &flow.ip {
        value["IP"] = json!({"source": ip.source, "destination": ip.destination});
    }
    if flow.drop_reason_desc != 0 {
        value["drop_reason_desc"] = json!(flow.drop_reason_desc().as_str_name());
    }
    let protocol = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()).map(|protocol| match protocol {
        Protocol::Tcp(ports) => ("TCP", ports.source_port, ports.destination_port),
        Protocol::Udp(ports) => ("UDP", ports.source_port, ports.destination_port),
        Protocol::Sctp(ports) => ("SCTP", ports.source_port, ports.destination_port),
        Protocol::Icmpv4(_) => ("ICMPv4", 0, 0),
        Protocol::Icmpv6(_) => ("ICMPv6", 0, 0),
    });
    match protocol {
        Some((name @ ("ICMPv4" | "ICMPv6"), ..)) => value["l4"] = json!({name: {}}),
        Some((name, source, destination)) => {
            value["l4"] = json!({name: {"source_port": source, "destination_port": destination}});
        }
        None => {}
    }
    match flow.l7.as_ref().and_then(|l7| l7.record.as_ref()) {
        Some(Record::Dns(dns)) => value["l7"] = json!({"dns": {"query": dns.query}}),
        Some(Record::Http(http)) => value["l7"] = json!({"http": {"method": http.method, "url": http.url}}),
        None => {}
    }
    json!({"flow": value}).to_string().into_bytes()
}

fn end(endpoint: Option<&Endpoint>) -> Value {
    let Some(end) = endpoint else { return Value::Null };
    let workloads: Vec<Value> =
        end.workloads.iter().map(|one| json!({"name": one.name, "kind": one.kind})).collect();
    json!({"namespace": end.namespace, "pod_name": end.pod_name, "labels": end.labels, "workloads": workloads})
}
