//! How long a reaction takes from its decision to "frozen". Prints figures; asserts nothing about time. Run it alone and optimised:
//! `cargo test --release -p hemostat-agent --test contain_latency -- --ignored --nocapture`

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::time::{Duration, Instant};

use ground::{Ground, key, now};
use hemostat_agent::contain::Which;
use model::{NetQuarantine, NodeAction};

const ROUNDS: usize = 300;

#[test]
#[ignore = "a measurement"]
fn react_latency() {
    let Some(ground) = Ground::new("latency").and_then(Ground::with_bpffs) else { return };
    let contain = ground.contain();
    for (name, script) in [
        ("spinning", "while :; do :; done"),
        ("sleeping", "exec sleep 1000"),
        ("tree of 4", "sleep 1000 & sleep 1000 & sleep 1000 & wait"),
    ] {
        let pid = ground.shell(script);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        let key = key(pid);
        let times = (0..ROUNDS).map(|_| {
            let begun = Instant::now();
            let record = contain.react_freeze(key, now()).unwrap();
            let took = begun.elapsed();
            contain.release(&Which::One(record.id));
            took
        });
        print(&format!("freeze, {name}"), times.collect());
        std::fs::write(ground.cgroup.join("cgroup.kill"), "1").unwrap();
        ground::wait_for("their end", || ground.members().is_empty());
    }
    for prepared in [false, true] {
        let times = (0..50).map(|_| {
            if prepared {
                contain.prepare().unwrap();
            }
            let begun = Instant::now();
            let record = contain
                .react(NodeAction::NetQuarantine(NetQuarantine::default()), ground.target(), now())
                .unwrap();
            let took = begun.elapsed();
            contain.release(&Which::One(record.id));
            took
        });
        print(if prepared { "net quarantine, prepared" } else { "net quarantine" }, times.collect());
    }
}

fn print(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{name}: p50 {:?} p90 {:?} p99 {:?} max {:?}", at(0.5), at(0.9), at(0.99), at(1.0));
}
