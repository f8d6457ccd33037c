//! `node.net-quarantine` and `node.block-destination`: eBPF on a cgroup and all below it. The links are pinned in a folder of the
//! action's own, so that they hold while the agent is away, and are lifted by taking them out of force before their files go.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use agent_abi::quarantine::{self as abi, Peer};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, links::FdLink},
};
use ipnet::IpNet;
use model::{
    ActionFailure, BlockDestination, CgroupId, Effect, NetQuarantine, Outputs, RollbackState, Target,
};
use serde_json::json;

use super::{
    bpffs,
    cgroup::{self, Cgroup},
    freeze::target_cgroup,
    object,
    scene::{Act, Scene, Task, Undone, mismatch},
    sys,
};

/// Programs that see packets: without them there is no quarantine.
const PACKET: [(&str, CgroupSkbAttachType); 2] =
    [("packet_in", CgroupSkbAttachType::Ingress), ("packet_out", CgroupSkbAttachType::Egress)];
/// Programs that make calls fail at once; a kernel without them only makes callers wait.
const CALL: [&str; 4] = ["connect4", "connect6", "sendmsg4", "sendmsg6"];
const COUNTERS: &str = "counters";

/// Cut a cgroup off.
pub(super) struct Quarantine<'a>(pub(super) &'a NetQuarantine);
/// Cut a cgroup off from one destination.
pub(super) struct Block<'a>(pub(super) &'a BlockDestination);

/// Programs loaded and verified ahead, attached to nothing: what remains to be done for a quarantine takes a fraction of a
/// millisecond instead of ten.
#[derive(Default)]
pub(super) struct Spare(Mutex<Loading>);

#[derive(Default)]
struct Loading {
    ahead: Option<Ebpf>,
    /// Kept, since a new one reads every type of the kernel, which these programs name none of: 40 ms for each quarantine.
    loader: Option<EbpfLoader<'static>>,
}

impl Spare {
    /// Loads a set if there is none.
    pub(super) fn prepare(&self) -> Result<(), ActionFailure> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.ahead.is_none() {
            spare.ahead = Some(spare.load()?);
        }
        Ok(())
    }

    pub(super) fn is_prepared(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ahead.is_some()
    }

    fn take(&self) -> Result<Ebpf, ActionFailure> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match spare.ahead.take() {
            Some(ahead) => Ok(ahead),
            None => spare.load(),
        }
    }
}

impl Loading {
    fn load(&mut self) -> Result<Ebpf, ActionFailure> {
        let loader = self.loader.get_or_insert_with(|| {
            let mut loader = EbpfLoader::new();
            loader.btf(None);
            loader
        });
        let mut ebpf =
            loader.load(object::QUARANTINE).map_err(|error| refused("the quarantine object", &error))?;
        for (name, _) in PACKET {
            let program: Option<&mut CgroupSkb> =
                ebpf.program_mut(name).and_then(|program| program.try_into().ok());
            program.ok_or_else(|| damaged(name))?.load().map_err(|error| refused(name, &error))?;
        }
        for name in CALL {
            let program: Option<&mut CgroupSockAddr> =
                ebpf.program_mut(name).and_then(|program| program.try_into().ok());
            if let Err(error) = program.ok_or_else(|| damaged(name))?.load() {
                tracing::warn!(hook = name, %error, "this kernel does not take the hook");
            }
        }
        Ok(ebpf)
    }
}

impl Act for Quarantine<'_> {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        capture(task)
    }

    fn apply(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Outputs, ActionFailure> {
        let networks: Vec<(IpNet, Peer)> = self.0.allow.iter().map(|net| (*net, ANY_PORT)).collect();
        apply(task, rollback, abi::MODE_ISOLATE, &networks)
    }

    fn verify(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
        verify(task, rollback)
    }

    fn revert(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Undone, ActionFailure> {
        revert(task, rollback)
    }
}

impl Act for Block<'_> {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        capture(task)
    }

    fn apply(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Outputs, ActionFailure> {
        let peer = Peer { port: self.0.port.unwrap_or(0), reserved: 0 };
        apply(task, rollback, abi::MODE_BLOCK, &[(self.0.destination, peer)])
    }

    fn verify(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
        verify(task, rollback)
    }

    fn revert(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Undone, ActionFailure> {
        revert(task, rollback)
    }
}

const ANY_PORT: Peer = Peer { port: 0, reserved: 0 };

/// Removes pin folders whose cgroup is gone. One that still holds but that the journal does not know is left alone and named: it may be
/// another installation's, and lifting it would free somebody's attacker. Returns how many were removed.
pub(super) fn sweep_pins(scene: &Scene, known: &[String]) -> Result<usize, ActionFailure> {
    let base = bpffs::folder(scene);
    let entries = match fs::read_dir(&base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(ActionFailure::io("list", base.display(), &error)),
    };
    let mut swept = 0;
    for entry in entries.flatten() {
        let folder = entry.path();
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PIN_PREFIX)) {
            continue;
        }
        if !is_attached(&folder)? {
            lift(&|step| scene.step(step), &folder)?;
            swept += 1;
        } else if !known.iter().any(|pins| Path::new(pins) == folder) {
            tracing::warn!(folder = %folder.display(), "a pinned quarantine is in force that the journal does not know");
        }
    }
    Ok(swept)
}

