//! All state, as it is loaded at the start.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use detect::incident::{Correlator, Group};
use model::{ActionId, AuditEntry, IncidentId, NodeId, RunId, Timestamp};
use respond::run::Run;

use super::{
    correlate::Correlations, incidents::Incidents, links::Links, measures::Ledger, promotion::Promotions,
    rows::Rows, runs::RunRow, scans::Scans, trust::Trust,
};
use crate::{
    audit::{AuditKey, AuditLog, ChainHead, Recovered},
    config::ControllerConfig,
    corpus::Corpora,
    health::{HealthBoard, Part},
    playbooks::{Book, Sources},
    start::StartError,
    store::{Adopted, NodeRow, Store, Table},
};

/// All state.
pub(super) struct State {
    pub(super) store: Store,
    pub(super) audit: Audit,
    pub(super) correlator: Correlator,
    pub(super) correlations: Correlations,
    pub(super) incidents: Incidents,
    /// Runs that are not over, or were needed lately.
    pub(super) runs: BTreeMap<RunId, Run>,
    /// A line of every run.
    pub(super) rows: Rows,
    /// Of the actions of loaded runs: whose they are.
    pub(super) owners: BTreeMap<ActionId, RunId>,
    pub(super) nodes: BTreeMap<NodeId, NodeRow>,
    pub(super) adopted: BTreeMap<ActionId, Adopted>,
    /// Of adopted reactions: the run that undoes it.
    pub(super) undone_by: BTreeMap<ActionId, RunId>,
    pub(super) seen: Seen,
    /// By how much the wall clock was set in all while a controller ran, in nanoseconds.
    pub(super) clock_set: i64,
    pub(super) links: Links,
    pub(super) book: Book,
    /// Findings whose pods are not known yet.
    pub(super) attributing: super::pods::Attributing,
    /// When they are asked for again.
    pub(super) ask_again: Timestamp,
    /// Playbooks, policies and rules from elsewhere than folders.
    pub(super) sources: Arc<Sources>,
    /// What people said of findings and runs.
    pub(super) trust: Trust,
    /// How playbooks earn and lose their modes.
    pub(super) promotions: Promotions,
    /// Incidents whose stories came to an end and are to be sent as traces.
    pub(super) to_trace: BTreeSet<IncidentId>,
    /// Facts of incidents for the measures.
    pub(super) measures: Ledger,
    /// What was found in images.
    pub(super) scans: Scans,
    /// What came of the rules' own tests.
    pub(super) corpus: Corpora,
    /// Incidents with findings that what is known of them was not put together for yet.
    pub(super) to_enrich: BTreeSet<IncidentId>,
    /// Runs that watch whether the attack goes on.
    pub(super) watching: BTreeSet<RunId>,
}

/// The audit chain.
pub(super) struct Audit {
    pub(super) key: AuditKey,
    pub(super) head: ChainHead,
    pub(super) log: AuditLog,
    /// Entries that are in the log, on the disk, and still in the journal.
    pub(super) appended: BTreeSet<u64>,
    /// Entries that are in the log and not on the disk yet, and since when.
    pub(super) unsynced: BTreeSet<u64>,
    pub(super) unsynced_since: Option<std::time::Instant>,
}

/// Numbers of the findings remembered: `oldest..next`.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Seen {
    pub(super) oldest: u64,
    pub(super) next: u64,
}

impl State {
    pub(super) fn load(config: &ControllerConfig, health: &HealthBoard) -> Result<Self, StartError> {
        Self::load_from(Store::open(&config.journal)?, config, health)
    }

    /// As [`State::load`], from a store that is open.
    pub(super) fn load_from(
        store: Store,
        config: &ControllerConfig,
        health: &HealthBoard,
    ) -> Result<Self, StartError> {
        let audit = Audit::load(&store, config, health)?;
        let groups = store.scan::<Group>(Table::Groups, b"")?.into_iter().map(|(_, group)| group);
        let correlator = Correlator::restore(config.grouping.clone(), groups);
        let correlations = Correlations::load(&store, config, health)?;
        // Later than any revision of an earlier life, which grew by one for each change.
        let floor = u64::try_from((config.clock)().0 / 1000).unwrap_or(0);
        let incidents = Incidents::load(&store, floor)?;
        let mut runs = BTreeMap::new();
        let (mut rows, mut undone_by) = (Rows::default(), BTreeMap::new());
        for (_, row) in store.scan::<RunRow>(Table::Runs, b"")? {
            undone_by.extend(row.undoes.iter().map(|action| (action.clone(), row.run.clone())));
            if row.is_live() {
                runs.insert(row.run.clone(), super::runs::replay(&store, &row.run)?);
            }
            rows.insert(row);
        }
        let of_run = |(id, run): (&RunId, &Run)| {
            run.records().into_iter().map(|record| (record.id, id.clone())).collect::<Vec<_>>()
        };
        let owners = runs.iter().flat_map(of_run).collect();
        let nodes = by_text(store.scan::<NodeRow>(Table::Nodes, b"")?, NodeId::new);
        let adopted = by_text(store.scan::<Adopted>(Table::Adopted, b"")?, ActionId::new);
        let seen = store.get(Table::Meta, b"seen")?.unwrap_or_default();
        let clock_set = super::clocks::load(&store, &rows, (config.clock)())?;
        let sources = Arc::<Sources>::default();
        let attributing = super::pods::load(&store)?;
        let book = Book::load(&config.playbooks, &sources);
        book.report(health);
        let trust = Trust::load(&store)?;
        let promotions = Promotions::load(&store)?;
        let measures = Ledger::load(&store)?;
        let scans = Scans::load(&store)?;
        let mut corpus = Corpora::default();
        corpus.run(&config.rules);
        Ok(Self {
            store,
            audit,
            correlator,
            correlations,
            incidents,
            runs,
            rows,
            owners,
            nodes,
            adopted,
            undone_by,
            seen,
            clock_set,
            links: Links::default(),
            book,
            attributing,
            ask_again: Timestamp(i64::MIN),
            sources,
            trust,
            promotions,
            measures,
            to_trace: BTreeSet::new(),
            scans,
            corpus,
            to_enrich: BTreeSet::new(),
            watching: BTreeSet::new(),
        })
    }
}

impl Audit {
    fn load(store: &Store, config: &ControllerConfig, health: &HealthBoard) -> Result<Self, StartError> {
        let key = AuditKey::load_or_create(&config.audit_key)?;
        let head: ChainHead = store.get(Table::Meta, b"audit_head")?.unwrap_or_default();
        let pending: Vec<AuditEntry> =
            store.scan(Table::AuditPending, b"")?.into_iter().map(|(_, entry)| entry).collect();
        let (log, recovered) =
            AuditLog::open(&config.audit_log, config.limits.audit_segment, &head, &pending)?;
        match recovered {
            Recovered::Whole => {}
            Recovered::Completed { entries } => {
                tracing::info!(entries, "a crash came between journal and audit log: completed");
            }
            Recovered::Tampered { found } => {
                health.degraded(Part::Audit, format!("{found}; run `hemostat audit verify`"));
            }
        }
        let appended = pending.iter().map(|e| e.seq).collect();
        Ok(Self { key, head, log, appended, unsynced: BTreeSet::new(), unsynced_since: None })
    }
}

fn by_text<K: Ord, V>(rows: Vec<(Vec<u8>, V)>, id: impl Fn(String) -> K) -> BTreeMap<K, V> {
    rows.into_iter().map(|(key, value)| (id(String::from_utf8_lossy(&key).into_owned()), value)).collect()
}
