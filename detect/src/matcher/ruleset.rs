//! A compiled set of rules, shared by all threads, and the matcher that each thread has of its own.

use std::{collections::BTreeMap, sync::Arc};

use model::{Event, FilterPlan, Reaction, RuleRef, Truncated};

use super::{
    background::Background,
    engine::{self, Engine},
    options::Options,
    scratch::Scratch,
};
use crate::{
    ast::{Correlation, Rule},
    correlation,
    diagnostic::{Code, Diagnostic},
    plan::{self, Planned},
    schema::{Category, Context, Field, FieldValue, Scratch as Room, View},
};

/// Longest value that a finding's explanation shows, in bytes.
const SHOWN_BYTES: usize = 1024;

/// A rule's number in its set: its position among the rules that were compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleIndex(pub u32);

/// How often a rule was looked at by a matcher, and how often it matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCost {
    /// Events for which its whole logic was evaluated.
    pub looked_at: u64,
    /// Events that it matched.
    pub matched: u64,
}

impl RuleCost {
    /// Counts that the rule was looked at.
    #[inline]
    pub(crate) fn count(&mut self, matches: bool) {
        self.looked_at += 1;
        self.matched += u64::from(matches);
    }
}

/// What an evaluation says beside the hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evaluation {
    /// A text was longer than [`Options::text_bytes`] and was compared only up to there.
    pub truncated: Truncated,
}

/// A compiled set of rules. Immutable: a change of rules is a new set (see [`super::Swap`]).
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<RuleRef>,
    /// By category; `None` where no rule is for it.
    engines: Vec<Option<Engine>>,
    text_bytes: usize,
    plan: Planned,
    /// By position: what correlations look at in a rule's hits.
    feeds: BTreeMap<usize, Vec<Field>>,
}

impl RuleSet {
    /// Compiles rules. The diagnostics name what a rule's author should know: a `reaction: stop` that the kernel cannot
    /// select execs for (the rule freezes instead), and rules that have to
    /// be evaluated for every event of a frequent category.
    #[must_use]
    pub fn compile(rules: &[Rule], options: Options<'_>) -> (Self, Vec<Diagnostic>) {
        let (plan, mut diagnostics) = plan::plan(rules);
        let ordinary = Background::ordinary();
        let mut engines = Vec::with_capacity(Category::ALL.len());
        for category in Category::ALL {
            let routed: Vec<_> = rules
                .iter()
                .enumerate()
                .filter(|(_, rule)| rule.routing.categories.contains(*category))
                .map(|(position, rule)| (RuleIndex(position as u32), rule))
                .collect();
            if routed.is_empty() {
                engines.push(None);
                continue;
            }
            let (engine, noticed) = Engine::new(*category, &routed, &options, &ordinary);
            // Of rare events it costs nothing worth a word.
            for index in noticed.always.into_iter().filter(|_| engine::is_frequent(*category)) {
                diagnostics.push(looked_at_always(&rules[index.0 as usize], *category));
            }
            engines.push(Some(engine));
        }
        let rules = rules
            .iter()
            .enumerate()
            .map(|(position, rule)| rule_ref(rule, plan.unheld.contains(&position)))
            .collect();
        let (text_bytes, feeds) = (options.text_bytes.max(1), BTreeMap::new());
        (Self { rules, engines, text_bytes, plan, feeds }, diagnostics)
    }

    /// Says which fields correlations look at in the hits of rules: [`RuleSet::matched`] names them too, so that what differs in one of
    /// them is not taken for the same. `rules` are those that were compiled.
    #[must_use]
    pub fn feeding(mut self, correlations: &[Correlation], rules: &[Rule]) -> Self {
        let mut fields = correlation::fields(correlations, rules);
        self.feeds = rules
            .iter()
            .enumerate()
            .filter_map(|(position, rule)| Some((position, fields.remove(rule.key())?.into_iter().collect())))
            .collect();
        self
    }

    /// The rules whose hits correlations look at.
    pub fn fed(&self) -> impl Iterator<Item = &RuleRef> {
        self.feeds.keys().filter_map(|position| self.rules.get(*position))
    }

    /// How many rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What findings say of all rules, in order.
    #[must_use]
    pub fn all(&self) -> &[RuleRef] {
        &self.rules
    }

    /// What findings say of a rule. `None`: the index is of another set.
    #[must_use]
    pub fn rule(&self, index: RuleIndex) -> Option<&RuleRef> {
        self.rules.get(index.0 as usize)
    }

    /// What the kernel may drop and what it must hold.
    #[must_use]
    pub fn plan(&self) -> &FilterPlan {
        &self.plan.filter
    }

