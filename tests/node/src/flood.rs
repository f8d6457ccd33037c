//! Many events of one kind and of no other, so that they can be counted: what the accounting's checks have done by another process.
#![expect(unsafe_code, reason = "system calls that no safe wrapper gives")]
#![expect(clippy::print_stdout, reason = "how the actor says that it is ready")]

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    process::ExitCode,
};

use model::EventClass;

use crate::{
    Failure,
    actor::{fork, memfd, wait},
    ring::{ACCEPT, LINKAT, OPENAT, RENAMEAT, Request, Ring, UNLINKAT},
};

/// A way to cause events of one class.
pub(crate) struct Flood {
    /// Its name; where a class is seen by several hooks, there is one for each.
    pub(crate) name: &'static str,
    /// The class.
    pub(crate) class: EventClass,
    /// Events of each round.
    pub(crate) each: u64,
}

/// The actor's answer where this kernel cannot do that.
pub(crate) const CANNOT: u8 = 77;

/// All of them: every class, and every way in which it is seen.
pub(crate) const FLOODS: &[Flood] = &[
    Flood { name: "exec", class: EventClass::Exec, each: 1 },
    Flood { name: "fork", class: EventClass::Fork, each: 1 },
    Flood { name: "exit", class: EventClass::Exit, each: 1 },
    Flood { name: "credentials", class: EventClass::Credentials, each: 1 },
    Flood { name: "namespaces", class: EventClass::Namespaces, each: 1 },
    Flood { name: "open", class: EventClass::FileOpen, each: 1 },
    Flood { name: "open-uring", class: EventClass::FileOpen, each: 1 },
    Flood { name: "delete", class: EventClass::FileDelete, each: 1 },
    Flood { name: "delete-uring", class: EventClass::FileDelete, each: 1 },
    Flood { name: "rename", class: EventClass::FileRename, each: 1 },
    Flood { name: "rename-uring", class: EventClass::FileRename, each: 1 },
    Flood { name: "link", class: EventClass::FileLink, each: 1 },
    Flood { name: "link-uring", class: EventClass::FileLink, each: 1 },
    Flood { name: "mode", class: EventClass::FileMode, each: 1 },
    Flood { name: "owner", class: EventClass::FileOwner, each: 1 },
    Flood { name: "connect", class: EventClass::Connect, each: 1 },
    Flood { name: "send", class: EventClass::Connect, each: 2 },
    Flood { name: "accept", class: EventClass::Accept, each: 1 },
    Flood { name: "accept-uring", class: EventClass::Accept, each: 1 },
    Flood { name: "bind", class: EventClass::Bind, each: 1 },
    Flood { name: "listen", class: EventClass::Listen, each: 1 },
    Flood { name: "close-tcp", class: EventClass::SocketClose, each: 2 },
    Flood { name: "reset-tcp", class: EventClass::SocketClose, each: 2 },
    Flood { name: "close-udp", class: EventClass::SocketClose, each: 1 },
    Flood { name: "dns", class: EventClass::Dns, each: 1 },
    Flood { name: "module", class: EventClass::Module, each: 1 },
    Flood { name: "bpf", class: EventClass::Bpf, each: 1 },
    Flood { name: "ptrace", class: EventClass::Ptrace, each: 1 },
    Flood { name: "memfd", class: EventClass::Memfd, each: 1 },
    Flood { name: "mount", class: EventClass::Mount, each: 1 },
    Flood { name: "vm-write", class: EventClass::ProcessVmWrite, each: 1 },
    Flood { name: "io-uring", class: EventClass::IoUring, each: 1 },
];

/// Makes ready, says so, waits for the end of its input, and does it `rounds` times.
pub(crate) fn help(words: &[&str]) -> Result<ExitCode, Failure> {
    let [name, dir, rounds] = words else { return Err(format!("no such part: {words:?}").into()) };
    let rounds = rounds.parse::<u32>()?;
    std::env::set_current_dir(dir)?;
    let Some(mut round) = ready(name)? else { return Ok(ExitCode::from(CANNOT)) };
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    for number in 0..rounds {
        round(number)?;
    }
    Ok(ExitCode::SUCCESS)
}

type Round = Box<dyn FnMut(u32) -> Result<(), Failure>>;

/// What is done in each round; whatever that needs is there afterwards. `None` where this kernel does not have it.
fn ready(name: &str) -> Result<Option<Round>, Failure> {
    Ok(Some(match name {
        name if name != "io-uring" && name.ends_with("-uring") => return by_ring(name),
        "exec" | "fork" | "exit" => return Ok(Some(processes(name == "exec")?)),
        "open" | "delete" | "rename" | "link" | "mode" | "owner" => return Ok(Some(files(name)?)),
        "credentials" | "namespaces" | "module" | "bpf" | "ptrace" | "memfd" | "mount" | "vm-write" => {
            return surface(name);
        }
        "io-uring" => {
            let setup = || {
                let mut parameters = [0_u8; 120];
                // SAFETY: struct io_uring_params has 120 bytes; the descriptor is closed.
                unsafe {
                    let fd = libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr());
                    libc::close(fd as i32);
                    fd
                }
            };
            // Asked with a size that is refused, so that nothing happens yet: where there are rings, it is the size that is wrong.
            // SAFETY: nothing is written.
            unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, [0_u8; 120].as_mut_ptr()) };
            if io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
                return Ok(None);
            }
            Box::new(move |_| if setup() < 0 { Err(last()) } else { Ok(()) })
        }
        other => sockets(other)?,
    }))
}

