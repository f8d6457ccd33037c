//! Kinds of objects that the API server does not tell of, a right that is missing above all: what is not read is neither answered nor acted
//! on, and health says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::{
    attribute::{Pods, Sight},
    health::{HealthBoard, Part},
};

/// Characters of a reason that are told.
const REASON: usize = 300;

/// Shared by all who follow a kind. As many entries as there are kinds.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    health: HealthBoard,
    kinds: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Unread {
    pub(crate) fn new(health: HealthBoard) -> Self {
        Self { health, kinds: Arc::default() }
    }

    /// The API server does not tell of a kind.
    pub(crate) fn add(&self, kind: &str, because: String) {
        self.change(|kinds| {
            kinds.insert(kind.into(), because);
        });
    }

    /// It does.
    pub(crate) fn remove(&self, kind: &str) {
        self.change(|kinds| {
            kinds.remove(kind);
        });
    }

    /// Those by which pods are known, until `stop`.
    pub(crate) async fn of_pods(self, pods: Pods, stop: CancellationToken) {
        let mut sights = pods.sights();
        loop {
            let known = sights.borrow_and_update().clone();
            for (kind, sight) in known {
                match sight {
                    Sight::Blind(because) => self.add(kind, because),
                    Sight::Clear => self.remove(kind),
                    Sight::Starting => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = sights.changed() => if changed.is_err() { return },
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        // Held until it is told, so that what was true last is what stands there.
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut kinds);
        let Some(because) = kinds.values().next() else {
            self.health.restored(Part::Reading);
            return;
        };
        let all = kinds.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let told = format!("the API server does not tell of {all}: {}", crds::cut(because, REASON));
        if self.health.says(Part::Reading).as_deref() != Some(told.as_str()) {
            self.health.degraded(Part::Reading, told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_not_told_of_are_named_until_they_are() {
        let health = HealthBoard::default();
        let unread = Unread::new(health.clone());
        let says = || health.says(Part::Reading).unwrap_or_default();
        unread.remove("Pod");
        assert_eq!(says(), "");
        unread.add("Pod", "pods is forbidden".into());
        unread.add("Playbook", "playbooks is forbidden".into());
        assert_eq!(says(), "the API server does not tell of Playbook, Pod: playbooks is forbidden");
        unread.remove("Playbook");
        assert_eq!(says(), "the API server does not tell of Pod: pods is forbidden");
        unread.add("Pod", "x".repeat(9999));
        assert!(says().len() < 400);
        unread.remove("Pod");
        assert_eq!(says(), "");
    }
}
