//! An agent without a certificate gets one for its token, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use hemostat_wire::{
    enrol::{Application, Certified, Certifying, Refused, Registrar},
    identity::{Authority, Credentials, Subject},
    link::{ConnectConfig, LinkState, ListenConfig, Listener, connect, listen},
};
use model::{AgentEpoch, NodeId, Timestamp, Up};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_nanos()).unwrap())
}

struct Desk {
    authority: Authority,
    life: Duration,
}

impl Registrar for Desk {
    fn certify(&self, token: String, request: String) -> Certifying<'_> {
        Box::pin(async move {
            let Some(node) = token.strip_prefix("token-of-") else {
                return Err(Refused::NotYou("who are you".into()));
            };
            let subject = Subject::Node(NodeId::new(node));
            let certificate = self
                .authority
                .sign(&subject, &request, now(), self.life)
                .map_err(|error| Refused::NotYou(error.to_string()))?;
            Ok(Certified { certificate, authority: self.authority.certificate().to_owned() })
        })
    }
}

async fn listener(life: Duration) -> (Listener, String) {
    let authority = Authority::create("test", now(), HOUR).unwrap();
    let credentials = Credentials::Memory {
        own: authority.issue(&Subject::Controller, now(), HOUR).unwrap(),
        authority: authority.certificate().to_owned(),
    };
    let trusted = authority.certificate().to_owned();
    let config = ListenConfig {
        registrar: Some(Arc::new(Desk { authority, life })),
        ..ListenConfig::new("127.0.0.1:0".parse().unwrap(), credentials)
    };
    (listen(config).await.unwrap(), trusted)
}

fn application(listener: &Listener, authority: &str) -> Application {
    Application {
        address: listener.address.to_string(),
        authority: authority.to_owned(),
        step_limit: Duration::from_secs(10),
    }
}

#[tokio::test]
async fn a_token_gives_a_certificate_and_the_certificate_a_link() {
    let (mut listener, trusted) = listener(HOUR).await;
    let enrolled = application(&listener, &trusted).hand_in("token-of-n1".into()).await.unwrap();
    assert_eq!(enrolled.node, NodeId::new("n1"));
    let credentials = Credentials::Memory { own: enrolled.own, authority: enrolled.authority };
    let (link, connection) =
        connect(ConnectConfig::new(listener.address.to_string(), NodeId::new("n1"), credentials));
    link.up.send(Up::Hello { node: NodeId::new("n1"), epoch: AgentEpoch(1) }).await.unwrap();
    assert_eq!(listener.accept().await.unwrap().node, NodeId::new("n1"));
    connection.close().await;
    listener.close().await;
}

#[tokio::test]
async fn who_has_no_token_gets_nothing_and_another_authority_is_not_asked() {
    let (listener, trusted) = listener(HOUR).await;
    let refused = application(&listener, &trusted).hand_in("nonsense".into()).await.unwrap_err().to_string();
    assert!(refused.contains("who are you"), "{refused}");
    let long = "x".repeat(100_000);
    assert!(application(&listener, &trusted).hand_in(long).await.is_err());
    // The token is shown to nobody whose certificate is from elsewhere.
    let other = Authority::create("other", now(), HOUR).unwrap();
    let refused =
        application(&listener, other.certificate()).hand_in("token-of-n1".into()).await.unwrap_err();
    assert!(refused.to_string().contains("not issued by the authority"), "{refused}");
    listener.close().await;
}

#[tokio::test]
async fn a_certificate_that_ends_takes_its_connection_with_it() {
    let (mut listener, trusted) = listener(Duration::from_secs(2)).await;
    let enrolled = application(&listener, &trusted).hand_in("token-of-n1".into()).await.unwrap();
    let credentials = Credentials::Memory { own: enrolled.own, authority: enrolled.authority };
    let (link, connection) =
        connect(ConnectConfig::new(listener.address.to_string(), NodeId::new("n1"), credentials));
    link.up.send(Up::Hello { node: NodeId::new("n1"), epoch: AgentEpoch(1) }).await.unwrap();
    let mut accepted = listener.accept().await.unwrap();
    assert!(matches!(accepted.up.recv().await, Some(Up::Hello { .. })));
    assert_eq!(accepted.up.recv().await, None, "the link ends");
    let mut state = connection.state.clone();
    let down = state
        .wait_for(|state| matches!(state, LinkState::Down { tries, .. } if *tries > 0))
        .await
        .unwrap()
        .clone();
    assert!(format!("{down:?}").contains("expired"), "{down:?}");
    connection.close().await;
    listener.close().await;
}
