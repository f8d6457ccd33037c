//! What of ours stands in the kernel though no journal tells of it: its file was removed or damaged, or nobody knows where it was. Nobody
//! may stand still for ever because of that. Where its members came from is not known any more, so they go to the nearest cgroup around
//! the jail that takes them, and whoever lifts it is told so.
//!
//! Jails and pinned links have names of ours. A process that only a signal stopped, and a cgroup that was frozen in place, have not:
//! without the journal nobody can tell them from what others did.

use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use model::{ActionFailure, Frozen, RollbackState};
use rustix::process::Signal;

use super::{
    Contain,
    cgroup::{self, Cgroup, Hierarchy},
    free, jail, network,
    process::{self, Held},
};
use crate::bpffs::Bpffs;

/// Something of ours that no journal knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stray {
    /// A jail, which stands still with whoever is in it.
    Jail {
        /// Its cgroup.
        path: String,
        /// How many processes are in it.
        processes: usize,
    },
    /// The pinned links of a network quarantine.
    Pins {
        /// Their folder in bpffs.
        folder: PathBuf,
    },
}

impl fmt::Display for Stray {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jail { path, processes: 1 } => write!(out, "jail {path} with 1 process"),
            Self::Jail { path, processes } => write!(out, "jail {path} with {processes} processes"),
            Self::Pins { folder } => write!(out, "network quarantine {}", folder.display()),
        }
    }
}

/// Looks for what no journal knows, and lifts it. Only for whoever knows that no agent runs whose journal knows it: [`journals_in_use`].
#[derive(Debug)]
pub struct Unknown {
    cgroups: Hierarchy,
    pins: PathBuf,
    known_jails: HashSet<String>,
    known_pins: HashSet<PathBuf>,
}

impl Contain {
    /// What this journal does not know.
    #[must_use]
    pub fn unknown(&self) -> Unknown {
        let journal = self.scene.journal();
        let states = || {
            journal
                .standing()
                .flat_map(|slot| [slot.work.as_ref(), slot.record.rollback.as_ref()].into_iter().flatten())
        };
        Unknown {
            cgroups: self.scene.cgroups.clone(),
            pins: super::bpffs::folder(&self.scene),
            known_jails: states()
                .filter_map(|state| match state {
                    RollbackState::Freeze { jail, .. } => jail.clone(),
                    _ => None,
                })
                .collect(),
            known_pins: states()
                .filter_map(|state| match state {
                    RollbackState::Network { pins, .. } => Some(PathBuf::from(pins)),
                    _ => None,
                })
                .collect(),
        }
    }

    /// What was found wrong at the start, in a person's words: a journal that had to be put aside, and what stands without one.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let aside = self.scene.state_dir.join("journal.damaged");
        if aside.exists() {
            notes.push(format!(
                "the containment journal was damaged and put aside as {}: what it alone knew is not undone by itself; once nothing is \
                 amiss, remove the file",
                aside.display()
            ));
        }
        // Another agent, of which there is none but in tests, would know its own.
        match self.unknown().find() {
            Ok(strays) if !strays.is_empty() && journals_in_use(Some(&self.scene.state_dir)).is_empty() => {
                notes.push(format!(
                    "no journal knows of {}; stop the agent and lift what stands: hemostat release --all",
                    list(&strays)
                ))
            }
            Ok(_) => {}
            Err(error) => {
                notes.push(format!("containments that no journal knows cannot be looked for: {error}"))
            }
        }
        notes
    }
}

impl Unknown {
    /// Where there is no journal at all: everything of ours is unknown.
    ///
    /// # Errors
    /// There is no cgroup v2 at `mount`, or anywhere when that is `None`.
    pub fn without_journal(mount: Option<&Path>, bpffs: &Path) -> io::Result<Self> {
        Ok(Self {
            cgroups: Hierarchy::open(mount)?,
            pins: bpffs.join("hemostat"),
            known_jails: HashSet::new(),
            known_pins: HashSet::new(),
        })
    }

