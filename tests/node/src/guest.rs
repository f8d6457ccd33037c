//! Being `/init` of the second kernel's guest: mounts, console, loopback, and an exit code for the machine that emulates it.
//!
//! The recipe and its traps (why only one exit status may count as passed, why the console is opened by hand) are in docs/kernel.md.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// Port of QEMU's isa-debug-exit device (`-device isa-debug-exit,iobase=0xf4,iosize=0x04`).
#[cfg(target_arch = "x86_64")]
const EXIT_PORT: u16 = 0xf4;
/// QEMU ends with (value << 1) | 1.
const PASSED: u8 = 0x10;
/// See [`PASSED`].
const FAILED: u8 = 0x11;

/// A module that nothing has loaded, and its name in the kernel (xtask/src/vm/kernel.rs puts it there).
pub(crate) const SPARE_MODULE: &str = "/dummy.ko";
/// See [`SPARE_MODULE`].
pub(crate) const SPARE_MODULE_NAME: &str = "dummy";

/// Whether this process is the guest's first.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1
}

/// What the kernel gave as `KEY=value` on its command line comes as environment.
pub(crate) fn wanted_tests() -> Option<String> {
    std::env::var("HEMOSTAT_TESTS").ok()
}

/// Makes the machine usable: file systems, console, loopback.
pub(crate) fn set_up() -> io::Result<()> {
    mount("devtmpfs", "/dev", "devtmpfs")?;
    open_console()?;
    mount("proc", "/proc", "proc")?;
    mount("sysfs", "/sys", "sysfs")?;
    mount("bpf", "/sys/fs/bpf", "bpf")?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2")?;
    mount("tracefs", "/sys/kernel/tracing", "tracefs")?;
    mount("securityfs", "/sys/kernel/security", "securityfs")?;
    mount("tmpfs", "/tmp", "tmpfs")?;
    mount("tmpfs", "/dev/shm", "tmpfs")?;
    mount("devpts", "/dev/pts", "devpts")?;
    for folder in ["/etc", "/run", "/var", "/root"] {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    std::fs::write("/etc/shadow", "root:*:20000:0:99999:7:::\n")?;
    std::fs::write("/etc/hostname", "guest\n")?;
    for module in files_of("/modules") {
        load(&module)?;
    }
    loopback_up()
}

/// The files of a folder of the guest's, in the order of their names; none if it is not there.
pub(crate) fn files_of(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Ends the machine. Does not return.
pub(crate) fn power_off(all_passed: bool) -> ! {
    // What was written must have left the serial line before the machine stops.
    let _drained = rustix::termios::tcdrain(io::stdout());
    leave(if all_passed { PASSED } else { FAILED })
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the debug-exit device is reached by an I/O port")]
fn leave(value: u8) -> ! {
    // SAFETY: iopl only raises this process's own I/O privilege; we are the guest's only program.
    unsafe { libc::iopl(3) };
    loop {
        // SAFETY: the port belongs to QEMU's debug-exit device, which ends the machine; it has no other effect.
        unsafe { std::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") value, options(nomem, nostack)) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn leave(value: u8) -> ! {
    std::process::exit(i32::from(value))
}

fn mount(source: &str, target: &str, kind: &str) -> io::Result<()> {
    if !Path::new(target).exists() {
        std::fs::create_dir_all(target)?;
    }
    rustix::mount::mount(source, target, kind, rustix::mount::MountFlags::empty(), None)
        .map_err(|error| io::Error::other(format!("mount {kind} on {target}: {error}")))
}

fn load(module: &Path) -> io::Result<()> {
    rustix::system::finit_module(File::open(module)?, c"", 0)
        .map_err(|error| io::Error::other(format!("load {}: {error}", module.display())))
}

/// The initramfs has no device nodes, so the kernel gave us no standard streams.
fn open_console() -> io::Result<()> {
    let console = File::options().read(true).write(true).open("/dev/ttyS0")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

#[expect(unsafe_code, reason = "bringing an interface up is an ioctl")]
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: an all-zero ifreq is a valid value of that C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is and which outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
