//! io_uring: what is done through a ring is told as what is done by system calls is, once.
#![expect(unsafe_code, reason = "system calls in the very form that is tested")]
#![expect(clippy::print_stdout, reason = "how the actor answers")]

use std::{
    ffi::CString,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, IntoRawFd},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use model::{Activity, Created, EventClass, FilePath, Flow, LinkKind, Pid, Protocol, Truncated};

use crate::{
    Check, Failure,
    file::Folder,
    ring::{
        ACCEPT, ASYNC, CONNECT, LINK, LINKAT, MKDIRAT, NOP, OPENAT, OPENAT2, RENAMEAT, Request, Ring,
        SETUP_SQPOLL, SKIP, SYMLINKAT, UNLINKAT,
    },
    scene::{PATIENCE, Scene, Skip, acts, same},
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "io_uring: what is done to files is told as by system calls, once", run: files },
    Check { name: "io_uring: accept and connect are told as by system calls, once", run: sockets },
];

const FILES: [EventClass; 6] = [
    EventClass::FileOpen,
    EventClass::FileDelete,
    EventClass::FileRename,
    EventClass::FileLink,
    EventClass::FileMode,
    EventClass::FileOwner,
];
/// The actor's answer where the kernel gives no ring, or not of this kind.
const NO_RING: u8 = 77;
const AT_FDCWD: i32 = libc::AT_FDCWD;
/// IORING_FILE_INDEX_ALLOC.
const ANY_PLACE: u32 = u32::MAX;

fn files(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&FILES)?;
    scene.needs(EventClass::FileDelete)?;
    for way in ["calls", "ring", "async", "sqpoll", "skip", "overflow", "fixed", "fixed-any"] {
        let dir = Folder::new("uring")?;
        let lost = lost(scene, &FILES)?;
        let ((pid, _), records) = scene.during(|_| play(&["files", way, dir.path()]))?;
        let Some(pid) = pid else {
            // Every kernel makes system calls; a kernel that has rings has the plain one.
            let what = format!("this kernel gives no io_uring ({way})");
            if way == "ring" {
                return Err(Box::new(Skip(what)));
            }
            println!("  SKIPPED {what}");
            continue;
        };
        let at = |name: &str| FilePath { path: format!("{}/{name}", dir.path()), truncated: Truncated::No };
        let text = |text: &str| FilePath { path: text.into(), truncated: Truncated::No };
        let open = |name: &str, flags: i32, created| Activity::FileOpen {
            file: at(name),
            flags: flags as u32,
            created,
        };
        // Who is told when it is asked does not know yet whether there was such a file.
        let created = if way == "skip" { Created::No } else { Created::Yes };
        let expected = [
            open("a", libc::O_CREAT | libc::O_WRONLY, created),
            open("a", libc::O_RDONLY, Created::No),
            Activity::FileLink { target: at("a"), link: at("sub/hard"), kind: LinkKind::Hard },
            Activity::FileLink { target: text("../x/y"), link: at("soft"), kind: LinkKind::Symbolic },
            Activity::FileRename { from: at("a"), to: at("sub/b") },
            Activity::FileDelete { file: at("sub/hard") },
            Activity::FileDelete { file: at("soft") },
            Activity::FileDelete { file: at("gone") },
        ];
        let opened = |activity: &&Activity| !matches!(activity, Activity::FileOpen { file, .. } if file.path != at("a").path);
        let found: Vec<&Activity> = acts(&records, pid).into_iter().filter(opened).collect();
        same(way, &found, &expected.iter().collect())?;
        // Others on this machine may lose something, too; that must be looked at.
        same(&format!("{way}: lost"), &crate::uring::lost(scene, &FILES)?, &lost)?;
    }
    Ok(())
}

