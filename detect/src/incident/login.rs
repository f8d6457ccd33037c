//! A login at a node's own sshd, and what its session does: one story by the process, whatever addresses either has.
//!
//! sshd has a process for each connection. It writes that it let somebody in, and then starts the session. So a login is of a session where
//! the process that wrote its line is an ancestor of what the session does. The journal names that process by its pid alone, which means
//! another process before and after; but an ancestor is there from its own start at least until it starts its child on the way to what was done,
//! and a line written meanwhile under its pid is certainly its own. All three times are of the kernel's clock since boot.
//!
//! Nothing that a line says counts here, but who wrote it: see [`model::RecordWriter`]. Logins that no kernel vouches for have no such key.

use std::ops::RangeInclusive;

use model::{BootNs, Fact, Finding, NodeId, ProcessKey, Record, RecordKind};

use super::{Key, keys::MAX_ANCESTORS};
use crate::schema::Field;

/// How exactly a line's time is known. Nobody comes to be let in within so little of his connection's process being started, so under a pid
/// that is used again no other login is that near.
const EXACT: u64 = 20_000_000;

/// The key of a login, where it is certain which process let somebody in.
pub(crate) fn of_record(record: &Record) -> Option<Key> {
    let is = |field: Field, words: &[&str]| matches!(record.facts.get(field.name()), Some(Fact::Text(text)) if words.contains(&text.as_str()));
    let lets_in = record.kind == RecordKind::Sshd
        && is(Field::AuthAction, &["login", "session"])
        && is(Field::AuthOutcome, &["success"])
        && is(Field::AuthTrust, &["vouched"]);
    let writer = record.writer.as_ref().filter(|_| lets_in)?;
    Some(Key::Login { node: writer.host.clone(), pid: writer.pid, at: writer.at })
}

/// Keys of a finding's ancestors that may have let somebody in.
pub(super) fn of_process(finding: &Finding) -> impl Iterator<Item = Key> {
    let ancestors = &finding.ancestors[..finding.ancestors.len().min(MAX_ANCESTORS)];
    let own = finding.event.process.key.start;
    let children = std::iter::once(own).chain(ancestors.iter().map(|ancestor| ancestor.key.start));
    ancestors.iter().zip(children).filter_map(|(ancestor, child)| {
        let until = BootNs(child.0.saturating_add(EXACT));
        let served = is_sshd(&ancestor.exe) && ancestor.key.start <= child;
        served.then(|| Key::Served { node: lower(&finding.event.id.node), by: ancestor.key, until })
    })
}

impl Key {
    /// Whether two keys say that their findings belong together.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Login { node, pid, at }, Self::Served { node: on, by, until })
            | (Self::Served { node: on, by, until }, Self::Login { node, pid, at }) => {
                node == on && *pid == by.pid && by.start <= *at && at <= until
            }
            _ => self == other,
        }
    }

    /// Among which keys those are that it meets beside itself.
    pub(super) fn others(&self) -> Option<RangeInclusive<Self>> {
        match self {
            Self::Login { node, pid, at } => {
                let served = |start, until| {
                    let by = ProcessKey { pid: *pid, start };
                    Self::Served { node: node.clone(), by, until }
                };
                Some(served(BootNs(0), BootNs(0))..=served(*at, BootNs(u64::MAX)))
            }
            Self::Served { node, by, until } if by.start <= *until => {
                let login = |at| Self::Login { node: node.clone(), pid: by.pid, at };
                Some(login(by.start)..=login(*until))
            }
            _ => None,
        }
    }
}

/// OpenSSH splits itself into more programs with each release.
fn is_sshd(exe: &str) -> bool {
    let name = exe.rsplit('/').next().unwrap_or(exe);
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    matches!(name, "sshd" | "sshd-session" | "sshd-auth")
}

/// A node is called as its host is, but for capitals.
fn lower(node: &NodeId) -> NodeId {
    match node.as_str().bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => NodeId::new(node.as_str().to_ascii_lowercase()),
        false => node.clone(),
    }
}
