//! One setup at play: a core whose clock is the time of what was recorded.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
        mpsc::Receiver,
    },
    time::Duration,
};

use detect::fold::{self, Acted, Fold, Folded};
use model::{
    Actor, AgentEpoch, CommandOutcome, Down, FindingId, NodeId, Report, RuleRef, Seq, Timestamp, Up,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Outcome, People, Ready, ReplayError, Story, Surroundings, Word,
    outcome::RuleCount,
    scan::{Batch, Candidate, Hit, Matched, What, Which},
    standin,
};
use crate::{
    attribute::{Pods, fact::Fact, index},
    config::ControllerConfig,
    core::{Change, Core, Input, Shared, Shown},
    health::HealthBoard,
    ingest::judge::{cut_rule, finding_of},
    metrics::Metrics,
    playbooks::Plans,
};

/// Messages that wait for one node; taken out after every turn.
const QUEUE: usize = 4096;

/// Inputs that one turn takes.
const TURN: usize = 64;

/// Inputs that lie further apart do not share a turn.
const TOGETHER: Duration = Duration::from_millis(50);

/// How often counts of repetitions are told, as nodes and sources do.
const TELL: Duration = Duration::from_secs(1);

/// How long is played on after the last event: what waits for its turn, and actions that have begun, come to their end.
const AFTER: Duration = Duration::from_secs(60);

/// A step in time where something is due that the last turn did not do.
const STEP: Duration = Duration::from_millis(1);

/// Plays what comes until nothing more does.
pub(super) fn run(
    ready: &Ready,
    place: usize,
    names: &[NodeId],
    around: &Surroundings,
    batches: &Receiver<Batch>,
) -> Result<Outcome, ReplayError> {
    let mut player: Option<Player<'_>> = None;
    while let Ok(batch) = batches.recv() {
        for candidate in batch.iter() {
            let player = match &mut player {
                Some(player) => player,
                None => player.insert(Player::new(ready, place, names, around, candidate.at)?),
            };
            player.take(candidate);
        }
    }
    match player {
        Some(player) => Ok(player.finish()),
        None => {
            let player = Player::new(ready, place, names, around, Timestamp(0))?;
            Ok(player.finish())
        }
    }
}

/// Something that comes at its time.
enum Mail {
    Outcome(NodeId, Box<CommandOutcome>),
    Word(model::IncidentId, Word),
}

struct Node {
    down: mpsc::Receiver<Down>,
    seq: u64,
    /// Of what it found; there is one from its first match on.
    fold: Option<Fold>,
}

struct Player<'a> {
    ready: &'a Ready,
    place: usize,
    names: &'a [NodeId],
    clock: Arc<AtomicI64>,
    core: Core,
    pods: Option<Pods>,
    facts: std::iter::Peekable<std::slice::Iter<'a, (Timestamp, Fact)>>,
    people: Option<Box<dyn People>>,
    nodes: BTreeMap<NodeId, Node>,
    inputs: Vec<Input>,
    /// When the first of them came.
    since: Timestamp,
    mail: BTreeMap<(Timestamp, u64), Mail>,
    posted: u64,
    /// Findings that were told, so that their repetitions count.
    told: Told,
    /// Since when there are repetitions that are not told.
    untold: Option<Timestamp>,
    outcome: Outcome,
    /// What is written to; removed with the player.
    _folder: Scratch,
}

