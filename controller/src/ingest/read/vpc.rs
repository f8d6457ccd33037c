//! AWS VPC flow log lines (docs.aws.amazon.com/vpc/latest/userguide/flow-log-records.html): words under the names of a header, or version 2's.

use std::net::IpAddr;

use detect::schema::{Field, RecordBuilder};
use model::RecordKind;

use super::{Rejected, Told, time, told};

const VERSION_2: [&str; 14] = [
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
];

/// What the words of a line are.
#[derive(Debug, Clone)]
pub(super) struct Columns(Vec<String>);

impl Default for Columns {
    fn default() -> Self {
        Self(VERSION_2.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl Columns {
    /// A header line's.
    pub(super) fn header(line: &str) -> Option<Self> {
        // Asked of every line.
        if !line.contains("srcaddr") {
            return None;
        }
        let words: Vec<String> = line.split_ascii_whitespace().take(64).map(str::to_owned).collect();
        let is_header = words.iter().any(|word| word == "srcaddr" || word == "pkt-srcaddr")
            && words.iter().all(|word| {
                word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-' || byte.is_ascii_digit())
            });
        is_header.then_some(Self(words))
    }

    /// Reads a line; a header changes what the next ones are.
    pub(super) fn read(&mut self, line: &[u8], into: &mut Vec<Told>) -> Result<(), Rejected> {
        use Field as F;
        let line = std::str::from_utf8(line).map_err(|_| Rejected::at("line", "not UTF-8"))?;
        if let Some(header) = Self::header(line) {
            *self = header;
            return Ok(());
        }
        let words: Vec<&str> = line.split_ascii_whitespace().take(self.0.len() + 1).collect();
        if words.len() != self.0.len() {
            return Err(Rejected::at(
                "line",
                format!("{} words where the header has {}", words.len(), self.0.len()),
            ));
        }
        let word = |name: &str| {
            let at = self.0.iter().position(|column| column == name)?;
            words.get(at).copied().filter(|word| *word != "-")
        };
        if matches!(word("log-status"), Some("NODATA" | "SKIPDATA")) {
            return Ok(());
        }
        // Behind a NAT gateway or a load balancer the packet's own ends are the real ones.
        let end = |names: [&str; 2]| names.into_iter().find_map(word);
        let address = |names: [&'static str; 2]| -> Result<IpAddr, Rejected> {
            let text = end(names).ok_or_else(|| Rejected::at(names[1], "missing"))?;
            text.parse().map_err(|_| Rejected::at(names[1], "not an address"))
        };
        let (source, destination) =
            (address(["pkt-srcaddr", "srcaddr"])?, address(["pkt-dstaddr", "dstaddr"])?);
        let number = |name: &'static str| -> Result<Option<i64>, Rejected> {
            word(name).map(|text| text.parse().map_err(|_| Rejected::at(name, "not a number"))).transpose()
        };
        let begin = number("start")?.and_then(time::epoch).ok_or_else(|| Rejected::at("start", "missing"))?;
        let mut builder = RecordBuilder::new(RecordKind::VpcFlow);
        builder.address(F::SourceIp, source).address(F::DestinationIp, destination).origin(Some(source));
        for (field, name) in [
            (F::SourcePort, "srcport"),
            (F::DestinationPort, "dstport"),
            (F::FlowPackets, "packets"),
            (F::SentBytes, "bytes"),
        ] {
            if let Some(number) = number(name)? {
                builder.number(field, number);
            }
        }
        let protocol = match number("protocol")? {
            Some(6) => Some("tcp".to_owned()),
            Some(17) => Some("udp".to_owned()),
            other => other.map(|number| number.to_string()),
        };
        builder.maybe(F::Protocol, protocol.as_deref());
        match word("action") {
            Some("ACCEPT") => {
                builder.text(F::FlowVerdict, "forwarded");
            }
            Some("REJECT") => {
                builder.text(F::FlowVerdict, "dropped");
            }
            Some(_) => return Err(Rejected::at("action", "neither ACCEPT nor REJECT")),
            None => {}
        }
        builder.maybe(F::FlowDirection, word("flow-direction"));
        for (field, name) in [
            (F::FlowAccount, "account-id"),
            (F::FlowInterface, "interface-id"),
            (F::FlowInstance, "instance-id"),
            (F::FlowService, "pkt-dst-aws-service"),
        ] {
            builder.maybe(field, word(name));
        }
        if let Some(interface) = word("interface-id") {
            builder.object("interface", word("account-id"), interface);
        }
        into.push(told(builder, begin));
        Ok(())
    }
}
