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
        fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut key)).map_err(io("draw"))?;
        // Under another name until it is whole: a kill in between would leave a file that is no key.
        let fresh = path.with_extension("new");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        let mut file = file.map_err(io("create"))?;
        writeln!(file, "{}", hex::encode(key)).and_then(|()| file.sync_all()).map_err(io("write"))?;
        place(&fresh, path).map_err(io("create"))?;
        // Whoever was first made it.
        Self::load(path)
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
        fs::write(path.with_extension("new"), "").unwrap();
        fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o600)).unwrap();
        let made = AuditKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(AuditKey::load_or_create(&path).unwrap().fingerprint(), made.fingerprint());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(AuditKey::load(&path), Err(KeyError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "no key").unwrap();
        assert!(matches!(AuditKey::load(&path), Err(KeyError::Malformed { .. })));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = AuditKey::from_bytes([7; KEY_BYTES]);
        assert!(!format!("{key:?}").contains(&hex::encode([7; KEY_BYTES])[..8]));
    }
}
