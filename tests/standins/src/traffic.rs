//! Innocent traffic that an onlooker can judge: a server that echoes and answers names, and a client that asks it all the time and says how
//! long ago each kind of asking last went well.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Where the server echoes.
const ECHO: u16 = 7000;
/// Where it answers names.
const NAMES: u16 = 53;
/// Between two questions, and the longest wait for an answer.
const EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(300);
/// A connection on which nothing has come for so long is given up.
const GIVEN_UP: Duration = Duration::from_secs(90);

/// Echoes on TCP and answers every name with one address, until it is killed.
pub(crate) fn serve() -> Result<()> {
    let echo = TcpListener::bind(("0.0.0.0", ECHO)).context("listen for echoes")?;
    let names = UdpSocket::bind(("0.0.0.0", NAMES)).context("listen for names")?;
    let named = thread::spawn(move || answer_names(&names));
    for client in echo.incoming() {
        let mut client = client.context("accept")?;
        thread::spawn(move || -> std::io::Result<()> {
            let mut bytes = [0; 8];
            loop {
                client.read_exact(&mut bytes)?;
                client.write_all(&bytes)?;
            }
        });
    }
    let _never = named.join();
    Ok(())
}

/// Asks `peer` in three ways and prints ten times a second how many milliseconds ago each last went well: on a connection that is held,
/// on a fresh one, and for a name.
pub(crate) fn probe(peer: Ipv4Addr) -> Result<()> {
    let begun = Instant::now();
    let now = move || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let last = Arc::new([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]);
    let well = |which: usize| {
        let last = Arc::clone(&last);
        move || last[which].store(now(), Ordering::Relaxed)
    };
    let (held, fresh, named) = (well(0), well(1), well(2));
    let echo = SocketAddr::from((peer, ECHO));
    thread::spawn(move || {
        loop {
            let _given_up = hold(echo, &held);
            thread::sleep(EVERY);
        }
    });
    thread::spawn(move || {
        loop {
            if TcpStream::connect_timeout(&echo, PATIENCE)
                .and_then(|mut peer| ask(&mut peer, &mut [0; 8]))
                .is_ok()
            {
                fresh();
            }
            thread::sleep(EVERY);
        }
    });
    thread::spawn(move || {
        loop {
            if ask_name(peer).is_ok() {
                named();
            }
            thread::sleep(EVERY);
        }
    });
    loop {
        let ages = [0, 1, 2].map(|which| now().saturating_sub(last[which].load(Ordering::Relaxed)));
        println!("{}", serde_json::json!({"held": ages[0], "fresh": ages[1], "names": ages[2]}));
        thread::sleep(EVERY * 2);
    }
}

/// One connection, asked again and again as long as it lives: answers that are late are waited for, as an application would.
fn hold(peer: SocketAddr, well: &impl Fn()) -> std::io::Result<()> {
    let mut peer = TcpStream::connect_timeout(&peer, PATIENCE)?;
    peer.set_nodelay(true)?;
    peer.set_read_timeout(Some(GIVEN_UP))?;
    loop {
        peer.write_all(b"question")?;
        peer.read_exact(&mut [0; 8])?;
        well();
        thread::sleep(EVERY);
    }
}

fn ask(peer: &mut TcpStream, answer: &mut [u8; 8]) -> std::io::Result<()> {
    peer.set_read_timeout(Some(PATIENCE))?;
    peer.write_all(b"question")?;
    peer.read_exact(answer)
}

/// The question for the address of `probe.test`.
const QUESTION: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05probe\x04test\x00\x00\x01\x00\x01";

fn ask_name(server: Ipv4Addr) -> std::io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(QUESTION, (server, NAMES))?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let ours = answer
        .get(..length)
        .is_some_and(|answer| answer.starts_with(&QUESTION[..2]) && length > QUESTION.len());
    if ours { Ok(()) } else { Err(std::io::Error::other("an answer to another question")) }
}

/// Every question is answered with 192.0.2.1 (an address for documentation).
fn answer_names(socket: &UdpSocket) -> std::io::Result<()> {
    let mut question = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut question)?;
        let Some(asked) = question.get(..length).filter(|asked| asked.len() > 12) else { continue };
        let mut answer = asked.to_vec();
        // A response with one answer, about the name in the question.
        answer[2] = 0x81;
        answer[3] = 0x80;
        answer[7] = 1;
        answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01");
        socket.send_to(&answer, from)?;
    }
}
