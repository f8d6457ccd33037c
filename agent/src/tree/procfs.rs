//! What /proc says of processes that already ran, or whose exec was lost.
//!
//! Start times there are in clock ticks (10 ms), the kernel's records have nanoseconds: a key from /proc has a start that is a
//! multiple of a tick, and the tree gives it the exact one with the first record whose pid and tick agree.

mod sockets;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use model::{Backing, BootNs, CgroupId, Credentials, ExeFile, Namespaces, Pid, ProcessKey, Truncated};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::{Listens, NS_PER_TICK};
use crate::{
    aside::{Aside, Patience, Purpose},
    workload,
};

/// Longest argv that is read, in bytes: the probes' limit.
const MAX_ARGV: u64 = 8192;
/// A command line is read from the program's own memory, which may not answer; events wait meanwhile.
const PATIENCE: Patience = Patience { silence: Duration::from_millis(500), all: Duration::from_secs(4) };

/// Where the tree finds what the records did not say.
pub trait ProcSource: Send {
    /// Every living process, parents before children where possible.
    fn all(&mut self) -> Vec<ProcFacts>;
    /// One process, if it is still the one with this start time.
    fn read(&mut self, key: ProcessKey) -> Option<ProcFacts>;
    /// Whether a process with this pid and start time exists and is no zombie.
    fn is_alive(&mut self, key: ProcessKey) -> bool;
}

/// One process as /proc shows it.
#[derive(Debug, Clone, Default)]
pub struct ProcFacts {
    /// Pid.
    pub pid: Pid,
    /// Start in clock ticks after boot.
    pub start_ticks: u64,
    /// Parent, with its start in ticks; `None` for pid 1 and kernel threads' root.
    pub parent: Option<ProcessKey>,
    /// Resolved path, or `[comm]` for a kernel thread.
    pub exe: String,
    /// Inode, device, backing.
    pub exe_file: ExeFile,
    /// argv.
    pub args: Vec<String>,
    /// argv was longer than what was read.
    pub args_truncated: Truncated,
    /// Working directory.
    pub cwd: String,
    /// Task name.
    pub comm: String,
    /// User, group, capabilities.
    pub credentials: Credentials,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Controlling terminal.
    pub tty: Option<String>,
    /// cgroup v2 id.
    pub cgroup: Option<CgroupId>,
    /// Whether it waits for peers.
    pub listens: Listens,
}

impl ProcFacts {
    /// Its key, with the start rounded down to a tick.
    #[must_use]
    pub fn key(&self) -> ProcessKey {
        ProcessKey { pid: self.pid, start: BootNs(self.start_ticks.saturating_mul(NS_PER_TICK)) }
    }
}

/// The machine's /proc.
pub struct Procfs {
    cgroup_mount: Option<PathBuf>,
    aside: Aside,
}

impl Default for Procfs {
    fn default() -> Self {
        Self::new()
    }
}

impl Procfs {
    /// Reads `/proc` of the initial pid namespace.
    #[must_use]
    pub fn new() -> Self {
        Self { cgroup_mount: workload::cgroup2_mount().ok(), aside: Aside::new(Purpose::Tree, PATIENCE) }
    }

    /// Who of these waits for peers.
    pub fn listeners(&mut self, of: &[ProcessKey]) -> Vec<(ProcessKey, Listens)> {
        let mut namespaces: HashMap<u64, sockets::Listening> = HashMap::new();
        let mut found = Vec::new();
        for key in of {
            let Ok(namespace) = fs::metadata(format!("/proc/{}/ns/net", key.pid)) else { continue };
            let listening =
                namespaces.entry(namespace.ino()).or_insert_with(|| sockets::Listening::of(key.pid));
            let listens = listening.of_process(key.pid);
            // The pid may have been reused meanwhile.
            if listens != Listens::No && self.is_alive(*key) {
                found.push((*key, listens));
            }
        }
        found
    }

