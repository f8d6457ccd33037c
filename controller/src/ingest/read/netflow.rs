//! Flows of NetFlow 9 and IPFIX exporters, as [`super::super::flow`] decoded them.

use detect::schema::{Field, RecordBuilder};
use model::{RecordKind, Timestamp};

use super::{
    super::flow::{Direction, Flow, Verdict},
    Rejected, Told, told,
};

/// Reads a line of our own making.
pub(super) fn read(line: &[u8], into: &mut Vec<Told>) -> Result<(), Rejected> {
    use Field as F;
    let flow: Flow = serde_json::from_slice(line)
        .map_err(|error| Rejected::at(format!("column {}", error.column()), error.to_string()))?;
    let mut builder = RecordBuilder::new(RecordKind::Flow);
    builder.id(&flow.id).origin(flow.source).address(F::FlowExporter, flow.exporter);
    for (field, addr) in [(F::SourceIp, flow.source), (F::DestinationIp, flow.destination)] {
        if let Some(addr) = addr {
            builder.address(field, addr);
        }
    }
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let lasted = flow.began.map(|began| flow.at.saturating_sub(began) / 1_000_000_000);
    for (field, number) in [
        (F::SourcePort, flow.source_port.map(i64::from)),
        (F::DestinationPort, flow.destination_port.map(i64::from)),
        (F::SentBytes, flow.bytes.map(count)),
        (F::ReceivedBytes, flow.bytes_back.map(count)),
        (F::FlowPackets, flow.packets.map(count)),
        (F::FlowTcpFlags, flow.tcp_flags.map(i64::from)),
        (F::FlowSeconds, lasted),
    ] {
        if let Some(number) = number {
            builder.number(field, number);
        }
    }
    let protocol = flow.protocol.map(|number| match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    });
    builder.maybe(F::Protocol, protocol.as_deref());
    builder.maybe(
        F::FlowDirection,
        flow.direction.map(|direction| match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }),
    );
    builder.maybe(
        F::FlowVerdict,
        flow.verdict.map(|verdict| match verdict {
            Verdict::Forwarded => "forwarded",
            Verdict::Dropped => "dropped",
        }),
    );
    into.push(told(builder, Timestamp(flow.at)));
    Ok(())
}
