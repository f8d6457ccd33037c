//! What a rule said of an event.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{ActionRecord, Actor, Event, FindingId, LossWindow, Moments, Process, TimelineEntry, Timestamp};

/// Sigma's levels, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Feeds correlation only.
    Informational,
    /// Feeds correlation and risk only.
    Low,
    /// Worth a look in working hours.
    Medium,
    /// Worth waking somebody.
    High,
    /// Almost certainly an attack.
    Critical,
}

/// The rule behind a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRef {
    /// Sigma `id`, or the file's name where a rule has none.
    pub id: String,
    /// Sigma `title`.
    pub title: String,
    /// Sigma `level`.
    pub level: Level,
    /// ATT&CK technique ids, for example `T1059.004`.
    pub techniques: Vec<String>,
    /// ATT&CK tactics, for example `execution`.
    pub tactics: Vec<String>,
    /// What the rule asks the node to do at once, on its own authority.
    pub reaction: Reaction,
}

/// A rule's first reaction on the node (`hemostat.reaction` in the rule file). All are exactly reversible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reaction {
    /// Report only.
    #[default]
    None,
    /// Freeze the process subtree as soon as user space has matched.
    Freeze,
    /// Hold the process in the kernel at the hook, before its first instruction; then freeze, or let it go on if the
    /// whole rule does not match.
    Stop,
}

/// A rule matched. Everything a person needs to judge it travels with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Derived from the event and the rule.
    pub id: FindingId,
    /// Which rule.
    pub rule: RuleRef,
    /// The first event of this cause.
    pub event: Event,
    /// Matched fields and values, masked, for the explanation. With [`Finding::MIXED`] among them: those of the first only.
    pub matched: BTreeMap<String, String>,
    /// How many times the same cause was seen, this one included.
    pub count: u64,
    /// First and last time of the folded events.
    pub first: Timestamp,
    /// See `first`.
    pub last: Timestamp,
    /// The folded events one by one, as far as they are kept.
    #[serde(default, skip_serializing_if = "Moments::is_empty")]
    pub moments: Moments,
    /// Ancestors from the parent upwards.
    pub ancestors: Vec<Arc<Process>>,
    /// Recent events of the same process, oldest first.
    pub context: Vec<Event>,
    /// What the node already did about it on its own authority.
    pub reactions: Vec<ActionRecord>,
    /// Events lost around it (I2).
    pub loss: LossWindow,
}

impl Finding {
    /// A name among the matched fields, which no field has: repetitions of this finding are counted together although their values
    /// differ, because there were too many different ones.
    pub const MIXED: &str = "(and others)";

    /// The events after its first one, one by one as far as they are kept, with a line for those in between that are only counted.
    #[must_use]
    pub fn repetitions(&self) -> Vec<TimelineEntry> {
        let actor = Actor::agent(&self.event.id.node);
        let title = &self.rule.title;
        let line = |at: Timestamp, what: String| TimelineEntry { at, actor: actor.clone(), what };
        let counted = |at: Timestamp, more: u64| {
            line(at, format!("{title}: {more} more, of {}, which are only counted", self.count))
        };
        let mut lines = Vec::new();
        let mut told = 1;
        for moment in &self.moments {
            if moment.nth > told + 1 {
                lines.push(counted(moment.at, moment.nth - told - 1));
            }
            told = moment.nth;
            let what = format!("{title} ({} of {}): {}", moment.nth, self.count.max(told), moment.what);
            lines.push(line(moment.at, what));
        }
        // One that goes on in another incident begins there with its count.
        if self.count > told && self.last > self.first {
            lines.push(counted(self.last, self.count - told));
        }
        lines
    }

    /// Whether repetitions may have other values than the first.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.matched.contains_key(Self::MIXED)
    }
}

#[cfg(test)]
mod tests {
    use crate::{AgentEpoch, EventId, Facts, FindingId, LossWindow, Moment, NodeId, Record, RecordKind, Seq};

    use super::*;

    fn finding(count: u64, moments: impl IntoIterator<Item = u64>) -> Finding {
        let (principal, origin, object, sight, writer, facts) =
            (None, None, None, None, None, Facts::default());
        let record = Record {
            kind: RecordKind::Sshd,
            id: "x".into(),
            principal,
            origin,
            object,
            sight,
            writer,
            facts,
        };
        let at = |nth: u64| Timestamp(i64::try_from(nth).unwrap_or(0));
        let event = record.into_event(&NodeId::new("auth"), at(1));
        let id = EventId { node: NodeId::new("auth"), epoch: AgentEpoch(1), seq: Seq(1) };
        let rule = RuleRef {
            id: "r".into(),
            title: "Failed".into(),
            level: Level::Low,
            techniques: vec![],
            tactics: vec![],
            reaction: Reaction::None,
        };
        let moments = moments.into_iter().map(|nth| Moment::new(nth, at(nth), format!("try {nth}")));
        Finding {
            id: FindingId::derive(&id, "r"),
            rule,
            event,
            matched: BTreeMap::new(),
            count,
            first: at(1),
            last: at(count),
            moments: moments.collect(),
            ancestors: vec![],
            context: vec![],
            reactions: vec![],
            loss: LossWindow::default(),
        }
    }

    fn said(finding: &Finding) -> Vec<String> {
        finding.repetitions().into_iter().map(|line| format!("{} {}", line.at.0, line.what)).collect()
    }

    #[test]
    fn what_was_folded_is_told_one_by_one_and_what_is_not_kept_is_counted() {
        assert_eq!(said(&finding(1, [])), <[&str; 0]>::default());
        assert_eq!(said(&finding(3, [2, 3])), ["2 Failed (2 of 3): try 2", "3 Failed (3 of 3): try 3"]);
        let gaps = [
            "2 Failed (2 of 9): try 2",
            "6 Failed: 3 more, of 9, which are only counted",
            "6 Failed (6 of 9): try 6",
            "9 Failed: 3 more, of 9, which are only counted",
        ];
        assert_eq!(said(&finding(9, [2, 6])), gaps);
    }

    #[test]
    fn a_finding_of_before_there_were_moments_is_read() {
        let told = serde_json::to_string(&finding(2, [])).unwrap();
        assert!(!told.contains("moments"));
        assert_eq!(serde_json::from_str::<Finding>(&told).unwrap(), finding(2, []));
        let kept = serde_json::to_string(&finding(100, 2..=100)).unwrap();
        let read: Finding = serde_json::from_str(&kept).unwrap();
        assert_eq!(read, finding(100, 2..=100));
        assert_eq!(read.moments.len(), Moments::FIRST - 1 + Moments::LAST);
    }
}
