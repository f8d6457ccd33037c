//! One reading of systemd's folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use model::StartedBy;
use rustix::{
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, readlinkat},
    io::Errno,
};

/// Where units of the system's manager stand, the one that wins first.
const FOLDERS: [&str; 13] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "run/systemd/transient",
    "run/systemd/generator.early",
    "etc/systemd/system",
    "etc/systemd/system.attached",
    BOOTED,
    "run/systemd/system.attached",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
    "run/systemd/generator.late",
];
/// systemd runs if it is there (sd_booted(3)).
pub(super) const BOOTED: &str = "run/systemd/system";

/// Longest name of a unit (UNIT_NAME_MAX in systemd's src/basic/unit-name.h).
const MAX_NAME: usize = 255;
/// Entries of all folders together that are looked at, timers with their parts, and bytes of one file and of all (I11). A host has some 500, 20
/// and 20 kB.
const MAX_ENTRIES: usize = 32_768;
pub(super) const MAX_TIMERS: usize = 2048;
pub(super) const MAX_FILE: u64 = 64 << 10;
const MAX_BYTES: u64 = 4 << 20;
/// File systems tell time by the kernel's tick, at most 10 ms.
const SETTLES: Duration = Duration::from_millis(50);
/// Tries of a path that is renamed meanwhile.
const TRIES: usize = 8;

/// What was read, and of which folders.
pub(super) struct Read {
    pub(super) at: Instant,
    folders: Vec<(PathBuf, Option<Stamp>)>,
    /// No folder was changed so lately that the clock of its file system may not have gone on since.
    settled: bool,
    pub(super) timed: Timed,
}

/// Which folder it is, and when it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, u64),
}

/// Units by name, and by how the name begins: each with its timer.
#[derive(Debug, Default)]
pub(super) struct Timed {
    named: BTreeMap<String, String>,
    /// Beginnings of names of services: instances of a template.
    alike: BTreeMap<String, String>,
    /// Units whose own timer could not be read.
    unread: BTreeSet<String>,
}

impl Timed {
    pub(super) fn starts(&self, unit: &str) -> StartedBy {
        let begin = unit.split_once('@').filter(|(_, rest)| *rest != ".service").map(|(begin, _)| begin);
        let alike = || begin.filter(|_| unit.ends_with(".service")).and_then(|begin| self.alike.get(begin));
        match self.named.get(unit).or_else(alike) {
            Some(timer) => StartedBy::Timer { timer: timer.clone() },
            None if self.unread.contains(unit) => StartedBy::Unknown,
            None => StartedBy::Other,
        }
    }

    fn add(&mut self, unit: &str, timer: &str) {
        if unit.len() <= MAX_NAME && !unit.is_empty() {
            self.named.entry(unit.to_owned()).or_insert_with(|| timer.to_owned());
        }
    }
}

impl Read {
    /// # Errors
    /// When a folder cannot be read, or there is more than is ever looked at.
    pub(super) fn all(root: &OwnedFd) -> io::Result<Self> {
        // Taken first: what changes meanwhile is seen as a change.
        let (at, now) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let mut reading = Reading::new(root);
        reading.all()?;
        let latest = now.saturating_sub(SETTLES);
        let latest = (i64::try_from(latest.as_secs()).unwrap_or(i64::MAX), u64::from(latest.subsec_nanos()));
        let settled =
            |(_, stamp): &(PathBuf, Option<Stamp>)| stamp.is_none_or(|stamp| stamp.changed < latest);
        Ok(Self {
            at,
            settled: reading.folders.iter().all(settled),
            timed: reading.timed(),
            folders: reading.folders,
        })
    }

    /// Whether nothing has changed since.
    pub(super) fn holds(&self, root: &OwnedFd) -> bool {
        self.settled
            && self.folders.iter().all(|(folder, then)| stamp(root, folder).is_ok_and(|now| now == *then))
    }
}

/// What a timer's file says.
enum Written {
    /// It is masked, or no file.
    Masked,
    Unreadable,
    /// The units that `Unit=` names.
    Units(Vec<String>),
}

struct Reading<'a> {
    root: &'a OwnedFd,
    entries: usize,
    bytes: u64,
    folders: Vec<(PathBuf, Option<Stamp>)>,
    /// Of each timer the file that wins, and what parts beside it add.
    timers: BTreeMap<String, Written>,
    parts: BTreeMap<String, Vec<String>>,
    /// A unit, and what is wanted with it.
    wanted: Vec<(String, String)>,
    /// Another name of a service, and its own.
    aliases: Vec<(String, String)>,
}

