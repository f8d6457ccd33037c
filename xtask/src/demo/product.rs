//! `hemostat standalone` as a user would run it, and the questions asked of it through its own command.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Binaries, stage::Stages};
use crate::progress::root;

/// A running standalone, and a watch on its incidents.
pub(crate) struct Product {
    hemostat: PathBuf,
    state: PathBuf,
    standalone: Child,
    watch: Child,
    incidents: Arc<(Mutex<BTreeMap<String, Value>>, Condvar)>,
}

impl Product {
    pub(crate) fn start(binaries: &Binaries, scratch: &Path, stages: &mut Stages) -> Result<Self> {
        let state = scratch.join("state");
        let log = File::create(scratch.join("hemostat.log")).context("create the log of hemostat")?;
        let begun = Instant::now();
        let standalone = Command::new(&binaries.hemostat)
            .arg("--socket")
            .arg(state.join("control.sock"))
            .arg("standalone")
            .arg("--state")
            .arg(&state)
            .arg("--rules")
            .arg(root().join("rules"))
            .arg("--playbooks")
            .arg(root().join("playbooks"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", binaries.hemostat.display()))?;
        let mut product = Self {
            hemostat: binaries.hemostat.clone(),
            state,
            watch: Command::new("true").spawn().context("start true")?,
            standalone,
            incidents: Arc::default(),
        };
        product.wait_until_ready(scratch)?;
        let status = product.ask(&["status"])?;
        let node = &status["nodes"][0]["status"];
        let hooks = node["hooks"].as_array().map_or(0, |hooks| {
            hooks
                .iter()
                .filter(|hook| hook["state"]["state"] == "attached" || hook["state"]["state"] == "fallback")
                .count()
        });
        stages.defence(
            "ready",
            None,
            &format!(
                "ready {:.1} s after its start: {hooks} hooks live, {} rules, kernel {}",
                begun.elapsed().as_secs_f64(),
                node["rules"],
                node["kernel"].as_str().unwrap_or("?")
            ),
        );
        product.watch = product.start_watch()?;
        Ok(product)
    }

    fn wait_until_ready(&mut self, scratch: &Path) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.standalone.try_wait().context("look after hemostat")? {
                let log = std::fs::read_to_string(scratch.join("hemostat.log")).unwrap_or_default();
                bail!("hemostat standalone ended with {status}:\n{log}");
            }
            if self.ask(&["status"]).is_ok_and(|status| !status["nodes"][0]["status"].is_null()) {
                return Ok(());
            }
            if Instant::now() > patience {
                let log = std::fs::read_to_string(scratch.join("hemostat.log")).unwrap_or_default();
                bail!("hemostat standalone was not ready after 30 s:\n{log}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Follows `incidents watch -o json`: one incident a line, whenever it changes.
    fn start_watch(&self) -> Result<Child> {
        let mut watch = self
            .command(&["incidents", "watch", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start hemostat incidents watch")?;
        let stdout = watch.stdout.take().context("the watch has no standard output")?;
        let incidents = Arc::clone(&self.incidents);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(incident) = serde_json::from_str::<Value>(&line) else { continue };
                let Some(id) = incident["id"].as_str().map(str::to_owned) else { continue };
                if let Ok(mut known) = incidents.0.lock() {
                    known.insert(id, incident);
                }
                incidents.1.notify_all();
            }
        });
        Ok(watch)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.state.join("control.sock")
    }

    fn command(&self, arguments: &[&str]) -> Command {
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

    /// Runs a command that does something.
    pub(crate) fn tell(&self, arguments: &[&str]) -> Result<()> {
        let output = self.command(arguments).output().context("run hemostat")?;
        if !output.status.success() {
            bail!("hemostat {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Waits for an incident that fits; gives it as it was at that moment.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + patience;
        let Ok(mut known) = self.incidents.0.lock() else { bail!("the watch ended by a panic") };
        loop {
            if let Some(incident) = known.values().find(|incident| fits(incident)) {
                return Ok(incident.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen: Vec<String> = known
                    .values()
                    .map(|incident| format!("{} {} {}", incident["id"], incident["title"], incident["state"]))
                    .collect();
                bail!("{what}: not within {patience:?}; incidents seen: {seen:?}");
            }
            known = match self.incidents.1.wait_timeout(known, left) {
                Ok((known, _)) => known,
                Err(_) => bail!("the watch ended by a panic"),
            };
        }
    }

    pub(crate) fn verify_audit(&self, stages: &mut Stages) -> Result<()> {
        let output = self
            .command(&["audit", "verify", "--state"])
            .arg(&self.state)
            .output()
            .context("run hemostat audit verify")?;
        let text =
            String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr })
                .trim()
                .to_owned();
        stages.proof("audit", output.status.success(), &format!("hemostat audit verify: {text}"))
    }

    /// Ends it as a service manager would, and waits until it is gone.
    pub(crate) fn stop(mut self, stages: &mut Stages) -> Result<()> {
        // The watch ends first: that its controller goes away is no news.
        let _already_gone = self.watch.kill();
        let begun = Instant::now();
        terminate(&self.standalone);
        let status = self.standalone.wait().context("wait for hemostat")?;
        stages.proof(
            "stopped",
            status.success(),
            &format!(
                "hemostat stopped on SIGTERM after {:.0} ms ({status})",
                begun.elapsed().as_secs_f64() * 1e3
            ),
        )
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let _already_gone = self.watch.kill();
        let _reaped = self.watch.wait();
        if matches!(self.standalone.try_wait(), Ok(None)) {
            terminate(&self.standalone);
            let patience = Instant::now() + Duration::from_secs(10);
            while matches!(self.standalone.try_wait(), Ok(None)) && Instant::now() < patience {
                thread::sleep(Duration::from_millis(20));
            }
            let _already_gone = self.standalone.kill();
            let _reaped = self.standalone.wait();
        }
    }
}

fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}
