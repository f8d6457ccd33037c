//! A workload from written events: each happens for real, by a program of that name with those arguments below those ancestors, in a
//! root folder and a network of its own, where every path can be made and every address is this machine's.
#![expect(unsafe_code, reason = "system calls that no safe wrapper gives")]

use std::{
    fs, io,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use model::{Activity, Event, Exposure};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde::{Deserialize, Serialize};

use crate::{Failure, acts};

/// Says to this program that it is a part of the play: the rest of a [`Step`] list, as JSON.
const PART: &str = "HEMOSTAT_REPLAY";
/// The program in the new root folder, of which all others are links.
const ACTOR: &str = "/.actor";

/// One process on the way from an ancestor to the one that acts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    exe: String,
    args: Vec<String>,
    uid: u32,
    listens: bool,
    /// The last one's, in order.
    acts: Vec<Activity>,
}

/// What has to be played so that the event happens; nothing if that is out of reach.
pub(crate) fn steps(event: &Event) -> Vec<Step> {
    let processes = event.ancestors.iter().rev().chain([&event.process]);
    let mut steps: Vec<Step> = processes
        .filter(|process| process.exe.starts_with('/') || process.key == event.process.key)
        .map(|process| Step {
            exe: if process.exe.starts_with('/') { process.exe.clone() } else { "/usr/bin/some".into() },
            args: process.args.clone(),
            uid: process.credentials.uid,
            listens: false,
            acts: vec![],
        })
        .collect();
    if event.exposure == Exposure::BehindListener && steps.len() == 1 {
        steps.insert(
            0,
            Step { exe: "/usr/sbin/served".into(), args: vec![], uid: 0, listens: false, acts: vec![] },
        );
    }
    let listener = match event.exposure {
        Exposure::Listens => steps.last_mut(),
        Exposure::BehindListener => steps.first_mut(),
        _ => None,
    };
    if let Some(step) = listener {
        step.listens = true;
    }
    if let Some(last) = steps.last_mut() {
        last.acts = vec![event.activity.clone()];
    }
    steps
}

/// What has to be played so that a sequence happens: what one process does by one process, execs each by its own.
pub(crate) fn sequence(events: &[Event]) -> Vec<Vec<Step>> {
    let mut plays: Vec<(&Event, Vec<Step>)> = Vec::new();
    for event in events {
        let same = |before: &Event| {
            before.process.key == event.process.key && !matches!(event.activity, Activity::Exec { .. })
        };
        match plays.last_mut() {
            Some((before, play)) if same(before) => {
                if let Some(last) = play.last_mut() {
                    last.acts.push(event.activity.clone());
                }
            }
            _ => plays.push((event, steps(event))),
        }
    }
    plays.into_iter().map(|(_, play)| play).collect()
}

/// Plays all of them, one after the other, in a root folder and a network of this process's own.
pub(crate) fn play(input: impl io::Read) -> Result<(), Failure> {
    let plays: Vec<Vec<Step>> = serde_json::from_reader(input)?;
    own_root()?;
    acts::own_network()?;
    let mut failed = 0;
    for steps in &plays {
        let prepared = steps.iter().try_for_each(|step| {
            program(Path::new(&step.exe))?;
            step.acts.iter().try_for_each(acts::prepare)
        });
        // A path of one event may be a folder of another's.
        if prepared.is_err() || !spawn(steps).is_ok_and(|status| status.success()) {
            failed += 1;
        }
    }
    // Most must have happened, else the rules would be silent for want of a cause.
    if failed * 4 > plays.len() {
        return Err(format!("{failed} of {} could not be played", plays.len()).into());
    }
    Ok(())
}

/// The part that this process is to play, if it is one.
pub(crate) fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// Plays it: starts the next process, or acts.
pub(crate) fn perform(part: &str) -> ExitCode {
    let played = serde_json::from_str::<Vec<Step>>(part).map_err(Failure::from).and_then(|steps| {
        let (step, rest) = steps.split_first().ok_or("no step")?;
        let _listener = step.listens.then(|| std::net::TcpListener::bind("0.0.0.0:0")).transpose()?;
        if !rest.is_empty() {
            return Ok(spawn(rest)?.success());
        }
        for act in &step.acts {
            // An act that the kernel refuses is no event: the others count.
            let _refused = acts::act(act);
        }
        Ok(true)
    });
    if played.is_ok_and(|played| played) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn spawn(steps: &[Step]) -> Result<std::process::ExitStatus, Failure> {
    let step = steps.first().ok_or("no step")?;
    let mut command = Command::new(&step.exe);
    if let Some((name, rest)) = step.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().env(PART, serde_json::to_string(steps)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if step.uid != 0 {
        command.uid(step.uid);
    }
    Ok(command.status()?)
}

/// This program under another name, with the folders above it.
fn program(at: &Path) -> Result<(), Failure> {
    folders_above(at)?;
    match fs::hard_link(ACTOR, at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// The folders above a path, in which everybody may write.
pub(crate) fn folders_above(path: &Path) -> Result<(), Failure> {
    let mut at = PathBuf::from("/");
    for part in path.parent().unwrap_or(Path::new("/")).components().skip(1) {
        at.push(part);
        if !at.is_dir() {
            fs::create_dir(&at)?;
            fs::set_permissions(&at, fs::Permissions::from_mode(0o777))?;
        }
    }
    Ok(())
}

/// An empty root folder with this program, what it is linked with, /proc and /dev/null.
fn own_root() -> Result<(), Failure> {
    let own = fs::read("/proc/self/exe")?;
    let mut libraries = Vec::new();
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let Some(at) = line.find('/') else { continue };
        let path = PathBuf::from(&line[at..]);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.contains(".so") && !libraries.iter().any(|(known, _)| *known == name) {
            libraries.push((name, fs::read(&path)?));
        }
    }
    // SAFETY: this process has one thread and shares no descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    // The guest's root folder is the kernel's first, which cannot be left by pivot_root: it is in a tmpfs of its own then.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = Path::new("/tmp");
    mount("replay", root, "tmpfs", MountFlags::empty(), None)?;
    for folder in ["lib", "lib64", "proc", "dev", "old"] {
        fs::create_dir(root.join(folder))?;
    }
    fs::write(root.join(&ACTOR[1..]), own)?;
    fs::set_permissions(root.join(&ACTOR[1..]), fs::Permissions::from_mode(0o755))?;
    for (name, content) in libraries {
        for folder in ["lib", "lib64"] {
            let at = root.join(folder).join(&name);
            fs::write(&at, &content)?;
            fs::set_permissions(&at, fs::Permissions::from_mode(0o755))?;
        }
    }
    mount("proc", root.join("proc"), "proc", MountFlags::empty(), None)?;
    fs::write(root.join("dev/null"), "")?;
    mount_bind("/dev/null", &root.join("dev/null"))?;
    std::env::set_current_dir(root)?;
    if rustix::process::pivot_root(".", "old").is_ok() {
        std::env::set_current_dir("/")?;
        unmount("/old", UnmountFlags::DETACH)?;
    } else {
        rustix::mount::mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        std::env::set_current_dir("/")?;
    }
    fs::create_dir_all("/usr/bin")?;
    let _links = symlink("/usr/bin", "/bin");
    Ok(())
}

fn mount_bind(from: &str, to: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(from, to)?)
}
