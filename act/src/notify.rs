//! `notify.send`: people are told, or a ticket is opened, by HTTP.
//!
//! Channels are named in the controller's configuration: a playbook chooses one and never an address. The secret is read from its file
//! each time (so it can be rotated) and never logged. A message is sent at most once as far as the other side can tell: by a receipt here,
//! and by `Idempotency-Key`, PagerDuty's `dedup_key`, or a search for the ticket that an earlier try may have made.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use model::{ActionFailure, ClusterState, Notify, Outputs, Target, short_hash};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::percent_encoded,
    job::{Job, Look},
};

/// How long one try is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Waits between the tries of one message.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// Bytes of an answer, at most (I11).
const MAX_ANSWER: usize = 1 << 20;
/// Bytes of a message, at most (I11).
const MAX_MESSAGE: usize = 4096;

/// A place where people are told.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Channel {
    /// The name that playbooks use.
    pub name: String,
    /// What stands there.
    #[serde(flatten)]
    pub kind: ChannelKind,
    /// A file with what proves who we are, on one line: see [`ChannelKind`].
    pub secret_file: Option<PathBuf>,
}

/// What stands at the other end.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ChannelKind {
    /// Anything that takes JSON. The secret is a bearer token.
    Webhook {
        /// Where.
        url: String,
    },
    /// An incoming webhook of Slack, or what speaks like it. The secret is its address.
    Slack,
    /// Events API v2. The secret is the routing key.
    PagerDuty {
        /// Where; PagerDuty's own when absent.
        #[serde(default = "pagerduty")]
        url: String,
    },
    /// A ticket in Jira. The secret is `user:token` or a personal access token.
    Jira {
        /// Where Jira is.
        url: String,
        /// Key of the project.
        project: String,
        /// Type of the issue.
        #[serde(default = "task")]
        issue_type: String,
    },
    /// An issue on GitHub. The secret is a token.
    GitHub {
        /// Where its API is.
        #[serde(default = "github")]
        url: String,
        /// `owner/name`.
        repository: String,
    },
}

fn pagerduty() -> String {
    "https://events.pagerduty.com/v2/enqueue".into()
}

fn task() -> String {
    "Task".into()
}

fn github() -> String {
    "https://api.github.com".into()
}

/// Nothing is changed; whether the channel is there is known before anything is sent.
pub(crate) fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    channel(job)?;
    Ok(ClusterState::default())
}

pub(crate) async fn apply(job: &Job<'_>, with: &Notify) -> Result<Outputs, ActionFailure> {
    let receipt = receipt(job);
    if !receipt.exists() {
        if !(job.config.leads)() {
            return Err(ActionFailure::Io {
                operation: "tell".into(),
                object: job.target.to_string(),
                because: "this controller's lease has run out, so that it tells nobody".into(),
            });
        }
        let place = send(job, channel(job)?, with).await?;
        keep(&receipt, &place)
            .map_err(|error| ActionFailure::io("keep a receipt", receipt.display(), &error))?;
    }
    let place = fs::read_to_string(&receipt)
        .map_err(|error| ActionFailure::io("read a receipt", receipt.display(), &error))?;
    Ok(if place.is_empty() { Outputs::new() } else { Outputs::from([("url".to_owned(), json!(place))]) })
}

pub(crate) fn verify(job: &Job<'_>) -> Result<Look, ActionFailure> {
    let sent = receipt(job).exists();
    Ok(if sent { Look::InForce } else { Look::Missing("it was not taken by the other side".into()) })
}

fn channel<'a>(job: &Job<'a>) -> Result<&'a Channel, ActionFailure> {
    let Target::Channel { name } = job.target else { return Err(job.unsupported("it is no channel")) };
    job.config.channels.iter().find(|channel| channel.name == *name).ok_or_else(|| {
        job.unsupported(format!(
            "nobody is told: no channel is called {name} (--channels; the chart's notifications.channels)"
        ))
    })
}

