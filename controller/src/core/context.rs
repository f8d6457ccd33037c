//! What the gate decides from: what was recorded of the rule, the playbook and the place, and what is known of the incident beside its
//! findings.

use std::{collections::BTreeSet, time::Duration};

use enrich::join::{Cluster, Earlier, Flows, Sources as Known, enrich};
use model::{
    Actor, Attribution, AuditKind, Enrichment, Finding, Incident, IncidentId, RunId, SignalKind, SignalSays,
    Timestamp, Verdict,
};
use respond::{
    gate::{ACTORS_WITHIN, Evidence, Explanation, JudgedAs, Paused, SWITCH, Situation, Usage, Want, explain},
    plan::Plan,
    run::{Input as RunInput, whole_run},
};

use super::{
    Core,
    ingest::controller,
    runs::RunRow,
    trust::{Said, Trust, Word},
    turn::Turn,
};
use crate::{
    api::{ApiError, ApiErrorKind, Automatic},
    attribute::Pods,
    audit::Draft,
    store::StoreError,
};

/// What budgets count.
const HOUR: Duration = Duration::from_secs(3600);
/// Rules of one incident that a verdict is said of (I11).
const MAX_RULES: usize = 64;
/// Entities of one incident that a verdict is said of (I11).
const MAX_ENTITIES: usize = 32;
/// From so many findings on an incident is not looked at anew for each, but only after [`AGAIN`].
const MANY: usize = 8;
/// See [`MANY`].
const AGAIN: Duration = Duration::from_secs(1);
/// Earlier incidents looked at for the history.
const MAX_EARLIER: usize = 64;

impl Core {
    /// What was recorded of what `plan` answers.
    pub(super) fn evidence(&self, plan: &Plan, answered: &Finding, want: &Want) -> Evidence {
        let (trust, now): (&Trust, _) = (&self.state.trust, want.at);
        // As the wall clock would have told the time of each had it always stood as it does now.
        let wants =
            self.state.rows.wants_since(before(self.steadily(now), ACTORS_WITHIN)).map(|(want, set)| {
                let at = want.at.0.saturating_add(self.state.clock_set.saturating_sub(set));
                Want { at: Timestamp(at), ..want.clone() }
            });
        let wants = wants.collect();
        let pods = self.config.pods.as_ref();
        let (rollout, drain) =
            pods.map(|pods| (pods.rollout(answered), pods.drain(answered))).unwrap_or_default();
        Evidence {
            pattern: Some(trust.of_rule(&answered.rule.id)),
            corpus: self.state.corpus.of(&answered.rule.id),
            playbook: Some(trust.of_playbook(plan.name())),
            wants: Some(wants),
            entities: Some(
                want.entities().map(|entity| (entity.clone(), trust.of_entity(&entity))).collect(),
            ),
            rollout,
            drain,
            demoted: self.state.promotions.demotion(plan.name()),
        }
    }

    /// Who keeps everything automatic from beginning: somebody who paused it, or a label on Hemostat's own namespace, which holds whichever
    /// replica leads.
    pub(super) fn paused(&self, now: Timestamp) -> Option<Paused> {
        let by_label = || {
            let namespace = self.config.own_namespace.as_ref()?;
            let value = self.config.pods.as_ref()?.namespace_label(namespace, SWITCH)?;
            let because = format!("label {SWITCH}: {value:?} of namespace {namespace}");
            (value != "on").then(|| Paused { by: controller(), at: now, because })
        };
        self.state.trust.paused().cloned().or_else(by_label)
    }

    /// What automatic runs used in the last hour, in all and in the namespace of `want`; nothing where no policy asks for it. The hour is
    /// one that passed: a clock that is set neither frees a budget nor locks it.
    pub(super) fn usage(&self, want: Option<&Want>, now: Timestamp) -> Usage {
        let budgets = |spec: &crds::ResponsePolicySpec| spec.budgets != crds::Budgets::default();
        if !self.state.book.policies().iter().any(|(_, spec)| budgets(spec)) {
            return Usage::default();
        }
        let here = want.and_then(|want| want.namespace.as_ref());
        let is_here = |row: &RunRow| {
            let place = row.want.as_ref().and_then(|want| want.namespace.as_ref());
            // Runs of a time before namespaces were written down count for every one (I9).
            row.want.is_none() || (here.is_some() && place == here)
        };
        self.state.rows.automatic_since(before(self.steadily(now), HOUR)).fold(
            Usage::default(),
            |sum, row| {
                let (runs, actions) = if is_here(row) { (1, row.actions) } else { (0, 0) };
                Usage {
                    runs: sum.runs.saturating_add(1),
                    actions: sum.actions.saturating_add(row.actions),
                    runs_here: sum.runs_here.saturating_add(runs),
                    actions_here: sum.actions_here.saturating_add(actions),
                }
            },
        )
    }

