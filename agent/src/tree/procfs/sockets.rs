//! Which processes the network can reach, from /proc: listening sockets by inode, and who holds them.

use std::{collections::HashSet, fs};

use model::Pid;

/// Descriptors looked at per process (I11).
const MAX_FDS: usize = 4096;

/// `TCP_LISTEN` and, for UDP, `TCP_CLOSE` (bound, not connected), of include/net/tcp_states.h.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// Inodes of the sockets of one network namespace that wait for peers at an address other than loopback.
pub(super) struct Listening(HashSet<u64>);

impl Listening {
    /// As the network namespace of `pid` shows them.
    pub(super) fn of(pid: Pid) -> Self {
        let mut inodes = HashSet::new();
        for (table, state) in
            [("tcp", TCP_LISTEN), ("tcp6", TCP_LISTEN), ("udp", UDP_UNCONNECTED), ("udp6", UDP_UNCONNECTED)]
        {
            let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            inodes.extend(text.lines().skip(1).filter_map(|line| waiting(line, state)));
        }
        Self(inodes)
    }

    /// Whether `pid` holds one of them.
    pub(super) fn any_of(&self, pid: Pid) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let Ok(folder) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        folder.flatten().take(MAX_FDS).any(|fd| {
            fs::read_link(fd.path()).ok().is_some_and(|link| {
                let link = link.to_string_lossy();
                let inode =
                    link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
                inode.is_some_and(|inode: u64| self.0.contains(&inode))
            })
        })
    }
}

/// The inode of a line of /proc/net/{tcp,udp}[6] in this state, unless bound to loopback.
fn waiting(line: &str, state: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, is) = (fields.next()?, fields.next()?, fields.next()?);
    if is != state {
        return None;
    }
    let address = local.split(':').next()?;
    // Words in host byte order: 127.x.y.z ends in 7F; ::1 ends in 01000000; IPv4-mapped holds FFFF0000 before the IPv4 word.
    let loopback = match address.len() {
        8 => address.ends_with("7F"),
        32 => {
            address == "00000000000000000000000001000000"
                || (address.starts_with("0000000000000000FFFF0000") && address.ends_with("7F"))
        }
        _ => return None,
    };
    if loopback {
        return None;
    }
    fields.nth(5)?.parse().ok()
}
