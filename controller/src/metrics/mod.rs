//! What is counted. Labels have a fixed set of values (I11): never an id, a name of an object or a text from an event.

mod export;
mod facts;
mod measure;

use std::sync::atomic::AtomicU64;

pub(crate) use facts::Facts;
pub(crate) use measure::Measured;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// One label, from a fixed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    kind: &'static str,
}

/// Phase and result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PhaseResult {
    phase: &'static str,
    result: &'static str,
}

/// Format of a source and what became of a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FormatResult {
    format: &'static str,
    result: &'static str,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) findings: Family<Kind, Counter>,
    pub(crate) duplicates: Counter,
    pub(crate) refused: Counter,
    pub(crate) incidents: Family<Kind, Counter>,
    pub(crate) decisions: Family<Kind, Counter>,
    pub(crate) transitions: Counter,
    pub(crate) commands: Family<Kind, Counter>,
    pub(crate) outcomes: Family<PhaseResult, Counter>,
    pub(crate) runs_live: Gauge,
    pub(crate) nodes_linked: Gauge,
    pub(crate) pods_known: Gauge,
    pub(crate) pods_left_out: Gauge,
    pub(crate) groups: Gauge,
    pub(crate) groups_forgotten: Counter,
    pub(crate) commit: Histogram,
    /// To put together what is known of an incident.
    pub(crate) enrichment: Histogram,
    pub(crate) degraded: Gauge,
    pub(crate) lag: Gauge<f64, AtomicU64>,
    pub(crate) correlation_hits: Family<Kind, Gauge>,
    pub(crate) correlation_groups: Gauge,
    pub(crate) source_records: Family<FormatResult, Counter>,
    /// Traces, by what became of them.
    pub(crate) traces: Family<Kind, Counter>,
    pub(crate) playbooks_proposed: Gauge,
    pub(crate) playbooks_demoted: Gauge,
    /// What docs/metrics.md defines, from stored facts.
    pub(crate) measured: export::Shelf,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut m = Self {
            registry: Registry::with_prefix("hemostat_controller"),
            findings: Family::default(),
            duplicates: Counter::default(),
            refused: Counter::default(),
            incidents: Family::default(),
            decisions: Family::default(),
            transitions: Counter::default(),
            commands: Family::default(),
            outcomes: Family::default(),
            runs_live: Gauge::default(),
            nodes_linked: Gauge::default(),
            pods_known: Gauge::default(),
            pods_left_out: Gauge::default(),
            groups: Gauge::default(),
            groups_forgotten: Counter::default(),
            // 50 µs to 1.6 s
            commit: Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
                50e-6, 2.0, 16,
            )),
            degraded: Gauge::default(),
            lag: Gauge::default(),
            correlation_hits: Family::default(),
            correlation_groups: Gauge::default(),
            source_records: Family::default(),
            traces: Family::default(),
            playbooks_proposed: Gauge::default(),
            playbooks_demoted: Gauge::default(),
            measured: export::Shelf::default(),
            // 2 µs to 65 ms
            enrichment: Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
                2e-6, 2.0, 16,
            )),
        };
        let r = &mut m.registry;
        r.register("findings", "Findings stored, by level", m.findings.clone());
        r.register("reports_repeated", "Reports that had been stored before", m.duplicates.clone());
        r.register("reports_refused", "Reports that spoke for another node", m.refused.clone());
        r.register("incidents", "Incidents opened, by level", m.incidents.clone());
        r.register("decisions", "Decisions of the gate, by outcome", m.decisions.clone());
        r.register(
            "traces",
            "Traces of incidents, by what became of them: sent, failed, dropped",
            m.traces.clone(),
        );
        r.register("transitions", "Transitions of runs journalled", m.transitions.clone());
        r.register("commands", "Commands sent to nodes, by phase", m.commands.clone());
        r.register("outcomes", "Answers of nodes, by phase and result", m.outcomes.clone());
        r.register("runs_live", "Runs that are not over", m.runs_live.clone());
        r.register("nodes_linked", "Nodes whose link is up", m.nodes_linked.clone());
        r.register("pods_known", "Pods that are there, as the API server tells", m.pods_known.clone());
        r.register(
            "pods_left_out",
            "Pods, owners, namespaces, Services and Ingresses that were not taken in because there are too many",
            m.pods_left_out.clone(),
        );
        r.register("groups", "Incidents that can still grow", m.groups.clone());
        r.register("groups_forgotten", "Groups forgotten because of the limit", m.groups_forgotten.clone());
        r.register_with_unit(
            "journal_commit",
            "Time to make a batch durable",
            Unit::Seconds,
            m.commit.clone(),
        );
        r.register("parts_degraded", "Parts that are degraded; /v1/health names them", m.degraded.clone());
        r.register_with_unit(
            "finding_lag",
            "From the event to its stored finding, last one",
            Unit::Seconds,
            m.lag.clone(),
        );
        r.register(
            "correlation_hits",
            "Findings that correlations counted, and those that a limit touched, by what became of them",
            m.correlation_hits.clone(),
        );
        r.register(
            "source_records",
            "Records of sources, by format and by what became of them: taken, refused, cut (rules saw less than there was); gap is none",
            m.source_records.clone(),
        );
        r.register_with_unit(
            "enrichment",
            "Time to put together what is known of an incident",
            Unit::Seconds,
            m.enrichment.clone(),
        );
        r.register(
            "playbooks_proposed",
            "Playbooks whose next mode is proposed",
            m.playbooks_proposed.clone(),
        );
        r.register(
            "playbooks_demoted",
            "Playbooks that were taken back by themselves",
            m.playbooks_demoted.clone(),
        );
        r.register_collector(Box::new(m.measured.clone()));
        r.register("correlation_groups", "Groups of correlations", m.correlation_groups.clone());
        m
    }
}

