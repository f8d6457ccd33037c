//! One certain process (I9): a pidfd whose start time was checked while the process was alive.

use std::{
    fs,
    io::{self, Read},
    os::fd::OwnedFd,
};

use model::{ActionFailure, BootNs, Pid, ProcessKey};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, CWD, StatxFlags},
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::cgroup;

/// `/proc/PID/stat` gives start times in clock ticks. USER_HZ is 100 on every architecture that Hemostat is built for
/// (include/asm-generic/param.h), so two processes of one pid that started within the same 10 ms cannot be told apart here.
const NS_PER_TICK: u64 = 10_000_000;

/// So many are held at once where many are looked at: the limit on open descriptors may be low, and trees are large.
pub(super) const AT_ONCE: usize = 64;

/// `PF_KTHREAD` of include/linux/sched.h.
const PF_KTHREAD: u32 = 0x0020_0000;

/// What `/proc/PID/stat` says, as far as containment needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, …
    pub(super) state: u8,
    pub(super) parent: u32,
    flags: u32,
    start_ticks: u64,
}

impl Stat {
    pub(super) fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Stopped by a signal (not by a tracer).
    pub(super) fn is_stopped(&self) -> bool {
        self.state == b'T'
    }

    /// Whether this is the start time that `key` names, as far as ticks can tell.
    pub(super) fn started(&self, key: ProcessKey) -> bool {
        ticks(key) == self.start_ticks
    }

    pub(super) fn key(&self, pid: u32) -> ProcessKey {
        ProcessKey { pid: Pid(pid), start: BootNs(self.start_ticks.saturating_mul(NS_PER_TICK)) }
    }
}

/// The start time in ticks, which is all that /proc tells.
pub(super) fn ticks(key: ProcessKey) -> u64 {
    key.start.0 / NS_PER_TICK
}

/// A live process, held by its pidfd: signals sent through it can never reach another one.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: ProcessKey,
    pub(super) stat: Stat,
    fd: OwnedFd,
}

impl Held {
    /// Takes hold of the process that `key` names.
    ///
    /// Errors: [`ActionFailure::TargetGone`] when it has ended, [`ActionFailure::TargetChanged`] when the pid belongs to
    /// another process by now.
    pub(super) fn open(key: ProcessKey) -> Result<Self, ActionFailure> {
        let held = Self::open_pid(key.pid.0)
            .map_err(|source| ActionFailure::io("take hold of", name(key), &source))?
            .ok_or_else(|| ActionFailure::TargetGone { target: name(key) })?;
        if held.stat.started(key) {
            return Ok(Self { key, ..held });
        }
        Err(ActionFailure::TargetChanged {
            target: format!("pid {}", key.pid),
            expected: format!("started {} ns after boot", key.start.0),
            found: format!("started {} ns after boot", held.key.start.0),
        })
    }

    /// The same; `None` when it has ended.
    ///
    /// Errors: of the system, for example when no more descriptors are to be had.
    pub(super) fn open_if_there(key: ProcessKey) -> Result<Option<Self>, ActionFailure> {
        match Self::open(key) {
            Ok(held) => Ok(Some(held)),
            Err(ActionFailure::TargetGone { .. } | ActionFailure::TargetChanged { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Takes hold of whatever has this pid now; `None` when nothing alive has.
    pub(super) fn open_pid(pid: u32) -> io::Result<Option<Self>> {
        let Some(number) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => fd,
            // EINVAL: the number is a thread's, not a process's
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(stat) = stat(pid)? else { return Ok(None) };
        // The pid cannot be reused before its process is reaped, so if the pidfd's process lives after the read, the
        // read was of that process. The state in the line says nothing of that: a program whose first thread has ended shows as
        // a zombie and runs on in the others.
        if has_ended(&fd) {
            return Ok(None);
        }
        let held = Self { key: stat.key(pid), stat, fd };
        Ok(Some(Self { stat: held.of_a_living_thread(stat)?, ..held }))
    }

    pub(super) fn pid(&self) -> u32 {
        self.key.pid.0
    }

    /// It is a zombie or gone.
    pub(super) fn has_ended(&self) -> bool {
        has_ended(&self.fd)
    }

    /// A copy of one of its descriptors.
    pub(super) fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_getfd(&self.fd, number, rustix::process::PidfdGetfdFlags::empty())?)
    }

    /// Waits for its end, at most `millis`.
    pub(super) fn wait_end(&self, millis: u32) -> bool {
        let wait =
            Timespec { tv_sec: i64::from(millis / 1000), tv_nsec: i64::from(millis % 1000) * 1_000_000 };
        matches!(poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&wait)), Ok(n) if n > 0)
    }

