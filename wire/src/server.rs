//! The controller's end over gRPC: one listener, one [`ControllerLink`] for each connection of a node.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::{NodeId, Up};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{
    client::{now, status_text},
    convert::{frame_from_down, outcome_received, up_from_frame, welcome},
    enrol::{Desk, Registrar},
    identity::{Credentials, Subject},
    link::{ControllerLink, FrameError, LinkError, MAX_FRAME},
    proto::{
        self,
        enrol_server::EnrolServer,
        link_server::{Link, LinkServer},
    },
    strangers::Strangers,
    tls,
};

/// Handshakes that may be under way at once; more wait in the kernel's accept queue. Of one address there are fewer
/// ([`ListenConfig::strangers`]), so that no single machine fills them.
const MAX_HANDSHAKES: usize = 256;

/// Frames that wait to be sent to one node.
const OUTBOX: usize = 16;

type Accepted = tls::Stream<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>;

/// Where to listen, and as whom.
#[derive(Clone)]
pub struct ListenConfig {
    /// Address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Ours; the certificate must name the controller.
    pub credentials: Credentials,
    /// Messages that wait in each direction of each link.
    pub capacity: usize,
    /// Connections at once; more are closed with a reason.
    pub max_nodes: usize,
    /// Longest time for a handshake and for Hello.
    pub step_limit: Duration,
    /// A silent connection is probed after this, and given up after twice this.
    pub keep_alive: Duration,
    /// Who gives certificates to agents that have none; without one nobody is let in without a certificate.
    pub registrar: Option<Arc<dyn Registrar>>,
    /// Which leadership this is, where there is an election: agents take no orders of an earlier one ([`crate::fence`]).
    pub epoch: u64,
    /// Connections of those who have shown no certificate, at once: of all, and of one address (I11). More are closed at once.
    pub strangers: (usize, usize),
    /// Somebody without a certificate has this long, from the connection's first byte to its last.
    pub stranger_limit: Duration,
}

impl std::fmt::Debug for ListenConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenConfig").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ListenConfig {
    /// With the usual limits.
    #[must_use]
    pub fn new(address: SocketAddr, credentials: Credentials) -> Self {
        Self {
            address,
            credentials,
            capacity: 256,
            max_nodes: 10_000,
            step_limit: Duration::from_secs(10),
            keep_alive: Duration::from_secs(10),
            registrar: None,
            epoch: 0,
            strangers: (256, 32),
            stranger_limit: Duration::from_secs(20),
        }
    }

    fn whom(&self) -> tls::Strangers {
        if self.registrar.is_some() { tls::Strangers::MayAsk } else { tls::Strangers::Refused }
    }
}

/// Accepts agents.
#[derive(Debug)]
pub struct Listener {
    /// Where it really listens.
    pub address: SocketAddr,
    links: mpsc::Receiver<ControllerLink>,
    refusals: mpsc::Receiver<LinkError>,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Listener {
    /// The next node that has said Hello. `None` after [`Listener::close`].
    pub async fn accept(&mut self) -> Option<ControllerLink> {
        self.links.recv().await
    }

    /// The next connection that was refused, with the reason; also logged. Refusals that nobody takes are forgotten beyond 64.
    pub async fn refused(&mut self) -> Option<LinkError> {
        self.refusals.recv().await
    }

    /// Ends every connection and waits for it.
    pub async fn close(self) {
        self.cancel.cancel();
        drop(self.links);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the listener ended badly");
            }
        }
    }
}

