//! What is on disk: incidents, runs and their journal, as JSON in one redb database.
//!
//! Changes are collected in a [`Batch`] and become durable together, or not at all: redb commits with an fsync
//! (`Durability::Immediate`). What permits an effect is read back afterwards and compared (I4).

mod batch;
mod memory;
mod rows;

use std::{
    io,
    path::{Path, PathBuf},
};

use redb::{Database, DatabaseError, ReadableDatabase as _, TableDefinition};
use serde::de::DeserializeOwned;

use crate::place::place;

pub(crate) use batch::{Batch, ReadBack};
pub(crate) use rows::{
    Adopted, FedRow, IncidentRow, NodeRow, Rest, Undone, Visibility, journal_key, numbered_key, seen_key,
};

/// Format of the database; another is refused.
const SCHEMA: u64 = 1;

/// What the database may keep of its pages in memory (redb's own default is 1 GiB). What is read often fits, and all of it stays in the
/// system's page cache.
const CACHE_BYTES: usize = 4 << 20;

/// The tables. All have bytes as keys (texts, a zero byte, big-endian numbers) and JSON as values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// Single values: schema, audit head, counters.
    Meta,
    /// node → how far its reports are stored.
    Nodes,
    /// finding id → its number in `SeenOrder`.
    Seen,
    /// number → finding id; the oldest go when there are too many.
    SeenOrder,
    /// incident id → everything but its findings.
    Incidents,
    /// incident id, index → finding.
    Findings,
    /// finding id → where it lies in `Findings`.
    FindingPlaces,
    /// run id → the run's state.
    Runs,
    /// run id, number → transition.
    Journal,
    /// incident id → what links findings to it.
    Groups,
    /// number → audit entry that may not be in the log yet.
    AuditPending,
    /// action id → the node's own reaction and its incident.
    Adopted,
    /// reference → a finding that correlations look at: how often it was counted.
    Fed,
    /// reference → that finding.
    FedFindings,
    /// The correlations' state, in rows of its own making.
    Correlation,
    /// rule or playbook + case → what a person said of it.
    Trust,
    /// playbook → where it stands; playbook + run → what it did beside what the analysts did.
    Promotion,
    /// incident id → what is kept of it for the measures.
    Measures,
    /// digest of an image → what a scan found in it.
    Scans,
}

impl Table {
    const ALL: [Self; 19] = [
        Self::Meta,
        Self::Nodes,
        Self::Seen,
        Self::SeenOrder,
        Self::Incidents,
        Self::Findings,
        Self::FindingPlaces,
        Self::Runs,
        Self::Journal,
        Self::Groups,
        Self::AuditPending,
        Self::Adopted,
        Self::Fed,
        Self::FedFindings,
        Self::Correlation,
        Self::Trust,
        Self::Promotion,
        Self::Measures,
        Self::Scans,
    ];

    fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Nodes => "nodes",
            Self::Seen => "seen",
            Self::SeenOrder => "seen_order",
            Self::Incidents => "incidents",
            Self::Findings => "findings",
            Self::FindingPlaces => "finding_places",
            Self::Runs => "runs",
            Self::Journal => "journal",
            Self::Groups => "groups",
            Self::AuditPending => "audit_pending",
            Self::Adopted => "adopted",
            Self::Fed => "fed",
            Self::FedFindings => "fed_findings",
            Self::Correlation => "correlation",
            Self::Trust => "trust",
            Self::Promotion => "promotion",
            Self::Measures => "measures",
            Self::Scans => "scans",
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database or the disk below it failed; on a full disk, make room: nothing that was accepted is lost.
    #[error("cannot {operation} the journal {}: {source}{}", path.display(), next_step(source))]
    Database {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// The database's word.
        source: Box<redb::Error>,
    },
    /// The folder could not be made.
    #[error("cannot make the folder of the journal {}: {source}", path.display())]
    Folder {
        /// Which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A value could not be understood.
    #[error("the journal {} holds a {table} entry that cannot be understood: {source}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Which table.
        table: &'static str,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// What was written is not what is there (I4).
    #[error("the journal {} does not give back what was written to {table}: the disk cannot be trusted", path.display())]
    ReadBack {
        /// Which file.
        path: PathBuf,
        /// Which table.
        table: &'static str,
    },
    /// Another version wrote it.
    #[error("the journal {} has format {found}, this version reads format {SCHEMA}", path.display())]
    Schema {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
}

/// What a person does about it, where that can be told.
fn next_step(source: &redb::Error) -> &'static str {
    let damaged = "; to begin anew, move the file aside and keep it: incidents and what is to be undone stand in it. What is in \
                   force on the nodes stays in force, and `hemostat release` lifts it there";
    match source {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            "; another controller works in this state folder: stop it, or give this one a folder of its own"
        }
        redb::Error::Corrupted(_) => damaged,
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => damaged,
        redb::Error::UpgradeRequired(_) => {
            "; another version of Hemostat wrote it: use that one, or move the file aside to begin anew"
        }
        _ => "",
    }
}

