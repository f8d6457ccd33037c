//! `hemostat standalone` as a user would run it, and the questions asked of it through its own command.

use std::{
    collections::BTreeMap,
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
use crate::standalone::Standalone;

/// A running standalone, and a watch on its incidents.
pub(crate) struct Product {
    standalone: Standalone,
    watch: Child,
    incidents: Arc<(Mutex<BTreeMap<String, Value>>, Condvar)>,
}

impl Product {
    pub(crate) fn start(binaries: &Binaries, scratch: &Path, stages: &mut Stages) -> Result<Self> {
        let begun = Instant::now();
        let standalone =
            Standalone::start(&binaries.hemostat, scratch.join("state"), scratch.join("hemostat.log"), &[])?;
        let mut product = Self {
            standalone,
            watch: Command::new("true").spawn().context("start true")?,
            incidents: Arc::default(),
        };
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

    /// Follows `incidents watch -o json`: one incident a line, whenever it changes.
    fn start_watch(&self) -> Result<Child> {
        let mut watch = self
            .standalone
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
        self.standalone.socket()
    }

    pub(crate) fn state(&self) -> &Path {
        self.standalone.state()
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        self.standalone.ask(arguments)
    }

    /// Runs a command that does something.
    pub(crate) fn tell(&self, arguments: &[&str]) -> Result<()> {
        let output = self.standalone.command(arguments).output().context("run hemostat")?;
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
            .standalone
            .command(&["audit", "verify", "--state"])
            .arg(self.standalone.state())
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
        let status = self.standalone.stop()?;
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
    }
}
