//! What is asked of the API server, request by request, as a door in front of it sees it: the audit log does not tell how much of each object
//! was asked for. And whether docs/kubernetes.md allows it ("What it reads of the API server").

#![expect(clippy::unwrap_used, reason = "for tests: what cannot be done fails them")]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    net::TcpListener,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use http_body_util::{BodyExt as _, Either, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio_util::sync::CancellationToken;

use crate::api_server::{ApiServer, repository};

/// Requests that are remembered, at most.
const MOST: usize = 100_000;

/// A list or watch that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// `list` or `watch`.
    pub verb: &'static str,
    /// The plural of the kind.
    pub resource: String,
    /// In which namespace; everywhere without one.
    pub namespace: Option<String>,
    /// `label …` or `field …`.
    pub selectors: BTreeSet<String>,
    /// Whether only the metadata of each object was asked for.
    pub metadata: bool,
    /// Objects of one answer.
    pub limit: Option<u32>,
}

/// A door in front of an API server, with the rights of one user.
pub struct Recorder {
    /// For who is to come through it.
    pub kubeconfig: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: CancellationToken,
    runs: Option<thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Recorder {
    /// Opens it. What comes through has the rights of the kubeconfig.
    #[must_use]
    pub fn before(kubeconfig: &std::path::Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://{}", listener.local_addr().unwrap())}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        let through = folder.path().join("through.kubeconfig");
        fs::write(&through, text.to_string()).unwrap();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let behind = Kubeconfig::read_from(kubeconfig).unwrap();
        let (known, end) = (Arc::clone(&asked), stop.clone());
        let runs = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(serve(listener, behind, known, end));
            runtime.shutdown_background();
        });
        Self { kubeconfig: through, asked, stop, runs: Some(runs), _folder: folder }
    }

    /// Every list and watch that was asked for, each once.
    #[must_use]
    pub fn asked(&self) -> BTreeSet<Asked> {
        self.asked.lock().unwrap().iter().cloned().collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runs) = self.runs.take() {
            let _panicked = runs.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    behind: Kubeconfig,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: CancellationToken,
) {
    let mut config = Config::from_custom_kubeconfig(behind, &KubeConfigOptions::default()).await.unwrap();
    // A door asks nothing by itself.
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let (client, asked) = (client.clone(), Arc::clone(&asked));
        let service = service_fn(move |request: Request<Incoming>| {
            let (client, asked) = (client.clone(), Arc::clone(&asked));
            async move { Ok::<_, Infallible>(pass(&client, &asked, request).await) }
        });
        tokio::spawn(async move {
            // Ends with an error when whoever asked goes away.
            let _gone = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn pass(
    client: &Client,
    asked: &Mutex<Vec<Asked>>,
    request: Request<Incoming>,
) -> Response<Either<Body, Full<Bytes>>> {
    if let Some(one) = read(&request) {
        let mut all = asked.lock().unwrap();
        if all.len() < MOST {
            all.push(one);
        }
    }
    let (mut parts, body) = request.into_parts();
    // The client behind the door has its own.
    parts.headers.remove("host");
    let away = |because: String| {
        let mut response = Response::new(Either::Right(Full::new(Bytes::from(because))));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    };
    let body = match body.collect().await {
        Ok(whole) => whole.to_bytes().to_vec(),
        Err(error) => return away(error.to_string()),
    };
    match client.send(Request::from_parts(parts, Body::from(body))).await {
        Ok(response) => response.map(Either::Left),
        Err(error) => away(error.to_string()),
    }
}

/// What a request asks for, if it is a list or a watch.
fn read(request: &Request<Incoming>) -> Option<Asked> {
    if request.method() != hyper::Method::GET {
        return None;
    }
    let parts: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let below = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return None,
    };
    let (namespace, resource) = match below {
        ["namespaces", namespace, resource] => (Some((*namespace).to_owned()), *resource),
        [resource] => (None, *resource),
        _ => return None,
    };
    let query = request.uri().query().unwrap_or_default();
    let (mut selectors, mut limit, mut verb) = (BTreeSet::new(), None, "list");
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        match name {
            "labelSelector" if !value.is_empty() => drop(selectors.insert(format!("label {value}"))),
            "fieldSelector" if !value.is_empty() => drop(selectors.insert(format!("field {value}"))),
            "limit" => limit = value.parse().ok(),
            "watch" if value == "true" || value == "1" => verb = "watch",
            _ => {}
        }
    }
    let accepts = request.headers().get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let metadata = accepts.contains("as=PartialObjectMetadata");
    Some(Asked { verb, resource: resource.to_owned(), namespace, selectors, metadata, limit })
}

/// A query's value as it was meant.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match escaped.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// One row of the table in docs/kubernetes.md: what may be asked for, and nothing wider.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// The row as it stands there.
    pub row: String,
    verbs: Vec<String>,
    resource: String,
    wher: String,
    /// `…` stands for anything but nothing.
    selectors: BTreeSet<String>,
    metadata: bool,
    page: u32,
}