/// Sends it; gives the address of what was made, where something was.
async fn send(job: &Job<'_>, channel: &Channel, with: &Notify) -> Result<String, ActionFailure> {
    let secret = secret(channel)?;
    let title = format!("Hemostat: {}", job.incident);
    let mut text = if with.message.is_empty() { title.clone() } else { with.message.clone() };
    text.truncate(text.floor_char_boundary(MAX_MESSAGE));
    let key = format!("{}/{}", job.incident, job.id);
    let bearer = |secret: &Option<String>| secret.as_ref().map(|secret| format!("Bearer {secret}"));
    match &channel.kind {
        ChannelKind::Webhook { url } => {
            let body = json!({"incident": job.incident, "action": job.id, "message": text, "at": (job.config.clock)()});
            post(job, url, &body, bearer(&secret), &key).await.map(|_| String::new())
        }
        ChannelKind::Slack => {
            let Some(url) = secret else { return Err(job.unsupported("its address is missing: secretFile")) };
            let body = json!({"text": slack(&format!("{title}\n{text}"))});
            post(job, &url, &body, None, &key).await.map(|_| String::new())
        }
        ChannelKind::PagerDuty { url } => {
            let body = json!({
                "routing_key": secret, "event_action": "trigger", "dedup_key": job.incident,
                "payload": {"summary": text.chars().take(1024).collect::<String>(), "source": "hemostat", "severity": "critical"},
            });
            post(job, url, &body, None, &key).await.map(|_| String::new())
        }
        ChannelKind::Jira { url, project, issue_type } => {
            let url = url.trim_end_matches('/');
            let proof = secret.map(|secret| match secret.split_once(':') {
                Some(_) => format!("Basic {}", base64(secret.as_bytes())),
                None => format!("Bearer {secret}"),
            });
            let label = label(job);
            let found = jira_issues(job, url, &label, proof.clone(), &key).await?;
            let made = match found["issues"].get(0) {
                Some(issue) => issue.clone(),
                None => {
                    let body = json!({"fields": {
                        "project": {"key": project}, "issuetype": {"name": issue_type},
                        "summary": title, "description": format!("{{noformat}}{}{{noformat}}", text.replace("{noformat}", "")),
                        "labels": ["hemostat", label],
                    }});
                    post(job, &format!("{url}/rest/api/2/issue"), &body, proof, &key).await?
                }
            };
            Ok(made["key"].as_str().map(|key| format!("{url}/browse/{key}")).unwrap_or_default())
        }
        ChannelKind::GitHub { url, repository } => {
            let issues = format!("{}/repos/{repository}/issues", url.trim_end_matches('/'));
            let label = label(job);
            let proof = bearer(&secret);
            let search = format!("{issues}?state=all&labels={}", percent_encoded(&label));
            let found = ask(job, Method::GET, &search, None, proof.clone(), &key).await?;
            let made = match found.get(0) {
                Some(issue) => issue.clone(),
                None => {
                    // Quoted, so that nothing of an attacker's becomes a link, a mention or a picture.
                    let body = json!({"title": title, "body": fenced(&text), "labels": ["hemostat", label]});
                    post(job, &issues, &body, proof, &key).await?
                }
            };
            Ok(made["html_url"].as_str().unwrap_or_default().to_owned())
        }
    }
}

/// Issues with a label. Jira in the cloud took away the one way of searching, Jira in a data center does not have the other
/// (<https://developer.atlassian.com/changelog/#CHANGE-2046>).
async fn jira_issues(
    job: &Job<'_>,
    url: &str,
    label: &str,
    proof: Option<String>,
    key: &str,
) -> Result<Value, ActionFailure> {
    let question = format!("fields=key&jql={}", percent_encoded(&format!("labels = \"{label}\"")));
    let search = format!("{url}/rest/api/2/search?{question}");
    match ask(job, Method::GET, &search, None, proof.clone(), key).await {
        Err(failure) if failure.to_string().contains(&answers(StatusCode::GONE)) => {
            let search = format!("{url}/rest/api/3/search/jql?{question}");
            ask(job, Method::GET, &search, None, proof, key).await
        }
        other => other,
    }
}

/// Of this action alone: by it a ticket is found that an earlier try made.
fn label(job: &Job<'_>) -> String {
    format!("hemostat-{}", job.hash())
}

