//! Which processes wait for peers, from /proc: listening sockets by inode, and who holds them.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    net::Ipv4Addr,
};

use model::Pid;

use crate::tree::Listens;

/// Descriptors looked at per process (I11).
const MAX_FDS: usize = 4096;
/// Bytes read of one table (I11). The listening sockets stand first in those of TCP.
const MAX_TABLE: u64 = 16 << 20;

/// `TCP_LISTEN` and, for UDP, `TCP_CLOSE` (bound, not connected), of include/net/tcp_states.h.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";
/// `__SO_ACCEPTCON` of include/uapi/linux/net.h, which /proc/net/unix shows as a flag.
const ACCEPTS: u32 = 1 << 16;

/// The sockets of one network namespace that wait for peers, by inode.
pub(super) struct Listening(HashMap<u64, Listens>);

impl Listening {
    /// As the network namespace of `pid` shows them.
    pub(super) fn of(pid: Pid) -> Self {
        let mut inodes = HashMap::new();
        for table in ["tcp", "tcp6"] {
            let listening = lines(pid, table).map_while(|line| waiting(&line, TCP_LISTEN));
            inodes.extend(listening);
        }
        for table in ["udp", "udp6"] {
            inodes.extend(lines(pid, table).filter_map(|line| waiting(&line, UDP_UNCONNECTED)));
        }
        inodes.extend(lines(pid, "unix").filter_map(|line| waiting_unix(&line)));
        Self(inodes)
    }

    /// The widest of those that `pid` holds.
    pub(super) fn of_process(&self, pid: Pid) -> Listens {
        if self.0.is_empty() {
            return Listens::No;
        }
        sockets_of(pid).filter_map(|inode| self.0.get(&inode).copied()).max().unwrap_or(Listens::No)
    }
}

/// Whether a process has any socket at all: if not, the tables need not be read.
pub(super) fn has_sockets(pid: Pid) -> bool {
    sockets_of(pid).next().is_some()
}

fn sockets_of(pid: Pid) -> impl Iterator<Item = u64> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd"));
    folder.into_iter().flatten().flatten().take(MAX_FDS).filter_map(|fd| {
        let link = std::fs::read_link(fd.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

fn lines(pid: Pid, table: &str) -> impl Iterator<Item = String> {
    let file = File::open(format!("/proc/{pid}/net/{table}"));
    file.into_iter()
        .flat_map(|file| BufReader::new(file.take(MAX_TABLE)).lines().map_while(Result::ok).skip(1))
}

/// A line of /proc/net/{tcp,udp}[6]: its inode and how far it can be reached, if it is in this state.
fn waiting(line: &str, state: &str) -> Option<(u64, Listens)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, is) = (fields.next()?, fields.next()?, fields.next()?);
    if is != state {
        return None;
    }
    // Words in host byte order.
    let address = local.split(':').next()?;
    let word = |at: usize| Some(u32::from_be(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?));
    let loopback = match address.len() {
        8 => Ipv4Addr::from(word(0)?).is_loopback(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            words == [0, 0, 0, 1] || (words[..3] == [0, 0, 0xffff] && Ipv4Addr::from(words[3]).is_loopback())
        }
        _ => return None,
    };
    let listens = if loopback { Listens::Locally } else { Listens::ToTheNetwork };
    Some((fields.nth(5)?.parse().ok()?, listens))
}

/// A line of /proc/net/unix (proc_pid_net(5)): the inode of a socket that accepts connections.
fn waiting_unix(line: &str) -> Option<(u64, Listens)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(7).collect();
    let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
    (flags & ACCEPTS != 0).then_some((fields.get(6)?.parse().ok()?, Listens::Locally))
}