impl Allowed {
    /// The rows of the table.
    #[must_use]
    pub fn table() -> Vec<Self> {
        let text = fs::read_to_string(repository("docs/kubernetes.md")).unwrap();
        let (_, rest) = text.split_once("\n## What it reads of the API server\n").unwrap();
        let table = rest.split("\n## ").next().unwrap();
        let rows: Vec<Self> = table.lines().filter(|line| line.starts_with("| `")).map(Self::of).collect();
        assert!(rows.len() > 10, "the table is not found");
        rows
    }

    fn of(line: &str) -> Self {
        let cells: Vec<String> =
            line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect();
        let [resource, verbs, wher, selectors, form, page, why] =
            <[String; 7]>::try_from(cells).unwrap_or_else(|cells| unreadable(line, &cells));
        assert!(!why.is_empty(), "without a reason: {line}");
        assert!(["metadata", "whole"].contains(&form.as_str()), "{line}");
        let selectors = selectors.split("; ").filter(|one| *one != "–").map(str::to_owned).collect();
        let verbs = verbs.split(", ").map(str::to_owned).collect();
        Self {
            row: line.to_owned(),
            verbs,
            resource,
            wher,
            selectors,
            metadata: form == "metadata",
            page: page.parse().unwrap(),
        }
    }

    /// Whether it tells of that verb of that kind.
    #[must_use]
    pub fn tells(&self, verb: &str, resource: &str) -> bool {
        self.resource == resource && self.verbs.iter().any(|one| one == verb)
    }

    /// Whether it is watched.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.verbs.iter().any(|verb| verb == "watch")
    }

    /// Whether a request is one of this row: at most its page, at least its selectors.
    #[must_use]
    pub fn covers(&self, asked: &Asked, home: &str) -> bool {
        let there = match self.wher.as_str() {
            "everywhere" => true,
            "one namespace" => asked.namespace.is_some(),
            _ => asked.namespace.as_deref() == Some(home),
        };
        let narrow = self.selectors.iter().all(|wanted| asked.selectors.iter().any(|one| fits(wanted, one)));
        let short = asked.verb == "watch" || asked.limit.is_some_and(|limit| limit <= self.page);
        self.resource == asked.resource
            && self.verbs.iter().any(|verb| verb == asked.verb)
            && there
            && narrow
            && short
            && (asked.metadata || !self.metadata)
    }
}

#[expect(clippy::panic, reason = "for tests: what cannot be done fails them")]
fn unreadable(line: &str, cells: &[String]) -> [String; 7] {
    panic!("{} cells and not 7: {line}", cells.len())
}

fn fits(wanted: &str, is: &str) -> bool {
    match wanted.split_once('…') {
        Some((begin, end)) => {
            is.len() > begin.len() + end.len() && is.starts_with(begin) && is.ends_with(end)
        }
        None => wanted == is,
    }
}

/// Requests that no row of the table allows.
#[must_use]
pub fn unbounded(asked: &BTreeSet<Asked>, home: &str) -> Vec<Asked> {
    let table = Allowed::table();
    let of_secrets = |one: &&Asked| one.resource == "secrets" && !one.metadata;
    let wide = |one: &&Asked| of_secrets(one) || !table.iter().any(|row| row.covers(one, home));
    asked.iter().filter(wide).cloned().collect()
}

impl ApiServer {
    /// A door in front of it for one of its users.
    #[must_use]
    pub fn recorded(&self, user: &str) -> Recorder {
        Recorder::before(&self.kubeconfig(user))
    }
}
