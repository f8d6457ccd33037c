//! Changes that become durable together.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Table;

/// Whether a value is read back after the commit and compared with what was written (I4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadBack {
    /// An effect depends on it.
    Yes,
    /// It does not.
    No,
}

/// Changes, the last one to a key winning.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Row>>,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    /// `None` removes.
    pub(super) value: Option<Vec<u8>>,
    pub(super) read_back: ReadBack,
}

impl Batch {
    pub(crate) fn put(&mut self, table: Table, key: Vec<u8>, value: &impl Serialize, read_back: ReadBack) {
        #[expect(
            clippy::expect_used,
            reason = "our own plain data: every map has text keys, nothing fails to serialise"
        )]
        let value = serde_json::to_vec(value).expect("plain data serialises");
        self.tables.entry(table).or_default().insert(key, Row { value: Some(value), read_back });
    }

    pub(crate) fn remove(&mut self, table: Table, key: Vec<u8>) {
        self.tables.entry(table).or_default().insert(key, Row { value: None, read_back: ReadBack::No });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    pub(super) fn into_tables(self) -> impl Iterator<Item = (Table, BTreeMap<Vec<u8>, Row>)> {
        self.tables.into_iter()
    }

    pub(super) fn by_table(&self) -> impl Iterator<Item = (Table, &BTreeMap<Vec<u8>, Row>)> {
        self.tables.iter().map(|(table, rows)| (*table, rows))
    }
}
