//! What other processes do on the network for the checks of `net.rs`. Everything stays on loopback; what needs fixed ports
//! or many of them has a network namespace of its own.
#![expect(unsafe_code, reason = "system calls that no safe wrapper gives")]
#![expect(clippy::print_stdout, reason = "how the actor answers")]

use std::{
    ffi::CString,
    fs, io,
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::ExitCode,
};

use crate::{
    Failure,
    actor::{fork, wait},
};

/// Plays the part that the words name.
pub(crate) fn help(words: &[&str]) -> Result<ExitCode, Failure> {
    match words {
        ["tcp", kind] => tcp(kind)?,
        ["refused"] => refused()?,
        ["reset"] => reset()?,
        ["udp", kind] => udp(kind)?,
        ["dns"] => dns()?,
        ["resolver"] => return resolver(),
        ["filter"] => filter()?,
        ["storm", each] => storm(each.parse()?)?,
        other => return Err(format!("no such part: {other:?}").into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The child's end as a result.
fn succeeded(pid: i32) -> Result<(), Failure> {
    match wait(pid)? {
        0 => Ok(()),
        status => Err(format!("the other side ended with {status:#x}").into()),
    }
}

fn tcp(kind: &str) -> Result<(), Failure> {
    let listener = match kind {
        "v4" => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
        "v6" => TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?,
        _ => TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    let port = listener.local_addr()?.port();
    let to: SocketAddr = match kind {
        "v4" => (Ipv4Addr::LOCALHOST, port).into(),
        "v6" => (Ipv6Addr::LOCALHOST, port).into(),
        _ => (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port).into(),
    };
    let client = fork(|| {
        let talk = || -> io::Result<()> {
            let mut stream = TcpStream::connect(to)?;
            stream.write_all(&[7; 1000])?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = vec![0; 250_000];
            stream.read_exact(&mut answer)?;
            match stream.read(&mut answer)? {
                0 => Ok(()),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        };
        i32::from(talk().is_err())
    })?;
    let (mut stream, from) = listener.accept()?;
    io::copy(&mut stream, &mut io::sink())?;
    stream.write_all(&vec![9; 250_000])?;
    drop(stream);
    succeeded(client)?;
    println!("{client} {port} {}", from.port());
    Ok(())
}

fn refused() -> Result<(), Failure> {
    // A port that was free a moment ago.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if TcpStream::connect(to).is_ok()
        || TcpStream::connect_timeout(&to, std::time::Duration::from_secs(5)).is_ok()
    {
        return Err("somebody listens".into());
    }
    println!("{port}");
    Ok(())
}

/// Closes a stream with a reset.
fn close_hard(stream: TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value lives during the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn reset() -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let (mut go, mut wait_go) = io::pipe()?.swap();
    let client = fork(|| {
        let mut talk = || -> io::Result<()> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.write_all(&[1; 10])?;
            // Until the server has read it: a reset would take it away.
            wait_go.read_exact(&mut [0])?;
            close_hard(stream)
        };
        i32::from(talk().is_err())
    })?;
    let (mut stream, from) = listener.accept()?;
    stream.read_exact(&mut [0; 10])?;
    go.write_all(&[1])?;
    succeeded(client)?;
    // The reset has ended the connection; the descriptor is still open.
    if stream.read(&mut [0]).is_ok() {
        return Err("the connection was not reset".into());
    }
    println!("{client} {port} {}", from.port());
    Ok(())
}

/// Both ends of a pipe, the writing one first.
trait Swap {
    fn swap(self) -> (io::PipeWriter, io::PipeReader);
}

impl Swap for (io::PipeReader, io::PipeWriter) {
    fn swap(self) -> (io::PipeWriter, io::PipeReader) {
        (self.1, self.0)
    }
}

fn udp(kind: &str) -> Result<(), Failure> {
    let any: SocketAddr =
        if kind == "v4" { (Ipv4Addr::LOCALHOST, 0).into() } else { (Ipv6Addr::LOCALHOST, 0).into() };
    let server = UdpSocket::bind(any)?;
    let to = server.local_addr()?;
    let mut buffer = [0; 512];
    let connected = UdpSocket::bind(any)?;
    connected.connect(to)?;
    let first = connected.local_addr()?.port();
    for _ in 0..3 {
        connected.send(&[1; 100])?;
        server.recv_from(&mut buffer)?;
    }
    server.send_to(&[2; 50], (to.ip(), first))?;
    connected.recv(&mut buffer)?;
    drop(connected);
    let unconnected = UdpSocket::bind(any)?;
    for _ in 0..2 {
        unconnected.send_to(&[1; 200], to)?;
        server.recv_from(&mut buffer)?;
    }
    let second = unconnected.local_addr()?.port();
    drop(unconnected);
    println!("{} {first} {second}", to.port());
    Ok(())
}

/// Goes into a network namespace of its own, with loopback up.
fn own_network() -> Result<(), Failure> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: this process has one thread and shares no file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: struct ifreq: 16 bytes of name, then the flags.
    unsafe {
        let mut request = [0_u8; 40];
        request[..2].copy_from_slice(b"lo");
        let flags = (libc::IFF_UP | libc::IFF_RUNNING) as u16;
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, request.as_mut_ptr()) != 0 {
            return Err(Box::new(io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// A DNS query: header with one question, labels as given, type, class IN.
fn query(labels: &[&[u8]], kind: u16) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        message.push(label.len() as u8);
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn dns() -> Result<(), Failure> {
    own_network()?;
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    client.connect((Ipv4Addr::LOCALHOST, 53))?;
    client.send(&query(&[b"WWW", b"Example", b"test"], 1))?;
    let loose = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    loose.send_to(&query(&[b"unconnected", b"test"], 28), (Ipv4Addr::LOCALHOST, 53))?;
    client.send(&query(&[&[b'l'; 63], &[b'l'; 63], &[b'l'; 63], &[b'm'; 61]], 16))?;
    client.send(&query(&[b"\xff\0 .x"], 1))?;
    // A pointer to itself where a label should stand.
    let mut endless = query(&[b"loop"], 1);
    endless.truncate(17);
    endless.extend([0xc0, 17]);
    client.send(&endless)?;
    // No questions: too short, a response, none in it.
    client.send(&[1, 2, 3])?;
    let mut response = query(&[b"response"], 1);
    response[2] |= 0x80;
    client.send(&response)?;
    let mut empty = query(&[b"empty"], 1);
    empty[5] = 0;
    client.send(&empty)?;
    // An answer of the server is none either, though it leaves port 53.
    server.send_to(&response, client.local_addr()?)?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 53))?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 53))?;
    let message = query(&[b"over", b"tcp", b"test"], 15);
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed)?;
    let (mut other, _) = listener.accept()?;
    other.read_exact(&mut framed)?;

    let six = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?;
    let _server = UdpSocket::bind((Ipv6Addr::LOCALHOST, 53))?;
    six.send_to(&query(&[b"six", b"test"], 1), (Ipv6Addr::LOCALHOST, 53))?;
    Ok(())
}

/// The C library's resolver, led by a resolv.conf of its own to a listener that answers "no such name".
fn resolver() -> Result<ExitCode, Failure> {
    use rustix::{
        mount::*,
        thread::{UnshareFlags, unshare_unsafe},
    };
    if fs::metadata("/etc/resolv.conf").is_err() {
        return Ok(ExitCode::from(77));
    }
    own_network()?;
    // SAFETY: as in `own_network`.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let conf = std::env::temp_dir().join(format!("hemostat-resolv-{}", std::process::id()));
    fs::write(&conf, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
    let bound = mount_bind(&conf, "/etc/resolv.conf");
    fs::remove_file(&conf)?;
    bound?;
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = server.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            buffer[3] = 3;
            let _ = server.send_to(&buffer[..len], from);
        }
    });
    let name = CString::new("Hemostat-Probe.Example.test")?;
    let hints = libc::addrinfo {
        ai_flags: 0,
        ai_family: libc::AF_INET,
        ai_socktype: libc::SOCK_STREAM,
        ai_protocol: 0,
        ai_addrlen: 0,
        ai_addr: std::ptr::null_mut(),
        ai_canonname: std::ptr::null_mut(),
        ai_next: std::ptr::null_mut(),
    };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers live during the call.
    let result =
        unsafe { libc::getaddrinfo(name.as_ptr(), std::ptr::null(), &raw const hints, &raw mut found) };
    if result == 0 { Err("there is such a name".into()) } else { Ok(ExitCode::SUCCESS) }
}

