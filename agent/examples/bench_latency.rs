//! From the hook to a stopped and to a frozen process, through the whole agent on this kernel: `cargo xtask bench latency` runs it.
//! Prints one JSON object. Needs root.
#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use detect::{
    load,
    matcher::{Options, RuleSet, Swap},
    source::SourceFile,
};
use hemostat_agent::{Agent, AgentConfig, AgentHandle, contain::Which, edge::ReactionBounds, mask::Masker};
use model::{ActionRecord, Down, Finding, NodeId, Report, Timestamp, Up};
use wire::link::{ControllerLink, in_process};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Events a second beside the measurement.
const LOAD_PER_SECOND: u32 = 20_000;

/// Between two freezes.
const APART: Duration = Duration::from_millis(30);

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("--load") => make_load(Path::new(&args.next().ok_or("--load needs a folder")?)),
        Some("--quick") => measure(200, 200),
        None => measure(10_000, 1_000),
        Some(other) => Err(format!("unknown argument {other}").into()),
    }
}

fn measure(stops: usize, freezes: usize) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut scene = Scene::start(freezes)?;
        let escaped = scene.stops(stops).await?;
        let quiet = scene.freezes(0, freezes).await?;
        let before = scene.submitted();
        let begun = Instant::now();
        scene.begin_load()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let loaded = scene.freezes(freezes, freezes).await?;
        let rate = (scene.submitted() - before) as f64 / begun.elapsed().as_secs_f64();
        scene.end().await;
        println!(
            "{}",
            serde_json::json!({
                "stop_tried": stops,
                "stop_escaped": escaped,
                "quiet_p50_ms": percentile(&quiet.whole, 50),
                "quiet_p99_ms": percentile(&quiet.whole, 99),
                "quiet_acting_p50_ms": percentile(&quiet.acting, 50),
                "quiet_acting_p99_ms": percentile(&quiet.acting, 99),
                "quiet_max_ms": percentile(&quiet.whole, 100),
                "quiet_held_p50_ms": percentile(&quiet.held, 50),
                "quiet_held_p99_ms": percentile(&quiet.held, 99),
                "loaded_p50_ms": percentile(&loaded.whole, 50),
                "loaded_p99_ms": percentile(&loaded.whole, 99),
                "loaded_acting_p50_ms": percentile(&loaded.acting, 50),
                "loaded_acting_p99_ms": percentile(&loaded.acting, 99),
                "loaded_max_ms": percentile(&loaded.whole, 100),
                "loaded_held_p50_ms": percentile(&loaded.held, 50),
                "loaded_held_p99_ms": percentile(&loaded.held, 99),
                "loaded_events_per_s": rate.round(),
            })
        );
        Ok(())
    })
}

/// `sorted` in milliseconds.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    (sorted.get(at).copied().unwrap_or(f64::NAN) * 10_000.0).round() / 10_000.0
}

/// In milliseconds, sorted.
#[derive(Default)]
struct Latencies {
    /// From the hook until all of it stand still.
    whole: Vec<f64>,
    /// From the decision until all of it stand still.
    acting: Vec<f64>,
    /// From the hook until the freezer holds them, too, and the report of it is here.
    held: Vec<f64>,
}

struct Scene {
    handle: Option<AgentHandle>,
    controller: ControllerLink,
    folder: tempfile::TempDir,
    pins: PathBuf,
    load: Vec<Child>,
}

impl Scene {
    fn start(freezes: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        fs::copy("/bin/touch", path("stopme"))?;
        fs::copy("/bin/sleep", path("freezeme"))?;
        // Each has a path of its own, so that each match is a cause of its own and has its finding.
        for n in 0..2 * freezes {
            fs::hard_link(path("freezeme"), path(&format!("freezeme-{n}")))?;
        }
        let rule = |name: &str, category: &str, test: String, reaction: &str| SourceFile {
            name: format!("{name}.yml"),
            text: format!(
                "title: Bench {name}\nid: bench-{name}\nlogsource:\n  product: linux\n  category: {category}\ndetection:\n  s:\n    \
                 {test}\n  condition: s\nlevel: high\nhemostat:\n  reaction: {reaction}\n"
            ),
        };
        let rules = [
            rule("stop", "process_creation", format!("Image: '{}'", path("stopme").display()), "stop"),
            rule(
                "freeze",
                "process_creation",
                format!("Image|startswith: '{}'", path("freezeme-").display()),
                "freeze",
            ),
            // Nothing matches it, and the kernel cannot know, since nothing in it is a text: every create of a file comes up.
            rule("load", "file_event", "TargetFilename|re: '[0-9]{40}$'".into(), "none"),
        ];
        let loaded = load::load(&rules);
        if loaded.errors() > 0 {
            return Err(format!("{:?}", loaded.diagnostics).into());
        }
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        let node = NodeId::new("bench");
        let (agent_end, controller) = in_process(node.clone(), 256);
        let mut config = AgentConfig::new(
            node,
            folder.path().join("state"),
            Arc::new(Swap::new(Arc::new(set))),
            Masker::new(None)?,
        );
        let pins = PathBuf::from(format!("/sys/fs/bpf/hemostat-bench-{}", std::process::id()));
        config.probes.pins.clone_from(&pins);
        config.bounds = ReactionBounds::none();
        let handle = Agent::start(config, agent_end)?;
        // The first containment finds everything prepared.
        thread::sleep(Duration::from_millis(500));
        Ok(Self { handle: Some(handle), controller, folder, pins, load: Vec::new() })
    }