impl<'a> Reading<'a> {
    fn new(root: &'a OwnedFd) -> Self {
        Self {
            root,
            entries: MAX_ENTRIES,
            bytes: MAX_BYTES,
            folders: Vec::new(),
            timers: BTreeMap::new(),
            parts: BTreeMap::new(),
            wanted: Vec::new(),
            aliases: Vec::new(),
        }
    }

    fn all(&mut self) -> io::Result<()> {
        let booted = stamp(self.root, Path::new(BOOTED))?;
        self.folders.push((BOOTED.into(), booted));
        if booted.is_none() {
            return Ok(());
        }
        let mut seen = Vec::new();
        for folder in FOLDERS {
            let folder = Path::new(folder);
            let stamp = stamp(self.root, folder)?;
            self.folders.push((folder.to_owned(), stamp));
            // One folder may stand under two names.
            let Some(stamp) = stamp.filter(|stamp| !seen.contains(&(stamp.device, stamp.inode))) else {
                continue;
            };
            seen.push((stamp.device, stamp.inode));
            self.folder(folder)?;
        }
        Ok(())
    }

    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let Some(fd) = found(self.root, folder, OFlags::DIRECTORY)? else { return Ok(()) };
        for (name, kind) in self.names(&fd)? {
            let path = folder.join(&name);
            if let Some(timer) = name.strip_suffix(".d").filter(|name| name.ends_with(".timer")) {
                for (part, _) in self.inner(&path)? {
                    if part.ends_with(".conf")
                        && let Written::Units(units) = self.written(&path.join(part))?
                    {
                        self.parts.entry(timer.to_owned()).or_default().extend(units);
                    }
                }
            } else if let Some(unit) =
                [".wants", ".requires", ".upholds"].iter().find_map(|end| name.strip_suffix(end))
            {
                let wanted = self.inner(&path)?;
                self.wanted.extend(wanted.into_iter().map(|(name, _)| (unit.to_owned(), name)));
            } else if name.ends_with(".timer") {
                if name.len() <= MAX_NAME && !self.timers.contains_key(&name) {
                    let written = self.written(&path)?;
                    self.timers.insert(name, written);
                }
            } else if name.ends_with(".service") && kind == FileType::Symlink {
                self.alias(&fd, name);
            }
            if self.timers.len() + self.parts.len() > MAX_TIMERS {
                return Err(too_much());
            }
        }
        Ok(())
    }

    /// A link to a file of another name is another name of its unit.
    fn alias(&mut self, folder: &OwnedFd, name: String) {
        let Ok(target) = readlinkat(folder, name.as_str(), Vec::new()) else { return };
        let target = target.to_string_lossy();
        let own = target.rsplit('/').next().unwrap_or_default();
        if own != name && own.ends_with(".service") {
            self.aliases.push((name, own.to_owned()));
        }
    }

    /// Names in a folder that stands in one of the folders; none where it is none.
    fn inner(&mut self, folder: &Path) -> io::Result<Vec<(String, FileType)>> {
        self.folders.push((folder.to_owned(), stamp(self.root, folder)?));
        let Some(fd) = found(self.root, folder, OFlags::DIRECTORY)? else { return Ok(Vec::new()) };
        self.names(&fd)
    }

    fn names(&mut self, folder: &OwnedFd) -> io::Result<Vec<(String, FileType)>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            self.entries = self.entries.checked_sub(1).ok_or_else(too_much)?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push((name.to_owned(), entry.file_type()));
            }
        }
        Ok(names)
    }

    fn written(&mut self, path: &Path) -> io::Result<Written> {
        // Nobody is waited for, should it be a pipe.
        let fd = match found(self.root, path, OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(Some(fd)) => fd,
            Ok(None) => return Ok(Written::Masked),
            Err(_) => return Ok(Written::Unreadable),
        };
        let Ok(facts) = fstat(&fd) else { return Ok(Written::Unreadable) };
        if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile || facts.st_size == 0 {
            return Ok(Written::Masked);
        }
        let mut bytes = Vec::new();
        if File::from(fd).take(MAX_FILE + 1).read_to_end(&mut bytes).is_err() || bytes.len() as u64 > MAX_FILE
        {
            return Ok(Written::Unreadable);
        }
        self.bytes = self.bytes.checked_sub(bytes.len() as u64).ok_or_else(too_much)?;
        Ok(Written::Units(units(&String::from_utf8_lossy(&bytes))))
    }

    /// What all of it means.
    fn timed(&self) -> Timed {
        let mut timed = Timed::default();
        let instances = self.wanted.iter().map(|(_, name)| name.as_str());
        let instances = instances.filter(|name| name.ends_with(".timer") && name.contains('@'));
        let names: BTreeSet<&str> = self.timers.keys().map(String::as_str).chain(instances).collect();
        for name in names {
            let Some(stem) = name.strip_suffix(".timer") else { continue };
            let template =
                stem.split_once('@').map(|(prefix, instance)| (format!("{prefix}@.timer"), prefix, instance));
            let own = self.timers.get(name);
            let (written, of_template) = match (own, &template) {
                (Some(own), _) => (own, None),
                (None, Some((template, _, _))) => match self.timers.get(template) {
                    Some(written) => (written, Some(template)),
                    None => continue,
                },
                (None, None) => continue,
            };
            let service = format!("{stem}.service");
            let units = match written {
                Written::Masked => continue,
                Written::Unreadable => {
                    timed.unread.insert(service);
                    continue;
                }
                Written::Units(units) => units,
            };
            let parts = [Some(name), of_template.map(String::as_str)].into_iter().flatten();
            let parts = parts.filter_map(|name| self.parts.get(name)).flatten();
            let mut named = units.iter().chain(parts).peekable();
            if let (None, Some((_, prefix, ""))) = (named.peek(), &template) {
                timed.alike.insert((*prefix).to_owned(), name.to_owned());
            } else if named.peek().is_none() {
                timed.add(&service, name);
            }
            let (prefix, instance) =
                template.as_ref().map_or((stem, ""), |(_, prefix, instance)| (*prefix, *instance));
            for unit in named {
                // Which instances of a template there are is told by those that are enabled.
                if let Some(unit) = specified(unit, stem, prefix, instance) {
                    timed.add(&unit, name);
                }
            }
        }
        self.spread(&mut timed);
        timed
    }

    /// What a target wants that a timer starts is started with it, and a unit is known by all its names.
    fn spread(&self, timed: &mut Timed) {
        let of_targets =
            self.wanted.iter().filter(|(unit, name)| unit.ends_with(".target") && name.ends_with(".service"));
        for (unit, name) in of_targets.chain(&self.aliases) {
            if let Some(timer) = timed.named.get(unit).cloned() {
                timed.add(name, &timer);
            }
        }
    }
}