    fn facts(&mut self, pid: Pid) -> Option<ProcFacts> {
        let stat = Stat::read(pid)?;
        let folder = format!("/proc/{pid}");
        let comm = stat.comm.clone();
        let exe_link = fs::read_link(format!("{folder}/exe")).ok();
        let (exe, exe_file) = match &exe_link {
            Some(link) => executable(&link.to_string_lossy(), &folder),
            None => (format!("[{comm}]"), ExeFile::default()),
        };
        let (args, args_truncated) = arguments(&mut self.aside, &folder);
        // A name that is no text must not hide what was there before us.
        let status = fs::read(format!("{folder}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let namespace = |name: &str| {
            fs::metadata(format!("{folder}/ns/{name}")).map_or(0, |m| u32::try_from(m.ino()).unwrap_or(0))
        };
        let cgroup = workload::path_of_process(pid)
            .and_then(|path| workload::inode(self.cgroup_mount.as_ref()?, &path))
            .map(CgroupId);
        let facts = ProcFacts {
            pid,
            start_ticks: stat.start_ticks,
            parent: parent_key(stat.parent),
            exe,
            exe_file,
            args,
            args_truncated,
            cwd: fs::read_link(format!("{folder}/cwd"))
                .map_or_else(|_| String::new(), |p| p.to_string_lossy().into()),
            comm,
            credentials: credentials(&status, &folder),
            namespaces: Namespaces {
                mount: namespace("mnt"),
                pid: namespace("pid"),
                net: namespace("net"),
                user: namespace("user"),
                uts: namespace("uts"),
                ipc: namespace("ipc"),
                cgroup: namespace("cgroup"),
            },
            tty: tty(stat.tty),
            cgroup,
            listens: Listens::No,
        };
        // The pid may have been reused while its files were read.
        (Stat::read(pid)?.start_ticks == facts.start_ticks).then_some(facts)
    }
}

impl ProcSource for Procfs {
    fn all(&mut self) -> Vec<ProcFacts> {
        let Ok(folder) = fs::read_dir("/proc") else { return Vec::new() };
        let mut pids: Vec<u32> =
            folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        let mut found: Vec<ProcFacts> = pids.into_iter().filter_map(|pid| self.facts(Pid(pid))).collect();
        let mut listeners: HashMap<u32, sockets::Listening> = HashMap::new();
        for facts in &mut found {
            if facts.exe.starts_with('[') {
                continue;
            }
            let listening =
                listeners.entry(facts.namespaces.net).or_insert_with(|| sockets::Listening::of(facts.pid));
            facts.listens = listening.of_process(facts.pid);
        }
        found.sort_by_key(|facts| facts.start_ticks);
        self.aside = Aside::new(Purpose::Tree, PATIENCE);
        found
    }

    fn read(&mut self, key: ProcessKey) -> Option<ProcFacts> {
        self.aside.rest();
        let mut facts = self.facts(key.pid)?;
        if sockets::has_sockets(key.pid) {
            facts.listens = sockets::Listening::of(key.pid).of_process(key.pid);
        }
        self.is_alive(key).then_some(facts)
    }

