//! The absolute path of a dentry on a mount, walked in the kernel.
//!
//! The walk goes from the leaf to the root of the mount namespace and crosses mount points, so what comes out is where the
//! file really lies: symbolic links, `..`, `/proc/self/root` and chroot have no influence on it. It does what `d_path`
//! does (fs/d_path.c, `prepend_path`), but without the lock on renames: when a directory is renamed while it is walked,
//! one component may carry the old name and another the new one.

use core::ffi::c_void;

use agent_abi::{COMPONENTS_MAX, PATH_MAX, TEXT_TRUNCATED, TEXT_UNREAD, Text};
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};

use crate::{
    off,
    read::{bounded, opaque, word, words},
    scratch::{Claim, Slot},
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

/// A path in a slot's path room: from `begin` up to byte [`PATH_MAX`], which is NUL.
#[derive(Clone, Copy)]
pub struct Path {
    /// First byte.
    pub begin: u32,
    /// `WALK_*`.
    pub end: u32,
}

impl Path {
    /// Nothing could be read.
    pub const UNREAD: Self = Self { begin: PATH_MAX as u32, end: WALK_FAULT };

    /// Bytes.
    #[inline(always)]
    pub fn len(self) -> u64 {
        PATH_MAX as u64 - u64::from(self.begin)
    }

    /// Whether nothing of it is missing.
    #[inline(always)]
    pub fn whole(self) -> bool {
        self.end == WALK_ROOT || self.end == WALK_DETACHED
    }
}

/// How far a walk has come. It lives in the slot and not on the stack: what comes out of a map is any number to the
/// verifier, so that it looks at the loop's body once, and not once for each possible position.
#[repr(C)]
pub struct Walk {
    dentry: u64,
    vfsmount: u64,
    mount_root: u64,
    at: u64,
    end: u64,
}

/// Resolves the `struct path` at the kernel address `at` into the slot's path room.
#[inline(always)]
pub fn resolve(claim: Claim, at: u64) -> Path {
    resolve_before(claim, at, PATH_MAX as u64)
}

/// The same, so that the path ends before byte `behind`: what the caller has put there follows it.
#[inline(always)]
pub fn resolve_before(claim: Claim, at: u64, behind: u64) -> Path {
    // struct path { struct vfsmount *mnt; struct dentry *dentry; }: the loader checks that they stand together.
    let Some(pair) = words::<2>(at) else { return Path::UNREAD };
    let mut slot = claim.slot;
    // SAFETY: within the slot; `step` has the signature that bpf_loop wants, and what it is handed outlives the call.
    unsafe {
        (*slot).walk = Walk {
            dentry: pair[1],
            vfsmount: pair[0],
            mount_root: read_u64(pair[0] + u64::from(off!(vfsmount_mnt_root))),
            at: behind,
            end: u64::from(WALK_ON),
        };
        bpf_loop(COMPONENTS_MAX, step as *mut c_void, (&raw mut slot).cast(), 0);
        let end = core::ptr::read_volatile(&raw const (*claim.slot).walk.end) as u32;
        let mut begin = core::ptr::read_volatile(&raw const (*claim.slot).walk.at);
        // The root itself has no component: "/" must still come out, but not "//" in front of a name.
        if begin == PATH_MAX as u64 && end == WALK_ROOT {
            begin -= 1;
            (*claim.slot).path[PATH_MAX - 1] = b'/';
        }
        (*claim.slot).path[PATH_MAX] = 0;
        // From here on all ends are one to the verifier.
        Path { begin: opaque(begin) as u32, end: opaque(u64::from(end)) as u32 }
    }
}

/// Appends the path in the slot's path room to the record's tail.
#[inline(always)]
pub fn append(claim: Claim, tail: &mut u64, path: Path) -> Text {
    let mut flags = 0;
    if path.end == WALK_FAULT {
        flags = TEXT_UNREAD;
    } else if !path.whole() {
        flags = TEXT_TRUNCATED;
    }
    let from = (&raw const *claim.slot) as u64
        + core::mem::offset_of!(Slot, path) as u64
        + bounded(u64::from(path.begin), 0x1fff);
    let len = bounded(path.len(), 0x1fff);
    // SAFETY: the tail is bounded to 16 KiB, the path to 4; the record has 24.
    unsafe {
        let to = claim.record().add(bounded(*tail, 0x3fff) as usize);
        if len > PATH_MAX as u64 || bpf_probe_read_kernel(to.cast(), len as u32, from as *const c_void) != 0 {
            return Text { len: 0, flags: TEXT_UNREAD };
        }
    }
    *tail += len;
    Text { len: len as u16, flags }
}

/// One component, or one mount crossing. Returns 1 to end the loop.
#[inline(never)]
extern "C" fn step(_index: u64, slot: *mut *mut Slot) -> i64 {
    // SAFETY: bpf_loop hands in what `resolve_before` gave it. Both positions are masked; the slot has a component's slack
    // behind the mask.
    unsafe {
        let slot = *slot;
        let walk = &raw mut (*slot).walk;
        let dentry = (*walk).dentry;
        if dentry == (*walk).mount_root {
            return cross(walk);
        }
        // d_parent and, right behind it, d_name: hash and length, pointer. The loader checks that they stand together.
        let link = words::<3>(dentry + u64::from(off!(dentry_d_parent))).unwrap_or([0; 3]);
        if link[0] == 0 {
            (*walk).end = u64::from(WALK_FAULT);
            return 1;
        }
        let length = (link[1] >> 32) & NAME_MASK;
        let at = (*walk).at;
        if at > PATH_MAX as u64 || at <= length {
            (*walk).end = u64::from(WALK_CUT);
            return 1;
        }
        let slash = at - length - 1;
        let room = (&raw mut (*slot).path).cast::<u8>();
        bpf_probe_read_kernel(
            room.add(bounded(slash + 1, PATH_MASK) as usize).cast(),
            bounded(length, NAME_MASK) as u32,
            link[2] as *const c_void,
        );
        *room.add(bounded(slash, PATH_MASK) as usize) = b'/';
        (*walk).at = slash;
        (*walk).dentry = link[0];
        if link[0] == dentry {
            (*walk).end = u64::from(WALK_DETACHED);
            return 1;
        }
    }
    0
}

/// From the root of a mount to the place where it is mounted.
///
/// # Safety
/// `walk` lies in a slot.
#[inline(always)]
unsafe fn cross(walk: *mut Walk) -> i64 {
    // SAFETY: the caller's.
    unsafe {
        let mount = (*walk).vfsmount - u64::from(off!(mount_mnt));
        // mnt_parent and, right behind it, mnt_mountpoint; the loader checks that, too.
        let up = words::<2>(mount + u64::from(off!(mount_mnt_parent))).unwrap_or([0; 2]);
        if up[0] == mount || up[0] == 0 {
            (*walk).end = u64::from(if up[0] == 0 { WALK_FAULT } else { WALK_ROOT });
            return 1;
        }
        (*walk).dentry = up[1];
        (*walk).vfsmount = up[0] + u64::from(off!(mount_mnt));
        (*walk).mount_root = read_u64((*walk).vfsmount + u64::from(off!(vfsmount_mnt_root)));
    }
    0
}

/// A pointer-sized value at a kernel address; 0 if it cannot be read.
#[inline(always)]
pub fn read_u64(address: u64) -> u64 {
    word(address).unwrap_or(0)
}
