//! Lines in the form in which nodes write events. A node writes a process out with everything that it did; here it is read once, and its events
//! share it as a live node's do, by which the matcher knows it again. What is written in any other way is left to serde.

use std::{net::IpAddr, sync::Arc};

use memchr::{memchr, memchr2};
use model::{
    Activity, AgentEpoch, Backing, BootNs, CgroupId, Created, Credentials, Endpoint, Event, EventId, ExeFile,
    Exposure, FdKind, FilePath, Flow, Namespaces, NodeId, Pid, Process, ProcessKey, ProcessOrigin, Protocol,
    Seq, StartedBy, Stdio, Timestamp, Truncated, Workload,
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

/// Sets of processes that are known, two in each (I11): one that was met again, and the last one that was not.
const SETS: usize = 1024;

/// Longest text of a process that is kept, in bytes: with what was read of them some 12 MB in all.
const LONGEST: usize = 2048;

/// Reads lines; one thread's.
pub(super) struct Lines {
    sets: Box<[[Option<Known>; 2]]>,
    /// The ancestors of who has none that are known.
    nobody: Arc<[Arc<Process>]>,
}

/// A process as it is written, and as it was read.
struct Known {
    text: Vec<u8>,
    process: Arc<Process>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| [None, None]).collect(), nobody: Arc::new([]) }
    }
}

