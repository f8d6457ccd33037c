//! The agent's end over gRPC: one task that connects, sends again what was not acknowledged, and connects again.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use model::{AgentEpoch, CommandKey, Down, NodeId, Seq, Timestamp, Up};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Endpoint};

use crate::{
    convert::{FromController, frame_from_up, from_controller},
    fence::{Fence, NotAdmitted},
    identity::{Credentials, Subject},
    link::{AgentLink, FrameError, LinkError, MAX_FRAME, MAX_UNACKED_REPORTS},
    proto::{self, link_client::LinkClient},
    tls,
};

/// Outcomes kept until the controller has received them. A controller that misses one sends its command again.
const MAX_UNRECEIVED_OUTCOMES: usize = 256;

/// How to reach the controller.
#[derive(Debug, Clone)]
pub struct ConnectConfig {
    /// `host:port`.
    pub address: String,
    /// Ours; the certificate must name [`ConnectConfig::node`].
    pub credentials: Credentials,
    /// Who we are.
    pub node: NodeId,
    /// Messages that wait in each direction.
    pub capacity: usize,
    /// Longest time for reaching the controller, and for each step of the handshake.
    pub step_limit: Duration,
    /// First pause after a failure; it doubles up to [`ConnectConfig::longest_pause`], and each is drawn from its upper half.
    pub first_pause: Duration,
    /// See `first_pause`.
    pub longest_pause: Duration,
    /// A silent connection is probed after this, and given up after twice this.
    pub keep_alive: Duration,
    /// How long to wait for acknowledgements when the agent closes its end.
    pub drain_limit: Duration,
    /// Which leaderships are still listened to; without it, any.
    pub fence: Option<Arc<Fence>>,
}

impl ConnectConfig {
    /// With the usual times.
    #[must_use]
    pub fn new(address: impl Into<String>, node: NodeId, credentials: Credentials) -> Self {
        Self {
            address: address.into(),
            credentials,
            node,
            capacity: 256,
            step_limit: Duration::from_secs(10),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            drain_limit: Duration::from_secs(3),
            fence: None,
        }
    }
}

/// Where the connection stands, for the node's status and for `hemostat doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not connected; why the last try failed, in a person's words.
    Down {
        /// Tries since the last connection.
        tries: u64,
        /// Why; empty before the first try.
        because: String,
    },
    /// The controller has said welcome.
    Up,
}

/// The task behind a link over gRPC.
#[derive(Debug)]
pub struct Connection {
    /// Where it stands.
    pub state: watch::Receiver<LinkState>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Connection {
    /// Ends it. Dropping the link's `up` before gives what was sent the time to be acknowledged.
    pub async fn close(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the link's task ended badly");
        }
    }

    /// Waits until it has ended by itself, which it does when the link's `up` is dropped.
    pub async fn ended(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the link's task ended badly");
        }
    }
}

