//! The absolute path of a dentry on a mount, walked in the kernel.
//!
//! The walk goes from the leaf to the root of the mount namespace and crosses mount points, so what comes out is where the
//! file really lies: symbolic links, `..`, `/proc/self/root` and chroot have no influence on it. It does what `d_path`
//! does (fs/d_path.c, `prepend_path`), but without the lock on renames: when a directory is renamed while it is walked,
//! one component may carry the old name and another the new one.

use core::ffi::c_void;

use agent_abi::{COMPONENTS_MAX, PATH_MAX};
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};

use crate::{
    off,
    read::{bounded, opaque, peek},
};

/// NAME_MAX of every Linux file system, as a mask.
const NAME_MASK: u64 = 255;
/// Positions in the buffer, as a mask.
const PATH_MASK: u64 = PATH_MAX as u64 - 1;

/// How a walk ended.
pub const WALK_ON: u32 = 0;
/// At the root of the mount namespace.
pub const WALK_ROOT: u32 = 1;
/// Out of room; the path lacks its beginning.
pub const WALK_CUT: u32 = 2;
/// At a dentry that hangs nowhere: memfd, pipe, a detached mount.
pub const WALK_DETACHED: u32 = 3;
/// The kernel could not read what it needs.
pub const WALK_FAULT: u32 = 4;

/// A path in a slot's path room.
#[derive(Clone, Copy)]
pub struct Resolved {
    /// First byte.
    pub start: u32,
    /// `WALK_*`.
    pub end: u32,
}

impl Resolved {
    /// Whether it lacks its beginning.
    #[inline(always)]
    pub fn cut(self) -> bool {
        self.end == WALK_CUT || self.end == WALK_ON
    }
}

#[repr(C)]
struct Walk {
    dentry: u64,
    vfsmount: u64,
    mount_root: u64,
    room: *mut u8,
    pos: u64,
    end: u32,
    pad: u32,
}

/// Writes the path of `dentry` on `vfsmount` (addresses of the kernel's structures, typed or not) into `room`, a slot's
/// path room, so that it ends before byte `behind` (at most [`PATH_MAX`]).
#[inline(always)]
pub fn resolve(dentry: u64, vfsmount: u64, room: *mut u8, behind: u64) -> Resolved {
    let mut walk = Walk {
        dentry,
        vfsmount,
        mount_root: read_u64(vfsmount + u64::from(off!(vfsmount_mnt_root))),
        room,
        pos: behind,
        end: WALK_ON,
        pad: 0,
    };
    // SAFETY: `step` has the signature that bpf_loop wants; `walk` outlives the call.
    unsafe { bpf_loop(COMPONENTS_MAX, step as *mut c_void, (&raw mut walk).cast(), 0) };
    // The root itself has no component: "/" must still come out, but not "//" in front of a name.
    if walk.pos == PATH_MAX as u64 && walk.end == WALK_ROOT {
        walk.pos -= 1;
        // SAFETY: within the room.
        unsafe { *room.add(PATH_MAX - 1) = b'/' };
    }
    Resolved { start: walk.pos as u32, end: walk.end }
}

/// One component, or one mount crossing. Returns 1 to end the loop.
#[inline(never)]
extern "C" fn step(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: bpf_loop hands in what `resolve` gave it.
    let walk = unsafe { &mut *walk };
    if walk.dentry == walk.mount_root {
        return cross(walk);
    }
    // d_parent and, right behind it, d_name: hash and length, pointer. The loader checks that they stand together.
    let Some(link) = peek::<[u64; 3]>(walk.dentry + u64::from(off!(dentry_d_parent))) else {
        walk.end = WALK_FAULT;
        return 1;
    };
    if link[0] == walk.dentry {
        walk.end = WALK_DETACHED;
    }
    let length = (link[1] >> 32) & NAME_MASK;
    if walk.pos > PATH_MAX as u64 || walk.pos <= length {
        walk.end = WALK_CUT;
        return 1;
    }
    let slash = walk.pos - length - 1;
    // SAFETY: both positions are masked; the room has a component's slack behind the mask.
    unsafe {
        bpf_probe_read_kernel(
            walk.room.add(bounded(slash + 1, PATH_MASK) as usize).cast(),
            bounded(length, NAME_MASK) as u32,
            link[2] as *const c_void,
        );
        *walk.room.add(bounded(slash, PATH_MASK) as usize) = b'/';
    }
    walk.pos = opaque(slash);
    walk.dentry = link[0];
    i64::from(walk.end != WALK_ON)
}

/// From the root of a mount to the place where it is mounted.
#[inline(always)]
fn cross(walk: &mut Walk) -> i64 {
    let mount = walk.vfsmount - u64::from(off!(mount_mnt));
    // mnt_parent and, right behind it, mnt_mountpoint; the loader checks that, too.
    let up = peek::<[u64; 2]>(mount + u64::from(off!(mount_mnt_parent))).unwrap_or([0; 2]);
    if up[0] == mount || up[0] == 0 {
        walk.end = if up[0] == 0 { WALK_FAULT } else { WALK_ROOT };
        return 1;
    }
    walk.dentry = up[1];
    walk.vfsmount = up[0] + u64::from(off!(mount_mnt));
    walk.mount_root = read_u64(walk.vfsmount + u64::from(off!(vfsmount_mnt_root)));
    0
}

/// A pointer-sized value at a kernel address; 0 if it cannot be read.
#[inline(always)]
pub fn read_u64(address: u64) -> u64 {
    peek(address).unwrap_or(0)
}
