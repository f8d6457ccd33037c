//! AWS VPC flow log lines (docs.aws.amazon.com/vpc/latest/userguide/flow-log-records.html): words under the names of a header, or version 2's.

use std::{borrow::Cow, net::IpAddr};

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

/// Columns that are read. `as usize` is its place in [`Column::NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Account,
    Interface,
    Source,
    Destination,
    SourcePort,
    DestinationPort,
    Protocol,
    Packets,
    Bytes,
    Start,
    Action,
    LogStatus,
    PacketSource,
    PacketDestination,
    Direction,
    Instance,
    Service,
}

impl Column {
    const NAMES: [(Self, &'static str); 17] = [
        (Self::Account, "account-id"),
        (Self::Interface, "interface-id"),
        (Self::Source, "srcaddr"),
        (Self::Destination, "dstaddr"),
        (Self::SourcePort, "srcport"),
        (Self::DestinationPort, "dstport"),
        (Self::Protocol, "protocol"),
        (Self::Packets, "packets"),
        (Self::Bytes, "bytes"),
        (Self::Start, "start"),
        (Self::Action, "action"),
        (Self::LogStatus, "log-status"),
        (Self::PacketSource, "pkt-srcaddr"),
        (Self::PacketDestination, "pkt-dstaddr"),
        (Self::Direction, "flow-direction"),
        (Self::Instance, "instance-id"),
        (Self::Service, "pkt-dst-aws-service"),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).map_or("", |(_, name)| name)
    }
}

/// What the words of a line are; nothing for what is not read.
#[derive(Debug, Clone)]
pub(super) struct Columns(Vec<Option<Column>>);

impl Default for Columns {
    fn default() -> Self {
        Self::named(VERSION_2)
    }
}

