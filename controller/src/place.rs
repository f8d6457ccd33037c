//! A file that is there whole or not at all: it is made under another name first, since whatever made it may be killed in between.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

/// Gives a file that is whole its name. Where somebody was faster, his stays and this one goes.
pub(crate) fn place(fresh: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, fresh, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => fs::remove_file(fresh)?,
        // A filesystem that does not know it, as NFS.
        Err(Errno::INVAL | Errno::NOSYS) => place_by_link(fresh, path)?,
        Err(error) => return Err(error.into()),
    }
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// A second name is made only where there is none.
fn place_by_link(fresh: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(fresh, path) {
        Ok(()) => fs::remove_file(fresh),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(fresh),
        // Neither: there nobody is told who was first, but whoever is there already stays.
        Err(_) if path.try_exists()? => fs::remove_file(fresh),
        Err(_) => fs::rename(fresh, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_first_stays() {
        for place in [place, place_by_link] {
            let folder = tempfile::tempdir().unwrap();
            let (fresh, path) = (folder.path().join("a.new"), folder.path().join("a"));
            for text in ["first", "second"] {
                fs::write(&fresh, text).unwrap();
                place(&fresh, &path).unwrap();
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), "first");
            assert!(!fresh.exists());
        }
    }
}
