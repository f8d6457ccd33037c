//! From records to numbers: how often a playbook and the analysts agreed, since when that is enough, and what costs a mode.

use std::{collections::BTreeSet, time::Duration};

use crds::Mode;
use model::{GateOutcome, PlaybookName, Share, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Proposal, Standing, Terms,
    record::{Comparison, RunEnd, Word},
};
use crate::gate::confidence::lower_bound;

const DAY: i64 = 86_400;

/// Counts over runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Score {
    /// Runs.
    pub runs: u32,
    /// Those with a word of a person.
    pub judged: u32,
    /// Those with which the word agrees.
    pub agreed: u32,
}

impl Score {
    /// Of these runs.
    pub fn of<'a>(runs: impl IntoIterator<Item = &'a Comparison>) -> Self {
        runs.into_iter().fold(Self::default(), |sum, run| Self {
            runs: sum.runs.saturating_add(1),
            judged: sum.judged.saturating_add(u32::from(run.word.is_some())),
            agreed: sum.agreed.saturating_add(u32::from(run.word.is_some_and(Word::agrees))),
        })
    }

    /// The share that agrees, rounded down; nothing where nothing was judged.
    #[must_use]
    pub fn agreement(&self) -> Option<Share> {
        share(self.agreed, self.judged)
    }

    /// Compared exactly, not as rounded.
    #[must_use]
    pub fn is_above(&self, target: Share) -> bool {
        u64::from(self.agreed) * u64::from(Share::ONE.0) > u64::from(self.judged) * u64::from(target.0)
    }
}

/// A week of a playbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Week {
    /// It begins, on a Monday at midnight UTC.
    pub from: Timestamp,
    /// Its runs.
    pub score: Score,
}

/// Agreement over time: the last `most` weeks in which there were runs, oldest first.
#[must_use]
pub fn weeks(runs: &[&Comparison], most: usize) -> Vec<Week> {
    let mut weeks: std::collections::BTreeMap<i64, Vec<&Comparison>> = std::collections::BTreeMap::new();
    for run in runs {
        weeks.entry(monday(run.began)).or_default().push(run);
    }
    let skip = weeks.len().saturating_sub(most);
    let all = weeks.into_iter().skip(skip);
    all.map(|(from, runs)| Week {
        from: Timestamp(from.saturating_mul(1_000_000_000)),
        score: Score::of(runs),
    })
    .collect()
}

/// The Monday before, in seconds since 1970, which began on a Thursday.
fn monday(at: Timestamp) -> i64 {
    let day = at.unix_seconds().div_euclid(DAY);
    (day - (day + 3).rem_euclid(7)) * DAY
}

/// Since when the agreement has been above the target without interruption; nothing where it is not now.
fn above_since(runs: &[&Comparison], target: Share) -> Option<Timestamp> {
    let mut judged: Vec<(Timestamp, Word)> =
        runs.iter().filter_map(|run| Some((run.judged?, run.word?))).collect();
    // Of what came at the same moment, what speaks against it comes last: the streak never gains by an order.
    judged.sort_by_key(|(at, word)| (*at, !word.agrees()));
    let (mut score, mut since) = (Score::default(), None);
    for (at, word) in judged {
        score.judged += 1;
        score.agreed += u32::from(word.agrees());
        since = if score.is_above(target) { since.or(Some(at)) } else { None };
    }
    since
}

