//! What the sensors tell goes to the runs that watch whether an attack goes on although it was held ([`respond::run::Sight`]).

use std::time::Duration;

use model::{NodeId, RunId, Timestamp};
use respond::run::{Happened, Input as RunInput, Run, Sight};

use super::{Core, turn::Turn};
use crate::attribute::Pods;

/// How often flow logs are asked for what pods that are watched did.
const LOOK: Duration = Duration::from_millis(250);

impl Core {
    /// What flow logs told of the pods that runs watch: findings come by themselves, flows are asked for.
    pub(super) fn watch_flows(&mut self, turn: &mut Turn) {
        let Some(pods) = self.config.pods.clone().filter(Pods::has_flows) else { return };
        let watched = self.state.watching.iter().filter_map(|run| self.state.runs.get(run));
        let wanted: Vec<(String, Timestamp)> = watched.flat_map(Run::watched_pods).collect();
        for (uid, since) in wanted {
            if let Some((at, remote)) = pods.talked_since(&uid, since) {
                let happened = Happened::Connected { remote: Some(remote) };
                self.watch(&Sight::of_flow(NodeId::cluster(), uid, happened, at), turn);
            }
        }
    }

    /// When they are asked next.
    pub(super) fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let asks = !self.state.watching.is_empty() && self.config.pods.as_ref().is_some_and(Pods::has_flows);
        asks.then(|| now.plus(LOOK))
    }

    /// Hands what a sensor saw to every run for which it is a sign.
    pub(super) fn watch(&mut self, sight: &Sight, turn: &mut Turn) {
        let heeds = |run: &&RunId| self.state.runs.get(*run).is_some_and(|run: &Run| run.heeds(sight));
        let runs: Vec<RunId> = self.state.watching.iter().filter(heeds).cloned().collect();
        for run in runs {
            self.drive(&run, RunInput::Sight(Box::new(sight.clone())), turn);
        }
    }
}