/// Starts the agent's end. It connects when the first [`Up::Hello`] has come, and for ever again after a failure.
#[must_use]
pub fn connect(config: ConnectConfig) -> (AgentLink, Connection) {
    let (up, from_agent) = mpsc::channel(config.capacity);
    let (to_agent, down) = mpsc::channel(config.capacity);
    let (state_sender, state) = watch::channel(LinkState::Down { tries: 0, because: String::new() });
    let cancel = CancellationToken::new();
    let end = AgentEnd {
        config,
        from_agent,
        to_agent,
        state: state_sender,
        unacked: Unacked::default(),
        agent_closed: AgentClosed::No,
    };
    let task = tokio::spawn(end.run(cancel.clone()));
    (AgentLink { up, down }, Connection { state, cancel, task })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AgentClosed {
    No,
    Yes,
}

struct AgentEnd {
    config: ConnectConfig,
    from_agent: mpsc::Receiver<Up>,
    to_agent: mpsc::Sender<Down>,
    state: watch::Sender<LinkState>,
    unacked: Unacked,
    agent_closed: AgentClosed,
}

impl AgentEnd {
    async fn run(mut self, cancel: CancellationToken) {
        let Some(epoch) = self.first_hello(&cancel).await else { return };
        let mut tries = 0_u64;
        loop {
            let ended = tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.session(epoch, &mut tries) => ended,
            };
            let Err(error) = ended else { return };
            tries += 1;
            tracing::warn!(%error, tries, "no link to the controller");
            self.state.send_replace(LinkState::Down { tries, because: error.to_string() });
            if self.agent_closed == AgentClosed::Yes {
                return; // what is unacknowledged stays in the agent's spool
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(self.pause(tries)) => {}
            }
        }
    }

    async fn first_hello(&mut self, cancel: &CancellationToken) -> Option<AgentEpoch> {
        loop {
            let up = tokio::select! {
                () = cancel.cancelled() => return None,
                up = self.from_agent.recv() => up?,
            };
            match up {
                Up::Hello { epoch, .. } => return Some(epoch),
                _ => tracing::error!("a message before Hello was dropped: the agent must say Hello first"),
            }
        }
    }

    /// One connection from its beginning to its end. `Ok` when the agent has closed its end and all is acknowledged.
    async fn session(&mut self, epoch: AgentEpoch, tries: &mut u64) -> Result<(), LinkError> {
        let (to_wire, frames) = mpsc::channel(16);
        let (mut from_wire, broke, identity) = self.open(&to_wire, frames, epoch).await?;
        let explain =
            |error: LinkError| tls::explain(&broke, &self.config.address, &identity).unwrap_or(error);
        match next(&mut from_wire, &self.config.address, self.config.step_limit).await.map_err(explain)? {
            FromController::Welcome { epoch } => self.admit(epoch)?,
            other => {
                let frame = FrameError::OutOfPlace { expected: "a welcome", found: other.name() };
                return Err(LinkError::Frame { from: self.config.address.clone(), frame });
            }
        }
        *tries = 0;
        self.state.send_replace(LinkState::Up);
        tracing::info!(controller = %self.config.address, resent = self.unacked.reports.len(), "link to the controller");
        self.unacked.resend_all();
        self.exchange(&to_wire, &mut from_wire)
            .await
            .map_err(|error| tls::explain(&broke, &self.config.address, &identity).unwrap_or(error))
    }

    /// What is written down before anything of this connection is taken, an older leader cannot take back.
    fn admit(&self, epoch: u64) -> Result<(), LinkError> {
        let Some(fence) = &self.config.fence else { return Ok(()) };
        fence.admit(epoch).map_err(|because| match because {
            NotAdmitted::Superseded { seen } => LinkError::Frame {
                from: self.config.address.clone(),
                frame: FrameError::Superseded { found: epoch, seen },
            },
            NotAdmitted::Unwritten(source) => LinkError::Ended {
                address: self.config.address.clone(),
                because: format!("which leadership this is cannot be written down: {source}"),
            },
        })
    }

    async fn open(
        &self,
        to_wire: &mpsc::Sender<proto::AgentFrame>,
        frames: mpsc::Receiver<proto::AgentFrame>,
        epoch: AgentEpoch,
    ) -> Result<(Streaming<proto::ControllerFrame>, tls::Broke, crate::identity::Identity), LinkError> {
        let config = &self.config;
        let address = &config.address;
        let limited = |step: &'static str| LinkError::TimedOut {
            step,
            address: address.clone(),
            limit: config.step_limit,
        };
        let identity = config.credentials.load()?;
        identity.check_time(now())?;
        if identity.subject != Subject::Node(config.node.clone()) {
            let certified = identity.describe();
            let frame = FrameError::ForeignNode { said: config.node.to_string(), certified };
            return Err(LinkError::Frame { from: "this agent".into(), frame });
        }
        let tcp = timeout(config.step_limit, TcpStream::connect(address))
            .await
            .map_err(|_| limited("connecting"))?
            .map_err(|source| LinkError::Unreachable { address: address.clone(), source })?;
        tcp.set_nodelay(true)
            .map_err(|source| LinkError::Unreachable { address: address.clone(), source })?;
        let tls = timeout(config.step_limit, tls::connect(tcp, address, &identity))
            .await
            .map_err(|_| limited("the TLS handshake"))??;
        let broke = tls.broke.clone();
        let explain = |because: String| {
            tls::explain(&broke, address, &identity)
                .unwrap_or_else(|| LinkError::Ended { address: address.clone(), because })
        };

        // tonic asks the connector once; the stream is already there. A second call would be a reconnection behind our back.
        let mut ready = Some(tls);
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let stream =
                ready.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection ended"));
            std::future::ready(stream)
        });
        let opening = async {
            let channel = Endpoint::from_static("http://controller.hemostat.internal")
                .http2_keep_alive_interval(config.keep_alive)
                .keep_alive_timeout(config.keep_alive)
                .keep_alive_while_idle(true)
                .connect_with_connector(connector)
                .await
                .map_err(|error| explain(chain(&error)))?;
            let hello = frame_from_up(&Up::Hello { node: config.node.clone(), epoch })
                .map_err(|frame| LinkError::Frame { from: "this agent".into(), frame })?;
            // The queue is empty and its receiver is in our hands: this cannot fail or wait.
            let _ = to_wire.try_send(hello);
            let response = LinkClient::new(channel)
                .max_decoding_message_size(MAX_FRAME)
                .max_encoding_message_size(MAX_FRAME)
                .open(ReceiverStream::new(frames))
                .await
                .map_err(|status| explain(status_text(&status)))?;
            Ok::<_, LinkError>(response.into_inner())
        };
        let inbound =
            timeout(config.step_limit, opening).await.map_err(|_| limited("opening the stream"))??;
        Ok((inbound, broke, identity))
    }

    async fn exchange(
        &mut self,
        to_wire: &mpsc::Sender<proto::AgentFrame>,
        from_wire: &mut Streaming<proto::ControllerFrame>,
    ) -> Result<(), LinkError> {
        let address = self.config.address.clone();
        let mut for_agent: Option<Down> = None;
        let mut drained_by: Option<Instant> = None;
        loop {
            if self.agent_closed == AgentClosed::Yes {
                let by = *drained_by.get_or_insert_with(|| Instant::now() + self.config.drain_limit);
                if self.unacked.is_empty() || Instant::now() >= by {
                    return Ok(());
                }
            }
            tokio::select! {
                biased;
                frame = from_wire.message(), if for_agent.is_none() => {
                    match received(frame, &address)? {
                        FromController::Welcome { .. } => {
                            let frame = FrameError::OutOfPlace { expected: "a message", found: "a welcome" };
                            return Err(LinkError::Frame { from: address, frame });
                        }
                        FromController::OutcomeReceived { key, phase } => self.unacked.received(&key, &phase),
                        FromController::Down(down) => {
                            if let Down::Ack { upto } = &down {
                                self.unacked.acknowledged(*upto);
                            }
                            for_agent = Some(down);
                        }
                    }
                }
                permit = self.to_agent.reserve(), if for_agent.is_some() => {
                    match (permit, for_agent.take()) {
                        (Ok(permit), Some(down)) => permit.send(down),
                        // The agent no longer listens; it may still wait for acknowledgements of what it said.
                        (Err(_), _) | (_, None) => {}
                    }
                }
                permit = to_wire.reserve(), if self.unacked.has_unsent() => {
                    let Ok(permit) = permit else {
                        return Err(LinkError::Ended { address, because: "the sending half was closed".into() });
                    };
                    if let Some(frame) = self.unacked.next_unsent() {
                        permit.send(frame);
                    }
                }
                up = self.from_agent.recv(), if self.agent_closed == AgentClosed::No && self.unacked.has_room() => {
                    match up {
                        Some(up) => self.unacked.take_in(up),
                        None => self.agent_closed = AgentClosed::Yes,
                    }
                }
                () = sleep_until(drained_by) => {}
            }
        }
    }

    /// Doubles with each try up to the longest; drawn from its upper half, so that a thousand agents do not come at once.
    fn pause(&self, tries: u64) -> Duration {
        let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        let pause = self.config.first_pause.saturating_mul(1 << doublings).min(self.config.longest_pause);
        let random = RandomState::new().hash_one(tries);
        pause.mul_f64(0.5 + (random % 1024) as f64 / 2048.0)
    }
}

