//! `hemostat policy promotion`: how playbooks earn and lose their modes, and the patch for Git.

use std::path::Path;

use anyhow::{Context, Result};
use controller::api::PromotionView;
use model::GateOutcome;
use respond::gate::promotion::{Comparison, Score, Word};

use super::{client, refused};
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{self, Column, Fit, Table, Window, one_line, wrapped},
};

/// Prints, or writes the patch of one playbook.
pub(crate) async fn run(shared: &Shared, playbook: Option<&str>, patch: Option<&Path>) -> Result<Exit> {
    let views = client(shared).promotion(playbook).await.map_err(refused)?;
    if let (Some(file), [view, ..]) = (patch, &views[..]) {
        return write(view, file);
    }
    match (playbook, &views[..]) {
        (Some(_), [view, ..]) => render::print(shared.output, view, |window| page(view, window))?,
        _ => render::print(shared.output, &views, |window| list(&views, window))?,
    }
    Ok(Exit::Good)
}

fn write(view: &PromotionView, file: &Path) -> Result<Exit> {
    let Some(patch) = &view.patch else {
        let why = view.missing.as_deref().unwrap_or("nothing is proposed");
        return Err(Ended::with(Exit::Conflict, format!("there is no patch for {}: {why}", view.playbook)));
    };
    if file == Path::new("-") {
        render::write_out(&patch.text)?;
    } else {
        std::fs::write(file, &patch.text)
            .with_context(|| format!("write the patch to {}", file.display()))?;
    }
    let mut told = format!(
        "apply it with: {}\n",
        one_line(&patch.apply, 500).replace("FILE", &file.display().to_string())
    );
    told.extend(patch.notes.iter().map(|note| format!("note: {}\n", one_line(note, 500))));
    render::write_err(&told)?;
    Ok(Exit::Good)
}

fn list(views: &[PromotionView], window: Window) -> String {
    let mut table = Table::new(vec![
        Column { heading: "PLAYBOOK", fit: Fit::Shrink(16) },
        Column { heading: "MODE", fit: Fit::Keep },
        Column { heading: "IN FORCE", fit: Fit::Keep },
        Column { heading: "RUNS", fit: Fit::Drop(3) },
        Column { heading: "JUDGED", fit: Fit::Drop(2) },
        Column { heading: "AGREED", fit: Fit::Keep },
        Column { heading: "NEXT", fit: Fit::Shrink(20) },
    ]);
    for view in views {
        table.row([
            view.playbook.to_string(),
            format!("{:?}", view.mode),
            format!("{:?}", view.in_force),
            view.score.runs.to_string(),
            view.score.judged.to_string(),
            agreement(&view.score),
            next(view),
        ]);
    }
    table.render(window)
}

fn next(view: &PromotionView) -> String {
    match (&view.demoted, &view.proposed, &view.missing) {
        (Some(demotion), ..) => format!("taken back: {}", demotion.because),
        (None, Some(proposal), _) => format!("{:?} is proposed", proposal.to),
        (None, None, Some(missing)) => missing.clone(),
        (None, None, None) => "not looked at yet".into(),
    }
}

fn page(view: &PromotionView, window: Window) -> String {
    let width = window.width.saturating_sub(2);
    let mut out = format!(
        "playbook {}: mode {:?} in Git, {:?} in force; its record counts from {}\n",
        one_line(view.playbook.as_str(), 200),
        view.mode,
        view.in_force,
        view.since
    );
    out.push_str(&format!("{}\n", wrapped(&next(view), width, 2)));
    if let Some(proposal) = &view.proposed {
        for line in &proposal.evidence {
            out.push_str(&format!("  {}\n", wrapped(line, width, 4)));
        }
    }
    out.push_str("\nAGREEMENT BY WEEK\n");
    for week in &view.weeks {
        let score = &week.score;
        let bar = score.agreement().map_or_else(String::new, |share| "█".repeat((share.0 / 500) as usize));
        let day = week.from.to_string();
        out.push_str(&format!(
            "{}  {:>4} runs  {:>4} judged  {:>8}  {bar}\n",
            &day[..10],
            score.runs,
            score.judged,
            agreement(score)
        ));
    }
    out.push_str("\nRUNS (the newest; what it did or would have done, and what the analysts did)\n");
    for run in &view.runs {
        beside(&mut out, run, width);
    }
    if let Some(patch) = &view.patch {
        out.push_str(&format!(
            "\nPATCH (`hemostat policy promotion {} --patch FILE` writes it)\n",
            view.playbook
        ));
        for line in patch.text.lines() {
            out.push_str(&format!("  {}\n", one_line(line, 1000)));
        }
        for note in &patch.notes {
            out.push_str(&format!("note: {}\n", wrapped(note, width, 6)));
        }
    }
    out
}

fn beside(out: &mut String, run: &Comparison, width: usize) {
    let said = match run.word {
        None => "nobody judged it",
        Some(Word::Right) => "a true positive",
        Some(Word::Wrong) => "a FALSE POSITIVE",
        Some(Word::Agreed) => "agreed to",
        Some(Word::Refused) => "REFUSED",
    };
    out.push_str(&format!("{}  {}  {said}\n", run.began, one_line(run.incident.as_str(), 80)));
    let would = if run.outcome == GateOutcome::Shadow { "would" } else { "did" };
    for line in &run.would {
        out.push_str(&format!("  {would}  {}\n", wrapped(line, width.saturating_sub(8), 9)));
    }
    for deed in &run.did {
        let line = format!("{} {}", deed.by, deed.what);
        out.push_str(&format!("  people {}\n", wrapped(&line, width.saturating_sub(8), 9)));
    }
}

fn agreement(score: &Score) -> String {
    score.agreement().map_or_else(|| "–".into(), |share| share.to_string())
}
