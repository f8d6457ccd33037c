//! Which units of this host timers of systemd start: what such a unit does is planned work, as what cron starts is.
//!
//! Every timer that stands in a folder of the system's manager (systemd.unit(5)) counts, enabled or not: one may be started by hand, and the
//! unit of one that never runs is asked about once too often. Users' own managers are not looked at, since anybody may give himself a timer.
//! Instances for which `Unit=` has a specifier are known where they are enabled.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use model::StartedBy;
use rustix::{
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2},
    io::Errno,
};

/// The root of the host's init; a node's agent has another root.
pub(super) const HOST: &str = "/proc/1/root";

/// Where units of the system's manager stand.
const FOLDERS: [&str; 10] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "run/systemd/transient",
    "etc/systemd/system",
    BOOTED,
    "run/systemd/generator",
    "run/systemd/generator.late",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// systemd runs if it is there (sd_booted(3)).
const BOOTED: &str = "run/systemd/system";

/// Longest name of a unit (UNIT_NAME_MAX in systemd's src/basic/unit-name.h).
const MAX_NAME: usize = 255;
/// Entries of all folders together that are looked at, timers, and bytes of one file and of all (I11). A host has some 500, 20 and 20 kB.
const MAX_ENTRIES: usize = 32_768;
const MAX_TIMERS: usize = 2048;
const MAX_FILE: u64 = 64 << 10;
const MAX_BYTES: u64 = 4 << 20;
/// After so long it is read anew although no folder has changed: a file may have been written where it stands.
const AGAIN: Duration = Duration::from_secs(60);
/// File systems tell time by the kernel's tick, at most 10 ms.
const SETTLES: Duration = Duration::from_millis(50);

/// Reads when it is asked, and again when a folder has changed.
#[derive(Debug)]
pub(super) struct Timers {
    root: PathBuf,
    read: Option<Read>,
}

#[derive(Debug)]
struct Read {
    at: Instant,
    /// The folders, and when each was changed: nothing for one that is not there.
    folders: Vec<(PathBuf, Option<Changed>)>,
    /// No folder was changed so lately that the clock of its file system may not have gone on since.
    settled: bool,
    /// What could not be read is no answer.
    timed: Option<Timed>,
}

/// Seconds and nanoseconds.
type Changed = (i64, u64);

/// Units by name, and by how the name begins and ends: each with its timer.
#[derive(Debug, Default)]
struct Timed {
    named: BTreeMap<String, String>,
    alike: Vec<(String, String, String)>,
}

impl Timers {
    pub(super) fn of(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), read: None }
    }

    /// What starts the system's unit of this name.
    pub(super) fn starts(&mut self, unit: &str) -> StartedBy {
        let root = match open(&self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(root) => root,
            Err(_) => return StartedBy::Unknown,
        };
        let fresh = |read: &Read| {
            read.settled
                && read.at.elapsed() < AGAIN
                && read.folders.iter().all(|(folder, then)| changed(&root, folder) == *then)
        };
        let read = match self.read.take().filter(fresh) {
            Some(read) => read,
            None => Reading::of(&root).read(),
        };
        let told = match &read.timed {
            Some(timed) => timed.timer_of(unit).map_or(StartedBy::Other, |timer| StartedBy::Timer { timer }),
            None => StartedBy::Unknown,
        };
        self.read = Some(read);
        told
    }
}

impl Timed {
    fn timer_of(&self, unit: &str) -> Option<String> {
        let alike = || {
            let is = |(begin, end, _): &&(String, String, String)| {
                unit.strip_prefix(begin.as_str())
                    .is_some_and(|rest| rest.len() > end.len() && rest.ends_with(end))
            };
            self.alike.iter().find(is).map(|(_, _, timer)| timer)
        };
        self.named.get(unit).or_else(alike).cloned()
    }

    fn add(&mut self, unit: &str, timer: &str) {
        if unit.len() <= MAX_NAME && !unit.is_empty() {
            self.named.entry(unit.to_owned()).or_insert_with(|| timer.to_owned());
        }
    }
}

/// One reading of all folders.
struct Reading<'a> {
    root: &'a OwnedFd,
    entries: usize,
    bytes: u64,
    folders: Vec<(PathBuf, Option<Changed>)>,
    timed: Timed,
    /// Enabled instances of templates, and what `Unit=` of each template says.
    instances: Vec<(String, String)>,
    templates: Vec<(String, String)>,
}

impl<'a> Reading<'a> {
    fn of(root: &'a OwnedFd) -> Self {
        Self {
            root,
            entries: MAX_ENTRIES,
            bytes: MAX_BYTES,
            folders: Vec::new(),
            timed: Timed::default(),
            instances: Vec::new(),
            templates: Vec::new(),
        }
    }

