//! Who talks to whom, as flow logs tell it of the addresses of pods.
//!
//! Bounded (I11): [`MAX_PEERS`] peers of one address, the longest silent goes first; [`MAX_ALL`] in all, beyond which the longest silent half
//! of everything goes. What is older than [`REMEMBER`] is not told.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use detect::schema::Field;
use model::{Direction, Fact as Value, Record, RecordKind, Timestamp};

/// Peers of one address.
const MAX_PEERS: usize = 64;

/// Peers of all addresses.
const MAX_ALL: usize = 262_144;

/// For how long a conversation is remembered.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// Conversations of pods' addresses.
#[derive(Debug, Default)]
pub(super) struct Flows {
    by_address: HashMap<IpAddr, HashMap<Line, Talk>>,
    count: usize,
}

/// Cilium's label of a pod's own node. The kubelet asks from there whether a pod is well, which no policy of the network forbids.
const OWN_NODE: &str = "reserved:host";

/// One end's view of a conversation: with whom, who asked, and the port that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Line {
    pub(super) other: IpAddr,
    pub(super) direction: Direction,
    pub(super) port: Option<u16>,
    pub(super) asker: Asker,
}

/// Who began a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Asker {
    /// The node of the one who was asked: its kubelet, most of all.
    OwnNode,
    /// Anybody else, or not known.
    Other,
}

/// When, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Talk {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) count: u64,
}

/// What a record says of a conversation that came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    source: IpAddr,
    destination: IpAddr,
    port: Option<u16>,
    asker: Asker,
}

/// The conversation that a flow log's record tells of; none where it was refused.
pub(super) fn flow(record: &Record) -> Option<Flow> {
    if !matches!(record.kind, RecordKind::HubbleFlow | RecordKind::VpcFlow | RecordKind::Flow) {
        return None;
    }
    let address = |field: Field| match record.facts.get(field.name()) {
        Some(Value::Address(addr)) => Some(*addr),
        Some(Value::Text(text)) => text.parse().ok(),
        _ => None,
    };
    if let Some(Value::Text(verdict)) = record.facts.get(Field::FlowVerdict.name())
        && verdict != "forwarded"
    {
        return None;
    }
    let port = match record.facts.get(Field::DestinationPort.name()) {
        Some(Value::Number(port)) => u16::try_from(*port).ok(),
        Some(Value::Text(text)) => text.parse().ok(),
        _ => None,
    };
    let asker = match record.facts.get(Field::FlowSourceLabels.name()) {
        Some(Value::List(labels)) if labels.iter().any(|label| label == OWN_NODE) => Asker::OwnNode,
        _ => Asker::Other,
    };
    Some(Flow { source: address(Field::SourceIp)?, destination: address(Field::DestinationIp)?, port, asker })
}

impl Flow {
    /// Both ends.
    pub(super) fn ends(&self) -> [IpAddr; 2] {
        [self.source, self.destination]
    }
}

impl Flows {
    /// Takes in what was told at `at` of an end that is a pod's.
    pub(super) fn learn(&mut self, flow: &Flow, end: IpAddr, at: Timestamp) {
        let (other, direction) = match end == flow.source {
            true => (flow.destination, Direction::Out),
            false => (flow.source, Direction::In),
        };
        let lines = self.by_address.entry(end).or_default();
        let line = Line { other, direction, port: flow.port, asker: flow.asker };
        if let Some(talk) = lines.get_mut(&line) {
            talk.last = talk.last.max(at);
            talk.first = talk.first.min(at);
            talk.count += 1;
            return;
        }
        if lines.len() >= MAX_PEERS
            && let Some(oldest) =
                lines.iter().min_by_key(|(line, talk)| (talk.last, **line)).map(|(line, _)| *line)
        {
            lines.remove(&oldest);
            self.count -= 1;
        }
        lines.insert(line, Talk { first: at, last: at, count: 1 });
        self.count += 1;
        if self.count > MAX_ALL {
            self.shed();
        }
    }

    /// What an address had to do with others after `since`, the newest first.
    pub(super) fn of(&self, address: IpAddr, since: Timestamp) -> Vec<(Line, Talk)> {
        let lines = self.by_address.get(&address).into_iter().flatten();
        let mut found: Vec<(Line, Talk)> =
            lines.filter(|(_, talk)| talk.last > since).map(|(line, talk)| (*line, *talk)).collect();
        found.sort_by_key(|(line, talk)| (std::cmp::Reverse(talk.last), *line));
        found
    }

    /// Nothing was told.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How far back is told at `now`.
    pub(super) fn horizon(now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_sub(i64::try_from(REMEMBER.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Forgets the half that was silent longest.
    fn shed(&mut self) {
        let mut last: Vec<Timestamp> =
            self.by_address.values().flat_map(HashMap::values).map(|talk| talk.last).collect();
        let half = last.len() / 2;
        let (_, middle, _) = last.select_nth_unstable(half);
        let middle = *middle;
        self.by_address.retain(|_, lines| {
            lines.retain(|_, talk| talk.last > middle);
            !lines.is_empty()
        });
        self.count = self.by_address.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_conversations_are_bounded_and_the_longest_silent_go() {
        let mut flows = Flows::default();
        let pod: IpAddr = [10, 244, 0, 7].into();
        for n in 0..200_u8 {
            let destination = [192, 0, 2, n].into();
            let flow = Flow { source: pod, destination, port: Some(443), asker: Asker::Other };
            flows.learn(&flow, pod, Timestamp(i64::from(n)));
        }
        let known = flows.of(pod, Timestamp(i64::MIN));
        assert_eq!((known.len(), flows.count), (MAX_PEERS, MAX_PEERS));
        assert_eq!(known[0].1.last, Timestamp(199));
        for n in 0..300_000_u32 {
            let end = IpAddr::from(n.to_be_bytes());
            let source = [198, 51, 100, 1].into();
            let flow = Flow { source, destination: end, port: None, asker: Asker::Other };
            flows.learn(&flow, end, Timestamp(1000 + i64::from(n)));
        }
        assert!(flows.count <= MAX_ALL, "{}", flows.count);
        assert!(flows.of(pod, Timestamp(i64::MIN)).is_empty());
        let newest = IpAddr::from(299_999_u32.to_be_bytes());
        assert_eq!(flows.of(newest, Timestamp(0))[0].0.direction, Direction::In);
    }
}