/// The folders of pinned quarantines in this folder of bpffs.
pub(super) fn pin_folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PIN_PREFIX)) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Lifts a quarantine that no journal knows.
pub(super) fn lift_pins(folder: &Path) -> Result<(), ActionFailure> {
    lift(&|_| (), folder)
}

/// Pin folders begin like this: others may keep theirs beside.
const PIN_PREFIX: &str = "net-";

fn capture(task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
    let cgroup = target_cgroup(task, task.target)?;
    let pins = pins(task);
    Ok(RollbackState::Network { pins: pins.display().to_string(), cgroup: cgroup.path })
}

fn apply(
    task: &Task<'_>,
    rollback: &RollbackState,
    mode: u32,
    networks: &[(IpNet, Peer)],
) -> Result<Outputs, ActionFailure> {
    let RollbackState::Network { cgroup: path, .. } = rollback else { return Err(mismatch(task)) };
    let cgroup = target_cgroup(task, task.target)?;
    if cgroup.path != *path {
        return Err(ActionFailure::TargetChanged {
            target: task.target.to_string(),
            expected: format!("cgroup {path}"),
            found: format!("cgroup {}", cgroup.path),
        });
    }
    bpffs::ensure(task.scene)?;
    let folder = pins(task);
    // half of an earlier try: taken out of force and done anew
    lift(&|step| task.step(step), &folder)?;
    let done = attach(task, &cgroup, &folder, mode, networks);
    match done {
        Ok(calls) => Ok(Outputs::from([
            ("cgroup".to_owned(), json!(cgroup.path)),
            ("pins".to_owned(), json!(folder.display().to_string())),
            ("calls_refused_at_once".to_owned(), json!(calls)),
        ])),
        Err(failure) => {
            if let Err(left) = lift(&|step| task.step(step), &folder) {
                task.leave_unclean(&left);
            }
            Err(failure)
        }
    }
}

/// Fills the maps, attaches and pins. Returns how many of the call hooks this kernel took.
fn attach(
    task: &Task<'_>,
    cgroup: &Cgroup,
    folder: &Path,
    mode: u32,
    networks: &[(IpNet, Peer)],
) -> Result<usize, ActionFailure> {
    let mut ebpf = task.scene.spare.take()?;
    fill(&mut ebpf, mode, networks)?;
    fs::create_dir_all(folder).map_err(|error| ActionFailure::io("create", folder.display(), &error))?;
    let mut links: Vec<(&str, FdLink)> = Vec::with_capacity(PACKET.len() + CALL.len());
    for (name, kind) in PACKET {
        task.step("attach");
        links.push((name, attach_packet(&mut ebpf, name, kind, cgroup).map_err(|e| refused(name, &e))?));
    }
    let mut calls = 0;
    for name in CALL {
        match attach_call(&mut ebpf, name, cgroup) {
            Ok(link) => {
                calls += 1;
                links.push((name, link));
            }
            Err(error) => tracing::warn!(hook = name, %error, "calls will wait instead of failing at once"),
        }
    }
    let counters = ebpf.map("COUNTERS").ok_or_else(|| damaged("COUNTERS"))?;
    counters.pin(folder.join(COUNTERS)).map_err(|error| refused(COUNTERS, &error))?;
    for (name, link) in links {
        task.step("pin");
        link.pin(folder.join(name)).map_err(|error| refused(name, &error))?;
    }
    Ok(calls)
}

fn verify(task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
    let RollbackState::Network { cgroup: path, .. } = rollback else { return Err(mismatch(task)) };
    let cgroup = task
        .scene
        .cgroups
        .find(path, told_id(task))
        .map_err(|error| cgroup::failure("open", path, &error))?;
    let id = cgroup.id().map_err(|error| cgroup::failure("identify", path, &error))?;
    let folder = pins(task);
    for (name, _) in PACKET {
        let found = match sys::open_pinned(&folder.join(name)).and_then(|link| sys::attached_cgroup(&link)) {
            Ok(attached) if attached == id.0 => continue,
            Ok(0) => format!("{name} is not attached any more"),
            Ok(other) => format!("{name} is attached to cgroup {other}, not to {id}"),
            Err(error) => format!("{name} is not pinned: {error}"),
        };
        return Ok(Effect::Missing { found });
    }
    Ok(Effect::InForce)
}

fn revert(task: &Task<'_>, rollback: &RollbackState) -> Result<Undone, ActionFailure> {
    let RollbackState::Network { cgroup: path, .. } = rollback else { return Err(mismatch(task)) };
    let folder = pins(task);
    let counted = counts(&folder);
    task.step("lift");
    lift(&|step| task.step(step), &folder)?;
    if task
        .scene
        .cgroups
        .find(path, told_id(task))
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        return Ok(Undone::Vacuous { detail: format!("cgroup {path} is gone") });
    }
    let detail = match counted {
        Some(dropped) => format!("cgroup {path} has its network again; {dropped} packets had been dropped"),
        None => format!("cgroup {path} has its network again"),
    };
    Ok(Undone::Restored { detail })
}