    fn read(mut self) -> Read {
        // Taken first: what changes meanwhile is seen as a change.
        let (at, now) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let timed = self.all().ok().map(|()| std::mem::take(&mut self.timed));
        let latest = now.saturating_sub(SETTLES);
        let latest = (i64::try_from(latest.as_secs()).unwrap_or(i64::MAX), u64::from(latest.subsec_nanos()));
        let settled = self.folders.iter().all(|(_, changed)| changed.is_none_or(|changed| changed < latest));
        Read { at, folders: self.folders, settled, timed }
    }

    fn all(&mut self) -> io::Result<()> {
        self.folders.push((BOOTED.into(), changed(self.root, Path::new(BOOTED))));
        if self.folders.iter().all(|(_, changed)| changed.is_none()) {
            return Ok(());
        }
        for folder in FOLDERS {
            let folder = Path::new(folder);
            for name in self.names(folder)? {
                if let Some(timer) = name.strip_suffix(".d").filter(|name| name.ends_with(".timer")) {
                    for part in self.names(&folder.join(&name))?.iter().filter(|part| part.ends_with(".conf"))
                    {
                        self.timer(timer, &folder.join(&name).join(part))?;
                    }
                } else if name.ends_with(".wants") || name.ends_with(".requires") {
                    let wanted = self.names(&folder.join(&name))?;
                    self.instances.extend(wanted.iter().filter_map(|name| {
                        let (template, instance) = name.strip_suffix(".timer")?.split_once('@')?;
                        Some((template.to_owned(), instance.to_owned()))
                    }));
                } else if name.ends_with(".timer") {
                    self.timer(&name, &folder.join(&name))?;
                }
            }
        }
        for (template, unit) in &self.templates {
            for (_, instance) in self.instances.iter().filter(|(of, _)| of == template) {
                let unit = ["%i", "%I", "%j", "%J"]
                    .iter()
                    .fold(unit.replace("%p", template), |unit, specifier| unit.replace(specifier, instance));
                self.timed.add(&unit.replace("%P", template), &format!("{template}@{instance}.timer"));
            }
        }
        Ok(())
    }

