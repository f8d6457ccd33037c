//! Where a person who reads the narrative answers: the same questions, by other commands.

use model::{Incident, RunId, StepName};

use crate::text::shell_word;

/// Where answers are given.
#[derive(Debug, Clone, Copy)]
pub enum Desk<'a> {
    /// On the machine of the controller: `hemostat`.
    Socket,
    /// In a cluster: `kubectl hemostat`, by the names of its objects.
    Cluster {
        /// Namespace of the incident's objects.
        namespace: &'a str,
        /// The Incident.
        incident: &'a str,
        /// The Approval of each question.
        questions: &'a [Question],
    },
}

/// A question as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Of which run.
    pub run: RunId,
    /// About which step.
    pub step: StepName,
    /// The Approval's name.
    pub approval: String,
}

/// What a person can say of an incident as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    TruePositive,
    FalsePositive,
    UndoAll,
}

impl Desk<'_> {
    /// The command of an answer (`approve`, `deny`) to one question.
    pub(crate) fn answer(&self, verb: &str, incident: &Incident, run: &RunId, step: &StepName) -> String {
        match self {
            Self::Socket => {
                let id = shell_word(incident.id.as_str());
                format!("hemostat {verb} {id} {}", shell_word(step.as_str()))
            }
            Self::Cluster { namespace, incident, questions } => {
                let asked = questions.iter().find(|asked| asked.run == *run && asked.step == *step);
                // By the incident everything that waits would be answered: that is what there is where the question has no object yet.
                let name = asked.map_or(*incident, |asked| asked.approval.as_str());
                format!("kubectl hemostat {verb} {} -n {}", shell_word(name), shell_word(namespace))
            }
        }
    }

    /// The command of a word on the whole incident.
    pub(crate) fn word(&self, word: Word, incident: &Incident) -> String {
        let (own, verdict) = match word {
            Word::TruePositive => ("verdict", " true-positive"),
            Word::FalsePositive => ("verdict", " false-positive"),
            Word::UndoAll => ("rollback", ""),
        };
        match self {
            Self::Socket => format!("hemostat {own} {}{verdict}", shell_word(incident.id.as_str())),
            Self::Cluster { namespace, incident, .. } => {
                let verb = if word == Word::UndoAll { "revert" } else { own };
                let (name, place) = (shell_word(incident), shell_word(namespace));
                format!("kubectl hemostat {verb} {name}{verdict} -n {place}")
            }
        }
    }
}
