//! Loaded probes with a reader thread that collects what they say; one scene serves many checks.

use std::{
    fmt,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use agent::{
    probe::{Forms, OwnEvents, ProbeConfig, ProbeError, Probes, StopFlag},
    record::{Body, ExecFacts, Record},
};
use model::{Activity, CgroupId, ClassPlan, EventClass, FilterPlan, Pid};

use crate::Failure;

/// How long an event may take to arrive before it counts as lost; the guest's emulated CPU is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// This machine cannot run the check.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

#[derive(Default)]
struct Collected {
    records: Mutex<Vec<Record>>,
    more: Condvar,
    /// Acts in other cgroups are not kept, unless this is 0.
    only: AtomicU64,
}

impl Collected {
    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loaded probes and what they said.
pub(crate) struct Scene {
    /// The probes.
    pub(crate) probes: Probes,
    /// Smaller numbers, for a first answer.
    pub(crate) quick: bool,
    collected: Arc<Collected>,
    stop: StopFlag,
    reader: Option<JoinHandle<Result<(), ProbeError>>>,
    sentinels: u64,
    pins: std::path::PathBuf,
    forms: Forms,
}

impl Scene {
    /// The scene of the check before, made anew if there is none, with the plan of a node without rules.
    pub(crate) fn fresh(slot: &mut Option<Self>, forms: Forms, quick: bool) -> Result<&mut Self, Failure> {
        let scene = match slot.take() {
            Some(scene) => slot.insert(scene),
            None => slot.insert(Self::open(forms, quick)?),
        };
        scene.probes.apply_plan(&FilterPlan::default())?;
        scene.probes.set_budgets(NO_BUDGETS)?;
        scene.only(None);
        scene.settle()?;
        scene.take();
        Ok(scene)
    }

    fn open(forms: Forms, quick: bool) -> Result<Self, Failure> {
        // SAFETY (of the claim): geteuid cannot fail.
        if !rustix::process::geteuid().is_root() {
            return Err(Box::new(Skip("loading eBPF needs root".into())));
        }
        let config = ProbeConfig {
            budgets: NO_BUDGETS,
            own_events: OwnEvents::LeftOut,
            forms,
            pins: format!("/sys/fs/bpf/hemostat-node-tests-{}", std::process::id()).into(),
            ..ProbeConfig::default()
        };
        Self::with(&config, quick)
    }

    /// A scene of one's own, with another configuration.
    pub(crate) fn with(config: &ProbeConfig, quick: bool) -> Result<Self, Failure> {
        let mut probes = Probes::load(config, &FilterPlan::default())?;
        let collected = Arc::new(Collected::default());
        let (stop, reader) = (StopFlag::new()?, probes.reader()?);
        let (sink, flag) = (Arc::clone(&collected), stop.clone());
        let reader = std::thread::Builder::new().name("reader".into()).spawn(move || {
            reader.run(&flag, |record| {
                let only = sink.only.load(Ordering::Relaxed);
                if only != 0 && record.task.cgroup.0 != only && matches!(record.body, Body::Act(_)) {
                    return;
                }
                sink.lock().push(record);
                sink.more.notify_all();
            })
        })?;
        Ok(Self {
            probes,
            quick,
            collected,
            stop,
            reader: Some(reader),
            sentinels: 0,
            pins: config.pins.clone(),
            forms: config.forms,
        })
    }

    /// Which forms its hooks take; for a scene of a check's own.
    pub(crate) fn forms(&self) -> Forms {
        self.forms
    }

    /// From now on only what this cgroup does is kept, beside execs, forks and exits of all.
    pub(crate) fn only(&self, cgroup: Option<CgroupId>) {
        self.collected.only.store(cgroup.map_or(0, |cgroup| cgroup.0), Ordering::Relaxed);
    }

    /// Everything passes of these classes.
    pub(crate) fn all_of(&mut self, classes: &[EventClass]) -> Result<(), Failure> {
        let classes = classes.iter().map(|class| (*class, ClassPlan::All)).collect();
        Ok(self.probes.apply_plan(&FilterPlan { classes, hold: vec![] })?)
    }

    /// A check of a class whose hook this kernel does not give is skipped with the reason.
    pub(crate) fn needs(&self, class: EventClass) -> Result<(), Failure> {
        for hook in self.probes.hooks().into_iter().filter(|hook| hook.classes.contains(&class)) {
            if let model::HookState::NothingToSee { because } = &hook.state {
                return Err(Box::new(Skip(format!("{}: {because}", hook.hook))));
            }
            if let model::HookState::Failed { because } = hook.state {
                let why = format!("{}: {because}", hook.hook);
                // What the verifier refuses is a mistake of ours, not a lack of the kernel's.
                return Err(if because.contains("verifier:") { why.into() } else { Box::new(Skip(why)) });
            }
        }
        Ok(())
    }

    /// Waits until everything that happened before the call has arrived.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        // A bulk record may come after a critical one that was made later, but only within one look at the rings: after
        // the second sentinel all that was made before the first is there.
        for _ in 0..2 {
            self.sentinels += 1;
            let word = format!("{}-{}", std::process::id(), self.sentinels);
            actor(&["sentinel", &word])?.wait()?;
            self.wait_for(|record| {
                matches!(&record.body, Body::Exec(exec) if exec.args.last().is_some_and(|last| *last == word))
            })?;
        }
        Ok(())
    }

    /// Waits for a record; leaves all of them where they are.
    pub(crate) fn wait_for(&self, wanted: impl Fn(&Record) -> bool) -> Result<Record, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut records = self.collected.lock();
        let mut from = 0;
        loop {
            if let Some(record) = records[from.min(records.len())..].iter().find(|record| wanted(record)) {
                return Ok(record.clone());
            }
            from = records.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the awaited event did not arrive".into());
            }
            records =
                self.collected.more.wait_timeout(records, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything that arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.collected.lock())
    }

    /// What the process and its threads did between the start of `act` and its end.
    pub(crate) fn during<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<(T, Vec<Record>), Failure> {
        self.settle()?;
        self.take();
        let result = act(self)?;
        self.settle()?;
        let undecoded = self.probes.undecoded();
        if undecoded > 0 {
            return Err(format!("{undecoded} records were not understood").into());
        }
        Ok((result, self.take()))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        // The pinned map is this scene's own.
        let _ = std::fs::remove_file(self.pins.join("held"));
        let _ = std::fs::remove_dir(&self.pins);
        // As long as another scene has pins, this does nothing.
        let _ = agent::bpffs::Bpffs::default().leave();
    }
}

