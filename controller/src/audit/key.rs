//! The key of the audit chain.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::place::place;

/// Length of a key in bytes: the output size of SHA-256, as RFC 2104 §3 advises.
const KEY_BYTES: usize = 32;

/// A secret that makes entries of the chain. Never shown, not even by `Debug`.
#[derive(Clone)]
pub struct AuditKey([u8; KEY_BYTES]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or made.
    #[error("cannot {operation} the audit key {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Others can read it, so it proves nothing.
    #[error("the audit key {} can be read by others (mode {mode:03o}, owner {owner}): chmod 600 it, or replace it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner's uid.
        owner: u32,
    },
    /// Not a key.
    #[error("the audit key {} is not 64 hexadecimal digits", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

impl AuditKey {
    /// Reads the key, or makes a new one (mode 0600) where there is none.
    ///
    /// # Errors
    /// When the file cannot be read or made, is readable by others, or holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            other => other,
        }
    }

    /// Reads the key.
    ///
    /// # Errors
    /// When the file cannot be read, is readable by others, or holds no key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |operation| move |source| KeyError::Io { operation, path: path.into(), source };
        let meta = fs::metadata(path).map_err(io("read"))?;
        let owner = meta.uid();
        if meta.mode() & 0o077 != 0 || (owner != 0 && owner != rustix::process::geteuid().as_raw()) {
            return Err(KeyError::Exposed { path: path.into(), mode: meta.mode() & 0o777, owner });
        }
        let text = fs::read_to_string(path).map_err(io("read"))?;
        let mut key = [0; KEY_BYTES];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_| KeyError::Malformed { path: path.into() })?;
        Ok(Self(key))
    }

    /// A key from its bytes, for tests and for verification elsewhere.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// A short name of the key, which tells nothing of it: the first entry of a chain holds it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.mac("key", &[])[..16].to_owned()
    }

    /// Hex HMAC-SHA-256 of `bytes` for one purpose; a value made for one purpose is worth nothing for another.
    pub(super) fn mac(&self, purpose: &str, bytes: &[u8]) -> String {
        #[expect(
            clippy::expect_used,
            reason = "HMAC takes a key of any length (RFC 2104), so this cannot fail"
        )]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key length");
        mac.update(b"hemostat-audit-v1\0");
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        mac.update(bytes);
        hex::encode(mac.finalize().into_bytes())
    }

    fn create(path: &Path) -> Result<Self, KeyError> {
        let io = |operation| move |source| KeyError::Io { operation, path: path.into(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io("make the folder of"))?;
        }
        let mut key = [0; KEY_BYTES];
        draw(&mut key).map_err(io("draw"))?;
        // Under another name until it is whole: a kill in between would leave a file that is no key. Nobody else has that name: whoever
        // makes one at the same time would write into this one's.
        let mut name = [0; 8];
        draw(&mut name).map_err(io("draw"))?;
        let fresh = path.with_extension(format!("new.{}.{}", std::process::id(), hex::encode(name)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh);
        let mut file = file.map_err(io("create"))?;
        let text = format!("{}\n", hex::encode(key));
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write"))?;
        match place(&fresh, path) {
            // Whoever was first took this one for a remnant.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => {}
            other => other.map_err(io("create"))?,
        }
        sweep(path);
        // Whoever was first made it.
        Self::load(path)
    }
}

fn draw(bytes: &mut [u8]) -> io::Result<()> {
    fs::File::open("/dev/urandom")?.read_exact(bytes)
}

/// Takes away what was left half made. Where there is a key nobody needs another, not even who is still making one.
fn sweep(path: &Path) {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else {
        return;
    };
    let prefix = format!("{stem}.new.");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&prefix))
            && let Err(error) = fs::remove_file(entry.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %entry.path().display(), %error, "a key that was left half made could not be removed");
        }
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/audit.key");
        // I7: what a kill left half made is no key.
        fs::create_dir(dir.path().join("keys")).unwrap();
        fs::write(path.with_extension("new.1.0123456789abcdef"), "").unwrap();
        let made = AuditKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("keys")).unwrap().count(), 1, "nothing is left of it");
        assert_eq!(AuditKey::load_or_create(&path).unwrap().fingerprint(), made.fingerprint());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(AuditKey::load(&path), Err(KeyError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "no key").unwrap();
        assert!(matches!(AuditKey::load(&path), Err(KeyError::Malformed { .. })));
    }

    #[test]
    fn i7_whoever_makes_a_key_at_the_same_time_touches_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        // Another maker is in the middle of it: what he writes to is his own file, wherever it is moved.
        let his = path.with_extension("new");
        fs::write(&his, "his").unwrap();
        let his = fs::File::open(&his).unwrap();
        AuditKey::create(&path).unwrap();
        assert_eq!(io::read_to_string(his).unwrap(), "his");
        for _ in 0..20 {
            let path = dir.path().join("many/audit.key");
            let made: Vec<String> = std::thread::scope(|scope| {
                let makers: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| AuditKey::load_or_create(&path).unwrap().fingerprint()))
                    .collect();
                makers.into_iter().map(|maker| maker.join().unwrap()).collect()
            });
            assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
            let left: Vec<_> = fs::read_dir(dir.path().join("many")).unwrap().collect();
            assert_eq!(left.len(), 1, "{left:?}");
            fs::remove_dir_all(dir.path().join("many")).unwrap();
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = AuditKey::from_bytes([7; KEY_BYTES]);
        assert!(!format!("{key:?}").contains(&hex::encode([7; KEY_BYTES])[..8]));
    }
}
