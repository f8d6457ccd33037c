//! The cgroup v2 hierarchy: paths below its mount, opened without ever following a link, and the freezer's files.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::HashSet,
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use model::{ActionFailure, CgroupId, Frozen};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, ResolveFlags},
};

use super::{
    process::{self, Stat},
    sys,
};
use crate::workload::{below_mount, handle::Mount, name};

/// Written files that wait to be closed; further ones are closed at once.
const MAX_KEPT_OPEN: usize = 4;

/// Longest file of cgroupfs that is read: a `cgroup.procs` of 65,536 pids.
const MAX_FILE: u64 = 1 << 20;

/// Stands for the path of a cgroup that no path reaches, after that of the nearest around it that one does, where that is known. It is nobody's:
/// the kernel never says it of a cgroup that the agent can see.
const UNNAMED: &str = "/../nested too deep to be named";

/// The kernel says no longer path than this (PATH_MAX, with its end); one of this length may be cut short, which it does not say
/// everywhere, and what is cut short may be another's.
pub(super) const LONGEST: usize = 4094;

/// Whether this stands for the path of a cgroup that no path reaches.
pub(super) fn is_unnamed(path: &str) -> bool {
    path.ends_with(UNNAMED)
}

/// The path of the nearest cgroup around one that no path reaches; `None` of one that has a path, or where it is not known.
pub(super) fn nearest(path: &str) -> Option<&str> {
    path.strip_suffix(UNNAMED).filter(|path| !path.is_empty())
}

/// The mount of cgroup v2.
#[derive(Debug, Clone)]
pub(super) struct Hierarchy {
    root: Arc<OwnedFd>,
    mount: Arc<PathBuf>,
    /// Of its file system.
    device: u64,
}

/// Whether a cgroup was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Now,
    Before,
}

/// One cgroup, held open: its name may go, the directory stays the one that was opened.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Path below the mount, `/` for the root.
    pub(super) path: String,
    dir: OwnedFd,
    /// Files that were written to, closed with the cgroup: closing one takes the kernel longer than the write, and whoever is on the way to
    /// a freeze need not wait for it.
    written: RefCell<Vec<fs::File>>,
}

