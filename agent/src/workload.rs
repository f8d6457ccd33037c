//! cgroup id → container, pod or unit.

pub(crate) mod handle;
pub(crate) mod name;
mod parse;
mod timers;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use model::{CgroupId, Pid, StartedBy, Workload};
use timers::Timers;

pub use parse::{PodOf, parse, pod_of};

/// When what could not be read of a cgroup is read again.
const AGAIN: Duration = Duration::from_secs(5);

/// What the process tree asks for a cgroup.
pub trait WorkloadSource: Send {
    /// What `cgroup` belongs to. `pid` is a process that was in it when the kernel made the record.
    fn resolve(&mut self, cgroup: CgroupId, pid: Pid) -> Arc<Workload>;
}

/// Resolves through the cgroup2 mount, and remembers.
///
/// A cgroup id is a 64-bit number that the kernel gives once, so what was found stays true; a container that has ended keeps its
/// name for as long as the memory holds it. The id is opened as a kernfs file handle: one system call, whatever the size of the
/// hierarchy. A cgroup that was removed before anybody asked is [`Workload::Unresolved`].
#[derive(Debug)]
pub struct Workloads {
    mount: PathBuf,
    root: Option<handle::Mount>,
    known: HashMap<CgroupId, Known>,
    clock: u64,
    timers: Timers,
}

#[derive(Debug)]
struct Known {
    workload: Arc<Workload>,
    used: u64,
    /// When it is looked up again, since not all of it could be read.
    again: Option<Instant>,
}

impl Workloads {
    /// Remembered cgroups (I11). Beyond this the quarter that was not asked for longest is forgotten; it is looked up again.
    pub const MAX_KNOWN: usize = 8192;

    /// For the machine's cgroup2 mount.
    ///
    /// # Errors
    /// When no cgroup2 is mounted or it cannot be opened.
    pub fn open() -> io::Result<Self> {
        let mount = cgroup2_mount()?;
        let root = handle::Mount::open(&mount)?;
        Ok(Self {
            mount,
            root: Some(root),
            known: HashMap::new(),
            clock: 0,
            timers: Timers::of(timers::HOST),
        })
    }

    /// Where cgroup2 is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// How many are remembered.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known.len()
    }

    fn look_up(&self, cgroup: CgroupId, pid: Pid) -> Workload {
        let by_handle = self.root.as_ref().and_then(|root| root.path_of(cgroup).ok()).map(|found| found.path);
        let path = by_handle
            .as_deref()
            .and_then(|path| below_mount(path, &self.mount))
            // Without CAP_DAC_READ_SEARCH handles cannot be opened; a living process still names its cgroup. It may have moved
            // since, so the folder's inode must agree.
            .or_else(|| path_of_process(pid).filter(|path| self.inode(path) == Some(cgroup.0)));
        let mut workload = path.map_or(Workload::Unresolved { cgroup }, |path| parse(&path));
        // A service has a new cgroup each time that it is started, and its timer is there by then.
        // Users' managers start what their users say.
        let asked = |unit: &&str| unit.ends_with(".service") && !unit.starts_with("user@");
        let told = workload.system_unit().filter(asked);
        let told = told.map(|unit| self.timers.starts(unit));
        if let (Workload::Unit { started_by, .. }, Some(told)) = (&mut workload, told) {
            *started_by = told;
        }
        workload
    }

    fn inode(&self, path: &str) -> Option<u64> {
        inode(&self.mount, path)
    }

    fn forget_oldest(&mut self) {
        let mut uses: Vec<u64> = self.known.values().map(|known| known.used).collect();
        let quarter = uses.len() / 4;
        let (_, threshold, _) = uses.select_nth_unstable(quarter);
        let threshold = *threshold;
        self.known.retain(|_, known| known.used > threshold);
    }
}

impl WorkloadSource for Workloads {
    fn resolve(&mut self, cgroup: CgroupId, pid: Pid) -> Arc<Workload> {
        self.clock += 1;
        if let Some(known) = self.known.get_mut(&cgroup)
            && known.again.is_none_or(|at| Instant::now() < at)
        {
            known.used = self.clock;
            return known.workload.clone();
        }
        let workload = Arc::new(self.look_up(cgroup, pid));
        if self.known.len() >= Self::MAX_KNOWN {
            self.forget_oldest();
        }
        let unread = matches!(&*workload, Workload::Unit { started_by: StartedBy::Unknown, .. });
        let again = unread.then(|| Instant::now() + AGAIN);
        self.known.insert(cgroup, Known { workload: workload.clone(), used: self.clock, again });
        workload
    }
}

/// The first cgroup2 mount of this mount namespace.
///
/// # Errors
/// When there is none.
pub fn cgroup2_mount() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ');
            let (target, kind) = (fields.nth(1)?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(unescape(target)))
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 in /proc/self/mounts: mount one"))
}

/// `/proc/PID/cgroup`'s line of the unified hierarchy.
#[must_use]
pub fn path_of_process(pid: Pid) -> Option<String> {
    // a name may be no text, and that of a removed cgroup is marked: whoever asks looks whether it is there
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(name::text(path))
}