impl<'a> Player<'a> {
    fn new(
        ready: &'a Ready,
        place: usize,
        names: &'a [NodeId],
        around: &'a Surroundings,
        begin: Timestamp,
    ) -> Result<Self, ReplayError> {
        let setup = &ready.setup;
        let folder = Scratch::new().map_err(|source| ReplayError::Folder { source })?;
        let clock = Arc::new(AtomicI64::new(begin.0));
        let present = {
            let clock = Arc::clone(&clock);
            Arc::new(move || Timestamp(clock.load(Ordering::Relaxed))) as crate::Clock
        };
        let mut config = ControllerConfig::in_folders(&folder.0, &folder.0);
        config.rules.clone_from(&setup.rules);
        config.playbooks.clone_from(&setup.playbooks);
        config.grouping = setup.grouping.clone();
        config.clock = Arc::clone(&present);
        config.intelligence = Arc::clone(&around.intelligence);
        config.classes = Arc::clone(&around.classes);
        let pods = (!around.facts.is_empty()).then(|| Pods::new(index::Limits::default(), present));
        config.pods.clone_from(&pods);
        let shared = Shared {
            config: Arc::new(config),
            health: HealthBoard::default(),
            metrics: Arc::new(Metrics::default()),
            revision: watch::channel(0).0,
            paused: watch::channel(false).0,
            plans: watch::channel(Plans::default()).0,
            stop: CancellationToken::new(),
            traces: None,
        };
        let core = Core::in_memory(shared)?;
        let (playbooks, correlations) = core.equipment();
        let broken = core.problems().into_iter().find(|(part, _)| part == "playbooks" || part == "rules");
        if let Some((part, because)) = broken {
            let because = format!("{part}: {because}");
            return Err(ReplayError::Setup { setup: setup.name.clone(), because });
        }
        let outcome = Outcome {
            setup: setup.name.clone(),
            rules: ready.rules.len(),
            correlations,
            playbooks,
            ..Outcome::default()
        };
        let mut this = Self {
            ready,
            place,
            names,
            clock,
            core,
            pods,
            facts: around.facts.iter().peekable(),
            people: setup.people.as_ref().map(|people| people()),
            nodes: BTreeMap::new(),
            inputs: Vec::new(),
            since: begin,
            mail: BTreeMap::new(),
            posted: 0,
            told: Told::default(),
            untold: None,
            outcome,
            _folder: folder,
        };
        this.node(&NodeId::cluster());
        this.turn();
        Ok(this)
    }

    fn take(&mut self, candidate: &Candidate) {
        self.until(candidate.at);
        match &candidate.what {
            What::Heard(fact) => {
                if let Some(pods) = &self.pods {
                    pods.tell((**fact).clone());
                }
            }
            What::Repeat { finding, count, last, moments } => {
                if self.told.contains(finding) {
                    let (finding, moments) = (finding.clone(), moments.clone());
                    let repeat = Report::Repeat { finding, count: *count, last: *last, moments };
                    self.report(&self.names[candidate.recording].clone(), repeat);
                } else {
                    self.outcome.orphaned += 1;
                }
            }
            What::Matched(matched) => {
                for hit in &matched.hits[self.place] {
                    self.hit(matched, hit, candidate.recording);
                }
            }
        }
        if self.inputs.len() >= TURN {
            self.turn();
        }
    }

    fn hit(&mut self, found: &Matched, hit: &Hit, recording: usize) {
        let own;
        let ready = self.ready;
        let rule: &RuleRef = match hit.rule {
            Which::Rule(index) => match ready.rules.rule(index) {
                Some(rule) => rule,
                None => return,
            },
            Which::Cut => {
                own = cut_rule();
                &own
            }
        };
        let event = &found.event;
        // Records are told by their source, whatever machine they speak of; events by the node that they are of.
        let teller =
            if event.record().is_some() { self.names[recording].clone() } else { event.id.node.clone() };
        let count = self.outcome.matches.entry(rule.id.clone()).or_default();
        count.matches += 1;
        if count.title.is_empty() {
            count.title.clone_from(&rule.title);
        }
        let id = FindingId::derive(&event.id, &rule.id);
        let (folded, matched) = self.fold(&teller, rule, event, &id, &hit.matched);
        if folded == Folded::Same {
            return;
        }
        if let Folded::Again { .. } = folded {
            self.outcome.folded += 1;
            self.untold = self.untold.or(Some(self.now()));
            return;
        }
        self.outcome.findings += 1;
        if let Some(count) = self.outcome.matches.get_mut(&rule.id) {
            count.findings += 1;
        }
        let mut finding = finding_of(id.clone(), rule, event.clone(), matched);
        finding.context.clone_from(&found.context);
        finding.loss = found.loss.clone();
        self.told.insert(id);
        self.report(&teller, Report::Finding(finding));
    }

