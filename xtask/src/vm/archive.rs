//! The guest's root folder: an initramfs in the `newc` format (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::progress::{cache, output, skip};

/// What the containment tests run, or have their victims run, beside themselves.
const PROGRAMS: [&str; 12] =
    ["sh", "sleep", "cp", "mv", "cat", "kill", "true", "touch", "ip", "nsenter", "mount", "umount"];

/// Bytes above which a program's debug information is left behind: the emulated machine unpacks all of it.
const STRIPPED_ABOVE: usize = 4 << 20;

/// An archive under construction.
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: usize,
    folders: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Archive {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), inode: 0, folders: BTreeSet::new(), files: BTreeSet::new() }
    }

    /// Adds a file of this machine under another name, with the folders above it. The same name twice is the same file.
    pub(super) fn add(&mut self, at: &Path, from: &Path) -> Result<()> {
        if !self.files.insert(at.to_path_buf()) {
            return Ok(());
        }
        let mut body = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        if body.len() > STRIPPED_ABOVE {
            body = stripped(from).unwrap_or(body);
        }
        let mut above: Vec<&Path> =
            at.ancestors().skip(1).filter(|folder| folder.parent().is_some()).collect();
        above.reverse();
        for folder in above {
            if self.folders.insert(folder.to_path_buf()) {
                self.entry(folder, 0o040_755, &[]);
            }
        }
        self.entry(at, 0o100_755, &body);
        Ok(())
    }

    /// Adds a folder of this machine with all that is in it.
    pub(super) fn add_folder(&mut self, at: &Path, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
            let entry = entry.with_context(|| format!("read {}", from.display()))?;
            let (at, from) = (at.join(entry.file_name()), entry.path());
            if from.is_dir() {
                self.add_folder(&at, &from)?;
            } else {
                self.add(&at, &from)?;
            }
        }
        Ok(())
    }

    /// Adds the programs that tests run, from this machine, with the shared libraries that they need. One that is not here is
    /// said: the tests that want it skip aloud.
    pub(super) fn add_programs(&mut self) -> Result<()> {
        let folders: Vec<PathBuf> =
            std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
        for name in PROGRAMS {
            let places = folders.iter().map(|folder| folder.join(name));
            let Some(program) = places.into_iter().find(|path| path.is_file()) else {
                skip("a program in the guest", format!("this machine has no {name} to lend"));
                continue;
            };
            self.add(&Path::new("/bin").join(name), &program)?;
            let libraries = output("ldd", &[&program.to_string_lossy()]).unwrap_or_default();
            for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
                let library = Path::new(library);
                self.add(library, library)?;
            }
        }
        Ok(())
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("/TRAILER!!!"), 0, &[]);
        self.bytes
    }

    fn entry(&mut self, at: &Path, mode: usize, body: &[u8]) {
        let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(4), 0);
        let name = at.to_string_lossy();
        let name = name.trim_start_matches('/');
        self.inode += 1;
        self.bytes.extend_from_slice(b"070701");
        for field in [self.inode, mode, 0, 0, 1, 0, body.len(), 0, 0, 0, 0, name.len() + 1, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        pad(&mut self.bytes);
        self.bytes.extend_from_slice(body);
        pad(&mut self.bytes);
    }
}

/// A program without its debug information, where there is a `strip`.
fn stripped(program: &Path) -> Option<Vec<u8>> {
    let to = cache().ok()?.join("vm/stripped");
    output("strip", &["--strip-debug", "-o", &to.to_string_lossy(), &program.to_string_lossy()])?;
    let body = fs::read(&to).ok();
    let _removed = fs::remove_file(&to);
    body
}
