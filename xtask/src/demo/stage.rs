//! What the person who watches is told: one line for each stage, as it happens.

use std::{
    io::{self, IsTerminal as _},
    time::Instant,
};

use anyhow::{Result, bail};
use serde_json::json;

/// Tells the stages and remembers them.
pub(crate) struct Stages {
    json: bool,
    /// A person reads it, at a terminal.
    colours: bool,
    begun: Instant,
    lines: Vec<Line>,
}

/// One line of the story.
#[derive(Clone)]
pub(crate) struct Line {
    /// Seconds after the start.
    pub(crate) at_s: f64,
    /// What kind of line it is.
    pub(crate) mood: Mood,
    pub(crate) text: String,
}

/// What kind of line it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Title,
    Attack,
    Defence,
    Proof,
    Failed,
}

impl Stages {
    pub(crate) fn new(json: bool) -> Self {
        let colours =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        Self { json, colours, begun: Instant::now(), lines: Vec::new() }
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How many proofs held.
    pub(crate) fn proofs(&self) -> u64 {
        self.lines.iter().filter(|line| line.mood == Mood::Proof).count() as u64
    }

    pub(crate) fn title(&mut self, text: &str) {
        self.tell(Mood::Title, "title", None, text);
    }

    /// Something the attack did.
    pub(crate) fn attack(&mut self, stage: &str, text: &str) {
        self.tell(Mood::Attack, stage, None, text);
    }

    /// Something Hemostat did, with its milliseconds after the attack's first event.
    pub(crate) fn defence(&mut self, stage: &str, ms: Option<f64>, text: &str) {
        self.tell(Mood::Defence, stage, ms, text);
    }

    /// Something that was observed from outside; `holds` decides over the demo.
    pub(crate) fn proof(&mut self, stage: &str, holds: bool, text: &str) -> Result<()> {
        self.tell(if holds { Mood::Proof } else { Mood::Failed }, stage, None, text);
        if !holds {
            bail!("{stage}: {text}: this did not happen");
        }
        Ok(())
    }

    /// What people see at that point; nothing for programs.
    pub(crate) fn picture(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    fn tell(&mut self, mood: Mood, stage: &str, ms: Option<f64>, text: &str) {
        let at_s = self.begun.elapsed().as_secs_f64();
        let shown = match (mood, ms) {
            (Mood::Title, _) => text.to_owned(),
            (_, Some(ms)) => format!("{ms:>9.2} ms  {text}"),
            (_, None) => format!("              {text}"),
        };
        if self.json {
            let ok = mood != Mood::Failed;
            println!("{}", json!({"stage": stage, "at_s": at_s, "ms": ms, "ok": ok, "text": text}));
        } else {
            let (sign, colour) = match mood {
                Mood::Title => ("\n##", "1"),
                Mood::Attack => (" ⚔", "31"),
                Mood::Defence => (" ✚", "36"),
                Mood::Proof => (" ✔", "32"),
                Mood::Failed => (" ✘", "1;31"),
            };
            if self.colours {
                println!("\x1b[{colour}m{sign} {shown}\x1b[0m");
            } else {
                println!("{sign} {shown}");
            }
        }
        self.lines.push(Line { at_s, mood, text: shown });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_did_not_happen_ends_the_story_and_is_counted_for_no_proof() {
        let mut stages = Stages::new(true);
        stages.proof("cut-off", true, "it is cut off").unwrap();
        let missing = stages.proof("back", false, "it is back").unwrap_err().to_string();
        assert_eq!(missing, "back: it is back: this did not happen");
        assert_eq!(stages.proofs(), 1);
    }
}
