//! Network quarantine and destination block on the real kernel: two network namespaces joined by a veth pair, the contained program in
//! one, its peer in the other; and the loopback of the contained one.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{net::IpAddr, process::Command};

use ground::{Ground, now, process, puppet::Puppet};
use hemostat_agent::contain::Which;
use model::{ActionId, ActionState, BlockDestination, NetQuarantine, NodeAction, PhaseDone};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

const PORT: u16 = 7000;
const DNS: u16 = 53;
const INSIDE4: &str = "10.91.0.1";
const PEER4: &str = "10.91.0.2";
const INSIDE6: &str = "fd91::1";
const PEER6: &str = "fd91::2";

/// Not a test: the program that the tests start.
#[test]
fn puppet() {
    ground::puppet::perform();
}

struct Stage {
    inside: Puppet,
    peer: Puppet,
    ground: Ground,
}

fn stage(name: &str) -> Option<Stage> {
    let ground = Ground::new(name)?.with_bpffs()?;
    if Command::new("ip").arg("-V").output().is_err() || Command::new("nsenter").arg("-V").output().is_err() {
        println!("SKIPPED: {name}: needs ip (iproute2) and nsenter (util-linux)");
        return None;
    }
    let (mut inside, mut peer) = (Puppet::new(Some(&ground)), Puppet::new(None));
    let (a, b) = (inside.pid().to_string(), peer.pid().to_string());
    let link = format!("ct{}", inside.pid());
    ip(&["link", "add", &link, "netns", &a, "type", "veth", "peer", "name", &link, "netns", &b]);
    for (pid, four, six) in [(&a, INSIDE4, INSIDE6), (&b, PEER4, PEER6)] {
        for args in [
            vec!["addr", "add", &format!("{four}/24"), "dev", &link],
            vec!["-6", "addr", "add", &format!("{six}/64"), "dev", &link, "nodad"],
            vec!["link", "set", "lo", "up"],
            vec!["link", "set", &link, "up"],
        ] {
            let mut all = vec!["-t", pid, "-n", "ip"];
            all.extend(args);
            run("nsenter", &all);
        }
    }
    for port in [PORT, DNS, PORT + 1] {
        for address in [format!("{PEER4}:{port}"), format!("[{PEER6}]:{port}")] {
            assert_eq!(peer.tell(&format!("echo {address}")), "ok");
        }
    }
    for address in [format!("127.0.0.1:{PORT}"), format!("[::1]:{PORT}")] {
        assert_eq!(inside.tell(&format!("echo {address}")), "ok");
    }
    // IPv6 comes up a moment after the link
    ground::wait_for("IPv6", || inside.tell(&format!("udp [{PEER6}]:{PORT}")) == "ok");
    Some(Stage { inside, peer, ground })
}