/// Begins to listen.
///
/// # Errors
/// When our credentials are not usable, do not name the controller or are outside their time, or the address is taken.
pub async fn listen(config: ListenConfig) -> Result<Listener, LinkError> {
    let identity = config.credentials.load()?;
    identity.check_time(now())?;
    if identity.subject != Subject::Controller {
        return Err(crate::identity::IdentityError::Nameless { certificate: identity.describe() }.into());
    }
    let failed = |source| LinkError::Listen { address: config.address, source };
    let tcp = TcpListener::bind(config.address).await.map_err(failed)?;
    let address = tcp.local_addr().map_err(failed)?;

    let cancel = CancellationToken::new();
    let (to_links, links) = mpsc::channel(64);
    let (to_refusals, refusals) = mpsc::channel(64);
    let (to_http, accepted) = mpsc::channel(MAX_HANDSHAKES);
    let sessions = TaskTracker::new();
    let service = Door {
        links: to_links,
        refusals: to_refusals.clone(),
        nodes: Arc::default(),
        limits: Arc::new(config.clone()),
        cancel: cancel.clone(),
        sessions: sessions.clone(),
    };
    let keep_alive = config.keep_alive;
    let desk = config.registrar.clone().map(|registrar| EnrolServer::new(Desk::new(registrar)));
    let desk = desk.map(|desk| desk.max_decoding_message_size(Desk::LARGEST));
    let accepting = tokio::spawn(accept_loop(tcp, config, to_http, to_refusals, cancel.clone()));
    let stop = cancel.clone();
    let serving = tokio::spawn(async move {
        let http = Server::builder()
            .http2_keepalive_interval(Some(keep_alive))
            .http2_keepalive_timeout(Some(keep_alive))
            .max_concurrent_streams(4)
            .add_service(
                LinkServer::new(service)
                    .max_decoding_message_size(MAX_FRAME)
                    .max_encoding_message_size(MAX_FRAME),
            )
            .add_optional_service(desk)
            .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop.cancelled());
        if let Err(error) = http.await {
            tracing::error!(%error, "the listener ended");
        }
        sessions.close();
        sessions.wait().await;
    });
    Ok(Listener { address, links, refusals, cancel, tasks: vec![accepting, serving] })
}

