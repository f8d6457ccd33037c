//! Thin wrappers of the system calls that no library gives.
#![expect(unsafe_code, reason = "system calls")]

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

/// `_IOW('$', 8, __u32)` of include/uapi/linux/perf_event.h.
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
/// `_IO('$', 0)`.
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// The first 64 bytes of struct perf_event_attr (PERF_ATTR_SIZE_VER0), which is all that a tracepoint needs.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    config1: u64,
}

/// Attaches a loaded program to the tracepoint with this id. The program runs on every CPU until the descriptor is closed.
pub(super) fn attach_tracepoint(id: u64, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<PerfEventAttr>() as u32,
        config: id,
        sample_period: 1,
        ..PerfEventAttr::default()
    };
    // SAFETY: the attribute lives during the call; the result is a new descriptor or an error.
    let event = unsafe {
        let fd = libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    for (request, argument) in [(PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()), (PERF_EVENT_IOC_ENABLE, 0)] {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

/// Waits until every program that was running has ended (an RCU grace period on all CPUs).
pub(super) fn wait_for_programs() {
    // SAFETY: no memory is passed. MEMBARRIER_CMD_GLOBAL = 1.
    if unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) } != 0 {
        // Not on kernels with nohz_full CPUs; no program of ours runs for as long as this.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Gives freed memory back to the system: the kernel's types take tens of megabytes while programs are loaded.
pub(super) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no argument but a number.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A file of a file system of which no mount need exist: it is mounted apart from the file tree, for this read only.
pub(super) fn read_detached(fs_type: &str, path: &str) -> io::Result<String> {
    let context = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let file = rustix::fs::openat(&mount, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

/// Makes sure that bpffs is mounted at /sys/fs/bpf.
pub(super) fn ensure_bpffs() -> io::Result<()> {
    const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
    if rustix::fs::statfs("/sys/fs/bpf").is_ok_and(|fs| fs.f_type as u32 == BPF_FS_MAGIC) {
        return Ok(());
    }
    Ok(rustix::mount::mount("bpf", "/sys/fs/bpf", "bpf", rustix::mount::MountFlags::empty(), None)?)
}
