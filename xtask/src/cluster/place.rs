//! Where the cluster is on this machine: its folder, its cgroup, its addresses, and the record of what was made, written before it is
//! made, from which `down` works.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::enclosure::{cgroup2, mounts};

pub(super) const NODE: &str = "node-1";
pub(super) const POD_RANGE: &str = "10.244.0.0/16";
pub(super) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The Service `kubernetes`. It is an address of the node itself, so that pods reach the API server without kube-proxy.
pub(super) const SERVICE_ADDRESS: &str = "10.96.0.1";

const CHOICE: &str = "HEMOSTAT_CLUSTER_SLOT";

/// One of the places for a cluster on this machine: several can run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    slot: u8,
}

impl Place {
    /// The bench of ordinary work keeps a cluster for an hour: it leaves the others' places free.
    pub(crate) const OF_BENCHES: Self = Self { slot: 9 };

    /// What HEMOSTAT_CLUSTER_SLOT says (0 to 9), or 0.
    pub(crate) fn chosen() -> Result<Self> {
        let Ok(text) = std::env::var(CHOICE) else { return Ok(Self { slot: 0 }) };
        match text.parse() {
            Ok(slot @ 0..=9) => Ok(Self { slot }),
            _ => bail!("{CHOICE} is {text:?} and should be a number from 0 to 9"),
        }
    }

    /// What another process is to find in its environment so that it chooses this one.
    pub(super) fn chosen_by(self) -> (&'static str, String) {
        (CHOICE, self.slot.to_string())
    }

    /// The cluster's folder. A short path: sockets below it may have 107 bytes.
    pub(super) fn state(self) -> PathBuf {
        let base = std::env::var_os("HEMOSTAT_CLUSTER")
            .filter(|value| !value.is_empty())
            .map_or_else(|| PathBuf::from("/var/lib/hemostat-cluster"), PathBuf::from);
        if self.slot == 0 { base } else { base.with_extension(self.slot.to_string()) }
    }

    /// The API server's audit log.
    pub(crate) fn audit_log(self) -> PathBuf {
        super::parts::audit_log(&self.state())
    }

    /// The cgroup of everything, in each hierarchy; pods are in `kubepods` below it.
    pub(crate) fn cgroup(self) -> String {
        format!("hemostat-cluster-{}", self.slot)
    }

    /// The machine's end of the pair of network links.
    pub(super) fn link(self) -> String {
        format!("hemostat-c{}", self.slot)
    }

    pub(super) fn machine_address(self) -> String {
        format!("192.168.{}.1", self.third())
    }

    pub(super) fn node_address(self) -> String {
        format!("192.168.{}.2", self.third())
    }

    pub(super) fn api_server(self) -> String {
        format!("https://{}:443", self.node_address())
    }

    fn third(self) -> u8 {
        240 + self.slot
    }
}

/// The record before it has its name.
const PARTIAL: &str = "record.partial";

/// Folders that the parts insist on; each gets a folder of ours put over it, in the cluster's own view of the mounts.
const COVERED: &[(&str, &str)] = &[
    ("kubelet", "/var/lib/kubelet"),
    ("pod-logs", "/var/log/pods"),
    ("container-logs", "/var/log/containers"),
    ("run-containerd", "/run/containerd"),
    ("run-cilium", "/run/cilium"),
];

/// How pods are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cni {
    /// The bridge plugin: pods reach each other; NetworkPolicies are stored and not enforced.
    Bridge,
    /// Cilium: NetworkPolicies and CiliumNetworkPolicies are enforced.
    Cilium,
}

/// While it is held no other cluster of this machine begins or ends. On a folder that every machine has, so that nothing is left of it.
pub(super) fn alone() -> Result<fs::File> {
    let folder = fs::File::open("/var/lib").context("open /var/lib")?;
    folder.lock().context("wait for other clusters that begin or end")?;
    Ok(folder)
}

