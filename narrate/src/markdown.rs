//! The document as Markdown (CommonMark with GitHub's tables not needed): for tickets and pull requests.
//!
//! Foreign text only ever stands in code spans and fenced blocks, in which nothing is a link, an image, HTML, a mention or emphasis; a span's and
//! a block's fence is longer than any run of backticks in it (CommonMark 0.31.2, 6.1 and 4.5).

use std::fmt::Write as _;

use crate::{
    document::{Document, Response},
    text::{fit, shown, span},
};

/// The document as Markdown.
#[must_use]
pub fn render(told: &Document) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("# {}: {}\n", code(told.incident.as_str()), code(&told.title)));
    let verdict = told.verdict.map_or_else(String::new, |verdict| format!(" · verdict {verdict:?}"));
    line(format!("**{:?}** · {:?}{verdict} · told {}\n", told.severity, told.state, told.told));
    for sentence in &told.summary {
        line(format!("- {}", code(sentence)));
    }
    if !told.techniques.is_empty() {
        line(format!("- techniques {}", list(&told.techniques)));
    }
    if !told.answers.is_empty() {
        line("\n## To decide".into());
    }
    for answer in &told.answers {
        line(format!("\n**{}**\n", code(&answer.question)));
        line(format!("- on a yes: {}", code(&answer.would)));
        line(format!("- asked because: {}", code(&answer.because)));
        if let Some(until) = answer.until {
            line(format!("- no answer until {until} is a no"));
        }
        line(String::new());
        let commands: Vec<String> =
            answer.commands.iter().map(|one| format!("{}  # {}", one.command, one.label)).collect();
        line(fenced("console", &commands));
    }
    let milestones: Vec<String> =
        told.milestones.iter().map(|one| format!("{} +{}", one.name, span(one.after_us))).collect();
    line(format!(
        "\n## Timeline\n\n{}\n",
        milestones.iter().map(|one| code(one)).collect::<Vec<_>>().join(" → ")
    ));
    let moments: Vec<String> = told
        .timeline
        .iter()
        .map(|moment| {
            let when = format!("+{}", span(moment.after_us));
            format!(
                "{when:>9}  {:<8} {}: {}",
                format!("{:?}", moment.lane).to_lowercase(),
                moment.actor,
                moment.what
            )
        })
        .collect();
    line(fenced("text", &moments));
    left_out(&mut line, told.timeline_left_out, "moments in the middle");
    if !told.processes.is_empty() {
        line("\n## Processes\n".into());
        let tree: Vec<String> = told
            .processes
            .iter()
            .map(|process| {
                let indent = if process.depth == 0 {
                    String::new()
                } else {
                    format!("{}└─ ", "   ".repeat(process.depth.min(24) as usize - 1))
                };
                let mut marks = process.marks.clone();
                marks.extend(process.held.iter().map(|held| format!("held by {held}")));
                marks.extend(process.found_by.iter().map(|title| format!("◀ {title}")));
                let marks =
                    if marks.is_empty() { String::new() } else { format!("  [{}]", marks.join("; ")) };
                format!(
                    "{indent}{} {} · {} · {}{marks}",
                    process.pid,
                    process.exe,
                    process.user,
                    fit(&process.command_line, 160)
                )
            })
            .collect();
        line(fenced("text", &tree));
        left_out(&mut line, told.processes_left_out, "processes");
    }
    if !told.graph.links.is_empty() {
        line("\n## What has to do with what\n".into());
        let label =
            |index: u32| told.graph.entities.get(index as usize).map_or("?", |entity| entity.label.as_str());
        let links: Vec<String> = told
            .graph
            .links
            .iter()
            .map(|link| format!("{} ── {} ─▶ {}", label(link.from), link.what, label(link.to)))
            .collect();
        line(fenced("text", &links));
        left_out(&mut line, told.graph.left_out, "things");
    }
    line("\n## Findings\n".into());
    for found in &told.findings {
        line(format!(
            "- **{:?}** {} ×{} at {} ({}; {})",
            found.level,
            code(&found.title),
            found.count,
            found.at,
            code(&found.rule),
            list(&found.techniques)
        ));
        line(format!("  - {}", code(&found.what)));
        for (field, value) in &found.matched {
            line(format!("  - {} = {}", code(field), code(value)));
        }
        if found.lost > 0 {
            line(format!("  - {} events were lost around it", found.lost));
        }
    }
    left_out(&mut line, told.findings_left_out, "findings");
    known(&mut line, told);
    for response in &told.responses {
        respond(&mut line, response);
    }
    out
}

