//! Who needs whom.

use std::collections::BTreeSet;

use crds::nearest;
use petgraph::{
    algo::tarjan_scc,
    graph::{DiGraph, NodeIndex},
};

use super::Check;

/// For each step, the steps that it names in `needs`.
pub(super) fn needs(check: &mut Check<'_>) -> Vec<Vec<usize>> {
    let spec = check.spec;
    let names: Vec<&str> = spec.steps.iter().map(|step| step.name.as_str()).collect();
    let mut all = Vec::new();
    for (index, step) in spec.steps.iter().enumerate() {
        let mut needs = BTreeSet::new();
        for (at, wanted) in step.needs.iter().enumerate() {
            let path = format!("spec.steps[{index}].needs[{at}]");
            match names.iter().position(|name| name == wanted) {
                Some(found) => {
                    needs.insert(found);
                }
                None => {
                    let help = nearest(wanted, names.iter().copied()).map(|n| format!("did you mean `{n}`?"));
                    check.error_with(&path, format!("there is no step `{wanted}`"), help);
                }
            }
        }
        all.push(needs.into_iter().collect());
    }
    all
}

/// Steps that can begin together, level by level; `None` when steps need one another.
pub(super) fn levels(check: &mut Check<'_>, needs: &[Vec<usize>]) -> Option<Vec<Vec<usize>>> {
    let mut graph = DiGraph::<(), ()>::new();
    let nodes: Vec<NodeIndex> = needs.iter().map(|_| graph.add_node(())).collect();
    for (step, needed) in needs.iter().enumerate() {
        for &before in needed {
            graph.add_edge(nodes[step], nodes[before], ());
        }
    }
    let mut sound = true;
    for component in tarjan_scc(&graph) {
        let members: BTreeSet<usize> = component.iter().map(|node| node.index()).collect();
        let first = members.first().copied().unwrap_or_default();
        if members.len() > 1 || needs[first].contains(&first) {
            sound = false;
            let cycle = cycle(first, &members, needs);
            let names: Vec<String> =
                cycle.iter().map(|&step| format!("`{}`", check.spec.steps[step].name)).collect();
            let message = format!("steps need one another in a circle: {}", names.join(" needs "));
            check.error_with(
                &format!("spec.steps[{first}].needs"),
                message,
                Some("take one of them out of needs".into()),
            );
        }
    }
    if !sound {
        return None;
    }
    let mut level = vec![0; needs.len()];
    // each round settles at least one more level
    for _ in 0..needs.len() {
        for step in 0..needs.len() {
            level[step] = needs[step].iter().map(|&before| level[before] + 1).max().unwrap_or(0);
        }
    }
    let count = level.iter().max().map_or(0, |most| most + 1);
    Some((0..count).map(|n| (0..needs.len()).filter(|&step| level[step] == n).collect()).collect())
}

/// The shortest way from `start` back to itself within its component, `start` at both ends.
fn cycle(start: usize, members: &BTreeSet<usize>, needs: &[Vec<usize>]) -> Vec<usize> {
    let mut ways: Vec<Vec<usize>> = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last().copied().unwrap_or(start);
            for &next in needs[last].iter().filter(|next| members.contains(next)) {
                let mut way = way.clone();
                way.push(next);
                if next == start {
                    return way;
                }
                if seen.insert(next) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    vec![start, start]
}

/// For each step, every step that is done before it.
pub(super) fn ancestors(needs: &[Vec<usize>]) -> Vec<BTreeSet<usize>> {
    needs
        .iter()
        .map(|direct| {
            let mut found = BTreeSet::new();
            let mut open = direct.clone();
            while let Some(step) = open.pop() {
                if found.insert(step) {
                    open.extend(&needs[step]);
                }
            }
            found
        })
        .collect()
}