impl Hierarchy {
    /// Opens the hierarchy at `mount`, or at the first cgroup2 mount of /proc/self/mounts.
    pub(super) fn open(mount: Option<&Path>) -> io::Result<Self> {
        let mount = match mount {
            Some(mount) => mount.to_owned(),
            None => find_mount("cgroup2")?.ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "no cgroup2 mount in /proc/self/mounts")
            })?,
        };
        let root =
            rustix::fs::open(&mount, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let device = rustix::fs::fstat(&root)?.st_dev;
        Ok(Self { root: Arc::new(root), mount: Arc::new(mount), device })
    }

    /// Opens the cgroup at `path` below the mount.
    pub(super) fn cgroup(&self, path: &str) -> io::Result<Cgroup> {
        if is_unnamed(path) {
            return Err(rustix::io::Errno::NAMETOOLONG.into());
        }
        let below = path.trim_matches('/');
        let bytes = name::bytes(if below.is_empty() { "." } else { below });
        // What is protected is told by the text: another text for the same cgroup would not be known for it.
        let has_other_text = matches!(&bytes, Cow::Owned(bytes) if name::text(bytes) != below);
        if has_other_text || !below.is_empty() && below.split('/').any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let open = |within: ResolveFlags| {
            let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | within;
            rustix::fs::openat2(&self.root, OsStr::from_bytes(&bytes), how, Mode::empty(), within)
        };
        let dir = match open(ResolveFlags::NO_XDEV) {
            // Something is mounted over it or around it. What that does not have is not seen.
            Err(rustix::io::Errno::XDEV) => {
                let dir = open(ResolveFlags::empty())?;
                self.stands_at(&dir, below)?;
                dir
            }
            other => other?,
        };
        Ok(Cgroup { path: format!("/{below}"), dir, written: RefCell::default() })
    }

    /// What was reached through another mount may be another cgroup, or none: nothing of ours is made there. Networks and runtimes mount
    /// parts of the tree over themselves, which are what they were.
    fn stands_at(&self, dir: &OwnedFd, below: &str) -> io::Result<()> {
        let found = rustix::fs::fstat(dir)?;
        let is_a_cgroup = found.st_dev == self.device;
        if is_a_cgroup
            && self.told(&Mount::open(&self.mount)?, CgroupId(found.st_ino))?.trim_matches('/') == below
        {
            return Ok(());
        }
        Err(io::Error::other("what stands there is not this cgroup: something is mounted over it"))
    }

    /// Opens a cgroup by its id, whether or not a path reaches it.
    pub(super) fn by_id(&self, id: CgroupId) -> io::Result<Cgroup> {
        let mount = Mount::open(&self.mount)?;
        let gone = |error: io::Error| match error.raw_os_error() {
            Some(number) if number == rustix::io::Errno::STALE.raw_os_error() => {
                io::ErrorKind::NotFound.into()
            }
            _ => error,
        };
        let dir = mount.open_id(id, OFlags::RDONLY.bits().cast_signed()).map_err(gone)?;
        let path = self.told(&mount, id).map_err(gone)?;
        Ok(Cgroup { path, dir, written: RefCell::default() })
    }

    /// Opens the cgroup at a path, or by its id where the path only stands for one that no path reaches, or does not lead to it as the agent
    /// sees it; where there is none of that id any more, what stands at the path: what was done to it must be found again. The kernel gives an id once.
    pub(super) fn find(&self, path: &str, id: Option<CgroupId>) -> io::Result<Cgroup> {
        match id {
            Some(id) if is_unnamed(path) => self.by_id(id),
            Some(id) => match self.cgroup(path) {
                Ok(cgroup) if cgroup.id()? == id => Ok(cgroup),
                other => self.by_id(id).or(other),
            },
            None => self.cgroup(path),
        }
    }

    /// The path of a cgroup, or what stands for it.
    fn told(&self, mount: &Mount, id: CgroupId) -> io::Result<String> {
        let found = mount.path_of(id)?;
        let path = below_mount(&found.path, &self.mount).ok_or(io::ErrorKind::NotFound)?;
        Ok(if found.is_its_own { path } else { format!("{}{UNNAMED}", path.trim_end_matches('/')) })
    }

    /// What stands for the path of the cgroup that a thread is in, which no path reaches. An older kernel does not tell which it is.
    fn around(&self, thread: u32) -> Option<String> {
        let id = sys::cgroup_of_thread(thread).ok()?;
        self.told(&Mount::open(&self.mount).ok()?, id).ok()
    }

    /// cgroup path of a process; `None` when it has ended; where no path reaches it what [`is_unnamed`].
    pub(super) fn path_of(&self, pid: u32) -> io::Result<Option<String>> {
        match process::stat(pid)? {
            Some(stat) => self.path_at(pid, &stat),
            None => Ok(None),
        }
    }

    /// The same for who has just looked at the process.
    pub(super) fn path_at(&self, pid: u32, stat: &Stat) -> io::Result<Option<String>> {
        // a first thread that has ended stays behind where it was: the living ones count
        let thread = if stat.state == b'Z' { process::living_thread(pid) } else { pid };
        let path = match stat.state {
            b'Z' => path_in(&format!("/proc/{pid}/task/{thread}/cgroup"))?,
            _ => path_in(&format!("/proc/{pid}/cgroup"))?,
        };
        Ok(match path {
            Some(path) if path == UNNAMED => Some(self.around(thread).unwrap_or(path)),
            path => path.map(|path| self.of_living(path)),
        })
    }

    /// The kernel marks the path of a removed cgroup, which only who is ending is in; and anybody may call a living one so.
    fn of_living(&self, path: String) -> String {
        match path.strip_suffix(" (deleted)") {
            Some(before) if self.cgroup(&path).is_err_and(|error| process::is_gone(&error)) => {
                before.to_owned()
            }
            _ => path,
        }
    }
}

/// The cgroup v2 line of a file like `/proc/PID/cgroup`.
fn path_in(file: &str) -> io::Result<Option<String>> {
    let text = match fs::File::open(file).and_then(whole_bytes) {
        Ok(text) => text,
        Err(error) if process::is_gone(&error) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()) => {
            return Ok(Some(UNNAMED.to_owned()));
        }
        Err(error) => return Err(error),
    };
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
    match path {
        Some(path) if path.starts_with(b"/..") => Err(io::Error::other(
            "the agent is in a cgroup namespace of its own and cannot name cgroups outside: run it in the host's",
        )),
        Some(path) if path.len() > LONGEST => Ok(Some(UNNAMED.to_owned())),
        Some(path) => Ok(Some(name::text(path))),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 membership")),
    }
}

impl Cgroup {
    pub(super) fn id(&self) -> io::Result<CgroupId> {
        Ok(CgroupId(rustix::fs::fstat(&self.dir)?.st_ino))
    }

    /// The user that its directory belongs to, who may move processes out of it.
    pub(super) fn owner(&self) -> io::Result<u32> {
        Ok(rustix::fs::fstat(&self.dir)?.st_uid)
    }