fn sockets(scene: &mut Scene) -> Result<(), Failure> {
    let classes = [EventClass::Accept, EventClass::Connect];
    scene.all_of(&classes)?;
    scene.needs(EventClass::Accept)?;
    for way in ["calls", "ring", "async", "sqpoll", "many", "overflow", "fixed", "fixed-any", "skip"] {
        let before = lost(scene, &[EventClass::Accept])?;
        let ((pid, numbers), records) = scene.during(|_| play(&["sockets", way]))?;
        let Some(pid) = pid else {
            let what = format!("this kernel gives no io_uring ({way})");
            if way == "ring" {
                return Err(Box::new(Skip(what)));
            }
            println!("  SKIPPED {what}");
            continue;
        };
        let end = |port: u16| model::Endpoint { addr: IpAddr::V4(Ipv4Addr::LOCALHOST), port };
        let (port, clients) = numbers.split_first().ok_or("the actor said nothing")?;
        let found = acts(&records, pid);
        let connects: Vec<&Activity> =
            found.iter().copied().filter(|activity| matches!(activity, Activity::Connect(_))).collect();
        let connect = Activity::Connect(Flow {
            protocol: Protocol::Tcp,
            local: model::Endpoint { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 },
            remote: end(*port),
        });
        same(&format!("{way}: connects"), &connects, &vec![&connect; clients.len()])?;
        let expected: Vec<Activity> = clients
            .iter()
            .map(|client| {
                let (local, remote) = (end(*port), end(*client));
                Activity::Accept(Flow { protocol: Protocol::Tcp, local, remote })
            })
            .collect();
        let mut accepts: Vec<&Activity> =
            found.iter().copied().filter(|activity| matches!(activity, Activity::Accept(_))).collect();
        accepts.sort_by_key(|activity| expected.iter().position(|wanted| wanted == *activity));
        let counted = lost(scene, &[EventClass::Accept])? - before;
        if way == "skip" && accepts.is_empty() {
            // Nothing but the function's own return tells of it: where that has no hook, it is counted.
            same("accepts that nobody will tell of", &counted, &(clients.len() as u64))?;
        } else {
            same(&format!("{way}: accepts"), &accepts, &expected.iter().collect())?;
            same(&format!("{way}: lost"), &counted, &0)?;
        }
    }
    Ok(())
}

fn lost(scene: &Scene, classes: &[EventClass]) -> Result<u64, Failure> {
    let counts = scene.probes.counts()?;
    Ok(classes.iter().filter_map(|class| counts.get(class)).map(model::ClassCount::lost).sum())
}

/// Runs an actor of this file; its process id if it could do what it was to do, and what it said.
fn play(words: &[&str]) -> Result<(Option<Pid>, Vec<u16>), Failure> {
    let words: Vec<&str> = std::iter::once("uring").chain(words.iter().copied()).collect();
    let child = crate::scene::command(&words).stdout(std::process::Stdio::piped()).spawn()?;
    let pid = Pid(child.id());
    let output = child.wait_with_output()?;
    match output.status.code() {
        Some(0) => {}
        Some(code) if code == i32::from(NO_RING) => return Ok((None, vec![])),
        _ => return Err(format!("actor {words:?} ended with {}", output.status).into()),
    }
    let said = String::from_utf8(output.stdout)?;
    Ok((Some(pid), said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?))
}

/// What the checks above have done by another process.
pub(crate) fn help(words: &[&str]) -> Result<ExitCode, Failure> {
    match words {
        ["files", way, dir] => do_files(way, dir),
        ["sockets", way] => do_sockets(way),
        other => Err(format!("no such part: {other:?}").into()),
    }
}

/// How something is done.
enum Way {
    Calls,
    /// By a ring, with these flags.
    Ring(Ring, u8),
    /// The same into the ring's own table.
    Fixed(Ring, u32),
    /// By a ring that has no room for what it has to say.
    Full(Ring),
}

