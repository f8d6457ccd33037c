//! Sockets destroyed on the real kernel, in a network namespace other than the agent's.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::process::Command;

use ground::{Ground, now, process, puppet::Puppet};
use hemostat_agent::contain::Which;
use model::{ActionFailure, Effect, NodeAction, Phase, PhaseDone, RollbackState};

/// Not a test: the program that the tests start.
#[test]
fn puppet() {
    ground::puppet::perform();
}

fn stage(name: &str) -> Option<(Ground, Puppet)> {
    let ground = Ground::new(name)?;
    let puppet = Puppet::new(Some(&ground));
    let up = Command::new("nsenter")
        .args(["-t", &puppet.pid().to_string(), "-n", "ip", "link", "set", "lo", "up"])
        .status();
    if !up.is_ok_and(|status| status.success()) {
        println!("SKIPPED: {name}: needs ip (iproute2) and nsenter (util-linux)");
        return None;
    }
    Some((ground, puppet))
}

#[test]
fn connections_of_the_target_are_reset_and_listeners_stay() {
    for by_cgroup in [false, true] {
        let Some((ground, mut puppet)) = stage("sockets") else { return };
        let mut talks = Vec::new();
        for address in ["127.0.0.1:7000", "[::1]:7000"] {
            assert_eq!(puppet.tell(&format!("echo {address}")), "ok");
            let answer = puppet.tell(&format!("connect {address}"));
            talks.push(format!("say {}", answer.strip_prefix("ok ").unwrap()));
        }
        for talk in &talks {
            assert_eq!(puppet.tell(talk), "ok");
        }
        let contain = ground.contain();
        let target = if by_cgroup { ground.target() } else { process(puppet.pid()) };
        let record = match contain.react(NodeAction::DestroySockets, target.clone(), now()) {
            Err(ActionFailure::Unsupported { because, .. }) => {
                println!("SKIPPED: sockets: {because}");
                return;
            }
            other => other.unwrap(),
        };
        for talk in &talks {
            let answer = puppet.tell(talk);
            assert!(answer != "ok" && answer != "silence", "{answer}");
        }
        let verify = model::NodeCommand {
            key: model::CommandKey::new("k"),
            action_id: record.id.clone(),
            incident: model::IncidentId::new("inc-1"),
            node: model::NodeId::new("test-node"),
            deadline: model::Timestamp(i64::MAX),
            action: record.action.clone(),
            target,
            phase: Phase::Verify { rollback: RollbackState::Nothing },
        };
        assert_eq!(
            contain.handle(&verify, now()).result,
            Ok(PhaseDone::Verified { effect: Effect::InForce })
        );
        assert!(contain.in_force().is_empty(), "nothing is held");
        assert!(contain.release(&Which::All).is_empty());
        // listeners are there still
        assert!(puppet.tell("connect 127.0.0.1:7000").starts_with("ok"));
        assert!(matches!(
            contain.handle(&verify, now()).result,
            Ok(PhaseDone::Verified { effect: Effect::Missing { .. } })
        ));
    }
}

#[test]
fn sockets_of_others_in_the_same_namespace_stay() {
    let Some((ground, mut puppet)) = stage("other sockets") else { return };
    assert_eq!(puppet.tell("echo 127.0.0.1:7000"), "ok");
    let answer = puppet.tell("connect 127.0.0.1:7000");
    let talk = format!("say {}", answer.strip_prefix("ok ").unwrap());
    let other =
        ground.start(Command::new("nsenter").args(["-t", &puppet.pid().to_string(), "-n", "sleep", "1000"]));
    ground::wait_for("the other", || {
        std::fs::read_to_string(format!("/proc/{other}/comm")).is_ok_and(|name| name.trim() == "sleep")
    });
    let contain = ground.contain();
    contain.react(NodeAction::DestroySockets, process(other), now()).unwrap();
    assert_eq!(puppet.tell(&talk), "ok");
}