/// Rows that one thread understands at least: fewer are not worth a thread.
const MIN_PART: usize = 10_000;

/// Key and value.
type RawRow = (Vec<u8>, Vec<u8>);

/// The database.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    kept: Kept,
}

/// Where the tables are kept.
#[derive(Debug)]
enum Kept {
    /// `None` only after a reopening that failed.
    Disk(Option<Database>),
    /// For a replay, which nobody goes on with.
    Memory(memory::Tables),
}

impl Store {
    /// Opens it, or makes it where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|source| StoreError::Folder { path: path.into(), source })?;
        }
        let mut store = Self { path: path.into(), kept: Kept::Disk(None) };
        if !path.exists() {
            store.make()?;
        }
        store.reopen()?;
        store.prepare()?;
        Ok(store)
    }

    /// Makes an empty one, under another name until it is whole: a file that a kill left half made is refused for ever.
    fn make(&self) -> Result<(), StoreError> {
        let fresh = self.path.with_extension("new");
        let made = match Database::create(&fresh) {
            // Whoever is still making it holds its lock: any other was left by somebody who was killed, and there is nothing in it.
            Err(error)
                if !matches!(
                    error,
                    DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch
                ) && std::fs::remove_file(&fresh).is_ok() =>
            {
                Database::create(&fresh)
            }
            other => other,
        };
        let made = made.map_err(|error| self.error("open", error.into()))?;
        let placed = place(&fresh, &self.path).map_err(|source| self.error("make", source.into()));
        drop(made);
        placed
    }

    /// An empty one that ends with this process.
    pub(crate) fn in_memory() -> Self {
        Self { path: "(memory)".into(), kept: Kept::Memory(memory::Tables::default()) }
    }

    /// Whether nothing of it outlives the process.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.kept, Kept::Memory(_))
    }

    /// Closes and opens it again: after an I/O error redb refuses everything until then.
    pub(crate) fn reopen(&mut self) -> Result<(), StoreError> {
        if self.is_in_memory() {
            return Ok(());
        }
        self.kept = Kept::Disk(None);
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let db = builder.create(&self.path).map_err(|e| self.error("open", e.into()))?;
        self.kept = Kept::Disk(Some(db));
        Ok(())
    }

    /// Makes a batch durable and reads back what asks for it.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if let Kept::Memory(tables) = &self.kept {
            tables.commit(batch.clone());
            return Ok(());
        }
        self.write(batch).map_err(|e| self.error("write", e))?;
        self.read_back(batch)
    }

    /// As [`Store::commit`], for a batch that nobody asks again once it is in: where there is no disk its rows are moved, not copied.
    pub(crate) fn commit_all(&self, batch: &mut Batch) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Memory(tables) => {
                tables.commit(std::mem::take(batch));
                Ok(())
            }
            Kept::Disk(_) => self.commit(batch),
        }
    }

    /// One value.
    pub(crate) fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
        if let Kept::Memory(tables) = &self.kept {
            return tables.get(table, key).map(|bytes| self.parse(table, &bytes)).transpose();
        }
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.db()?.begin_read()?.open_table(table.definition())?;
            Ok(table.get(key)?.map(|v| v.value().to_vec()))
        };
        let bytes = read().map_err(|e| self.error("read", e))?;
        bytes.map(|bytes| self.parse(table, &bytes)).transpose()
    }

    /// All values whose key begins with `prefix`, in order.
    pub(crate) fn scan<T: DeserializeOwned>(
        &self,
        table: Table,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
        if let Kept::Memory(tables) = &self.kept {
            let rows = tables.scan(table, prefix);
            return rows.into_iter().map(|(key, bytes)| Ok((key, self.parse(table, &bytes)?))).collect();
        }
        let read = || -> Result<Vec<RawRow>, redb::Error> {
            let table = self.db()?.begin_read()?.open_table(table.definition())?;
            let mut found = Vec::new();
            for row in table.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(found)
        };
        let rows = read().map_err(|e| self.error("read", e))?;
        rows.into_iter().map(|(key, bytes)| Ok((key, self.parse(table, &bytes)?))).collect()
    }

    /// All values of a table, in order, understood by several threads: for tables of a million rows that a start waits for.
    pub(crate) fn scan_all<T: DeserializeOwned + Send>(
        &self,
        table: Table,
    ) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
        let rows = self.raw(table)?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
        let part = rows.len().div_ceil(threads).max(MIN_PART);
        let parts: Vec<&[RawRow]> = rows.chunks(part).collect();
        let understood = std::thread::scope(|scope| {
            let parse = |part: &[RawRow]| -> Result<Vec<T>, StoreError> {
                part.iter().map(|(_, bytes)| self.parse(table, bytes)).collect()
            };
            let running: Vec<_> = parts
                .iter()
                .skip(1)
                .map(|part| std::thread::Builder::new().spawn_scoped(scope, move || parse(part)))
                .collect();
            let mut all = vec![parts.first().map_or(Ok(Vec::new()), |part| parse(part))];
            for (part, thread) in parts.iter().skip(1).zip(running) {
                let joined = thread.ok().and_then(|thread| thread.join().ok());
                // Where there was no thread to be had, it is done here.
                all.push(joined.unwrap_or_else(|| parse(part)));
            }
            all.into_iter().collect::<Result<Vec<Vec<T>>, StoreError>>()
        })?;
        let keys = rows.into_iter().map(|(key, _)| key);
        Ok(keys.zip(understood.into_iter().flatten()).collect())
    }

    fn raw(&self, table: Table) -> Result<Vec<RawRow>, StoreError> {
        if let Kept::Memory(tables) = &self.kept {
            return Ok(tables.scan(table, b""));
        }
        let read = || -> Result<Vec<RawRow>, redb::Error> {
            let table = self.db()?.begin_read()?.open_table(table.definition())?;
            let mut rows = Vec::new();
            for row in table.range::<&[u8]>(..)? {
                let (key, value) = row?;
                rows.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(rows)
        };
        read().map_err(|e| self.error("read", e))
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let make = || -> Result<(), redb::Error> {
            let txn = self.db()?.begin_write()?;
            for table in Table::ALL {
                txn.open_table(table.definition())?;
            }
            txn.commit()?;
            Ok(())
        };
        make().map_err(|e| self.error("prepare", e))?;
        match self.get::<u64>(Table::Meta, b"schema")? {
            Some(SCHEMA) => Ok(()),
            Some(found) => Err(StoreError::Schema { path: self.path.clone(), found }),
            None => {
                let mut batch = Batch::default();
                batch.put(Table::Meta, b"schema".to_vec(), &SCHEMA, ReadBack::No);
                self.commit(&batch)
            }
        }
    }

    fn write(&self, batch: &Batch) -> Result<(), redb::Error> {
        let txn = self.db()?.begin_write()?;
        for (table, rows) in batch.by_table() {
            let mut table = txn.open_table(table.definition())?;
            for (key, row) in rows {
                match &row.value {
                    Some(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                    None => drop(table.remove(key.as_slice())?),
                }
            }
        }
        txn.commit()?;
        Ok(())
    }

    fn read_back(&self, batch: &Batch) -> Result<(), StoreError> {
        let same = |table: Table| -> Result<bool, redb::Error> {
            let rows = batch.by_table().find(|(t, _)| *t == table).map(|(_, rows)| rows);
            let stored = self.db()?.begin_read()?.open_table(table.definition())?;
            for (key, row) in rows.into_iter().flatten().filter(|(_, row)| row.read_back == ReadBack::Yes) {
                if stored.get(key.as_slice())?.as_ref().map(|v| v.value()) != row.value.as_deref() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        for (table, rows) in batch.by_table() {
            if rows.values().any(|row| row.read_back == ReadBack::Yes)
                && !same(table).map_err(|e| self.error("read back", e))?
            {
                return Err(StoreError::ReadBack { path: self.path.clone(), table: table.name() });
            }
        }
        Ok(())
    }

    fn db(&self) -> Result<&Database, redb::Error> {
        match &self.kept {
            Kept::Disk(Some(db)) => Ok(db),
            Kept::Disk(None) | Kept::Memory(_) => Err(redb::Error::DatabaseClosed),
        }
    }

    fn parse<T: DeserializeOwned>(&self, table: Table, bytes: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(bytes).map_err(|source| StoreError::Malformed {
            path: self.path.clone(),
            table: table.name(),
            source,
        })
    }

    fn error(&self, operation: &'static str, source: redb::Error) -> StoreError {
        StoreError::Database { operation, path: self.path.clone(), source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(value: u64, read_back: ReadBack) -> Batch {
        let mut batch = Batch::default();
        batch.put(Table::Runs, b"run-1".to_vec(), &value, read_back);
        batch
    }

    #[test]
    fn i7_a_database_that_a_kill_left_half_made_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        drop(Store::open(&dir.path().join("whole.redb")).unwrap());
        let whole = std::fs::read(dir.path().join("whole.redb")).unwrap();
        let mut older = whole.clone();
        // The version of the format, in the slot of the last commit and in the other one.
        (older[64], older[192]) = (1, 1);
        // So redb leaves it: its length is set, and nothing stands in it. Or less, or not all of it.
        let half = [vec![0; 1 << 20], b"redb".to_vec(), whole[..whole.len() / 2].to_vec(), older];
        for (n, half) in half.into_iter().enumerate() {
            let path = path.with_file_name(format!("{n}.redb"));
            std::fs::write(path.with_extension("new"), half).unwrap();
            let store = Store::open(&path).unwrap();
            store.commit(&batch(1, ReadBack::Yes)).unwrap();
            assert!(!path.with_extension("new").exists());
            drop(store);
            let store = Store::open(&path).unwrap();
            assert_eq!(store.get::<u64>(Table::Runs, b"run-1").unwrap(), Some(1));
        }
        // Whoever is still making one keeps it.
        let making = Database::create(path.with_extension("new")).unwrap();
        assert!(Store::open(&path).unwrap_err().to_string().contains("another controller"));
        assert!(path.with_extension("new").exists());
        drop(making);
        Store::open(&path).unwrap();
    }

    #[test]
    fn what_is_moved_into_memory_is_what_would_be_copied_or_written() {
        let dir = tempfile::tempdir().unwrap();
        let stores =
            [Store::in_memory(), Store::in_memory(), Store::open(&dir.path().join("a.redb")).unwrap()];
        for round in 0..3 {
            for (n, store) in stores.iter().enumerate() {
                let mut batch = batch(round, ReadBack::Yes);
                batch.put(Table::Journal, vec![u8::try_from(round).unwrap()], &round, ReadBack::No);
                if round == 2 {
                    batch.remove(Table::Journal, vec![0]);
                }
                if n == 0 { store.commit(&batch).unwrap() } else { store.commit_all(&mut batch).unwrap() }
            }
        }
        let [copied, moved, written] = stores.map(|store| {
            let of = |table| store.scan_all::<u64>(table).unwrap();
            (of(Table::Runs), of(Table::Journal))
        });
        assert_eq!((moved.0.len(), moved.1.len()), (1, 2));
        assert!(moved == copied && moved == written);
    }

    #[test]
    fn i4_what_is_not_on_disk_as_it_was_meant_permits_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("journal.redb")).unwrap();
        store.commit(&batch(1, ReadBack::Yes)).unwrap();
        store.read_back(&batch(1, ReadBack::Yes)).unwrap();
        let error = store.read_back(&batch(2, ReadBack::Yes)).unwrap_err();
        assert!(matches!(&error, StoreError::ReadBack { table: "runs", .. }), "{error}");
        assert!(error.to_string().contains("journal.redb"), "{error}");
        store.read_back(&batch(2, ReadBack::No)).unwrap();
        let mut removed = Batch::default();
        removed.put(Table::Journal, b"run-1".to_vec(), &1, ReadBack::Yes);
        assert!(store.read_back(&removed).is_err(), "nothing stands there");
    }
}
