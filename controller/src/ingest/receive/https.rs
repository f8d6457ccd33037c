//! Records that are posted: the API server's audit webhook, identity providers' events.
//!
//! A sender is thanked only once what it sent is on disk (at least once); until then it is told to come again. Who speaks is asked for before
//! a body is read, but for a signature, which is of the body.

mod seats;
mod speaker;
mod token;

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use self::{
    seats::{Seat, Seats},
    speaker::{Speaker, Tls},
};
use super::{
    super::{
        inbox::{Durable, Entry, InboxError, Key},
        read::{Format, Rejected},
        spec::HttpsDoor,
    },
    Backoff, Post, Stopped,
    desk::Count,
    split::{entry, split},
};

/// Longest body. The API server's own limit of a batch is 10 MiB (`--audit-webhook-truncate-max-batch-size`).
const MAX_BODY: usize = 16 << 20;

/// KiB of all bodies together that are held at once.
const MAX_BODIES_KIB: u32 = 64 << 10;

/// For the handshake; for a request's head, also between two requests; for its body, and for the next piece of that.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
const BODY: Duration = Duration::from_secs(30);
const PIECE: Duration = Duration::from_secs(10);

/// How long room for a body is waited for before somebody is asked for his.
const ASK: Duration = Duration::from_secs(1);

/// A source's server.
struct Server {
    format: Format,
    door: HttpsDoor,
    post: Post,
    tls: Mutex<Tls>,
    bodies: Semaphore,
    /// One writer, and those who wait come in the order in which they came.
    writer: Semaphore,
    seats: Arc<Seats>,
}

/// Serves until it is told to stop.
pub(super) async fn serve(format: Format, door: &HttpsDoor, post: &Post) {
    let server = Arc::new(Server {
        format,
        door: door.clone(),
        post: post.clone(),
        tls: Mutex::new(Tls::default()),
        bodies: Semaphore::new(MAX_BODIES_KIB as usize),
        writer: Semaphore::new(1),
        seats: Arc::default(),
    });
    let mut backoff = Backoff::new();
    loop {
        match TcpListener::bind(door.listen).await {
            Ok(listener) => {
                server.tell_tls();
                return accept_all(&server, &listener).await;
            }
            Err(error) => post.desk.blind(Some(format!("cannot listen on {}: {error}", door.listen))),
        }
        if post.rest(backoff.next()).await == Stopped::Yes {
            return;
        }
    }
}

