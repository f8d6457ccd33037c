//! Cilium's flows, asked for at a Hubble relay (or a node's own Hubble) and followed.
//!
//! After a break it asks for all since a little before the last flow that is on disk; what it has already is known by its key. A relay keeps only
//! so many flows for each node: what was pushed out there meanwhile is lost, and the relay does not say so.

mod json;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use model::Timestamp;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use self::proto::{
    GetFlowsRequest, GetFlowsResponse, NodeState, get_flows_response::ResponseTypes,
    observer_client::ObserverClient,
};
use super::{
    super::{
        Start,
        inbox::{Durable, Entry, InboxError, Key},
        spec::{RelayAddress, RelayDoor},
    },
    Backoff, Post, Stopped,
    desk::Count,
};

/// Generated from `proto/hubble.proto`.
#[expect(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::large_enum_variant,
    clippy::enum_variant_names,
    reason = "generated code"
)]
pub(super) mod proto {
    tonic::include_proto!("observer");
}

/// What the relay may be behind itself when it joins what its nodes tell.
const OVERLAP: Duration = Duration::from_secs(5);
/// Flows put into the inbox at once, and how long one waits for others.
const AT_ONCE: usize = 256;
const TICK: Duration = Duration::from_millis(200);
/// How often what was written is made durable, and how far it goes is written down.
const SYNC: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Follows until it is told to stop.
pub(super) async fn follow(door: &RelayDoor, post: &Post) {
    let resume = Resume(post.inbox.log().with_file_name("resume"));
    let from = match (resume.load(), post.start) {
        (Ok(Some(last)), _) => last,
        (Ok(None), Start::Beginning) => Timestamp(0),
        (Ok(None), Start::Now) => post.now(),
        (Err(error), _) => {
            tracing::error!(%error, "how far flows were read is not known: all that the relay has are read");
            Timestamp(0)
        }
    };
    // Written down before the first flow: what comes from now on is read also after a crash.
    let mut following = Following { post, resume, last: from, batch: Vec::new(), written: None };
    following.remember();
    let mut backoff = Backoff::new();
    loop {
        match following.one(door).await {
            Ok(Stopped::Yes) => return,
            Ok(Stopped::No) => {
                post.desk.blind(Some(format!("{}: the relay has ended the stream", address(door))));
                backoff = Backoff::new();
            }
            Err(because) => post.desk.blind(Some(format!("{}: {because}", address(door)))),
        }
        if post.rest(backoff.next()).await == Stopped::Yes {
            return;
        }
    }
}

struct Following<'a> {
    post: &'a Post,
    resume: Resume,
    /// Time of the newest flow.
    last: Timestamp,
    batch: Vec<(Key, Vec<u8>)>,
    written: Option<Timestamp>,
}

