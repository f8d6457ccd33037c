//! The arena's director and the attack's peer: what it prints is what an onlooker from outside can know.

use std::{
    fs,
    io::{BufRead, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{Attack, arena};

/// How often the peer says what it sees.
const PULSE: Duration = Duration::from_millis(10);

/// One line of output.
#[derive(Serialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
enum Seen {
    /// The attacking process was started.
    Started { pid: u32, at_ms: f64 },
    /// It came to its peer.
    Connected { at_ms: f64 },
    /// Bytes from it so far, said every 10 ms.
    Bytes { total: u64, at_ms: f64 },
    /// What a harmless visitor of the web server got.
    Served { answered: Answered, at_ms: f64 },
}

/// Whether somebody answered.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answered {
    Yes,
    No,
}

/// Ends the attack's process with the play, also after a panic.
struct Attacker(Child);

impl Drop for Attacker {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
    }
}

/// What the peer and its reader share.
#[derive(Default)]
struct Peer {
    bytes: AtomicU64,
    stream: Mutex<Option<TcpStream>>,
}

pub(crate) fn play(attack: Attack, cgroup: &str, scratch: &Path) -> Result<()> {
    // An interactive shell takes the terminal that it finds: whoever watches the play would be stopped by it.
    let _leads_a_session_already = rustix::process::setsid();
    arena::enter_own_network()?;
    let cgroup = arena::Cgroup::make(cgroup)?;
    let listener = TcpListener::bind("127.0.0.1:0").context("listen for the attack")?;
    let address = listener.local_addr().context("ask for the listener's port")?;
    let begun = Instant::now();
    let peer: &'static Peer = Box::leak(Box::default());
    thread::spawn(move || receive(&listener, peer, begun));
    let attacker = Attacker(start(attack, address, scratch, &cgroup.procs())?);
    say(&Seen::Started { pid: attacker.0.id(), at_ms: ms(begun) });
    if attack == Attack::WebShadow {
        visit("/run", Duration::from_secs(2));
    }
    let (sender, commands) = mpsc::sync_channel::<String>(16);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        match commands.recv_timeout(PULSE) {
            Ok(command) => obey(&command, peer, begun),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // A shell speaks only when spoken to: ask it all the time.
                if attack == Attack::ReverseShell {
                    poke(peer);
                }
                say(&Seen::Bytes { total: peer.bytes.load(Ordering::Relaxed), at_ms: ms(begun) });
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(attacker);
    drop(cgroup);
    Ok(())
}

/// Starts a copy of this program inside the cgroup. It joins the cgroup itself before it becomes the attack, so that nothing of
/// the attack ever runs outside.
fn start(attack: Attack, peer: SocketAddr, scratch: &Path, procs: &Path) -> Result<Child> {
    fs::create_dir_all(scratch).with_context(|| format!("make {}", scratch.display()))?;
    let (name, arguments): (&str, Vec<String>) = match attack {
        Attack::Miner => (
            "sysupdate",
            vec!["--url".into(), format!("stratum+tcp://{peer}"), "--user".into(), "standin.wallet".into()],
        ),
        Attack::ReverseShell => ("invoice", Vec::new()),
        Attack::Fileless => ("dropper", Vec::new()),
        Attack::WebShadow => ("webserver", Vec::new()),
    };
    let program = scratch.join(name);
    let this = std::env::current_exe().context("find this program")?;
    fs::copy(&this, &program).with_context(|| format!("copy this program to {}", program.display()))?;
    let kind = clap::ValueEnum::to_possible_value(&attack)
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default();
    let mut arguments: Vec<String> = ["run".to_owned(), kind, "--peer".to_owned(), peer.to_string()]
        .into_iter()
        .chain(arguments)
        .collect();
    arguments.insert(0, program.display().to_string());
    // The command is handed over in the environment: on the command line of what joins the cgroup it would look like the attack
    // itself, outside of the cgroup.
    Command::new(&this)
        .arg("join")
        .env(
            JOIN,
            serde_json::to_string(&Join { procs: procs.to_path_buf(), command: arguments })
                .context("write the command")?,
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start the attack")
}

/// Name of the variable that carries a [`Join`].
const JOIN: &str = "HEMOSTAT_STANDIN_JOIN";

/// A cgroup to join, and what to become then.
#[derive(Serialize, Deserialize)]
struct Join {
    procs: PathBuf,
    command: Vec<String>,
}

/// Joins the cgroup and becomes the attack.
pub(crate) fn join() -> Result<()> {
    let join: Join =
        serde_json::from_str(&std::env::var(JOIN).context("what to join")?).context("read what to join")?;
    fs::write(&join.procs, "0").with_context(|| format!("join {}", join.procs.display()))?;
    let (program, arguments) = join.command.split_first().context("a command")?;
    Err(Command::new(program).args(arguments).env_remove(JOIN).exec())
        .with_context(|| format!("exec {program}"))
}

fn receive(listener: &TcpListener, peer: &'static Peer, begun: Instant) {
    for stream in listener.incoming().map_while(Result::ok) {
        say(&Seen::Connected { at_ms: ms(begun) });
        let Ok(mut reader) = stream.try_clone() else { continue };
        if let Ok(mut current) = peer.stream.lock() {
            *current = Some(stream);
        }
        thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                peer.bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
    }
}

fn obey(command: &str, peer: &Peer, begun: Instant) {
    match command {
        "poke" => poke(peer),
        "visit" => {
            let answered = if visit("/", Duration::from_millis(500)) { Answered::Yes } else { Answered::No };
            say(&Seen::Served { answered, at_ms: ms(begun) });
        }
        _ => {}
    }
}

/// Asks the shell to say something. A socket that is full means that nobody reads at the other end: that is an answer, too.
fn poke(peer: &Peer) {
    if let Ok(Some(stream)) = peer.stream.lock().as_deref().map(Option::as_ref) {
        let _full_or_gone = rustix::net::send(stream, b"echo alive\n", rustix::net::SendFlags::DONTWAIT);
    }
}

/// A harmless visitor of the web server.
fn visit(path: &str, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    while Instant::now() < until {
        if let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) {
            let asked = stream
                .set_read_timeout(Some(patience))
                .and_then(|()| stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()));
            let mut answer = [0_u8; 64];
            return asked.is_ok() && stream.read(&mut answer).is_ok_and(|length| length > 0);
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

fn ms(begun: Instant) -> f64 {
    (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// One line of JSON. An onlooker that has gone away ends the play through standard input, not here.
fn say(seen: &Seen) {
    if let Ok(line) = serde_json::to_string(seen) {
        let mut out = std::io::stdout().lock();
        let _onlooker_gone = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
