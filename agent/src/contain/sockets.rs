//! `node.destroy-sockets`: open TCP and UDP sockets of the target are reset by the kernel (sock_diag(7), SOCK_DESTROY), in the network
//! namespace that each process is in. Listening sockets stay: nobody is connected through them.
//!
//! What the kernel cannot list it cannot reset, and it says so nowhere but in the last message of its answer: such sockets are found in
//! /proc/net. What is listed in no namespace of the target's processes, and has a peer all the same, is found by its descriptor. Both are
//! counted, and named when the effect is verified.

mod diag;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use model::{ActionFailure, Effect, Outputs, RollbackState, Target};
use rustix::{net::AddressFamily, thread::LinkNameSpaceType};
use serde_json::json;

pub use self::diag::Protocol;
use self::diag::{Diag, Socket};
use super::{
    cgroup,
    freeze::{cgroup_of, target_cgroup},
    process::{self, Held},
    scene::{Act, Task, Undone},
};

/// Processes looked at; a target with more is cut off by a quarantine instead.
const MAX_PROCESSES: usize = 16_384;

pub(super) struct Destroy;

impl Act for Destroy {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        processes(task)?;
        Ok(RollbackState::Nothing)
    }

    fn apply(&self, task: &Task<'_>, _: &RollbackState) -> Result<Outputs, ActionFailure> {
        let scene = task.scene;
        let (destroyed, stayed) = in_each_namespace(&processes(task)?, |diag, sockets| {
            scene.step("destroy");
            let mut count = 0;
            for socket in sockets {
                count += usize::from(!socket.state.listens() && diag.destroy(socket)?);
            }
            Ok(count)
        })?;
        match stayed.to_string() {
            nothing if nothing.is_empty() => Ok(Outputs::from([("destroyed".to_owned(), json!(destroyed))])),
            because if destroyed == 0 => {
                Err(ActionFailure::Unsupported { operation: "destroying sockets".into(), because })
            }
            because => Ok(Outputs::from([
                ("destroyed".to_owned(), json!(destroyed)),
                ("stayed".to_owned(), json!(stayed.count())),
                ("because".to_owned(), json!(because)),
            ])),
        }
    }

    fn verify(&self, task: &Task<'_>, _: &RollbackState) -> Result<Effect, ActionFailure> {
        let (open, stayed) = in_each_namespace(&processes(task)?, |_, sockets| {
            Ok(sockets.iter().filter(|socket| socket.state.has_a_peer()).count())
        })?;
        let connected = (open > 0).then(|| format!("connected sockets: {open}"));
        let stayed = Some(stayed.to_string()).filter(|text| !text.is_empty());
        let found: Vec<String> = connected.into_iter().chain(stayed).collect();
        Ok(if found.is_empty() { Effect::InForce } else { Effect::Missing { found: found.join("; ") } })
    }

    fn revert(&self, _: &Task<'_>, _: &RollbackState) -> Result<Undone, ActionFailure> {
        Ok(Undone::Vacuous { detail: "the connections that were reset are gone".into() })
    }
}

/// Has `job` do something about the target's sockets, in each network namespace that its processes are in. The sum of what it counted, and
/// the sockets that it was not given.
fn in_each_namespace(
    processes: &[Held],
    job: impl Fn(&mut Diag, &[Socket]) -> io::Result<usize> + Sync,
) -> Result<(usize, Stayed), ActionFailure> {
    let (mut sum, mut stayed, mut known) = (0, Stayed::default(), HashSet::new());
    for (namespace, inodes) in gather(processes)?.into_values() {
        let (count, listed) = in_namespace(&namespace, |diag| {
            let mut listed = diag.list()?;
            listed.sockets.retain(|socket| inodes.contains(&socket.inode));
            listed.unlisted.retain(|socket| inodes.contains(&socket.inode));
            Ok((job(diag, &listed.sockets)?, listed))
        })?;
        sum += count;
        known.extend(listed.sockets.iter().map(|socket| socket.inode));
        known.extend(listed.unlisted.iter().map(|socket| socket.inode));
        for socket in listed.unlisted.iter().filter(|socket| !socket.state.listens()) {
            *stayed.unlisted.entry(socket.protocol).or_default() += 1;
        }
    }
    stayed.elsewhere = connected_elsewhere(processes, &mut known);
    Ok((sum, stayed))
}

/// How many sockets that are not among the `known` have a peer on the network: only those are looked at, since a closed one is listed nowhere.
fn connected_elsewhere(processes: &[Held], known: &mut HashSet<u32>) -> usize {
    let mut count = 0;
    for held in processes {
        for entry in fs::read_dir(held.proc_path("fd")).into_iter().flatten().flatten() {
            let inode = socket_inode(&entry.path());
            if !inode.is_some_and(|inode| known.insert(inode)) {
                continue;
            }
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // Closed meanwhile, or the process has ended: then nothing of it stays.
            let socket = number.and_then(|number| held.descriptor(number).ok());
            let peer = socket.and_then(|socket| rustix::net::getpeername(socket).ok().flatten());
            let family = peer.map(|peer| peer.address_family());
            count += usize::from(matches!(family, Some(AddressFamily::INET | AddressFamily::INET6)));
        }
    }
    count
}

/// Sockets that could not be reset.
#[derive(Default)]
struct Stayed {
    /// Since this kernel does not list them.
    unlisted: BTreeMap<Protocol, usize>,
    /// Since they are not in the network namespace of their process, or neither TCP nor UDP.
    elsewhere: usize,
}