    /// Programs that create a file, held and stopped; how many of them got it done.
    async fn stops(&mut self, count: usize) -> Outcome<usize> {
        let program = self.folder.path().join("stopme");
        let mut escaped = 0;
        for n in 0..count {
            let file = self.folder.path().join(format!("made-{n}"));
            let mut child = Command::new(&program).arg(&file).spawn()?;
            let (_, freeze) = self.contained(child.id(), "node.freeze").await?;
            escaped += usize::from(file.exists());
            child.kill()?;
            child.wait()?;
            escaped += usize::from(file.exists());
            self.lift(&freeze);
        }
        Ok(escaped)
    }

    /// From the hook to frozen, in milliseconds, sorted.
    async fn freezes(&mut self, from: usize, count: usize) -> Outcome<Latencies> {
        let mut took = Latencies::default();
        for n in from..from + count {
            let mut child =
                Command::new(self.folder.path().join(format!("freezeme-{n}"))).arg("300").spawn()?;
            let (finding, freeze) = self.contained(child.id(), "node.freeze").await?;
            let reported = now()?;
            let finding = finding.ok_or("a freeze without its finding")?;
            let frozen = freeze.applied.ok_or("a freeze without its time")?;
            let since = |from| frozen.since(from).as_secs_f64() * 1000.0;
            took.whole.push(since(finding.event.time));
            took.acting.push(since(freeze.planned));
            took.held.push(reported.since(finding.event.time).as_secs_f64() * 1000.0);
            child.kill()?;
            child.wait()?;
            self.lift(&freeze);
            // An attack comes alone: what the kernel keeps ready for a while after a move between cgroups is not ready for it.
            tokio::time::sleep(APART).await;
        }
        took.held.sort_by(f64::total_cmp);
        took.whole.sort_by(f64::total_cmp);
        took.acting.sort_by(f64::total_cmp);
        Ok(took)
    }

    /// Waits for the containment of a process; gives the finding that came with it.
    async fn contained(&mut self, pid: u32, action: &str) -> Outcome<(Option<Finding>, ActionRecord)> {
        let mut finding = None;
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.controller.up.recv()).await?;
            let Up::Report { seq, report } = next.ok_or("the agent has ended")? else { continue };
            self.controller.down.send(Down::Ack { upto: seq }).await?;
            match *report {
                Report::Finding(found) if found.event.process.key.pid.0 == pid => finding = Some(found),
                Report::Reaction(record)
                    if record.action.name() == action
                        && record.target.to_string().contains(&format!("pid {pid} ")) =>
                {
                    return Ok((finding, record));
                }
                _ => {}
            }
        }
    }

    fn lift(&self, record: &ActionRecord) {
        if let Some(handle) = &self.handle {
            handle.contain().release(&Which::One(record.id.clone()));
            handle.contain().release(&Which::All);
        }
    }

    fn submitted(&self) -> u64 {
        self.handle
            .as_ref()
            .map_or(0, |handle| handle.status().counts.values().map(|count| count.submitted).sum())
    }

    fn begin_load(&mut self) -> Outcome<()> {
        let folder = self.folder.path().join("load");
        fs::create_dir(&folder)?;
        // A process of its own: what the agent's process does is left out.
        self.load.push(Command::new(std::env::current_exe()?).arg("--load").arg(folder).spawn()?);
        Ok(())
    }

    async fn end(mut self) {
        self.end_load();
        if let Some(handle) = self.handle.take() {
            handle.contain().release(&Which::All);
            handle.shutdown().await;
        }
    }

    fn end_load(&mut self) {
        for child in &mut self.load {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.end_load();
        if let Some(handle) = self.handle.take() {
            handle.contain().release(&Which::All);
        }
        let _ = fs::remove_file(self.pins.join("held"));
        let _ = fs::remove_dir(&self.pins);
    }
}

/// Creates and closes files at a steady rate until it is killed, or its parent is gone.
fn make_load(folder: &Path) -> Outcome<()> {
    const SLICE: Duration = Duration::from_millis(5);
    let per_slice = LOAD_PER_SECOND * SLICE.as_millis() as u32 / 1000;
    let parent = rustix::process::getppid();
    let mut due = Instant::now();
    let mut n = 0_u32;
    while rustix::process::getppid() == parent {
        for _ in 0..per_slice {
            n += 1;
            fs::File::create(folder.join(format!("f{}", n % 1000)))?;
        }
        due += SLICE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn now() -> Outcome<Timestamp> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(Timestamp(i64::try_from(since.as_nanos())?))
}
