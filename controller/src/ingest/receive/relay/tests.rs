//! A relay that is played, over TLS: what is asked for after a break, and what comes of it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Instant,
};

use futures_util::stream;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Server, ServerTlsConfig},
};

use super::{
    super::{
        super::{
            inbox::{Envelope, Inbox},
            read::{Format, Place, Reader, Zone},
            spec::SourceSpec,
        },
        Receiving,
    },
    proto::{
        Endpoint, Flow, Ip, Layer4, LostEvent, NodeStatusEvent, Ports, Verdict,
        layer4::Protocol,
        observer_server::{Observer, ObserverServer},
    },
    *,
};

const BEGIN: i64 = 1_795_359_845;

/// Gives what it has from `since`, three messages at a time, and then breaks the stream.
#[derive(Clone, Default)]
struct Played {
    asked: Arc<Mutex<Vec<i64>>>,
    told: Arc<Mutex<usize>>,
}

const FLOWS: usize = 40;

fn flow(number: usize) -> GetFlowsResponse {
    let flow = Flow {
        time: Some(prost_types::Timestamp { seconds: BEGIN + number as i64, nanos: 123_456_789 }),
        uuid: format!("uuid-{number}"),
        verdict: Verdict::Dropped.into(),
        drop_reason_desc: 133,
        ip: Some(Ip { source: "10.244.0.5".into(), destination: format!("10.244.0.{number}") }),
        l4: Some(Layer4 {
            protocol: Some(Protocol::Tcp(Ports { source_port: 40_000, destination_port: 6379 })),
        }),
        source: Some(Endpoint { namespace: "pay".into(), pod_name: "api-1".into(), ..Endpoint::default() }),
        // An answer says nothing of who began.
        is_reply: Some(number % 10 == 9),
        ..Flow::default()
    };
    GetFlowsResponse { response_types: Some(ResponseTypes::Flow(flow)), node_name: "n1".into(), time: None }
}

#[tonic::async_trait]
impl Observer for Played {
    type GetFlowsStream = Pin<Box<dyn futures_util::Stream<Item = Result<GetFlowsResponse, Status>> + Send>>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let since = request.into_inner().since.unwrap();
        self.asked.lock().unwrap().push(since.seconds);
        let from = usize::try_from((since.seconds - BEGIN).max(0)).unwrap();
        let upto = {
            let mut told = self.told.lock().unwrap();
            *told = (*told + 12).min(FLOWS);
            *told
        };
        let mut messages: Vec<Result<GetFlowsResponse, Status>> =
            (from..upto).map(|number| Ok(flow(number))).collect();
        let lost = LostEvent { num_events_lost: 3 };
        let status =
            NodeStatusEvent { state_change: 2, node_names: vec!["n2".into()], message: "away".into() };
        let other = |one| GetFlowsResponse { response_types: Some(one), node_name: "n1".into(), time: None };
        if from == 0 {
            messages.push(Ok(other(ResponseTypes::LostEvents(lost))));
            messages.push(Ok(other(ResponseTypes::NodeStatus(status))));
        }
        messages.push(Err(Status::unavailable("the relay is being updated")));
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }
}

#[test]
fn flows_are_followed_over_breaks_once_and_from_the_relay_that_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (params, key) =
        (CertificateParams::new(vec!["relay.hubble".into()]).unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = KeyPair::generate().unwrap();
    fs::write(at("ca.pem"), authority.self_signed(&own).unwrap().pem()).unwrap();
    let certificate = params.signed_by(&key, &Issuer::new(authority, own)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let played = Played::default();
    let address: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate.pem(), key.serialize_pem()));
    let server = Server::builder().tls_config(tls).unwrap().add_service(ObserverServer::new(played.clone()));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let serving =
        runtime.spawn(server.serve_with_shutdown(address, async move { stopped.cancelled().await }));

    let post = |name: &str| Post {
        inbox: Arc::new(Inbox::open(&folder.path().join(name)).unwrap()),
        desk: Arc::default(),
        clock: Arc::new(|| Timestamp((BEGIN + 3600) * 1_000_000_000)),
        start: Start::Beginning,
        stop: CancellationToken::new(),
    };
    let spec = |name: &str| {
        format!("hubble=grpcs://{address},ca={},name={name}", at("ca.pem")).parse::<SourceSpec>().unwrap()
    };
    let until = |fits: &dyn Fn() -> bool| {
        let until = Instant::now() + Duration::from_secs(120);
        while !fits() {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // Another's certificate is not taken for the relay's.
    let wrong = post("wrong");
    let receiving = Receiving::start(&spec("elsewhere.example"), wrong.clone()).unwrap();
    until(&|| wrong.desk.why_blind().is_some_and(|because| because.contains("certificate")));
    drop(receiving);
    assert_eq!(*played.asked.lock().unwrap(), Vec::<i64>::new());

    let first = post("inbox");
    let receiving = Receiving::start(&spec("relay.hubble"), first.clone()).unwrap();
    until(&|| played.asked.lock().unwrap().len() >= 2);
    until(&|| first.desk.summary().contains("3 lost"));
    assert!(first.desk.degraded(|_| true).iter().any(|text| text.contains("no flows of n2: away")));
    drop(receiving);
    let before = played.asked.lock().unwrap().len();
    // Started again, it goes on a little before where it was.
    let second = post("inbox");
    let receiving = Receiving::start(&spec("relay.hubble"), second.clone()).unwrap();
    let lines = || {
        let text = fs::read_to_string(folder.path().join("inbox/inbox.log")).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    until(&|| lines().len() >= FLOWS - FLOWS / 10);
    let asked = played.asked.lock().unwrap().clone();
    drop(receiving);
    assert!(asked[before] > BEGIN && asked.is_sorted(), "{asked:?}");
    stop.cancel();
    runtime.block_on(serving).unwrap().unwrap();

    // Each flow once, in order, and as the reader of exported flows reads it.
    let (mut reader, mut told) = (Reader::new(Format::Hubble, Zone::UTC), vec![]);
    for line in lines() {
        let envelope = Envelope::open(line.as_bytes()).unwrap();
        reader.read(envelope.body.unwrap(), Place { offset: 0, now: Timestamp(0) }, &mut told).unwrap();
    }
    let ids: Vec<&str> = told.iter().map(|one| one.record.id.as_str()).collect();
    let all: Vec<String> =
        (0..FLOWS).filter(|number| number % 10 != 9).map(|number| format!("uuid-{number}")).collect();
    assert_eq!(ids, all);
    let facts = format!("{:?}", told[7].record.facts);
    for word in ["POLICY_DENIED", "dropped", "6379", "10.244.0.7", "api-1"] {
        assert!(facts.contains(word), "{word}: {facts}");
    }
    assert_eq!(told[7].time, Timestamp((BEGIN + 7) * 1_000_000_000 + 123_456_789));
}
