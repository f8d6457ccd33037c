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
        self.write(api.patch(name, &params, &Patch::Apply(what))).await
    }

    /// Applies the status of an object.
    pub(crate) async fn apply_status(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        what: &Value,
    ) -> Result<DynamicObject, Failure> {
        let params = PatchParams::apply(MANAGER).force();
        self.write(api.patch_status(name, &params, &Patch::Apply(what))).await
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

fn classify(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => Failure::Missing(status.message),
            409 => Failure::Conflict(status.message),
            // Too busy, or on its way down or up: not its last word.
            429 | 500 | 502..=504 => Failure::Away(status.message),
            code => Failure::Refused { code, because: status.message },
        },
        other => Failure::Away(other.to_string()),
    }
}
