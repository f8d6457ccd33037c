//! What events show that a feed may speak of: addresses, names, URLs, hashes. Out of hostile text, so bounded at every step.

use std::{collections::BTreeSet, net::IpAddr};

use model::{Activity, Attribution, Event, Fact, Finding, Incident};

use crate::indicator::{domain, hash, plain_address, url};

/// Different things looked up for one incident, at most (I11).
pub const MAX_OBSERVED: usize = 256;
/// Bytes of one text that are searched for URLs.
const MAX_TEXT: usize = 16 * 1024;
/// URLs taken from one text.
const MAX_URLS: usize = 16;
/// Findings looked at: the newest tell what the older ones told, or more.
const MAX_FINDINGS: usize = 64;

/// Something that a feed may speak of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Observed {
    /// The other end.
    Address(IpAddr),
    /// A name that was asked for.
    Domain(String),
    /// A hash of a file or image.
    Hash(Vec<u8>),
    /// Its stored form ([`crate::indicator::url`]).
    Url(String),
}

/// Where something was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    /// What.
    pub what: Observed,
    /// In which finding or of which container, and how.
    pub place: String,
}

impl std::fmt::Display for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(addr) => addr.fmt(f),
            Self::Domain(text) | Self::Url(text) => f.write_str(text),
            Self::Hash(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// All that an incident shows, each once, with the first place where it was seen.
#[must_use]
pub fn observed(incident: &Incident) -> Vec<Seen> {
    let mut all = Collected::default();
    let count = incident.findings.len();
    let old = count.saturating_sub(MAX_FINDINGS / 2);
    // The first ones tell how it began, the last ones what it is now.
    let shown = incident.findings.iter().enumerate().filter(|(at, _)| *at < MAX_FINDINGS / 2 || *at >= old);
    for (_, finding) in shown {
        all.finding(finding);
    }
    for pod in &incident.pods {
        if let Attribution::Resolved { container: Some(container), .. } = &pod.attribution
            && let Some(digest) = container.image_id.as_deref().and_then(|id| id.rsplit_once("sha256:"))
            && let Some(bytes) = hash(digest.1)
        {
            all.add(Observed::Hash(bytes), || format!("image of container {}", container.name));
        }
    }
    all.list
}

#[derive(Default)]
struct Collected {
    list: Vec<Seen>,
    known: BTreeSet<Observed>,
}

impl Collected {
    fn add(&mut self, what: Observed, place: impl FnOnce() -> String) {
        if self.list.len() < MAX_OBSERVED && self.known.insert(what.clone()) {
            self.list.push(Seen { what, place: place() });
        }
    }

    fn finding(&mut self, finding: &Finding) {
        let id = finding.id.as_str();
        self.event(&finding.event, id);
        self.text(&finding.event.process.command_line, id, "command line");
        for event in &finding.context {
            self.event(event, id);
        }
        for ancestor in &finding.ancestors {
            self.text(&ancestor.command_line, id, "an ancestor's command line");
        }
    }

    fn event(&mut self, event: &Event, id: &str) {
        match &event.activity {
            Activity::Connect(flow) | Activity::Accept(flow) | Activity::SocketClose { flow, .. } => {
                self.address(flow.remote.addr, id, "the other end of a connection");
            }
            Activity::DnsQuery { name, .. } => {
                if let Ok(name) = domain(name) {
                    self.add(Observed::Domain(name), || format!("{id}: a name that was asked for"));
                }
            }
            Activity::Record(record) => {
                if let Some(origin) = record.origin {
                    self.address(origin, id, "where a request came from");
                }
                for (name, fact) in record.facts.iter() {
                    match fact {
                        Fact::Address(addr) => self.address(*addr, id, name),
                        Fact::Text(text) => {
                            self.text(text, id, name);
                            self.word(text, id, name);
                        }
                        Fact::List(texts) => {
                            texts.iter().take(MAX_URLS).for_each(|text| self.word(text, id, name));
                        }
                        Fact::Number(_) | Fact::Bool(_) => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn address(&mut self, addr: IpAddr, id: &str, how: &str) {
        let addr = plain_address(addr);
        if !addr.is_unspecified() && !addr.is_loopback() {
            self.add(Observed::Address(addr), || format!("{id}: {how}"));
        }
    }

    /// A field that is one word: an address or a hash as a whole.
    fn word(&mut self, text: &str, id: &str, how: &str) {
        if text.len() > 128 {
            return;
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            self.address(addr, id, how);
        } else if let Some(bytes) = hash(text.strip_prefix("sha256:").unwrap_or(text)) {
            self.add(Observed::Hash(bytes), || format!("{id}: {how}"));
        }
    }

    /// URLs in a text, and bare addresses as words of it.
    fn text(&mut self, text: &str, id: &str, how: &str) {
        let text = &text[..text.floor_char_boundary(MAX_TEXT)];
        let is_end =
            |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '|' | ';' | ')' | '(');
        let mut rest = text;
        for _ in 0..MAX_URLS {
            let Some(at) = rest.find("://") else { break };
            let scheme = rest[..at]
                .rfind(|c: char| !c.is_ascii_alphanumeric())
                .map_or(0, |end| end + rest[end..].chars().next().map_or(1, char::len_utf8));
            let end = rest[at + 3..].find(is_end).map_or(rest.len(), |end| at + 3 + end);
            if let Ok(found) = url(&rest[scheme..end]) {
                self.add(Observed::Url(found), || format!("{id}: {how}"));
            }
            rest = &rest[end..];
        }
        let words = text.split(is_end).flat_map(|word| word.split(['=', ',', '/', '@'])).take(256);
        for word in words.filter(|word| word.len() >= 7 && word.contains(['.', ':'])) {
            // `1.2.3.4:3333` as miners have it.
            let addr = word
                .parse::<IpAddr>()
                .ok()
                .or_else(|| word.parse::<std::net::SocketAddr>().ok().map(|s| s.ip()));
            if let Some(addr) = addr {
                self.address(addr, id, how);
            }
        }
    }
}