/// The cgroup's id where the target is one.
fn told_id(task: &Task<'_>) -> Option<CgroupId> {
    match task.target {
        Target::Cgroup { id, .. } => Some(*id),
        _ => None,
    }
}

/// Packets dropped by a quarantine so far.
fn counts(folder: &Path) -> Option<u64> {
    let data = aya::maps::MapData::from_pin(folder.join(COUNTERS)).ok()?;
    let map = aya::maps::Map::from_map_data(data).ok()?;
    let array: PerCpuArray<_, u64> = PerCpuArray::try_from(&map).ok()?;
    let sum = |index: u32| array.get(&index, 0).map(|values| values.iter().sum::<u64>()).ok();
    Some(sum(abi::COUNT_DROPPED_IN)? + sum(abi::COUNT_DROPPED_OUT)?)
}

/// Whether the packet programs in this folder are attached to a cgroup that lives.
fn is_attached(folder: &Path) -> Result<bool, ActionFailure> {
    for (name, _) in PACKET {
        let path = folder.join(name);
        match sys::open_pinned(&path).and_then(|link| sys::attached_cgroup(&link)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(ActionFailure::io("look at", path.display(), &error)),
        }
    }
    Ok(true)
}

/// Takes every link of the folder out of force, then removes it. `Ok` when there is none.
fn lift(on_step: &dyn Fn(&'static str), folder: &Path) -> Result<(), ActionFailure> {
    let failed = |operation: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| ActionFailure::io(operation, path, &error)
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed("list", folder))?.path();
        on_step("unpin");
        if path.file_name().is_none_or(|name| name != COUNTERS) {
            let link = sys::open_pinned(&path).map_err(failed("open", &path))?;
            sys::detach(&link).map_err(failed("take out of force", &path))?;
        }
        fs::remove_file(&path).map_err(failed("remove", &path))?;
    }
    fs::remove_dir(folder).map_err(failed("remove", folder))
}

fn pins(task: &Task<'_>) -> PathBuf {
    bpffs::folder(task.scene).join(format!("{PIN_PREFIX}{}", task.tag()))
}

fn fill(ebpf: &mut Ebpf, mode: u32, networks: &[(IpNet, Peer)]) -> Result<(), ActionFailure> {
    let full = |error: aya::maps::MapError| refused("the quarantine's networks", &error);
    let map = ebpf.map_mut("POLICY").ok_or_else(|| damaged("POLICY"))?;
    let mut policy: Array<_, u32> = Array::try_from(map).map_err(full)?;
    policy.set(0, mode, 0).map_err(full)?;
    for (network, peer) in networks {
        let prefix = u32::from(network.prefix_len());
        match network.network() {
            IpAddr::V4(address) => {
                let map = ebpf.map_mut("NETS4").ok_or_else(|| damaged("NETS4"))?;
                let mut nets: LpmTrie<_, [u8; 4], [u16; 2]> = LpmTrie::try_from(map).map_err(full)?;
                nets.insert(&Key::new(prefix, address.octets()), words(*peer), 0).map_err(full)?;
            }
            IpAddr::V6(address) => {
                let map = ebpf.map_mut("NETS6").ok_or_else(|| damaged("NETS6"))?;
                let mut nets: LpmTrie<_, [u8; 16], [u16; 2]> = LpmTrie::try_from(map).map_err(full)?;
                nets.insert(&Key::new(prefix, address.octets()), words(*peer), 0).map_err(full)?;
            }
        }
    }
    Ok(())
}

/// [`Peer`] as the words that it is made of.
fn words(peer: Peer) -> [u16; 2] {
    [peer.port, peer.reserved]
}

fn attach_packet(
    ebpf: &mut Ebpf,
    name: &str,
    kind: CgroupSkbAttachType,
    cgroup: &Cgroup,
) -> Result<FdLink, Box<dyn std::error::Error>> {
    let program: &mut CgroupSkb = ebpf.program_mut(name).ok_or("not in the object")?.try_into()?;
    // "Single": links stack by themselves, and the kernel wants their flags to be 0
    let id = program.attach(cgroup.dir(), kind, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_call(ebpf: &mut Ebpf, name: &str, cgroup: &Cgroup) -> Result<FdLink, Box<dyn std::error::Error>> {
    let program: &mut CgroupSockAddr = ebpf.program_mut(name).ok_or("not in the object")?.try_into()?;
    let id = program.attach(cgroup.dir(), CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn damaged(part: &str) -> ActionFailure {
    ActionFailure::Unsupported {
        operation: "network quarantine".into(),
        because: format!("the eBPF object lacks {part}: rebuild it with `cargo xtask ebpf`"),
    }
}

fn refused(what: &str, error: &dyn std::fmt::Display) -> ActionFailure {
    ActionFailure::Io {
        operation: "load or attach".into(),
        object: what.to_owned(),
        because: error.to_string(),
    }
}
