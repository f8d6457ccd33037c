//! Speaks to a running controller over its control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use model::{FindingId, StepName, Verdict};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    api::{
        ActionView, ApiError, AuditPage, Automatic, Because, Decide, Done, Explanation, Health, IncidentList,
        IncidentView, Judge, Playbooks, PromotionView, Split, Status,
    },
    audit::Query,
};

/// Largest answer that is read, in bytes: an incident with all its findings is a few MB.
const MAX_ANSWER: usize = 256 << 20;

/// A control socket. Each request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or we may not.
    #[error("cannot reach the controller on {}: {source}{}", socket.display(), advice(source))]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the controller broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer is too large or was cut.
    #[error("the controller's answer could not be read: {0}")]
    Unreadable(String),
    /// The answer makes no sense: another version speaks there.
    #[error("the controller's answer to {path} cannot be understood ({source}): do the versions match?")]
    Foreign {
        /// What was asked.
        path: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// It said no.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ": is it running?",
        io::ErrorKind::PermissionDenied => ": run as root or as the controller's user",
        _ => "",
    }
}

impl Client {
    /// Of the controller that listens on `socket`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether all is well.
    ///
    /// # Errors
    /// When there is no answer; a bad state is an answer.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let (_, bytes) = self.send(Method::GET, "/v1/health", None).await?;
        parse("/v1/health", &bytes)
    }

    /// The controller at a glance.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// The newest incidents.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn incidents(&self, limit: usize) -> Result<IncidentList, ClientError> {
        self.get(&format!("/v1/incidents?limit={limit}")).await
    }

    /// Incidents that changed after `since`; waits up to `wait` for one.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn watch(&self, since: u64, wait: Duration) -> Result<IncidentList, ClientError> {
        self.get(&format!("/v1/incidents/watch?since={since}&wait_ms={}", wait.as_millis())).await
    }

    /// Everything about one incident. `id` may be an unambiguous beginning.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn incident(&self, id: &str) -> Result<IncidentView, ClientError> {
        self.get(&format!("/v1/incidents/{}", act::percent_encoded(id))).await
    }

    /// An incident as one document, in the form `html`, `md` or `json`.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn narrative(&self, id: &str, form: &str) -> Result<String, ClientError> {
        let path = format!(
            "/v1/incidents/{}/narrative?format={}",
            act::percent_encoded(id),
            act::percent_encoded(form)
        );
        match self.send(Method::GET, &path, None).await? {
            (Accepted::Yes, bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            (Accepted::No, bytes) => Err(ClientError::Refused(parse(&path, &bytes)?)),
        }
    }

    /// Which policy decides what about an incident and a playbook; the one that answered it where none is named.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn explain(&self, id: &str, playbook: Option<&str>) -> Result<Explanation, ClientError> {
        let which =
            playbook.map_or_else(String::new, |name| format!("?playbook={}", act::percent_encoded(name)));
        self.get(&format!("/v1/incidents/{}/policy{which}", act::percent_encoded(id))).await
    }

    /// Keeps everything automatic from beginning.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn pause(&self, because: &str) -> Result<Automatic, ClientError> {
        self.post("/v1/pause", &Because { because: because.into() }).await
    }

    /// Lets it begin again.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn resume(&self, because: &str) -> Result<Automatic, ClientError> {
        self.post("/v1/resume", &Because { because: because.into() }).await
    }

    /// What was said of a rule or playbook no longer counts.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn begin_anew(&self, name: &str, because: &str) -> Result<Automatic, ClientError> {
        self.post(
            &format!("/v1/trust/{}/begin-anew", act::percent_encoded(name)),
            &Because { because: because.into() },
        )
        .await
    }

    /// Says yes to a step, or to everything that waits.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn approve(
        &self,
        id: &str,
        step: Option<StepName>,
        because: &str,
    ) -> Result<Done, ClientError> {
        let body = Decide { step, because: because.into() };
        self.post(&format!("/v1/incidents/{}/approve", act::percent_encoded(id)), &body).await
    }

    /// Says no to a step, or to everything that waits.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn deny(&self, id: &str, step: Option<StepName>, because: &str) -> Result<Done, ClientError> {
        let body = Decide { step, because: because.into() };
        self.post(&format!("/v1/incidents/{}/deny", act::percent_encoded(id)), &body).await
    }

    /// Begins to undo everything done about an incident.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn rollback_incident(&self, id: &str, because: &str) -> Result<Done, ClientError> {
        self.post(
            &format!("/v1/incidents/{}/rollback", act::percent_encoded(id)),
            &Because { because: because.into() },
        )
        .await
    }

    /// Begins to undo one action.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn rollback_action(&self, id: &str, because: &str) -> Result<Done, ClientError> {
        self.post(
            &format!("/v1/actions/{}/rollback", act::percent_encoded(id)),
            &Because { because: because.into() },
        )
        .await
    }

    /// Judges an incident; a false positive is rolled back.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn judge(&self, id: &str, verdict: Verdict, because: &str) -> Result<Done, ClientError> {
        let body = Judge { verdict, because: because.into() };
        self.post(&format!("/v1/incidents/{}/verdict", act::percent_encoded(id)), &body).await
    }

    /// Closes an incident: what is in force stays, later findings open a new one.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn close(&self, id: &str, because: &str) -> Result<Done, ClientError> {
        self.post(
            &format!("/v1/incidents/{}/close", act::percent_encoded(id)),
            &Because { because: because.into() },
        )
        .await
    }

    /// Takes findings out of an incident into one of their own; both go on, and are never put together again.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn split(&self, id: &str, findings: &[FindingId], because: &str) -> Result<Done, ClientError> {
        let body = Split { findings: findings.to_vec(), because: because.into() };
        self.post(&format!("/v1/incidents/{}/split", act::percent_encoded(id)), &body).await
    }

    /// Actions in force.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn actions_in_force(&self) -> Result<Vec<ActionView>, ClientError> {
        self.get("/v1/actions").await
    }

    /// All actions that are known.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn actions(&self) -> Result<Vec<ActionView>, ClientError> {
        self.get("/v1/actions?all=true").await
    }

    /// Playbooks as loaded.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn playbooks(&self) -> Result<Playbooks, ClientError> {
        self.get("/v1/playbooks").await
    }

    /// Reads the playbook folders again.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn reload_playbooks(&self) -> Result<Playbooks, ClientError> {
        self.post("/v1/playbooks/reload", &Because::default()).await
    }

    /// How playbooks earn and lose their modes; of one with its runs and the patch.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn promotion(&self, playbook: Option<&str>) -> Result<Vec<PromotionView>, ClientError> {
        let which = playbook.map_or_else(String::new, |name| format!("/{}", act::percent_encoded(name)));
        self.get(&format!("/v1/promotion{which}")).await
    }

    /// Audit entries after `after`, and the anchor.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn audit(&self, after: u64, limit: usize) -> Result<AuditPage, ClientError> {
        self.audit_of(&Query::after(after, limit)).await
    }

    /// What is asked for of the audit log, oldest first.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn audit_of(&self, query: &Query) -> Result<AuditPage, ClientError> {
        let mut path = format!("/v1/audit?after={}&limit={}", query.after, query.limit);
        if let Some(since) = query.since {
            path.push_str(&format!("&since={}", since.0));
        }
        if let Some(incident) = &query.incident {
            let safe = incident.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            path.push_str(&format!("&incident={}", if safe { incident } else { "-" }));
        }
        self.get(&path).await
    }

    /// Metrics in OpenMetrics text.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let (_, bytes) = self.send(Method::GET, "/metrics", None).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (ok, bytes) = self.send(Method::GET, path, None).await?;
        answer(path, ok, &bytes)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body)
            .map_err(|source| ClientError::Foreign { path: path.to_owned(), source })?;
        let (ok, bytes) = self.send(Method::POST, path, Some(body)).await?;
        answer(path, ok, &bytes)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(Accepted, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "hemostat")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| ClientError::Unreadable(e.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let accepted = if response.status().is_success() { Accepted::Yes } else { Accepted::No };
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let bytes = body.map_err(|e| ClientError::Unreadable(e.to_string()))?.to_bytes();
            Ok::<_, ClientError>((accepted, bytes))
        };
        // The connection does its work in the same task, so nothing is left behind when this future is dropped.
        tokio::pin!(connection);
        tokio::pin!(exchange);
        let mut connected = true;
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                ended = &mut connection, if connected => { ended?; connected = false; }
            }
        }
    }
}

/// Whether the controller did as it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    Yes,
    No,
}

fn answer<T: DeserializeOwned>(path: &str, accepted: Accepted, bytes: &[u8]) -> Result<T, ClientError> {
    match accepted {
        Accepted::Yes => parse(path, bytes),
        Accepted::No => Err(ClientError::Refused(parse(path, bytes)?)),
    }
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|source| ClientError::Foreign { path: path.to_owned(), source })
}