    /// Sends a signal; `Ok(false)` when the process has ended.
    pub(super) fn signal(&self, signal: Signal) -> Result<bool, ActionFailure> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(ActionFailure::io("signal", name(self.key), &error.into())),
        }
    }

    /// Whether it was sent this signal and has not taken it.
    pub(super) fn is_pending(&self, signal: Signal) -> io::Result<bool> {
        let Some(status) = status(self.pid())? else { return Ok(false) };
        // of the process (ShdPnd) and of its first thread (SigPnd), as masks with bit 0 for signal 1
        let masks = status.lines().filter_map(|line| {
            let mask = line.strip_prefix("ShdPnd:").or_else(|| line.strip_prefix("SigPnd:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        });
        let bit =
            u32::try_from(signal.as_raw() - 1).ok().and_then(|shift| 1_u64.checked_shl(shift)).unwrap_or(0);
        Ok(masks.fold(0, |all, mask| all | mask) & bit != 0)
    }

    /// Its state now; `None` when it has ended.
    pub(super) fn look(&self) -> io::Result<Option<Stat>> {
        let Some(now) = stat(self.pid())?.filter(|_| !self.has_ended()) else { return Ok(None) };
        self.of_a_living_thread(now).map(Some)
    }

    /// Whether all its threads are stopped (or it has ended): none runs code of its own.
    pub(super) fn stands(&self) -> io::Result<bool> {
        let pid = self.pid();
        let threads = match threads_of(pid) {
            Ok(threads) => threads,
            Err(error) if is_gone(&error) => return Ok(true),
            Err(error) => return Err(error),
        };
        for thread in threads {
            let stat = read_stat(&format!("/proc/{pid}/task/{thread}/stat"))?;
            if stat.is_some_and(|stat| !matches!(stat.state, b'T' | b't' | b'Z' | b'X')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The line itself, with the state of another thread where the first has ended.
    fn of_a_living_thread(&self, line: Stat) -> io::Result<Stat> {
        if line.state != b'Z' {
            return Ok(line);
        }
        let living = read_stat(&format!("/proc/{}/task/{}/stat", self.pid(), living_thread(self.pid())))?;
        Ok(living.map_or(line, |living| Stat { state: living.state, ..line }))
    }

    /// The link `/proc/PID/NAME` for opening what is behind it.
    pub(super) fn proc_path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid())
    }
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
pub(super) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    read_stat(&format!("/proc/{pid}/stat"))
}

fn read_stat(path: &str) -> io::Result<Option<Stat>> {
    let mut text = [0_u8; 1024];
    let read = fs::File::open(path).and_then(|mut file| file.read(&mut text));
    match read {
        Ok(length) => parse_stat(&text[..length])
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc stat line")),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A thread of the process that has not ended; the process's own number when none is found.
pub(super) fn living_thread(pid: u32) -> u32 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| thread.file_name().to_str()?.parse().ok())
        .find(|thread| {
            let stat = read_stat(&format!("/proc/{pid}/task/{thread}/stat"));
            stat.is_ok_and(|stat| stat.is_some_and(|stat| !matches!(stat.state, b'Z' | b'X')))
        })
        .unwrap_or(pid)
}

/// The process that a thread belongs to; `None` when it has ended.
pub(super) fn of_thread(thread: u32) -> io::Result<Option<u32>> {
    let status = status(thread)?;
    let line = status.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("Tgid:")));
    Ok(line.and_then(|pid| pid.trim().parse().ok()))
}

/// `/proc/PID/status` of a process or thread; `None` when it has ended. Its first line is the name that the process gave itself, which may be
/// any bytes: were they read as text, one that is none would keep it from being contained.
pub(super) fn status(pid: u32) -> io::Result<Option<String>> {
    match fs::read(format!("/proc/{pid}/status")) {
        Ok(status) => Ok(Some(String::from_utf8_lossy(&status).into_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Children of all threads of `pid`, as the kernel lists them; empty when it has ended.
///
/// Exact only while the process stands still, which is how it is used.
pub(super) fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    let threads = match threads_of(pid) {
        Ok(threads) => threads,
        Err(error) if is_gone(&error) => return Ok(found),
        Err(error) => return Err(error),
    };
    for thread in threads {
        let task = format!("/proc/{pid}/task/{thread}");
        match fs::File::open(format!("{task}/children")).and_then(cgroup::whole) {
            Ok(list) => found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::exists(&task).unwrap_or(false) => {
                return children_by_scan(pid);
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The threads of a process. Most have one, and the link count of the folder says so (`proc_task_getattr` of fs/proc/base.c adds the
/// number of threads to that of an empty folder) without the folder being read.
fn threads_of(pid: u32) -> io::Result<Vec<u32>> {
    const EMPTY_FOLDER_LINKS: u64 = 2;
    let folder = format!("/proc/{pid}/task");
    let links = u64::from(rustix::fs::statx(CWD, &folder, AtFlags::empty(), StatxFlags::NLINK)?.stx_nlink);
    if links == EMPTY_FOLDER_LINKS + 1 {
        return Ok(vec![pid]);
    }
    let threads = fs::read_dir(&folder)?;
    threads
        .map(|thread| Ok(thread?.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(pid)))
        .collect()
}

/// Every pid of the machine.
pub(super) fn all_pids() -> io::Result<Vec<u32>> {
    Ok(fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .collect())
}

/// A process in a person's words.
pub(super) fn name(key: ProcessKey) -> String {
    model::Target::Process { process: key }.to_string()
}

/// The error says that the process is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// For kernels without CONFIG_PROC_CHILDREN.
fn children_by_scan(parent: u32) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for pid in all_pids()? {
        if stat(pid)?.is_some_and(|stat| stat.parent == parent) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn has_ended(fd: &OwnedFd) -> bool {
    matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
}

/// Fields of proc_pid_stat(5), counted after the last `)`: the name in parentheses may itself hold anything.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let after = line.iter().rposition(|byte| *byte == b')')? + 2;
    let mut fields = std::str::from_utf8(line.get(after..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let flags = fields.nth(4)?.parse().ok()?;
    let start_ticks = fields.nth(12)?.parse().ok()?;
    Some(Stat { state, parent, flags, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_task_name_does_not_shift_the_fields() {
        let line = b"12 (a) R 1 (\n)) S 7 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 10";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start_ticks), (b'S', 7, 4242));
        assert!(!stat.is_kernel_thread());
    }

    #[test]
    fn i9_a_pid_with_another_start_time_is_refused() {
        let me = Held::open_pid(std::process::id()).unwrap().unwrap();
        assert!(Held::open(me.key).is_ok());
        let other = ProcessKey { start: BootNs(me.key.start.0 + NS_PER_TICK), ..me.key };
        assert!(matches!(Held::open(other), Err(ActionFailure::TargetChanged { .. })));
    }

    #[test]
    fn kernel_threads_are_recognised() {
        let kthreadd = stat(2).unwrap();
        match kthreadd {
            Some(stat) => assert!(stat.is_kernel_thread()),
            None => println!("SKIPPED: no pid 2 in this pid namespace"),
        }
    }
}
