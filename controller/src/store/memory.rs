//! The tables of a store that ends with its process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Batch, RawRow, Table};

/// Rows as they would stand in the database.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// All tables.
#[derive(Debug, Default)]
pub(super) struct Tables(Mutex<BTreeMap<Table, Rows>>);

impl Tables {
    pub(super) fn commit(&self, batch: Batch) {
        let mut tables = self.lock();
        for (table, rows) in batch.into_tables() {
            let table = tables.entry(table).or_default();
            for (key, row) in rows {
                match row.value {
                    Some(value) => drop(table.insert(key, value)),
                    None => drop(table.remove(&key)),
                }
            }
        }
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.lock().get(&table)?.get(key).cloned()
    }

    pub(super) fn scan(&self, table: Table, prefix: &[u8]) -> Vec<RawRow> {
        let tables = self.lock();
        let rows = tables.get(&table).into_iter().flat_map(|rows| rows.range(prefix.to_vec()..));
        rows.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    // A panic while it is held leaves whole rows behind.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Table, Rows>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