    pub(super) fn is_root(&self) -> bool {
        self.path == "/"
    }

    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Path of a child of this name.
    pub(super) fn child_path(&self, name: &str) -> String {
        if self.is_root() { format!("/{name}") } else { format!("{}/{name}", self.path) }
    }

    /// Makes the child and opens it; one that is there already is opened.
    pub(super) fn make_child(&self, name: &str) -> io::Result<(Self, Made)> {
        let made = match rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Made::Now,
            Err(rustix::io::Errno::EXIST) => Made::Before,
            Err(error) => return Err(error.into()),
        };
        Ok((self.child(name)?, made))
    }

    pub(super) fn child(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let bytes = name::bytes(name);
        let dir = rustix::fs::openat(&self.dir, OsStr::from_bytes(&bytes), flags, Mode::empty())?;
        Ok(Self { path: self.child_path(name), dir, written: RefCell::default() })
    }

    /// Removes the child; `Ok` when it is gone already.
    pub(super) fn remove_child(&self, name: &str) -> io::Result<()> {
        let bytes = name::bytes(name);
        match rustix::fs::unlinkat(&self.dir, OsStr::from_bytes(&bytes), rustix::fs::AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn children(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == rustix::fs::FileType::Directory && name != b"." && name != b".." {
                names.push(name::text(name));
            }
        }
        Ok(names)
    }

    /// Pids in this cgroup itself, its children's not included.
    pub(super) fn members(&self) -> io::Result<Vec<u32>> {
        let mut pids = self.numbers("cgroup.procs")?;
        // The kernel lists a process whose first thread has ended where that thread was, while the others may be here.
        let threads = self.numbers("cgroup.threads")?;
        if threads.len() != pids.len() {
            let mut known: HashSet<u32> = pids.iter().copied().collect();
            for thread in threads.into_iter().filter(|thread| !pids.contains(thread)).collect::<Vec<_>>() {
                pids.extend(process::of_thread(thread)?.filter(|pid| known.insert(*pid)));
            }
        }
        Ok(pids)
    }

    fn numbers(&self, name: &str) -> io::Result<Vec<u32>> {
        Ok(self.read(name)?.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect())
    }

    /// Pids in this cgroup and all below it. Cgroups may be nested deeper than the agent may have files open, so it walks with one.
    pub(super) fn members_below(&self) -> io::Result<Vec<u32>> {
        let mut pids = self.processes()?;
        let mut ahead = vec![self.children()?];
        let mut at = self.go(".")?;
        while let Some(names) = ahead.last_mut() {
            let Some(name) = names.pop() else {
                ahead.pop();
                if !ahead.is_empty() {
                    at = at.go("..")?;
                }
                continue;
            };
            let looked = at.go(&name).and_then(|child| Ok((child.processes()?, child.children()?, child)));
            match looked {
                Ok((found, names, child)) => {
                    pids.extend(found);
                    ahead.push(names);
                    at = child;
                }
                Err(error) if was_removed(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// Removes all cgroups below it, from the deepest up, and says how many could not be: somebody is in them, or has just made them.
    pub(super) fn remove_below(&self) -> io::Result<usize> {
        let mut left = 0;
        let mut ahead = vec![(String::new(), self.children()?)];
        let mut at = self.go(".")?;
        while let Some((_, names)) = ahead.last_mut() {
            if let Some(name) = names.pop() {
                match at.go(&name).and_then(|child| Ok((child.children()?, child))) {
                    Ok((names, child)) => {
                        ahead.push((name, names));
                        at = child;
                    }
                    Err(error) if was_removed(&error) => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            let Some((name, _)) = ahead.pop() else { break };
            if ahead.is_empty() {
                break;
            }
            at = match at.go("..") {
                Ok(around) => around,
                // somebody else removes them, too
                Err(error) if was_removed(&error) => return Ok(left + 1),
                Err(error) => return Err(error),
            };
            match at.remove_child(&name) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    left += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    /// Lets no further cgroup be made in it.
    pub(super) fn close(&self) -> io::Result<()> {
        self.write("cgroup.max.descendants", b"0")
    }

    /// Its members; none where it is a threaded cgroup: those of its processes are listed at its domain.
    fn processes(&self) -> io::Result<Vec<u32>> {
        match self.members() {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// The cgroup of this name within, or the one around, whatever its path.
    fn go(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let bytes = name::bytes(name);
        let dir = rustix::fs::openat(&self.dir, OsStr::from_bytes(&bytes), flags, Mode::empty())?;
        Ok(Self { path: String::new(), dir, written: RefCell::default() })
    }

    /// Moves a process with all its threads in here; `Ok(false)` when it has ended.
    pub(super) fn take(&self, pid: u32) -> io::Result<bool> {
        match self.write("cgroup.procs", pid.to_string().as_bytes()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `domain`, `domain threaded`, `domain invalid` or `threaded`; the root is a domain.
    pub(super) fn kind(&self) -> io::Result<String> {
        if self.is_root() {
            return Ok("domain".to_owned());
        }
        Ok(self.read("cgroup.type")?.trim().to_owned())
    }

    /// What `cgroup.freeze` asks for.
    pub(super) fn freeze_wish(&self) -> io::Result<Frozen> {
        Ok(if self.read("cgroup.freeze")?.trim() == "1" { Frozen::Yes } else { Frozen::No })
    }

    pub(super) fn set_freeze_wish(&self, wish: Frozen) -> io::Result<()> {
        self.write("cgroup.freeze", if wish == Frozen::Yes { b"1" } else { b"0" })
    }

    /// Whether everyone in it and below it stands still now.
    pub(super) fn is_frozen(&self) -> io::Result<bool> {
        // the root has no such file, and is never frozen
        Ok(!self.is_root() && self.read("cgroup.events")?.lines().any(|line| line == "frozen 1"))
    }

    /// Kills every member and everything below, atomically against forks (Linux 5.14).
    pub(super) fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", b"1")
    }

    /// Waits until `cgroup.events` has `line`, at most `limit`. `Ok(false)` when it has not by then.
    ///
    /// The kernel notifies of changes of one file at most every 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV), which would be most of the
    /// time to frozen: so it looks by itself for the first 2 ms and only then relies on poll(2).
    pub(super) fn await_event(&self, line: &str, limit: Duration) -> io::Result<bool> {
        const LOOK: Duration = Duration::from_millis(2);
        let events = self.open_file("cgroup.events", OFlags::RDONLY)?;
        let begun = Instant::now();
        let mut text = [0_u8; 256];
        loop {
            let length = rustix::io::pread(&events, &mut text, 0)?;
            if std::str::from_utf8(&text[..length]).is_ok_and(|text| text.lines().any(|found| found == line))
            {
                return Ok(true);
            }
            let passed = begun.elapsed();
            if passed >= limit {
                return Ok(false);
            }
            if passed < LOOK {
                std::thread::yield_now();
                continue;
            }
            let wait = (limit - passed).min(Duration::from_millis(20));
            let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&wait))?;
        }
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        whole(fs::File::from(self.open_file(name, OFlags::RDONLY)?))
    }

    fn write(&self, name: &str, value: &[u8]) -> io::Result<()> {
        let mut file = fs::File::from(self.open_file(name, OFlags::WRONLY)?);
        let result = file.write_all(value);
        let mut written = self.written.borrow_mut();
        if written.len() < MAX_KEPT_OPEN {
            written.push(file);
        }
        result
    }
}

/// The text of a file of proc or cgroupfs. What fits into the first read with room to spare is whole: these files give as many of
/// their lines as fit (fs/seq_file.c), and a system call less for each counts on the way to a freeze.
pub(super) fn whole(file: fs::File) -> io::Result<String> {
    String::from_utf8(whole_bytes(file)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn whole_bytes(mut file: fs::File) -> io::Result<Vec<u8>> {
    const FIRST: usize = 2048;
    let mut bytes = vec![0; FIRST];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    if length > FIRST / 2 {
        let more = file.take(MAX_FILE).read_to_end(&mut bytes)?;
        if more as u64 == MAX_FILE {
            // of a number that is cut in two the first half would be somebody else's
            let whole = bytes.iter().rposition(u8::is_ascii_whitespace).unwrap_or(0);
            bytes.truncate(whole);
        }
    }
    Ok(bytes)
}

/// Where the first filesystem of this type is mounted.
pub(super) fn find_mount(kind: &str) -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, at, found) = (words.next()?, words.next()?, words.next()?);
        (found == kind).then(|| PathBuf::from(unescape(at)))
    }))
}

/// Failure of an operation on a cgroup; a cgroup that is gone is [`ActionFailure::TargetGone`].
pub(super) fn failure(operation: &str, path: &str, source: &io::Error) -> ActionFailure {
    if process::is_gone(source) || was_removed(source) {
        return ActionFailure::TargetGone { target: format!("cgroup {path}") };
    }
    ActionFailure::io(operation, format!("cgroup {path}"), source)
}

/// Whether the error says that a cgroup is gone: whoever writes to one that was removed while it was open is told ENODEV
/// (kernfs_get_active, fs/kernfs/dir.c).
pub(super) fn was_removed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Undoes the octal escapes of /proc/self/mounts.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                plain.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            _ => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape("/mnt/a\\040b\\134c"), "/mnt/a b\\c");
        assert_eq!(unescape("/plain\\x"), "/plain\\x");
    }
}
