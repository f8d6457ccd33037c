//! A network namespace with only a loopback, and a cgroup for the attack; both vanish with the play.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The cgroup of the attack. Dropping it ends what is inside and removes it.
pub(crate) struct Cgroup {
    path: PathBuf,
}

/// Where cgroup2 is mounted, from /proc/mounts (never a fixed path: hybrid machines have it elsewhere).
pub(crate) fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_source, target, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    });
    found.context("no cgroup2 is mounted here")
}

impl Cgroup {
    pub(crate) fn make(name: &str) -> Result<Self> {
        if name.is_empty() || name.contains("..") || name.starts_with('/') {
            bail!("cgroup name {name:?} must be a relative path without ..");
        }
        let path = cgroup2_mount()?.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where a process writes `0` to move itself in.
    pub(crate) fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Ends frozen ones, too, in this cgroup and all below it. Best effort: it is the end of the play.
        let _best_effort = fs::write(self.path.join("cgroup.kill"), "1");
        let patience = Instant::now() + Duration::from_secs(5);
        while let Err(error) = remove_tree(&self.path) {
            if error.kind() == io::ErrorKind::NotFound || Instant::now() > patience {
                return;
            }
            // The kernel empties a cgroup a little after its processes were killed, and tells nobody who has no poll on it.
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Leaves the machine's network for a new one in which only the loopback exists, and brings that up.
#[expect(unsafe_code, reason = "bringing an interface up is an ioctl, and unshare has no safe wrapper")]
pub(crate) fn enter_own_network() -> Result<()> {
    // SAFETY: unshare takes flags only; this is called at the start of the program, before any other thread exists.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error()).context("make a network namespace (needs root)");
    }
    // SAFETY: an all-zero ifreq is a valid value of that C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .context("make a socket to set up the loopback")?;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is and which outlives the call.
    let done = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request)
    };
    if done != 0 {
        return Err(io::Error::last_os_error()).context("bring the loopback up");
    }
    Ok(())
}
