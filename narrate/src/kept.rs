//! A document that is kept where there is little room, and read again by who need not trust the place.

use crate::Document;

/// Deepest step below the root of a tree of processes that is drawn.
const DEEPEST: u32 = 64;

impl Document {
    /// Its JSON in at most `most` bytes. What has least to do with the decision is left out first, and counted; what is asked, what fell short
    /// and the story in a few sentences stay. `None` where not even these have room.
    #[must_use]
    pub fn json_within(&self, most: usize) -> Option<String> {
        let mut told = self.clone();
        // Everything is halved until it is nothing: the longest list has some hundreds of entries.
        for _ in 0..12 {
            let json = serde_json::to_string(&told).ok()?;
            if json.len() <= most {
                return Some(json);
            }
            told.halve();
        }
        None
    }

    /// Whether what points into it points to what is there: so is what we tell, and not what somebody else may have written.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let parents = self.processes.iter().enumerate();
        let mut links = self.graph.links.iter();
        parents
            .map(|(at, process)| (at, process.parent, process.depth))
            .all(|(at, parent, depth)| depth <= DEEPEST && parent.is_none_or(|up| (up as usize) < at))
            && links.all(|link| {
                let is_there = |index: u32| (index as usize) < self.graph.entities.len();
                is_there(link.from) && is_there(link.to)
            })
    }

    fn halve(&mut self) {
        // The beginning and the end of a story say most.
        let gone = self.timeline.len().div_ceil(2);
        let from = self.timeline.len().saturating_sub(gone) / 2;
        self.timeline.drain(from..from + gone);
        self.timeline_left_out += gone as u64;
        // Parents come before their children.
        self.processes_left_out += cut(&mut self.processes);
        self.findings_left_out += cut(&mut self.findings);
        self.graph.left_out += cut(&mut self.graph.entities);
        let there = self.graph.entities.len();
        self.graph.links.retain(|link| (link.from as usize) < there && (link.to as usize) < there);
        for finding in &mut self.findings {
            cut(&mut finding.matched);
        }
        cut(&mut self.known.facts);
        cut(&mut self.known.missing);
        cut(&mut self.known.intelligence);
        for response in &mut self.responses {
            cut(&mut response.reasons);
            for signal in &mut response.signals {
                cut(&mut signal.evidence);
            }
            if let Some(plan) = &mut response.plan {
                cut(&mut plan.steps);
            }
        }
        // The newest answer is the one that is asked about.
        let old = self.responses.len().saturating_sub(1) / 2;
        self.responses.drain(..old);
    }
}

/// Leaves the first half; how many went.
fn cut<T>(list: &mut Vec<T>) -> u64 {
    let gone = list.len().div_ceil(2);
    list.truncate(list.len() - gone);
    gone as u64
}
