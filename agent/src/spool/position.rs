//! The agent's epoch, the last position given out and the last one acknowledged, in two slots of which one is always whole.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use model::{AgentEpoch, Seq};

use super::SpoolError;

/// Turn, epoch, acknowledged, reserved, CRC.
const SLOT: usize = 8 * 4 + 4;

/// Positions are reserved on disk in such steps, so that one is never given out twice, whatever a crash has lost.
const RESERVE: u64 = 1 << 16;

#[derive(Debug)]
pub(super) struct Positions {
    path: PathBuf,
    file: File,
    turn: u64,
    epoch: AgentEpoch,
    acknowledged: Seq,
    last: Seq,
    reserved: u64,
}

impl Positions {
    /// Reads the slots, counts this start, and reserves positions. `found` is the last position on disk.
    pub(super) fn open(
        folder: &Path,
        found: Option<Seq>,
        notes: &mut Vec<String>,
    ) -> Result<Self, SpoolError> {
        let path = folder.join("positions");
        let is_new = match std::fs::symlink_metadata(&path) {
            Ok(looked) if looked.is_file() => false,
            Ok(_) => {
                let because = "it is no regular file: move it away, and positions go on from the clock";
                return Err(SpoolError::new("use", &path, std::io::Error::other(because)));
            }
            Err(_) => true,
        };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| SpoolError::new("open", &path, source))?;
        let mut bytes = Vec::new();
        (&mut file)
            .take(2 * SLOT as u64)
            .read_to_end(&mut bytes)
            .map_err(|source| SpoolError::new("read", &path, source))?;
        let newest = bytes.chunks(SLOT).filter_map(parse).max_by_key(|slot| slot[0]);
        let (turn, epoch, acknowledged, reserved) = match newest {
            Some([turn, epoch, acknowledged, reserved]) => (turn, epoch + 1, acknowledged, reserved),
            None if is_new && found.is_none() => (0, 1, 0, 0),
            None => {
                // Both slots are lost: epoch and position must still grow. Seconds and microseconds since 1970 are larger than
                // any count that began at 1.
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                notes.push(format!(
                    "{}: both slots are damaged; epoch and positions go on from the clock, and reports that were acknowledged \
                     may be sent again",
                    path.display()
                ));
                let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2);
                (0, since.as_secs(), 0, micros)
            }
        };
        let last = Seq(reserved.max(found.map_or(0, |seq| seq.0)).max(acknowledged));
        let mut positions = Self {
            path,
            file,
            turn,
            epoch: AgentEpoch(epoch),
            acknowledged: Seq(acknowledged),
            last,
            reserved: last.0 + RESERVE,
        };
        positions.write()?;
        super::lane::sync_folder(folder)?;
        Ok(positions)
    }

    pub(super) fn epoch(&self) -> AgentEpoch {
        self.epoch
    }

    pub(super) fn acknowledged(&self) -> Seq {
        self.acknowledged
    }

    pub(super) fn last(&self) -> Seq {
        self.last
    }

    /// The next position. Grows also if the disk does not take the reservation: then a crash before the next one could repeat it,
    /// and the frame itself, once on disk, prevents that.
    pub(super) fn next(&mut self) -> Seq {
        self.last = Seq(self.last.0 + 1);
        if self.last.0 >= self.reserved {
            self.reserved = self.last.0 + RESERVE;
            if let Err(error) = self.write() {
                tracing::error!(%error, "positions could not be reserved");
            }
        }
        self.last
    }

    pub(super) fn acknowledge(&mut self, upto: Seq) -> Result<(), SpoolError> {
        self.acknowledged = upto;
        self.write()
    }

    fn write(&mut self) -> Result<(), SpoolError> {
        self.turn += 1;
        let mut slot = Vec::with_capacity(SLOT);
        for number in [self.turn, self.epoch.0, self.acknowledged.0, self.reserved] {
            slot.extend_from_slice(&number.to_le_bytes());
        }
        slot.extend_from_slice(&crc32fast::hash(&slot).to_le_bytes());
        let offset = (self.turn % 2) * SLOT as u64;
        self.file
            .write_all_at(&slot, offset)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| SpoolError::new("write", &self.path, source))
    }
}

fn parse(slot: &[u8]) -> Option<[u64; 4]> {
    let (numbers, crc) = slot.split_at_checked(SLOT - 4)?;
    if crc != crc32fast::hash(numbers).to_le_bytes() {
        return None;
    }
    let mut parsed = [0; 4];
    for (number, bytes) in parsed.iter_mut().zip(numbers.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    // Whole and yet no agent's: nothing may begin to count there.
    parsed.iter().all(|number| *number < super::frame::MAX_POSITION).then_some(parsed)
}
