//! `hemostat standalone` as a user would run it, ended with the value, and the questions asked of it through its own command.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::progress::root;

/// How long it may take until its node has reported for the first time.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to end when it is asked to.
const END: Duration = Duration::from_secs(10);

/// A running standalone.
pub(crate) struct Standalone {
    hemostat: PathBuf,
    state: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Standalone {
    /// Starts it with the shipped rules and playbooks, and waits until its node has reported.
    pub(crate) fn start(hemostat: &Path, state: PathBuf, log: PathBuf, more: &[&str]) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = Command::new(hemostat)
            .arg("--socket")
            .arg(socket_in(&state))
            .arg("standalone")
            .arg("--state")
            .arg(&state)
            .arg("--rules")
            .arg(root().join("rules"))
            .arg("--playbooks")
            .arg(root().join("playbooks"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {}", hemostat.display()))?;
        let mut standalone = Self { hemostat: hemostat.to_owned(), state, log, child };
        standalone.wait_until_ready()?;
        Ok(standalone)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(&self.state)
    }

    /// `hemostat` with these arguments, speaking to this instance.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.hemostat);
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Runs a command with `-o json` and gives its answer.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.command(arguments).args(["-o", "json"]).output().context("run hemostat")?;
        // Exit code 1 is an answer, too: something is degraded, for example a hook that this kernel does not have.
        if output.stdout.is_empty() {
            bail!("hemostat {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("read the answer of hemostat {}", arguments.join(" ")))
    }

    /// What the node last said of itself.
    pub(crate) fn node(&self) -> Result<Value> {
        let status = self.ask(&["status"])?;
        // Before its first report a node is not in the list.
        match status.pointer("/nodes/0/status") {
            Some(node) if !node.is_null() => Ok(node.clone()),
            _ => bail!("no node has reported yet"),
        }
    }

    /// Ends it as a service manager would, and waits until it is gone.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        self.terminate();
        self.child.wait().context("wait for hemostat")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let patience = Instant::now() + READY;
        let log = |log: &Path| fs::read_to_string(log).unwrap_or_default();
        while self.node().is_err() {
            if let Some(status) = self.child.try_wait().context("look after hemostat")? {
                bail!("hemostat standalone ended with {status}:\n{}", log(&self.log));
            }
            if Instant::now() > patience {
                bail!("hemostat standalone was not ready after {READY:?}:\n{}", log(&self.log));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn terminate(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.terminate();
        let patience = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(10));
        }
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn socket_in(state: &Path) -> PathBuf {
    state.join("control.sock")
}
