//! The measures as Prometheus reads them.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use super::measure::{Measured, Measures, Spans};

/// Which lengths of time.
type OfMeasures = fn(&Measures) -> &Spans;

/// What was measured last; the core puts it there, whoever asks for the metrics reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Arc<Measured>>>);

impl Shelf {
    pub(crate) fn put(&self, measured: Measured) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(measured);
    }

    fn get(&self) -> Arc<Measured> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Collector for Shelf {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let measured = self.get();
        let plain = |one: u64| i64::try_from(one).unwrap_or(i64::MAX);
        let mut volume = |name: &str, help: &str, pick: fn(&(u64, u64)) -> u64| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for ((window, level), both) in &measured.volume {
                let labels = [("window", *window), ("level", *level)];
                ConstGauge::new(plain(pick(both))).encode(metric.encode_family(&labels)?)?;
            }
            Ok::<(), std::fmt::Error>(())
        };
        volume("volume_incidents", "Incidents opened in the window, by level", |both| both.0)?;
        volume(
            "volume_alerts",
            "Findings of incidents opened in the window, by level of the incident",
            |both| both.1,
        )?;
        let times: [(&str, &str, OfMeasures); 3] = [
            ("time_to_detect", "From the first event to the incident", |one| &one.detect),
            ("time_to_contain", "From the first event to every containment in force", |one| &one.contain),
            ("time_to_remediate", "From the first event to the playbook's end", |one| &one.remediate),
        ];
        for (name, help, pick) in times {
            let mut metric =
                encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
            for ((window, playbook), one) in &measured.by_playbook {
                for (stat, seconds) in pick(one).values().into_iter().flatten() {
                    let labels = [("window", *window), ("playbook", playbook), ("stat", stat)];
                    ConstGauge::new(seconds).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        {
            let mut metric = encoder.encode_descriptor(
                "measure",
                "Shares over incidents opened in the window, as docs/metrics.md defines them; absent where there is no case",
                Some(&Unit::Ratios),
                MetricType::Gauge,
            )?;
            for ((window, playbook), one) in &measured.by_playbook {
                for (name, ratio) in one.ratios() {
                    let Some(value) = ratio.value() else { continue };
                    let labels = [("measure", name), ("window", *window), ("playbook", playbook)];
                    ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        let mut metric = encoder.encode_descriptor(
            "measure_cases",
            "Cases that a share is of",
            None,
            MetricType::Gauge,
        )?;
        for ((window, playbook), one) in &measured.by_playbook {
            for (name, ratio) in one.ratios() {
                let labels = [("measure", name), ("window", *window), ("playbook", playbook)];
                ConstGauge::new(plain(ratio.of)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
