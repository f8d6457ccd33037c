//! An API server that has just begun refuses what it allows: it has not read yet who may do what. What it refuses is therefore asked once more
//! after it has said that it is ready; while it says that it is not it is away, as one that does not answer is. One that goes on saying so, because
//! something else of it does not work, means what it refuses all the same, and so does one that does not let us ask.
//!
//! A refusal had no effect, so that asking twice does nothing twice. Whom it does not know it does not know: that is never asked again.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::json;
use tower::Service;

/// Whether it has read everything that it decides by. Everybody may ask.
const READY: &str = "/readyz";

/// How long after its first refusal an API server may still be one that has just begun.
const BEGINS: Duration = Duration::from_secs(60);

/// A client whose refusals are an API server's word.
pub(super) fn steady(client: Client) -> Client {
    with_patience(client, BEGINS)
}

fn with_patience(client: Client, patience: Duration) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(Steady { client, patience, unready: Unready::default() }, namespace)
}

struct Steady {
    client: Client,
    patience: Duration,
    unready: Unready,
}

/// Since when it refuses and is not ready. Ends when it is ready, or cannot be reached: who answers then has begun anew.
#[derive(Clone, Default)]
struct Unready(Arc<Mutex<Option<Instant>>>);

impl Unready {
    fn since(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now)
    }

    fn ends(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Service<Request<Body>> for Steady {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, patience, unready) = (self.client.clone(), self.patience, self.unready.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let again = body.try_clone().map(|body| Request::from_parts(parts.clone(), body));
            let answer =
                client.send(Request::from_parts(parts, body)).await.inspect_err(|_| unready.ends())?;
            let Some(again) = again.filter(|_| answer.status() == StatusCode::FORBIDDEN) else {
                return Ok(answer);
            };
            match readiness(&client).await {
                Ok(status) if status.is_success() => {
                    unready.ends();
                    client.send(again).await
                }
                Ok(status) if status.is_server_error() && unready.since().elapsed() < patience => Ok(away()),
                // It does not say that it is not ready, or has said so for too long.
                _ => Ok(answer),
            }
        })
    }
}

async fn readiness(client: &Client) -> Result<StatusCode, kube::Error> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = hyper::Uri::from_static(READY);
    Ok(client.send(request).await?.status())
}

fn away() -> Response<Body> {
    let said = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "reason": "ServiceUnavailable",
        "message": "it has just begun and does not know yet who may do what"});
    let mut answer = Response::new(Body::from(said.to_string().into_bytes()));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}

#[cfg(test)]
mod tests {
    use std::io;

    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;

    use super::*;

    /// What an API server answers to the how manieth request for a pod, or whether it is ready; 0 is no answer.
    type Answers = fn(&str, usize) -> u16;

    /// It, and what it was asked.
    fn server(answers: Answers, patience: Duration) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut known = known.lock().unwrap();
            let path = request.uri().path().to_owned();
            let before = known.iter().filter(|one| (*one == READY) == (path == READY)).count();
            let code = answers(&path, before);
            known.push(path);
            let body = match code {
                200 => json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
                code => {
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "No", "message": "cannot"})
                }
            };
            async move {
                match code {
                    0 => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
                    code => Ok(Response::builder()
                        .status(code)
                        .body(Body::from(body.to_string().into_bytes()))
                        .unwrap()),
                }
            }
        });
        (with_patience(Client::new(service, "default"), patience), asked)
    }

    /// 0 is no answer.
    async fn get(client: &Client) -> u16 {
        match Api::<Pod>::default_namespaced(client.clone()).get("a").await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(_) => 0,
        }
    }

    #[tokio::test]
    async fn what_an_api_server_refuses_before_it_is_ready_is_no_refusal() {
        let unready = |path: &str, before| match (path, before) {
            (READY, 0) => 500,
            (READY, _) => 200,
            _ => 403,
        };
        let (client, asked) = server(unready, BEGINS);
        assert_eq!(get(&client).await, 503, "it is away");
        assert_eq!(asked.lock().unwrap().len(), 2, "it is asked whether it is ready, and nothing more");
        assert_eq!(get(&client).await, 403, "ready, it means what it says");
        assert_eq!(asked.lock().unwrap().len(), 5, "asked again, once");
        let late = |path: &str, before| if path != READY && before == 0 { 403 } else { 200 };
        assert_eq!(get(&server(late, BEGINS).0).await, 200, "it was refused just before it was ready");
        let (client, asked) = server(|_, _| 200, BEGINS);
        assert_eq!(get(&client).await, 200);
        assert_eq!(asked.lock().unwrap().len(), 1, "what is allowed is asked once");
    }

    #[tokio::test]
    async fn only_a_server_that_says_that_it_is_not_ready_is_away() {
        let no: [(&str, Answers); 5] = [
            ("unknown to it", |path, _| if path == READY { 401 } else { 403 }),
            ("forbidden", |_, _| 403),
            ("no such path", |path, _| if path == READY { 404 } else { 403 }),
            ("too much", |path, _| if path == READY { 429 } else { 403 }),
            ("no answer", |path, _| if path == READY { 0 } else { 403 }),
        ];
        for (said, answers) in no {
            let (client, asked) = server(answers, BEGINS);
            assert_eq!(get(&client).await, 403, "{said}");
            assert_eq!(asked.lock().unwrap().len(), 2, "{said}: it is not asked again");
        }
        let away: [Answers; 2] = [
            |path, _| if path == READY { 500 } else { 403 },
            |path, _| if path == READY { 503 } else { 403 },
        ];
        for answers in away {
            assert_eq!(get(&server(answers, BEGINS).0).await, 503);
        }
    }

    #[tokio::test]
    async fn whom_it_does_not_know_is_told_so_at_once() {
        for answers in [(|_, _| 401) as Answers, |path, _| if path == READY { 500 } else { 401 }] {
            let (client, asked) = server(answers, BEGINS);
            assert_eq!(get(&client).await, 401);
            assert_eq!(asked.lock().unwrap().len(), 1, "nothing is asked again");
        }
    }

    #[tokio::test]
    async fn one_that_is_not_ready_for_long_means_what_it_refuses() {
        let red: Answers = |path, before| match (path, before) {
            (READY, _) => 500,
            (_, 1) => 0,
            _ => 403,
        };
        assert_eq!(get(&server(red, Duration::ZERO).0).await, 403, "its time is over");
        let unready = Unready::default();
        let first = unready.since();
        assert_eq!(unready.since(), first, "from the first refusal on");
        unready.ends();
        assert!(unready.0.lock().unwrap().is_none());
        let (client, _) = server(red, BEGINS);
        let mut said = Vec::new();
        for _ in 0..3 {
            said.push(get(&client).await);
        }
        assert_eq!(said, [503, 0, 503], "who answers after it could not be reached has begun anew");
    }
}
