//! Commands of bpf(2) and of a pidfd that neither aya nor rustix offers: thin wrappers, the only unsafe code of containment.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use model::CgroupId;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Commands of bpf(2), include/uapi/linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;

#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The first fields of `struct bpf_link_info`, with the union's `cgroup` member.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    cgroup_id: u64,
    attach_type: u32,
    padding2: u32,
}

/// `PIDFD_GET_INFO` of include/uapi/linux/pidfd.h (Linux 6.13), for a structure of its first size.
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;
const PIDFD_INFO_CGROUPID: u64 = 1 << 2;

/// `struct pidfd_info` as it was at first.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    others: [u32; 12],
}

/// The cgroup that a thread is in.
///
/// Errors: it has ended, or the kernel is older than Linux 6.13.
pub(super) fn cgroup_of_thread(thread: u32) -> io::Result<CgroupId> {
    let number = i32::try_from(thread).ok().and_then(Pid::from_raw);
    let number = number.ok_or(io::ErrorKind::NotFound)?;
    // PIDFD_THREAD, which has the value of O_EXCL
    let flags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
    let fd = pidfd_open(number, flags)?;
    let mut info = PidfdInfo { mask: PIDFD_INFO_CGROUPID, ..PidfdInfo::default() };
    // SAFETY: `info` is as large as the command says, and lives through the call, which writes to nothing else.
    let done = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    match info.cgroup_id {
        0 => Err(io::ErrorKind::NotFound.into()),
        _ if info.mask & PIDFD_INFO_CGROUPID == 0 => Err(io::ErrorKind::Unsupported.into()),
        id => Ok(CgroupId(id)),
    }
}

/// Opens a pinned link.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes a link out of force before it returns, whoever still holds or pins it. `Ok` when its cgroup is gone already.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    let attr = LinkDetach { link_fd: link.as_raw_fd().cast_unsigned() };
    match bpf(BPF_LINK_DETACH, &attr) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Id of the cgroup that a link is attached to; 0 when it is attached to none any more.
pub(super) fn attached_cgroup(link: &OwnedFd) -> io::Result<u64> {
    let mut info = LinkInfo::default();
    let attr = InfoByFd {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    Ok(info.cgroup_id)
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` lives through the call and its size is given; what it points to lives in the callers' frames.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
