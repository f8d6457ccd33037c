//! What the controller says must be left alone (I6), and whom nobody knows (I9): a node sees cgroups, and a cgroup's path tells a pod's uid
//! but no namespace.
//!
//! The controller's last word is kept on disk, so that it holds while there is no controller. A pod that it does not name is not known:
//! what the node would do to it by itself is not done. On a host without a controller nothing of this holds.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use model::{ActionFailure, NodeGuard, PodGuard};

use super::cgroup::{is_unnamed, nearest};
use crate::workload::{PodOf, pod_of};

/// On whose word something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The node's own: a rule asked for it.
    Own,
    /// The controller's, or a person's.
    Told,
}

/// The controller's last word, shared by who hears it and who acts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    said: Arc<RwLock<Option<NodeGuard>>>,
    file: Arc<PathBuf>,
}

impl Guard {
    /// For a node of a cluster: what was said before the last stop, kept in `file`. Where nothing is kept no pod is known.
    #[must_use]
    pub fn load(file: PathBuf) -> Self {
        let said = match read(&file) {
            Ok(said) => {
                tracing::info!(
                    generation = said.generation,
                    pods = said.pods.len(),
                    "kept: which pods are left alone"
                );
                Some(said)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(
                    "it is not known yet which pods are left alone: in pods nothing is done before the controller tells"
                );
                None
            }
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "which pods are left alone cannot be read: in pods nothing is done before the controller tells");
                None
            }
        };
        Self { said: Arc::new(RwLock::new(said)), file: Arc::new(file) }
    }

    /// Takes the controller's word, at once; and keeps it, which may fail without harm until the next start. May block on the disk.
    pub fn take(&self, said: NodeGuard) {
        if !said.is_bounded() {
            tracing::error!(
                "what the controller says of pods is beyond its bounds: what it said before holds"
            );
            return;
        }
        tracing::debug!(
            generation = said.generation,
            pods = said.pods.len(),
            "the controller says which pods are left alone"
        );
        // Held while it is written: of two words the later one is kept.
        let mut now = self.said.write().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = keep(&self.file, &said) {
            tracing::warn!(%error, "which pods are left alone could not be kept: a restart waits for the controller");
        }
        *now = Some(said);
    }

    /// What is wrong, for people.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        let said = self.said.read().unwrap_or_else(PoisonError::into_inner);
        match &*said {
            None => Some("the controller has not said which pods are left alone: rules act in no pod".into()),
            Some(said) => said.nothing.as_ref().map(|why| format!("rules do not act on this node: {why}")),
        }
    }

    /// Why a process in the cgroup at `path` is left alone.
    pub(super) fn reason(&self, path: &str, word: Word) -> Option<Left> {
        let said = self.said.read().unwrap_or_else(PoisonError::into_inner);
        let own = word == Word::Own;
        if own && let Some(because) = said.as_ref().and_then(|said| said.nothing.clone()) {
            return Some(Left::Protected(because));
        }
        if let Some(because) = said.as_ref().and_then(|said| place(said, path)) {
            return Some(Left::Protected(because));
        }
        let named = nearest(path).unwrap_or(path);
        if is_unnamed(named) {
            return own.then(|| Left::Unknown("its cgroup is nested too deep to be named".into()));
        }
        match pod_of(named) {
            PodOf::None => None,
            PodOf::Untold => own.then(|| Left::Unknown(format!("its cgroup {path} names no pod"))),
            PodOf::Pod(uid) => match said.as_ref().and_then(|said| said.pods.get(&uid)) {
                Some(PodGuard::Never { because }) => Some(Left::Protected(because.clone())),
                Some(PodGuard::Asked { because }) => own.then(|| Left::Protected(because.clone())),
                Some(PodGuard::Free) => None,
                None => own.then(|| Left::Unknown(format!("the controller has not told of its pod {uid}"))),
            },
        }
    }
}

/// Why something is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    Protected(String),
    /// Whose it is is not known (I9).
    Unknown(String),
}

impl Left {
    pub(super) fn failure(self, target: String) -> ActionFailure {
        match self {
            Self::Protected(because) => ActionFailure::Protected { target, because },
            Self::Unknown(because) => ActionFailure::Unattributed { target, because },
        }
    }

    pub(super) fn because(self) -> String {
        match self {
            Self::Protected(because) | Self::Unknown(because) => because,
        }
    }
}

