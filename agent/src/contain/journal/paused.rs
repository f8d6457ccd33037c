//! What the journal remembers of a cgroup that is held still for a moment.

use model::CgroupId;
use serde::{Deserialize, Serialize};

/// A cgroup that is held still for the moment of the move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PausedForm")]
pub(in crate::contain) struct Paused {
    pub(in crate::contain) path: String,
    /// Which it is: another may be made at its path. An agent of before wrote down the path alone.
    pub(in crate::contain) id: Option<CgroupId>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PausedForm {
    Path(String),
    Whole { path: String, id: Option<CgroupId> },
}

impl From<PausedForm> for Paused {
    fn from(form: PausedForm) -> Self {
        match form {
            PausedForm::Path(path) => Self { path, id: None },
            PausedForm::Whole { path, id } => Self { path, id },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_of_before_wrote_down_is_read() {
        let read: Vec<Paused> = serde_json::from_str(r#"["/a", {"path": "/b", "id": 7}]"#).unwrap();
        let [a, b] = &read[..] else { panic!("{read:?}") };
        assert_eq!((a.path.as_str(), a.id), ("/a", None));
        assert_eq!((b.path.as_str(), b.id), ("/b", Some(CgroupId(7))));
    }
}
