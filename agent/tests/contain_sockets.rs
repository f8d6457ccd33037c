//! Sockets destroyed on the real kernel, in a network namespace other than the agent's.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::process::Command;

use ground::{Ground, now, process, puppet::Puppet};
use hemostat_agent::contain::Which;
use model::{
    ActionFailure, ActionRecord, CommandKey, Effect, IncidentId, NodeAction, NodeCommand, NodeId, Phase,
    PhaseDone, RollbackState, Timestamp,
};

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
    let _listed = UdpDiag::Loaded.now();
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
        let verify = verify(&record);
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

fn verify(record: &ActionRecord) -> NodeCommand {
    NodeCommand {
        key: CommandKey::new("k"),
        action_id: record.id.clone(),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: record.action.clone(),
        target: record.target.clone(),
        phase: Phase::Verify { rollback: RollbackState::Nothing },
    }
}

/// Both families, the one within the other, connected and not, with a number of its own or one that the kernel gave: whoever uses such a
/// socket next is told that it was cut off, and a connected one has no peer any more.
#[test]
fn udp_sockets_of_the_target_are_cut_off_whatever_their_kind_and_those_of_others_stay() {
    const PEERS: [&str; 3] = ["127.0.0.1:7000", "[::1]:7000", "[::ffff:127.0.0.1]:7000"];
    let _listed = UdpDiag::Loaded.now();
    for by_cgroup in [false, true] {
        let Some((ground, mut target)) = stage("udp sockets") else { return };
        // Whom it speaks to, and who speaks beside it, in the same network namespace.
        let mut peer = Puppet::beside(&target);
        for address in &PEERS[..2] {
            assert_eq!(peer.tell(&format!("echo {address}")), "ok");
        }
        let open = |who: &mut Puppet| -> Vec<(String, String)> {
            let orders = PEERS.iter().flat_map(|peer| {
                [("udp-open", *peer), ("udp-connect", *peer)].map(|(how, peer)| format!("{how} {peer}"))
            });
            orders
                .map(|order| {
                    let answer = who.tell(&order);
                    let index = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{order}: {answer}"));
                    (order, index.to_owned())
                })
                .collect()
        };
        let (mine, theirs) = (open(&mut target), open(&mut peer));
        for (order, index) in &mine {
            assert_eq!(target.tell(&format!("udp-say {index}")), "ok", "{order}");
        }
        // bound to a number: somebody may wait on it
        let bound: Vec<String> = ["127.0.0.1:7100", "[::1]:7100", "0.0.0.0:7200", "[::]:7300"]
            .iter()
            .map(|at| target.tell(&format!("udp-bind {at}")).strip_prefix("ok ").unwrap().to_owned())
            .collect();
        let contain = ground.contain();
        let wanted = if by_cgroup { ground.target() } else { process(target.pid()) };
        let record = match contain.react(NodeAction::DestroySockets, wanted, now()) {
            Err(ActionFailure::Unsupported { because, .. }) => {
                println!("SKIPPED: udp sockets: {because}");
                return;
            }
            other => other.unwrap(),
        };
        for (order, index) in &mine {
            if order.starts_with("udp-connect") {
                assert_eq!(target.tell(&format!("udp-peer {index}")), "none", "{order}");
                assert_eq!(target.tell(&format!("udp-take {index}")), "aborted", "{order}");
                assert_ne!(target.tell(&format!("udp-say {index}")), "ok", "{order}: it stays cut off");
            } else {
                assert_eq!(target.tell(&format!("udp-say {index}")), "aborted", "{order}");
            }
        }
        for index in &bound {
            assert_eq!(target.tell(&format!("udp-take {index}")), "aborted");
        }
        for (order, index) in &theirs {
            assert_eq!(peer.tell(&format!("udp-say {index}")), "ok", "another's {order}");
        }
        let verify = verify(&record);
        let verified = |effect| Ok(PhaseDone::Verified { effect });
        assert_eq!(contain.handle(&verify, now()).result, verified(Effect::InForce));
        // a new one is another's decision: it works, and is seen
        assert_eq!(target.tell("udp 127.0.0.1:7000"), "ok");
        assert!(target.tell("udp-connect 127.0.0.1:7000").starts_with("ok"));
        let again = contain.handle(&verify, now()).result;
        assert_eq!(again, verified(Effect::Missing { found: "connected sockets: 1".into() }));
    }
}