async fn accept_loop(
    tcp: TcpListener,
    config: ListenConfig,
    accepted: mpsc::Sender<Result<Accepted, std::io::Error>>,
    refusals: mpsc::Sender<LinkError>,
    cancel: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let strangers = Strangers::new(config.strangers);
    let tasks = TaskTracker::new();
    let config = Arc::new(config);
    loop {
        let accepting = async {
            // The semaphore is never closed.
            let permit = handshakes.clone().acquire_owned().await.ok();
            (permit, tcp.accept().await)
        };
        let (permit, stream) = tokio::select! {
            () = cancel.cancelled() => break,
            next = accepting => next,
        };
        let (stream, from) = match stream {
            Ok(pair) => pair,
            Err(error) => {
                // Out of file descriptors, or the peer was quicker: neither is mended by a busy loop.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = match strangers.place(from.ip()) {
            Ok(place) => place,
            Err(because) => {
                refuse(&refusals, LinkError::RefusedPeer { peer: from.to_string(), because });
                continue;
            }
        };
        let until = tokio::time::Instant::now() + config.stranger_limit;
        let (config, accepted, refusals) = (config.clone(), accepted.clone(), refusals.clone());
        let cancelled = cancel.clone();
        tasks.spawn(async move {
            let _permit = permit;
            let handshake = timeout(config.step_limit, handshake(stream, from, &config));
            let result = tokio::select! {
                () = cancelled.cancelled() => return,
                result = handshake => result,
            };
            let limit = config.step_limit;
            match result.unwrap_or(Err(LinkError::TimedOut {
                step: "the TLS handshake",
                address: from.to_string(),
                limit,
            })) {
                Ok(stream) => {
                    let stream = stream.bounded(place, until);
                    // Fails only when the server is ending.
                    let _ = accepted.send(Ok(stream)).await;
                }
                Err(error) => refuse(&refusals, error),
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn handshake(
    stream: tokio::net::TcpStream,
    from: SocketAddr,
    config: &ListenConfig,
) -> Result<Accepted, LinkError> {
    stream
        .set_nodelay(true)
        .map_err(|source| LinkError::Unreachable { address: from.to_string(), source })?;
    let identity = config.credentials.load()?;
    tls::accept(stream, from, &identity, config.whom()).await
}

fn refuse(refusals: &mpsc::Sender<LinkError>, error: LinkError) {
    tracing::warn!(%error, "refused a connection");
    // Full means that nobody asks for them; they are in the log.
    let _ = refusals.try_send(error);
}

struct Door {
    links: mpsc::Sender<ControllerLink>,
    refusals: mpsc::Sender<LinkError>,
    nodes: Arc<Mutex<HashMap<NodeId, (u64, CancellationToken)>>>,
    limits: Arc<ListenConfig>,
    cancel: CancellationToken,
    sessions: TaskTracker,
}

#[tonic::async_trait]
impl Link for Door {
    type OpenStream = ReceiverStream<Result<proto::ControllerFrame, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<proto::AgentFrame>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let peer = request
            .extensions()
            .get::<Option<tls::Peer>>()
            .cloned()
            .flatten()
            .ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let mut inbound = request.into_inner();
        let hello = self.hello(&mut inbound, &peer).await.map_err(|error| {
            let status = match &error {
                LinkError::Frame { frame: FrameError::ForeignNode { .. }, .. } => {
                    Status::permission_denied(error.to_string())
                }
                _ => Status::failed_precondition(error.to_string()),
            };
            refuse(&self.refusals, error);
            status
        })?;
        let (number, replaced) = self.register(&peer.node)?;

        let (to_controller, up) = mpsc::channel(self.limits.capacity);
        let (down, from_controller) = mpsc::channel(self.limits.capacity);
        let (to_wire, frames) = mpsc::channel(OUTBOX);
        let link = ControllerLink { node: peer.node.clone(), up, down };
        // Both queues are empty and their receivers are in our hands: these cannot fail.
        let _ = to_wire.try_send(Ok(welcome(self.limits.epoch)));
        let _ = to_controller.try_send(hello);
        self.links.send(link).await.map_err(|_| Status::unavailable("the controller is ending"))?;

        let session = Session { peer, to_controller, from_controller, to_wire, inbound };
        let (nodes, cancel) = (self.nodes.clone(), self.cancel.clone());
        self.sessions.spawn(async move {
            let node = session.peer.node.clone();
            session.run(cancel, replaced).await;
            let mut nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner);
            if nodes.get(&node).is_some_and(|(current, _)| *current == number) {
                nodes.remove(&node);
            }
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

impl Door {
    /// The first frame must be Hello, in time, and for the node that the certificate names.
    async fn hello(
        &self,
        inbound: &mut Streaming<proto::AgentFrame>,
        peer: &tls::Peer,
    ) -> Result<Up, LinkError> {
        let from = format!("node {} at {}", peer.node, peer.address);
        let limit = self.limits.step_limit;
        let frame = timeout(limit, inbound.message())
            .await
            .map_err(|_| LinkError::TimedOut { step: "waiting for Hello", address: from.clone(), limit })?
            .map_err(|status| LinkError::Ended { address: from.clone(), because: status_text(&status) })?
            .ok_or_else(|| LinkError::Ended {
                address: from.clone(),
                because: "it closed before Hello".into(),
            })?;
        let refused = |frame| LinkError::Frame { from: from.clone(), frame };
        match up_from_frame(frame).map_err(refused)? {
            Up::Hello { node, epoch } if node == peer.node => Ok(Up::Hello { node, epoch }),
            Up::Hello { node, .. } => Err(refused(FrameError::ForeignNode {
                said: node.to_string(),
                certified: peer.node.to_string(),
            })),
            _ => Err(refused(FrameError::OutOfPlace { expected: "Hello", found: "another frame" })),
        }
    }

    /// Notes the connection; an older one of the same node ends, since the node has evidently given it up.
    fn register(&self, node: &NodeId) -> Result<(u64, CancellationToken), Status> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= self.limits.max_nodes && !nodes.contains_key(node) {
            let full = format!("the controller already serves {} nodes, its limit", nodes.len());
            tracing::warn!(%node, "{full}");
            return Err(Status::resource_exhausted(full));
        }
        let replaced = CancellationToken::new();
        let number = nodes.get(node).map_or(1, |(number, _)| number + 1);
        if let Some((_, older)) = nodes.insert(node.clone(), (number, replaced.clone())) {
            older.cancel();
        }
        Ok((number, replaced))
    }
}

struct Session {
    peer: tls::Peer,
    to_controller: mpsc::Sender<Up>,
    from_controller: mpsc::Receiver<model::Down>,
    to_wire: mpsc::Sender<Result<proto::ControllerFrame, Status>>,
    inbound: Streaming<proto::AgentFrame>,
}

impl Session {
    async fn run(mut self, cancel: CancellationToken, replaced: CancellationToken) {
        let why = tokio::select! {
            () = cancel.cancelled() => Status::unavailable("the controller is ending"),
            () = until(self.peer.until) => Status::unauthenticated("the certificate has expired: connect again with a new one"),
            () = replaced.cancelled() => Status::aborted("a newer connection of this node has taken over"),
            status = exchange(&mut self.inbound, &self.to_controller, &mut self.from_controller, &self.to_wire, &self.peer) => status,
        };
        tracing::info!(node = %self.peer.node, from = %self.peer.address, because = %status_text(&why), "link ended");
        // If the peer does not read, it learns of it when the connection closes.
        let _ = self.to_wire.try_send(Err(why));
    }
}

/// A certificate that has ended no longer speaks for anybody, also on a connection that it opened in its time.
async fn until(end: model::Timestamp) {
    loop {
        let left = end.since(now());
        if left.is_zero() {
            return;
        }
        // In steps: the wall clock may be set meanwhile.
        tokio::time::sleep(left.min(Duration::from_secs(60))).await;
    }
}

/// Moves frames both ways until something ends; returns what to tell the node.
async fn exchange(
    inbound: &mut Streaming<proto::AgentFrame>,
    to_controller: &mpsc::Sender<Up>,
    from_controller: &mut mpsc::Receiver<model::Down>,
    to_wire: &mpsc::Sender<Result<proto::ControllerFrame, Status>>,
    peer: &tls::Peer,
) -> Status {
    let mut held: Option<Up> = None;
    let mut outbox: VecDeque<proto::ControllerFrame> = VecDeque::new();
    loop {
        tokio::select! {
            frame = inbound.message(), if held.is_none() && outbox.len() < OUTBOX => {
                let frame = match frame {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Status::ok("the node closed it"),
                    Err(status) => return status,
                };
                match up_from_frame(frame) {
                    Ok(Up::Hello { .. }) => return Status::failed_precondition("a second Hello"),
                    Ok(up) => held = Some(up),
                    Err(error) => {
                        tracing::warn!(node = %peer.node, %error, "refused a frame");
                        return Status::invalid_argument(format!("refused: {error}"));
                    }
                }
            }
            permit = to_controller.reserve(), if held.is_some() => {
                let Ok(permit) = permit else { return Status::unavailable("the controller closed the link") };
                if let Some(up) = held.take() {
                    if let Up::Outcome(outcome) = &up {
                        outbox.push_back(outcome_received(outcome));
                    }
                    permit.send(up);
                }
            }
            down = from_controller.recv(), if outbox.len() < OUTBOX => {
                let Some(down) = down else { return Status::unavailable("the controller closed the link") };
                match frame_from_down(&down) {
                    Ok(frame) => outbox.push_back(frame),
                    Err(error) => tracing::error!(node = %peer.node, %error, "a message that cannot be sent was dropped"),
                }
            }
            permit = to_wire.reserve(), if !outbox.is_empty() => {
                let Ok(permit) = permit else { return Status::unavailable("the connection ended") };
                if let Some(frame) = outbox.pop_front() {
                    permit.send(Ok(frame));
                }
            }
        }
    }
}
