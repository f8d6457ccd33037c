//! Both ends of a link over real TLS on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hemostat_wire::{
    fence::Fence,
    identity::{Authority, Credentials, Subject},
    link::{
        AgentLink, ConnectConfig, Connection, ControllerLink, LinkState, ListenConfig, Listener, connect,
        in_process, listen,
    },
};
use model::{
    ActionFailure, ActionId, AgentEpoch, CommandKey, CommandOutcome, Down, FindingId, NodeId, Report, Seq,
    Timestamp, Up,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_nanos()).unwrap())
}

fn credentials(authority: &Authority, subject: &Subject, from: Timestamp) -> Credentials {
    Credentials::Memory {
        own: authority.issue(subject, from, DAY).unwrap(),
        authority: authority.certificate().to_owned(),
    }
}

fn node_credentials(authority: &Authority, node: &str) -> Credentials {
    credentials(authority, &Subject::Node(NodeId::new(node)), now())
}

fn authority() -> Authority {
    Authority::create("test authority", now(), DAY * 365).unwrap()
}

async fn listener(authority: &Authority, address: &str) -> Listener {
    let config =
        ListenConfig::new(address.parse().unwrap(), credentials(authority, &Subject::Controller, now()));
    listen(config).await.unwrap()
}

fn agent(address: SocketAddr, node: &str, credentials: Credentials) -> (AgentLink, Connection) {
    let mut config = ConnectConfig::new(address.to_string(), NodeId::new(node), credentials);
    config.first_pause = Duration::from_millis(5);
    config.longest_pause = Duration::from_millis(20);
    connect(config)
}

fn hello(node: &str) -> Up {
    Up::Hello { node: NodeId::new(node), epoch: AgentEpoch(4) }
}

fn report(seq: u64) -> Up {
    let report = Report::Repeat {
        finding: FindingId::new(format!("fnd-{seq}")),
        count: seq,
        last: Timestamp(1),
        moments: model::Moments::default(),
    };
    Up::Report { seq: Seq(seq), report: Box::new(report) }
}

fn outcome(key: &str) -> Up {
    Up::Outcome(Box::new(CommandOutcome {
        key: CommandKey::new(key),
        action_id: ActionId::new("act-1"),
        phase: "apply".into(),
        at: Timestamp(1),
        result: Err(ActionFailure::Expired),
    }))
}

async fn because(connection: &mut Connection) -> String {
    let state = connection
        .state
        .wait_for(|state| matches!(state, LinkState::Down { tries, .. } if *tries > 0))
        .await
        .unwrap()
        .clone();
    match state {
        LinkState::Down { because, .. } => because,
        LinkState::Up => unreachable!("waited for Down"),
    }
}

async fn say_and_answer(mut agent: AgentLink, mut controller: ControllerLink) {
    assert_eq!(controller.up.recv().await.unwrap(), hello("n1"));
    agent.up.send(report(1)).await.unwrap();
    agent.up.send(outcome("k1")).await.unwrap();
    let mut got = vec![controller.up.recv().await.unwrap(), controller.up.recv().await.unwrap()];
    got.sort_by_key(|up| matches!(up, Up::Outcome(_)));
    assert_eq!(got, [report(1), outcome("k1")]);
    controller.down.send(Down::Ack { upto: Seq(1) }).await.unwrap();
    assert_eq!(agent.down.recv().await.unwrap(), Down::Ack { upto: Seq(1) });
}

#[tokio::test]
async fn neither_end_can_tell_one_process_from_grpc() {
    let (agent_end, controller_end) = in_process(NodeId::new("n1"), 8);
    agent_end.up.send(hello("n1")).await.unwrap();
    say_and_answer(agent_end, controller_end).await;

    let authority = authority();
    let mut listener = listener(&authority, "127.0.0.1:0").await;
    let (agent_end, connection) = agent(listener.address, "n1", node_credentials(&authority, "n1"));
    agent_end.up.send(hello("n1")).await.unwrap();
    let controller_end = listener.accept().await.unwrap();
    assert_eq!(controller_end.node, NodeId::new("n1"));
    say_and_answer(agent_end, controller_end).await;
    connection.ended().await;
    listener.close().await;
}