    /// As the node or the source does that found it.
    fn fold(
        &mut self,
        teller: &NodeId,
        rule: &RuleRef,
        event: &model::Event,
        id: &FindingId,
        matched: &BTreeMap<String, String>,
    ) -> (Folded, BTreeMap<String, String>) {
        let rules = &self.ready.rules;
        let fold = self.node(teller).fold.get_or_insert_with(|| {
            let limits = if event.record().is_some() { fold::Limits::RECORDS } else { fold::Limits::NODE };
            let mut fold = Fold::new(limits);
            fold.feed(rules.fed().map(|rule| rule.id.clone()));
            fold
        });
        fold.take_in(rule, event, id, Acted::No, || matched.clone())
    }

    /// Lets time pass until `at`: what is due on the way is done at its time.
    fn until(&mut self, at: Timestamp) {
        if self.inputs.is_empty() {
            self.since = at;
        } else if at.since(self.since) > TOGETHER {
            self.turn();
            self.since = at;
        }
        loop {
            let mail = self.mail.first_key_value().map(|((at, _), _)| *at);
            let fact = self.facts.peek().map(|(at, _)| *at);
            let tell = self.untold.map(|since| since.plus(TELL));
            let due = [self.core.due(), mail, fact, tell].into_iter().flatten().min();
            let Some(due) = due.filter(|due| *due <= at) else { break };
            if !self.inputs.is_empty() {
                // They are of before.
                self.turn();
                continue;
            }
            let before = self.now();
            self.set(due);
            self.deliver();
            self.turn();
            let still = self.core.due().is_some_and(|next| next <= self.now());
            if still && due <= before {
                // What is due waits for something else: time goes on.
                self.set(before.plus(STEP));
                if self.now() > at {
                    break;
                }
            }
        }
        self.set(at);
    }

    /// What has come by now.
    fn deliver(&mut self) {
        let now = self.now();
        while let Some((_, fact)) = self.facts.next_if(|(at, _)| *at <= now) {
            if let Some(pods) = &self.pods {
                pods.tell(fact.clone());
            }
        }
        if self.untold.is_some_and(|since| since.plus(TELL) <= now) {
            self.tell_repeats();
        }
        while let Some(first) = self.mail.first_entry() {
            if first.key().0 > now {
                break;
            }
            match first.remove() {
                Mail::Outcome(node, outcome) => {
                    self.inputs.push(Input::Up { node, link: 1, up: Up::Outcome(outcome) });
                }
                Mail::Word(incident, word) => self.say(&incident, word),
            }
        }
    }

    fn tell_repeats(&mut self) {
        self.untold = None;
        let mut repeats = Vec::new();
        for (name, node) in &mut self.nodes {
            let due = node.fold.iter_mut().flat_map(Fold::due);
            repeats.extend(due.map(|one| (name.clone(), one)));
        }
        for (name, repeat) in repeats {
            let detect::fold::Repeat { finding, count, last, moments, .. } = repeat;
            self.report(&name, Report::Repeat { finding, count, last, moments });
        }
    }

    fn say(&mut self, incident: &model::IncidentId, word: Word) {
        let (id, because) = (incident.as_str().to_owned(), "said in a replay".to_owned());
        let change = match word {
            Word::Approve => Change::Approve { id, run: None, step: None, because, groups: Vec::new() },
            Word::Deny => Change::Deny { id, run: None, step: None, because, groups: Vec::new() },
            Word::Verdict(verdict) => Change::Judge { id, verdict, because },
            Word::Rollback => Change::RollbackIncident { id, because },
            Word::Close => Change::Close { id, because },
        };
        // What is refused (the step was answered meanwhile) is nothing to do about.
        let (answer, _) = oneshot::channel();
        self.inputs.push(Input::Change(change, Actor::new("user:replay"), answer));
    }