async fn accept_all(server: &Arc<Server>, listener: &TcpListener) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = server.post.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, from)) => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                match server.seats.take(from.ip()) {
                    Ok((seat, gone)) => {
                        server.made_room(gone);
                        let server = Arc::clone(server);
                        tasks.spawn(async move {
                            let seat = Arc::new(seat);
                            tokio::select! {
                                () = server.talk(tcp, from, Arc::clone(&seat)) => {}
                                () = seat.out.cancelled() => {}
                            }
                        });
                    }
                    Err(because) => server.post.desk.note(Count::Full, 1, server.post.now(), because),
                }
            }
            Err(error) => {
                tracing::warn!(%error, listen = %server.door.listen, "a connection was not accepted");
                if server.post.rest(Duration::from_millis(100)).await == Stopped::Yes {
                    break;
                }
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

impl Server {
    /// One connection.
    async fn talk(self: &Arc<Self>, tcp: TcpStream, from: SocketAddr, seat: Arc<Seat>) {
        let Some(acceptor) = self.tell_tls() else { return };
        let tls = match timeout(HANDSHAKE, acceptor.accept(tcp)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return self.stranger(from, &format!("TLS: {error}")),
            Err(_) => return self.stranger(from, "no handshake in time"),
        };
        let speaker = Arc::new(Speaker::of(&tls));
        let server = Arc::clone(self);
        let service = service_fn(move |request| {
            let (server, speaker, seat) = (Arc::clone(&server), Arc::clone(&speaker), Arc::clone(&seat));
            async move { Ok::<_, Infallible>(server.answer(request, from, &speaker, &seat).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_headers(64)
            .serve_connection(TokioIo::new(tls), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // What ends a connection is the client's business.
            _ended = connection.as_mut() => {}
            () = self.post.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ended = timeout(Duration::from_secs(2), connection).await;
            }
        }
    }

    /// How to speak TLS with what stands in the files now; nobody is served while they cannot be used.
    fn tell_tls(&self) -> Option<tokio_rustls::TlsAcceptor> {
        let acceptor = self.tls.lock().unwrap_or_else(PoisonError::into_inner).acceptor(&self.door);
        self.post.desk.blind(acceptor.as_ref().err().cloned());
        acceptor.ok()
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
        speaker: &Speaker,
        seat: &Seat,
    ) -> Response<Full<Bytes>> {
        if request.uri().path() != self.door.path {
            return said(StatusCode::NOT_FOUND, "there is nothing here");
        }
        if let Err(because) = speaker.may_speak(&self.door, request.headers()) {
            self.stranger(from, &because);
            return said(StatusCode::UNAUTHORIZED, "who are you?");
        }
        // A signature alone says so only once the body is there.
        let is_known = self.door.client_ca.is_some() || self.door.token.is_some();
        let _engaged = is_known.then(|| seat.engage());
        if request.method() == Method::GET && self.format == Format::Okta {
            return challenge(request.headers());
        }
        if request.method() != Method::POST {
            let mut answer = said(StatusCode::METHOD_NOT_ALLOWED, "records are posted");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        let announced = request.body().size_hint().upper().unwrap_or(MAX_BODY as u64);
        if announced > MAX_BODY as u64 {
            return self.too_long(from, announced);
        }
        // A body is read only while there is room for all of it.
        let kib = u32::try_from(announced.div_ceil(1024)).unwrap_or(MAX_BODIES_KIB).max(1);
        let _needs = seat.needs(kib.into());
        let Some(_room) = self.room(kib, seat).await else {
            return self.come_again(from, "too many bodies at once");
        };
        let (head, body) = request.into_parts();
        let body = match timeout(BODY, collect(body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(Unread::TooLong)) => return self.too_long(from, announced),
            Ok(Err(Unread::Broken)) => return said(StatusCode::BAD_REQUEST, "the body could not be read"),
            Ok(Err(Unread::Late)) | Err(_) => {
                return said(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
            }
        };
        if let Err(because) = speaker::is_signed(&self.door, &head.headers, &body) {
            self.stranger(from, &because);
            return said(StatusCode::UNAUTHORIZED, "who are you?");
        }
        let body = match &self.door.signed_by {
            None => body,
            Some(signed_by) => match token::open(signed_by, &body) {
                Ok(claims) => claims.into(),
                // An answer of 400 would be the last that is heard of it (RFC 8935, section 2.3).
                Err(why) if why.is_ours() => return self.come_again(from, &why.to_string()),
                Err(why) => {
                    self.stranger(from, &format!("a token that is not taken ({}): {why}", why.code));
                    if why.may_be_later() {
                        // What keeps the file looks for new keys now and then.
                        return later(HeaderValue::from_static("60"), &why.answer());
                    }
                    return json(StatusCode::BAD_REQUEST, &why.answer());
                }
            },
        };
        let _engaged = seat.engage();
        let answer = self.take(body, from).await;
        match &self.door.signed_by {
            // How a token is thanked for (RFC 8935, section 2.2).
            Some(_) if answer.status() == StatusCode::OK => said(StatusCode::ACCEPTED, ""),
            _ => answer,
        }
    }

    /// Room for a body. Who waits longer asks those for theirs who hold more and have not said who they are.
    async fn room(&self, kib: u32, seat: &Seat) -> Option<SemaphorePermit<'_>> {
        let room = self.bodies.acquire_many(kib);
        let (mut room, mut late) = (std::pin::pin!(room), std::pin::pin!(sleep(BODY)));
        loop {
            tokio::select! {
                room = &mut room => return room.ok(),
                () = &mut late => return None,
                () = sleep(ASK) => self.made_room(seat.ask_for_room()),
            }
        }
    }

    /// Says whose connection was closed for somebody else's, if one was.
    fn made_room(&self, gone: Option<IpAddr>) {
        if let Some(peer) = gone {
            let what = format!("{peer}: a connection that had not said who it is made room for another");
            self.post.desk.note(Count::Stranger, 1, self.post.now(), what);
        }
    }

    /// Puts a body into the inbox.
    async fn take(&self, body: Bytes, from: SocketAddr) -> Response<Full<Bytes>> {
        let Ok(_turn) = self.writer.acquire().await else {
            return self.come_again(from, "stopping");
        };
        let (format, at, inbox) = (self.format, self.post.now(), Arc::clone(&self.post.inbox));
        let written = tokio::task::spawn_blocking(move || {
            let (entries, refused) = match split(format, &body) {
                Ok(records) => (records.into_iter().map(|one| entry(format, one)).collect::<Vec<_>>(), None),
                Err(why) => {
                    let text = why.to_string();
                    (vec![refused_entry(why, &body)], Some(text))
                }
            };
            (inbox.append(at, &from.ip().to_string(), &entries, Durable::Now), refused)
        });
        match written.await {
            Ok((Ok(taken), refused)) => {
                self.post.desk.count(Count::Received, taken.new + taken.again);
                self.post.desk.count(Count::Repeated, taken.again);
                refused.map_or_else(|| said(StatusCode::OK, ""), |why| said(StatusCode::BAD_REQUEST, &why))
            }
            Ok((Err(error @ InboxError::Full { .. }), _)) => self.come_again(from, &error.to_string()),
            Ok((Err(error), _)) => {
                tracing::error!(%error, "what was posted cannot be stored");
                self.come_again(from, &error.to_string())
            }
            Err(error) => self.come_again(from, &error.to_string()),
        }
    }

    fn come_again(&self, from: SocketAddr, because: &str) -> Response<Full<Bytes>> {
        let what = format!("of {}: {because}", from.ip());
        self.post.desk.note(Count::Full, 1, self.post.now(), what);
        later(HeaderValue::from_static("1"), "come again")
    }

    fn too_long(&self, from: SocketAddr, bytes: u64) -> Response<Full<Bytes>> {
        let what = format!("a body of {} with {bytes} bytes, at most {MAX_BODY}", from.ip());
        self.post.desk.note(Count::Lost, 1, self.post.now(), what);
        said(StatusCode::PAYLOAD_TOO_LARGE, "too long")
    }

    fn stranger(&self, from: SocketAddr, because: &str) {
        let what = format!("{}: {because}", from.ip());
        self.post.desk.note(Count::Stranger, 1, self.post.now(), what);
    }
}

/// Why there is no body.
enum Unread {
    TooLong,
    Late,
    Broken,
}

/// The whole of a body of which no piece is long in coming.
async fn collect(body: Incoming) -> Result<Bytes, Unread> {
    let mut body = Limited::new(body, MAX_BODY);
    let mut whole = Vec::new();
    loop {
        match timeout(PIECE, body.frame()).await {
            Ok(None) => return Ok(whole.into()),
            Ok(Some(Ok(frame))) => whole.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Ok(Some(Err(error))) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Unread::TooLong);
            }
            Ok(Some(Err(_))) => return Err(Unread::Broken),
            Err(_) => return Err(Unread::Late),
        }
    }
}

/// A body that is no JSON: a dead letter, one for all its repetitions.
fn refused_entry(why: Rejected, body: &[u8]) -> Entry<'_> {
    Entry { key: Key::of(&[body]), body: Err((why, body)) }
}

/// How Okta asks whether an event hook is ours (developer.okta.com/docs/concepts/event-hooks, "One-time verification request").
fn challenge(headers: &HeaderMap) -> Response<Full<Bytes>> {
    let value = headers.get("x-okta-verification-challenge").and_then(|value| value.to_str().ok());
    match value.filter(|value| value.len() <= 1024) {
        Some(value) => json(StatusCode::OK, &serde_json::json!({"verification": value}).to_string()),
        None => said(StatusCode::METHOD_NOT_ALLOWED, "records are posted"),
    }
}

fn json(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = said(status, text);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn later(within: HeaderValue, text: &str) -> Response<Full<Bytes>> {
    let mut answer = said(StatusCode::SERVICE_UNAVAILABLE, text);
    answer.headers_mut().insert(RETRY_AFTER, within);
    answer
}

fn said(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *answer.status_mut() = status;
    answer
}
