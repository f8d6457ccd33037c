//! What a node says of itself, for a person.

use std::fmt::Write;

use model::{HookState, NodeStatus, Timestamp};

use super::{Column, Fit, Table, Window, age};

pub(crate) fn status_page(nodes: &[NodeStatus], now: Timestamp, window: Window) -> String {
    if nodes.is_empty() {
        return "No node has reported yet.\n".into();
    }
    let mut out = String::new();
    for node in nodes {
        let live = node.hooks.iter().filter(|hook| is_live(&hook.state)).count();
        let line = format!(
            "node {} · kernel {} · agent start {} · {} · {} live · {} · {} in force · as of {} ago",
            node.node,
            node.kernel,
            node.epoch,
            super::counted(node.rules, "rule"),
            super::counted(live, "hook"),
            super::counted(node.findings, "finding"),
            super::counted(node.containments, "containment"),
            age(node.at, now),
        );
        let _never_fails = writeln!(out, "{}", super::wrapped(&line, window.width, 4));
        if node.degraded.is_empty() {
            out.push_str("healthy\n");
        }
        if !node.holding.is_empty() {
            let holding =
                format!("programs are held at their exec until judged for: {}", node.holding.join("; "));
            let _never_fails = writeln!(out, "{}", super::wrapped(&holding, window.width, 4));
        }
        for degraded in &node.degraded {
            let told = super::wrapped(degraded, window.width.saturating_sub(10), 10);
            let _never_fails = writeln!(out, "DEGRADED: {told}");
        }
        out.push_str("\nHOOKS\n");
        out.push_str(&hooks(node, window));
        out.push_str("\nEVENTS since the start (seen = handed over + filtered + lost)\n");
        out.push_str(&counts(node, window));
    }
    out
}

pub(crate) fn is_live(state: &HookState) -> bool {
    matches!(state, HookState::Attached { .. } | HookState::Fallback { .. })
}

fn hooks(node: &NodeStatus, window: Window) -> String {
    let mut table = Table::new(vec![
        Column { heading: "HOOK", fit: Fit::Keep },
        Column { heading: "STATE", fit: Fit::Keep },
        Column { heading: "ATTACHED TO", fit: Fit::Shrink(16) },
        Column { heading: "BECAUSE", fit: Fit::Shrink(10) },
    ]);
    for hook in &node.hooks {
        let (state, to, because) = match &hook.state {
            HookState::Attached { to } => ("live", to.clone(), String::new()),
            HookState::Fallback { to, because } => ("fallback", to.clone(), because.clone()),
            HookState::NotNeeded => ("not needed", "–".into(), "no loaded rule needs it".into()),
            HookState::NothingToSee { because } => ("not needed", "–".into(), because.clone()),
            HookState::Failed { because } => ("FAILED", "–".into(), because.clone()),
        };
        table.row([hook.hook.clone(), state.into(), to, because]);
    }
    table.render(window)
}

fn counts(node: &NodeStatus, window: Window) -> String {
    let mut table = Table::new(vec![
        Column { heading: "CLASS", fit: Fit::Keep },
        Column { heading: "SEEN", fit: Fit::Keep },
        Column { heading: "HANDED OVER", fit: Fit::Keep },
        Column { heading: "FILTERED", fit: Fit::Keep },
        Column { heading: "LOST", fit: Fit::Keep },
        Column { heading: "(ring/budget/read)", fit: Fit::Drop(1) },
    ]);
    for (class, count) in node.counts.iter().filter(|(_, count)| count.seen > 0) {
        table.row([
            class_name(*class),
            count.seen.to_string(),
            count.submitted.to_string(),
            count.filtered.to_string(),
            count.lost().to_string(),
            format!("{}/{}/{}", count.lost_ring, count.lost_budget, count.lost_read),
        ]);
    }
    table.render(window)
}

/// A class's name as JSON has it: `file_open`.
fn class_name(class: model::EventClass) -> String {
    serde_json::to_value(class).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}
