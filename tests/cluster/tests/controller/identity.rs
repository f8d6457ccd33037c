//! Who an agent is: what its token says, and nobody else.

use std::time::Duration;

use model::{AgentEpoch, NodeId, Up};
use wire::{
    identity::Credentials,
    link::{ConnectConfig, LinkState, connect},
};

use crate::{
    node::enrol,
    scene::{HOME, Scene},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_bound_token_of_the_agents_account_gets_a_certificate_and_it_speaks_for_that_node_alone() {
    let Some(scene) = Scene::new() else { return };
    let process = scene.start("one");
    let authority = scene.authority();
    let refused = async |token: &str, why: &str| {
        let error = enrol(&process.links, &authority, token).await.unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    };
    refused("nonsense", "not valid for the audience").await;
    refused(&scene.token("n1", "default"), "is not the agents' account").await;
    let unbound = scene.kubectl(&["create", "token", "hemostat-agent", "-n", HOME, "--audience=hemostat"]);
    refused(unbound.trim(), "bound to no node").await;
    let elsewhere = scene.kubectl(&["create", "token", "hemostat-agent", "-n", HOME]);
    refused(elsewhere.trim(), "not valid for the audience").await;
    let of_user = "ada-token";
    refused(of_user, "").await;

    let enrolled = enrol(&process.links, &authority, &scene.token("n1", "hemostat-agent")).await.unwrap();
    assert_eq!(enrolled.node.as_str(), "n1");
    let life = enrolled.valid.1.since(enrolled.valid.0);
    assert!(life < Duration::from_secs(2 * 3600), "short-lived: {life:?}");
    // With that certificate as another node: our own end refuses already; an end that does not is refused by the controller.
    let credentials =
        Credentials::Memory { own: enrolled.own.clone(), authority: enrolled.authority.clone() };
    let (link, connection) = connect(ConnectConfig {
        first_pause: Duration::from_millis(20),
        ..ConnectConfig::new(process.links.clone(), NodeId::new("n2"), credentials.clone())
    });
    link.up.send(Up::Hello { node: NodeId::new("n2"), epoch: AgentEpoch(1) }).await.unwrap();
    let mut state = connection.state.clone();
    let down = state
        .wait_for(|state| matches!(state, LinkState::Down { tries, .. } if *tries > 0))
        .await
        .unwrap()
        .clone();
    let LinkState::Down { because, .. } = down else { panic!("{down:?}") };
    assert!(because.contains("n2") && because.contains("n1"), "{because}");
    connection.close().await;
    // Of a pod that is gone the token is worth nothing.
    let token = scene.token("n3", "hemostat-agent");
    scene.kubectl(&["delete", "pod", "agent-hemostat-agent-n3", "-n", HOME, "--force", "--grace-period=0"]);
    refused(&token, "not valid").await;
    process.stop();
}
