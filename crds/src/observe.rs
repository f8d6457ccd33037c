//! What is watched for after a step's effect was seen: whether the attack goes on in spite of it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Period;

/// How long the sensors are watched after a step's effect was seen, and for what. The step is done once that time has passed without a
/// sign; a sign leads to the step's next alternative.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observe {
    /// For how long, from the seen effect on; for each way by itself.
    #[serde(rename = "for")]
    pub period: Period,
    /// Signs that the attack goes on.
    #[schemars(length(min = 1, max = 3))]
    pub against: Vec<Sign>,
}

/// A sign that the attack goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Sign {
    /// What the step is done to has a connection again.
    Connections,
    /// Another process of the same executable starts in the same workload.
    Return,
    /// The rule that is answered finds something in another pod or cgroup.
    Spread,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connections => "Connections",
            Self::Return => "Return",
            Self::Spread => "Spread",
        })
    }
}