/// What was taken from the agent and is not yet in the controller's hands.
#[derive(Default)]
struct Unacked {
    reports: VecDeque<(Seq, proto::AgentFrame)>,
    reports_sent: usize,
    outcomes: VecDeque<(CommandKey, String, proto::AgentFrame)>,
    outcomes_sent: usize,
    /// The newest status only.
    status: Option<proto::AgentFrame>,
}

impl Unacked {
    fn take_in(&mut self, up: Up) {
        let frame = match frame_from_up(&up) {
            Ok(frame) => frame,
            Err(error) => {
                // The agent cuts its reports to MAX_FRAME before it spools them, so this is a fault of ours; to keep it would
                // block everything behind it for ever.
                tracing::error!(%error, "a message that cannot be sent was dropped");
                return;
            }
        };
        match up {
            Up::Report { seq, .. } => self.reports.push_back((seq, frame)),
            Up::Outcome(outcome) => {
                if self.outcomes.len() == MAX_UNRECEIVED_OUTCOMES {
                    self.outcomes.pop_front();
                    self.outcomes_sent = self.outcomes_sent.saturating_sub(1);
                }
                self.outcomes.push_back((outcome.key, outcome.phase, frame));
            }
            Up::Status(_) => self.status = Some(frame),
            Up::Hello { .. } => {}
        }
    }