impl Columns {
    /// Of a name that comes twice the first counts.
    fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut columns: Vec<Option<Column>> = Vec::new();
        for name in names {
            let column = Column::NAMES.iter().find(|(_, known)| *known == name).map(|(column, _)| *column);
            columns.push(column.filter(|column| !columns.contains(&Some(*column))));
        }
        Self(columns)
    }

    /// A header line's.
    pub(super) fn header(line: &str) -> Option<Self> {
        let words = || line.split_ascii_whitespace().take(64);
        // Asked of every line: most are seen to be none at their first address.
        let is_header = words().all(|word| {
            word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-' || byte.is_ascii_digit())
        }) && words().any(|word| word == "srcaddr" || word == "pkt-srcaddr");
        is_header.then(|| Self::named(words()))
    }

    /// The words of a line, by [`Column`]; `-` is none.
    fn values<'a>(&self, line: &'a str) -> Result<[Option<&'a str>; Column::NAMES.len()], Rejected> {
        let (mut values, mut count) = ([None; Column::NAMES.len()], 0);
        for word in line.split_ascii_whitespace().take(self.0.len() + 1) {
            if let Some(Some(column)) = self.0.get(count)
                && let Some(value) = values.get_mut(*column as usize)
            {
                *value = Some(word).filter(|word| *word != "-");
            }
            count += 1;
        }
        if count == self.0.len() {
            return Ok(values);
        }
        Err(Rejected::at("line", format!("{count} words where the header has {}", self.0.len())))
    }

    /// Reads a line; a header changes what the next ones are.
    pub(super) fn read(&mut self, line: &[u8], into: &mut Vec<Told>) -> Result<(), Rejected> {
        use Column as C;
        use Field as F;
        let line = std::str::from_utf8(line).map_err(|_| Rejected::at("line", "not UTF-8"))?;
        if let Some(header) = Self::header(line) {
            *self = header;
            return Ok(());
        }
        let values = self.values(line)?;
        let word = |column: Column| values.get(column as usize).copied().flatten();
        if matches!(word(C::LogStatus), Some("NODATA" | "SKIPDATA")) {
            return Ok(());
        }
        // Behind a NAT gateway or a load balancer the packet's own ends are the real ones.
        let address = |columns: [Column; 2]| -> Result<IpAddr, Rejected> {
            let text = columns.into_iter().find_map(word);
            let text = text.ok_or_else(|| Rejected::at(columns[1].name(), "missing"))?;
            text.parse().map_err(|_| Rejected::at(columns[1].name(), "not an address"))
        };
        let (source, destination) =
            (address([C::PacketSource, C::Source])?, address([C::PacketDestination, C::Destination])?);
        let number = |column: Column| -> Result<Option<i64>, Rejected> {
            let read = |text: &str| text.parse().map_err(|_| Rejected::at(column.name(), "not a number"));
            word(column).map(read).transpose()
        };
        let begin =
            number(C::Start)?.and_then(time::epoch).ok_or_else(|| Rejected::at("start", "missing"))?;
        let mut builder = RecordBuilder::new(RecordKind::VpcFlow);
        builder.address(F::SourceIp, source).address(F::DestinationIp, destination).origin(Some(source));
        for (field, column) in [
            (F::SourcePort, C::SourcePort),
            (F::DestinationPort, C::DestinationPort),
            (F::FlowPackets, C::Packets),
            (F::SentBytes, C::Bytes),
        ] {
            if let Some(number) = number(column)? {
                builder.number(field, number);
            }
        }
        let protocol = match number(C::Protocol)? {
            Some(6) => Some(Cow::Borrowed("tcp")),
            Some(17) => Some(Cow::Borrowed("udp")),
            other => other.map(|number| number.to_string().into()),
        };
        builder.maybe(F::Protocol, protocol.as_deref());
        match word(C::Action) {
            Some("ACCEPT") => {
                builder.text(F::FlowVerdict, "forwarded");
            }
            Some("REJECT") => {
                builder.text(F::FlowVerdict, "dropped");
            }
            Some(_) => return Err(Rejected::at("action", "neither ACCEPT nor REJECT")),
            None => {}
        }
        builder.maybe(F::FlowDirection, word(C::Direction));
        for (field, column) in [
            (F::FlowAccount, C::Account),
            (F::FlowInterface, C::Interface),
            (F::FlowInstance, C::Instance),
            (F::FlowService, C::Service),
        ] {
            builder.maybe(field, word(column));
        }
        if let Some(interface) = word(C::Interface) {
            builder.object("interface", word(C::Account), interface);
        }
        into.push(told(builder, begin));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_column_stands_where_its_number_says() {
        for (at, (column, name)) in Column::NAMES.into_iter().enumerate() {
            assert_eq!((column as usize, column.name()), (at, name));
        }
    }

    proptest! {
        /// Against a search for the name among the words of the header.
        #[test]
        fn what_stands_in_a_column_is_what_stands_under_its_name(
            names in prop::collection::vec(0_usize..20, 0..20), words in prop::collection::vec("-|[a-z0-9.]{1,4}", 0..21),
        ) {
            let name = |at: &usize| Column::NAMES.get(*at).map_or("tcp-flags", |(_, name)| name);
            let names: Vec<&str> = names.iter().map(name).collect();
            let header = names.join(" ");
            let is_header = names.iter().any(|name| ["srcaddr", "pkt-srcaddr"].contains(name));
            prop_assert_eq!(Columns::header(&header).is_some(), is_header);
            let flow = format!("{header} 10.0.0.1");
            prop_assert!(Columns::header(&flow).is_none());
            let columns = Columns::named(names.iter().copied());
            let line = words.join("  ");
            let Ok(values) = columns.values(&line) else {
                prop_assert_ne!(words.len(), names.len());
                return Ok(());
            };
            prop_assert_eq!(words.len(), names.len());
            for (column, name) in Column::NAMES {
                let at = names.iter().position(|known| *known == name);
                let word = at.and_then(|at| words.get(at)).map(String::as_str).filter(|word| *word != "-");
                prop_assert_eq!(values[column as usize], word, "{}", name);
            }
        }
    }
}
