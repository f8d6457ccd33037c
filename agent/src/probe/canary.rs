//! Proof that a hook is really called: one event of each class is made on purpose, and it is told which arrived.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use model::{EventClass, HookState};

use super::{error::ProbeError, load::Probes, sys};

/// What came of one canary event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryReport {
    /// Which class.
    pub class: EventClass,
    /// Whether it was seen in the kernel.
    pub arrived: bool,
}

const PATIENCE: Duration = Duration::from_secs(2);

impl Probes {
    /// Makes one harmless event of each class whose hooks are attached, in a child process, and tells which of them the
    /// kernel side saw. Other processes' events of the same class count too: what is tested is that the hook is called.
    ///
    /// # Errors
    /// [`ProbeError`] if the counters cannot be read or no child can be made.
    pub fn canary(&self) -> Result<Vec<CanaryReport>, ProbeError> {
        let live: BTreeSet<EventClass> = self
            .hooks()
            .into_iter()
            .filter(|hook| matches!(hook.state, HookState::Attached { .. } | HookState::Fallback { .. }))
            .flat_map(|hook| hook.classes)
            // No module is loaded for a test's sake.
            .filter(|class| *class != EventClass::Module && self.is_wanted(*class))
            .collect();
        let seen = |class: &EventClass| -> Result<u64, ProbeError> {
            Ok(self.counts()?.get(class).map_or(0, |count| count.seen))
        };
        let mut before = Vec::new();
        for class in &live {
            before.push((*class, seen(class)?));
        }
        sing()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut reports = Vec::new();
            for (class, count) in &before {
                reports.push(CanaryReport { class: *class, arrived: seen(class)? > *count });
            }
            if reports.iter().all(|report| report.arrived) || Instant::now() > deadline {
                return Ok(reports);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// One event of each class but module loads, by a child process that ends with them.
fn sing() -> Result<(), ProbeError> {
    let folder = std::env::temp_dir().join(format!("hemostat-canary-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(ProbeError::system("create the canary's folder"))?;
    let sung = sys::canary_child(&folder).map_err(ProbeError::system("fork the canary"));
    let _ = std::fs::remove_dir_all(&folder);
    sung?;
    // exec: any program will do that does nothing.
    let quiet = |program: &str, word: &[&str]| {
        let mut command = Command::new(program);
        command.args(word).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    quiet("/bin/true", &[])
        .or_else(|_| quiet("/proc/self/exe", &["--version"]))
        .map_err(ProbeError::system("start the canary"))?;
    Ok(())
}
