//! Processes that the kernel has stopped at their exec until user space has judged them. The map is pinned: an agent that
//! starts after a crash finds them, so that no process stands still for want of a judge.

use agent_abi::{HeldTask, TaskKey};
use aya::maps::{HashMap, MapData, MapError};
use model::{BootNs, CgroupId, Pid, ProcessKey};

use super::error::ProbeError;

/// A process that stands still and waits for a judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldProcess {
    /// Which.
    pub key: ProcessKey,
    /// When it was stopped.
    pub at: BootNs,
    /// Its cgroup then.
    pub cgroup: CgroupId,
}

pub(super) type HeldMap = HashMap<MapData, [u8; size_of::<TaskKey>()], [u8; size_of::<HeldTask>()]>;

pub(super) fn all(map: &HeldMap) -> Vec<HeldProcess> {
    // An entry may go while the map is read: its process has ended.
    let entries = map.iter().filter_map(Result::ok);
    entries
        .map(|(key, value)| {
            let (key, value): (TaskKey, HeldTask) = (zerocopy::transmute!(key), zerocopy::transmute!(value));
            HeldProcess {
                key: ProcessKey { pid: Pid(key.pid), start: BootNs(key.start) },
                at: BootNs(value.at),
                cgroup: CgroupId(value.cgroup),
            }
        })
        .collect()
}

pub(super) fn forget(map: &mut HeldMap, key: ProcessKey) -> Result<(), ProbeError> {
    let key = TaskKey { pid: key.pid.0, pad: 0, start: key.start.0 };
    match map.remove(&zerocopy::transmute!(key)) {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        // The kernel forgets a process when it ends, which may be now.
        Err(MapError::SyscallError(err)) if err.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(ProbeError::map("HELD", "remove")(err)),
    }
}
