//! A cgroup opened by its id: `open_by_handle_at(2)` with a kernfs handle, as systemd does (`cg_cgroupid_open`).
#![expect(unsafe_code, reason = "open_by_handle_at has no safe wrapper in rustix")]

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use model::CgroupId;

/// `FILEID_KERNFS` of include/linux/exportfs.h: the handle is the 64-bit node id.
const FILEID_KERNFS: i32 = 0xfe;

/// `struct file_handle` with room for one kernfs id.
#[repr(C)]
struct KernfsHandle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

/// An open cgroup2 mount.
#[derive(Debug)]
pub(super) struct Mount(fs::File);

impl Mount {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        fs::File::open(path).map(Self)
    }

    /// The folder of a cgroup that still exists.
    pub(super) fn path_of(&self, cgroup: CgroupId) -> io::Result<PathBuf> {
        let mut handle = KernfsHandle { bytes: 8, kind: FILEID_KERNFS, id: cgroup.0.to_ne_bytes() };
        // SAFETY: `handle` has the layout of `struct file_handle` with `bytes` (8) bytes of f_handle behind it, lives through
        // the call, and the kernel only reads it.
        let fd = unsafe {
            libc::open_by_handle_at(
                self.0.as_raw_fd(),
                (&raw mut handle).cast(),
                libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }
}
