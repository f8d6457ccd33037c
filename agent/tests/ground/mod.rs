//! A place to test containment on the real kernel: a cgroup of its own, processes in it, a state directory. All of it goes with the
//! guard, also after a panic.

#![expect(
    dead_code,
    unreachable_pub,
    reason = "shared by several test binaries, each of which uses its own part"
)]

pub mod file;
pub mod fuse;
pub mod nest;
pub mod puppet;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use hemostat_agent::contain::{Contain, ContainConfig, JournalError, Lineage, OpenError};
use model::{BootNs, CgroupId, NodeId, Pid, ProcessKey, Target, Timestamp};

/// How long an event is awaited before the test gives up; nothing is asserted about time.
pub fn patience() -> Duration {
    Duration::from_secs(20) * slowness()
}

/// How many times slower than usual this machine is: whoever runs the tests in an emulated one says so.
pub fn slowness() -> u32 {
    std::env::var("HEMOSTAT_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Ground {
    /// The cgroup, absolute.
    pub cgroup: PathBuf,
    /// The cgroup, below the mount.
    pub path: String,
    pub dir: tempfile::TempDir,
    children: Mutex<Vec<Child>>,
    own_bpffs: Option<PathBuf>,
}

impl Ground {
    /// `None`, said aloud, where this machine cannot do it.
    pub fn new(name: &str) -> Option<Self> {
        let skip = |why: &str| println!("SKIPPED: {name}: {why}");
        if !rustix::process::geteuid().is_root() {
            skip("needs root");
            return None;
        }
        let Some(mount) = mount_of("cgroup2") else {
            skip("no cgroup2 mount");
            return None;
        };
        let unique = format!("cont-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = mount.join(&unique);
        if let Err(error) = fs::create_dir(&cgroup) {
            skip(&format!("no cgroup can be made: {error}"));
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        Some(Self { cgroup, path: format!("/{unique}"), dir, children: Mutex::default(), own_bpffs: None })
    }

    /// A bpffs of this test alone, so that tests do not see each other's pins.
    pub fn with_bpffs(mut self) -> Option<Self> {
        let at = self.dir.path().join("bpffs");
        fs::create_dir(&at).unwrap();
        match rustix::mount::mount("bpf", &at, "bpf", rustix::mount::MountFlags::empty(), None) {
            Ok(()) => {
                self.own_bpffs = Some(at);
                Some(self)
            }
            Err(error) => {
                println!("SKIPPED: bpffs cannot be mounted: {error}");
                None
            }
        }
    }

    pub fn config(&self) -> ContainConfig {
        let mut config = ContainConfig::new(NodeId::new("test-node"), self.dir.path().join("state"));
        if let Some(at) = &self.own_bpffs {
            config.bpffs = at.clone();
        }
        config
    }

    pub fn contain(&self) -> Contain {
        open(&self.config())
    }

    /// A cgroup below.
    pub fn sub(&self, name: &str) -> (PathBuf, String) {
        let cgroup = self.cgroup.join(name);
        fs::create_dir(&cgroup).unwrap();
        (cgroup, format!("{}/{name}", self.path))
    }

    pub fn target(&self) -> Target {
        cgroup_target(&self.cgroup, &self.path)
    }

    /// Starts a program in the cgroup.
    pub fn start(&self, command: &mut Command) -> u32 {
        self.start_in(&self.cgroup, command)
    }

    pub fn start_in(&self, cgroup: &Path, command: &mut Command) -> u32 {
        let procs = fs::OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")).unwrap();
        // SAFETY: between fork and exec only a write(2) is made, which is async-signal-safe.
        #[expect(unsafe_code, reason = "the child has to be in the cgroup before it runs")]
        unsafe {
            command.pre_exec(move || (&procs).write_all(b"0"));
        }
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.children.lock().unwrap().push(child);
        pid
    }

    pub fn shell(&self, script: &str) -> u32 {
        self.start(Command::new("sh").args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()))
    }

    /// Pids in the cgroup and below it.
    pub fn members(&self) -> Vec<u32> {
        let mut found = Vec::new();
        walk(&self.cgroup, &mut |dir| {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        });
        found.sort_unstable();
        found
    }

    /// Everything that a revert must give back: the cgroups with their freeze wish, each process with its place and whether it
    /// is stopped.
    pub fn snapshot(&self) -> Snapshot {
        let mut cgroups = BTreeMap::new();
        walk(&self.cgroup, &mut |dir| {
            let wish = fs::read_to_string(dir.join("cgroup.freeze")).unwrap_or_default();
            cgroups.insert(
                dir.strip_prefix(&self.cgroup).unwrap().display().to_string(),
                wish.trim().to_owned(),
            );
        });
        let processes = self
            .members()
            .into_iter()
            .filter_map(|pid| Some((pid, (cgroup_of(pid)?, matches!(state_of(pid)?, 'T' | 't')))))
            .collect();
        Snapshot { cgroups, processes }
    }

    pub fn await_members(&self, count: usize) {
        wait_for("the processes", || self.members().len() == count);
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _killed = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for mut child in self.children.lock().unwrap().drain(..) {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
        let begun = Instant::now();
        while remove_all(&self.cgroup).is_err() && begun.elapsed() < patience() {
            std::thread::yield_now();
        }
        if let Some(at) = &self.own_bpffs {
            let _unmounted = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub cgroups: BTreeMap<String, String>,
    pub processes: BTreeMap<u32, (String, bool)>,
}

/// A child that another test has forked and that has not come to its exec yet has our lock's descriptor, too: that passes.
pub fn open(config: &ContainConfig) -> Contain {
    let mut opened = None;
    wait_for("the lock", || {
        opened = match Contain::open(config.clone()) {
            Err(OpenError::Journal(JournalError::Busy { .. })) => None,
            other => Some(other.unwrap()),
        };
        opened.is_some()
    });
    opened.unwrap()
}

pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_nanos()).unwrap())
}

pub fn process(pid: u32) -> Target {
    Target::Process { process: key(pid) }
}

pub fn cgroup_target(absolute: &Path, path: &str) -> Target {
    use std::os::unix::fs::MetadataExt;
    Target::Cgroup { id: CgroupId(fs::metadata(absolute).unwrap().ino()), path: path.to_owned() }
}

pub fn key(pid: u32) -> ProcessKey {
    let ticks: u64 = stat_field(pid, 19).unwrap().parse().unwrap();
    ProcessKey { pid: Pid(pid), start: BootNs(ticks * 10_000_000) }
}

/// A process tree as the agent has it: whoever it has been told of is a descendant of everybody else.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<ProcessKey>>);

impl Lineage for Heard {
    fn descendants(&self, of: ProcessKey) -> Vec<ProcessKey> {
        self.0.lock().unwrap().iter().copied().filter(|key| *key != of).collect()
    }
}

pub fn state_of(pid: u32) -> Option<char> {
    stat_field(pid, 0)?.chars().next()
}

/// Field of /proc/PID/stat, counted from the state.
pub fn stat_field(pid: u32, index: usize) -> Option<String> {
    // a name may be no text
    let line = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&line);
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(index).map(str::to_owned)
}

pub fn cgroup_of(pid: u32) -> Option<String> {
    // of its last thread: the first may have ended, and what has ended is not moved
    let thread = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().last()?;
    let text = fs::read_to_string(thread.path().join("cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned))
}

/// Lives and is no zombie.
pub fn lives(pid: u32) -> bool {
    state_of(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

pub fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < patience(), "waited in vain for {what}");
        std::thread::yield_now();
    }
}

pub fn mount_of(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&kind)).then(|| PathBuf::from(words[1]))
    })
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    visit(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}

fn remove_all(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}