/// The proposal that the record has earned, or what is missing.
pub(super) fn earned(
    playbook: &PlaybookName,
    standing: &Standing,
    runs: &[&Comparison],
    terms: &Terms,
    now: Timestamp,
) -> Result<Proposal, String> {
    if let Some(demotion) = &standing.demoted {
        return Err(format!(
            "it was taken back to {:?} ({}); set that mode in Git, or mend it and run `hemostat trust begin-anew {playbook}`",
            demotion.to, demotion.because
        ));
    }
    let to = match standing.mode {
        Mode::Shadow => Mode::Approve,
        Mode::Approve => Mode::Auto,
        Mode::Auto => return Err("there is no mode beyond Auto".into()),
    };
    let target = terms.target(standing.mode);
    let score = Score::of(runs.iter().copied());
    let days: BTreeSet<i64> =
        runs.iter().filter_map(|run| run.judged).map(|at| at.unix_seconds().div_euclid(DAY)).collect();
    let told = agreement_of(&score);
    if score.judged < terms.judged {
        return Err(format!("{} of {} judged runs so far ({told})", score.judged, terms.judged));
    }
    if !score.is_above(target) {
        return Err(format!("{told}; more than {target} is needed"));
    }
    if share(score.judged, score.runs).is_none_or(|judged| judged < terms.judged_share) {
        return Err(format!(
            "{} of {} runs were judged; at least {} must be",
            score.judged, score.runs, terms.judged_share
        ));
    }
    if days.len() < terms.days as usize {
        return Err(format!("judged on {} different days; {} are needed", days.len(), terms.days));
    }
    let since = above_since(runs, target).ok_or_else(|| format!("{told}; more than {target} is needed"))?;
    let long = now.since(since.max(standing.since));
    if long < terms.window {
        return Err(format!("above {target} for {}; {} are needed", in_days(long), in_days(terms.window)));
    }
    let bound = lower_bound(f64::from(score.agreed), f64::from(score.judged - score.agreed));
    let evidence = vec![
        format!("{told}; more than {target} is needed"),
        format!(
            "above that without interruption since {since}, {}; {} are needed",
            in_days(long),
            in_days(terms.window)
        ),
        format!(
            "{} of {} runs since {} were judged, on {} different days",
            score.judged,
            score.runs,
            standing.since,
            days.len()
        ),
        format!("with probability 95 % the true agreement is above {bound}"),
    ];
    Ok(Proposal { from: standing.mode, to, at: now, evidence })
}

/// Whether the record costs the mode in force, with the one that is left and the reason.
pub(super) fn demotes(
    mode: Mode,
    runs: &[&Comparison],
    terms: &Terms,
    now: Timestamp,
) -> Option<(Mode, String)> {
    let lately = |run: &&&Comparison| run.judged.is_some_and(|at| now.since(at) <= terms.window && at <= now);
    match mode {
        Mode::Shadow => None,
        Mode::Approve => {
            let score = Score::of(runs.iter().filter(lately).copied());
            let mostly_no = score.judged >= terms.refused_of && score.agreed * 2 < score.judged;
            mostly_no.then(|| {
                let what = format!(
                    "within {} people agreed with {} of {} of its runs: asking them costs more than it gives",
                    in_days(terms.window),
                    score.agreed,
                    score.judged
                );
                (Mode::Shadow, what)
            })
        }
        Mode::Auto => {
            let automatic: Vec<&Comparison> =
                runs.iter().copied().filter(|run| run.outcome == GateOutcome::Automatic).collect();
            let score = Score::of(automatic.iter().copied().filter(|run| lately(&run)));
            let wrong = automatic.iter().filter(|run| lately(run) && run.word == Some(Word::Wrong)).count();
            if wrong >= terms.wrong as usize && !score.is_above(terms.to_auto) {
                let what = format!(
                    "{wrong} of {} judged automatic runs within {} were false positives",
                    score.judged,
                    in_days(terms.window)
                );
                return Some((Mode::Approve, what));
            }
            let mut ended: Vec<&Comparison> = automatic.into_iter().filter(|run| run.end.is_some()).collect();
            ended.sort_by(|a, b| (b.began, &b.run).cmp(&(a.began, &a.run)));
            ended.truncate(Terms::LAST);
            let failed = ended.iter().filter(|run| run.end == Some(RunEnd::Failed)).count();
            (failed >= terms.failed as usize).then(|| {
                (Mode::Approve, format!("{failed} of its last {} automatic runs failed", ended.len()))
            })
        }
    }
}

fn agreement_of(score: &Score) -> String {
    match score.agreement() {
        Some(agreement) => {
            format!("people agreed with {} of {} judged runs, {agreement}", score.agreed, score.judged)
        }
        None => "no run was judged".into(),
    }
}

fn in_days(long: Duration) -> String {
    format!("{:.1} days", long.as_secs_f64() / 86_400.0)
}

fn share(part: u32, whole: u32) -> Option<Share> {
    let ten_thousandths = (u64::from(part) * u64::from(Share::ONE.0)).checked_div(u64::from(whole))?;
    u32::try_from(ten_thousandths).ok().map(Share)
}
