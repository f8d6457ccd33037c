//! The link to the controller's core.

use std::sync::Arc;

use hemostat_act::{ActConfig, Executor, serve};
use hemostat_cluster_tests::api_server::ApiServer;
use model::{
    ActionFailure, ActionId, ClusterAction, CommandKey, Down, IncidentId, NodeAction, NodeCommand, NodeId,
    ObjectRef, Phase, Target, Timestamp, Up,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::link::ControllerLink;

use crate::world::{client, own};

fn command() -> NodeCommand {
    NodeCommand {
        key: CommandKey::new("act-1/capture"),
        action_id: ActionId::new("act-1"),
        incident: IncidentId::new("inc-1"),
        node: NodeId::cluster(),
        deadline: Timestamp(2_000),
        action: NodeAction::Cluster(ClusterAction::Cordon),
        target: Target::Object(ObjectRef {
            api_version: "v1".into(),
            kind: "Node".into(),
            namespace: None,
            name: "nobody".into(),
            uid: "u".into(),
            as_of: None,
        }),
        phase: Phase::Capture,
    }
}

async fn ask(link: &mut ControllerLink) -> Option<Result<(), ActionFailure>> {
    link.down.send(Down::Command(Box::new(command()))).await.ok()?;
    match link.up.recv().await? {
        Up::Outcome(outcome) => Some(outcome.result.map(drop)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_is_down_while_the_api_server_is_away_and_what_was_asked_is_not_answered_with_a_failure() {
    let Some(server) = ApiServer::own() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = ActConfig {
        evidence: folder.path().join("evidence"),
        sent: folder.path().join("sent"),
        channels: Vec::new(),
        own: own(0),
        scanner: None,
        leads: Arc::new(|| true),
        clock: Arc::new(|| Timestamp(1_000)),
    };
    let executor = Arc::new(Executor::new(client(&server, None).await, config));
    let (links, mut taken) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let attach: hemostat_act::Attach = Arc::new(move |link| drop(links.try_send(link)));
    let serving = tokio::spawn(serve(executor, attach, stop.clone()));
    let mut link = taken.recv().await.unwrap();
    assert_eq!(link.node, NodeId::cluster());
    assert!(matches!(link.up.recv().await, Some(Up::Hello { .. })));
    let gone = ask(&mut link).await.unwrap().unwrap_err();
    assert!(matches!(gone, ActionFailure::TargetGone { .. }), "{gone}");
    server.stun();
    assert_eq!(ask(&mut link).await, None, "the link ends without an answer");
    server.wake();
    let mut link = taken.recv().await.unwrap();
    assert!(matches!(link.up.recv().await, Some(Up::Hello { .. })));
    assert!(ask(&mut link).await.is_some());
    stop.cancel();
    serving.await.unwrap();
}