    /// All of it, what is below before what is above.
    ///
    /// # Errors
    /// Those of looking through cgroups and bpffs.
    pub fn find(&self) -> io::Result<Vec<Stray>> {
        let mut jails = Vec::new();
        let mut ahead = vec!["/".to_owned()];
        while let Some(path) = ahead.pop() {
            let looked = self.cgroups.cgroup(&path).and_then(|cgroup| Ok((cgroup.children()?, cgroup)));
            let (children, cgroup) = match looked {
                Ok(looked) => looked,
                // gone meanwhile, or nested deeper than any of ours
                Err(error) if process::is_gone(&error) || is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            ahead.extend(children.iter().map(|name| cgroup.child_path(name)));
            if jail::has_name_of_jail(&path) && jail::is_ours(&cgroup) && !self.known_jails.contains(&path) {
                let processes = cgroup.members_below().map_or(0, |members| members.len());
                jails.push(Stray::Jail { path, processes });
            }
        }
        jails.sort_by_key(|stray| match stray {
            Stray::Jail { path, .. } => (std::cmp::Reverse(path.matches('/').count()), path.clone()),
            Stray::Pins { .. } => (std::cmp::Reverse(0), String::new()),
        });
        let pins = network::pin_folders(&self.pins)?;
        jails.extend(
            pins.into_iter()
                .filter(|folder| !self.known_pins.contains(folder))
                .map(|folder| Stray::Pins { folder }),
        );
        Ok(jails)
    }

    /// Takes one out of force and away. Gives what was done, in a person's words.
    ///
    /// # Errors
    /// [`ActionFailure::Io`]; whoever is in a jail is let go all the same, as far as the system lets it.
    pub fn lift(&self, stray: &Stray) -> Result<String, ActionFailure> {
        match stray {
            Stray::Jail { path, .. } => self.open_jail(path),
            Stray::Pins { folder } => {
                network::lift_pins(folder)?;
                Ok("its links are taken out of force and removed; no journal knew of it".into())
            }
        }
    }

    /// Takes our folder in bpffs away when it is empty, and the mount if it was ours.
    ///
    /// # Errors
    /// Those of removing and unmounting.
    pub fn leave_bpffs(&self) -> io::Result<()> {
        Bpffs::default().leave().map(drop)
    }

    fn open_jail(&self, path: &str) -> Result<String, ActionFailure> {
        let jail = self.cgroups.cgroup(path).map_err(|error| cgroup::failure("open", path, &error))?;
        let parent = jail::outside(path);
        match self.empty(&jail, parent) {
            Ok(moved) => {
                let home =
                    self.cgroups.cgroup(parent).map_err(|error| cgroup::failure("open", parent, &error))?;
                let name = path.rsplit('/').next().unwrap_or(path);
                if let Err(error) = home.remove_child(name) {
                    thaw(&jail);
                    return Err(cgroup::failure("remove", path, &error));
                }
                Ok(said(&moved, parent))
            }
            Err(failure) => {
                thaw(&jail);
                Err(failure)
            }
        }
    }

    /// Moves everybody out; gives where each went.
    fn empty(&self, jail: &Cgroup, parent: &str) -> Result<Vec<(u32, String)>, ActionFailure> {
        let mut moved = Vec::new();
        free::drain(jail, |held| {
            moved.extend(self.let_out(held, parent)?.map(|place| (held.pid(), place)));
            // whoever was stopped on the way into the jail goes on, too
            held.signal(Signal::CONT).map(drop)
        })?;
        Ok(moved)
    }

    /// To `parent`, or to the nearest around it that takes processes; `None` when it has ended.
    fn let_out(&self, held: &Held, parent: &str) -> Result<Option<String>, ActionFailure> {
        let around = std::iter::successors(Some(parent), |at| (*at != "/").then(|| jail::above(at)));
        let mut last = io::Error::other("no cgroup takes it");
        for place in around {
            let went = self.cgroups.cgroup(place).and_then(|cgroup| cgroup.take(held.pid()));
            match went {
                Ok(true) if held.has_ended() => {
                    self.send_home(held.pid(), place);
                    return Ok(None);
                }
                Ok(true) => return Ok(Some(place.to_owned())),
                Ok(false) => return Ok(None),
                Err(error) => last = error,
            }
        }
        Err(cgroup::failure("move a process out to", parent, &last))
    }

    /// It ended while it was moved. Whoever has its number by now was born in this moment and belongs where its parent is (I9).
    fn send_home(&self, pid: u32, moved_to: &str) {
        let birthplace = Held::open_pid(pid).ok().flatten().and_then(|stranger| {
            let at = self.cgroups.path_of(pid).ok().flatten()?;
            let birthplace = self.cgroups.path_of(stranger.stat.parent).ok().flatten()?;
            (at == moved_to && at != birthplace).then_some(birthplace)
        });
        if let Some(birthplace) = birthplace
            && let Err(error) = self.cgroups.cgroup(&birthplace).and_then(|cgroup| cgroup.take(pid))
        {
            tracing::warn!(pid, %error, "a process that got the number of one that ended could not be sent back");
        }
    }
}

/// Nobody stands for ever in a jail that cannot be emptied.
fn thaw(jail: &Cgroup) {
    if let Err(error) = jail.set_freeze_wish(Frozen::No) {
        tracing::error!(cgroup = %jail.path, %error, "a jail that cannot be emptied cannot be thawed either");
    }
    for pid in jail.members_below().unwrap_or_default() {
        if let Ok(Some(held)) = Held::open_pid(pid)
            && let Err(failure) = held.signal(Signal::CONT)
        {
            tracing::error!(pid, %failure, "a process in a jail cannot be continued");
        }
    }
}

fn said(moved: &[(u32, String)], parent: &str) -> String {
    if moved.is_empty() {
        return "removed; nobody was in it, and no journal knew of it".into();
    }
    let elsewhere: Vec<String> = moved
        .iter()
        .filter(|(_, place)| place != parent)
        .map(|(pid, place)| format!("; pid {pid} went to {place}, since nothing nearer took it"))
        .collect();
    format!(
        "removed; its {} now in cgroup {parent}, around it. No journal knew of it: the exact cgroup that each came from is unknown, \
         and one that somebody else had stopped goes on, too{}",
        match moved.len() {
            1 => "1 process goes on and is".to_owned(),
            many => format!("{many} processes go on and are"),
        },
        elsewhere.concat()
    )
}

/// Some of them by name, the rest counted.
#[must_use]
pub fn list(strays: &[Stray]) -> String {
    const NAMED: usize = 8;
    let mut all: Vec<String> = strays.iter().take(NAMED).map(Stray::to_string).collect();
    if strays.len() > NAMED {
        all.push(format!("{} more", strays.len() - NAMED));
    }
    all.join(", ")
}

/// Folders of containment journals that processes hold open, with the pid, `own` left out: theirs is whatever those tell of. Needs root
/// to see all.
#[must_use]
pub fn journals_in_use(own: Option<&Path>) -> Vec<(u32, PathBuf)> {
    let own = own.and_then(|folder| folder.canonicalize().ok());
    let pids = process::all_pids().unwrap_or_default();
    let all = pids.into_iter().flat_map(|pid| journals_of(pid).into_iter().map(move |folder| (pid, folder)));
    all.filter(|(pid, folder)| *pid != std::process::id() || Some(folder) != own.as_ref()).collect()
}

/// The folders of journals that a process has open, each with its lock.
fn journals_of(pid: u32) -> Vec<PathBuf> {
    let open: HashSet<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|path| match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
            Some(before) => PathBuf::from(before),
            None => path,
        })
        .collect();
    let locks = open.iter().filter(|path| path.file_name().is_some_and(|name| name == "lock"));
    let folders = locks.filter_map(|lock| lock.parent());
    folders.filter(|folder| open.contains(&folder.join("journal"))).map(Path::to_owned).collect()
}

fn is_gone(error: &io::Error) -> bool {
    [rustix::io::Errno::NODEV, rustix::io::Errno::NAMETOOLONG]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
