//! Datagrams of flow exporters. Who is not on the list is not heard; who floods overflows his own lane.
//!
//! The sender of a datagram can be forged, so the port belongs on a network of its own; templates are kept by address and port, so that a forger
//! would have to guess that too to change how an exporter's data is read.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::net::UdpSocket;

use super::{
    super::{
        flow::{Decoded, Exporters, Flow},
        inbox::{Durable, Entry, InboxError, Key},
        spec::UdpDoor,
    },
    Backoff, Post, Stopped,
    desk::Count,
    fair::Fair,
};

/// Datagrams of one exporter that wait.
const MAX_WAITING: usize = 512;

/// Datagrams taken from the socket, and then from the lanes, before the other has its turn. More is taken in than is decoded, so that the
/// system's own queue, which knows no lanes, stays short.
const TAKE: usize = 512;
const DECODE: usize = 128;

/// What the system is asked to queue, in bytes.
const SYSTEM_QUEUE: usize = 8 << 20;

/// How often what was written is made durable and the system's losses are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Reads until it is told to stop.
pub(super) async fn serve(door: &UdpDoor, post: &Post) {
    let mut backoff = Backoff::new();
    loop {
        match UdpSocket::bind(door.listen).await {
            Ok(socket) => {
                post.desk.blind(None);
                // What is granted is the system's to say; losses are counted.
                let _granted = set_socket_recv_buffer_size(&socket, SYSTEM_QUEUE);
                let mut receiver = Receiver::new(door, post);
                receiver.receive(&socket).await;
                return;
            }
            Err(error) => post.desk.blind(Some(format!("cannot listen on {}: {error}", door.listen))),
        }
        if post.rest(backoff.next()).await == Stopped::Yes {
            return;
        }
    }
}

struct Receiver<'a> {
    from: &'a [IpNet],
    post: &'a Post,
    lanes: Fair<(SocketAddr, Box<[u8]>)>,
    exporters: Exporters,
    /// What the system had thrown away when that was last asked.
    dropped: Option<u64>,
}

impl<'a> Receiver<'a> {
    fn new(door: &'a UdpDoor, post: &'a Post) -> Self {
        let (lanes, exporters) = (Fair::new(MAX_WAITING), Exporters::default());
        Self { from: &door.from, post, lanes, exporters, dropped: None }
    }

    async fn receive(&mut self, socket: &UdpSocket) {
        let mut tick = tokio::time::interval(TICK);
        let mut buffer = vec![0; 1 << 16];
        loop {
            tokio::select! {
                biased;
                () = self.post.stop.cancelled() => break,
                _ = tick.tick() => self.look_around(socket),
                () = std::future::ready(()), if !self.lanes.is_empty() => {}
                // A socket that fails is tried again at the next turn.
                _ready = socket.readable() => {}
            }
            self.take(&mut buffer, |buffer| socket.try_recv_from(buffer));
            self.decode();
        }
        // What was taken from the socket is not lost by stopping.
        while !self.lanes.is_empty() {
            self.decode();
        }
        self.look_around(socket);
    }

    /// From the socket into the lanes.
    fn take(
        &mut self,
        buffer: &mut [u8],
        mut next: impl FnMut(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
    ) {
        for _ in 0..TAKE {
            let Ok((length, from)) = next(buffer) else { return };
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            if !self.from.iter().any(|network| network.contains(&from.ip())) {
                let what = format!("a datagram of {}, who is not among the exporters", from.ip());
                self.post.desk.note(Count::Stranger, 1, self.post.now(), what);
                continue;
            }
            if self.lanes.push(from.ip(), (from, buffer[..length].into())).is_err() {
                let what = format!("a datagram of {}, who sends more than is read", from.ip());
                self.post.desk.note(Count::Lost, 1, self.post.now(), what);
            }
        }
    }

    /// From the lanes into the inbox, each exporter by turns.
    fn decode(&mut self) {
        let now = self.post.now();
        for _ in 0..DECODE {
            let Some((ip, (from, datagram))) = self.lanes.pop() else { return };
            self.post.desk.count(Count::Received, 1);
            let mut decoded = Decoded::default();
            let outcome = self.exporters.datagram(from, &datagram, now, &mut decoded);
            self.tell(ip, &decoded);
            let lines: Vec<Vec<u8>> = decoded.flows.iter().filter_map(line).collect();
            let mut entries: Vec<Entry<'_>> =
                lines.iter().map(|line| Entry { key: Key::NONE, body: Ok(line) }).collect();
            if let Err(why) = outcome {
                entries.push(Entry { key: Key::NONE, body: Err((why, &datagram)) });
            }
            if entries.is_empty() {
                continue;
            }
            let records = entries.len() as u64;
            match self.post.inbox.append(now, &ip.to_string(), &entries, Durable::Later) {
                Ok(_) => {}
                // Nobody can be told to come again.
                Err(error @ (InboxError::Full { .. } | InboxError::Io { .. })) => {
                    self.post.desk.note(Count::Lost, records, now, format!("of {ip}: {error}"));
                }
            }
        }
    }

    fn tell(&self, ip: IpAddr, decoded: &Decoded) {
        let (desk, now) = (&self.post.desk, self.post.now());
        if decoded.lost > 0 {
            let what = format!("{} before a datagram of {ip}, by the numbers that it carries", decoded.lost);
            desk.note(Count::Lost, decoded.lost, now, what);
        }
        if decoded.unknown > 0 {
            desk.note(
                Count::Unknown,
                decoded.unknown,
                now,
                format!("data of {ip} whose template has not come yet"),
            );
        }
        desk.count(Count::Repeated, decoded.repeated);
        if let Some(ahead) = decoded.skew {
            let what = format!("the clock of exporter {ip} is {ahead} s ahead: its flows are dated by ours");
            desk.fact("clock", Some(what));
        }
        if let Some(interval) = decoded.sampling {
            desk.fact("sampling", Some(format!("exporter {ip} looks at one packet in {interval} only")));
        }
    }

    fn look_around(&mut self, socket: &UdpSocket) {
        if let Err(error) = self.post.inbox.sync() {
            tracing::error!(%error, "flows cannot be made durable");
        }
        let known = self.exporters.len();
        tracing::trace!(exporters = known, "flow exporters");
        let Some(dropped) = dropped_by_system(socket) else { return };
        let before = self.dropped.replace(dropped).unwrap_or(0);
        if dropped > before {
            let what = format!("{} datagrams, by the system, whose queue was full", dropped - before);
            self.post.desk.note(Count::Lost, dropped - before, self.post.now(), what);
        }
    }
}

fn line(flow: &Flow) -> Option<Vec<u8>> {
    serde_json::to_vec(flow).ok()
}

/// The last column of /proc/net/udp and udp6 (Linux, net/ipv4/udp.c: udp4_format_sock), by the socket's inode.
fn dropped_by_system(socket: &UdpSocket) -> Option<u64> {
    let inode = rustix::fs::fstat(socket).ok()?.st_ino.to_string();
    ["/proc/net/udp", "/proc/net/udp6"].into_iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let row = text.lines().map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
        let row = row.into_iter().find(|row| row.get(9) == Some(&inode.as_str()))?;
        row.last()?.parse().ok()
    })
}