    fn has_room(&self) -> bool {
        self.reports.len() < MAX_UNACKED_REPORTS
    }

    fn has_unsent(&self) -> bool {
        self.status.is_some()
            || self.outcomes_sent < self.outcomes.len()
            || self.reports_sent < self.reports.len()
    }

    /// Outcomes first: a containment's answer is waited for.
    fn next_unsent(&mut self) -> Option<proto::AgentFrame> {
        if let Some((_, _, frame)) = self.outcomes.get(self.outcomes_sent) {
            self.outcomes_sent += 1;
            return Some(frame.clone());
        }
        if let Some(status) = self.status.take() {
            return Some(status);
        }
        let (_, frame) = self.reports.get(self.reports_sent)?;
        self.reports_sent += 1;
        Some(frame.clone())
    }

    fn acknowledged(&mut self, upto: Seq) {
        while self.reports.front().is_some_and(|(seq, _)| *seq <= upto) {
            self.reports.pop_front();
            self.reports_sent = self.reports_sent.saturating_sub(1);
        }
    }

    fn received(&mut self, key: &str, phase: &str) {
        let at = self.outcomes.iter().position(|(k, p, _)| k.as_str() == key && p == phase);
        if let Some(at) = at {
            self.outcomes.remove(at);
            if at < self.outcomes_sent {
                self.outcomes_sent -= 1;
            }
        }
    }

    fn resend_all(&mut self) {
        self.reports_sent = 0;
        self.outcomes_sent = 0;
    }

    fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.outcomes.is_empty() && self.status.is_none()
    }
}

async fn next(
    from_wire: &mut Streaming<proto::ControllerFrame>,
    address: &str,
    limit: Duration,
) -> Result<FromController, LinkError> {
    let frame = timeout(limit, from_wire.message()).await.map_err(|_| LinkError::TimedOut {
        step: "waiting for a welcome",
        address: address.into(),
        limit,
    })?;
    received(frame, address)
}

fn received(
    frame: Result<Option<proto::ControllerFrame>, tonic::Status>,
    address: &str,
) -> Result<FromController, LinkError> {
    let ended = |because: String| LinkError::Ended { address: address.into(), because };
    let frame = frame
        .map_err(|status| ended(status_text(&status)))?
        .ok_or_else(|| ended("the controller closed it".into()))?;
    from_controller(frame).map_err(|frame| LinkError::Frame { from: address.into(), frame })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn status_text(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Wall clock, for the validity of our own certificate only.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
