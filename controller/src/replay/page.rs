//! Outcomes and their differences as Markdown, fit for a pull request. Texts of events are somebody's word: nothing of them becomes markup.

use std::fmt::Write as _;

use narrate::shown;

use super::{
    Outcome, Story,
    compare::{Difference, word},
};

/// Incidents shown of each kind; the rest is counted. The JSON form has all.
const SHOWN: usize = 50;
/// Bytes of a text in a cell.
const CELL: usize = 160;
/// Differences of one incident that are shown.
const LINES: usize = 8;

/// One outcome.
#[must_use]
pub fn outcome(of: &Outcome) -> String {
    let mut out = String::from("## Replay\n\n");
    read(&mut out, of);
    let _ = writeln!(
        out,
        "{} rules, {} correlations, {} playbooks: {} findings ({} further matches folded into them), {} incidents.\n",
        of.rules,
        of.correlations,
        of.playbooks,
        of.findings,
        of.folded,
        of.incidents.len()
    );
    problems(&mut out, of);
    if of.incidents.is_empty() {
        return out;
    }
    out.push_str("| incident | severity | what | target | opened | gate | would be done |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
    let mut stories: Vec<&Story> = of.incidents.values().collect();
    stories.sort_by(|a, b| (b.severity, a.opened, &a.id).cmp(&(a.severity, b.opened, &b.id)));
    stories.iter().take(SHOWN).for_each(|story| row(&mut out, story));
    rest(&mut out, stories.len());
    out
}

/// How two outcomes differ.
#[must_use]
pub fn difference(of: &Difference, before: &Outcome, after: &Outcome) -> String {
    let mut out = format!("## Replay: {} → {}\n\n", cell(&of.setups.0), cell(&of.setups.1));
    read(&mut out, after);
    let quiet = of.rules.is_empty() && of.gone.is_empty() && of.new.is_empty() && of.changed.is_empty();
    if quiet {
        let _ = writeln!(out, "**No difference** in {} incidents.\n", of.same);
    }
    out.push_str("| | before | after | |\n| --- | ---: | ---: | ---: |\n");
    for total in &of.totals {
        let change = match total.after.cmp(&total.before) {
            std::cmp::Ordering::Equal => String::new(),
            std::cmp::Ordering::Greater => format!("+{}", total.after - total.before),
            std::cmp::Ordering::Less => format!("−{}", total.before - total.after),
        };
        let _ = writeln!(out, "| {} | {} | {} | {change} |", total.what, total.before, total.after);
    }
    out.push('\n');
    problems(&mut out, before);
    problems(&mut out, after);
    if !of.rules.is_empty() {
        out.push_str("### Rules\n\n| rule | | matches | findings |\n| --- | --- | ---: | ---: |\n");
        for change in of.rules.iter().take(SHOWN) {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} |",
                cell(&change.rule),
                cell(&change.title),
                pair(change.matches),
                pair(change.findings)
            );
        }
        rest(&mut out, of.rules.len());
    }
    if !of.changed.is_empty() {
        let _ = writeln!(out, "### Incidents that differ ({})\n", of.changed.len());
        for changed in of.changed.iter().take(SHOWN) {
            let story = &changed.after;
            let _ = writeln!(
                out,
                "- **{}** {} ({}, {})",
                story.id,
                cell(&story.title),
                cell(&story.target),
                story.opened
            );
            for line in changed.what.iter().take(LINES) {
                let _ = writeln!(out, "  - {}", cell(line));
            }
            if changed.what.len() > LINES {
                let _ = writeln!(out, "  - … and {} more", changed.what.len() - LINES);
            }
        }
        rest(&mut out, of.changed.len());
    }
    for (name, stories) in [("New incidents", &of.new), ("Incidents that are gone", &of.gone)] {
        if stories.is_empty() {
            continue;
        }
        let _ = writeln!(out, "### {name} ({})\n", stories.len());
        out.push_str("| incident | severity | what | target | opened | gate | would be done |\n");
        out.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        stories.iter().take(SHOWN).for_each(|story| row(&mut out, story));
        rest(&mut out, stories.len());
    }
    let _ = writeln!(out, "{} incidents are the same in both.", of.same);
    out
}

fn read(out: &mut String, of: &Outcome) {
    let read = &of.read;
    let span = match (read.oldest, read.newest) {
        (Some(oldest), Some(newest)) => format!(" from {oldest} to {newest}"),
        _ => String::new(),
    };
    let _ = writeln!(
        out,
        "{} events{span}; nothing of this was done, and persons answered nothing.\n",
        read.events
    );
    if read.refused > 0 {
        let _ = writeln!(out, "{} records could not be read, the first:\n", read.refused);
        for refusal in read.refusals.iter().take(3) {
            let _ = writeln!(out, "- {}", cell(refusal));
        }
        out.push('\n');
    }
}

fn problems(out: &mut String, of: &Outcome) {
    for (part, what) in &of.problems {
        let _ = writeln!(out, "> {}: {}: {}\n", cell(&of.setup), cell(part), cell(what));
    }
}

fn row(out: &mut String, story: &Story) {
    let mut done: Vec<String> =
        story.actions.iter().map(|would| format!("{} on {}", would.action, would.target)).collect();
    done.dedup();
    let more = done.len().saturating_sub(4);
    done.truncate(4);
    if more > 0 {
        done.push(format!("… and {more} more"));
    }
    let decided = story.decisions.last();
    let gate = decided.map_or_else(
        || word(story.answer()).to_owned(),
        |one| match one.short.first() {
            Some(short) => format!("{}: {} ({short})", one.playbook, word(story.answer())),
            None => format!("{}: {}", one.playbook, word(story.answer())),
        },
    );
    let _ = writeln!(
        out,
        "| {} | {} | {} | {} | {} | {} | {} |",
        story.id,
        format!("{:?}", story.severity).to_lowercase(),
        cell(&story.title),
        cell(&story.target),
        story.opened,
        cell(&gate),
        cell(&done.join(", "))
    );
}

fn rest(out: &mut String, all: usize) {
    if all > SHOWN {
        let _ = writeln!(out, "\n… and {} more; `--output json` shows all.", all - SHOWN);
    }
    out.push('\n');
}

fn pair((before, after): (Option<u64>, Option<u64>)) -> String {
    let shown = |one: Option<u64>| one.map_or_else(|| "–".to_owned(), |number| number.to_string());
    format!("{} → {}", shown(before), shown(after))
}

/// A text on one line, cut, with nothing that Markdown, HTML or a terminal would take for its own, and nothing that hides or turns writing.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for one in shown(&text[..text.floor_char_boundary(CELL)], CELL).chars() {
        match one {
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '~' | '#' | '!' | '@' => {
                out.push('\\');
                out.push(one);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            other => out.push(other),
        }
    }
    if text.len() > CELL {
        out.push('…');
    }
    // What looks like an address becomes a link without any mark of Markdown's.
    out.replace("://", ":\\/\\/").replace("www.", "www\\.")
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn nothing_of_an_event_becomes_markup() {
        assert_eq!(cell("a|b\n<img src=x>`[x](y)"), "a\\|b &lt;img src=x&gt;\\`\\[x\\](y)");
        assert!(cell(&"ö".repeat(500)).len() < 200);
        assert_eq!(cell("https://x www.y"), "https:\\/\\/x www\\.y");
        let hostile = "a\u{1b}[2J\u{9b}31m\u{202e}fdp.exe\u{200b}";
        assert_eq!(cell(hostile), "a\\\\u{1b}\\[2J\\\\u{9b}31m\\\\u{202e}fdp.exe\\\\u{200b}");
    }
}