fn ip(args: &[&str]) {
    run("ip", args);
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What works from inside, over every way: one letter each, `+` for an answer, `-` for refused at once, `.` for silence.
fn reach(inside: &mut Puppet) -> String {
    let mut all = String::new();
    for order in [
        format!("connect {PEER4}:{PORT}"),
        format!("connect [{PEER6}]:{PORT}"),
        format!("connect [::ffff:{PEER4}]:{PORT}"),
        format!("connect 127.0.0.1:{PORT}"),
        format!("connect [::1]:{PORT}"),
        format!("udp {PEER4}:{PORT}"),
        format!("udp [{PEER6}]:{PORT}"),
        format!("udp {PEER4}:{DNS}"),
        format!("udp [::1]:{PORT}"),
    ] {
        all.push(match inside.tell(&order).as_str() {
            ok if ok.starts_with("ok") => '+',
            "refused" => '-',
            "silence" => '.',
            other => panic!("{order}: {other}"),
        });
    }
    all
}

const ALL: &str = "+++++++++";

#[test]
fn i5_quarantine_cuts_everything_and_its_revert_gives_it_back() {
    let Some(Stage { mut inside, mut peer, ground }) = stage("quarantine") else { return };
    let contain = ground.contain();
    assert_eq!(reach(&mut inside), ALL);
    let four = inside.tell(&format!("connect {PEER4}:{PORT}"));
    let six = inside.tell(&format!("connect [{PEER6}]:{PORT}"));
    let established: Vec<String> =
        [four, six].iter().map(|answer| format!("say {}", answer.strip_prefix("ok ").unwrap())).collect();
    for order in &established {
        assert_eq!(inside.tell(order), "ok");
    }
    let inward = format!("[{INSIDE6}]:{PORT}");
    assert_eq!(inside.tell(&format!("echo {inward}")), "ok");
    assert!(peer.tell(&format!("connect {inward}")).starts_with("ok"));

    let record =
        contain.react(NodeAction::NetQuarantine(NetQuarantine::default()), ground.target(), now()).unwrap();
    assert_eq!(reach(&mut inside), "---------");
    for order in &established {
        assert_eq!(inside.tell(order), "silence", "established connections too");
    }
    assert_eq!(peer.tell(&format!("connect {inward}")), "silence", "nobody gets in");
    assert_eq!(peer.tell(&format!("udp {inward}")), "silence");
    assert!(contain.watch(now()).is_empty());

    let lifted = contain.release(&Which::One(record.id));
    assert!(
        matches!(&lifted[0].result, Ok(PhaseDone::Reverted { detail }) if detail.contains("dropped")),
        "{lifted:?}"
    );
    assert_eq!(reach(&mut inside), ALL);
    assert!(peer.tell(&format!("connect {inward}")).starts_with("ok"));
    let pins = contain_pins(&ground);
    assert_eq!(pins, 0, "no pin is left");
    contain.uninstall().unwrap();
}

#[test]
fn peers_on_the_allow_list_stay_reachable() {
    let Some(Stage { mut inside, peer: _peer, ground }) = stage("allow list") else { return };
    let contain = ground.contain();
    let with = |allow: &[&str]| {
        NodeAction::NetQuarantine(NetQuarantine {
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
        })
    };
    for (allow, expected) in [
        (vec!["10.91.0.2/32"], "+-+--+-+-"),
        (vec!["10.91.0.0/24", "fd91::/64"], "+++--+++-"),
        (vec!["0.0.0.0/0"], "+-++-+-+-"),
        (vec!["::/0"], "-+--+-+-+"),
        (vec!["192.0.2.0/24"], "---------"),
    ] {
        let record = contain.react(with(&allow), ground.target(), now()).unwrap();
        assert_eq!(reach(&mut inside), expected, "{allow:?}");
        contain.release(&Which::One(record.id));
    }
    assert_eq!(reach(&mut inside), ALL);
}

#[test]
fn a_blocked_destination_is_blocked_alone() {
    let Some(Stage { mut inside, peer: _peer, ground }) = stage("block") else { return };
    let contain = ground.contain();
    let block = |net: &str, port| {
        NodeAction::BlockDestination(BlockDestination { destination: net.parse().unwrap(), port })
    };
    let old = inside.tell(&format!("connect {PEER4}:{PORT}")).replace("ok", "say");
    for (action, expected, established) in [
        (block("10.91.0.2/32", None), "-+-++-+-+", "silence"),
        (block("10.91.0.2/32", Some(DNS)), "+++++++-+", "ok"),
        (block("10.91.0.0/16", Some(PORT)), "-+-++-+++", "silence"),
        (block("fd91::2/128", Some(PORT)), "+-++++-++", "ok"),
        (block("fd91::/16", None), "+-++++-++", "ok"),
    ] {
        let record = contain.react(action.clone(), ground.target(), now()).unwrap();
        assert_eq!(reach(&mut inside), expected, "{action:?}");
        assert_eq!(inside.tell(&old), established, "{action:?}");
        contain.release(&Which::One(record.id));
        ground::wait_for("the connection to go on", || inside.tell(&old) == "ok");
    }
    assert_eq!(reach(&mut inside), ALL);
}

#[test]
fn two_quarantines_hold_until_both_are_lifted() {
    let Some(Stage { mut inside, peer: _peer, ground }) = stage("two quarantines") else { return };
    let contain = ground.contain();
    let quarantine = NodeAction::NetQuarantine(NetQuarantine::default());
    let first = contain.react(quarantine, ground.target(), now()).unwrap();
    let four = NetQuarantine { allow: vec!["0.0.0.0/0".parse().unwrap()] };
    // by the process: its cgroup is meant
    let second = contain.react(NodeAction::NetQuarantine(four), process(inside.pid()), now()).unwrap();
    assert_eq!(reach(&mut inside), "---------");
    contain.release(&Which::One(first.id));
    assert_eq!(reach(&mut inside), "+-++-+-+-");
    contain.release(&Which::One(second.id));
    assert_eq!(reach(&mut inside), ALL);
}

#[test]
fn children_of_the_cgroup_are_covered() {
    let Some(Stage { mut inside, peer: _peer, ground }) = stage("children") else { return };
    let contain = ground.contain();
    let (sub, _) = ground.sub("below");
    std::fs::write(sub.join("cgroup.procs"), inside.pid().to_string()).unwrap();
    contain.react(NodeAction::NetQuarantine(NetQuarantine::default()), ground.target(), now()).unwrap();
    assert_eq!(reach(&mut inside), "---------");
    contain.release(&Which::All);
    assert_eq!(reach(&mut inside), ALL);
}

/// The loader is killed; the quarantine stays, is found again, and is lifted without the controller.
#[test]
fn a_quarantine_outlives_the_agent_and_is_lifted_locally() {
    let Some(Stage { mut inside, peer: _peer, ground }) = stage("outlives") else { return };
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.args(["--exact", "short_lived_agent", "--nocapture", "--test-threads=1"]);
    agent.env(
        "HEMOSTAT_AGENT",
        format!("{} {} {}", ground.dir.path().display(), ground.path, ground.cgroup.display()),
    );
    let output = agent.output().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{output:?}");
    assert_eq!(reach(&mut inside), "---------", "the agent is dead, the quarantine holds");
    let contain = ground.contain();
    let recovered = contain.recover(now());
    assert!(matches!(&recovered[..], [one] if one.failure.is_none()), "{recovered:?}");
    assert_eq!(reach(&mut inside), "---------");
    assert_eq!(contain.in_force().len(), 1);
    contain.release(&Which::All);
    assert_eq!(reach(&mut inside), ALL);
}

/// Not a test: the agent of the test above.
#[test]
fn short_lived_agent() {
    let Ok(place) = std::env::var("HEMOSTAT_AGENT") else { return };
    let [dir, path, cgroup] = place.split(' ').collect::<Vec<_>>()[..] else { panic!("{place}") };
    let mut config = hemostat_agent::contain::ContainConfig::new(
        model::NodeId::new("test-node"),
        format!("{dir}/state").into(),
    );
    config.bpffs = format!("{dir}/bpffs").into();
    let contain = ground::open(&config);
    let target = ground::cgroup_target(cgroup.as_ref(), path);
    contain.react(NodeAction::NetQuarantine(NetQuarantine::default()), target, now()).unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn pins_of_a_dead_cgroup_are_removed() {
    let Some(ground) = Ground::new("dead cgroup").and_then(Ground::with_bpffs) else { return };
    let contain = ground.contain();
    let (sub, path) = ground.sub("short");
    let target = ground::cgroup_target(&sub, &path);
    let record = contain.react(NodeAction::NetQuarantine(NetQuarantine::default()), target, now()).unwrap();
    assert_eq!(contain_pins(&ground), 1);
    std::fs::remove_dir(&sub).unwrap();
    assert!(contain.watch(now()).is_empty());
    assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Vacuous);
    assert_eq!(contain_pins(&ground), 0);
    assert!(contain.in_force().is_empty());
}

#[test]
fn a_pin_removed_by_somebody_is_made_again() {
    let Some(Stage { mut inside, peer: _peer, ground }) = stage("pin drift") else { return };
    let contain = ground.contain();
    contain.prepare().unwrap();
    let record =
        contain.react(NodeAction::NetQuarantine(NetQuarantine::default()), ground.target(), now()).unwrap();
    let Some(model::RollbackState::Network { pins, .. }) = record.rollback else { panic!() };
    std::fs::remove_file(format!("{pins}/packet_out")).unwrap();
    assert_eq!(contain.watch(now()).len(), 1);
    assert_eq!(reach(&mut inside), "---------");
    contain.release(&Which::All);
    assert_eq!(reach(&mut inside), ALL);
}

/// Addresses on and beside the ways of [`reach`], as networks of any length.
fn network() -> impl Strategy<Value = ipnet::IpNet> {
    let four = prop::sample::select(vec![PEER4, "127.0.0.1", "10.91.0.77", "192.0.2.1"]);
    let six = prop::sample::select(vec![PEER6, "::1", "fd91::77", "2001:db8::1"]);
    prop_oneof![(four, 0_u8..=32), (six, 0_u8..=128)]
        .prop_map(|(address, length)| ipnet::IpNet::new(address.parse().unwrap(), length).unwrap())
}

fn action() -> impl Strategy<Value = NodeAction> {
    let port = prop::sample::select(vec![None, Some(PORT), Some(DNS), Some(PORT + 1)]);
    prop_oneof![
        prop::collection::vec(network(), 0..5)
            .prop_map(|allow| NodeAction::NetQuarantine(NetQuarantine { allow })),
        (network(), port).prop_map(|(destination, port)| {
            NodeAction::BlockDestination(BlockDestination { destination, port })
        }),
    ]
}

/// What [`reach`] says while these are in force around the program.
fn expected<'a>(actions: impl Iterator<Item = &'a NodeAction> + Clone) -> String {
    let ways = [
        (PEER4, PORT),
        (PEER6, PORT),
        // mapped into IPv6: the wire has IPv4
        (PEER4, PORT),
        ("127.0.0.1", PORT),
        ("::1", PORT),
        (PEER4, PORT),
        (PEER6, PORT),
        (PEER4, DNS),
        ("::1", PORT),
    ];
    let passes = |(address, port): (&str, u16)| {
        let address: IpAddr = address.parse().unwrap();
        actions.clone().all(|action| match action {
            NodeAction::NetQuarantine(with) => with.allow.iter().any(|net| net.contains(&address)),
            NodeAction::BlockDestination(with) => {
                !with.destination.contains(&address) || with.port.is_some_and(|only| only != port)
            }
            other => panic!("{other:?}"),
        })
    };
    ways.into_iter().map(|way| if passes(way) { '+' } else { '-' }).collect()
}

