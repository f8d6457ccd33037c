//! A program that the tests play like a puppet: it opens sockets and speaks when told, in a cgroup and a network namespace.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::Ground;

/// How long a program waits for a packet before it says that none came. Long against a veth's microseconds.
fn silence() -> Duration {
    Duration::from_millis(400) * super::slowness()
}

/// A program that does what it is told over its stdin.
pub struct Puppet {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Puppet {
    /// In the cgroup (when given) and in a network namespace of its own.
    pub fn new(ground: Option<&Ground>) -> Self {
        Self::start(ground, None)
    }

    /// In no cgroup of a test, and in the network namespace of another.
    pub fn beside(other: &Self) -> Self {
        Self::start(None, Some(std::fs::File::open(format!("/proc/{}/ns/net", other.pid())).unwrap()))
    }

    fn start(ground: Option<&Ground>, namespace: Option<std::fs::File>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "puppet", "--nocapture", "--test-threads=1"]).env("HEMOSTAT_PUPPET", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let procs = ground.map(|ground| {
            std::fs::OpenOptions::new().write(true).open(ground.cgroup.join("cgroup.procs")).unwrap()
        });
        // SAFETY: between fork and exec only write(2), unshare(2) and setns(2) are called, which are async-signal-safe.
        #[expect(unsafe_code, reason = "cgroup and namespace have to be there before the program runs")]
        unsafe {
            command.pre_exec(move || {
                if let Some(mut procs) = procs.as_ref() {
                    procs.write_all(b"0")?;
                }
                match &namespace {
                    Some(namespace) => rustix::thread::move_into_link_name_space(
                        std::os::fd::AsFd::as_fd(namespace),
                        Some(rustix::thread::LinkNameSpaceType::Network),
                    )?,
                    None => rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)?,
                }
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut puppet = Self { child, input, output };
        assert_eq!(puppet.tell("hello"), "ok");
        puppet
    }

    pub fn tell(&mut self, order: &str) -> String {
        writeln!(self.input, "{order}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the program ended");
            // the test harness has its own words on the first line
            if let Some((_, answer)) = line.trim().split_once("> ") {
                return answer.to_owned();
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What the program does. Orders: `echo ADDR`, `connect ADDR`, `connect-in PID ADDR` (in that one's network namespace), `say N`, `udp ADDR` (a socket for one word); and of UDP sockets that stay
/// open: `udp-open ADDR` (to that, not connected), `udp-connect ADDR`, `udp-bind ADDR`, `udp-say N`, `udp-take N`, `udp-peer N`.
pub fn perform() {
    if std::env::var_os("HEMOSTAT_PUPPET").is_none() {
        return;
    }
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut sockets: Vec<Datagrams> = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["hello"] => "ok".to_owned(),
            ["echo", address] => {
                let address: SocketAddr = address.parse().unwrap();
                let (tcp, udp) = (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
                std::thread::spawn(move || {
                    for stream in tcp.incoming() {
                        let mut stream = stream.unwrap();
                        std::thread::spawn(move || {
                            let mut buffer = [0; 64];
                            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                                if stream.write_all(&buffer[..length]).is_err() {
                                    break;
                                }
                            }
                        });
                    }
                });
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                        let _sent = udp.send_to(&buffer[..length], from);
                    }
                });
                "ok".to_owned()
            }
            ["connect", address] => match TcpStream::connect_timeout(&address.parse().unwrap(), silence()) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(silence())).unwrap();
                    streams.push(stream);
                    format!("ok {}", streams.len() - 1)
                }
                Err(error) => word(&error),
            },
            ["connect-in", pid, address] => {
                let connected = in_namespace_of(pid, || TcpStream::connect(address));
                match connected {
                    Ok(stream) => {
                        stream.set_read_timeout(Some(silence())).unwrap();
                        streams.push(stream);
                        format!("ok {}", streams.len() - 1)
                    }
                    Err(error) => word(&error),
                }
            }
            ["say", index] => {
                let stream = &mut streams[index.parse::<usize>().unwrap()];
                exchange(stream).unwrap_or_else(|error| word(&error))
            }
            ["udp", address] => datagram(address.parse().unwrap()).unwrap_or_else(|error| word(&error)),
            [how @ ("udp-open" | "udp-connect" | "udp-bind"), address] => {
                match Datagrams::new(how, address.parse().unwrap()) {
                    Ok(socket) => {
                        sockets.push(socket);
                        format!("ok {}", sockets.len() - 1)
                    }
                    Err(error) => word(&error),
                }
            }
            ["udp-say", index] => {
                sockets[index.parse::<usize>().unwrap()].exchange().unwrap_or_else(|error| word(&error))
            }
            ["udp-take", index] => {
                let taken = sockets[index.parse::<usize>().unwrap()].socket.recv_from(&mut [0; 64]);
                taken.map_or_else(|error| word(&error), |_| "ok".to_owned())
            }
            ["udp-peer", index] => match sockets[index.parse::<usize>().unwrap()].socket.peer_addr() {
                Ok(_) => "ok".to_owned(),
                Err(_) => "none".to_owned(),
            },
            _ => "what?".to_owned(),
        };
        println!("> {answer}");
    }
}

/// Goes into the network namespace of another process, and comes back.
fn in_namespace_of<T>(pid: &str, job: impl FnOnce() -> T) -> T {
    let enter = |namespace: &std::fs::File| {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(namespace), kind).unwrap();
    };
    let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    enter(&std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap());
    let done = job();
    enter(&own);
    done
}

/// Says something that was never said before and waits for the echo of just that: what was sent into a silence arrives later.
fn exchange(stream: &mut TcpStream) -> std::io::Result<String> {
    let word = next_word();
    stream.write_all(&word)?;
    let mut echo = [0; 4];
    loop {
        stream.read_exact(&mut echo)?;
        if echo == word {
            return Ok("ok".to_owned());
        }
    }
}

fn next_word() -> [u8; 4] {
    static WORD: AtomicU32 = AtomicU32::new(1);
    WORD.fetch_add(1, Ordering::Relaxed).to_be_bytes()
}

/// A UDP socket that stays open.
struct Datagrams {
    socket: UdpSocket,
    /// Whom it speaks to without being connected.
    to: Option<SocketAddr>,
}

impl Datagrams {
    fn new(how: &str, address: SocketAddr) -> std::io::Result<Self> {
        let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
        let socket = UdpSocket::bind(if how == "udp-bind" { address } else { (any, 0).into() })?;
        socket.set_read_timeout(Some(silence()))?;
        if how == "udp-connect" {
            socket.connect(address)?;
        }
        Ok(Self { socket, to: (how == "udp-open").then_some(address) })
    }

    /// Waits for the echo of just what it says.
    fn exchange(&self) -> std::io::Result<String> {
        let word = next_word();
        match self.to {
            Some(to) => self.socket.send_to(&word, to)?,
            None => self.socket.send(&word)?,
        };
        let mut echo = [0; 4];
        while word != echo {
            self.socket.recv(&mut echo)?;
        }
        Ok("ok".to_owned())
    }
}

fn datagram(to: SocketAddr) -> std::io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(silence()))?;
    socket.send_to(b"ping", to)?;
    let mut buffer = [0; 4];
    socket.recv_from(&mut buffer)?;
    Ok("ok".to_owned())
}

fn word(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "refused".to_owned(),
        std::io::ErrorKind::ConnectionAborted => "aborted".to_owned(),
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "silence".to_owned(),
        _ => format!("{error}"),
    }
}
