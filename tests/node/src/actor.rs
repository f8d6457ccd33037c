//! What the checks do to be seen: this binary again, as another process.
#![expect(unsafe_code, reason = "system calls that no safe wrapper gives")]

use std::{
    ffi::CString,
    fs,
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    process::{Command, ExitCode},
};

use crate::Failure;

/// Runs the actor that the words name.
pub(crate) fn run(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match act(&words) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("actor {words:?}: {err}");
            ExitCode::from(99)
        }
    }
}

fn act(words: &[&str]) -> Result<ExitCode, Failure> {
    match words {
        ["sentinel" | "nop" | "storm-child" | "from-thread", ..] => {}
        ["wait-stdin", ..] => {
            io::stdin().read_to_end(&mut Vec::new())?;
        }
        ["exit", code] => return Ok(ExitCode::from(code.parse::<u8>()?)),
        ["die", signal] => {
            // SAFETY: a signal to ourselves.
            unsafe { libc::kill(libc::getpid(), signal.parse()?) };
        }
        ["exit-threads", code] => {
            let code = code.parse()?;
            let workers: Vec<_> = (0..4).map(|_| std::thread::spawn(std::thread::park)).collect();
            std::thread::spawn(move || std::process::exit(code));
            for worker in workers {
                let _ = worker.join();
            }
        }
        ["leader-leaves-first"] => {
            std::thread::spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                // SAFETY: ends this thread, which holds nothing.
                unsafe { libc::syscall(libc::SYS_exit, 0) };
            });
            // SAFETY: ends this thread only; the other goes on.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        ["fork", count] => {
            for _ in 0..count.parse()? {
                wait(fork(|| 0)?)?;
            }
        }
        ["leave-an-orphan"] => {
            // SAFETY: only asks for a number.
            let parent = unsafe { libc::getpid() };
            fork(|| {
                // SAFETY: system calls only; the name is a constant.
                unsafe {
                    while libc::getppid() == parent {
                        libc::sched_yield();
                    }
                    libc::memfd_create(c"orphan".as_ptr(), 0);
                }
                0
            })?;
        }
        ["exec-storm", worker, count] => {
            for n in 0..count.parse::<u32>()? {
                let status = Command::new("/proc/self/exe")
                    .args(["actor", "storm-child", worker, &n.to_string(), "same for all"])
                    .status()?;
                if !status.success() {
                    return Ok(ExitCode::from(1));
                }
            }
        }
        ["exec-memfd", name] => {
            let fd = memfd(name)?;
            io::copy(&mut fs::File::open("/proc/self/exe")?, &mut fs::File::from(fd.try_clone()?))?;
            return exec(&format!("/proc/self/fd/{}", fd.as_raw_fd()), &["actor", "nop"]);
        }
        ["exec-deleted", path] => {
            let file = fs::File::open(path)?;
            let fd = rustix::io::fcntl_dupfd_cloexec(&file, 10)?;
            fs::remove_file(path)?;
            return exec(&format!("/proc/self/fd/{}", fd.as_raw_fd()), &["actor", "nop"]);
        }
        ["exec-from-thread"] => {
            let thread =
                std::thread::spawn(|| exec("/proc/self/exe", &["actor", "from-thread"]).map(|_| ()).is_ok());
            let _ = thread.join();
            return Ok(ExitCode::from(98));
        }
        ["exec-in-mount", base] => return exec_in_mount(Path::new(base)),
        // Opens a file until another one is there, which is looked for without an open; says how often.
        ["open-until", path, stop] => {
            let mut count = 0;
            while !Path::new(stop).exists() {
                for _ in 0..100 {
                    drop(fs::File::options().create(true).append(true).open(path)?);
                    count += 1;
                }
            }
            println!("{count}");
        }
        ["memfd-loop" | "memfd-loop-after-stdin", count] => {
            if words[0].ends_with("stdin") {
                io::stdin().read_to_end(&mut Vec::new())?;
            }
            for _ in 0..count.parse::<u32>()? {
                drop(memfd("loop")?);
            }
        }
        // One in each of the cgroups that stand in the folder under their numbers.
        ["memfd-through", folder, count] => {
            for n in 0..count.parse::<u32>()? {
                fs::write(Path::new(folder).join(n.to_string()).join("cgroup.procs"), "0")?;
                drop(memfd("through")?);
            }
        }
        // Something of each family: a file, a connection on both sides, a datagram, a program that ends.
        ["of-each-family-after-stdin", path] => {
            io::stdin().read_to_end(&mut Vec::new())?;
            fs::write(path, "x")?;
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let near = std::net::TcpStream::connect(listener.local_addr()?)?;
            drop((near, listener.accept()?));
            drop(memfd("each")?);
            if !Command::new("/proc/self/exe").args(["actor", "nop"]).status()?.success() {
                return Ok(ExitCode::from(1));
            }
        }
        ["create", path] => {
            fs::write(path, "")?;
        }
        ["replay"] => crate::replay::play(io::stdin())?,
        ["net", rest @ ..] => return crate::net::help(rest),
        ["file", rest @ ..] => return crate::file::help(rest),
        ["flood", rest @ ..] => return crate::flood::help(rest),
        ["rights", rest @ ..] => return crate::rights::help(rest),
        ["uring", rest @ ..] => return crate::uring::help(rest),
        other => return crate::kernel::help(other),
    }
    Ok(ExitCode::SUCCESS)
}

