//! Identities. Each is a type of its own, so that one cannot be passed for another.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps a text that the caller has already checked or made.
            #[must_use]
            pub fn new(text: impl Into<String>) -> Self { Self(text.into()) }
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $of:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    };
}

text_id!(
    /// A node's stable name: the Kubernetes node name, or the host name where there is no Kubernetes.
    NodeId
);
text_id!(
    /// A finding: derived from the event and the rule, so that a repeated delivery has the same id (I3).
    FindingId
);
text_id!(
    /// An incident, for example `inc-7f3a9c21`.
    IncidentId
);
text_id!(
    /// One run of one playbook for one incident, for example `run-7f3a9c21-reverse-shell`.
    RunId
);
text_id!(
    /// One action of one run, for example `act-7f3a9c21-freeze`.
    ActionId
);
text_id!(
    /// The name of a playbook: a Kubernetes object name.
    PlaybookName
);
text_id!(
    /// The name of a playbook step, unique within its playbook.
    StepName
);
text_id!(
    /// Makes a command idempotent: the same key is carried out at most once.
    CommandKey
);
text_id!(
    /// Who did something: `user:<name>`, `system:controller`, `system:agent/<node>`.
    Actor
);

impl Actor {
    /// A node's agent, or a log that is followed.
    #[must_use]
    pub fn agent(node: &NodeId) -> Self {
        Self(format!("system:agent/{node}"))
    }
}

number_id!(
    /// Process id in the initial pid namespace (the kernel's tgid).
    Pid, u32
);
number_id!(
    /// cgroup v2 id: the inode number of the cgroup's directory in cgroupfs.
    CgroupId, u64
);
number_id!(
    /// Number of an agent's start on its node; grows with each start.
    AgentEpoch, u64
);
number_id!(
    /// Position in one agent epoch's stream of events, from 1.
    Seq, u64
);

/// An event's identity (I3): the same three values always name the same event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId {
    /// Where it was seen.
    pub node: NodeId,
    /// By which start of the agent.
    pub epoch: AgentEpoch,
    /// Its position in that start's stream.
    pub seq: Seq,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.epoch, self.seq)
    }
}

/// Short stable name of a sequence of texts: the first `bytes` bytes of their SHA-256 in hex. Each part is length-prefixed, so
/// ("ab","c") and ("a","bc") differ.
#[must_use]
pub fn short_hash<'a>(parts: impl IntoIterator<Item = &'a str>, bytes: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = digest(parts);
    let kept = &digest[..bytes.min(digest.len())];
    // Every record that is read has one.
    let mut text = String::with_capacity(kept.len() * 2);
    for byte in kept {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// As [`short_hash`], as the number of its first eight bytes.
pub(crate) fn hash_number<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    digest(parts).first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

impl FindingId {
    /// The finding of `rule` on `event`.
    #[must_use]
    pub fn derive(event: &EventId, rule: &str) -> Self {
        Self::new(format!("fnd-{}", short_hash([event.to_string().as_str(), rule], 8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_hash_is_the_beginning_of_a_sha_256_in_hex_and_its_number_the_same() {
        // Of the lengths as 64 bits, least significant byte first, each before its text.
        let known = "43ee655579de01ca739b3f95c1c2d3f46d353b2c0df818064ea594506cdb2617";
        assert_eq!(short_hash(["ab", "c"], 32), known);
        assert_eq!(short_hash(["ab", "c"], 6), known[..12]);
        assert_eq!(short_hash(["ab", "c"], 99), known, "there are no more than 32 bytes");
        assert_ne!(short_hash(["a", "bc"], 32), known);
        assert_eq!(format!("{:016x}", hash_number(["ab", "c"])), known[..16]);
    }
}
