//! The whole agent on the running kernel: hook, join, match, react, spool, link. Needs root and a kernel that takes the probes; skips
//! aloud otherwise.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

mod ground;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use detect::{
    load,
    matcher::{Options, RuleSet, Swap},
    source::SourceFile,
};
use ground::Ground;
use hemostat_agent::{
    Agent, AgentConfig, AgentHandle, StartError, contain::Which, edge::ReactionBounds, mask::Masker,
    probe::ProbeError,
};
use model::{
    ActionFailure, ActionRecord, ActionState, Activity, Down, Finding, NetQuarantine, NodeAction, NodeId,
    ProcessOrigin, Reaction, Report, Seq, Up,
};
use wire::link::{ControllerLink, in_process};

/// How long an event is awaited before a test gives up: an emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// An agent with one rule, and everything it leaves behind taken away at the end, also after a panic.
struct Scene {
    handle: Option<AgentHandle>,
    controller: ControllerLink,
    folder: tempfile::TempDir,
    pins: PathBuf,
    children: Vec<Child>,
}

impl Scene {
    /// `program` is what the rule asks of `Image`; the rest is the rule's own.
    fn start(name: &str, reaction: &str, extra: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let pins = PathBuf::from(format!("/sys/fs/bpf/hemostat-live-{name}-{}", std::process::id()));
        let rule = format!(
            "title: Live {name}\nid: 00000000-0000-4000-8000-000000000001\nstatus: test\nlogsource:\n  product: linux\n  category: process_creation\n\
             detection:\n  selection:\n    Image: '{}'\n{extra}  condition: selection\nlevel: high\nhemostat:\n  reaction: {reaction}\n",
            folder.path().join("program").display(),
        );
        let loaded = load::load(&[SourceFile { name: "live.yml".into(), text: rule }]);
        assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        let node = NodeId::new("live");
        let (agent_end, controller) = in_process(node.clone(), 64);
        let rules = Arc::new(Swap::new(Arc::new(set)));
        let mut config =
            AgentConfig::new(node, folder.path().join("state"), rules, Masker::new(None).unwrap());
        config.probes.pins = pins.clone();
        // A measurement has more of them in a minute than an attack.
        config.bounds = ReactionBounds::none();
        config.status_every = Duration::from_millis(200);
        match Agent::start(config, agent_end) {
            Ok(handle) => Some(Self { handle: Some(handle), controller, folder, pins, children: Vec::new() }),
            Err(StartError::Probes(ProbeError::NotPermitted { operation, source })) => {
                println!("SKIPPED: {operation} is not permitted ({source}): not root?");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn program(&self, copy_of: &str) -> PathBuf {
        let path = self.folder.path().join("program");
        if !path.exists() {
            // By another program: a child that a test beside this one forks meanwhile would hold our descriptor of it.
            assert!(Command::new("cp").arg(copy_of).arg(&path).status().unwrap().success());
        }
        path
    }

    fn run(&mut self, program: &Path, args: &[&str]) -> u32 {
        let child = Command::new(program).args(args).spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        pid
    }

    async fn next(&mut self) -> Up {
        tokio::time::timeout(PATIENCE, self.controller.up.recv()).await.expect("nothing came up").unwrap()
    }

    async fn report(&mut self) -> (Seq, Report) {
        loop {
            if let Up::Report { seq, report } = self.next().await {
                return (seq, *report);
            }
        }
    }

    async fn finding(&mut self) -> Finding {
        match self.report().await {
            (_, Report::Finding(finding)) => finding,
            (_, other) => panic!("not a finding: {other:?}"),
        }
    }

    async fn reaction(&mut self) -> (Seq, ActionRecord) {
        match self.report().await {
            (seq, Report::Reaction(record)) => (seq, record),
            (_, other) => panic!("not a reaction: {other:?}"),
        }
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

/// Waits until a file is there; an event cannot be awaited for it.
fn appears(path: &Path) -> bool {
    let begun = Instant::now();
    while !path.exists() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    path.exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_match_is_frozen_reported_masked_and_lifted_again() {
    let Some(mut scene) = Scene::start("freeze", "freeze", "") else { return };
    assert!(matches!(scene.next().await, Up::Hello { .. }));
    let program = scene.program("/bin/sleep");
    let pid = scene.run(&program, &["300", "--password=hunter2"]);
    // sleep(1) does not know the option and ends; what counts is the exec.
    let finding = scene.finding().await;
    let process = &finding.event.process;
    assert_eq!((process.key.pid.0, process.origin), (pid, ProcessOrigin::Exec));
    assert_eq!(process.exe, program.to_string_lossy());
    assert_eq!(process.args[1..], ["300", "--password=***"]);
    assert_eq!(process.parent.unwrap().pid.0, std::process::id());
    assert_eq!(finding.ancestors[0].key.pid.0, std::process::id());
    assert_eq!(process.cwd, std::env::current_dir().unwrap().to_string_lossy());
    assert!(matches!(finding.event.activity, Activity::Exec { .. }));
    assert_eq!(finding.rule.reaction, Reaction::Freeze);
    assert!(finding.loss.lost.is_empty(), "{:?}", finding.loss);

    let pid = scene.run(&program, &["300"]);
    let (seq, record) = loop {
        if let (seq, Report::Reaction(record)) = scene.report().await
            && record.target.to_string().contains(&format!("pid {pid} "))
        {
            break (seq, record);
        }
    };
    assert_eq!(record.state, ActionState::Applied);
    let stands = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    println!("frozen in {}", stands.lines().find(|line| line.starts_with("0::")).unwrap_or("?"));
    scene.controller.down.send(Down::Ack { upto: seq }).await.unwrap();

    let status = loop {
        if let Up::Status(status) = scene.next().await
            && status.containments > 0
        {
            break status;
        }
    };
    assert!(status.hooks.iter().any(|hook| matches!(hook.state, model::HookState::Attached { .. })));
    assert_eq!(status.rules, 1);

    let handle = scene.handle.take().unwrap();
    for lifted in handle.contain().release(&Which::All) {
        assert!(lifted.result.is_ok(), "{:?}", lifted.result);
    }
    handle.shutdown().await; // idle: it must not wait for an event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_program_does_nothing_until_judged_and_an_innocent_one_goes_on() {
    let Some(mut scene) = Scene::start("stop", "stop", "    CommandLine|contains: evil\n") else { return };
    assert!(matches!(scene.next().await, Up::Hello { .. }));
    let program = scene.program("/bin/touch");
    let (good, evil) = (scene.folder.path().join("good"), scene.folder.path().join("evil"));

    scene.run(&program, &[good.to_str().unwrap()]);
    assert!(appears(&good), "an innocent program was held for ever");

    let pid = scene.run(&program, &[evil.to_str().unwrap()]);
    let finding = scene.finding().await;
    assert_eq!(finding.event.process.key.pid.0, pid);
    let (_, stop) = scene.reaction().await;
    let (_, freeze) = scene.reaction().await;
    assert_eq!((stop.action.name(), freeze.action.name()), ("node.stop", "node.freeze"));
    assert!(!evil.exists(), "it did something before it was judged");
    let took = freeze.applied.unwrap().since(finding.event.time);
    println!("hook to frozen, {took:?} (debug build, one sample)");

    let handle = scene.handle.take().unwrap();
    for lifted in handle.contain().release(&Which::All) {
        assert!(lifted.result.is_ok(), "{:?}", lifted.result);
    }
    assert!(appears(&evil), "after the undo it must go on exactly where it was");
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_quarantine_used_is_loaded_again_for_the_next_one() {
    let Some(ground) = Ground::new("ahead") else { return };
    let Some(mut scene) = Scene::start("ahead", "none", "") else { return };
    let handle = scene.handle.take().unwrap();
    let contain = handle.contain();
    ground::wait_for("what the first one needs", || contain.is_prepared());
    let quarantine = NodeAction::NetQuarantine(NetQuarantine::default());
    match contain.react(quarantine, ground.target(), ground::now()) {
        Err(ActionFailure::Io { because, .. }) if because.contains("not permitted") => {
            println!("SKIPPED: ahead: {because}");
        }
        done => {
            done.unwrap();
            ground::wait_for("what the next one needs", || contain.is_prepared());
        }
    }
    for lifted in contain.release(&Which::All) {
        assert!(lifted.result.is_ok(), "{:?}", lifted.result);
    }
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_reports_come_again_after_a_restart() {
    let Some(mut scene) = Scene::start("again", "none", "") else { return };
    let program = scene.program("/bin/true");
    scene.run(&program, &["one"]);
    let finding = scene.finding().await;
    scene.handle.take().unwrap().shutdown().await;

    // The same state folder, another start, no rules.
    let node = NodeId::new("live");
    let (agent_end, mut controller) = in_process(node.clone(), 64);
    let (set, _) = RuleSet::compile(&[], Options::default());
    let rules = Arc::new(Swap::new(Arc::new(set)));
    let mut config =
        AgentConfig::new(node, scene.folder.path().join("state"), rules, Masker::new(None).unwrap());
    config.probes.pins = scene.pins.clone();
    let handle = Agent::start(config, agent_end).unwrap();
    let Some(Up::Hello { epoch, .. }) = controller.up.recv().await else { panic!("no hello") };
    assert!(epoch > finding.event.id.epoch);
    let again = loop {
        if let Up::Report { report, .. } = controller.up.recv().await.unwrap() {
            break *report;
        }
    };
    assert_eq!(again, Report::Finding(finding));
    handle.shutdown().await;
}

/// In a process with mounts of its own, where bpffs is not mounted as yet.
#[test]
fn bpffs_is_left_as_it_was_found() {
    const OWN: &str = "HEMOSTAT_OWN_MOUNTS";
    const AT: &str = "/sys/fs/bpf";
    let mounted = || {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().filter(|line| line.contains(&format!(" {AT} bpf "))).count()
    };
    if std::env::var_os(OWN).is_none() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mounts of one's own need root");
            return;
        }
        let mut own = Command::new(std::env::current_exe().unwrap());
        own.args(["--exact", "bpffs_is_left_as_it_was_found", "--nocapture"]).env(OWN, "1");
        // SAFETY: between fork and exec only system calls are made.
        #[expect(unsafe_code, reason = "the namespace has to be there before the program runs")]
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut own, || {
                use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
                rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)?;
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private)?;
                rustix::mount::mount("run", "/run", "tmpfs", MountFlags::empty(), None)?;
                while rustix::mount::unmount("/sys/fs/bpf", UnmountFlags::DETACH).is_ok() {}
                Ok(())
            });
        }
        let output = own.output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert_eq!(mounted(), 0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let Some(mut scene) = Scene::start("mounts", "none", "") else { return };
        assert_eq!(mounted(), 1);
        scene.handle.take().unwrap().shutdown().await;
    });
    assert_eq!(mounted(), 0, "it is not mounted any more");
    assert!(fs::read_dir("/run").unwrap().next().is_none(), "and nothing remembers it");
}

/// A measurement: `cargo test --release -p hemostat-agent --test live -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn hook_to_frozen() {
    const RUNS: usize = 200;
    let Some(mut scene) = Scene::start("latency", "freeze", "") else { return };
    assert!(matches!(scene.next().await, Up::Hello { .. }));
    let program = scene.program("/bin/sleep");
    let mut took = Vec::new();
    for run in 0..RUNS {
        // Each value is another cause, so that each has a finding with the event's time; from 64 on they fold.
        let pid = scene.run(&program, &[&format!("30{run}")]);
        let record = loop {
            if let (seq, Report::Reaction(record)) = scene.report().await {
                scene.controller.down.send(Down::Ack { upto: seq }).await.unwrap();
                if record.target.to_string().contains(&format!("pid {pid} ")) {
                    break record;
                }
            }
        };
        took.push((record.applied.unwrap().since(record.planned), record));
        let mut child = scene.children.pop().unwrap();
        scene.handle.as_ref().unwrap().contain().release(&Which::All);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut times: Vec<Duration> = took.iter().map(|(took, _)| *took).collect();
    times.sort_unstable();
    println!(
        "decided to frozen: p50 {:?}, p99 {:?}, max {:?}",
        times[RUNS / 2],
        times[RUNS * 99 / 100],
        times[RUNS - 1]
    );
}