/// Any quarantines and blocks on any of three nested cgroups, with the program in any of them, lifted in any order: at every moment exactly
/// what they say is cut off, and in the end nothing is.
#[test]
fn i5_network_reverts_restore_exactly() {
    let Some(Stage { mut inside, peer: _peer, ground }) = stage("network property") else { return };
    let contain = ground.contain();
    let (outer, outer_path) = ground.sub("a");
    let inner = outer.join("b");
    std::fs::create_dir(&inner).unwrap();
    let nested = [
        (ground.cgroup.clone(), ground.path.clone()),
        (outer, outer_path.clone()),
        (inner, format!("{outer_path}/b")),
    ];
    let old = [PEER4.to_owned(), format!("[{PEER6}]")].map(|address| {
        let answer = inside.tell(&format!("connect {address}:{PORT}"));
        answer.replace("ok", "say")
    });
    let order = prop::collection::vec(any::<prop::sample::Index>(), 4);
    let some = prop::collection::vec((action(), 0_usize..3), 1..4);
    let mut runner = TestRunner::new(Config { cases: 24, max_shrink_iters: 16, ..Config::default() });
    let inside = std::cell::RefCell::new(inside);
    let result = runner.run(&(0_usize..3, some, order), |(home, some, order)| {
        let mut inside = inside.borrow_mut();
        std::fs::write(nested[home].0.join("cgroup.procs"), inside.pid().to_string()).unwrap();
        let before = ground.snapshot();
        let mut standing: Vec<(ActionId, NodeAction, usize)> = Vec::new();
        for (action, at) in some {
            let target = ground::cgroup_target(&nested[at].0, &nested[at].1);
            let record = contain.react(action.clone(), target, now()).unwrap();
            if !standing.iter().any(|(id, ..)| *id == record.id) {
                standing.push((record.id, action, at));
            }
        }
        for pick in order.iter().chain([&order[0]]) {
            let around = standing.iter().filter(|(_, _, at)| *at <= home).map(|(_, action, _)| action);
            let (found, wanted) = (reach(&mut inside), expected(around));
            if found != wanted {
                contain.release(&Which::All);
            }
            prop_assert_eq!(found, wanted, "{:?} around {}", standing, home);
            if standing.is_empty() {
                break;
            }
            let (id, ..) = standing.remove(pick.index(standing.len()));
            let lifted = contain.release(&Which::One(id));
            prop_assert!(matches!(&lifted[..], [one] if one.result.is_ok()), "{:?}", lifted);
        }
        prop_assert!(contain.in_force().is_empty());
        prop_assert_eq!(contain_pins(&ground), 0);
        prop_assert_eq!(ground.snapshot(), before);
        for order in &old {
            ground::wait_for("the old connection to go on", || inside.tell(order) == "ok");
        }
        Ok(())
    });
    contain.release(&Which::All);
    result.unwrap();
}

fn contain_pins(ground: &Ground) -> usize {
    std::fs::read_dir(ground.dir.path().join("bpffs/hemostat")).map_or(0, Iterator::count)
}
