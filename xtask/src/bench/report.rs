//! Figures with their targets.

use serde_json::json;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Recorded, not judged.
    None,
}

struct Line {
    bench: &'static str,
    metric: String,
    value: f64,
    unit: &'static str,
    target: Target,
    peer: Option<(&'static str, f64)>,
}

/// All figures of a run.
pub(crate) struct Report {
    json: bool,
    lines: Vec<Line>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, lines: Vec::new() }
    }

    pub(crate) fn add(
        &mut self,
        bench: &'static str,
        metric: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Target,
    ) {
        self.add_beside(bench, metric, value, unit, target, None);
    }

    /// A figure beside a peer's, taken in the same run.
    pub(crate) fn add_beside(
        &mut self,
        bench: &'static str,
        metric: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Target,
        peer: Option<(&'static str, f64)>,
    ) {
        self.lines.push(Line { bench, metric: metric.into(), value, unit, target, peer });
    }

    pub(crate) fn missed(&self) -> usize {
        self.lines.iter().filter(|line| !line.is_met()).count()
    }

    pub(crate) fn print(&self) {
        if self.json {
            for line in &self.lines {
                let (target, peer) = match line.target {
                    Target::AtMost(most) => (Some(most), line.peer),
                    Target::AtLeast(least) => (Some(least), line.peer),
                    Target::None => (None, line.peer),
                };
                println!(
                    "{}",
                    json!({"bench": line.bench, "metric": line.metric, "value": line.value, "unit": line.unit, "target": target,
                           "ok": line.is_met(), "peer": peer.map(|(name, value)| json!({"name": name, "value": value}))})
                );
            }
            return;
        }
        println!("{:<58} {:>14} {:<10} {:>12} {:>4}  peer", "figure", "value", "unit", "target", "");
        for line in &self.lines {
            let target = match line.target {
                Target::AtMost(most) => format!("≤ {most}"),
                Target::AtLeast(least) => format!("≥ {least}"),
                Target::None => "–".to_owned(),
            };
            let peer = line.peer.map_or_else(String::new, |(name, value)| format!("{name}: {value:.3}"));
            let verdict = if line.is_met() { "ok" } else { "MISS" };
            println!(
                "{:<58} {:>14.3} {:<10} {target:>12} {verdict:>4}  {peer}",
                line.metric, line.value, line.unit
            );
        }
    }
}

impl Line {
    fn is_met(&self) -> bool {
        match self.target {
            Target::AtMost(most) => self.value <= most,
            Target::AtLeast(least) => self.value >= least,
            Target::None => true,
        }
    }
}

/// Middle of the values, and the one below which a share of them lies.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a list of a bench"
    )]
    let index = ((values.len().saturating_sub(1)) as f64 * share).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}
