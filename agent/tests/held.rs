//! Processes that stand held in the kernel's map though no record tells of them: nobody may stand for ever. Needs root and a kernel that
//! takes the probes; skips aloud otherwise.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_abi::{HeldTask, TaskKey};
use aya::maps::{HashMap, Map, MapData};
use detect::{
    load,
    matcher::{Options, RuleSet, Swap},
    source::SourceFile,
};
use hemostat_agent::{
    Agent, AgentConfig, AgentHandle, StartError,
    clock::Clock,
    contain::Which,
    mask::Masker,
    probe::{ProbeConfig, ProbeError, Probes, release_held},
};
use model::{FilterPlan, NodeId};
use wire::link::{ControllerLink, in_process};

/// How long an event is awaited before a test gives up: an emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything is taken away at the end, also after a panic.
struct Scene {
    handle: Option<AgentHandle>,
    _controller: ControllerLink,
    pins: PathBuf,
    _folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Scene {
    fn start(name: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let pins = PathBuf::from(format!("/sys/fs/bpf/hemostat-held-{name}-{}", std::process::id()));
        let text = format!(
            "title: Held\nid: held\nlogsource:\n  product: linux\n  category: process_creation\ndetection:\n  s:\n    Image: '{}'\n  \
             condition: s\nlevel: critical\nhemostat:\n  reaction: freeze\n",
            folder.path().join("evil").display(),
        );
        let loaded = load::load(&[SourceFile { name: "held.yml".into(), text }]);
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        let node = NodeId::new("held");
        let (agent_end, controller) = in_process(node.clone(), 64);
        let rules = Arc::new(Swap::new(Arc::new(set)));
        let mut config =
            AgentConfig::new(node, folder.path().join("state"), rules, Masker::new(None).unwrap());
        config.probes.pins.clone_from(&pins);
        match Agent::start(config, agent_end) {
            Ok(handle) => Some(Self {
                handle: Some(handle),
                _controller: controller,
                pins,
                _folder: folder,
                children: Vec::new(),
            }),
            Err(StartError::Probes(ProbeError::NotPermitted { operation, source })) => {
                println!("SKIPPED: {operation} is not permitted ({source}): not root?");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A process that stands stopped, and that the kernel's map names as held for a minute.
    fn held(&mut self) -> u32 {
        let child = Command::new("/bin/sleep").arg("300").spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        signal(pid, "STOP");
        await_state(pid, 'T');
        let mut map = held_map(&self.pins);
        let key = TaskKey { pid, pad: 0, start: start_of(pid) };
        let at = Clock::boot_now().0.saturating_sub(60_000_000_000);
        let value = HeldTask { at, cgroup: 1 };
        map.insert(key_bytes(key), value_bytes(value), 0).unwrap();
        pid
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            handle.contain().release(&Which::All);
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        drop(self.handle.take());
        let _ = fs::remove_file(self.pins.join("held"));
        let _ = fs::remove_dir(&self.pins);
    }
}

type HeldMap = HashMap<MapData, [u8; size_of::<TaskKey>()], [u8; size_of::<HeldTask>()]>;

fn held_map(pins: &Path) -> HeldMap {
    HeldMap::try_from(Map::HashMap(MapData::from_pin(pins.join("held")).unwrap())).unwrap()
}

fn key_bytes(key: TaskKey) -> [u8; size_of::<TaskKey>()] {
    zerocopy::transmute!(key)
}

fn value_bytes(value: HeldTask) -> [u8; size_of::<HeldTask>()] {
    zerocopy::transmute!(value)
}

fn signal(pid: u32, name: &str) {
    assert!(
        Command::new("/bin/kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success()
    );
}

/// State and start (in ns, by ticks) from /proc/PID/stat.
fn stat(pid: u32) -> (char, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text[text.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[0].chars().next().unwrap(), fields[19].parse::<u64>().unwrap() * 10_000_000)
}

fn start_of(pid: u32) -> u64 {
    stat(pid).1
}

/// No event tells a stranger of a stop, so it looks.
fn await_state(pid: u32, wanted: char) {
    let begun = Instant::now();
    while stat(pid).0 != wanted {
        assert!(begun.elapsed() < PATIENCE, "pid {pid} is {}, not {wanted}", stat(pid).0);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_process_whose_record_never_comes_goes_on_if_it_is_innocent() {
    let Some(mut scene) = Scene::start("innocent") else { return };
    let pid = scene.held();
    await_state(pid, 'S');
    // It is forgotten right after it goes on.
    let begun = Instant::now();
    while held_map(&scene.pins).iter().next().is_some() {
        assert!(begun.elapsed() < PATIENCE, "it is still remembered as held");
        std::thread::sleep(Duration::from_millis(2));
    }
    scene.handle.take().unwrap().shutdown().await;
    assert!(!scene.pins.exists(), "who ends in order leaves nothing pinned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_that_is_gone_has_left_is_released_without_a_trace() {
    let Some(mut scene) = Scene::start("gone") else { return };
    scene.handle.take().unwrap().shutdown().await;
    // As after a crash: the map is pinned, and nobody reads it.
    let config = ProbeConfig { pins: scene.pins.clone(), ..ProbeConfig::default() };
    drop(Probes::load(&config, &FilterPlan::default()).unwrap());
    let (first, second) = (scene.held(), scene.held());
    let mut released: Vec<u32> =
        release_held(&scene.pins).unwrap().into_iter().map(|process| process.pid.0).collect();
    released.sort_unstable();
    let mut both = [first, second];
    both.sort_unstable();
    assert_eq!(released, both);
    for pid in both {
        await_state(pid, 'S');
    }
    assert!(!scene.pins.exists(), "the pinned map and its folder are gone");
    assert_eq!(release_held(&scene.pins).unwrap(), [], "a second time there is nothing to do");
}