    fn is_alive(&mut self, key: ProcessKey) -> bool {
        Stat::read(key.pid).is_some_and(|stat| {
            stat.start_ticks == key.start.0 / NS_PER_TICK && !matches!(stat.state, b'Z' | b'X' | b'x')
        })
    }
}

struct Stat {
    comm: String,
    state: u8,
    parent: u32,
    tty: i32,
    start_ticks: u64,
}

impl Stat {
    /// `proc_pid_stat(5)`. The task name may hold blanks and brackets: the last bracket ends it.
    fn read(pid: Pid) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let (open, close) = (text.find('(')?, text.rfind(')')?);
        let fields: Vec<&str> = text.get(close + 2..)?.split_ascii_whitespace().collect();
        Some(Self {
            comm: text.get(open + 1..close)?.to_owned(),
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            tty: fields.get(4)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

fn parent_key(parent: u32) -> Option<ProcessKey> {
    if parent == 0 {
        return None;
    }
    let stat = Stat::read(Pid(parent))?;
    Some(ProcessKey { pid: Pid(parent), start: BootNs(stat.start_ticks.saturating_mul(NS_PER_TICK)) })
}

fn executable(link: &str, folder: &str) -> (String, ExeFile) {
    let (path, backing) = match link.strip_suffix(" (deleted)") {
        Some(path) if path.starts_with("/memfd:") => (link.to_owned(), Backing::Memfd),
        Some(path) => (path.to_owned(), Backing::Deleted),
        None => (link.to_owned(), Backing::File),
    };
    // As it is cached: a filesystem whose server stands still is not asked.
    let exe = statx(CWD, format!("{folder}/exe"), AtFlags::STATX_DONT_SYNC, StatxFlags::INO);
    let file = exe.map_or_else(
        |_| ExeFile { backing, ..ExeFile::default() },
        |file| ExeFile {
            inode: file.stx_ino,
            device: kernel_device(file.stx_dev_major, file.stx_dev_minor),
            backing,
        },
    );
    (path, file)
}

/// As the kernel holds a device.
fn kernel_device(major: u32, minor: u32) -> u32 {
    (major << 20) | minor
}

/// Of one that does not answer it is said that it is not whole.
fn arguments(aside: &mut Aside, folder: &str) -> (Vec<String>, Truncated) {
    let path = format!("{folder}/cmdline");
    let mut bytes = match aside.read_some(Path::new(&path), MAX_ARGV + 1) {
        Ok(bytes) if bytes.is_empty() => return (Vec::new(), Truncated::No),
        Ok(bytes) => bytes,
        Err(_) => return (Vec::new(), Truncated::Yes),
    };
    let truncated = if bytes.len() as u64 > MAX_ARGV { Truncated::Yes } else { Truncated::No };
    bytes.truncate(usize::try_from(MAX_ARGV).unwrap_or(usize::MAX));
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    (bytes.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect(), truncated)
}

fn credentials(status: &str, folder: &str) -> Credentials {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let id = |name: &str, at: usize| {
        field(name).and_then(|rest| rest.split_ascii_whitespace().nth(at)?.parse().ok()).unwrap_or_default()
    };
    let caps = |name: &str| {
        field(name).and_then(|rest| u64::from_str_radix(rest.trim(), 16).ok()).unwrap_or_default()
    };
    let auid = fs::read_to_string(format!("{folder}/loginuid"))
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    Credentials {
        uid: id("Uid:", 0),
        euid: id("Uid:", 1),
        gid: id("Gid:", 0),
        egid: id("Gid:", 1),
        auid: auid.filter(|auid| *auid != u32::MAX),
        cap_effective: caps("CapEff:"),
        cap_permitted: caps("CapPrm:"),
    }
}

/// `tty_nr` of `proc_pid_stat(5)`: minor in bits 31–20 and 7–0, major in 15–8. Names as the kernel's drivers give them
/// (Documentation/admin-guide/devices.txt).
fn tty(number: i32) -> Option<String> {
    let number = u32::from_ne_bytes(number.to_ne_bytes());
    let (major, minor) = ((number >> 8) & 0xff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match (major, minor) {
        (0, _) => None,
        (4, 0..64) => Some(format!("tty{minor}")),
        (4, _) => Some(format!("ttyS{}", minor - 64)),
        (136..=143, _) => Some(format!("pts{}", (major - 136) * 256 + minor)),
        (5, 1) => Some("console".into()),
        _ => Some(format!("tty{major}:{minor}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read_whole() {
        let pid = Pid(std::process::id());
        let mut procfs = Procfs::new();
        let facts = procfs.all().into_iter().find(|facts| facts.pid == pid).unwrap();
        assert_eq!(facts.exe, std::env::current_exe().unwrap().to_string_lossy());
        assert_eq!(facts.args, std::env::args().collect::<Vec<_>>());
        assert_eq!(facts.cwd, std::env::current_dir().unwrap().to_string_lossy());
        assert!(facts.parent.is_some() && facts.namespaces.mount != 0 && facts.exe_file.inode != 0);
        assert!(procfs.is_alive(facts.key()));
        assert!(procfs.read(facts.key()).is_some());
        let reused = ProcessKey { pid, start: BootNs(facts.key().start.0 + NS_PER_TICK) };
        assert!(procfs.read(reused).is_none() && !procfs.is_alive(reused));
    }

    #[test]
    fn a_listener_is_found_and_how_far_it_reaches() {
        let own = Procfs::new().all().into_iter().find(|facts| facts.pid.0 == std::process::id()).unwrap();
        let listens = || {
            let mut procfs = Procfs::new();
            let found = procfs.read(own.key()).unwrap().listens;
            let other_way = procfs.listeners(&[own.key()]);
            assert_eq!(other_way.first().map_or(Listens::No, |(_, listens)| *listens), found);
            found
        };
        let folder = tempfile::tempdir().unwrap();
        // Tests beside this one may have sockets of their own in this process.
        let before = listens();
        let unix = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        assert_eq!(listens(), before.max(Listens::Locally));
        drop(unix);
        for local in ["127.0.0.1:0", "[::1]:0", "127.8.8.8:0"] {
            let local = std::net::TcpListener::bind(local).unwrap();
            assert_eq!(listens(), Listens::Locally, "{local:?}");
        }
        let open = std::net::TcpListener::bind("[::]:0").unwrap();
        assert_eq!(listens(), Listens::ToTheNetwork);
        drop(open);
        let open = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(listens(), Listens::ToTheNetwork);
        drop(open);
    }

    #[test]
    fn terminals_have_their_kernel_names() {
        assert_eq!(tty(0), None);
        assert_eq!(tty(136 << 8 | 3).as_deref(), Some("pts3"));
        assert_eq!(tty(4 << 8 | 1).as_deref(), Some("tty1"));
        assert_eq!(tty(4 << 8 | 64).as_deref(), Some("ttyS0"));
    }
}
