//! One incident as a trace, from its first event to the audit log: spans made of what is recorded, not of what happened to be measured on the
//! way, so that a trace is whole whenever and wherever it is made. Names of traces and spans are hashes of the incident's own: whoever sends one
//! twice sends the same.

mod export;

pub(crate) use export::{Sending, follow};
use model::{Incident, Timestamp, short_hash};
use respond::run::{Change, Transition};

/// Spans of one trace (I11); the rest is counted on its root.
const MOST: usize = 512;
/// Characters of an attribute (I11).
const LONGEST: usize = 256;

/// Something that took, or had, its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) trace: [u8; 16],
    pub(crate) id: [u8; 8],
    /// The root has none.
    pub(crate) parent: Option<[u8; 8]>,
    pub(crate) name: &'static str,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) attributes: Vec<(&'static str, String)>,
    pub(crate) failed: Failed,
}

/// Whether it went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Failed {
    #[default]
    No,
    Yes,
}

/// The spans of an incident with the journals of its runs; `audit` is the number of the last entry of the audit log that tells of it.
pub(crate) fn spans(incident: &Incident, journals: &[Vec<Transition>], audit: u64) -> Vec<Span> {
    let mut drawn = Drawn { of: incident.id.as_str(), spans: Vec::new(), left_out: 0 };
    let last = incident.timeline.iter().map(|entry| entry.at).max().unwrap_or(incident.updated);
    let (begin, end) = (incident.first_event, incident.updated.max(last));
    let root = drawn.span(
        None,
        "incident",
        "",
        (begin, end),
        vec![
            ("hemostat.incident", incident.id.to_string()),
            ("hemostat.title", incident.title.clone()),
            ("hemostat.severity", super::metrics::level(incident.severity).to_owned()),
            ("hemostat.state", format!("{:?}", incident.state)),
        ],
    );
    let Some(root) = root else { return Vec::new() };
    for finding in &incident.findings {
        drawn.span(
            Some(root),
            "event",
            finding.id.as_str(),
            (finding.first, finding.last),
            vec![
                ("hemostat.finding", finding.id.to_string()),
                ("hemostat.rule", finding.rule.id.clone()),
                ("hemostat.node", finding.event.id.node.to_string()),
                ("hemostat.count", finding.count.to_string()),
            ],
        );
    }
    drawn.span(Some(root), "detect", "", (begin, incident.opened), Vec::new());
    if incident.enrichment.at.0 > 0 {
        let at = incident.enrichment.at;
        drawn.span(
            Some(root),
            "enrich",
            "",
            (at, at),
            vec![
                ("hemostat.intelligence", incident.enrichment.intelligence.len().to_string()),
                ("hemostat.facts", incident.enrichment.facts.len().to_string()),
            ],
        );
    }
    for record in incident.actions.iter().filter(|record| record.run.is_none()) {
        let at = record.applied.unwrap_or(record.planned);
        drawn.span(
            Some(root),
            "node.reaction",
            record.id.as_str(),
            (record.planned.min(at), at),
            vec![
                ("hemostat.action", record.action.name().to_owned()),
                ("hemostat.state", format!("{:?}", record.state)),
            ],
        );
    }
    for journal in journals {
        drawn.run(root, journal);
    }
    for (n, entry) in
        incident.timeline.iter().enumerate().filter(|(_, entry)| entry.actor.as_str().starts_with("user:"))
    {
        let attributes =
            vec![("hemostat.actor", entry.actor.to_string()), ("hemostat.what", entry.what.clone())];
        drawn.span(Some(root), "person", &n.to_string(), (entry.at, entry.at), attributes);
    }
    drawn.span(Some(root), "audit", "", (end, end), vec![("hemostat.audit.entry", audit.to_string())]);
    let left_out = drawn.left_out;
    if let Some(first) = drawn.spans.first_mut().filter(|_| left_out > 0) {
        first.attributes.push(("hemostat.spans_left_out", left_out.to_string()));
    }
    drawn.spans
}

struct Drawn<'a> {
    of: &'a str,
    spans: Vec<Span>,
    left_out: u64,
}