fn known(line: &mut impl FnMut(String), told: &Document) {
    let known = &told.known;
    if known.intelligence.is_empty() && known.facts.is_empty() && known.missing.is_empty() {
        return;
    }
    line("\n## Known of it\n".into());
    for one in &known.intelligence {
        let note = if one.note.is_empty() { String::new() } else { format!(" {}", code(&one.note)) };
        line(format!(
            "- {} is {} {} of feed {} (confidence {}, written {}){note}; seen in {}",
            code(&one.observed),
            code(&one.relation),
            code(&one.indicator),
            code(&one.feed),
            one.confidence,
            one.written,
            code(&one.seen_in)
        ));
    }
    for one in &known.facts {
        line(format!("- {:?}: {} ({}, since {})", one.kind, code(&one.what), code(&one.source), one.known));
    }
    for one in &known.missing {
        line(format!("- not known: {}: {}", code(&one.what), code(&one.because)));
    }
}

fn respond(line: &mut impl FnMut(String), response: &Response) {
    line(format!("\n## Playbook {}: {}\n", code(&response.playbook), response.state));
    if let Some(plan) = &response.plan {
        if !plan.description.is_empty() {
            line(format!("{}\n", code(&plan.description)));
        }
        let who =
            if plan.approvers.is_empty() { "anybody with access".into() } else { list(&plan.approvers) };
        line(format!(
            "- blast radius: at most {} a step, {} different targets; yes says {who}",
            code(&plan.widest),
            plan.maximum_targets
        ));
        for (number, step) in plan.steps.iter().enumerate() {
            let after =
                if step.needs.is_empty() { String::new() } else { format!(", after {}", list(&step.needs)) };
            let state =
                if step.state.is_empty() { String::new() } else { format!(" — **{}**", code(&step.state)) };
            line(format!(
                "- step {}: {} ({}{after}){state}",
                number + 1,
                code(&step.name),
                code(&step.action)
            ));
            line(format!("  - {}; undo: {}", code(&step.would), code(&step.undo)));
        }
    }
    for short in &response.short {
        line(format!("- **fell short: {}** {}", short.signal, code(&short.numbers)));
        for evidence in &short.evidence {
            line(format!("  - {}", code(evidence)));
        }
    }
    line("- the gate looked at:".into());
    for reason in &response.reasons {
        line(format!("  - {}", code(reason)));
    }
}

fn left_out(line: &mut impl FnMut(String), many: u64, what: &str) {
    if many > 0 {
        line(format!("\n… {many} {what} left out"));
    }
}

fn list(texts: &[String]) -> String {
    if texts.is_empty() {
        return "–".into();
    }
    texts.iter().map(|text| code(text)).collect::<Vec<_>>().join(", ")
}

/// A foreign text as a code span.
fn code(text: &str) -> String {
    let text = shown(text, 4000);
    if text.trim().is_empty() {
        return "–".into();
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    // A span that begins or ends with a backtick, or with blanks at both ends, is padded; the padding is not shown.
    let pad = if text.starts_with(['`', ' ']) || text.ends_with(['`', ' ']) { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// Foreign lines as a fenced block.
fn fenced(kind: &str, lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|text| shown(text, 4000)).collect();
    let fence = "`".repeat(lines.iter().map(|text| longest_run(text)).max().unwrap_or(0).max(2) + 1);
    let mut out = format!("{fence}{kind}\n");
    for text in lines {
        let _never_fails = writeln!(out, "{text}");
    }
    out + &fence
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}
