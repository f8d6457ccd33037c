//! The control socket's server.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{
        ConnectInfo, DefaultBodyLimit, Path, Query, State,
        connect_info::Connected,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use model::{Actor, Timestamp};
use serde::Deserialize;
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

use super::{ApiError, ApiErrorKind, AuditPage, Because, Condition, Decide, Judge, Split, peer::actor_of};
use crate::{
    audit::{AuditLog, Query as Wanted},
    core::{Ask, Asker, Change, Merged},
    health::HealthBoard,
    metrics::Metrics,
};

/// Largest body of a request, in bytes: a reason in a person's words.
const MAX_BODY: usize = 64 * 1024;

/// Longest wait of a watch.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) asker: Asker,
    pub(crate) health: HealthBoard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) revision: watch::Receiver<u64>,
    pub(crate) stop: CancellationToken,
    /// Where the audit log lies, and who may read it at the same time.
    pub(crate) audit_log: PathBuf,
    pub(crate) readers: Arc<Semaphore>,
}

/// Requests that read the audit log at the same time; more wait.
pub(crate) const MAX_READERS: usize = 2;

/// Binds the socket (mode 0600) and serves until `stop`.
pub(crate) async fn serve(path: PathBuf, served: Served) -> io::Result<impl Future<Output = ()> + Send> {
    let listener = bind(&path).await?;
    let stop = served.stop.clone();
    let app = router(served).into_make_service_with_connect_info::<Peer>();
    Ok(async move {
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(%error, "the control socket failed");
        }
        if let Err(error) = remove_socket(&path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
    })
}

/// Removes a socket that nobody needs any more. Anything else that stands there is somebody's: it is left alone.
fn remove_socket(path: &FilePath) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        looked => looked?.file_type(),
    };
    let what = match () {
        () if kind.is_socket() => return std::fs::remove_file(path),
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a folder",
        () if kind.is_symlink() => "a symbolic link",
        () => "no socket",
    };
    let advice =
        "it was left as it is: name another place for the control socket (--socket), or move it away";
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("at {} stands {what}; {advice}", path.display()),
    ))
}

/// A socket file that nobody answers is a dead controller's and is replaced; one that somebody answers, and whatever is no socket, is not
/// touched.
async fn bind(path: &FilePath) -> io::Result<UnixListener> {
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another controller answers on this socket"));
    }
    remove_socket(path)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Bound under a name of its own and renamed once its mode is set, so that it never stands open to others.
    let fresh = path.with_extension("new");
    remove_socket(&fresh)?;
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/status", get(async |s, p| ask(s, p, Ask::Status).await))
        .route("/v1/incidents", get(list))
        .route("/v1/incidents/watch", get(watch_incidents))
        .route("/v1/incidents/{id}", get(async |s, p, Path(id)| ask(s, p, Ask::Incident(id)).await))
        .route("/v1/incidents/{id}/policy", get(policy))
        .route("/v1/incidents/{id}/narrative", get(narrative))
        .route("/v1/incidents/{id}/approve", post(approve))
        .route("/v1/incidents/{id}/deny", post(deny))
        .route("/v1/incidents/{id}/rollback", post(rollback_incident))
        .route("/v1/incidents/{id}/verdict", post(verdict))
        .route("/v1/incidents/{id}/close", post(close))
        .route("/v1/incidents/{id}/split", post(split))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/trust/{name}/begin-anew", post(begin_anew))
        .route("/v1/actions", get(actions))
        .route("/v1/actions/{id}/rollback", post(rollback_action))
        .route("/v1/playbooks", get(async |s, p| ask(s, p, Ask::Playbooks).await))
        .route("/v1/playbooks/reload", post(async |s, p| change(s, p, Change::Reload).await))
        .route("/v1/promotion", get(async |s, p| ask(s, p, Ask::Promotion(None)).await))
        .route(
            "/v1/promotion/{name}",
            get(async |s, p, Path(name)| ask(s, p, Ask::Promotion(Some(name))).await),
        )
        .route("/v1/audit", get(audit))
        .route("/metrics", get(metrics))
        .fallback(async || {
            ApiError::new(ApiErrorKind::Unknown, "there is no such path; see docs/controller.md")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(served)
}

/// Who is at the other end; refused in each handler, so that the refusal is an answer and not a cut connection.
#[derive(Debug, Clone)]
struct Peer(Result<Actor, String>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(actor_of(stream.io()).map_err(|e| e.to_string()))
    }
}

type Answer = Result<Response, ApiError>;
type Body<T> = Result<Json<T>, JsonRejection>;
type Params<T> = Result<Query<T>, QueryRejection>;

async fn ask(State(served): State<Served>, ConnectInfo(peer): ConnectInfo<Peer>, what: Ask) -> Answer {
    actor(peer)?;
    Ok(json(served.asker.ask(what).await?))
}

