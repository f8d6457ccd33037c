//! Which leaderships an agent still listens to: the number of the latest that it met, on disk, so that neither a restart of the agent nor a
//! former leader that woke up late brings back an earlier one.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The latest leadership that was met.
#[derive(Debug)]
pub struct Fence {
    path: PathBuf,
    seen: Mutex<u64>,
}

/// Why a leadership is not listened to.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    /// A later one was met.
    Superseded {
        /// Which.
        seen: u64,
    },
    /// It could not be written down, so that an earlier one could come after it.
    Unwritten(io::Error),
}

impl Fence {
    /// With what stands in a file; it need not be there yet.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or holds no number: who may command must not be guessed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let seen = match fs::read_to_string(path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it holds no number"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.into(), seen: Mutex::new(seen) })
    }

    /// The latest that was met; 0 before the first.
    #[must_use]
    pub fn seen(&self) -> u64 {
        *self.lock()
    }

    /// Whether `epoch` may command. A later one than all before is written down first. 0, from a controller that knows no elections, may.
    pub(crate) fn admit(&self, epoch: u64) -> Result<(), NotAdmitted> {
        let mut seen = self.lock();
        if epoch == 0 || epoch == *seen {
            return Ok(());
        }
        if epoch < *seen {
            return Err(NotAdmitted::Superseded { seen: *seen });
        }
        self.write(epoch).map_err(NotAdmitted::Unwritten)?;
        *seen = epoch;
        Ok(())
    }

    fn write(&self, epoch: u64) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = fs::File::create(&beside)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        match self.path.parent() {
            Some(folder) => fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u64> {
        // A number that was half replaced cannot be seen.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_leadership_is_refused_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leadership");
        let fence = Fence::open(&path).unwrap();
        fence.admit(7).unwrap();
        fence.admit(7).unwrap();
        assert!(matches!(fence.admit(6), Err(NotAdmitted::Superseded { seen: 7 })));
        fence.admit(9).unwrap();
        let again = Fence::open(&path).unwrap();
        assert_eq!(again.seen(), 9);
        assert!(matches!(again.admit(8), Err(NotAdmitted::Superseded { seen: 9 })));
        // One without elections says nothing about them.
        again.admit(0).unwrap();
        assert_eq!(again.seen(), 9);
        fs::write(&path, "nine").unwrap();
        assert!(Fence::open(&path).is_err(), "it is not guessed");
    }

    #[test]
    fn a_leadership_that_cannot_be_written_down_is_not_listened_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone").join("leadership");
        let fence = Fence::open(&path).unwrap();
        assert!(matches!(fence.admit(7), Err(NotAdmitted::Unwritten(_))));
        assert_eq!(fence.seen(), 0);
    }
}
