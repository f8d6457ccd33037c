//! Everything about a file besides its content: read before it is moved, given back exactly.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
};

use model::FileState;
use rustix::{
    buffer::spare_capacity,
    fs::{Gid, IFlags, Mode, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use sha2::{Digest, Sha256};

/// The kernel's own limits (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const XATTR_MAX: usize = 64 << 10;
/// Flags that keep a file from being renamed or changed.
const LOCKS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// Flags that whoever owns a file may give it (linux/fs.h): secure deletion, undelete, compressed, synchronous, no dump, no atime, data in the
/// journal, no tail, no copy on write, project of its folder. The others say how the filesystem keeps it.
const MARKS: IFlags = IFlags::from_bits_retain(0x2080_c0cf);

/// Reads everything but the content. `file` is open for reading.
pub(super) fn read(file: &File, path: &str, stored: String, sha256: String) -> io::Result<FileState> {
    let meta = file.metadata()?;
    Ok(FileState {
        path: path.to_owned(),
        stored,
        sha256,
        size: meta.len(),
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        inode: meta.ino(),
        device: meta.dev(),
        accessed: (meta.atime(), meta.atime_nsec()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        xattrs: xattrs(file)?,
        links: meta.nlink(),
        flags: flags(file)?.bits(),
    })
}

/// Gives back owner, mode, extended attributes and times. Flags come last, once the file stands at its path: [`lock`].
pub(super) fn restore(file: &File, state: &FileState) -> io::Result<()> {
    // A change of owner clears setuid bits and capabilities, so it comes first; times change with everything, so they come last.
    rustix::fs::fchown(file, Some(Uid::from_raw(state.uid)), Some(Gid::from_raw(state.gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(state.mode & 0o7777))?;
    let now = xattrs(file)?;
    for (name, _) in now.iter().filter(|(name, _)| !state.xattrs.iter().any(|(wanted, _)| wanted == name)) {
        rustix::fs::fremovexattr(file, name.as_str())?;
    }
    for (name, value) in state.xattrs.iter().filter(|pair| !now.contains(pair)) {
        let value = hex::decode(value).map_err(io::Error::other)?;
        rustix::fs::fsetxattr(file, name.as_str(), &value, XattrFlags::empty())?;
    }
    let time = |(seconds, nanos): (i64, i64)| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time(state.accessed), last_modification: time(state.modified) };
    rustix::fs::futimens(file, &times)?;
    Ok(())
}

/// Takes away the flags that stand in the way of a move.
pub(super) fn unlock(file: &File) -> io::Result<()> {
    let now = flags(file)?;
    if now.intersects(LOCKS) {
        rustix::fs::ioctl_setflags(file, now - LOCKS)?;
    }
    Ok(())
}

/// Gives back the flags.
pub(super) fn lock(file: &File, state: &FileState) -> io::Result<()> {
    let wanted = IFlags::from_bits_retain(state.flags);
    if wanted.intersects(LOCKS) {
        rustix::fs::ioctl_setflags(file, flags(file)? | (wanted & LOCKS))?;
    }
    Ok(())
}

/// Gives a new file the flags that the old one had, but for those that [`lock`] gives. One that the filesystem does not take is left out: see
/// [`unmarked`].
pub(super) fn mark(file: &File, state: &FileState) -> io::Result<()> {
    let mut now = flags(file)?.bits();
    let missing = (now ^ state.flags) & MARKS.bits();
    for flag in (0..u32::BITS).map(|shift| 1 << shift).filter(|flag| missing & flag != 0) {
        match rustix::fs::ioctl_setflags(file, IFlags::from_bits_retain(now ^ flag)) {
            Ok(()) => now ^= flag,
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The flags of [`mark`] in which it differs from what it was.
pub(super) fn unmarked(file: &File, state: &FileState) -> io::Result<u32> {
    Ok((flags(file)?.bits() ^ state.flags) & MARKS.bits())
}

/// SHA-256 of the content from its beginning, hex.
pub(super) fn hash(file: &File) -> io::Result<String> {
    digest(file, |_| Ok(()))
}

/// SHA-256 of the content, each piece handed on as it is read.
pub(super) fn digest(mut file: &File, mut piece: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<String> {
    use std::io::Seek;
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            length => {
                hash.update(&buffer[..length]);
                piece(&buffer[..length])?;
            }
        }
    }
}

/// Names and values (hex), sorted by name.
fn xattrs(file: &File) -> io::Result<Vec<(String, String)>> {
    let mut list = Vec::with_capacity(XATTR_MAX);
    match rustix::fs::flistxattr(file, spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsString::from_vec(name.to_vec())
            .into_string()
            .map_err(|_| io::Error::other("an extended attribute has a name that is not text"))?;
        let mut value = Vec::with_capacity(XATTR_MAX);
        rustix::fs::fgetxattr(file, name.as_str(), spare_capacity(&mut value))?;
        found.push((name, hex::encode(value)));
    }
    found.sort_unstable();
    Ok(found)
}

fn flags(file: &File) -> io::Result<IFlags> {
    match rustix::fs::ioctl_getflags(file) {
        Ok(flags) => Ok(flags),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(IFlags::empty()),
        Err(error) => Err(error.into()),
    }
}