/// Records of the clusters at the other places. One that cannot be read is there all the same.
fn others(place: Place) -> impl Iterator<Item = Result<Record>> {
    let other = (0..=9).map(|slot| Place { slot }).filter(move |other| *other != place);
    other.filter_map(|other| Record::load(&other.state()).transpose())
}

/// What was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// Our cgroup in each hierarchy.
    pub(super) cgroups: Vec<PathBuf>,
    /// Folders of the machine that were not there before.
    pub(super) made: Vec<PathBuf>,
    pub(super) cni: Cni,
    /// Who made it: the number of a process that may be gone.
    #[serde(default)]
    pub(super) maker: Option<u32>,
    /// The process that holds the namespaces.
    pub(super) keeper: Option<u32>,
    /// Everything came up.
    pub(super) ready: bool,
}

impl Record {
    const VERSION: u32 = 1;

    /// What is about to be made.
    pub(super) fn plan(place: Place, cni: Cni) -> Result<Self> {
        let mut cgroups = vec![cgroup2()?.join(place.cgroup())];
        cgroups.extend(mounts("cgroup")?.into_iter().map(|hierarchy| hierarchy.join(place.cgroup())));
        let mut made = Vec::new();
        // What another cluster has made and this one covers, too, goes with the last of them.
        let of_others: Vec<PathBuf> = others(place).flatten().flat_map(|other| other.made).collect();
        let modules = (cni == Cni::Cilium).then_some("/lib/modules");
        for over in COVERED.iter().map(|(_, over)| *over).chain(modules) {
            made.extend(Self::missing(Path::new(over), &of_others));
        }
        let maker = Some(std::process::id());
        Ok(Self { version: Self::VERSION, cgroups, made, cni, maker, keeper: None, ready: false })
    }

    /// Removes the folders that were made, if they are empty. Not while another cluster is there: it covers them in its own view of the mounts,
    /// and to remove a folder takes away what is mounted on it in every view.
    pub(super) fn remove_made(&self, place: Place) {
        self.remove_unless(others(place));
    }

    fn remove_unless(&self, mut others: impl Iterator<Item = Result<Self>>) {
        if others.next().is_some() {
            return;
        }
        for folder in self.made.iter().rev() {
            // It may have come into use by others since.
            let _in_use = fs::remove_dir(folder);
        }
    }

    /// A folder that is not there, or only for another cluster, with its parents of which that is so; the outermost first.
    fn missing(folder: &Path, of_others: &[PathBuf]) -> Vec<PathBuf> {
        let lacks = |path: &&Path| !path.exists() || of_others.iter().any(|made| made == path);
        let mut missing: Vec<PathBuf> = folder.ancestors().take_while(lacks).map(Path::to_path_buf).collect();
        missing.reverse();
        missing
    }

    /// `None` when there is no cluster.
    pub(super) fn load(state: &Path) -> Result<Option<Self>> {
        let path = file(state);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let record: Self =
            serde_json::from_str(&text).with_context(|| format!("read the record {}", path.display()))?;
        if record.version != Self::VERSION {
            bail!("{} was written by another version ({})", path.display(), record.version);
        }
        Ok(Some(record))
    }

    /// Whole or not at all, and on disk when this returns.
    pub(super) fn save(&self, state: &Path) -> Result<()> {
        let partial = state.join(PARTIAL);
        let text = serde_json::to_string_pretty(self).context("write the record")?;
        let mut file_now =
            fs::File::create(&partial).with_context(|| format!("create {}", partial.display()))?;
        file_now.write_all(text.as_bytes()).context("write the record")?;
        file_now.sync_all().context("write the record to disk")?;
        fs::rename(&partial, file(state)).context("name the record")?;
        fs::File::open(state)
            .and_then(|folder| folder.sync_all())
            .context("write the record's folder to disk")
    }