fn filter() -> Result<(), Failure> {
    own_network()?;
    let to: [SocketAddr; 4] = [
        ([127, 1, 0, 1], 4444).into(),
        ([127, 2, 0, 1], 4444).into(),
        ([127, 1, 0, 2], 4445).into(),
        (Ipv6Addr::LOCALHOST, 4446).into(),
    ];
    for addr in to {
        // Nobody listens: the attempt is what counts.
        let _ = TcpStream::connect(addr);
    }
    Ok(())
}

const PORTS: usize = 4;

fn storm(each: u32) -> Result<(), Failure> {
    own_network()?;
    let listeners =
        (0..PORTS).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<Vec<_>>>()?;
    let ports = listeners.iter().map(|it| Ok(it.local_addr()?.port())).collect::<io::Result<Vec<_>>>()?;
    let mut workers = Vec::new();
    for port in &ports {
        workers.push(fork(|| {
            let knock = || -> io::Result<()> {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
                stream.write_all(b"abc")?;
                // The server has read all: nothing is taken away by a reset.
                match stream.read(&mut [0])? {
                    0 => close_hard(stream),
                    _ => Err(io::ErrorKind::InvalidData.into()),
                }
            };
            i32::from((0..each).any(|_| knock().is_err()))
        })?);
    }
    let serve = |listener: TcpListener| -> io::Result<()> {
        for _ in 0..each {
            let (mut stream, _) = listener.accept()?;
            stream.read_exact(&mut [0; 3])?;
            stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            listeners.into_iter().map(|listener| scope.spawn(move || serve(listener))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result.map_err(Failure::from),
            Err(_) => Err("a thread failed".into()),
        })
    })?;
    for worker in &workers {
        succeeded(*worker)?;
    }
    settled()?;
    let words: Vec<String> =
        ports.iter().map(ToString::to_string).chain(workers.iter().map(ToString::to_string)).collect();
    println!("{}", words.join(" "));
    Ok(())
}

/// Waits until no connection of this network namespace is on its way any more: a busy machine puts the last resets off, and
/// with the namespace they would go unprocessed. There is nothing to wait on but the table itself.
fn settled() -> Result<(), Failure> {
    for _ in 0..12_000 {
        let table = fs::read_to_string("/proc/self/net/tcp")?;
        // State 06 is TIME_WAIT, 0A LISTEN.
        let done = |line: &str| matches!(line.split_whitespace().nth(3), Some("06" | "0A"));
        if table.lines().skip(1).all(done) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Err("connections are still on their way after 60 s".into())
}