async fn change(State(served): State<Served>, ConnectInfo(peer): ConnectInfo<Peer>, what: Change) -> Answer {
    let actor = actor(peer)?;
    Ok(json(served.asker.change(what, actor).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListParams {
    limit: usize,
    all: bool,
}

impl Default for ListParams {
    fn default() -> Self {
        Self { limit: 100, all: false }
    }
}

async fn list(s: State<Served>, p: ConnectInfo<Peer>, params: Params<ListParams>) -> Answer {
    let ListParams { limit, all } = query(params)?;
    let merged = if all { Merged::Shown } else { Merged::Hidden };
    ask(s, p, Ask::Incidents { since: 0, limit: limit.min(1000), merged }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WatchParams {
    since: u64,
    wait_ms: u64,
}

async fn watch_incidents(s: State<Served>, p: ConnectInfo<Peer>, params: Params<WatchParams>) -> Answer {
    let WatchParams { since, wait_ms } = query(params)?;
    let mut revision = s.0.revision.clone();
    let wait = Duration::from_millis(wait_ms).min(MAX_WAIT);
    tokio::select! {
        changed = revision.wait_for(|now| *now > since) => drop(changed),
        () = tokio::time::sleep(wait) => {}
        () = s.0.stop.cancelled() => {}
    }
    // Who watches also wants to know what was merged away.
    ask(s, p, Ask::Incidents { since, limit: 1000, merged: Merged::Shown }).await
}

async fn approve(s: State<Served>, p: ConnectInfo<Peer>, Path(id): Path<String>, b: Body<Decide>) -> Answer {
    let Decide { step, because } = body_or_default(b)?;
    change(s, p, Change::Approve { id, run: None, step, because, groups: Vec::new() }).await
}

async fn deny(s: State<Served>, p: ConnectInfo<Peer>, Path(id): Path<String>, b: Body<Decide>) -> Answer {
    let Decide { step, because } = body_or_default(b)?;
    change(s, p, Change::Deny { id, run: None, step, because, groups: Vec::new() }).await
}

async fn rollback_incident(
    s: State<Served>,
    p: ConnectInfo<Peer>,
    Path(id): Path<String>,
    b: Body<Because>,
) -> Answer {
    change(s, p, Change::RollbackIncident { id, because: body_or_default(b)?.because }).await
}

async fn rollback_action(
    s: State<Served>,
    p: ConnectInfo<Peer>,
    Path(id): Path<String>,
    b: Body<Because>,
) -> Answer {
    change(
        s,
        p,
        Change::RollbackAction { id, because: body_or_default(b)?.because, on_drift: model::OnDrift::Ask },
    )
    .await
}

async fn verdict(s: State<Served>, p: ConnectInfo<Peer>, Path(id): Path<String>, b: Body<Judge>) -> Answer {
    let Judge { verdict, because } = body(b)?;
    change(s, p, Change::Judge { id, verdict, because }).await
}

async fn close(s: State<Served>, p: ConnectInfo<Peer>, Path(id): Path<String>, b: Body<Because>) -> Answer {
    change(s, p, Change::Close { id, because: body_or_default(b)?.because }).await
}

async fn split(s: State<Served>, p: ConnectInfo<Peer>, Path(id): Path<String>, b: Body<Split>) -> Answer {
    let Split { findings, because } = body(b)?;
    change(s, p, Change::Split { id, findings, because }).await
}

async fn pause(s: State<Served>, p: ConnectInfo<Peer>, b: Body<Because>) -> Answer {
    change(s, p, Change::Pause { because: body_or_default(b)?.because }).await
}

async fn resume(s: State<Served>, p: ConnectInfo<Peer>, b: Body<Because>) -> Answer {
    change(s, p, Change::Resume { because: body_or_default(b)?.because }).await
}

async fn begin_anew(
    s: State<Served>,
    p: ConnectInfo<Peer>,
    Path(name): Path<String>,
    b: Body<Because>,
) -> Answer {
    change(s, p, Change::BeginAnew { name, because: body_or_default(b)?.because }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PolicyParams {
    playbook: Option<String>,
}

async fn policy(
    s: State<Served>,
    p: ConnectInfo<Peer>,
    Path(id): Path<String>,
    params: Params<PolicyParams>,
) -> Answer {
    ask(s, p, Ask::Explain { id, playbook: query(params)?.playbook }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NarrativeParams {
    format: Form,
}

/// A form of the narrative.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Json,
    Html,
    Md,
}

async fn narrative(
    State(served): State<Served>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
    params: Params<NarrativeParams>,
) -> Answer {
    actor(peer)?;
    let form = query(params)?.format;
    let bytes = served.asker.ask(Ask::Narrative(id)).await?;
    let render: fn(&narrate::Document) -> String = match form {
        Form::Json => return Ok(json(bytes)),
        Form::Html => narrate::html::render,
        Form::Md => narrate::markdown::render,
    };
    let told: narrate::Document = serde_json::from_slice(&bytes)
        .map_err(|e| ApiError::new(ApiErrorKind::Unavailable, e.to_string()))?;
    let kind = match form {
        Form::Html => "text/html; charset=utf-8",
        _ => "text/markdown; charset=utf-8",
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; sandbox"),
    ];
    Ok((headers, render(&told)).into_response())
}

async fn actions(s: State<Served>, p: ConnectInfo<Peer>, params: Params<ListParams>) -> Answer {
    ask(s, p, Ask::Actions { all: query(params)?.all }).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AuditParams {
    after: u64,
    since: Option<i64>,
    incident: Option<String>,
    limit: usize,
}

impl Default for AuditParams {
    fn default() -> Self {
        Self { after: 0, since: None, incident: None, limit: 1000 }
    }
}

async fn audit(
    State(served): State<Served>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    params: Params<AuditParams>,
) -> Answer {
    actor(peer)?;
    let AuditParams { after, since, incident, limit } = query(params)?;
    let wanted = Wanted { after, since: since.map(Timestamp), incident, limit: limit.min(10_000) };
    let unavailable = |because: String| ApiError::new(ApiErrorKind::Unavailable, because);
    let bytes = served.asker.ask(Ask::Audit).await?;
    let mut page: AuditPage = serde_json::from_slice(&bytes).map_err(|e| unavailable(e.to_string()))?;
    // Readers of long files wait for each other, not the core for them.
    let turn = served.readers.acquire_owned().await.map_err(|e| unavailable(e.to_string()))?;
    let path = served.audit_log;
    let read = move || {
        let selection = AuditLog::read(&path, &wanted);
        drop(turn);
        selection
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|e| unavailable(e.to_string()))?;
    let selection = read.map_err(|e| unavailable(e.to_string()))?;
    (page.entries, page.bytes_read) = (selection.entries, selection.bytes_read);
    // What was appended since the anchor was asked for belongs to the next page.
    page.entries.retain(|entry| entry.seq <= page.anchor.head.count);
    Ok(Json(page).into_response())
}

async fn health(State(served): State<Served>) -> Response {
    let health = served.health.show();
    let status = match health.condition {
        Condition::Good => StatusCode::OK,
        Condition::Degraded => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health)).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], served.metrics.text()).into_response()
}

fn actor(peer: Peer) -> Result<Actor, ApiError> {
    peer.0.map_err(|because| ApiError::new(ApiErrorKind::Forbidden, because))
}

/// No body at all means the defaults.
fn body_or_default<T: Default>(given: Body<T>) -> Result<T, ApiError> {
    match given {
        Err(JsonRejection::MissingJsonContentType(_)) => Ok(T::default()),
        given => body(given),
    }
}

fn body<T>(given: Body<T>) -> Result<T, ApiError> {
    let refused = |error: JsonRejection| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            format!("the request has more than {MAX_BODY} bytes: say it shorter")
        }
        _ => error.body_text(),
    };
    given.map(|Json(body)| body).map_err(|e| ApiError::new(ApiErrorKind::Malformed, refused(e)))
}

fn query<T>(params: Params<T>) -> Result<T, ApiError> {
    params.map(|Query(params)| params).map_err(|e| ApiError::new(ApiErrorKind::Malformed, e.body_text()))
}

fn json(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ApiErrorKind::Malformed => StatusCode::BAD_REQUEST,
            ApiErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ApiErrorKind::Unknown => StatusCode::NOT_FOUND,
            ApiErrorKind::Conflict => StatusCode::CONFLICT,
            ApiErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Binds once and says what was refused.
    async fn refused(path: &FilePath) -> Option<String> {
        bind(path).await.err().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious.txt");
        std::fs::write(&precious, "precious").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        // The name under which it is bound first.
        std::fs::write(dir.path().join("control.new"), "precious").unwrap();
        for (path, what) in [
            (precious.clone(), "a regular file"),
            (dir.path().to_owned(), "a folder"),
            (link.clone(), "a symbolic link"),
            (dir.path().join("control.sock"), "control.new stands a regular file"),
        ] {
            let said = refused(&path).await.unwrap();
            assert!(said.contains(what) && said.contains("--socket"), "{said}");
        }
        for kept in [precious, link, dir.path().join("control.new")] {
            assert_eq!(std::fs::read_to_string(&kept).unwrap(), "precious", "{}", kept.display());
        }
        // A dead one's socket is replaced, and one that answers is not.
        let path = dir.path().join("dead.sock");
        drop(UnixListener::bind(&path).unwrap());
        let listener = bind(&path).await.unwrap();
        assert!(refused(&path).await.unwrap().contains("another controller answers"));
        drop(listener);
        // Whatever took its place meanwhile stays at the end.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(remove_socket(&path).is_err() && path.exists());
    }
}