    fn turn(&mut self) {
        self.core.round(std::mem::take(&mut self.inputs));
        let now = self.now();
        for (name, node) in &mut self.nodes {
            while let Ok(down) = node.down.try_recv() {
                let Down::Command(command) = down else { continue };
                self.outcome.commands += 1;
                let (at, outcome) = standin::answer(&command, now);
                self.posted += 1;
                self.mail.insert((at, self.posted), Mail::Outcome(name.clone(), Box::new(outcome)));
            }
        }
        for id in self.core.changed() {
            let Ok(Some(shown)) = self.core.shown(&id) else { continue };
            let Shown { incident, merged_into, absorbed } = shown;
            for gone in absorbed {
                self.outcome.incidents.remove(&gone);
            }
            if let Some(people) = self.people.as_mut().filter(|_| merged_into.is_none()) {
                for (at, word) in people.look(now, &incident) {
                    self.posted += 1;
                    self.mail.insert((at.max(now), self.posted), Mail::Word(id.clone(), word));
                }
            }
            if merged_into.is_some() {
                self.outcome.incidents.remove(&id);
            } else {
                self.outcome.incidents.insert(id, Story::of(&incident, None));
            }
        }
    }

    fn finish(mut self) -> Outcome {
        let end = self.now().plus(AFTER);
        self.until(end);
        self.turn();
        self.outcome.problems = self.core.problems();
        for (id, rule) in self.ready.rules_with_titles() {
            self.outcome
                .matches
                .entry(id)
                .or_insert_with(|| RuleCount { title: rule, ..RuleCount::default() });
        }
        self.outcome
    }

    fn report(&mut self, name: &NodeId, report: Report) {
        let node = self.node(name);
        node.seq += 1;
        let seq = Seq(node.seq);
        let up = Up::Report { seq, report: Box::new(report) };
        self.inputs.push(Input::Up { node: name.clone(), link: 1, up });
    }

    /// The node of a name; a new one says hello.
    fn node(&mut self, name: &NodeId) -> &mut Node {
        let inputs = &mut self.inputs;
        self.nodes.entry(name.clone()).or_insert_with(|| {
            let (up, down) = mpsc::channel(QUEUE);
            inputs.push(Input::Attached { node: name.clone(), link: 1, down: up });
            let hello = Up::Hello { node: name.clone(), epoch: AgentEpoch(1) };
            inputs.push(Input::Up { node: name.clone(), link: 1, up: hello });
            Node { down, seq: 0, fold: None }
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.clock.load(Ordering::Relaxed))
    }

    /// Time never goes back: what comes late is late.
    fn set(&mut self, at: Timestamp) {
        self.clock.fetch_max(at.0, Ordering::Relaxed);
    }
}

impl Ready {
    fn rules_with_titles(&self) -> impl Iterator<Item = (String, String)> {
        self.rules.all().iter().map(|rule| (rule.id.clone(), rule.title.clone()))
    }
}

/// The newest findings that were told, between [`Told::GENERATION`] and twice as many: a node folds repetitions for a quarter of an hour, so what
/// is forgotten is not repeated any more but in a recording of more than that many findings within it.
#[derive(Default)]
struct Told {
    newer: HashSet<FindingId>,
    older: HashSet<FindingId>,
}

impl Told {
    /// Some 100 bytes each: 50 MB for both halves (I11).
    const GENERATION: usize = 262_144;

    fn insert(&mut self, id: FindingId) {
        if self.newer.len() >= Self::GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(id);
    }

    fn contains(&self, id: &FindingId) -> bool {
        self.newer.contains(id) || self.older.contains(id)
    }
}

/// A folder of its own, removed when it is dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        use std::{os::unix::fs::DirBuilderExt as _, sync::atomic::AtomicU64};
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("hemostat-replay-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match builder.create(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the folder of a replay is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_of_the_findings_told_the_newest_are_remembered() {
        let mut told = Told::default();
        let id = |n: usize| FindingId::new(format!("fnd-{n}"));
        for n in 0..Told::GENERATION * 3 {
            told.insert(id(n));
        }
        assert!(told.newer.len() + told.older.len() <= Told::GENERATION * 2);
        assert!(told.contains(&id(Told::GENERATION * 3 - 1)) && told.contains(&id(Told::GENERATION * 2 - 1)));
        assert!(!told.contains(&id(0)));
    }
}
