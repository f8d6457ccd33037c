//! An API server that has just begun refuses what it allows: it has not read yet who may do what. What it refuses is therefore asked once more
//! after it has said that it is ready; until it says so it is away, as one that does not answer is.
//!
//! A refusal had no effect, so that asking twice does nothing twice.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::json;
use tower::Service;

/// Whether it has read everything that it decides by. Everybody may ask.
const READY: &str = "/readyz";

/// A client whose refusals are an API server's word.
pub(super) fn steady(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(Steady(client), namespace)
}

struct Steady(Client);

impl Service<Request<Body>> for Steady {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let again = body.try_clone().map(|body| Request::from_parts(parts.clone(), body));
            let answer = client.send(Request::from_parts(parts, body)).await?;
            let refused = matches!(answer.status(), StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED);
            match again.filter(|_| refused) {
                Some(_) if !is_ready(&client).await? => Ok(away()),
                Some(again) => client.send(again).await,
                None => Ok(answer),
            }
        })
    }
}

async fn is_ready(client: &Client) -> Result<bool, kube::Error> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = hyper::Uri::from_static(READY);
    Ok(client.send(request).await?.status().is_success())
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
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;

    use super::*;

    /// An API server that refuses the first so many requests and is ready after so many questions; and what it was asked.
    fn server(refuses: usize, unready: usize) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut known = known.lock().unwrap();
            let path = request.uri().path().to_owned();
            let before = known.iter().filter(|one| (*one == READY) == (path == READY)).count();
            let (code, body) = match path.as_str() {
                READY if before < unready => (500, "informer-sync failed".to_owned()),
                READY => (200, "ok".to_owned()),
                _ if before < refuses => {
                    let said = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "cannot"});
                    (403, said.to_string())
                }
                _ => (200, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}).to_string()),
            };
            known.push(path);
            async move {
                Ok::<_, Infallible>(
                    Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap(),
                )
            }
        });
        (steady(Client::new(service, "default")), asked)
    }

    async fn get(client: &Client) -> Result<Pod, u16> {
        Api::<Pod>::default_namespaced(client.clone()).get("a").await.map_err(|error| match error {
            kube::Error::Api(status) => status.code,
            other => panic!("{other}"),
        })
    }

    #[tokio::test]
    async fn what_an_api_server_refuses_before_it_is_ready_is_no_refusal() {
        let (client, asked) = server(usize::MAX, 1);
        assert_eq!(get(&client).await.unwrap_err(), 503, "it is away");
        assert_eq!(asked.lock().unwrap().len(), 2, "it is asked whether it is ready, and nothing more");
        assert_eq!(get(&client).await.unwrap_err(), 403, "ready, it means what it says");
        assert_eq!(asked.lock().unwrap().len(), 5, "asked again, once");
        let (client, _) = server(1, 0);
        assert!(get(&client).await.is_ok(), "it was refused just before it was ready");
        let (client, asked) = server(0, 0);
        assert!(get(&client).await.is_ok());
        assert_eq!(asked.lock().unwrap().len(), 1, "what is allowed is asked once");
    }
}