async fn post(
    job: &Job<'_>,
    url: &str,
    body: &Value,
    proof: Option<String>,
    key: &str,
) -> Result<Value, ActionFailure> {
    ask(job, Method::POST, url, Some(body), proof, key).await
}

async fn ask(
    job: &Job<'_>,
    method: Method,
    url: &str,
    body: Option<&Value>,
    proof: Option<String>,
    key: &str,
) -> Result<Value, ActionFailure> {
    let mut tries = WAITS.iter();
    loop {
        let failure = match once(job, method.clone(), url, body, proof.clone(), key).await {
            Err(failure @ ActionFailure::Io { .. }) => failure,
            other => return other,
        };
        match tries.next() {
            Some(wait) => tokio::time::sleep(*wait).await,
            None => return Err(failure),
        }
    }
}

async fn once(
    job: &Job<'_>,
    method: Method,
    url: &str,
    body: Option<&Value>,
    proof: Option<String>,
    key: &str,
) -> Result<Value, ActionFailure> {
    // An address can be a secret, so it is in no message.
    let object = job.target.to_string();
    let failed =
        |because: String| ActionFailure::Io { operation: "tell".into(), object: object.clone(), because };
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|error| failed(format!("no certificates to trust: {error}")))?
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let mut request = Request::builder()
        .method(method)
        .uri(url)
        .header(header::USER_AGENT, concat!("hemostat/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json")
        .header("Idempotency-Key", key);
    if let Some(proof) = proof {
        let mut value = header::HeaderValue::from_str(&proof)
            .map_err(|_| job.unsupported("its secret is no header's value"))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let bytes = body.map(Value::to_string).unwrap_or_default();
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request =
        request.body(Full::new(Bytes::from(bytes))).map_err(|_| job.unsupported("its address is none"))?;
    let exchange = async {
        let answer = client.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            failed(format!("it cannot be reached: {cause}"))
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let bytes = body.map_err(|error| failed(format!("its answer cannot be read: {error}")))?.to_bytes();
        Ok::<_, ActionFailure>((status, bytes))
    };
    let (status, bytes) = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))??;
    if status.is_success() {
        return Ok(serde_json::from_slice(&bytes).unwrap_or_default());
    }
    if status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
    {
        return Err(failed(answers(status)));
    }
    Err(job.unsupported(answers(status)))
}

fn answers(status: StatusCode) -> String {
    format!("it answers {status}")
}

fn secret(channel: &Channel) -> Result<Option<String>, ActionFailure> {
    let Some(path) = &channel.secret_file else { return Ok(None) };
    let text = fs::read_to_string(path)
        .map_err(|error| ActionFailure::io("read the secret of a channel", path.display(), &error))?;
    Ok(Some(text.trim().to_owned()))
}

fn receipt(job: &Job<'_>) -> PathBuf {
    job.config.sent.join(short_hash([job.id.as_str()], 16))
}

fn keep(receipt: &PathBuf, text: &str) -> io::Result<()> {
    if let Some(folder) = receipt.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = receipt.with_extension("part");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, receipt)
}

/// <https://api.slack.com/reference/surfaces/formatting#escaping>
fn slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A block that shows its text as it is: its fence is longer than any in the text.
fn fenced(text: &str) -> String {
    let mut longest = 0;
    let mut run = 0;
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}\n{text}\n{fence}")
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_an_attacker_stays_text() {
        assert_eq!(slack("<!channel> & <http://x|y>"), "&lt;!channel&gt; &amp; &lt;http://x|y&gt;");
        assert_eq!(fenced("a ``` b @all"), "````\na ``` b @all\n````");
    }

    #[test]
    fn a_channel_is_read_from_the_configuration() {
        let read = |text: &str| serde_json::from_str::<Channel>(text);
        let channel =
            read(r#"{"name": "oncall", "kind": "pagerDuty", "secretFile": "/run/secrets/pd"}"#).unwrap();
        assert!(matches!(channel.kind, ChannelKind::PagerDuty { url } if url == pagerduty()));
        assert!(read(r#"{"name": "x", "kind": "carrierPigeon"}"#).is_err());
    }
}