    /// Puts together what is known of an incident, before anything is decided about it.
    pub(super) fn enrich(&mut self, id: &IncidentId, now: Timestamp) -> Result<(), StoreError> {
        let begun = std::time::Instant::now();
        let snapshot = self.config.intelligence.snapshot();
        let cluster = if self.config.pods.is_some() { Cluster::Known } else { Cluster::None };
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(()) };
        let (many, lately) = (whole.row.incident.findings.len() > MANY, whole.row.incident.enrichment.at);
        if many && now.since(lately) < AGAIN {
            // In a storm of findings of one story: soon, for all of them together.
            self.state.to_enrich.insert(id.clone());
            return Ok(());
        }
        let opened = whole.row.incident.opened;
        let target = whole.row.incident.entities.first().map(ToString::to_string).unwrap_or_default();
        let mut earlier: Vec<Earlier> = self
            .state
            .incidents
            .about(&target)
            .filter(|line| line.id != *id && line.opened <= opened)
            .map(|line| Earlier {
                id: line.id.clone(),
                title: line.title.clone(),
                opened: line.opened,
                verdict: line.verdict,
            })
            .collect();
        earlier.sort_by_key(|one| std::cmp::Reverse(one.opened));
        earlier.truncate(MAX_EARLIER);
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(()) };
        if let Some(pods) = &self.config.pods {
            surroundings(pods, &mut whole.row.incident);
        }
        let told = self.config.pods.as_ref().is_some_and(Pods::has_flows);
        let flows = if told { Flows::Known } else { Flows::None };
        let known = Known {
            intelligence: &snapshot,
            earlier: &earlier,
            classes: &self.config.classes,
            scans: self.state.scans.all(),
            cluster,
            flows,
            now,
        };
        let enrichment = enrich(&whole.row.incident, &known);
        let before = &whole.row.incident.enrichment;
        let same = is_same(before, &enrichment);
        whole.row.incident.enrichment = enrichment;
        if !same {
            whole.touch(now);
        }
        self.metrics.enrichment.observe(begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Looks at the incidents that were not looked at anew for each finding.
    pub(super) fn enrich_again(&mut self, now: Timestamp) {
        for id in std::mem::take(&mut self.state.to_enrich) {
            if let Err(error) = self.enrich(&id, now) {
                self.store_failed(&error);
            }
        }
    }

    /// An analyst's verdict is said of the rules and of the runs of the incident.
    pub(super) fn learn_verdict(
        &mut self,
        id: &IncidentId,
        verdict: Verdict,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let open_at = self.config.open_at;
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(()) };
        let incident: &Incident = &whole.row.incident;
        let mut rules: Vec<String> = incident
            .findings
            .iter()
            .filter(|finding| finding.rule.level >= open_at)
            .map(|finding| finding.rule.id.clone())
            .collect();
        let runs: Vec<RunId> = incident.runs.iter().map(|run| run.id.clone()).collect();
        let is_exercise =
            |run: &RunId| self.state.rows.get(run).is_some_and(|row| row.judged_as == JudgedAs::Exercises);
        let explained: BTreeSet<RunId> =
            runs.iter().filter(|run| is_explained(incident, run) || is_exercise(run)).cloned().collect();
        if !explained.is_empty() && explained.len() == runs.len() {
            // What the context explains says nothing of what the rule finds elsewhere, and there no run acts by itself.
            rules.clear();
        }
        rules.sort();
        rules.dedup();
        rules.truncate(MAX_RULES);
        let said = Said::from(verdict);
        let rows: Vec<&RunRow> = runs.iter().filter_map(|run| self.state.rows.get(run)).collect();
        let shadow = !rows.is_empty() && rows.iter().all(|row| is_shadow(row));
        let unexplained = rows.iter().copied().filter(|row| !explained.contains(&row.run));
        let entities = entities(unexplained.clone());
        let names = |row: &RunRow| row.answers.as_ref().map(|answers| answers.playbook.to_string());
        let because: BTreeSet<String> = rules.iter().cloned().chain(unexplained.filter_map(names)).collect();
        let again = said == Said::Wrong && self.is_again(&entities, id);
        for entity in &entities {
            let word = Word { said, shadow, because: because.clone() };
            self.state.trust.say_of_entity(entity, id, word, turn.now, &mut turn.batch);
        }
        if again {
            // The same one again: it was counted the first time, and is asked about since. What counted otherwise before does not stay so.
            rules.retain(|rule| self.state.trust.has_case_of_rule(rule, id));
        }
        for rule in rules {
            self.state.trust.say_of_rule(&rule, id, (said, shadow), turn.now, &mut turn.batch);
        }
        for row in rows {
            if let Some(answers) = &row.answers {
                let word = (said, is_shadow(row));
                self.state.promotions.change(
                    &row.run,
                    |beside| beside.say(said.into(), turn.now),
                    &mut turn.batch,
                );
                let counted_once =
                    again && !self.state.trust.has_case_of_playbook(&answers.playbook, &row.run);
                if counted_once || explained.contains(&row.run) {
                    continue;
                }
                self.state.trust.say_of_playbook(
                    &answers.playbook,
                    &row.run,
                    word,
                    turn.now,
                    &mut turn.batch,
                );
            }
        }
        Ok(())
    }

    /// A person's yes or no to a whole run is said of its rule and playbook. A word on one step is one on that step.
    pub(super) fn learn_answer(
        &mut self,
        id: &IncidentId,
        run: &RunId,
        step: &model::StepName,
        said: Said,
        turn: &mut Turn,
    ) {
        if *step != whole_run() {
            return;
        }
        let row = self.state.rows.get(run).filter(|row| row.judged_as == JudgedAs::Attacks);
        let Some(answers) = row.and_then(|row| row.answers.clone()) else { return };
        let word = (said, false);
        self.state.promotions.change(run, |beside| beside.say(said.into(), turn.now), &mut turn.batch);
        match self.state.incidents.get(&self.state.store, id) {
            Ok(Some(whole)) if is_explained(&whole.row.incident, run) => return,
            _ => {}
        }
        if said == Said::Refused && self.is_again(&entities(self.state.rows.get(run).into_iter()), id) {
            return;
        }
        self.state.trust.say_of_rule(&answers.rule, id, word, turn.now, &mut turn.batch);
        self.state.trust.say_of_playbook(&answers.playbook, run, word, turn.now, &mut turn.batch);
    }

    /// Whether somebody of these was judged a false positive before, of another incident.
    fn is_again(&self, entities: &BTreeSet<String>, id: &IncidentId) -> bool {
        entities.iter().any(|entity| self.state.trust.was_wrong_before(entity, id))
    }

    /// From now on nothing begins by itself. Who finds it so already is told since when, by whom and why, and that word stays.
    pub(super) fn pause(&mut self, by: &Actor, because: &str, turn: &mut Turn) -> Automatic {
        let before = self.state.trust.paused().cloned();
        if before.is_none() {
            let paused = Paused { by: by.clone(), at: turn.now, because: because.to_owned() };
            self.state.trust.pause(Some(paused), &mut turn.batch);
        }
        let live: Vec<RunId> = self.state.runs.keys().filter(|run| self.is_live(run)).cloned().collect();
        for run in &live {
            let why = format!("{by} paused everything automatic: {because}");
            self.drive(run, RunInput::Hold { because: why }, turn);
        }
        if let Some(before) = before {
            let (who, when, why) = (&before.by, before.at, tail(&before.because));
            let what = format!("everything automatic is paused already, by {who} since {when}{why}");
            return Automatic { paused: Some(before), what };
        }
        self.switched(by, format!("pauses everything automatic{}", tail(because)), turn)
    }

    /// What begins by itself does so again. Runs that were held still wait for a person.
    pub(super) fn resume(&mut self, by: &Actor, because: &str, turn: &mut Turn) -> Automatic {
        if self.state.trust.paused().is_none() {
            // A label on the namespace is taken away where it was set.
            let paused = self.paused(turn.now);
            let what = match &paused {
                None => "automatic response goes on already; nothing was changed".to_owned(),
                Some(label) => {
                    format!(
                        "nothing was changed: it is paused by a {}; set it to \"on\" or remove it",
                        label.because
                    )
                }
            };
            return Automatic { paused, what };
        }
        self.state.trust.pause(None, &mut turn.batch);
        self.switched(by, format!("lets automatic response go on{}", tail(because)), turn)
    }

    /// A rule or playbook was changed so that what was said of it no longer counts.
    pub(super) fn begin_anew(
        &mut self,
        name: &str,
        by: &Actor,
        because: &str,
        turn: &mut Turn,
    ) -> Result<Automatic, ApiError> {
        let gone = self.state.trust.begin_anew(name, &mut turn.batch);
        if !self.promotion_anew(name, by, turn) && gone == 0 {
            let what = format!("nothing was said of a rule or playbook {name}");
            return Err(ApiError::new(ApiErrorKind::Unknown, what));
        }
        let what =
            format!("has the record of {name} begin anew: {gone} cases no longer count{}", tail(because));
        Ok(self.switched(by, what, turn))
    }

    fn switched(&mut self, by: &Actor, what: String, turn: &mut Turn) -> Automatic {
        turn.audit(Draft {
            at: turn.now,
            actor: by.clone(),
            kind: AuditKind::Human,
            incident: None,
            run: None,
            action: None,
            what: what.clone(),
        });
        self.paused.send_replace(self.state.trust.paused().is_some());
        Automatic { paused: self.state.trust.paused().cloned(), what: format!("{by} {what}") }
    }

    /// Which policy decides what about an incident and a playbook: the one that answered it, or the one that is named.
    pub(super) fn explain(&mut self, id: &str, playbook: Option<&str>) -> Result<Explanation, ApiError> {
        let id = self.find(id)?;
        let now = (self.config.clock)();
        let unknown = |what: String| ApiError::new(ApiErrorKind::Unknown, what);
        let incident = match self.state.incidents.get(&self.state.store, &id) {
            Ok(Some(whole)) => whole.row.incident.clone(),
            Ok(None) => return Err(unknown(format!("there is no incident {id}"))),
            Err(error) => return Err(self.store_failed(&error)),
        };
        let name = playbook.or_else(|| incident.runs.last().map(|run| run.playbook.as_str()));
        let plans: Vec<_> = self
            .state
            .book
            .plans()
            .filter(|plan| name.is_none_or(|name| plan.name().as_str() == name))
            .collect();
        let fits = |plan: &Plan| {
            let mut nodes = incident.findings.iter().map(|finding| finding.event.id.node.clone());
            nodes.find_map(|node| plan.answers(&incident, &node).ok().flatten().map(|found| (found, node)))
        };
        let Some((plan, (finding, node))) = plans.iter().find_map(|plan| Some((*plan, fits(plan)?))) else {
            let which = name.map_or("no playbook".to_owned(), |name| format!("no playbook {name}"));
            return Err(unknown(format!("{which} in use answers {id}; `hemostat playbook list` shows them")));
        };
        let policies = self.state.book.policies_for(&incident);
        let want = Want::of(plan, &incident, finding, &node, now);
        let (evidence, paused) = (self.evidence(plan, finding, &want), self.paused(now));
        let mut situation = Situation {
            incident: &incident,
            finding,
            node: &node,
            policies: &policies,
            used: Usage::default(),
            reactions: &[],
            evidence: &evidence,
            paused: paused.as_ref(),
            now,
        };
        situation.used = self.usage(Some(&want), now);
        Ok(explain(plan, &situation))
    }
}

