//! Recorded events through the same code in virtual time: what would have been found, which incidents it would have made, and what would
//! have been done about them. Nothing is done: commands go to a stand-in ([`standin`]) that touches nothing.
//!
//! Records and events are read and judged by several threads, since that is where the time goes; what matched is put into one order and
//! given to a core with a journal in memory, whose clock is the events' own ([`player`]). The order, and with it the result, depends on what
//! was recorded and on nothing else: not on threads, not on this machine's clock, not on how often it is done.
//!
//! Several setups can be played at once over one reading, and [`compare`] tells how they differ. docs/replay.md says what a replay can know
//! and what it cannot.

pub mod compare;
mod lines;
mod outcome;
pub mod page;
mod player;
pub mod recording;
mod scan;
mod slots;
mod standin;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use detect::{
    incident::GroupingConfig,
    keep::{InForce, Kept},
    matcher::{Options, RuleSet},
};
use model::{Incident, NodeId, Timestamp, Verdict};

pub use self::{
    outcome::{Decided, Outcome, RuleCount, Story, Would},
    recording::{Block, Item, Recording},
};
use crate::{attribute::fact::Fact, files::rules_below, start::StartError};

/// Batches that wait for one setup (I11).
const WAITING: usize = 64;

/// Recordings of one replay, at most (I11). A folder is one.
pub const MAX_RECORDINGS: usize = 64;

/// What is played with.
#[derive(Clone, Default)]
pub struct Setup {
    /// What it is called in reports.
    pub name: String,
    /// Files and folders of rules.
    pub rules: Vec<PathBuf>,
    /// Files and folders of playbooks and policies.
    pub playbooks: Vec<PathBuf>,
    /// How findings become incidents.
    pub grouping: GroupingConfig,
    /// Who answers, judges and undoes; without it nobody does.
    pub people: Option<NewPeople>,
}

/// Makes the people of one play.
pub type NewPeople = Arc<dyn Fn() -> Box<dyn People> + Send + Sync>;

/// What is known beside the recordings.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// What the API server and its audit log told, and when; empty without a cluster. In order of time.
    pub facts: Vec<(Timestamp, Fact)>,
    /// What feeds of threat intelligence say.
    pub intelligence: Arc<enrich::Intelligence>,
    /// The data classification policy.
    pub classes: Arc<enrich::Classes>,
    /// How long records of different recordings may lie apart in time and still be put in order.
    pub lateness: Duration,
    /// Threads that read and judge; 0: as many as there are processors.
    pub threads: usize,
}

/// Those who answer. Asked whenever an incident has changed.
pub trait People {
    /// What is said about it, and when.
    fn look(&mut self, now: Timestamp, incident: &Incident) -> Vec<(Timestamp, Word)>;
}

/// What a person says of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Yes to all that waits.
    Approve,
    /// No to all that waits.
    Deny,
    /// What it was.
    Verdict(Verdict),
    /// All that was done is to be undone.
    Rollback,
    /// It is dealt with.
    Close,
}

/// Why nothing can be played.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A recording cannot be read.
    #[error("cannot read the recording {}: {source}", path.display())]
    Recording {
        /// Which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// There is nothing to play, or too much.
    #[error("{0} recordings: from 1 to {MAX_RECORDINGS} can be played at once; a folder counts as one")]
    Count(usize),
    /// A rule or playbook is broken; what would come of the others alone would mislead.
    #[error("the setup {setup} cannot be used: {because}")]
    Setup {
        /// Which.
        setup: String,
        /// What is wrong with it.
        because: String,
    },
    /// The core does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The folder for what the core writes cannot be made.
    #[error("cannot make a folder for the replay: {source}")]
    Folder {
        /// The system's word.
        source: io::Error,
    },
    /// A thread ended in a panic, or none is to be had.
    #[error("a thread of the replay {0}")]
    Thread(String),
}

/// A setup that is ready.
pub(crate) struct Ready {
    pub(crate) setup: Setup,
    pub(crate) rules: Arc<RuleSet>,
}

/// Plays `recordings` with each of `setups`; an outcome for each, in order.
///
/// # Errors
/// [`ReplayError`]. A record that cannot be read is no error: it is counted and told.
pub fn play(
    recordings: Vec<Recording>,
    setups: &[Setup],
    around: &Surroundings,
) -> Result<Vec<Outcome>, ReplayError> {
    if recordings.is_empty() || recordings.len() > MAX_RECORDINGS {
        return Err(ReplayError::Count(recordings.len()));
    }
    let ready = setups.iter().map(prepare).collect::<Result<Vec<Ready>, _>>()?;
    let names: Vec<NodeId> = recordings.iter().map(|one| one.name.clone()).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut players = Vec::new();
        for (place, one) in ready.iter().enumerate() {
            let (sender, batches) = mpsc::sync_channel(WAITING);
            senders.push(sender);
            let names = &names;
            let spawned = std::thread::Builder::new()
                .name(format!("replay-{place}"))
                .spawn_scoped(scope, move || player::run(one, place, names, around, &batches));
            players.push(spawned.map_err(|error| ReplayError::Thread(format!("cannot be made: {error}")))?);
        }
        let sets: Vec<Arc<RuleSet>> = ready.iter().map(|one| Arc::clone(&one.rules)).collect();
        let scanned = scan::run(recordings, &sets, around, &mut |batch| {
            // A player that has ended has an error of its own to tell.
            senders.retain(|sender| sender.send(Arc::clone(&batch)).is_ok());
            !senders.is_empty()
        });
        drop(senders);
        let mut outcomes = Vec::new();
        for player in players {
            let ended = player.join().map_err(|_| ReplayError::Thread("ended in a panic".into()))?;
            outcomes.push(ended?);
        }
        let mut counts = scanned?;
        counts.seconds = begun.elapsed().as_secs_f64();
        for outcome in &mut outcomes {
            outcome.read = counts.clone();
        }
        Ok(outcomes)
    })
}

/// Reads and compiles the rules. What is broken is no rule to play with: who compares would take its absence for an effect of the change.
fn prepare(setup: &Setup) -> Result<Ready, ReplayError> {
    let unusable = |because| ReplayError::Setup { setup: setup.name.clone(), because };
    for path in setup.rules.iter().chain(&setup.playbooks) {
        let there = path.try_exists().unwrap_or(false);
        if !there {
            return Err(unusable(format!("there is no {}", path.display())));
        }
    }
    let InForce { loaded, problems, .. } = Kept::default().take(rules_below(&setup.rules));
    if let Some(problem) = problems.first() {
        let more = problems.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        return Err(unusable(format!("{problem}{more}")));
    }
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let rules = Arc::new(set.feeding(&loaded.correlations, &loaded.rules));
    Ok(Ready { setup: setup.clone(), rules })
}