/// Never called done: what the kernel does not list stays, is counted, and the module that is not there is named.
#[test]
fn udp_sockets_that_the_kernel_does_not_list_are_said_to_stay() {
    let Some(_unlisted) = UdpDiag::Taken.now() else {
        println!(
            "SKIPPED: udp sockets that are not listed: udp_diag is built into this kernel, or not ours to take out"
        );
        return;
    };
    let can = hemostat_agent::contain::sockets_that_can_be_destroyed().unwrap();
    let can: Vec<bool> = can.iter().map(|(_, can)| can.is_ok()).collect();
    assert_eq!(can, [true, false], "TCP, UDP");
    let Some((ground, mut puppet)) = stage("unlisted udp sockets") else { return };
    assert_eq!(puppet.tell("echo 127.0.0.1:7000"), "ok");
    let index = puppet.tell("udp-connect 127.0.0.1:7000").strip_prefix("ok ").unwrap().to_owned();
    let contain = ground.contain();
    let target = process(puppet.pid());
    // the listener and its other half are UDP sockets, too
    let refused = contain.react(NodeAction::DestroySockets, target.clone(), now()).unwrap_err();
    let ActionFailure::Unsupported { because, .. } = &refused else { panic!("{refused:?}") };
    assert!(because.contains("UDP sockets that stay: ") && because.contains("udp_diag"), "{because}");
    assert_eq!(puppet.tell(&format!("udp-say {index}")), "ok", "it stays");
    // with a connection that can be reset the action is done, and says what stayed
    let talk = format!("say {}", puppet.tell("connect 127.0.0.1:7000").strip_prefix("ok ").unwrap());
    let record = contain.react(NodeAction::DestroySockets, target, now()).unwrap();
    assert_ne!(puppet.tell(&talk), "ok");
    assert_eq!(puppet.tell(&format!("udp-say {index}")), "ok", "it stays");
    let effect = contain.handle(&verify(&record), now()).result;
    let Ok(PhaseDone::Verified { effect: Effect::Missing { found } }) = effect else { panic!("{effect:?}") };
    assert!(found.starts_with("UDP sockets that stay: ") && found.contains("udp_diag"), "{found}");
}

/// Nothing lists a socket where its process is not: it is found by its descriptor, and said to stay.
#[test]
fn a_connection_made_in_another_network_namespace_is_said_to_stay() {
    let _listed = UdpDiag::Loaded.now();
    let Some((_elsewhere, mut peer)) = stage("sockets elsewhere") else { return };
    let Some((ground, mut puppet)) = stage("sockets elsewhere, target") else { return };
    assert_eq!(peer.tell("echo 127.0.0.1:7000"), "ok");
    let answer = puppet.tell(&format!("connect-in {} 127.0.0.1:7000", peer.pid()));
    let talk = format!("say {}", answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{answer}")));
    assert_eq!(puppet.tell(&talk), "ok");
    let contain = ground.contain();
    let target = process(puppet.pid());
    let refused = contain.react(NodeAction::DestroySockets, target.clone(), now()).unwrap_err();
    let ActionFailure::Unsupported { because, .. } = &refused else { panic!("{refused:?}") };
    assert!(because.contains("connected sockets that stay: 1, made in another"), "{because}");
    // with one that can be reset it is done, and is not said to be in force
    assert_eq!(puppet.tell("echo 127.0.0.1:7001"), "ok");
    let here = puppet.tell("connect 127.0.0.1:7001");
    let record = contain.react(NodeAction::DestroySockets, target, now()).unwrap();
    assert_ne!(puppet.tell(&here.replace("ok", "say")), "ok");
    assert_eq!(puppet.tell(&talk), "ok", "it stays");
    let effect = contain.handle(&verify(&record), now()).result;
    let Ok(PhaseDone::Verified { effect: Effect::Missing { found } }) = effect else { panic!("{effect:?}") };
    assert_eq!(
        found,
        "connected sockets that stay: 1, made in another network namespace or of another protocol (MPTCP, SCTP)"
    );
}

/// Debian's 6.1 has `udp_diag` as a module, which the guest of the tests has beside it (xtask/src/vm/kernel.rs): with and without.
#[derive(Clone, Copy, PartialEq)]
enum UdpDiag {
    Loaded,
    Taken,
}

impl UdpDiag {
    /// Makes it so, for as long as the guard lives; `None` where it cannot be.
    fn now(self) -> Option<std::sync::MutexGuard<'static, ()>> {
        const MODULE: &str = "/udp_diag.ko";
        static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Ok(module) = std::fs::File::open(MODULE) else { return (self == Self::Loaded).then_some(guard) };
        let modules = std::fs::read_to_string("/proc/modules").unwrap();
        let is_loaded = modules.lines().any(|line| line.starts_with("udp_diag "));
        match (self, is_loaded) {
            (Self::Loaded, false) => rustix::system::finit_module(module, c"", 0).unwrap(),
            (Self::Taken, true) => rustix::system::delete_module(c"udp_diag", 0).unwrap(),
            _ => {}
        }
        Some(guard)
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