/// Why a policy's list of places has this one.
fn place(said: &NodeGuard, path: &str) -> Option<String> {
    let below = |kept: &&String| {
        let kept = kept.trim_end_matches('/');
        path.strip_prefix(kept).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(kept) = said.cgroup_paths.iter().find(below) {
        return Some(format!("a policy protects {kept}"));
    }
    let unit = said.units.iter().find(|unit| path.split('/').any(|part| part == unit.as_str()));
    unit.map(|unit| format!("a policy protects {unit}"))
}

fn read(file: &Path) -> io::Result<NodeGuard> {
    let said: NodeGuard = serde_json::from_slice(&fs::read(file)?)?;
    if said.is_bounded() { Ok(said) } else { Err(io::Error::other("it is beyond its bounds")) }
}

fn keep(file: &Path, said: &NodeGuard) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = file.with_extension("new");
    let mut written =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    written.write_all(&serde_json::to_vec(said)?)?;
    // A word that a power loss cuts in half would let nothing be done, and one that it takes back would let too much.
    written.sync_all()?;
    fs::rename(&fresh, file)?;
    match file.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "6b1f0c3a-9d2e-4f7b-8a1c-2e3f4a5b6c7d";
    const THEIRS: &str = "00000000-9d2e-4f7b-8a1c-2e3f4a5b6c7d";
    const ID: &str = "3f4a0c7e9d2b1f6a8c5e7d9b0a1c2e3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b8c9d";

    fn path(uid: &str) -> String {
        format!("/kubepods/besteffort/pod{uid}/{ID}")
    }

    fn said(guard: PodGuard) -> NodeGuard {
        NodeGuard { generation: 1, pods: [(OURS.to_owned(), guard)].into(), ..NodeGuard::default() }
    }

    fn guard() -> (tempfile::TempDir, Guard) {
        let folder = tempfile::tempdir().unwrap();
        let guard = Guard::load(folder.path().join("pods.json"));
        (folder, guard)
    }

    #[test]
    fn i9_in_a_pod_that_nobody_told_of_nothing_is_done_by_the_node_itself() {
        let (_folder, guard) = guard();
        assert!(
            matches!(guard.reason(&path(OURS), Word::Own), Some(Left::Unknown(_))),
            "nothing was ever told"
        );
        assert_eq!(guard.reason(&path(OURS), Word::Told), None, "who commands knows the pod");
        assert_eq!(
            guard.reason("/system.slice/ssh.service", Word::Own),
            None,
            "what is in no pod is in no namespace"
        );
        assert!(guard.degraded().is_some());
        guard.take(said(PodGuard::Free));
        assert_eq!(guard.reason(&path(OURS), Word::Own), None);
        assert!(matches!(guard.reason(&path(THEIRS), Word::Own), Some(Left::Unknown(_))));
        let untold = format!("/kubepods/besteffort/podless/{ID}");
        assert!(matches!(guard.reason(&untold, Word::Own), Some(Left::Unknown(_))));
        assert_eq!(guard.degraded(), None);
    }

    #[test]
    fn i6_what_is_protected_no_word_touches_and_what_asks_only_a_command_does() {
        let (_folder, guard) = guard();
        guard.take(said(PodGuard::Never { because: "the namespace kube-system is".into() }));
        for word in [Word::Own, Word::Told] {
            let left = guard.reason(&path(OURS), word);
            assert_eq!(left, Some(Left::Protected("the namespace kube-system is".into())), "{word:?}");
        }
        guard.take(said(PodGuard::Asked { because: "a label".into() }));
        assert_eq!(guard.reason(&path(OURS), Word::Own), Some(Left::Protected("a label".into())));
        assert_eq!(guard.reason(&path(OURS), Word::Told), None);
    }

    #[test]
    fn i6_a_cgroup_of_ones_own_making_does_not_hide_in_a_protected_pod() {
        let (_folder, guard) = guard();
        let mut both = said(PodGuard::Free);
        both.pods.insert(THEIRS.into(), PodGuard::Never { because: "the namespace kube-system is".into() });
        guard.take(both);
        assert_eq!(guard.reason(&format!("{}{}", path(OURS), path(THEIRS)), Word::Own), None);
    }

    #[test]
    fn i6_places_of_policies_are_left_alone_and_too_many_of_them_let_nothing_be_done() {
        let (_folder, guard) = guard();
        guard.take(NodeGuard {
            cgroup_paths: vec!["/a/b/".into()],
            units: vec!["db.service".into()],
            ..NodeGuard::default()
        });
        for kept in ["/a/b", "/a/b/c", "/system.slice/db.service", "/system.slice/db.service/x"] {
            assert!(matches!(guard.reason(kept, Word::Told), Some(Left::Protected(_))), "{kept}");
        }
        assert_eq!(guard.reason("/a/bc", Word::Own), None);
        guard.take(NodeGuard { nothing: Some("too many".into()), ..NodeGuard::default() });
        assert!(guard.reason("/a", Word::Own).is_some() && guard.degraded().is_some());
        assert_eq!(guard.reason("/a", Word::Told), None);
    }

    #[test]
    fn what_was_said_holds_after_a_restart_and_what_cannot_be_read_lets_nothing_be_done() {
        let (folder, guard) = guard();
        guard.take(said(PodGuard::Free));
        let file = folder.path().join("pods.json");
        let again = Guard::load(file.clone());
        assert_eq!(again.reason(&path(OURS), Word::Own), None);
        fs::write(&file, "{").unwrap();
        assert!(Guard::load(file).reason(&path(OURS), Word::Own).is_some());
        let mut long = said(PodGuard::Free);
        long.pods.extend((0..NodeGuard::MAX_PODS).map(|n| (n.to_string(), PodGuard::Free)));
        again.take(long);
        assert_eq!(again.reason(&path(OURS), Word::Own), None, "what is beyond the bounds changes nothing");
    }
}
