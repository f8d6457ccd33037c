//! How long an expression may take, at most.

use cel::{
    IdedExpr,
    common::ast::{EntryExpr, Expr},
};

use super::{Fault, MAX_COST, MAX_LIST, MAX_LOOPS};

/// Operators within one another, at most: the evaluator's stack grows with them (in a debug build, 64 overflow 2 MiB).
pub(super) const MAX_TREE: usize = 32;

/// Refuses an expression whose loops nest too deep or could take too many steps.
pub(super) fn check(root: &IdedExpr, faults: &mut Vec<Fault>) {
    let depth = depth(root);
    if depth > MAX_TREE {
        let message = format!("{depth} operators within one another; at most {MAX_TREE}");
        return faults.push(Fault { line: 1, column: 1, message, help: None });
    }
    let fault = |message: String| Fault {
        line: 1,
        column: 1,
        message,
        help: Some("split it over several steps".into()),
    };
    let loops = loops(root);
    if loops > MAX_LOOPS {
        faults.push(fault(format!(
            "{loops} loops (all, exists, map, filter) within one another; at most {MAX_LOOPS}"
        )));
    }
    let steps = steps(root);
    if steps > MAX_COST {
        faults.push(fault(format!("could take {steps} steps; at most {MAX_COST}")));
    }
}

fn depth(node: &IdedExpr) -> usize {
    1 + children(node).into_iter().map(depth).max().unwrap_or(0)
}

fn loops(node: &IdedExpr) -> usize {
    let inner = children(node).into_iter().map(loops).max().unwrap_or(0);
    inner + usize::from(matches!(node.expr, Expr::Comprehension(_)))
}

fn steps(node: &IdedExpr) -> u64 {
    match &node.expr {
        Expr::Comprehension(each) => {
            let body = steps(&each.loop_cond).saturating_add(steps(&each.loop_step));
            steps(&each.iter_range)
                .saturating_add(entries(&each.iter_range).saturating_mul(body))
                .saturating_add(steps(&each.result))
        }
        _ => children(node).into_iter().fold(1, |sum, child| sum.saturating_add(steps(child))),
    }
}

/// Entries of the list that `node` gives, at most: whatever the operators, no more than all its leaves together.
fn entries(node: &IdedExpr) -> u64 {
    let children = children(node);
    if children.is_empty() {
        return MAX_LIST as u64;
    }
    children.into_iter().fold(0, |sum, child| sum.saturating_add(entries(child)))
}

pub(super) fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(each) => {
            vec![&each.iter_range, &each.accu_init, &each.loop_cond, &each.loop_step, &each.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| in_entry(&entry.expr)).collect(),
        Expr::Struct(structure) => structure.entries.iter().flat_map(|entry| in_entry(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
    }
}

fn in_entry(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}
