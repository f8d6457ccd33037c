//! `node.destroy-sockets`: open TCP and UDP sockets of the target are reset by the kernel (sock_diag(7), SOCK_DESTROY), in the network
//! namespace that each process is in. Listening sockets stay: nobody is connected through them.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use model::{ActionFailure, Effect, Outputs, RollbackState, Target};
use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink},
    thread::LinkNameSpaceType,
};
use serde_json::json;

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
        let mut destroyed = 0;
        for (namespace, inodes) in gather(&processes(task)?)?.into_values() {
            task.step("destroy");
            destroyed += in_namespace(namespace, move |diag| {
                let mut count = 0;
                for socket in diag.list()?.into_iter().filter(|socket| inodes.contains(&socket.inode)) {
                    count += usize::from(socket.state != LISTEN && diag.destroy(&socket)?);
                }
                Ok(count)
            })?;
        }
        Ok(Outputs::from([("destroyed".to_owned(), json!(destroyed))]))
    }

    fn verify(&self, task: &Task<'_>, _: &RollbackState) -> Result<Effect, ActionFailure> {
        let mut open = 0;
        for (namespace, inodes) in gather(&processes(task)?)?.into_values() {
            open += in_namespace(namespace, move |diag| {
                let sockets = diag.list()?.into_iter();
                Ok(sockets
                    .filter(|socket| inodes.contains(&socket.inode) && socket.state == ESTABLISHED)
                    .count())
            })?;
        }
        Ok(match open {
            0 => Effect::InForce,
            _ => Effect::Missing { found: format!("connected sockets: {open}") },
        })
    }

    fn revert(&self, _: &Task<'_>, _: &RollbackState) -> Result<Undone, ActionFailure> {
        Ok(Undone::Vacuous { detail: "the connections that were reset are gone".into() })
    }
}

/// Processes of the target: the process with its descendants, or all of the cgroup.
fn processes(task: &Task<'_>) -> Result<Vec<Held>, ActionFailure> {
    let hold = |pid: u32| {
        Held::open_pid(pid).map_err(|error| ActionFailure::io("hold", format!("pid {pid}"), &error))
    };
    match task.target {
        Target::Process { process } => {
            let held = Held::open(*process)?;
            task.scene.protected.check_process(&held, &cgroup_of(task, &held)?)?;
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
                    if task.scene.protected.process_reason(&child, &cgroup)?.is_none() {
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
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Runs `job` with a sock_diag socket of that namespace, on a thread of its own that ends with it: no other thread of the agent ever
/// changes its namespace.
fn in_namespace<T: Send + 'static>(
    namespace: File,
    job: impl FnOnce(&mut Diag) -> io::Result<T> + Send + 'static,
) -> Result<T, ActionFailure> {
    let work = move || -> io::Result<T> {
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )?;
        job(&mut Diag::open()?)
    };
    let thread = std::thread::Builder::new()
        .name("sock-diag".into())
        .spawn(work)
        .map_err(|error| ActionFailure::io("start", "a thread for sock_diag", &error))?;
    let result = thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
    result.map_err(|error| match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::OPNOTSUPP) => ActionFailure::Unsupported {
            operation: "destroying sockets".into(),
            because: "this kernel has no CONFIG_INET_DIAG_DESTROY".into(),
        },
        _ => ActionFailure::io("talk to", "sock_diag", &error),
    })
}

// include/uapi/linux/sock_diag.h, inet_diag.h, netlink.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// A socket as sock_diag names it.
struct Socket {
    family: u8,
    protocol: u8,
    state: u8,
    inode: u32,
    /// `struct inet_diag_sockid`, cookie included: the very socket, not another on the same ports.
    id: [u8; SOCKET_ID],
}

struct Diag {
    socket: OwnedFd,
    sequence: u32,
}

impl Diag {
    fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All TCP and UDP sockets of the namespace.
    fn list(&mut self) -> io::Result<Vec<Socket>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            for protocol in [TCP, UDP] {
                self.send(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, protocol, &[0; SOCKET_ID])?;
                self.receive(|body| found.extend(parse(protocol, body)))?;
            }
        }
        Ok(found)
    }

    /// `Ok(false)` when it has gone by itself.
    fn destroy(&mut self, socket: &Socket) -> io::Result<bool> {
        self.send(SOCK_DESTROY, NLM_F_ACK, socket.family, socket.protocol, &socket.id)?;
        match self.receive(|_| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        protocol: u8,
        id: &[u8; SOCKET_ID],
    ) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + 8 + SOCKET_ID);
        message.extend(u32::try_from(HEADER + 8 + SOCKET_ID).unwrap_or(u32::MAX).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend([family, protocol, 0, 0]);
        message.extend(u32::MAX.to_ne_bytes());
        message.extend(id);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Gives each message's body to `take` until the answer ends.
    fn receive(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0_u8; 64 << 10];
        loop {
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, sequence, body, next)) = split(rest) {
                rest = next;
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => take(body),
                }
            }
        }
    }
}

/// The first message: type, sequence, body, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let aligned = length.next_multiple_of(4).min(bytes.len());
    Some((kind, sequence, body, &bytes[aligned..]))
}

/// `struct inet_diag_msg`.
fn parse(protocol: u8, body: &[u8]) -> Option<Socket> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let id = *body.get(4..)?.first_chunk::<SOCKET_ID>()?;
    let inode = u32::from_ne_bytes(*body.get(4 + SOCKET_ID + 16..)?.first_chunk()?);
    Some(Socket { family, protocol, state, inode, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cut_short_are_not_read_past_their_end() {
        let mut message = vec![0_u8; HEADER + 72];
        let length = u32::try_from(message.len()).unwrap();
        message[..4].copy_from_slice(&length.to_ne_bytes());
        assert!(split(&message).is_some());
        for cut in 0..message.len() {
            assert!(split(&message[..cut]).is_none(), "cut at {cut}");
        }
        for cut in 0..72 {
            assert!(parse(TCP, &message[HEADER..HEADER + cut]).is_none(), "cut at {cut}");
        }
    }
}
