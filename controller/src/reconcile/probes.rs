//! What Kubernetes asks of a controller: whether it lives, whether it serves, what it counts.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{api, health::HealthBoard, metrics::Metrics};

/// What a controller is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing is known yet.
    Starting,
    /// Another leads; this one would take over.
    StandingBy,
    /// It leads and has not yet read what the API server holds.
    Loading,
    /// It leads and serves.
    Serving,
}

/// What the probes look at.
#[derive(Clone)]
pub(crate) struct Probed {
    pub(crate) stage: watch::Receiver<Stage>,
    /// There once the core runs.
    pub(crate) inside: watch::Receiver<Option<(HealthBoard, Arc<Metrics>)>>,
}

/// Serves /healthz, /readyz and /metrics until `stop`.
pub(crate) async fn serve(
    address: SocketAddr,
    probed: Probed,
    stop: CancellationToken,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(probed);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(%error, "the probes' server failed");
        }
    });
    Ok((address, task))
}

/// Alive: a controller that cannot write its journal waits for the disk, and a restart would not help it.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready: it leads and serves, or stands by to do so. Degraded parts are told and are no reason to take agents away from it.
async fn readyz(State(probed): State<Probed>) -> Response {
    let stage = probed.stage.borrow().clone();
    let health = probed.inside.borrow().as_ref().map(|(health, _)| health.show());
    let problems: Vec<String> = health
        .iter()
        .flat_map(|health: &api::Health| &health.problems)
        .map(|one| format!("{}: {}\n", one.part, one.what))
        .collect();
    let (status, word) = match stage {
        Stage::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Stage::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        Stage::StandingBy => (StatusCode::OK, "standing by"),
        Stage::Serving => (StatusCode::OK, "serving"),
    };
    (status, format!("{word}\n{}", problems.concat())).into_response()
}

async fn metrics(State(probed): State<Probed>) -> Response {
    let inside = probed.inside.borrow().clone();
    let text = inside.map(|(_, metrics)| metrics.text()).unwrap_or_else(|| "# EOF\n".into());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        .into_response()
}