/// No limit anywhere.
pub(crate) const NO_BUDGETS: agent::probe::Budgets =
    agent::probe::Budgets { critical: 0, life: 0, file: 0, net: 0 };

/// This binary as an actor process (see `actor.rs`).
pub(crate) fn actor(words: &[&str]) -> Result<Child, Failure> {
    Ok(command(words).spawn()?)
}

/// The same, not yet started.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("actor").args(words).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Runs an actor to its end and gives its process id.
pub(crate) fn run_actor(words: &[&str]) -> Result<Pid, Failure> {
    let mut child = actor(words)?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("actor {words:?} ended with {status}").into());
    }
    Ok(Pid(child.id()))
}

/// The execs of a process, in order.
pub(crate) fn execs(records: &[Record], pid: Pid) -> Vec<(&Record, &ExecFacts)> {
    let of_pid = records.iter().filter(|record| record.task.key.pid == pid);
    of_pid
        .filter_map(|record| match &record.body {
            Body::Exec(exec) => Some((record, &**exec)),
            _ => None,
        })
        .collect()
}

/// What a process did, apart from exec, fork and exit.
pub(crate) fn acts(records: &[Record], pid: Pid) -> Vec<&Activity> {
    let of_pid = records.iter().filter(|record| record.task.key.pid == pid);
    of_pid
        .filter_map(|record| match &record.body {
            Body::Act(activity) => Some(activity),
            _ => None,
        })
        .collect()
}

/// Fails with both values unless they are equal.
pub(crate) fn same<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), Failure> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?}, expected {expected:?}").into())
    }
}
