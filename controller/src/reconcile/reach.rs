//! Requests to the API server, and whether it answers at all.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client, Resource,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

/// The field manager of everything that the controller writes.
pub(crate) const MANAGER: &str = "hemostat-controller";

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What came of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The API server does not answer, or cannot at present.
    #[error("the API server is away: {0}")]
    Away(String),
    /// There is no such thing.
    #[error("there is no {0}")]
    Missing(String),
    /// Somebody else was quicker.
    #[error("it was changed meanwhile: {0}")]
    Conflict(String),
    /// It says no.
    #[error("the API server refuses it ({code}): {because}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Its word.
        because: String,
    },
    /// What an undo needs cannot be kept there: what would need it is not begun.
    #[error("{0}")]
    Unkept(String),
    /// We may not write: another controller may be leading.
    #[error("this controller's lease has run out, so that it writes nothing")]
    NotLeading,
}

impl Failure {
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }
}

/// A client that knows whether the API server answers.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) client: Client,
    away: Arc<watch::Sender<Option<Instant>>>,
    /// Until when this controller leads; what it writes after that could be another's.
    lease: watch::Receiver<Option<Instant>>,
}

impl Reach {
    pub(crate) fn new(client: Client, lease: watch::Receiver<Option<Instant>>) -> Self {
        Self { client, away: Arc::new(watch::Sender::new(None)), lease }
    }

    /// Since when the API server does not answer.
    pub(crate) fn away_since(&self) -> Option<Instant> {
        *self.away.borrow()
    }

    /// Whether this controller leads for certain.
    pub(crate) fn leads(&self) -> bool {
        self.lease.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Until when it leads, as it changes.
    pub(crate) fn lease(&self) -> watch::Receiver<Option<Instant>> {
        self.lease.clone()
    }

    /// A request that only reads.
    pub(crate) async fn read<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        let result = match timeout(PATIENCE, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(classify(error)),
            Err(_) => Err(Failure::Away(format!("no answer within {PATIENCE:?}"))),
        };
        let away = matches!(&result, Err(failure) if failure.is_away());
        self.away.send_if_modified(|since| match (since.is_some(), away) {
            (false, true) => {
                *since = Some(Instant::now());
                tracing::warn!("the API server does not answer; nodes act on their own authority, and what is told of it later waits here");
                true
            }
            (true, false) => {
                tracing::info!("the API server answers again");
                *since = None;
                true
            }
            _ => false,
        });
        result
    }

    /// A request that writes: only while this controller leads.
    pub(crate) async fn write<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        if !self.leads() {
            return Err(Failure::NotLeading);
        }
        self.read(request).await
    }

    /// Applies an object (server-side, as one field manager); gives what stands there then.
    pub(crate) async fn apply(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        what: &Value,
    ) -> Result<DynamicObject, Failure> {
        let params = PatchParams::apply(MANAGER).force();
        let mut what = what.clone();
        loop {
            match self.write(api.patch(name, &params, &Patch::Apply(&what))).await {
                Err(failure) if drop_undeclared(&failure, &mut what) => {}
                other => return other,
            }
        }
    }

    /// Applies the status of an object.
    pub(crate) async fn apply_status(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        what: &Value,
    ) -> Result<DynamicObject, Failure> {
        let params = PatchParams::apply(MANAGER).force();
        let mut what = what.clone();
        loop {
            match self.write(api.patch_status(name, &params, &Patch::Apply(&what))).await {
                Err(failure) if drop_undeclared(&failure, &mut what) => {}
                other => return other,
            }
        }
    }

    /// Resources of a kind of ours in a namespace.
    pub(crate) fn in_namespace<K>(&self, namespace: &str) -> Api<DynamicObject>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::erase::<K>(&()))
    }

    /// Resources of a kind of ours, wherever they are.
    pub(crate) fn everywhere<K>(&self) -> Api<DynamicObject>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all_with(self.client.clone(), &ApiResource::erase::<K>(&()))
    }
}

/// What server-side apply says of a field that the definition does not have.
const UNDECLARED: &str = ": field not declared in schema";

/// Leaves out what an older definition does not have, so that all the rest is written; false where nothing is left out. Who applied it sees
/// that it does not stand there ([`super::skew`]).
fn drop_undeclared(failure: &Failure, what: &mut Value) -> bool {
    let Failure::Refused { code: 500, because } = failure else { return false };
    let mut dropped = false;
    for said in because.split_inclusive(UNDECLARED).filter_map(|said| said.strip_suffix(UNDECLARED)) {
        // `… .status.findings`, or `… .status.runs[name="x"].because`, of which the list is left out.
        let Some(path) = said.rsplit(char::is_whitespace).next().and_then(|path| path.strip_prefix('.'))
        else {
            continue;
        };
        let path = path.split('[').next().unwrap_or_default();
        let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
        let parent =
            parents.split('.').filter(|key| !key.is_empty()).try_fold(&mut *what, |at, key| at.get_mut(key));
        dropped |= parent.and_then(Value::as_object_mut).is_some_and(|parent| parent.remove(last).is_some());
    }
    dropped
}

fn classify(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => Failure::Missing(status.message),
            409 => Failure::Conflict(status.message),
            // An older definition: server-side apply answers so to a field that it does not have, and it is there all the same.
            500 if status.message.contains(UNDECLARED) => {
                Failure::Refused { code: 500, because: status.message }
            }
            // Too busy, or on its way down or up: not its last word.
            429 | 500 | 502..=504 => Failure::Away(status.message),
            code => Failure::Refused { code, because: status.message },
        },
        other => Failure::Away(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_older_definition_does_not_have_is_left_out_and_nothing_else() {
        let failure = |because: &str| Failure::Refused { code: 500, because: because.into() };
        let mut what =
            json!({"status": {"state": "Open", "findings": 3, "runs": [{"name": "x", "because": "y"}]}});
        let one = "failed to create typed patch object (a/b; hemostat.dev/v1alpha1, Kind=Incident): .status.findings: field not declared in schema";
        assert!(drop_undeclared(&failure(one), &mut what));
        assert_eq!(what["status"], json!({"state": "Open", "runs": [{"name": "x", "because": "y"}]}));
        assert!(!drop_undeclared(&failure(one), &mut what), "once: it is gone");
        let two = "errors:\n  .status.runs[name=\"x\"].because: field not declared in schema\n  .status.odd: field not declared in schema";
        assert!(drop_undeclared(&failure(two), &mut what));
        assert_eq!(what["status"], json!({"state": "Open"}));
        assert!(!drop_undeclared(&failure("etcdserver: no leader"), &mut what));
        assert!(!drop_undeclared(&Failure::NotLeading, &mut what));
    }
}
