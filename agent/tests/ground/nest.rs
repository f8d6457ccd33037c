//! Cgroups nested deeper than any path reaches.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::Ground;

/// Cgroups within each other, further down than any path reaches. They are removed from below.
pub struct Nest {
    around: OwnedFd,
    levels: Vec<(Vec<u8>, OwnedFd)>,
    kill: std::path::PathBuf,
}

fn folder(at: &OwnedFd, name: &[u8]) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, OsStr::from_bytes(name), flags, Mode::empty()).unwrap()
}

impl Nest {
    pub fn new(ground: &Ground, names: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let around = OwnedFd::from(File::open(&ground.cgroup).unwrap());
        let mut nest = Self { around, levels: Vec::new(), kill: ground.cgroup.join("cgroup.kill") };
        for name in names {
            let above = nest.deepest();
            rustix::fs::mkdirat(above, OsStr::from_bytes(&name), Mode::from_raw_mode(0o755)).unwrap();
            let below = folder(above, &name);
            nest.levels.push((name, below));
        }
        nest
    }

    pub fn deepest(&self) -> &OwnedFd {
        self.levels.last().map_or(&self.around, |(_, level)| level)
    }

    pub fn take(&self, pid: u32) {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let procs = rustix::fs::openat(self.deepest(), "cgroup.procs", flags, Mode::empty()).unwrap();
        File::from(procs).write_all(pid.to_string().as_bytes()).unwrap();
    }

    pub fn has(&self, pid: u32) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let procs = rustix::fs::openat(self.deepest(), "cgroup.procs", flags, Mode::empty()).unwrap();
        let text = std::io::read_to_string(File::from(procs)).unwrap();
        text.lines().any(|line| line == pid.to_string())
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        let _killed = fs::write(&self.kill, "1");
        let begun = std::time::Instant::now();
        while let Some((name, level)) = self.levels.pop() {
            drop(level);
            let gone = || rustix::fs::unlinkat(self.deepest(), OsStr::from_bytes(&name), AtFlags::REMOVEDIR);
            while gone().is_err() && begun.elapsed() < super::patience() {
                std::thread::yield_now();
            }
        }
    }
}