    /// What a timer's file, or a part of it, says that it starts.
    fn timer(&mut self, timer: &str, path: &Path) -> io::Result<()> {
        let Some(stem) = timer.strip_suffix(".timer").filter(|_| timer.len() <= MAX_NAME) else {
            return Ok(());
        };
        if self.timed.named.len() + self.timed.alike.len() + self.templates.len() >= MAX_TIMERS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (template, instance) =
            stem.split_once('@').map_or((None, ""), |(of, instance)| (Some(of), instance));
        if let Some(template) = template.filter(|_| instance.is_empty()) {
            self.timed.alike.push((format!("{template}@"), ".service".into(), timer.to_owned()));
        } else {
            self.timed.add(&format!("{stem}.service"), timer);
        }
        let Some(text) = self.text(path)? else { return Ok(()) };
        let mut ours = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                ours = line == "[Timer]";
            }
            let Some((key, unit)) = line.split_once('=').filter(|_| ours) else { continue };
            let unit = unit.trim();
            if key.trim() != "Unit" || unit.len() > MAX_NAME {
                continue;
            }
            match template.filter(|_| unit.contains('%')) {
                Some(template) if instance.is_empty() => {
                    self.templates.push((template.to_owned(), unit.to_owned()))
                }
                Some(template) => {
                    self.instances.push((template.to_owned(), instance.to_owned()));
                    self.templates.push((template.to_owned(), unit.to_owned()));
                }
                None => {
                    self.timed.add(&unit.replace("%p", stem).replace("%P", stem).replace("%N", stem), timer)
                }
            }
        }
        Ok(())
    }

    /// Names in a folder; none where there is no such folder.
    fn names(&mut self, folder: &Path) -> io::Result<Vec<String>> {
        self.folders.push((folder.to_owned(), changed(self.root, folder)));
        let Some(fd) = found(self.root, folder, OFlags::DIRECTORY)? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in Dir::read_from(fd)? {
            self.entries = self.entries.checked_sub(1).ok_or(io::ErrorKind::QuotaExceeded)?;
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// What stands in a file; nothing where it is none (masked, a folder, a pipe).
    fn text(&mut self, path: &Path) -> io::Result<Option<String>> {
        // Nobody is waited for, should it be a pipe.
        let Some(fd) = found(self.root, path, OFlags::NONBLOCK | OFlags::NOCTTY)? else { return Ok(None) };
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::from(fd).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        let read = bytes.len() as u64;
        self.bytes =
            self.bytes.checked_sub(read).filter(|_| read <= MAX_FILE).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn changed(root: &OwnedFd, folder: &Path) -> Option<Changed> {
    let fd = found(root, folder, OFlags::PATH).ok()??;
    let facts = fstat(&fd).ok()?;
    Some((facts.st_mtime, facts.st_mtime_nsec))
}

/// What stands at `path` below `root`, links followed as the host does.
fn found(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, OsStr::new(path), OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty(), within) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(host.at(BOOTED)).unwrap();
            host
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write(self.at(path), text).unwrap();
        }

        fn timers(&self) -> Timers {
            Timers::of(self.0.path())
        }
    }

    fn by(timer: &str) -> StartedBy {
        StartedBy::Timer { timer: timer.into() }
    }

    const DAILY: &str =
        "[Unit]\nDescription=x\n\n[Timer]\nOnCalendar=daily\n\n[Install]\nWantedBy=timers.target\n";

    #[test]
    fn what_timers_start_is_known_however_they_name_it() {
        let host = Host::new();
        host.write("usr/lib/systemd/system/apt-daily.timer", DAILY);
        host.write(
            "etc/systemd/system/nightly.timer",
            "[Timer]\nUnit = backup.service\nOnCalendar=daily\n[Install]\nUnit=no.service\n",
        );
        host.write("etc/systemd/system/apt-daily.timer.d/own.conf", "[Timer]\nUnit=updates.service\n");
        host.write("lib/systemd/system/dump@.timer", DAILY);
        host.write("lib/systemd/system/run@.timer", "[Timer]\nUnit=%i.service\n");
        fs::create_dir_all(host.at("etc/systemd/system/timers.target.wants")).unwrap();
        symlink(
            "/lib/systemd/system/run@.timer",
            host.at("etc/systemd/system/timers.target.wants/run@tidy.timer"),
        )
        .unwrap();
        host.write("run/systemd/transient/run-u7.timer", DAILY);
        let mut timers = host.timers();
        for (unit, timer) in [
            ("apt-daily.service", "apt-daily.timer"),
            ("updates.service", "apt-daily.timer"),
            ("backup.service", "nightly.timer"),
            ("nightly.service", "nightly.timer"),
            ("dump@main.service", "dump@.timer"),
            ("tidy.service", "run@tidy.timer"),
            ("run-u7.service", "run-u7.timer"),
        ] {
            assert_eq!(timers.starts(unit), by(timer), "{unit}");
        }
        for unit in ["no.service", "ssh.service", "dump@.service", "main.service", ""] {
            assert_eq!(timers.starts(unit), StartedBy::Other, "{unit}");
        }
    }

    #[test]
    fn a_timer_that_comes_later_is_known_at_once_and_one_that_went_is_not() {
        let host = Host::new();
        let mut timers = host.timers();
        assert_eq!(timers.starts("late.service"), StartedBy::Other);
        host.write("run/systemd/transient/late.timer", DAILY);
        assert_eq!(timers.starts("late.service"), by("late.timer"));
        fs::remove_dir_all(host.at("run/systemd/transient")).unwrap();
        assert_eq!(timers.starts("late.service"), StartedBy::Other);
    }

    #[test]
    fn a_link_is_followed_in_the_hosts_root_and_nobody_is_waited_for() {
        let host = Host::new();
        host.write("opt/x/real.timer", "[Timer]\nUnit=real-one.service\n");
        fs::create_dir_all(host.at("etc/systemd/system")).unwrap();
        symlink("/opt/x/real.timer", host.at("etc/systemd/system/linked.timer")).unwrap();
        symlink("/dev/null", host.at("etc/systemd/system/masked.timer")).unwrap();
        symlink("loop.timer", host.at("etc/systemd/system/loop.timer")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            host.at("etc/systemd/system/pipe.timer"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let mut timers = host.timers();
        assert_eq!(timers.starts("real-one.service"), by("linked.timer"));
        assert_eq!(timers.starts("pipe.service"), by("pipe.timer"));
    }

    #[test]
    fn i9_what_cannot_be_read_is_not_taken_for_no_timer() {
        assert_eq!(Timers::of("/nonexistent").starts("x.service"), StartedBy::Unknown);
        let host = Host::new();
        host.write("etc/systemd/system/big.timer", &"#".repeat(MAX_FILE as usize + 1));
        assert_eq!(host.timers().starts("x.service"), StartedBy::Unknown);
        let host = Host::new();
        for n in 0..=MAX_TIMERS {
            host.write(&format!("run/systemd/transient/t{n}.timer"), "");
        }
        assert_eq!(host.timers().starts("x.service"), StartedBy::Unknown);
        // Without systemd a name says nothing.
        let host = Host::new();
        host.write("etc/systemd/system/a.timer", DAILY);
        fs::remove_dir_all(host.at("run")).unwrap();
        assert_eq!(host.timers().starts("a.service"), StartedBy::Other);
    }
}