fn processes(exec: bool) -> Result<Round, Failure> {
    let (path, word) = (CString::new("/proc/self/exe")?, CString::new("--version")?);
    Ok(Box::new(move |_| {
        let words = [path.as_ptr(), word.as_ptr(), std::ptr::null()];
        let child = fork(|| {
            if exec {
                // SAFETY: texts and array live until the image is replaced.
                unsafe { libc::execv(path.as_ptr(), words.as_ptr()) };
                return 1;
            }
            0
        })?;
        if wait(child)? == 0 { Ok(()) } else { Err("the child failed".into()) }
    }))
}

fn files(name: &str) -> Result<Round, Failure> {
    File::create("file")?;
    Ok(match name {
        "open" => Box::new(|_| {
            drop(File::open("file")?);
            Ok(())
        }),
        "delete" => Box::new(|_| {
            // Made by a call that is not told.
            node("gone")?;
            Ok(fs::remove_file("gone")?)
        }),
        "rename" => Box::new(|number| {
            let (from, to) = if number % 2 == 0 { ("file", "other") } else { ("other", "file") };
            Ok(fs::rename(from, to)?)
        }),
        "link" => Box::new(|number| Ok(fs::hard_link("file", format!("link{number}"))?)),
        "mode" => Box::new(|number| {
            Ok(fs::set_permissions("file", fs::Permissions::from_mode(0o600 + (number & 7)))?)
        }),
        _ => Box::new(|number| Ok(std::os::unix::fs::chown("file", Some(number), None)?)),
    })
}

fn by_ring(name: &str) -> Result<Option<Round>, Failure> {
    let Some(ring) = Ring::new(0, None) else { return Ok(None) };
    if name == "accept-uring" {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        return Ok(Some(Box::new(move |_| {
            let client = TcpStream::connect(address)?;
            let fd = ring.run(Request { opcode: ACCEPT, fd: listener.as_raw_fd(), ..Request::default() })?;
            done(fd)?;
            // SAFETY: a descriptor that was given to us.
            unsafe { libc::close(fd) };
            hard(&client)
        })));
    }
    File::create("file")?;
    let (file, other) = (CString::new("file")?, CString::new("other")?);
    let here = Request { fd: libc::AT_FDCWD, ..Request::default() };
    Ok(Some(match name {
        "open-uring" => Box::new(move |_| {
            let fd = ring.run(Request { opcode: OPENAT, address: file.as_ptr() as u64, ..here })?;
            done(fd)?;
            // SAFETY: a descriptor that was given to us.
            unsafe { libc::close(fd) };
            Ok(())
        }),
        "delete-uring" => Box::new(move |_| {
            node("other")?;
            done(ring.run(Request { opcode: UNLINKAT, address: other.as_ptr() as u64, ..here })?)
        }),
        "rename-uring" => Box::new(move |number| {
            let [from, to] = if number % 2 == 0 { [&file, &other] } else { [&other, &file] };
            let (address, second) = (from.as_ptr() as u64, to.as_ptr() as u64);
            done(ring.run(Request {
                opcode: RENAMEAT,
                address,
                second,
                len: libc::AT_FDCWD as u32,
                ..here
            })?)
        }),
        _ => Box::new(move |number| {
            let link = CString::new(format!("link{number}"))?;
            let (address, second) = (file.as_ptr() as u64, link.as_ptr() as u64);
            done(ring.run(Request { opcode: LINKAT, address, second, len: libc::AT_FDCWD as u32, ..here })?)
        }),
    }))
}

fn surface(name: &str) -> Result<Option<Round>, Failure> {
    Ok(Some(match name {
        "credentials" => Box::new(|number| {
            let user = if number % 2 == 0 { 1000 } else { 0 };
            // SAFETY: no memory is passed. The real user stays root, so there is a way back.
            match unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) } {
                0 => Ok(()),
                _ => Err(last()),
            }
        }),
        "namespaces" => Box::new(|_| {
            // SAFETY: this process has one thread and shares nothing with another.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUTS)? };
            Ok(())
        }),
        "module" => {
            if !std::path::Path::new(crate::guest::SPARE_MODULE).exists() {
                return Ok(None);
            }
            Box::new(|_| {
                let module = File::open(crate::guest::SPARE_MODULE)?;
                rustix::system::finit_module(module, c"", 0)?;
                let name = CString::new(crate::guest::SPARE_MODULE_NAME)?;
                Ok(rustix::system::delete_module(&name, 0)?)
            })
        }
        "bpf" => Box::new(|_| {
            let fd = crate::acts::load_nothing();
            // SAFETY: a descriptor that was given to us.
            if fd < 0 || unsafe { libc::close(fd) } < 0 { Err(last()) } else { Ok(()) }
        }),
        "memfd" => Box::new(|_| {
            drop(memfd("flood")?);
            Ok(())
        }),
        "mount" => {
            use rustix::{mount::*, thread::UnshareFlags};
            // SAFETY: as above.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            fs::create_dir("there")?;
            Box::new(|_| {
                mount("tmpfs", "there", "tmpfs", MountFlags::empty(), None)?;
                Ok(unmount("there", UnmountFlags::DETACH)?)
            })
        }
        _ => {
            let child = Child(fork(|| {
                // SAFETY: waits for its end, which also comes with its parent's.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    loop {
                        libc::pause();
                    }
                }
            })?);
            if name == "ptrace" {
                Box::new(move |_| child.traced())
            } else {
                Box::new(move |_| child.written())
            }
        }
    }))
}