impl Metrics {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# metrics cannot be written: {error}\n"),
        }
    }
}

pub(crate) fn format_result(format: &'static str, result: &'static str) -> FormatResult {
    FormatResult { format, result }
}

pub(crate) fn kind(kind: &'static str) -> Kind {
    Kind { kind }
}

pub(crate) fn phase_result(phase: &str, result: &'static str) -> PhaseResult {
    let phase = match phase {
        "capture" => "capture",
        "apply" => "apply",
        "verify" => "verify",
        "revert" => "revert",
        _ => "other",
    };
    PhaseResult { phase, result }
}

pub(crate) fn level(level: model::Level) -> &'static str {
    match level {
        model::Level::Informational => "informational",
        model::Level::Low => "low",
        model::Level::Medium => "medium",
        model::Level::High => "high",
        model::Level::Critical => "critical",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_labels_have_a_fixed_set_of_values_whatever_a_node_says() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.outcomes.get_or_create(&phase_result(&format!("phase-{n}"), "failed")).inc();
        }
        for phase in ["capture", "apply", "verify", "revert"] {
            metrics.outcomes.get_or_create(&phase_result(phase, "done")).inc();
        }
        let text = metrics.text();
        let lines = text.lines().filter(|line| line.starts_with("hemostat_controller_outcomes_total{"));
        assert_eq!(lines.count(), 5, "{text}");
        assert!(text.contains("phase=\"other\",result=\"failed\"} 1000"), "{text}");
    }

    /// What dashboards may ask for: the names of samples, with histograms' parts.
    fn exported() -> std::collections::BTreeSet<String> {
        let metrics = Metrics::default();
        // A family without members is not told of.
        for family in
            [&metrics.findings, &metrics.incidents, &metrics.decisions, &metrics.commands, &metrics.traces]
        {
            drop(family.get_or_create(&kind("x")));
        }
        drop(metrics.outcomes.get_or_create(&phase_result("apply", "done")));
        drop(metrics.correlation_hits.get_or_create(&kind("x")));
        drop(metrics.source_records.get_or_create(&format_result("ocsf", "taken")));
        metrics.measured.put(Measured::of([].iter(), &[], model::Timestamp(0)));
        let text = metrics.text();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = types.filter_map(|line| line.split_once(' ')).flat_map(|(name, kind)| match kind {
            "counter" => vec![format!("{name}_total")],
            "histogram" => ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")).to_vec(),
            _ => vec![name.to_owned()],
        });
        names.collect()
    }

    fn folder(of: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of)
    }

    /// Every word of a text that names a metric of ours.
    fn named(text: &str) -> impl Iterator<Item = &str> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.filter(|word| word.starts_with("hemostat_controller_"))
    }

    #[test]
    fn dashboards_ask_only_for_what_is_exported_and_are_well_formed() {
        let exported = exported();
        let mut asked = std::collections::BTreeSet::new();
        let mut uids = std::collections::BTreeSet::new();
        for file in std::fs::read_dir(folder("deploy/dashboards")).unwrap() {
            let path = file.unwrap().path();
            let board: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert!(uids.insert(board["uid"].as_str().unwrap().to_owned()), "{}", path.display());
            let (mut ids, mut places) = (std::collections::BTreeSet::new(), Vec::new());
            for panel in board["panels"].as_array().unwrap() {
                assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
                let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
                let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
                assert!(x + w <= 24 && w > 0 && h > 0, "{panel}");
                let apart = |one: &(u64, u64, u64, u64)| {
                    x >= one.0 + one.2 || one.0 >= x + w || y >= one.1 + one.3 || one.1 >= y + h
                };
                assert!(places.iter().all(apart), "panels lie over each other: {panel}");
                places.push((x, y, w, h));
                for target in panel["targets"].as_array().unwrap() {
                    let expression = target["expr"].as_str().unwrap();
                    assert_eq!(
                        expression.matches(['(', '{', '[']).count(),
                        expression.matches([')', '}', ']']).count()
                    );
                    assert_eq!(target["datasource"]["uid"], "${datasource}");
                    let names: Vec<&str> = named(expression).collect();
                    assert!(!names.is_empty(), "{expression}");
                    for name in names {
                        assert!(
                            exported.contains(name),
                            "{name} of {} is not exported; there are {exported:#?}",
                            path.display()
                        );
                        asked.insert(name.to_owned());
                    }
                }
            }
        }
        assert!(uids.len() >= 2 && asked.len() >= 20, "{asked:?}");
    }

    #[test]
    fn the_page_defines_every_metric_that_is_exported() {
        let page = std::fs::read_to_string(folder("docs/metrics.md")).unwrap();
        for name in exported() {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| name.strip_suffix(part))
                .unwrap_or(&name)
                .to_owned();
            assert!(
                page.contains(name.trim_start_matches("hemostat_controller_")),
                "docs/metrics.md does not tell of {name}"
            );
        }
    }
}