#[tokio::test]
async fn i3_after_a_break_it_resumes_from_the_first_unacknowledged_report() {
    let authority = authority();
    let mut first = listener(&authority, "127.0.0.1:0").await;
    let address = first.address;
    let (mut agent_end, connection) = agent(address, "n1", node_credentials(&authority, "n1"));
    agent_end.up.send(hello("n1")).await.unwrap();
    for seq in 1..=5 {
        agent_end.up.send(report(seq)).await.unwrap();
    }
    let mut link = first.accept().await.unwrap();
    for expected in std::iter::once(hello("n1")).chain((1..=5).map(report)) {
        assert_eq!(link.up.recv().await.unwrap(), expected);
    }
    link.down.send(Down::Ack { upto: Seq(2) }).await.unwrap();
    assert_eq!(agent_end.down.recv().await.unwrap(), Down::Ack { upto: Seq(2) });
    first.close().await;
    agent_end.up.send(report(6)).await.unwrap();

    let mut second = listener(&authority, &address.to_string()).await;
    let mut link = second.accept().await.unwrap();
    for expected in std::iter::once(hello("n1")).chain((3..=6).map(report)) {
        assert_eq!(link.up.recv().await.unwrap(), expected);
    }
    connection.close().await;
    second.close().await;
}

#[tokio::test]
async fn a_connection_cut_at_any_byte_loses_nothing_and_keeps_the_order() {
    const REPORTS: u64 = 40;
    let authority = authority();
    let mut listener = listener(&authority, "127.0.0.1:0").await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_address = proxy.local_addr().unwrap();
    let behind = listener.address;
    // The first connections are cut after 3000, 3137, 3274 … bytes from the agent: in handshakes, between and within frames.
    let cutting = tokio::spawn(async move {
        let mut limit = 3000;
        loop {
            let (from_agent, _) = proxy.accept().await.unwrap();
            let to_controller = TcpStream::connect(behind).await.unwrap();
            tokio::spawn(cut_after(from_agent, to_controller, limit));
            limit += 137;
        }
    });
    let (agent_end, connection) = agent(proxy_address, "n1", node_credentials(&authority, "n1"));
    agent_end.up.send(hello("n1")).await.unwrap();
    let sending = tokio::spawn(async move {
        for seq in 1..=REPORTS {
            agent_end.up.send(report(seq)).await.unwrap();
        }
        agent_end
    });
    let mut stored = 0;
    let mut connections = 0;
    while stored < REPORTS {
        let mut link = listener.accept().await.unwrap();
        connections += 1;
        while let Some(up) = link.up.recv().await {
            let Up::Report { seq: Seq(seq), .. } = up else { continue };
            assert!(seq <= stored + 1, "report {seq} came after {stored}: one was lost");
            if seq == stored + 1 {
                stored = seq;
                // Acknowledge each on its own, so that a cut can fall between any two.
                let _ = link.down.send(Down::Ack { upto: Seq(seq) }).await;
            }
            if stored == REPORTS {
                break;
            }
        }
    }
    assert!(connections > 2, "the proxy cut nothing: {connections} connections");
    let agent_end = sending.await.unwrap();
    drop(agent_end);
    connection.close().await;
    cutting.abort();
    listener.close().await;
}