fn tail(because: &str) -> String {
    if because.is_empty() { String::new() } else { format!(": {because}") }
}

/// Whether the same is known, whenever it was looked at.
fn is_same(before: &Enrichment, now: &Enrichment) -> bool {
    // All of it by name: what is added later is not forgotten here.
    let Enrichment { at: _, intelligence, facts, classes, missing } = now;
    (intelligence, facts, classes, missing)
        == (&before.intelligence, &before.facts, &before.classes, &before.missing)
}

/// Brings what changes around the pods of an incident to what it is now.
fn surroundings(pods: &Pods, incident: &mut Incident) {
    for known in &mut incident.pods {
        let Attribution::Resolved { pod, .. } = &mut known.attribution else { continue };
        // One that is forgotten keeps what was known of it.
        if let Some((doors, peers)) = pods.surroundings(&pod.uid) {
            (pod.doors, pod.peers) = (doors, peers);
        }
    }
}

/// Whether the gate saw something beside the finding that may explain it (signal 2): a job, a pipeline, planned work, many targets at once.
fn is_explained(incident: &Incident, run: &RunId) -> bool {
    let signals =
        incident.runs.iter().filter(|known| known.id == *run).flat_map(|known| &known.decision.signals);
    signals.into_iter().any(|signal| signal.kind == SignalKind::Context && signal.says == SignalSays::Ask)
}

/// Who did what these runs answer, and where.
fn entities<'a>(rows: impl Iterator<Item = &'a RunRow>) -> BTreeSet<String> {
    rows.filter_map(|row| row.want.as_ref()).flat_map(Want::entities).take(MAX_ENTITIES).collect()
}

fn is_shadow(row: &RunRow) -> bool {
    row.outcome == model::GateOutcome::Shadow
}

fn before(now: Timestamp, long: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(long.as_nanos()).unwrap_or(i64::MAX)))
}