impl Lines {
    /// The event of a line: what serde makes of it, with its parent as its only known ancestor. `None` says nothing of the line but that it is written otherwise.
    pub(super) fn event(&mut self, line: &[u8]) -> Option<Event> {
        let mut rest = Rest(line);
        rest.word(br#"{"id":{"node":"#)?;
        let node = NodeId::new(rest.text()?);
        rest.word(br#","epoch":"#)?;
        let epoch = AgentEpoch(rest.number()?);
        rest.word(br#","seq":"#)?;
        let seq = Seq(rest.number()?);
        rest.word(br#"},"time":"#)?;
        let time = Timestamp(i64::try_from(rest.number()?).ok()?);
        rest.word(br#","process":"#)?;
        let process = self.process(&mut rest)?;
        rest.word(br#","parent":"#)?;
        let parent = rest.or_null(|rest| self.process(rest))?;
        rest.word(br#","exposure":"#)?;
        let exposure = rest.one_of(&EXPOSURES)?;
        rest.word(br#","activity":"#)?;
        let activity = activity(rest.0.strip_suffix(b"}")?)?;
        let ancestors = match &parent {
            Some(parent) => Arc::new([Arc::clone(parent)]),
            None => Arc::clone(&self.nobody),
        };
        Some(Event { id: EventId { node, epoch, seq }, time, process, parent, ancestors, exposure, activity })
    }

    /// A value of JSON ends where it ends whatever follows, so what begins with the whole text of a known process is that process.
    fn process(&mut self, rest: &mut Rest<'_>) -> Option<Arc<Process>> {
        // The first part is the process's key.
        let key = rest.0.get(..memchr(b'}', rest.0)?)?;
        let [again, once] = self.sets.get_mut(hash(key) % SETS)?;
        let is_this =
            |known: &Option<Known>| known.as_ref().is_some_and(|known| rest.0.starts_with(&known.text));
        if !is_this(again) {
            if is_this(once) {
                std::mem::swap(again, once);
            } else {
                // It takes the place of the one that was not asked for again: most are seen once, and must push out nobody who comes again.
                let (before, process) = (rest.0, Arc::new(process(rest)?));
                let text = before.get(..before.len() - rest.0.len())?;
                if text.len() > LONGEST {
                    return Some(process);
                }
                let mut kept = once.take().map(|known| known.text).unwrap_or_default();
                kept.clear();
                kept.extend_from_slice(text);
                return Some(Arc::clone(&once.insert(Known { text: kept, process }).process));
            }
        }
        let known = again.as_ref()?;
        rest.0 = rest.0.get(known.text.len()..)?;
        Some(Arc::clone(&known.process))
    }
}

/// Where it meets another, one of them is read again: no more depends on it.
fn hash(key: &[u8]) -> usize {
    let mixed = key.chunks(8).fold(0_u64, |hash, part| {
        let mut word = [0; 8];
        word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        (hash.rotate_left(29) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    usize::try_from(mixed >> 40).unwrap_or(0)
}

fn process(rest: &mut Rest<'_>) -> Option<Process> {
    rest.word(br#"{"key":"#)?;
    let key = process_key(rest)?;
    rest.word(br#","parent":"#)?;
    let parent = rest.or_null(process_key)?;
    rest.word(br#","exe":"#)?;
    let exe = rest.text()?;
    rest.word(br#","exe_file":"#)?;
    let exe_file = exe_file(rest)?;
    rest.word(br#","command_line":"#)?;
    let command_line = rest.text()?;
    rest.word(br#","args":["#)?;
    let args = args(rest)?;
    rest.word(br#","args_truncated":"#)?;
    let args_truncated = rest.one_of(&TRUNCATED)?;
    rest.word(br#","cwd":"#)?;
    let cwd = rest.text()?;
    rest.word(br#","comm":"#)?;
    let comm = rest.text()?;
    rest.word(br#","credentials":"#)?;
    let credentials = credentials(rest)?;
    rest.word(br#","namespaces":"#)?;
    let namespaces = namespaces(rest)?;
    rest.word(br#","tty":"#)?;
    let tty = rest.or_null(Rest::text)?;
    rest.word(br#","stdio":"#)?;
    let stdio = stdio(rest)?;
    rest.word(br#","cgroup":"#)?;
    let cgroup = CgroupId(rest.number()?);
    rest.word(br#","workload":"#)?;
    let workload = Arc::new(workload(rest)?);
    rest.word(br#","origin":"#)?;
    let origin = rest.one_of(&ORIGINS)?;
    rest.word(br#","exit":"#)?;
    let exit = rest.or_null(Rest::value)?;
    rest.word(b"}")?;
    Some(Process {
        key,
        parent,
        exe,
        exe_file,
        command_line,
        args,
        args_truncated,
        cwd,
        comm,
        credentials,
        namespaces,
        tty,
        stdio,
        cgroup,
        workload,
        origin,
        exit,
    })
}

fn process_key(rest: &mut Rest<'_>) -> Option<ProcessKey> {
    rest.word(br#"{"pid":"#)?;
    let pid = Pid(rest.small()?);
    rest.word(br#","start":"#)?;
    let start = BootNs(rest.number()?);
    rest.word(b"}")?;
    Some(ProcessKey { pid, start })
}

const TRUNCATED: [(&str, Truncated); 2] = [("no", Truncated::No), ("yes", Truncated::Yes)];

const ORIGINS: [(&str, ProcessOrigin); 4] = [
    ("exec", ProcessOrigin::Exec),
    ("fork", ProcessOrigin::Fork),
    ("bootstrap", ProcessOrigin::Bootstrap),
    ("recovered", ProcessOrigin::Recovered),
];

const EXPOSURES: [(&str, Exposure); 5] = [
    ("none", Exposure::None),
    ("listens", Exposure::Listens),
    ("behind_listener", Exposure::BehindListener),
    ("listens_locally", Exposure::ListensLocally),
    ("behind_local_listener", Exposure::BehindLocalListener),
];

const BACKINGS: [(&str, Backing); 3] =
    [("file", Backing::File), ("memfd", Backing::Memfd), ("deleted", Backing::Deleted)];

const DESCRIPTORS: [(&str, FdKind); 6] = [
    ("unknown", FdKind::Unknown),
    ("closed", FdKind::Closed),
    ("file", FdKind::File),
    ("pipe", FdKind::Pipe),
    ("socket", FdKind::Socket),
    ("device", FdKind::Device),
];

const CREATED: [(&str, Created); 2] = [("no", Created::No), ("yes", Created::Yes)];

/// Another is a number, which is serde's.
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

fn exe_file(rest: &mut Rest<'_>) -> Option<ExeFile> {
    rest.word(br#"{"inode":"#)?;
    let inode = rest.number()?;
    rest.word(br#","device":"#)?;
    let device = rest.small()?;
    rest.word(br#","backing":"#)?;
    let backing = rest.one_of(&BACKINGS)?;
    rest.word(b"}")?;
    Some(ExeFile { inode, device, backing })
}

fn stdio(rest: &mut Rest<'_>) -> Option<Stdio> {
    rest.word(br#"{"stdin":"#)?;
    let stdin = rest.one_of(&DESCRIPTORS)?;
    rest.word(br#","stdout":"#)?;
    let stdout = rest.one_of(&DESCRIPTORS)?;
    rest.word(br#","stderr":"#)?;
    let stderr = rest.one_of(&DESCRIPTORS)?;
    rest.word(b"}")?;
    Some(Stdio { stdin, stdout, stderr })
}

fn args(rest: &mut Rest<'_>) -> Option<Vec<String>> {
    let mut args = Vec::new();
    if rest.word(b"]").is_some() {
        return Some(args);
    }
    loop {
        args.push(rest.text()?);
        if rest.word(b"]").is_some() {
            return Some(args);
        }
        rest.word(b",")?;
    }
}

fn credentials(rest: &mut Rest<'_>) -> Option<Credentials> {
    rest.word(br#"{"uid":"#)?;
    let uid = rest.small()?;
    rest.word(br#","gid":"#)?;
    let gid = rest.small()?;
    rest.word(br#","euid":"#)?;
    let euid = rest.small()?;
    rest.word(br#","egid":"#)?;
    let egid = rest.small()?;
    rest.word(br#","auid":"#)?;
    let auid = rest.or_null(Rest::small)?;
    rest.word(br#","cap_effective":"#)?;
    let cap_effective = rest.number()?;
    rest.word(br#","cap_permitted":"#)?;
    let cap_permitted = rest.number()?;
    rest.word(b"}")?;
    Some(Credentials { uid, gid, euid, egid, auid, cap_effective, cap_permitted })
}

fn namespaces(rest: &mut Rest<'_>) -> Option<Namespaces> {
    rest.word(br#"{"mount":"#)?;
    let mount = rest.small()?;
    rest.word(br#","pid":"#)?;
    let pid = rest.small()?;
    rest.word(br#","net":"#)?;
    let net = rest.small()?;
    rest.word(br#","user":"#)?;
    let user = rest.small()?;
    rest.word(br#","uts":"#)?;
    let uts = rest.small()?;
    rest.word(br#","ipc":"#)?;
    let ipc = rest.small()?;
    rest.word(br#","cgroup":"#)?;
    let cgroup = rest.small()?;
    rest.word(b"}")?;
    Some(Namespaces { mount, pid, net, user, uts, ipc, cgroup })
}

fn workload(rest: &mut Rest<'_>) -> Option<Workload> {
    let workload = if rest.word(br#"{"kind":"container","runtime":"#).is_some() {
        let runtime = rest.value()?;
        rest.word(br#","container_id":"#)?;
        let container_id = rest.text()?;
        rest.word(br#","pod_uid":"#)?;
        let pod_uid = rest.or_null(Rest::text)?;
        rest.word(br#","cgroup_path":"#)?;
        Workload::Container { runtime, container_id, pod_uid, cgroup_path: rest.text()? }
    } else if rest.word(br#"{"kind":"unit","unit":"#).is_some() {
        let unit = rest.text()?;
        rest.word(br#","cgroup_path":"#)?;
        let cgroup_path = rest.text()?;
        let started_by = match rest.word(br#","started_by":"#) {
            Some(()) => rest.value()?,
            None => StartedBy::Other,
        };
        Workload::Unit { unit, cgroup_path, started_by }
    } else if rest.word(br#"{"kind":"host","cgroup_path":"#).is_some() {
        Workload::Host { cgroup_path: rest.text()? }
    } else {
        return rest.value();
    };
    rest.word(b"}")?;
    Some(workload)
}

/// What is left of a line.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(word)?;
        Some(())
    }

    /// What stands between quotes; one in which something is escaped is serde's.
    fn text(&mut self) -> Option<String> {
        let before = self.0;
        match self.plain() {
            Some(text) => Some(text.to_owned()),
            None if self.0.len() < before.len() => {
                self.0 = before;
                self.value()
            }
            None => None,
        }
    }

    /// What stands between quotes, if nothing in it is escaped; what is left then begins before the escape.
    fn plain(&mut self) -> Option<&'a str> {
        let inner = self.0.strip_prefix(b"\"")?;
        let (text, rest) = inner.split_at_checked(memchr2(b'"', b'\\', inner)?)?;
        if rest.first() == Some(&b'\\') {
            self.0 = rest;
            return None;
        }
        // All of them, since that is done many at a time.
        if text.iter().fold(false, |found, byte| found | (*byte < b' ')) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        self.0 = rest.get(1..)?;
        Some(text)
    }

    fn one_of<T: Copy>(&mut self, words: &[(&str, T)]) -> Option<T> {
        let text = self.plain()?;
        words.iter().find(|(word, _)| *word == text).map(|(_, is)| *is)
    }

    fn address(&mut self) -> Option<IpAddr> {
        self.plain()?.parse().ok()
    }

    /// A whole number as JSON has it: no sign, no zeros before it. What makes it another stands behind it, where a word is wanted.
    fn number(&mut self) -> Option<u64> {
        let (digits, rest) =
            self.0.split_at_checked(self.0.iter().position(|byte| !byte.is_ascii_digit())?)?;
        if digits.is_empty() || digits.len() > 1 && digits.first() == Some(&b'0') {
            return None;
        }
        self.0 = rest;
        let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
        digits.iter().try_fold(0, add)
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn or_null<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.word(b"null") {
            Some(()) => Some(None),
            None => read(self).map(Some),
        }
    }

    fn value<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut values = serde_json::Deserializer::from_slice(self.0).into_iter();
        let value = values.next()?.ok()?;
        self.0 = self.0.get(values.byte_offset()..)?;
        Some(value)
    }
}

/// What was done; the commonest, as nodes write them, without serde.
fn activity(text: &[u8]) -> Option<Activity> {
    let mut rest = Rest(text);
    common(&mut rest).filter(|_| rest.0.is_empty()).or_else(|| tagged(text))
}

fn common(rest: &mut Rest<'_>) -> Option<Activity> {
    let activity = if rest.word(br#"{"activity":"exec","requested":"#).is_some() {
        Activity::Exec { requested: rest.text()? }
    } else if rest.word(br#"{"activity":"file_open","file":{"path":"#).is_some() {
        let path = rest.text()?;
        rest.word(br#","truncated":"#)?;
        let truncated = rest.one_of(&TRUNCATED)?;
        rest.word(br#"},"flags":"#)?;
        let flags = rest.small()?;
        rest.word(br#","created":"#)?;
        let created = rest.one_of(&CREATED)?;
        Activity::FileOpen { file: FilePath { path, truncated }, flags, created }
    } else {
        rest.word(br#"{"activity":"connect","protocol":"#)?;
        let protocol = rest.one_of(&PROTOCOLS)?;
        rest.word(br#","local":"#)?;
        let local = endpoint(rest)?;
        rest.word(br#","remote":"#)?;
        Activity::Connect(Flow { protocol, local, remote: endpoint(rest)? })
    };
    rest.word(b"}")?;
    Some(activity)
}

fn endpoint(rest: &mut Rest<'_>) -> Option<Endpoint> {
    rest.word(br#"{"addr":"#)?;
    let addr = rest.address()?;
    rest.word(br#","port":"#)?;
    let port = u16::try_from(rest.number()?).ok()?;
    rest.word(b"}")?;
    Some(Endpoint { addr, port })
}

/// The commonest are read in their own shape: serde puts a value whose tag it does not know yet aside, and reads that.
fn tagged(text: &[u8]) -> Option<Activity> {
    #[derive(Deserialize)]
    struct Exec {
        /// Named so that a second one is refused.
        #[serde(rename = "activity")]
        _tag: IgnoredAny,
        requested: String,
    }
    #[derive(Deserialize)]
    struct Open {
        #[serde(rename = "activity")]
        _tag: IgnoredAny,
        file: FilePath,
        flags: u32,
        created: Created,
    }
    #[derive(Deserialize)]
    struct Connect {
        #[serde(rename = "activity")]
        _tag: IgnoredAny,
        protocol: Protocol,
        local: Endpoint,
        remote: Endpoint,
    }
    if text.starts_with(br#"{"activity":"exec","#) {
        let Exec { requested, .. } = serde_json::from_slice(text).ok()?;
        return Some(Activity::Exec { requested });
    }
    if text.starts_with(br#"{"activity":"file_open","#) {
        let Open { file, flags, created, .. } = serde_json::from_slice(text).ok()?;
        return Some(Activity::FileOpen { file, flags, created });
    }
    if text.starts_with(br#"{"activity":"connect","#) {
        let Connect { protocol, local, remote, .. } = serde_json::from_slice(text).ok()?;
        return Some(Activity::Connect(Flow { protocol, local, remote }));
    }
    serde_json::from_slice(text).ok()
}

#[cfg(test)]
mod tests;