    /// Makes the folders and cgroups of the record.
    pub(super) fn make(&self, state: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
        for folder in &self.made {
            match fs::create_dir(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("make {}", folder.display()));
                }
                _ => {}
            }
        }
        for cgroup in &self.cgroups {
            fs::create_dir_all(cgroup).with_context(|| format!("make the cgroup {}", cgroup.display()))?;
            // A cpuset without processors takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let from = cgroup.parent().map(|parent| parent.join(file)).filter(|from| from.exists());
                if let Some(from) = from {
                    fs::read(&from)
                        .and_then(|value| fs::write(cgroup.join(file), value))
                        .with_context(|| format!("set up {}", cgroup.join(file).display()))?;
                }
            }
        }
        COVERED
            .iter()
            .map(|(own, over)| {
                let own = state.join(own);
                fs::create_dir_all(&own).with_context(|| format!("make {}", own.display()))?;
                Ok((own, PathBuf::from(over)))
            })
            .collect()
    }
}

/// Makes the cluster's folder, readable by root only.
pub(super) fn make_state(state: &Path) -> Result<()> {
    if state.exists() && !remove_unrecorded(state)? {
        bail!(
            "{} holds something that is no record of a cluster: empty it, or set HEMOSTAT_CLUSTER",
            state.display()
        );
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("make {}", state.display()))
}

/// Removes the folder of a start that was broken off before its record stood; anything else in it is not ours.
pub(super) fn remove_unrecorded(state: &Path) -> Result<bool> {
    for entry in fs::read_dir(state).with_context(|| format!("list {}", state.display()))? {
        if entry.context("list the cluster's folder")?.file_name() != PARTIAL {
            return Ok(false);
        }
    }
    fs::remove_dir_all(state).with_context(|| format!("remove {}", state.display()))?;
    Ok(true)
}

fn file(state: &Path) -> PathBuf {
    state.join("record.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_broken_one_is_named() {
        let state = std::env::temp_dir().join(format!("hemostat-record-{}", std::process::id()));
        fs::create_dir_all(&state).unwrap();
        assert!(Record::load(&state).unwrap().is_none());
        let mut record = Record {
            version: Record::VERSION,
            cgroups: vec!["/sys/fs/cgroup/x".into()],
            made: vec!["/a".into(), "/a/b".into()],
            cni: Cni::Bridge,
            maker: None,
            keeper: None,
            ready: false,
        };
        record.save(&state).unwrap();
        record.keeper = Some(7);
        record.save(&state).unwrap();
        let read = Record::load(&state).unwrap().unwrap();
        assert_eq!((read.keeper, read.made, read.ready), (Some(7), record.made, false));
        fs::write(file(&state), "{").unwrap();
        assert!(format!("{:#}", Record::load(&state).unwrap_err()).contains("record.json"));
        fs::remove_dir_all(&state).unwrap();
    }

    #[test]
    fn what_two_clusters_cover_goes_with_the_last_of_them() {
        let base = std::env::temp_dir().join(format!("hemostat-places-{}", std::process::id()));
        let shared = base.join("shared");
        fs::create_dir_all(&shared).unwrap();
        let record = Record {
            version: Record::VERSION,
            cgroups: vec![],
            made: vec![shared.clone()],
            cni: Cni::Bridge,
            maker: None,
            keeper: None,
            ready: true,
        };
        let state = base.join("other");
        fs::create_dir_all(&state).unwrap();
        record.save(&state).unwrap();
        let there = || Record::load(&state).transpose().into_iter();
        record.remove_unless(there());
        assert!(shared.exists(), "the other covers it");
        fs::write(file(&state), "{").unwrap();
        record.remove_unless(there());
        assert!(shared.exists(), "one whose record is broken may cover it");
        fs::remove_file(file(&state)).unwrap();
        record.remove_unless(there());
        assert!(!shared.exists());
        // And it is the second one's, too, as long as the first is there.
        fs::create_dir_all(&shared).unwrap();
        let of_others = [shared.clone()];
        assert_eq!(Record::missing(&shared, &of_others), of_others);
        assert!(Record::missing(&shared, &[]).is_empty(), "a folder of the machine is nobody's");
        fs::remove_dir_all(&base).unwrap();
    }
}