async fn cut_after(mut agent: TcpStream, mut controller: TcpStream, mut limit: usize) {
    let (mut agent_read, mut agent_write) = agent.split();
    let (mut controller_read, mut controller_write) = controller.split();
    let up = async {
        let mut buffer = [0; 512];
        loop {
            let Ok(n @ 1..) = agent_read.read(&mut buffer).await else { return };
            let n = n.min(limit);
            limit -= n;
            if controller_write.write_all(&buffer[..n]).await.is_err() || limit == 0 {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        _ = tokio::io::copy(&mut controller_read, &mut agent_write) => {}
    }
}

#[tokio::test]
async fn an_outcome_is_repeated_until_it_is_received() {
    let authority = authority();
    let probe = listener(&authority, "127.0.0.1:0").await;
    let address = probe.address;
    probe.close().await;
    let (agent_end, connection) = agent(address, "n1", node_credentials(&authority, "n1"));
    agent_end.up.send(hello("n1")).await.unwrap();
    agent_end.up.send(outcome("k1")).await.unwrap();
    let mut listener = listener(&authority, &address.to_string()).await;
    let mut link = listener.accept().await.unwrap();
    assert_eq!(link.up.recv().await.unwrap(), hello("n1"));
    assert_eq!(link.up.recv().await.unwrap(), outcome("k1"));
    drop(agent_end);
    connection.ended().await; // ends only when the outcome's receipt has come
    listener.close().await;
}

#[tokio::test]
async fn a_foreign_certificate_is_refused_on_both_sides_with_its_name_and_time() {
    let ours = authority();
    let theirs = Authority::create("somebody else", now(), DAY).unwrap();
    let mut listener = listener(&ours, "127.0.0.1:0").await;

    // It trusts our controller but shows a certificate from another authority.
    let foreign = Credentials::Memory {
        own: theirs.issue(&Subject::Node(NodeId::new("n1")), now(), DAY).unwrap(),
        authority: ours.certificate().to_owned(),
    };
    let (agent_end, mut connection) = agent(listener.address, "n1", foreign);
    agent_end.up.send(hello("n1")).await.unwrap();
    let refusal = listener.refused().await.unwrap().to_string();
    assert!(refusal.contains("node n1") && refusal.contains("not issued by the authority"), "{refusal}");
    assert!(refusal.contains("valid 20") && refusal.contains("somebody else"), "{refusal}");
    assert!(refusal.contains("give both ends certificates of one authority"), "{refusal}");
    let said = because(&mut connection).await;
    assert!(said.contains("refused our certificate") && said.contains("issuer is not trusted"), "{said}");
    connection.close().await;

    // It does not trust our controller.
    let (agent_end, mut connection) = agent(listener.address, "n1", node_credentials(&theirs, "n1"));
    agent_end.up.send(hello("n1")).await.unwrap();
    let said = because(&mut connection).await;
    assert!(
        said.contains("certificate of the controller")
            && said.contains("not issued by the authority")
            && said.contains("give both ends certificates of one authority"),
        "{said}"
    );
    connection.close().await;
    listener.close().await;
}

#[tokio::test]
async fn an_expired_certificate_of_ours_is_named_before_anything_is_sent() {
    let authority = authority();
    let listener = listener(&authority, "127.0.0.1:0").await;
    let past = Timestamp(now().0 - 3 * 86_400_000_000_000);
    let expired = credentials(&authority, &Subject::Node(NodeId::new("n1")), past);
    let (agent_end, mut connection) = agent(listener.address, "n1", expired);
    agent_end.up.send(hello("n1")).await.unwrap();
    let said = because(&mut connection).await;
    assert!(said.contains("certificate of node n1 (valid 20") && said.contains("has expired"), "{said}");
    connection.close().await;
    listener.close().await;

    let config = ListenConfig::new(
        "127.0.0.1:0".parse().unwrap(),
        credentials(&authority, &Subject::Controller, past),
    );
    let said = listen(config).await.unwrap_err().to_string();
    assert!(said.contains("certificate of the controller") && said.contains("has expired"), "{said}");
}

#[tokio::test]
async fn a_nodes_certificate_is_no_use_as_another_node_or_as_the_controller() {
    let authority = authority();
    let listener = listener(&authority, "127.0.0.1:0").await;
    let (agent_end, mut connection) = agent(listener.address, "n2", node_credentials(&authority, "n1"));
    agent_end.up.send(hello("n2")).await.unwrap();
    let said = because(&mut connection).await;
    assert!(said.contains("\"n2\"") && said.contains("node n1"), "{said}");
    connection.close().await;
    listener.close().await;

    let config = ListenConfig::new("127.0.0.1:0".parse().unwrap(), node_credentials(&authority, "n1"));
    assert!(listen(config).await.is_err());
}

#[tokio::test]
async fn a_newer_connection_of_a_node_replaces_the_older() {
    let authority = authority();
    let mut listener = listener(&authority, "127.0.0.1:0").await;
    let (older, older_connection) = agent(listener.address, "n1", node_credentials(&authority, "n1"));
    older.up.send(hello("n1")).await.unwrap();
    let mut first = listener.accept().await.unwrap();
    assert_eq!(first.up.recv().await.unwrap(), hello("n1"));
    let (newer, newer_connection) = agent(listener.address, "n1", node_credentials(&authority, "n1"));
    newer.up.send(hello("n1")).await.unwrap();
    assert_eq!(first.up.recv().await, None);
    older_connection.close().await;
    newer_connection.close().await;
    listener.close().await;
}

#[tokio::test]
async fn rotated_files_are_used_at_the_next_connection() {
    let authority = authority();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |from: Timestamp| {
        let issued = authority.issue(&Subject::Node(NodeId::new("n1")), from, DAY).unwrap();
        std::fs::write(path("node.pem"), issued.certificate).unwrap();
        hemostat_wire::identity::write_secret(&path("node.key"), &issued.key).unwrap();
    };
    std::fs::write(path("ca.pem"), authority.certificate()).unwrap();
    write(Timestamp(now().0 - 3 * 86_400_000_000_000));
    let files = Credentials::Files {
        certificate: path("node.pem"),
        key: path("node.key"),
        authority: path("ca.pem"),
    };
    let mut listener = listener(&authority, "127.0.0.1:0").await;
    let (agent_end, mut connection) = agent(listener.address, "n1", files);
    agent_end.up.send(hello("n1")).await.unwrap();
    assert!(because(&mut connection).await.contains("has expired"));
    write(now());
    let mut link = listener.accept().await.unwrap();
    assert_eq!(link.up.recv().await.unwrap(), hello("n1"));
    connection.close().await;
    listener.close().await;
}

#[test]
fn an_authority_survives_its_files() {
    let made = authority();
    let loaded = Authority::load(made.certificate(), &made.key()).unwrap();
    let identity = credentials(&loaded, &Subject::Node(NodeId::new("n1")), now()).load().unwrap();
    assert_eq!(identity.subject, Subject::Node(NodeId::new("n1")));
    assert!(
        Authority::load("not pem", &made.key()).unwrap_err().to_string().contains("authority's certificate")
    );
    let bad = made.issue(&Subject::Node(NodeId::new("a/b")), now(), DAY).unwrap_err().to_string();
    assert!(bad.contains("not a node name"), "{bad}");
}

#[tokio::test]
async fn a_former_leader_that_woke_up_late_commands_nothing() {
    let authority = authority();
    let leader = async |epoch: u64| {
        let own = credentials(&authority, &Subject::Controller, now());
        listen(ListenConfig { epoch, ..ListenConfig::new("127.0.0.1:0".parse().unwrap(), own) })
            .await
            .unwrap()
    };
    let (mut former, mut present) = (leader(3).await, leader(4).await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leadership");
    let node = |address: SocketAddr| {
        let mut config =
            ConnectConfig::new(address.to_string(), NodeId::new("n1"), node_credentials(&authority, "n1"));
        config.first_pause = Duration::from_millis(5);
        config.longest_pause = Duration::from_millis(20);
        // Opened anew each time: as after a restart of the agent.
        config.fence = Some(Arc::new(Fence::open(&path).unwrap()));
        connect(config)
    };
    for listener in [&mut former, &mut present] {
        let (link, connection) = node(listener.address);
        link.up.send(hello("n1")).await.unwrap();
        say_and_answer(link, listener.accept().await.unwrap()).await;
        connection.close().await;
    }
    let (mut link, mut connection) = node(former.address);
    link.up.send(hello("n1")).await.unwrap();
    let late = former.accept().await.unwrap();
    // It takes the node for linked, and what it says is heard by nobody.
    let _unheard = late.down.send(Down::Ack { upto: Seq(1) }).await;
    let because = because(&mut connection).await;
    assert!(because.contains("leadership 3 is over") && because.contains("met 4"), "{because}");
    assert!(link.down.try_recv().is_err(), "nothing of it comes through");
    connection.close().await;
    former.close().await;
    present.close().await;
}
