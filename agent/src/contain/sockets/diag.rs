//! sock_diag(7) in one network namespace: which TCP and UDP sockets there are, and resetting one. And /proc/net, which tells of those
//! that this kernel does not list by sock_diag: UDP where `udp_diag` (CONFIG_INET_UDP_DIAG) is neither built in nor loaded.

use std::{fmt, fs, io, os::fd::OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

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

/// What can be asked of sock_diag here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    const fn tables(self) -> [&'static str; 2] {
        match self {
            Self::Tcp => ["tcp", "tcp6"],
            Self::Udp => ["udp", "udp6"],
        }
    }

    /// What the kernel needs to list them.
    pub(super) const fn needs(self) -> &'static str {
        match self {
            Self::Tcp => "module tcp_diag, CONFIG_INET_TCP_DIAG",
            Self::Udp => "module udp_diag, CONFIG_INET_UDP_DIAG",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// State of a socket (include/net/tcp_states.h; UDP uses two of them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State(u8);

impl State {
    const TIME_WAIT: Self = Self(6);
    const CLOSE: Self = Self(7);
    const LISTEN: Self = Self(10);
    /// A number was bound, and no more (since Linux 6.8).
    const BOUND: Self = Self(13);

    pub(super) fn listens(self) -> bool {
        self == Self::LISTEN
    }

    /// Whether something may still come or go between it and a peer: also while a connection is being made, or closed on one side.
    pub(super) fn has_a_peer(self) -> bool {
        ![Self::TIME_WAIT, Self::CLOSE, Self::LISTEN, Self::BOUND].contains(&self)
    }
}

/// A socket as sock_diag names it.
pub(super) struct Socket {
    family: u8,
    protocol: u8,
    pub(super) state: State,
    pub(super) inode: u32,
    /// `struct inet_diag_sockid`, cookie included: the very socket, not another on the same ports.
    id: [u8; SOCKET_ID],
}

/// A socket that /proc/net tells of and sock_diag does not: it can be seen and not reset.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unlisted {
    pub(super) protocol: Protocol,
    pub(super) state: State,
    pub(super) inode: u32,
}

/// What is in a namespace.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) sockets: Vec<Socket>,
    pub(super) unlisted: Vec<Unlisted>,
}

/// A socket for sock_diag in the network namespace of the thread that opens it.
pub(super) struct Diag {
    socket: OwnedFd,
    sequence: u32,
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All TCP and UDP sockets of the namespace.
    pub(super) fn list(&mut self) -> io::Result<Listed> {
        let mut listed = Listed::default();
        for protocol in Protocol::ALL {
            match self.dump(protocol) {
                Ok(sockets) => listed.sockets.extend(sockets),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    listed.unlisted.extend(told_by_proc(protocol)?)
                }
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }

    /// Both families. `NotFound`: this kernel lists no sockets of this protocol.
    pub(super) fn dump(&mut self, protocol: Protocol) -> io::Result<Vec<Socket>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            self.send(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, protocol.number(), &[0; SOCKET_ID])?;
            self.receive(|body| found.extend(parse(protocol.number(), body)))?;
        }
        Ok(found)
    }

    /// `Ok(false)` when it has gone by itself.
    pub(super) fn destroy(&mut self, socket: &Socket) -> io::Result<bool> {
        self.destroy_by(socket.family, socket.protocol, &socket.id)
    }

    /// Whether sockets of the protocol can be reset, found out by asking for one that is not there.
    pub(super) fn can_destroy(&mut self, protocol: Protocol) -> io::Result<()> {
        // a port and a cookie that no socket has
        let mut id = [0; SOCKET_ID];
        id[SOCKET_ID - 8..].fill(0x7f);
        self.destroy_by(AF_INET, protocol.number(), &id).map(drop)
    }

    fn destroy_by(&mut self, family: u8, protocol: u8, id: &[u8; SOCKET_ID]) -> io::Result<bool> {
        self.send(SOCK_DESTROY, NLM_F_ACK, family, protocol, id)?;
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
            if let Some(end) = answer(&buffer[..length], self.sequence, &mut take) {
                return end;
            }
        }
    }
}

/// Reads one datagram of the answer to message `sequence`. What it ended with, if it did: a dump that failed ends like one that
/// succeeded, with its error in the last message.
fn answer(mut rest: &[u8], sequence: u32, take: &mut impl FnMut(&[u8])) -> Option<io::Result<()>> {
    while let Some((kind, number, body, next)) = split(rest) {
        rest = next;
        if number != sequence {
            continue;
        }
        if kind != NLMSG_DONE && kind != NLMSG_ERROR {
            take(body);
            continue;
        }
        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        return Some(if code < 0 {
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        } else {
            Ok(())
        });
    }
    None
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
    let (family, state) = (*body.first()?, State(*body.get(1)?));
    let id = *body.get(4..)?.first_chunk::<SOCKET_ID>()?;
    let inode = u32::from_ne_bytes(*body.get(4 + SOCKET_ID + 16..)?.first_chunk()?);
    Some(Socket { family, protocol, state, inode, id })
}

/// The sockets of this thread's network namespace, as /proc/net lists them. A family that the kernel does not have has no file.
fn told_by_proc(protocol: Protocol) -> io::Result<Vec<Unlisted>> {
    let mut found = Vec::new();
    for table in protocol.tables() {
        match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Ok(text) => found.extend(text.lines().skip(1).filter_map(|line| row(protocol, line))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A row of /proc/net/tcp or udp: number, local and remote address, state (hex), queues, timer, retransmissions, uid, timeout, inode.
fn row(protocol: Protocol, line: &str) -> Option<Unlisted> {
    let mut words = line.split_ascii_whitespace();
    let state = State(u8::from_str_radix(words.nth(3)?, 16).ok()?);
    let inode = words.nth(5)?.parse().ok()?;
    Some(Unlisted { protocol, state, inode })
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
            assert!(parse(6, &message[HEADER..HEADER + cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_dump_that_ends_with_an_error_is_no_empty_list() {
        let message = |kind: u16, sequence: u32, code: i32| {
            let mut bytes = 20_u32.to_ne_bytes().to_vec();
            bytes.extend([kind.to_ne_bytes(), [2, 0]].concat());
            bytes.extend([sequence.to_ne_bytes(), [0; 4], code.to_ne_bytes()].concat());
            bytes
        };
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            let end = |code| answer(&message(kind, 7, code), 7, &mut |_| panic!("no body"));
            assert!(end(0).unwrap().is_ok());
            let error = end(-2).unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "type {kind}");
            let earlier = answer(&message(kind, 6, -2), 7, &mut |_| panic!("no body"));
            assert!(earlier.is_none(), "of another question");
        }
    }

    #[test]
    fn proc_net_tells_inode_and_state() {
        let line = " 4099: 0100007F:1F90 0100007F:0035 01 00000000:00000000 00:00000000 00000000  1000        0 61234 2 00000000a1 0";
        let found = row(Protocol::Udp, line).unwrap();
        assert_eq!((found.inode, found.state.has_a_peer()), (61_234, true));
        assert_eq!(row(Protocol::Udp, "  sl  local_address rem_address   st"), None);
        let open = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&open).unwrap().st_ino;
        let bound: Vec<_> = told_by_proc(Protocol::Udp)
            .unwrap()
            .into_iter()
            .filter(|one| u64::from(one.inode) == inode)
            .collect();
        assert!(bound.len() == 1 && !bound[0].state.has_a_peer(), "{bound:?}");
    }
}