fn sockets(name: &str) -> Result<Round, Failure> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    Ok(match name {
        "connect" => {
            let socket = UdpSocket::bind(any)?;
            Box::new(move |_| Ok(socket.connect((Ipv4Addr::LOCALHOST, 9))?))
        }
        "send" => {
            let socket = UdpSocket::bind(any)?;
            // Where it goes changes each time.
            let to = [UdpSocket::bind(any)?, UdpSocket::bind(any)?];
            Box::new(move |_| {
                for to in &to {
                    socket.send_to(b"x", to.local_addr()?)?;
                }
                Ok(())
            })
        }
        "accept" | "close-tcp" | "reset-tcp" => {
            let listener = TcpListener::bind(any)?;
            let (address, reset) = (listener.local_addr()?, name != "close-tcp");
            Box::new(move |_| {
                let client = TcpStream::connect(address)?;
                let (mut server, _) = listener.accept()?;
                if reset {
                    hard(&client)?;
                    drop(client);
                } else {
                    drop(client);
                    // The end of what the client sends has come when this one closes: it is the last.
                    server.read_to_end(&mut Vec::new())?;
                }
                Ok(())
            })
        }
        "bind" => Box::new(move |_| {
            drop(UdpSocket::bind(any)?);
            Ok(())
        }),
        "listen" => Box::new(move |_| {
            drop(TcpListener::bind(any)?);
            Ok(())
        }),
        "close-udp" => {
            let to = UdpSocket::bind(any)?;
            Box::new(move |_| Ok(UdpSocket::bind(any)?.connect(to.local_addr()?)?))
        }
        "dns" => {
            // A network of its own, where port 53 is free and nobody else asks.
            crate::acts::own_network()?;
            let _server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?;
            let socket = UdpSocket::bind(any)?;
            let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05flood\x04test\0\0\x01\0\x01";
            Box::new(move |_| {
                let _alive = &_server;
                socket.send_to(question, (Ipv4Addr::LOCALHOST, 53))?;
                Ok(())
            })
        }
        other => return Err(format!("no such flood: {other}").into()),
    })
}

/// A child that waits.
struct Child(i32);

impl Child {
    fn traced(&self) -> Result<(), Failure> {
        // SAFETY: a child of ours; requests without memory.
        unsafe {
            if libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, self.0, 0, 0) < 0 {
                return Err(last());
            }
            wait(self.0)?;
            if libc::syscall(libc::SYS_ptrace, libc::PTRACE_DETACH, self.0, 0, 0) < 0 {
                return Err(last());
            }
        }
        Ok(())
    }

    fn written(&self) -> Result<(), Failure> {
        // The child's memory is a copy of ours, at the same addresses.
        let mut place = 0_u64;
        let part = libc::iovec { iov_base: (&raw mut place).cast(), iov_len: 8 };
        let spare = libc::iovec { iov_base: SPARE.as_ptr().cast_mut().cast(), iov_len: 8 };
        // SAFETY: the child's copy of a place that only this is for; the structures live during the call.
        match unsafe { libc::process_vm_writev(self.0, &raw const part, 1, &raw const spare, 1, 0) } {
            8 => Ok(()),
            _ => Err(last()),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        let _ended = wait(self.0);
    }
}

/// Written to in the child only.
static SPARE: [std::sync::atomic::AtomicU8; 8] = [const { std::sync::atomic::AtomicU8::new(0) }; 8];

fn node(path: &str) -> io::Result<()> {
    let kind = rustix::fs::FileType::RegularFile;
    Ok(rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o600.into(), 0)?)
}

/// From now on its close resets the connection.
fn hard(stream: &TcpStream) -> Result<(), Failure> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (level, option) = (libc::SOL_SOCKET, libc::SO_LINGER);
    let (value, len) = ((&raw const linger).cast(), size_of_val(&linger) as libc::socklen_t);
    // SAFETY: the option's value lives during the call.
    match unsafe { libc::setsockopt(stream.as_raw_fd(), level, option, value, len) } {
        0 => Ok(()),
        _ => Err(last()),
    }
}

fn done(result: i32) -> Result<(), Failure> {
    if result < 0 { Err(Box::new(io::Error::from_raw_os_error(-result))) } else { Ok(()) }
}

fn last() -> Failure {
    Box::new(io::Error::last_os_error())
}
