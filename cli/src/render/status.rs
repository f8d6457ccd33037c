//! What a node says of itself, for a person.

use std::fmt::Write;

use model::{HookState, HookStatus, NodeStatus, Timestamp};

use super::{Column, Fit, Table, Window, age};

pub(crate) fn status_page(nodes: &[NodeStatus], now: Timestamp, window: Window) -> String {
    if nodes.is_empty() {
        return "No node has reported yet.\n".into();
    }
    let mut out = String::new();
    for node in nodes {
        let live = node.hooks.iter().filter(|hook| is_live(&hook.state)).count();
        let stand_in =
            node.hooks.iter().filter(|hook| matches!(hook.state, HookState::Fallback { .. })).count();
        let mut hooks_live = super::counted(live, "hook");
        if stand_in > 0 {
            hooks_live.push_str(&format!(" ({})", super::counted(stand_in, "fallback")));
        }
        let line = format!(
            "node {} · kernel {} · agent start {} · {} · {} live · {} · {} in force · as of {} ago",
            node.node,
            node.kernel,
            node.epoch,
            super::counted(node.rules, "rule"),
            hooks_live,
            super::counted(node.findings, "finding"),
            super::counted(node.containments, "containment"),
            age(node.at, now),
        );
        let _never_fails = writeln!(out, "{}", super::wrapped(&line, window.width, 4));
        if node.degraded.is_empty() {
            let _never_fails = writeln!(out, "node {} is healthy", node.node);
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

/// Where each hook is attached and why not elsewhere: whole, on as many lines as it takes.
fn hooks(node: &NodeStatus, window: Window) -> String {
    let name = |hook: &HookStatus| super::one_line(&hook.hook, 60);
    let widest = node.hooks.iter().map(|hook| name(hook).chars().count()).max().unwrap_or(0).max(4);
    let indent = widest + 14;
    let mut out = format!("{:<widest$}  {:<10}  ATTACHED TO, AND WHY\n", "HOOK", "STATE");
    for hook in &node.hooks {
        let (state, to, because) = match &hook.state {
            HookState::Attached { to } => ("live", to.clone(), String::new()),
            HookState::Fallback { to, because } => ("fallback", to.clone(), because.clone()),
            HookState::NotNeeded => ("not needed", "–".into(), "no loaded rule needs it".into()),
            HookState::NothingToSee { because } => ("not needed", "–".into(), because.clone()),
            HookState::Failed { because } => ("FAILED", "–".into(), because.clone()),
        };
        let told = match (to.as_str(), because.as_str()) {
            (to, "") => to.to_owned(),
            ("–", because) => because.to_owned(),
            (to, because) => format!("{to}: {because}"),
        };
        let told = super::wrapped(&told, window.width.saturating_sub(indent), indent);
        let _never_fails = writeln!(out, "{:<widest$}  {state:<10}  {told}", name(hook));
    }
    out
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

#[cfg(test)]
mod tests {
    use super::{super::Colour, *};

    #[test]
    fn every_reason_is_told_whole_however_narrow_the_window() {
        let because =
            format!("the kernel has no fentry on {} and says so with many words", "a_long_symbol_".repeat(6));
        let hook =
            |name: &str, state: HookState| HookStatus { hook: name.into(), classes: Vec::new(), state };
        let hooks = vec![
            hook("exec", HookState::Attached { to: "tracepoint/sched/sched_process_exec".into() }),
            hook(
                "file_open",
                HookState::Fallback { to: "kprobe/security_file_open".into(), because: because.clone() },
            ),
            hook("ptrace", HookState::Failed { because: because.clone() }),
        ];
        let node = node(hooks);
        for width in [70, 90, 200] {
            let window = Window { width, colour: Colour::Plain };
            let page = status_page(std::slice::from_ref(&node), Timestamp(0), window);
            let bare: String = page.split_whitespace().collect();
            let whole: String = because.split_whitespace().collect();
            assert_eq!(bare.matches(&whole).count(), 2, "{page}");
            assert!(!page.contains('…'), "{page}");
            assert!(page.lines().all(|line| line.chars().count() <= width), "{width}: {page}");
            assert!(page.contains("(1 fallback)"), "what stands in is told apart: {page}");
            assert!(page.contains("node n is healthy"), "whose health it is: {page}");
        }
    }

    fn node(hooks: Vec<HookStatus>) -> NodeStatus {
        NodeStatus {
            node: model::NodeId::new("n"),
            epoch: model::AgentEpoch(1),
            at: Timestamp(0),
            kernel: "6.1".into(),
            rules: 1,
            holding: Vec::new(),
            loaded: None,
            hooks,
            counts: std::collections::BTreeMap::new(),
            findings: 0,
            containments: 0,
            degraded: Vec::new(),
        }
    }
}
