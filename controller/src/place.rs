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
        // A filesystem that does not know it.
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(fresh, path)?,
        Err(error) => return Err(error.into()),
    }
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_first_stays() {
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