impl Drawn<'_> {
    fn span(
        &mut self,
        parent: Option<[u8; 8]>,
        name: &'static str,
        which: &str,
        (start, end): (Timestamp, Timestamp),
        attributes: Vec<(&'static str, String)>,
    ) -> Option<[u8; 8]> {
        if self.spans.len() >= MOST {
            self.left_out += 1;
            return None;
        }
        let above = parent.map(|id| u64::from_be_bytes(id).to_string()).unwrap_or_default();
        let id = bytes(&[self.of, &above, name, which]);
        let shown = |text: String| narrate::shown(&text, LONGEST);
        let attributes = attributes.into_iter().map(|(key, value)| (key, shown(value))).collect();
        let trace = bytes(&["trace", self.of]);
        self.spans.push(Span {
            trace,
            id,
            parent,
            name,
            start,
            end: end.max(start),
            attributes,
            failed: Failed::No,
        });
        Some(id)
    }

    fn fail(&mut self, id: Option<[u8; 8]>) {
        if let Some(span) = self.spans.iter_mut().rev().find(|span| Some(span.id) == id) {
            span.failed = Failed::Yes;
        }
    }

    fn run(&mut self, root: [u8; 8], journal: &[Transition]) {
        let (Some(first), Some(last)) = (journal.first(), journal.last()) else { return };
        let Change::Began { start } = &first.change else { return };
        let attributes =
            vec![("hemostat.run", start.run.to_string()), ("hemostat.playbook", start.playbook.to_string())];
        let run = self.span(Some(root), "run", start.run.as_str(), (first.at, last.at), attributes);
        let Some(run) = run else { return };
        let decided = vec![
            ("hemostat.outcome", format!("{:?}", start.decision.outcome)),
            ("hemostat.reasons", start.decision.reasons.join("; ")),
        ];
        self.span(Some(run), "gate", "", (first.at, first.at), decided);
        // Of every action and question: the phase that is open, and since when.
        let mut open: std::collections::BTreeMap<String, (&'static str, Timestamp, u64)> =
            std::collections::BTreeMap::new();
        for transition in journal {
            let at = transition.at;
            let (subject, begins, ends): (&str, Option<&'static str>, Option<Failed>) =
                match &transition.change {
                    Change::Asked { request, .. } => (request.step.as_str(), Some("approval"), None),
                    Change::Decided { step, .. } => (step.as_str(), None, Some(Failed::No)),
                    Change::Capturing { action, .. } => (action.as_str(), Some("capture"), None),
                    Change::Applying { action, .. } => (action.as_str(), Some("apply"), None),
                    Change::Verifying { action, .. } => (action.as_str(), Some("verify"), None),
                    Change::Reverting { action, .. } => (action.as_str(), Some("revert"), None),
                    Change::Watching { action, .. } => (action.as_str(), Some("watch"), None),
                    Change::Quiet { action } => (action.as_str(), None, Some(Failed::No)),
                    Change::Observed { action, .. } => (action.as_str(), None, Some(Failed::Yes)),
                    Change::Prepared { action }
                    | Change::Applied { action, .. }
                    | Change::Verified { action }
                    | Change::Vacuous { action, .. }
                    | Change::Reverted { action, .. } => (action.as_str(), None, Some(Failed::No)),
                    Change::ApplyFailed { action, .. }
                    | Change::Missing { action, .. }
                    | Change::Unverified { action, .. }
                    | Change::Failed { action, .. }
                    | Change::RevertDelayed { action, .. }
                    | Change::RevertBlocked { action, .. } => (action.as_str(), None, Some(Failed::Yes)),
                    _ => continue,
                };
            if let Some((name, since, n)) =
                open.remove(subject).filter(|_| ends.is_some() || begins.is_some())
            {
                let attributes = vec![("hemostat.subject", subject.to_owned())];
                let id = self.span(Some(run), name, &format!("{subject}/{n}"), (since, at), attributes);
                if ends == Some(Failed::Yes) {
                    self.fail(id);
                }
            }
            if let Some(name) = begins {
                open.insert(subject.to_owned(), (name, at, transition.seq));
            }
        }
        for (subject, (name, since, n)) in open {
            // Cut off by the end of the run: nobody answered.
            let attributes = vec![("hemostat.subject", subject.clone())];
            let id = self.span(Some(run), name, &format!("{subject}/{n}"), (since, last.at), attributes);
            self.fail(id);
        }
    }
}

/// A hash of so many bytes.
fn bytes<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut out = [0; N];
    // Never all zeros, which OpenTelemetry takes for none: a hash of 16 hexadecimal digits is that once in the life of a universe.
    let _always_fits = hex::decode_to_slice(short_hash(parts.iter().copied(), N), &mut out);
    out
}