/// The inode number of the cgroup at `path` below the mount, which is its id; `None` where there is none.
pub(crate) fn inode(mount: &Path, path: &str) -> Option<u64> {
    use std::os::unix::{ffi::OsStrExt, fs::MetadataExt};
    let below = name::bytes(path.trim_start_matches('/'));
    fs::metadata(mount.join(OsStr::from_bytes(&below))).ok().map(|meta| meta.ino())
}

/// The path of a cgroup below the mount, from that of its folder.
pub(crate) fn below_mount(path: &Path, mount: &Path) -> Option<String> {
    let below = path.strip_prefix(mount).ok()?.as_os_str().as_bytes();
    // /proc/self/fd says so of a folder that was removed while we held it; its name is still right. Anybody may call one so.
    let below = match below.strip_suffix(b" (deleted)") {
        Some(before) if !path.exists() => before,
        _ => below,
    };
    Some(format!("/{}", name::text(below)))
}

/// Mount points have blank, tab, newline and backslash as octal escapes (`getmntent(3)`).
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    fn make(name: &str) -> Option<(Folder, CgroupId)> {
        use std::os::unix::fs::MetadataExt;
        let path = cgroup2_mount().ok()?.join(format!("{name}-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            println!("SKIPPED: cannot make the cgroup {}: {error}", path.display());
            return None;
        }
        let id = CgroupId(fs::metadata(&path).unwrap().ino());
        Some((Folder(path), id))
    }

    #[test]
    fn a_cgroup_is_found_by_its_id_and_keeps_its_name_after_it_ended() {
        let Some((folder, id)) = make("cri-containerd-hemostat-test") else { return };
        let mut workloads = Workloads::open().unwrap();
        let nobody = Pid(u32::MAX);
        let seen = workloads.resolve(id, nobody);
        assert_eq!(
            seen.cgroup_path().unwrap(),
            format!("/{}", folder.0.file_name().unwrap().to_str().unwrap())
        );
        drop(folder);
        assert_eq!(workloads.resolve(id, nobody), seen);
    }

    /// Whoever may make cgroups below a container's own may call them what he likes: its workload is told all the same.
    #[test]
    fn what_a_program_calls_its_cgroup_does_not_hide_its_pod() {
        use rustix::fs::{AtFlags, Mode, OFlags};
        const UID: &str = "6b1f0c3a-9d2e-4f7b-8a1c-2e3f4a5b6c7d";
        const ID: &str = "3f4a0c7e9d2b1f6a8c5e7d9b0a1c2e3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b8c9d";
        let Some((folder, _)) = make("hemostat-test-pods") else { return };
        let around = rustix::fs::open(&folder.0, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let kubelets = [format!("pod{UID}").into_bytes(), ID.as_bytes().to_vec()];
        let nests: [Vec<Vec<u8>>; 4] = [
            vec![b"no \xff text".to_vec()],
            vec![b"x (deleted)".to_vec()],
            (0..20).map(|_| vec![b'd'; 250]).collect(),
            (0..2100).map(|_| vec![b'd']).collect(),
        ];
        for nest in nests {
            let names: Vec<Vec<u8>> = kubelets.iter().cloned().chain(nest).collect();
            let go = |at: &std::os::fd::OwnedFd, name: &[u8]| {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                rustix::fs::openat(at, OsStr::from_bytes(name), flags, Mode::empty()).unwrap()
            };
            let mut at = around.try_clone().unwrap();
            for name in &names {
                rustix::fs::mkdirat(&at, OsStr::from_bytes(name), Mode::from_raw_mode(0o755)).unwrap();
                at = go(&at, name);
            }
            let id = CgroupId(rustix::fs::fstat(&at).unwrap().st_ino);
            let seen = Workloads::open().unwrap().resolve(id, Pid(u32::MAX));
            for name in names.iter().rev() {
                at = go(&at, b"..");
                rustix::fs::unlinkat(&at, OsStr::from_bytes(name), AtFlags::REMOVEDIR).unwrap();
            }
            let Workload::Container { container_id, pod_uid, .. } = &*seen else { panic!("{seen:?}") };
            assert_eq!((container_id.as_str(), pod_uid.as_deref()), (ID, Some(UID)), "{names:?}");
        }
    }

    #[test]
    fn a_cgroup_that_ended_before_anybody_asked_is_unresolved_and_not_blank() {
        let Some((folder, id)) = make("hemostat-test-gone") else { return };
        drop(folder);
        let mut workloads = Workloads::open().unwrap();
        assert_eq!(*workloads.resolve(id, Pid(u32::MAX)), Workload::Unresolved { cgroup: id });
    }

    #[test]
    fn i11_memory_of_cgroups_is_bounded() {
        let mut workloads = Workloads {
            mount: "/nowhere".into(),
            root: None,
            known: HashMap::new(),
            clock: 0,
            timers: Timers::of("/nowhere"),
        };
        for id in 0..3 * Workloads::MAX_KNOWN as u64 {
            workloads.resolve(CgroupId(id), Pid(u32::MAX));
            assert!(workloads.known() <= Workloads::MAX_KNOWN);
        }
    }
}
