//! What a controller with a valid certificate, but not our code, can send to an agent: whatever it is, the agent says what was wrong,
//! connects again, and loses nothing of what it had to say.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use model::{AgentEpoch, Down, NodeId, Report, Seq, Timestamp, Up};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{
    client::{ConnectConfig, Connection, LinkState, connect, now},
    identity::{Authority, Credentials, Subject},
    link::{AgentLink, MAX_FRAME, PROTOCOL},
    proto::{self, controller_frame::Frame, link_server::LinkServer},
    tls,
};

const DAY: Duration = Duration::from_secs(86_400);

/// Says what it was given, one list a connection; from then on it is honest, and acknowledges what comes.
#[derive(Clone)]
struct Fake(Arc<Mutex<VecDeque<Vec<Option<Frame>>>>>);

#[tonic::async_trait]
impl proto::link_server::Link for Fake {
    type OpenStream = ReceiverStream<Result<proto::ControllerFrame, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<proto::AgentFrame>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let mut inbound = request.into_inner();
        let (sender, frames) = tokio::sync::mpsc::channel(8);
        let script = self.0.lock().unwrap().pop_front();
        tokio::spawn(async move {
            let honest = script.is_none();
            for frame in script.unwrap_or_else(|| vec![welcome(PROTOCOL)]) {
                let _gone = sender.send(Ok(proto::ControllerFrame { frame })).await;
            }
            while let Ok(Some(frame)) = inbound.message().await {
                if let Some(proto::agent_frame::Frame::Report(report)) = frame.frame.filter(|_| honest) {
                    let frame = Some(Frame::Ack(proto::Ack { upto: report.seq }));
                    let _gone = sender.send(Ok(proto::ControllerFrame { frame })).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

fn welcome(protocol: u32) -> Option<Frame> {
    Some(Frame::Welcome(proto::Welcome { protocol, epoch: 0 }))
}

fn command(version: u32, json: &[u8]) -> Option<Frame> {
    Some(Frame::Command(proto::Body { version, json: json.to_vec() }))
}

/// Its address. `from` is when its certificate began to be valid, for a day.
async fn controller(authority: &Authority, from: Timestamp, fake: Fake) -> String {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let own = authority.issue(&Subject::Controller, from, DAY).unwrap();
    let identity = Credentials::Memory { own, authority: authority.certificate().into() }.load().unwrap();
    let (accepted, incoming) = tokio::sync::mpsc::channel::<std::io::Result<_>>(8);
    tokio::spawn(async move {
        while let Ok((stream, from)) = tcp.accept().await {
            if let Ok(stream) = tls::accept(stream, from, &identity, tls::Strangers::Refused).await {
                let _gone = accepted.send(Ok(stream)).await;
            }
        }
    });
    let service = LinkServer::new(fake).max_encoding_message_size(usize::MAX);
    let serving = Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(ReceiverStream::new(incoming)));
    address
}

async fn agent(authority: &Authority, address: String) -> (AgentLink, Connection) {
    let own = authority.issue(&Subject::Node(NodeId::new("n1")), now(), DAY).unwrap();
    let credentials = Credentials::Memory { own, authority: authority.certificate().into() };
    let mut config = ConnectConfig::new(address, NodeId::new("n1"), credentials);
    (config.first_pause, config.longest_pause) = (Duration::from_millis(1), Duration::from_millis(5));
    let (link, connection) = connect(config);
    link.up.send(Up::Hello { node: NodeId::new("n1"), epoch: AgentEpoch(1) }).await.unwrap();
    (link, connection)
}

/// Waits until a try has failed and says why.
async fn because(connection: &mut Connection) -> String {
    let failed = |state: &LinkState| matches!(state, LinkState::Down { because, .. } if !because.is_empty());
    let state = tokio::time::timeout(Duration::from_secs(60), connection.state.wait_for(failed));
    match state.await.expect("it fails in time").unwrap().clone() {
        LinkState::Down { because, .. } => because,
        LinkState::Up => unreachable!("waited for the other"),
    }
}

#[tokio::test]
async fn whatever_a_controller_sends_the_agent_says_what_was_wrong_and_loses_nothing() {
    let rules = |part, parts| {
        let data = vec![b' '; 16];
        Some(Frame::Rules(proto::RulesPart { digest: "x".into(), part, parts, data }))
    };
    let cases: [(Vec<Option<Frame>>, &str); 9] = [
        (vec![None], "no kind of frame"),
        (vec![welcome(7)], "speaks protocol 7, this side speaks 1"),
        (vec![Some(Frame::Ack(proto::Ack { upto: 1 }))], "where a welcome was expected"),
        (vec![welcome(PROTOCOL), welcome(PROTOCOL)], "a welcome where a message was expected"),
        (vec![welcome(PROTOCOL), None], "no kind of frame"),
        (vec![welcome(PROTOCOL), command(1, b"{\"key\":\"k\"")], "its command cannot be read"),
        (vec![welcome(PROTOCOL), command(9, b"{}")], "command has version 9"),
        (vec![welcome(PROTOCOL), command(1, &vec![b' '; MAX_FRAME + 1])], "OutOfRange"),
        (vec![welcome(PROTOCOL), rules(9, 3)], "piece 9 of 3"),
    ];
    for (script, words) in cases {
        let authority = Authority::create("test", now(), DAY).unwrap();
        let fake = Fake(Arc::new(Mutex::new(VecDeque::from([script]))));
        let address = controller(&authority, now(), fake).await;
        let (mut link, mut connection) = agent(&authority, address.clone()).await;
        let report = Up::Report {
            seq: Seq(1),
            report: Box::new(Report::Repeat {
                finding: model::FindingId::new("fnd-1"),
                count: 2,
                last: now(),
                moments: model::Moments::default(),
            }),
        };
        link.up.send(report).await.unwrap();
        let said = because(&mut connection).await;
        assert!(said.contains(words) && said.contains(&address), "{words}: {said}");
        // It comes again, to one that is honest.
        let acknowledged = tokio::time::timeout(Duration::from_secs(60), link.down.recv()).await.unwrap();
        assert_eq!(acknowledged, Some(Down::Ack { upto: Seq(1) }), "{words}");
        connection.close().await;
    }
}

#[tokio::test]
async fn an_expired_certificate_of_the_controller_is_refused_by_the_agent_with_what_to_do() {
    let authority = Authority::create("test", now(), DAY).unwrap();
    let long_ago = Timestamp(now().0 - 2 * 86_400_000_000_000);
    let address = controller(&authority, long_ago, Fake(Arc::default())).await;
    let (_link, mut connection) = agent(&authority, address).await;
    let said = because(&mut connection).await;
    assert!(said.contains("certificate of the controller (valid 20"), "{said}");
    assert!(said.contains("it has expired: give that machine a new one"), "{said}");
    connection.close().await;
}
