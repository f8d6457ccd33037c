//! The absolute path of a dentry on a mount, walked in the kernel.
//!
//! The walk goes from the leaf to the root of the task's mount namespace and crosses mount points, so what comes out is where
//! the file really lies: symbolic links, `..`, `/proc/self/root` and `chroot` have no influence on it. It does what
//! `d_path(9)` does (fs/d_path.c, `prepend_path`), without the lock on renames: a path that is renamed while it is walked may
//! come out with the old name of one component and the new name of another.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_loop, bpf_probe_read_kernel},
};

/// Longest path that is kept, in bytes. Of a longer one the end is kept, which is where the file's name is.
pub const PATH_MAX: u32 = 4096;

/// Most components and mount crossings that are walked.
const STEPS: u32 = 512;

/// NAME_MAX of every Linux file system, as a mask.
const NAME_MASK: u32 = 255;

/// Offset of `dentry.d_parent`. All offsets are written by the loader from the running kernel's BTF; it also checks that
/// `dentry.d_name` stands right behind `d_parent` (true from 2.6 to 6.18), so that one read gets both.
#[unsafe(no_mangle)]
pub static OFF_DENTRY_PARENT: Global<u32> = Global::new(24);
/// Offset of `vfsmount.mnt_root`.
#[unsafe(no_mangle)]
pub static OFF_VFSMOUNT_ROOT: Global<u32> = Global::new(0);
/// Offset of `mount.mnt`.
#[unsafe(no_mangle)]
pub static OFF_MOUNT_MNT: Global<u32> = Global::new(32);
/// Offset of `mount.mnt_parent`.
#[unsafe(no_mangle)]
pub static OFF_MOUNT_PARENT: Global<u32> = Global::new(16);
/// Offset of `mount.mnt_mountpoint`.
#[unsafe(no_mangle)]
pub static OFF_MOUNT_MOUNTPOINT: Global<u32> = Global::new(24);

/// Room for one path: it is written from the end ([`PATH_MAX`]) towards the start. The rest is slack that the verifier
/// wants, since it takes start and length of a component to be independent.
#[repr(C, align(8))]
pub struct PathBuf {
    bytes: [u8; (PATH_MAX + NAME_MASK + 1) as usize],
}

/// Where the walk ended.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum End {
    /// Not yet: more steps than allowed.
    None = 0,
    /// At the root of the mount namespace.
    Root = 1,
    /// Out of room.
    Cut = 2,
    /// At a dentry that hangs nowhere: memfd, pipe, a detached mount.
    Detached = 3,
    /// A read failed.
    Fault = 4,
}

/// A resolved path, in a [`PathBuf`] from `start` up to [`PATH_MAX`].
#[derive(Clone, Copy)]
pub struct Resolved {
    /// First byte.
    pub start: u32,
    /// How the walk ended; after [`End::Cut`] and [`End::None`] the path lacks its beginning.
    pub end: End,
}

impl Resolved {
    /// Length in bytes.
    #[inline(always)]
    pub fn len(self) -> u32 {
        PATH_MAX - self.start
    }
}

#[repr(C)]
struct Walk {
    dentry: u64,
    vfsmount: u64,
    mount_root: u64,
    buf: *mut u8,
    pos: u32,
    end: u32,
}

/// Walks from `dentry` on `vfsmount` (addresses of the kernel's structures) to the root and leaves the path in `buf`.
#[inline(always)]
pub fn resolve(dentry: u64, vfsmount: u64, buf: *mut PathBuf) -> Resolved {
    let mut walk = Walk {
        dentry,
        vfsmount,
        mount_root: read_u64(vfsmount + u64::from(OFF_VFSMOUNT_ROOT.load())),
        buf: buf.cast(),
        pos: PATH_MAX,
        end: End::None as u32,
    };
    // SAFETY: `step` has the signature that bpf_loop wants; `walk` outlives the call.
    unsafe {
        bpf_loop(STEPS, step as *mut c_void, (&raw mut walk).cast(), 0);
    }
    if walk.pos == PATH_MAX && walk.end == End::Root as u32 {
        walk.pos = PATH_MAX - 1;
        // SAFETY: within the buffer.
        unsafe { *buf.cast::<u8>().add((PATH_MAX - 1) as usize) = b'/' };
    }
    let end = match walk.end {
        1 => End::Root,
        2 => End::Cut,
        3 => End::Detached,
        4 => End::Fault,
        _ => End::None,
    };
    Resolved { start: walk.pos, end }
}

/// One component, or one mount crossing. Returns 1 to end the loop.
#[inline(never)]
extern "C" fn step(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: bpf_loop hands in what `resolve` gave it.
    let walk = unsafe { &mut *walk };
    // d_parent, and behind it d_name: hash and length, pointer. The loader has checked that they stand together.
    let mut link = [0_u64; 3];
    let read = unsafe {
        bpf_probe_read_kernel(
            link.as_mut_ptr().cast(),
            24,
            (walk.dentry + u64::from(OFF_DENTRY_PARENT.load())) as *const c_void,
        )
    };
    if read != 0 {
        walk.end = End::Fault as u32;
        return 1;
    }
    if walk.dentry == walk.mount_root {
        return cross(walk);
    }
    if link[0] == walk.dentry {
        walk.end = End::Detached as u32;
    }
    let length = (link[1] >> 32) as u32 & NAME_MASK;
    if walk.pos > PATH_MAX || walk.pos <= length {
        walk.end = End::Cut as u32;
        return 1;
    }
    let start = walk.pos - length;
    unsafe {
        bpf_probe_read_kernel(
            walk.buf.add((start & (PATH_MAX - 1)) as usize).cast(),
            length,
            link[2] as *const c_void,
        );
        *walk.buf.add(((start - 1) & (PATH_MAX - 1)) as usize) = b'/';
    }
    walk.pos = start - 1;
    walk.dentry = link[0];
    i64::from(walk.end != 0)
}

/// From the root of a mount to the place where it is mounted.
#[inline(always)]
fn cross(walk: &mut Walk) -> i64 {
    let mount = walk.vfsmount - u64::from(OFF_MOUNT_MNT.load());
    let parent = read_u64(mount + u64::from(OFF_MOUNT_PARENT.load()));
    if parent == mount || parent == 0 {
        walk.end = if parent == 0 { End::Fault as u32 } else { End::Root as u32 };
        return 1;
    }
    walk.dentry = read_u64(mount + u64::from(OFF_MOUNT_MOUNTPOINT.load()));
    walk.vfsmount = parent + u64::from(OFF_MOUNT_MNT.load());
    walk.mount_root = read_u64(walk.vfsmount + u64::from(OFF_VFSMOUNT_ROOT.load()));
    0
}

/// A pointer-sized value at a kernel address; 0 if it cannot be read.
#[inline(always)]
pub fn read_u64(address: u64) -> u64 {
    let mut value = 0_u64;
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const c_void) };
    value
}
