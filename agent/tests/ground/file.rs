//! Files with everything that a file can have.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use model::Target;
use rustix::fs::{Timespec, Timestamps, XattrFlags};

/// Everything of a file that a revert must give back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub content: Vec<u8>,
    pub mode: u32,
    pub owner: (u32, u32),
    pub times: ((i64, i64), (i64, i64)),
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub flags: u32,
    pub links: u64,
}

impl Whole {
    pub fn read(path: &Path) -> Self {
        let meta = fs::symlink_metadata(path).unwrap();
        let file = rustix::fs::open(
            path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOATIME,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let file = File::from(file);
        let mut list = vec![0; 65536];
        let length = rustix::fs::flistxattr(&file, &mut list[..]).unwrap_or(0);
        let mut xattrs: Vec<(String, Vec<u8>)> = list[..length]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| {
                let name = String::from_utf8(name.to_vec()).unwrap();
                let mut value = vec![0; 65536];
                let length = rustix::fs::fgetxattr(&file, name.as_str(), &mut value[..]).unwrap();
                value.truncate(length);
                (name, value)
            })
            .collect();
        xattrs.sort();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut content).unwrap();
        Self {
            content,
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            times: ((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec())),
            xattrs,
            flags: rustix::fs::ioctl_getflags(&file).map_or(0, |flags| flags.bits()),
            links: meta.nlink(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Wanted {
    pub content: Vec<u8>,
    pub mode: u32,
    pub owner: (u32, u32),
    pub times: ((i64, i64), (i64, i64)),
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Makes the file; an attribute that this filesystem does not take is left out.
pub fn make(path: &Path, wanted: &Wanted) {
    fs::write(path, &wanted.content).unwrap();
    std::os::unix::fs::chown(path, Some(wanted.owner.0), Some(wanted.owner.1)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(wanted.mode)).unwrap();
    let file = File::open(path).unwrap();
    for (name, value) in &wanted.xattrs {
        let _taken = rustix::fs::fsetxattr(&file, name.as_str(), value, XattrFlags::empty());
    }
    let time = |(seconds, nanos): (i64, i64)| Timespec { tv_sec: seconds, tv_nsec: nanos };
    rustix::fs::futimens(
        &file,
        &Timestamps { last_access: time(wanted.times.0), last_modification: time(wanted.times.1) },
    )
    .unwrap();
}

pub fn target(path: &Path) -> Target {
    let meta = fs::symlink_metadata(path).unwrap();
    Target::File { path: path.display().to_string(), inode: meta.ino(), device: meta.dev() }
}

/// A POSIX ACL that lets one more user read, in the kernel's form (linux/posix_acl_xattr.h).
pub fn acl(user: u32, perm: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, perm, user),
        (4, 4, u32::MAX),
        (0x10, 5, u32::MAX),
        (0x20, 1, u32::MAX),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `cap_net_raw=ep`, as linux/capability.h's vfs_cap_data of revision 2.
pub fn capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}
