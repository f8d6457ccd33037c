//! A cgroup opened by its id: `open_by_handle_at(2)` with a kernfs handle, as systemd does (`cg_cgroupid_open`).
#![expect(unsafe_code, reason = "open_by_handle_at has no safe wrapper in rustix")]

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use model::CgroupId;
use rustix::fs::{Mode, OFlags};

/// `FILEID_KERNFS` of include/linux/exportfs.h: the handle is the 64-bit node id.
const FILEID_KERNFS: i32 = 0xfe;

/// So many cgroups further up it is looked for one that a path reaches.
const MAX_CLIMB: usize = 4096;

/// `struct file_handle` with room for one kernfs id.
#[repr(C)]
struct KernfsHandle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

/// An open cgroup2 mount.
#[derive(Debug)]
pub(crate) struct Mount(fs::File);

/// Where a cgroup was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its folder, or that of the nearest around it that a path reaches.
    pub(crate) path: PathBuf,
    /// Whether it is its own.
    pub(crate) is_its_own: bool,
}

impl Mount {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::File::open(path).map(Self)
    }

    /// The folder of a cgroup that still exists; of one that no path reaches, the nearest around it that one does. So whose it is is known,
    /// however deep a program nests its cgroups.
    pub(crate) fn path_of(&self, cgroup: CgroupId) -> io::Result<Found> {
        let mut fd = self.open_id(cgroup, libc::O_PATH)?;
        let mut is_its_own = true;
        for _ in 0..MAX_CLIMB {
            match fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
                Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    fd = rustix::fs::openat(&fd, "..", flags, Mode::empty())?;
                    is_its_own = false;
                }
                found => return Ok(Found { path: found?, is_its_own }),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
    }

    /// Opens the folder of a cgroup that still exists, whether or not a path reaches it.
    pub(crate) fn open_id(&self, cgroup: CgroupId, flags: i32) -> io::Result<OwnedFd> {
        let mut handle = KernfsHandle { bytes: 8, kind: FILEID_KERNFS, id: cgroup.0.to_ne_bytes() };
        // SAFETY: `handle` has the layout of `struct file_handle` with `bytes` (8) bytes of f_handle behind it, lives through
        // the call, and the kernel only reads it.
        let fd = unsafe {
            libc::open_by_handle_at(
                self.0.as_raw_fd(),
                (&raw mut handle).cast(),
                flags | libc::O_CLOEXEC | libc::O_DIRECTORY,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