impl Stayed {
    fn count(&self) -> usize {
        self.unlisted.values().sum::<usize>() + self.elsewhere
    }
}

impl fmt::Display for Stayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unlisted = self.unlisted.iter().map(|(protocol, count)| {
            let needs = protocol.needs();
            format!(
                "{protocol} sockets that stay: {count}, since this kernel lists none by sock_diag ({needs})"
            )
        });
        let elsewhere = (self.elsewhere > 0).then(|| {
            let count = self.elsewhere;
            format!("connected sockets that stay: {count}, made in another network namespace or of another protocol (MPTCP, SCTP)")
        });
        f.write_str(&unlisted.chain(elsewhere).collect::<Vec<_>>().join("; "))
    }
}

/// Whether this kernel resets sockets of each protocol; if not, why not. For `hemostat doctor`.
///
/// Errors: [`io::Error`] when sock_diag cannot be asked at all.
pub fn sockets_that_can_be_destroyed() -> io::Result<Vec<(Protocol, Result<(), String>)>> {
    let mut diag = Diag::open()?;
    let mut look = |protocol: Protocol| {
        diag.dump(protocol).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("this kernel lists none by sock_diag ({})", protocol.needs()),
            _ => error.to_string(),
        })?;
        diag.can_destroy(protocol).map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::OPNOTSUPP.raw_os_error() => NO_DESTROY.to_owned(),
            _ => error.to_string(),
        })
    };
    Ok(Protocol::ALL.map(|protocol| (protocol, look(protocol))).into())
}

const NO_DESTROY: &str = "this kernel has no CONFIG_INET_DIAG_DESTROY";

/// Processes of the target: the process with its descendants, or all of the cgroup.
fn processes(task: &Task<'_>) -> Result<Vec<Held>, ActionFailure> {
    let hold = |pid: u32| {
        Held::open_pid(pid).map_err(|error| ActionFailure::io("hold", format!("pid {pid}"), &error))
    };
    match task.target {
        Target::Process { process } => {
            let held = Held::open(*process)?;
            task.check_process(&held, &cgroup_of(task, &held)?)?;
            let mut found = vec![held];
            let mut at = 0;
            while let Some(parent) = found.get(at).map(Held::pid).filter(|_| found.len() < MAX_PROCESSES) {
                let children = process::children(parent).map_err(|error| {
                    ActionFailure::io("list the children of", format!("pid {parent}"), &error)
                })?;
                for child in children {
                    let Some(child) = hold(child)?.filter(|held| held.stat.parent == parent) else {
                        continue;
                    };
                    // a protected descendant and what is below it are left out
                    let Ok(cgroup) = cgroup_of(task, &child) else { continue };
                    if task.process_reason(&child, &cgroup)?.is_none() {
                        found.push(child);
                    }
                }
                at += 1;
            }
            Ok(found)
        }
        target @ Target::Cgroup { .. } => {
            let cgroup = target_cgroup(task, target)?;
            let members =
                cgroup.members_below().map_err(|error| cgroup::failure("list", &cgroup.path, &error))?;
            let mut found = Vec::new();
            for pid in members.into_iter().take(MAX_PROCESSES) {
                found.extend(hold(pid)?);
            }
            Ok(found)
        }
        Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. } => {
            Err(ActionFailure::Unsupported {
                operation: format!("destroying sockets of {}", task.target),
                because: "only processes have some".into(),
            })
        }
    }
}

/// Socket inodes by network namespace.
type Found = BTreeMap<(u64, u64), (File, HashSet<u32>)>;

fn gather(processes: &[Held]) -> Result<Found, ActionFailure> {
    let mut found = Found::new();
    for held in processes {
        let inodes = sockets_of(held.pid());
        if inodes.is_empty() {
            continue;
        }
        let open = File::open(held.proc_path("ns/net")).and_then(|file| Ok((file.metadata()?, file)));
        let (meta, namespace) = match open {
            Ok(open) => open,
            Err(_) if held.has_ended() => continue,
            Err(error) => {
                return Err(ActionFailure::io(
                    "open the network namespace of",
                    process::name(held.key),
                    &error,
                ));
            }
        };
        found.entry((meta.dev(), meta.ino())).or_insert_with(|| (namespace, HashSet::new())).1.extend(inodes);
    }
    Ok(found)
}

/// Inodes of the sockets that a process has open, in any of its threads' descriptor tables.
pub(super) fn sockets_of(pid: u32) -> HashSet<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .flat_map(|thread| fs::read_dir(thread.path().join("fd")).into_iter().flatten().flatten())
        .filter_map(|entry| socket_inode(&entry.path()))
        .collect()
}

/// Of an entry of /proc/PID/fd, if it is a socket.
fn socket_inode(entry: &Path) -> Option<u32> {
    let link = fs::read_link(entry).ok()?;
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Runs `job` with a sock_diag socket of that namespace, on a thread of its own that ends with it: no other thread of the agent ever
/// changes its namespace.
fn in_namespace<T: Send>(
    namespace: &File,
    job: impl FnOnce(&mut Diag) -> io::Result<T> + Send,
) -> Result<T, ActionFailure> {
    let work = || -> io::Result<T> {
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(namespace),
            Some(LinkNameSpaceType::Network),
        )?;
        job(&mut Diag::open()?)
    };
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sock-diag".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    });
    result.map_err(|error| match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::OPNOTSUPP) => {
            ActionFailure::Unsupported { operation: "destroying sockets".into(), because: NO_DESTROY.into() }
        }
        _ => ActionFailure::io("talk to", "sock_diag", &error),
    })
}
