//! The process tree of a finding, drawn.

use std::sync::Arc;

use model::{Backing, FdKind, Finding, Process, Workload};

use super::one_line;

/// Ancestors from the oldest down to the process of the finding, one line each, at most `width` columns wide.
pub(crate) fn process_tree(finding: &Finding, width: usize) -> String {
    let mut line: Vec<&Arc<Process>> = finding.ancestors.iter().rev().collect();
    line.push(&finding.event.process);
    let mut out = String::new();
    for (depth, process) in line.iter().enumerate() {
        let last = depth + 1 == line.len();
        let indent = if depth == 0 { String::new() } else { format!("{}└─ ", "   ".repeat(depth - 1)) };
        let head = format!("{indent}{} {}", process.key.pid, one_line(&process.exe, 120));
        let marks = marks(process);
        let rest = width.saturating_sub(head.chars().count() + 4 + marks.chars().count());
        let arguments = process.command_line.split_once(' ').map_or("", |(_, rest)| rest);
        let arguments = if rest > 12 { one_line(arguments, rest) } else { String::new() };
        let pointer = if last { "  ◀" } else { "" };
        out.push_str(one_line(&format!("{head} {arguments}{marks}{pointer}"), width.max(20)).trim_end());
        out.push('\n');
    }
    out
}

/// What is strange about a process, in few words.
fn marks(process: &Process) -> String {
    let mut marks = Vec::new();
    match process.exe_file.backing {
        Backing::File => {}
        Backing::Memfd => marks.push("memfd"),
        Backing::Deleted => marks.push("deleted file"),
    }
    if process.stdio.stdin == FdKind::Socket || process.stdio.stdout == FdKind::Socket {
        marks.push("stdio is a socket");
    }
    if process.exit.is_some() {
        marks.push("ended");
    }
    if matches!(&*process.workload, Workload::Unresolved { .. }) {
        marks.push("workload unresolved");
    }
    if marks.is_empty() { String::new() } else { format!("  [{}]", marks.join(", ")) }
}