impl Following<'_> {
    /// One connection, to its end.
    async fn one(&mut self, door: &RelayDoor) -> Result<Stopped, String> {
        let since = self.written.unwrap_or(self.last);
        let connected = tokio::select! {
            () = self.post.stop.cancelled() => return Ok(Stopped::Yes),
            connected = tokio::time::timeout(PATIENCE, connect(door)) => connected,
        };
        let channel = connected.map_err(|_| "no connection in time".to_owned())??;
        let since = since.0.saturating_sub(nanos(OVERLAP)).max(0);
        let since = prost_types::Timestamp {
            seconds: since / 1_000_000_000,
            nanos: i32::try_from(since % 1_000_000_000).unwrap_or(0),
        };
        let request = GetFlowsRequest { number: 0, follow: true, since: Some(since) };
        let mut client = ObserverClient::new(channel);
        let asked = tokio::select! {
            () = self.post.stop.cancelled() => return Ok(Stopped::Yes),
            asked = client.get_flows(request) => asked,
        };
        let mut stream = asked.map_err(|status| said(&status))?.into_inner();
        self.post.desk.blind(None);
        let (mut tick, mut sync) = (tokio::time::interval(TICK), tokio::time::interval(SYNC));
        loop {
            let message = tokio::select! {
                biased;
                () = self.post.stop.cancelled() => {
                    self.flush().await;
                    self.remember();
                    return Ok(Stopped::Yes);
                }
                _ = sync.tick() => {
                    self.flush().await;
                    self.remember();
                    continue;
                }
                _ = tick.tick() => {
                    self.flush().await;
                    continue;
                }
                message = stream.message() => message,
            };
            match message {
                Ok(Some(message)) => self.hear(message),
                Ok(None) => {
                    self.flush().await;
                    self.remember();
                    return Ok(Stopped::No);
                }
                Err(status) => {
                    self.flush().await;
                    self.remember();
                    return Err(said(&status));
                }
            }
            if self.batch.len() >= AT_ONCE {
                self.flush().await;
            }
        }
    }

    fn hear(&mut self, message: GetFlowsResponse) {
        let now = self.post.now();
        match message.response_types {
            Some(ResponseTypes::Flow(flow)) => {
                let time = flow.time.or(message.time).map_or(now, |time| {
                    Timestamp(
                        time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos)),
                    )
                });
                // A relay's clock may be wrong, its flows must not make us ask for the future.
                self.last = self.last.max(time.min(now));
                // An answer says nothing of who began.
                if flow.is_reply == Some(true) {
                    return;
                }
                let text = json::text(&flow, time);
                let key =
                    if flow.uuid.is_empty() { Key::of(&[&text]) } else { Key::of(&[flow.uuid.as_bytes()]) };
                self.batch.push((key, text));
            }
            Some(ResponseTypes::LostEvents(lost)) => {
                let what = format!("by Hubble on node {:.100}", message.node_name);
                self.post.desk.note(Count::Lost, lost.num_events_lost, now, what);
            }
            Some(ResponseTypes::NodeStatus(status)) => {
                let gone = matches!(status.state_change(), NodeState::NodeUnavailable | NodeState::NodeError);
                let nodes: Vec<&str> = status.node_names.iter().take(8).map(String::as_str).collect();
                let what =
                    format!("the relay has no flows of {:.300}: {:.200}", nodes.join(", "), status.message);
                self.post.desk.fact("nodes", gone.then_some(what));
            }
            None => {}
        }
    }

    /// Into the inbox; while that is full the relay waits.
    async fn flush(&mut self) {
        while !self.batch.is_empty() {
            let now = self.post.now();
            let entries: Vec<Entry<'_>> =
                self.batch.iter().map(|(key, text)| Entry { key: *key, body: Ok(text) }).collect();
            match self.post.inbox.append(now, "relay", &entries, Durable::Later) {
                Ok(taken) => {
                    self.post.desk.count(Count::Received, taken.new + taken.again);
                    self.post.desk.count(Count::Repeated, taken.again);
                    self.batch.clear();
                }
                Err(error) => {
                    if !matches!(error, InboxError::Full { .. }) {
                        tracing::error!(%error, "flows cannot be stored");
                    }
                    self.post.desk.note(Count::Full, 1, now, error.to_string());
                    if self.post.rest(TICK).await == Stopped::Yes {
                        // They are not written down as read: they come again.
                        self.batch.clear();
                        self.last = self.written.unwrap_or(Timestamp(0));
                        return;
                    }
                }
            }
        }
    }

    /// Makes durable what was put in, and then how far that goes.
    fn remember(&mut self) {
        if self.written == Some(self.last) {
            return;
        }
        let kept = self.post.inbox.sync().map_err(|error| error.to_string());
        match kept.and_then(|()| self.resume.save(self.last).map_err(|error| error.to_string())) {
            Ok(()) => self.written = Some(self.last),
            Err(error) => tracing::error!(error, "how far flows are read cannot be written down"),
        }
    }
}

async fn connect(door: &RelayDoor) -> Result<Channel, String> {
    let endpoint = |uri: String| {
        let endpoint = Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
        Ok::<_, String>(
            endpoint
                .connect_timeout(PATIENCE)
                .http2_keep_alive_interval(PATIENCE)
                .keep_alive_timeout(PATIENCE)
                .keep_alive_while_idle(true),
        )
    };
    let connected = match &door.address {
        RelayAddress::Plain(host) => endpoint(format!("http://{host}"))?.connect().await,
        RelayAddress::Tls(host) => {
            let mut tls = ClientTlsConfig::new();
            if let Some(ca) = &door.ca {
                tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
            }
            if let Some((cert, key)) = &door.identity {
                tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
            }
            if let Some(name) = &door.name {
                tls = tls.domain_name(name);
            }
            let endpoint = endpoint(format!("https://{host}"))?;
            endpoint.tls_config(tls).map_err(|error| chain(&error))?.connect().await
        }
        RelayAddress::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_: tonic::transport::Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            endpoint("http://hubble.local".into())?.connect_with_connector(connector).await
        }
    };
    connected.map_err(|error| chain(&error))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn said(status: &tonic::Status) -> String {
    format!("{:?}: {:.300}", status.code(), status.message())
}

/// tonic's errors say what matters in their sources only.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

fn address(door: &RelayDoor) -> String {
    match &door.address {
        RelayAddress::Tls(host) | RelayAddress::Plain(host) => host.clone(),
        RelayAddress::Unix(path) => path.display().to_string(),
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// Up to when flows are on disk.
struct Resume(PathBuf);

impl Resume {
    fn load(&self) -> io::Result<Option<Timestamp>> {
        match fs::read_to_string(&self.0) {
            Ok(text) => text.trim().parse().map(|at| Some(Timestamp(at))).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn save(&self, at: Timestamp) -> io::Result<()> {
        let next = self.0.with_extension("new");
        fs::write(&next, at.0.to_string())?;
        fs::File::open(&next)?.sync_all()?;
        fs::rename(&next, &self.0)
    }
}

#[cfg(test)]
mod tests;
