//! What an agent that is gone has left in the kernel: processes that stand held, and the pinned map that names them.

use std::{io, path::Path};

use aya::maps::{Map, MapData};
use model::{BootNs, ProcessKey};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{
    error::ProbeError,
    held::{self, HeldMap},
};
use crate::tree::{NS_PER_TICK, ProcSource, Procfs};

/// Lets every process go that stands held and of which nobody else takes care, and takes the pinned map away with its folder if that
/// is empty then. Only where no agent with this folder runs: its processes would escape their judgement. Gives the processes that were
/// held. Without a pinned map there is nothing to do.
///
/// # Errors
/// [`ProbeError::Map`] if the map cannot be opened, [`ProbeError::Pin`] if it cannot be taken away; the processes go on all the same.
pub fn release_held(pins: &Path) -> Result<Vec<ProcessKey>, ProbeError> {
    let pin = pins.join("held");
    if !pin.exists() {
        return Ok(Vec::new());
    }
    let data = MapData::from_pin(&pin).map_err(ProbeError::map("HELD", "open its pin"))?;
    let mut map = HeldMap::try_from(Map::HashMap(data)).map_err(ProbeError::map("HELD", "open"))?;
    let released: Vec<ProcessKey> = held::all(&map).into_iter().map(|process| process.key).collect();
    for process in &released {
        continue_process(*process);
        held::forget(&mut map, *process)?;
    }
    unpin(pins)?;
    Ok(released)
}

/// Takes the pinned map away, and its folder if nobody else has something there.
pub(crate) fn unpin(pins: &Path) -> Result<(), ProbeError> {
    let fault = |operation, source| ProbeError::Pin { operation, path: pins.to_owned(), source };
    match std::fs::remove_file(pins.join("held")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fault("removing the pinned map of held processes", error));
        }
        _ => {}
    }
    match std::fs::remove_dir(pins) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
            Err(fault("removing the folder", error))
        }
        _ => Ok(()),
    }
}

/// SIGCONT to exactly this process: the pidfd is opened before its start time is compared, so the pid cannot be another's by then.
pub(crate) fn continue_process(process: ProcessKey) {
    let Some(pid) = i32::try_from(process.pid.0).ok().and_then(rustix::process::Pid::from_raw) else {
        return;
    };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return }; // it has ended
    let coarse = ProcessKey { start: BootNs(process.start.0 / NS_PER_TICK * NS_PER_TICK), ..process };
    if !Procfs::new().is_alive(coarse) {
        return;
    }
    if let Err(error) = pidfd_send_signal(&pidfd, Signal::CONT) {
        tracing::warn!(%error, pid = process.pid.0, "a process that was held could not be continued");
    }
}