fn exec_in_mount(base: &Path) -> Result<ExitCode, Failure> {
    use rustix::{
        mount::*,
        thread::{UnshareFlags, unshare_unsafe},
    };
    let inner = base.join("outer/inner");
    // SAFETY: this process has one thread and shares no file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    fs::create_dir(base.join("outer"))?;
    mount("tmpfs", base.join("outer"), "tmpfs", MountFlags::empty(), None)?;
    fs::create_dir(&inner)?;
    mount("tmpfs", &inner, "tmpfs", MountFlags::empty(), None)?;
    fs::copy("/proc/self/exe", inner.join("program"))?;
    std::env::set_current_dir(&inner)?;
    exec("./program", &["actor", "nop"])
}

/// Replaces this process's image; returns only if that fails.
pub(crate) fn exec(path: &str, words: &[&str]) -> Result<ExitCode, Failure> {
    use std::os::unix::process::CommandExt;
    Err(Box::new(Command::new(path).args(words).exec()))
}

/// An empty memfd without close-on-exec, so that it can be executed by its path.
pub(crate) fn memfd(name: &str) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // SAFETY: the name lives during the call; the result is a new descriptor.
    unsafe {
        let fd = libc::memfd_create(name.as_ptr(), 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A child that runs `act`, which may only make system calls, and ends with its result.
pub(crate) fn fork(act: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the child only runs `act` and ends without touching what other threads may have locked.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = act();
            // SAFETY: as above.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

/// Waits for a child's end and gives its raw status.
pub(crate) fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` lives during the call.
    if unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) } == pid {
        Ok(status)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The inode of a process's cgroup v2 folder, which is the cgroup's id.
pub(crate) fn cgroup_id(pid: u32) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup2")).then(|| words[1].to_owned())
    });
    let mount = mount.ok_or("no cgroup2 mount")?;
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path =
        all.lines().find_map(|line| line.strip_prefix("0::")).ok_or("no cgroup v2 in /proc/PID/cgroup")?;
    Ok(fs::metadata(format!("{mount}{path}"))?.ino())
}

/// A field of /proc/PID/status.
pub(crate) fn status_field(pid: &str, name: &str) -> Result<String, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field")?;
    Ok(line.trim().to_owned())
}

/// Start of a process in clock ticks, which are 10 ms.
pub(crate) fn start_ticks(pid: &str) -> Result<u64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
    Ok(rest.split_whitespace().nth(19).ok_or("too short a stat")?.parse()?)
}