/// What `Unit=` says in `[Timer]`.
fn units(text: &str) -> Vec<String> {
    let (mut ours, mut units) = (false, Vec::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            ours = line == "[Timer]";
        } else if let Some((key, unit)) = line.split_once('=')
            && ours
            && key.trim() == "Unit"
            && !unit.trim().is_empty()
            && unit.len() <= MAX_NAME
        {
            units.push(unit.trim().to_owned());
        }
    }
    units
}

/// A name with its specifiers filled in (systemd.unit(5)); none where that needs what is not known here.
fn specified(unit: &str, stem: &str, prefix: &str, instance: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = unit.chars();
    while let Some(one) = rest.next() {
        if one != '%' {
            name.push(one);
            continue;
        }
        match rest.next()? {
            'p' | 'P' => name.push_str(prefix),
            'i' | 'I' if !instance.is_empty() => name.push_str(instance),
            'j' | 'J' => name.push_str(prefix.rsplit('-').next().unwrap_or(prefix)),
            'N' => name.push_str(stem),
            '%' => name.push('%'),
            _ => return None,
        }
    }
    Some(name)
}

fn stamp(root: &OwnedFd, folder: &Path) -> io::Result<Option<Stamp>> {
    let Some(fd) = found(root, folder, OFlags::PATH)? else { return Ok(None) };
    let facts = fstat(&fd)?;
    let changed = (facts.st_mtime, facts.st_mtime_nsec);
    Ok(Some(Stamp { device: facts.st_dev, inode: facts.st_ino, changed }))
}

/// What stands at `path` below `root`, links followed as the host does.
fn found(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | flags;
    for _ in 0..TRIES {
        return match openat2(root, OsStr::new(path), flags, Mode::empty(), within) {
            Ok(fd) => Ok(Some(fd)),
            // Something on the way was renamed (openat2(2)).
            Err(Errno::AGAIN) => continue,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
    Err(Errno::AGAIN.into())
}

fn too_much() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, "there is more in systemd's folders than is looked at")
}
