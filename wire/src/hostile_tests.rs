//! What a peer with a valid certificate, but not our code, can send.

use std::{net::SocketAddr, time::Duration};

use hyper_util::rt::TokioIo;
use model::{NodeId, Timestamp};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tonic::{Code, transport::Endpoint};

use crate::{
    client::now,
    identity::{Authority, Credentials, Identity, Subject},
    link::{ListenConfig, Listener, MAX_FRAME, PROTOCOL, listen},
    proto::{self, agent_frame::Frame, link_client::LinkClient},
    tls,
};

const DAY: Duration = Duration::from_secs(86_400);

struct Scene {
    listener: Listener,
    authority: Authority,
}

impl Scene {
    async fn new() -> Self {
        let authority = Authority::create("test", now(), DAY).unwrap();
        let own = authority.issue(&Subject::Controller, now(), DAY).unwrap();
        let credentials = Credentials::Memory { own, authority: authority.certificate().into() };
        let listener = listen(ListenConfig::new("127.0.0.1:0".parse().unwrap(), credentials)).await.unwrap();
        Self { listener, authority }
    }

    fn identity(&self, from: Timestamp) -> Identity {
        let own = self.authority.issue(&Subject::Node(NodeId::new("n1")), from, DAY).unwrap();
        Credentials::Memory { own, authority: self.authority.certificate().into() }.load().unwrap()
    }

    async fn client(&self) -> LinkClient<tonic::transport::Channel> {
        let address: SocketAddr = self.listener.address;
        let tcp = TcpStream::connect(address).await.unwrap();
        let tls = tls::connect(tcp, &address.to_string(), &self.identity(now())).await.unwrap();
        let mut ready = Some(tls);
        let connector = tower::service_fn(move |_| {
            std::future::ready(ready.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("once")))
        });
        let channel = Endpoint::from_static("http://x").connect_with_connector(connector).await.unwrap();
        LinkClient::new(channel).max_encoding_message_size(usize::MAX)
    }

    /// Sends these frames and returns the status with which the controller ends the stream.
    async fn answer(&self, frames: Vec<Option<Frame>>) -> tonic::Status {
        let frames = frames.into_iter().map(|frame| proto::AgentFrame { frame });
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        for frame in frames {
            sender.send(frame).await.unwrap();
        }
        let mut client = self.client().await;
        let mut stream = match client.open(tokio_stream::wrappers::ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

fn hello(protocol: u32, node: &str) -> Option<Frame> {
    Some(Frame::Hello(proto::Hello { protocol, node: node.into(), epoch: 1 }))
}

#[tokio::test]
async fn a_stolen_identity_speaks_only_for_its_node() {
    let mut scene = Scene::new().await;
    let status = scene.answer(vec![hello(PROTOCOL, "n2")]).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("\"n2\"") && status.message().contains("\"n1\""), "{status}");
    assert!(scene.listener.refused().await.unwrap().to_string().contains("n2"));
}

#[tokio::test]
async fn other_versions_and_frames_out_of_place_are_refused_with_words() {
    let scene = Scene::new().await;
    let status = scene.answer(vec![hello(7, "n1")]).await;
    assert!(status.message().contains("speaks protocol 7, this side speaks 1"), "{status}");
    let status = scene.answer(vec![None]).await;
    assert!(status.message().contains("no kind of frame"), "{status}");
    let early = Some(Frame::Status(proto::Body { version: 1, json: b"{}".to_vec() }));
    let status = scene.answer(vec![early]).await;
    assert!(!status.message().is_empty());
    let status = scene.answer(vec![hello(PROTOCOL, "n1"), hello(PROTOCOL, "n1")]).await;
    assert!(status.message().contains("a second Hello"), "{status}");
}

#[tokio::test]
async fn after_hello_a_bad_frame_ends_the_connection_and_says_why() {
    let scene = Scene::new().await;
    let broken = Some(Frame::Report(proto::Report {
        seq: 1,
        body: Some(proto::Body { version: 1, json: b"{\"report\":\"finding\"".to_vec() }),
    }));
    let status = scene.answer(vec![hello(PROTOCOL, "n1"), broken]).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("its report cannot be read"), "{status}");

    let newer = Some(Frame::Report(proto::Report {
        seq: 1,
        body: Some(proto::Body { version: 9, json: b"{}".to_vec() }),
    }));
    let status = scene.answer(vec![hello(PROTOCOL, "n1"), newer]).await;
    assert!(status.message().contains("report has version 9"), "{status}");

    let empty = Some(Frame::Report(proto::Report { seq: 1, body: None }));
    let status = scene.answer(vec![hello(PROTOCOL, "n1"), empty]).await;
    assert!(status.message().contains("its report has no body"), "{status}");
}

#[tokio::test]
async fn an_oversized_frame_is_refused_by_its_size() {
    let scene = Scene::new().await;
    let huge = Some(Frame::Status(proto::Body { version: 1, json: vec![b' '; MAX_FRAME + 1] }));
    let status = scene.answer(vec![hello(PROTOCOL, "n1"), huge]).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(status.message().contains(&MAX_FRAME.to_string()), "{status}");
}

#[tokio::test]
async fn an_expired_node_certificate_is_refused_by_the_controller() {
    let mut scene = Scene::new().await;
    let identity = scene.identity(Timestamp(now().0 - 2 * 86_400_000_000_000));
    let address = scene.listener.address;
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut stream = tls::connect(tcp, &address.to_string(), &identity).await.unwrap();
    let refusal = scene.listener.refused().await.unwrap().to_string();
    assert!(
        refusal.contains("certificate of node n1 (valid 20")
            && refusal.contains("it has expired: give that machine a new one"),
        "{refusal}"
    );
    // The agent's side learns it with its first read.
    let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 16]).await;
    assert!(read.is_err());
    let said = tls::explain(&stream.broke, "x", &identity).unwrap().to_string();
    assert!(said.contains("outside its time"), "{said}");
}

#[tokio::test]
async fn noise_on_the_port_does_not_stop_the_next_agent() {
    let mut scene = Scene::new().await;
    let mut tcp = TcpStream::connect(scene.listener.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(scene.listener.refused().await.unwrap().to_string().contains("TLS with"));
    // Valid TLS, then rubbish instead of HTTP/2.
    let address = scene.listener.address;
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut tls = tls::connect(tcp, "x", &scene.identity(now())).await.unwrap();
    tls.write_all(&[0xff; 4096]).await.unwrap();
    tls.flush().await.unwrap();
    let status = scene.answer(vec![hello(PROTOCOL, "n1"), hello(PROTOCOL, "n1")]).await;
    assert!(status.message().contains("a second Hello"), "{status}");
}