impl Way {
    fn of(name: &str) -> Result<Option<Self>, Failure> {
        let setup = if name == "sqpoll" { SETUP_SQPOLL } else { 0 };
        let full = name == "overflow";
        if name == "calls" {
            return Ok(Some(Self::Calls));
        }
        let Some(ring) = Ring::new(setup, full.then_some(1)) else { return Ok(None) };
        Ok(Some(match name {
            "ring" | "sqpoll" | "many" => Self::Ring(ring, 0),
            "async" => Self::Ring(ring, ASYNC),
            "skip" => Self::Ring(ring, SKIP),
            "overflow" => {
                // Its one place is taken.
                ring.submit(&[Request { opcode: NOP, user_data: u64::MAX, ..Request::default() }], 1)?;
                Self::Full(ring)
            }
            "fixed" | "fixed-any" => {
                ring.register_files(8)?;
                Self::Fixed(ring, if name == "fixed" { 1 } else { ANY_PLACE })
            }
            other => return Err(format!("no such way: {other}").into()),
        }))
    }
}

/// One thing to do to files.
#[derive(Clone, Copy)]
struct Act<'a> {
    opcode: u8,
    dirs: [i32; 2],
    names: [&'a CString; 2],
    flags: i32,
}

fn do_files(way: &str, dir: &str) -> Result<ExitCode, Failure> {
    let Some(way) = Way::of(way)? else { return Ok(ExitCode::from(NO_RING)) };
    std::env::set_current_dir(dir)?;
    fs::create_dir("sub")?;
    let sub = fs::File::open("sub")?.into_raw_fd();
    let c = |text: &str| CString::new(text);
    let (a, b, hard, soft, target, gone) =
        (c("a")?, c("b")?, c("hard")?, c("./soft")?, c("../x/y")?, c("sub/../gone")?);
    let (missing, none) = (c("missing")?, c("")?);
    let (here, cwd) = ([AT_FDCWD, AT_FDCWD], [AT_FDCWD, sub]);
    let act = |opcode, dirs, names, flags| Act { opcode, dirs, names, flags };
    let there = |path: &str| Path::new(path).exists() || Path::new(path).is_symlink();
    let steps: [(Act<'_>, &dyn Fn() -> bool); 9] = [
        (act(OPENAT, here, [&a, &none], libc::O_CREAT | libc::O_WRONLY), &|| there("a")),
        (act(OPENAT2, here, [&a, &none], libc::O_RDONLY), &|| true),
        (act(LINKAT, cwd, [&a, &hard], 0), &|| there("sub/hard")),
        (act(SYMLINKAT, here, [&target, &soft], 0), &|| there("soft")),
        (act(RENAMEAT, cwd, [&a, &b], 0), &|| there("sub/b")),
        (act(UNLINKAT, [sub, 0], [&hard, &none], 0), &|| !there("sub/hard")),
        (act(UNLINKAT, here, [&soft, &none], 0), &|| !there("soft")),
        (act(MKDIRAT, here, [&gone, &none], 0o700), &|| there("gone")),
        (act(UNLINKAT, here, [&gone, &none], libc::AT_REMOVEDIR), &|| !there("gone")),
    ];
    let steps_taken = steps.len();
    for (number, (act, done)) in steps.into_iter().enumerate() {
        if !perform(&way, act, number as u64)? {
            return Ok(ExitCode::from(NO_RING));
        }
        // Where nothing says that it is done, its effect does.
        let begun = Instant::now();
        while !done() {
            if begun.elapsed() > PATIENCE {
                return Err(format!("step {number} had no effect").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    if let Way::Full(ring) = &way {
        // Who waits for a completion that does not come ends by a signal.
        // SAFETY: a number.
        unsafe { libc::alarm(PATIENCE.as_secs() as u32) };
        // The kernel keeps what the ring has no room for. Whoever ended before all is said would leave it to the kernel's own threads.
        for _ in 0..=steps_taken {
            while ring.completion().is_none() {
                ring.submit(&[], 1)?;
            }
        }
    }
    // What fails is not told; who asks for no completion is told when it asks, so it does not fail here.
    if !matches!(way, Way::Full(_)) && !matches!(way, Way::Ring(_, SKIP)) {
        for (number, failing) in [
            act(UNLINKAT, here, [&missing, &none], 0),
            act(RENAMEAT, here, [&missing, &b], 0),
            act(LINKAT, here, [&missing, &b], 0),
        ]
        .into_iter()
        .enumerate()
        {
            if perform(&way, failing, 100 + number as u64).is_ok() {
                return Err("what cannot be done was done".into());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does it; `false` where the ring does not know it.
fn perform(way: &Way, act: Act<'_>, number: u64) -> Result<bool, Failure> {
    let how: [u64; 3] = [act.flags as u64, 0, 0];
    // In memory of its own, which is overwritten as soon as the request has been taken over.
    let mut first = act.names[0].as_bytes_with_nul().to_vec();
    let mut second = act.names[1].as_bytes_with_nul().to_vec();
    let [one, two] = [first.as_ptr() as u64, second.as_ptr() as u64];
    let request = match act.opcode {
        OPENAT => Request {
            fd: act.dirs[0],
            address: one,
            len: 0o600,
            op_flags: act.flags as u32,
            ..Request::default()
        },
        OPENAT2 => Request {
            fd: act.dirs[0],
            address: one,
            len: size_of_val(&how) as u32,
            second: how.as_ptr() as u64,
            ..Request::default()
        },
        UNLINKAT => {
            Request { fd: act.dirs[0], address: one, op_flags: act.flags as u32, ..Request::default() }
        }
        MKDIRAT => Request { fd: act.dirs[0], address: one, len: act.flags as u32, ..Request::default() },
        SYMLINKAT => Request { fd: act.dirs[1], address: one, second: two, ..Request::default() },
        _ => Request {
            fd: act.dirs[0],
            address: one,
            second: two,
            len: act.dirs[1] as u32,
            op_flags: act.flags as u32,
            ..Request::default()
        },
    };
    let request = Request { opcode: act.opcode, user_data: number, ..request };
    let opening = matches!(act.opcode, OPENAT | OPENAT2);
    let result = match way {
        Way::Calls => call(act, &how),
        Way::Ring(ring, SKIP) => {
            // What comes behind it says when it is done.
            let (asked, then) =
                (Request { flags: SKIP | LINK, ..request }, Request { opcode: NOP, ..Request::default() });
            ring.submit(&[asked, then], 1)?;
            ring.completion().map_or(-1, |(_, result, _)| result)
        }
        Way::Ring(ring, flags) => {
            let asked = Request { flags: *flags, ..request };
            if *flags == 0 {
                ring.run(asked)?
            } else {
                ring.submit(&[asked], 0)?;
                if *flags == ASYNC {
                    first.fill(b'?');
                    second.fill(b'?');
                }
                ring.submit(&[], 1)?;
                ring.completion().map_or(-1, |(_, result, _)| result)
            }
        }
        Way::Fixed(ring, place) => {
            let file_index = if opening { *place } else { 0 };
            ring.run(Request { file_index, ..request })?
        }
        Way::Full(ring) => {
            ring.submit(&[request], 0)?;
            0
        }
    };
    if result == -libc::EINVAL || result == -libc::EOPNOTSUPP {
        return Ok(false);
    }
    if result < 0 {
        return Err(Box::new(io::Error::from_raw_os_error(-result)));
    }
    Ok(true)
}

/// By a system call: its result, or a negative errno.
fn call(act: Act<'_>, how: &[u64; 3]) -> i32 {
    let ([from, to], [one, two]) = (act.dirs, act.names.map(|name| name.as_ptr()));
    // SAFETY: texts and structure live during the call.
    let result = unsafe {
        match act.opcode {
            OPENAT => libc::syscall(libc::SYS_openat, from, one, act.flags, 0o600),
            OPENAT2 => libc::syscall(libc::SYS_openat2, from, one, how.as_ptr(), size_of_val(how)),
            UNLINKAT => libc::syscall(libc::SYS_unlinkat, from, one, act.flags),
            MKDIRAT => libc::syscall(libc::SYS_mkdirat, from, one, act.flags),
            SYMLINKAT => libc::syscall(libc::SYS_symlinkat, one, to, two),
            RENAMEAT => libc::syscall(libc::SYS_renameat2, from, one, to, two, act.flags),
            _ => libc::syscall(libc::SYS_linkat, from, one, to, two, act.flags),
        }
    };
    if result < 0 { -io::Error::last_os_error().raw_os_error().unwrap_or(1) } else { result as i32 }
}

/// Connects and accepts; says the listener's port and those of the clients.
fn do_sockets(name: &str) -> Result<ExitCode, Failure> {
    const CLIENTS: u64 = 3;
    /// IORING_ACCEPT_MULTISHOT.
    const MANY: u16 = 1;
    let Some(way) = Way::of(name)? else { return Ok(ExitCode::from(NO_RING)) };
    // Who waits for a completion that does not come ends by a signal.
    // SAFETY: a number.
    unsafe { libc::alarm(PATIENCE.as_secs() as u32) };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let fd = listener.as_raw_fd();
    let mut clients = Vec::new();
    let accept = Request { opcode: ACCEPT, fd, user_data: 7, ..Request::default() };
    let many = name == "many";
    if many && let Way::Ring(ring, _) = &way {
        ring.submit(&[Request { priority: MANY, ..accept }], 0)?;
    }
    for _ in 0..CLIENTS {
        match &way {
            Way::Calls => {
                clients.push(TcpStream::connect(address)?);
                drop(listener.accept()?);
            }
            // The client comes by the ring, too.
            Way::Ring(ring, flags) if !many && *flags & SKIP == 0 => {
                clients.push(connect(ring, address)?);
                match ring.run(Request { flags: *flags, ..accept })? {
                    result if result < 0 => return Ok(ExitCode::from(NO_RING)),
                    // SAFETY: a descriptor that was given to us.
                    result => {
                        drop(unsafe { <std::net::TcpStream as std::os::fd::FromRawFd>::from_raw_fd(result) })
                    }
                }
            }
            Way::Ring(ring, _) if many => {
                clients.push(TcpStream::connect(address)?);
                while ring.completion().is_none() {
                    ring.submit(&[], 1)?;
                }
            }
            Way::Ring(ring, flags) => {
                clients.push(TcpStream::connect(address)?);
                let then = Request { opcode: NOP, ..Request::default() };
                ring.submit(&[Request { flags: *flags | LINK, ..accept }, then], 1)?;
                let _done = ring.completion();
            }
            Way::Fixed(ring, place) => {
                clients.push(TcpStream::connect(address)?);
                let place = if *place == ANY_PLACE { ANY_PLACE } else { *place + clients.len() as u32 };
                if ring.run(Request { file_index: place, ..accept })? < 0 {
                    return Ok(ExitCode::from(NO_RING));
                }
            }
            Way::Full(ring) => {
                clients.push(TcpStream::connect(address)?);
                // Done at once, since somebody waits to be accepted.
                ring.submit(&[Request { user_data: clients.len() as u64, ..accept }], 0)?;
            }
        }
    }
    if let Way::Full(ring) = &way {
        // What had no room comes when there is some: the first is what took it.
        let mut left = CLIENTS + 1;
        let begun = Instant::now();
        while left > 0 && begun.elapsed() < PATIENCE {
            while ring.completion().is_some() {
                left -= 1;
            }
            if left > 0 {
                ring.submit(&[], 1)?;
            }
        }
    }
    print!("{}", address.port());
    for client in &clients {
        print!(" {}", client.local_addr()?.port());
    }
    println!();
    Ok(ExitCode::SUCCESS)
}

/// A client that connects by the ring.
fn connect(ring: &Ring, to: SocketAddr) -> Result<TcpStream, Failure> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: a new descriptor, which the stream then owns.
    let (fd, stream) = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(Box::new(io::Error::last_os_error()));
        }
        (fd, <TcpStream as std::os::fd::FromRawFd>::from_raw_fd(fd))
    };
    let request = Request {
        opcode: CONNECT,
        fd,
        address: (&raw const address) as u64,
        second: size_of_val(&address) as u64,
        user_data: 8,
        ..Request::default()
    };
    match ring.run(request)? {
        0 => Ok(stream),
        result => Err(Box::new(io::Error::from_raw_os_error(-result))),
    }
}