    /// For each rule, what it needs from the kernel, and why that cannot be narrower.
    #[must_use]
    pub fn explain_plan(&self, index: RuleIndex) -> &[String] {
        self.plan.explanations.get(index.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// Memory of all tables, in bytes.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.engines.iter().flatten().map(Engine::bytes).sum()
    }

    #[inline]
    fn engine(&self, category: Category) -> Option<&Engine> {
        self.engines.get(category as usize)?.as_ref()
    }

    /// A matcher for one thread.
    #[must_use]
    pub fn matcher(self: &Arc<Self>) -> Matcher {
        Matcher { set: Arc::clone(self), scratches: self.engines.iter().map(|_| None).collect() }
    }

    /// The fields that speak for the match of a rule on an event, with their values (cut to 1 KiB).
    #[must_use]
    pub fn matched(&self, index: RuleIndex, event: &Event) -> BTreeMap<String, String> {
        self.matched_with(index, &View::new(event))
    }

    /// As [`RuleSet::matched`], with what is known beside the event.
    #[must_use]
    pub fn matched_with(&self, index: RuleIndex, view: &View<'_>) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        if let Some(engine) = self.engine(view.category()) {
            engine.explain(index, view, self.text_bytes, |field| {
                fields.entry(field.name().to_owned()).or_insert_with(|| shown(view.get(field)));
            });
        }
        for field in self.feeds.get(&(index.0 as usize)).into_iter().flatten() {
            let value = view.get(*field);
            if !matches!(value, FieldValue::Absent) {
                fields.entry(field.name().to_owned()).or_insert_with(|| shown(value));
            }
        }
        fields
    }
}

/// Evaluates events against a set; has the working memory of one thread.
#[derive(Debug)]
pub struct Matcher {
    set: Arc<RuleSet>,
    /// Made when the first event of a category comes.
    scratches: Vec<Option<Scratch>>,
}

impl Matcher {
    /// The set it evaluates.
    #[must_use]
    pub fn rule_set(&self) -> &Arc<RuleSet> {
        &self.set
    }

    /// Appends the rules that match the event, in order. `hits` is not cleared.
    pub fn evaluate(&mut self, event: &Event, hits: &mut Vec<RuleIndex>) -> Evaluation {
        self.evaluate_with(event, Context::default(), hits)
    }

    /// As [`Matcher::evaluate`], with what is known beside the event.
    pub fn evaluate_with(
        &mut self,
        event: &Event,
        context: Context<'_>,
        hits: &mut Vec<RuleIndex>,
    ) -> Evaluation {
        let view = View::with_context(event, context);
        let Some(engine) = self.set.engine(view.category()) else {
            return Evaluation { truncated: Truncated::No };
        };
        let Some(scratch) = self.scratches.get_mut(view.category() as usize) else {
            return Evaluation { truncated: Truncated::No };
        };
        let scratch = scratch.get_or_insert_with(|| Scratch::new(engine.numbers(), self.set.text_bytes));
        let before = hits.len();
        engine.evaluate(&view, scratch, hits);
        if let Some(fresh) = hits.get_mut(before..) {
            fresh.sort_unstable();
        }
        Evaluation { truncated: scratch.texts.truncated() }
    }

    /// How often each rule was looked at since the matcher was made, for rules that were.
    #[must_use]
    pub fn costs(&self) -> BTreeMap<RuleIndex, RuleCost> {
        let mut all = BTreeMap::<RuleIndex, RuleCost>::new();
        for (engine, scratch) in self.set.engines.iter().zip(&self.scratches) {
            let (Some(engine), Some(scratch)) = (engine, scratch) else { continue };
            for (rule, cost) in
                engine.rules().iter().zip(&scratch.costs).filter(|(_, cost)| cost.looked_at > 0)
            {
                let sum = all.entry(*rule).or_default();
                sum.looked_at += cost.looked_at;
                sum.matched += cost.matched;
            }
        }
        all
    }
}

fn rule_ref(rule: &Rule, stop_refused: bool) -> RuleRef {
    RuleRef {
        id: rule.key().to_owned(),
        title: rule.meta.title.value.clone(),
        level: rule.meta.level_or_default(),
        techniques: rule.meta.techniques(),
        tactics: rule.meta.tactics(),
        reaction: if stop_refused { Reaction::Freeze } else { rule.hemostat.reaction_or_default() },
    }
}

fn looked_at_always(rule: &Rule, category: Category) -> Diagnostic {
    Diagnostic::warning(
        Code::Suspicious,
        format!("rule `{}` has to be evaluated for every {} event", rule.key(), category.name()),
        rule.detection.span,
        "no literal, number or network must hold for it to match",
    )
}

fn shown(value: FieldValue<'_>) -> String {
    let mut text = String::new();
    value.any(|one| {
        let mut room = Room::new();
        if let Some(one) = one.text(&mut room) {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(one);
        }
        text.len() > SHOWN_BYTES
    });
    super::fold::cut(&text, SHOWN_BYTES).to_owned()
}
