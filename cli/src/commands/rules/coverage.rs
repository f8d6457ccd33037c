//! `hemostat rules coverage`.

use std::path::PathBuf;

use anyhow::Result;
use detect::{
    coverage::{Coverage, coverage},
    load::load,
};
use serde::Serialize;

use super::read_some_rules;
use crate::{
    Shared,
    exit::Exit,
    render::{self, Column, Fit, Table, Window, counted},
};

#[derive(Serialize)]
struct Row {
    technique: String,
    tactics: Vec<String>,
    rules: Vec<String>,
    /// Rules among them that this product's sources can make fire.
    live: usize,
}

pub(super) fn run(shared: &Shared, paths: &[PathBuf], navigator: bool) -> Result<Exit> {
    let files = read_some_rules(paths)?;
    let loaded = load(&files);
    let coverage = coverage(&loaded.rules, &loaded.correlations);
    if navigator {
        render::write_out(&(coverage.navigator_layer("hemostat") + "\n"))?;
        return Ok(Exit::Good);
    }
    let rows = rows(&coverage);
    render::print(shared.output, &rows, |window| page(&rows, &coverage, window))?;
    Ok(Exit::Good)
}

fn rows(coverage: &Coverage) -> Vec<Row> {
    coverage
        .techniques
        .iter()
        .map(|(technique, covering)| {
            let mut tactics: Vec<String> =
                covering.iter().flat_map(|rule| rule.tactics.iter().cloned()).collect();
            tactics.sort();
            tactics.dedup();
            Row {
                technique: technique.clone(),
                tactics,
                rules: covering.iter().map(|rule| rule.title.clone()).collect(),
                live: covering.iter().filter(|rule| rule.live).count(),
            }
        })
        .collect()
}

fn page(rows: &[Row], coverage: &Coverage, window: Window) -> String {
    let mut table = Table::new(vec![
        Column { heading: "TECHNIQUE", fit: Fit::Keep },
        Column { heading: "RULES", fit: Fit::Keep },
        Column { heading: "LIVE", fit: Fit::Keep },
        Column { heading: "TACTICS", fit: Fit::Drop(1) },
        Column { heading: "TITLES", fit: Fit::Shrink(20) },
    ]);
    for row in rows {
        table.row([
            row.technique.clone(),
            row.rules.len().to_string(),
            row.live.to_string(),
            row.tactics.join(","),
            row.rules.join("; "),
        ]);
    }
    let mut out = table.render(window);
    out.push_str(&format!(
        "{}; {}\n",
        counted(coverage.covered(), "technique"),
        match coverage.untagged.len() {
            1 => "1 rule names none".to_owned(),
            many => format!("{many} rules name none"),
        }
    ));
    out
}
