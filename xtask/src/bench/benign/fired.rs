//! Hemostat watching and doing nothing, and which rules fired.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    enclosure::{Apart, Enclosure},
    progress::root,
};

/// The source that reads what the work's Kubernetes audits.
const AUDIT: &str = "kubernetes-audit";

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Work,
    /// Something else on this machine.
    Beside,
}

/// One rule that fired in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fired {
    pub(super) rule: String,
    pub(super) title: String,
    pub(super) level: String,
    pub(super) place: Place,
    /// Findings: one for each cause.
    pub(super) findings: u64,
    /// Matches: what was folded into them counted.
    pub(super) matches: u64,
    pub(super) image: String,
    pub(super) example: String,
    pub(super) matched: String,
}

/// A running `hemostat standalone` that only observes.
pub(super) struct Watch {
    child: Child,
    hemostat: PathBuf,
    folder: PathBuf,
    /// Ends it when this process is killed.
    _enclosure: Enclosure,
}

impl Watch {
    /// `audit` is the audit log of the Kubernetes that the work makes; it need not be there yet.
    pub(super) fn start(hemostat: &Path, folder: &Path, audit: &Path) -> Result<Self> {
        let playbooks = folder.join("no-playbooks");
        fs::create_dir_all(&playbooks).with_context(|| format!("make {}", playbooks.display()))?;
        let log = fs::File::create(folder.join("hemostat.log")).context("create the log")?;
        let enclosure = Enclosure::make("hemostat-benign-watch", &Apart::Nothing)?;
        let child = enclosure
            .command(hemostat)
            .arg("--socket")
            .arg(folder.join("control.sock"))
            .args(["standalone", "--reactions", "off", "--log-json", "--state"])
            .arg(folder.join("state"))
            .arg("--rules")
            .arg(root().join("rules"))
            .arg("--playbooks")
            .arg(playbooks)
            .arg("--sources-from-beginning")
            .arg("--source")
            .arg(format!("{AUDIT}={}", audit.display()))
            .env("HEMOSTAT_LOG", "info,hemostat_controller::core=debug")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("start hemostat")?;
        let mut watch =
            Self { child, hemostat: hemostat.to_owned(), folder: folder.to_owned(), _enclosure: enclosure };
        let patience = Instant::now() + Duration::from_secs(60);
        while watch.node().is_err() {
            let ended = watch.child.try_wait().context("look after hemostat")?.is_some();
            if ended || Instant::now() > patience {
                bail!("hemostat standalone was not ready:\n{}", watch.log()?);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(watch)
    }

    /// What the node last said of itself.
    pub(super) fn node(&self) -> Result<Value> {
        self.status_of(|name| !name.starts_with(AUDIT))
    }

    /// Records of the audit log that went through the rules. Zero where the log is not there (any more).
    pub(super) fn audited(&self) -> u64 {
        let Ok(status) = self.status_of(|name| name.starts_with(AUDIT)) else { return 0 };
        records_told(&status).unwrap_or(0)
    }

    fn status_of(&self, wanted: impl Fn(&str) -> bool) -> Result<Value> {
        let output = Command::new(&self.hemostat)
            .arg("--socket")
            .arg(self.folder.join("control.sock"))
            .args(["status", "-o", "json"])
            .output()
            .context("run hemostat status")?;
        let status: Value = serde_json::from_slice(&output.stdout).context("read hemostat's status")?;
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let mut reported = nodes.filter(|node| node["node"].as_str().is_some_and(&wanted));
        match reported.next().map(|node| &node["status"]) {
            Some(told) if !told.is_null() => Ok(told.clone()),
            _ => bail!("no node has reported yet"),
        }
    }

    /// Starts something that a critical rule must see, in a cgroup of its own, and waits until it did: silence counts only from one who
    /// hears. Gives the cgroup's id.
    pub(super) fn prove_hearing(&self) -> Result<u64> {
        let enclosure = Enclosure::make("hemostat-benign-control", &Apart::Nothing)?;
        let control = fs::metadata(enclosure.cgroup()).context("look at the control's cgroup")?.ino();
        let patience = Instant::now() + Duration::from_secs(20);
        let status = enclosure
            .command("/bin/true")
            .arg("stratum+tcp://control.invalid:1")
            .status()
            .context("run the control")?;
        if !status.success() {
            bail!("the control ended with {status}");
        }
        while read(&self.log()?, &BTreeSet::from([control])).iter().all(|one| one.place != Place::Work) {
            if Instant::now() > patience {
                bail!(
                    "a miner's command line was started and no rule fired: this watch hears nothing, its silence says nothing"
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(control)
    }

    /// Ends it and gives what fired, the worst first, without the control.
    pub(super) fn finish(mut self, ours: &BTreeSet<u64>, control: u64) -> Result<Vec<Fired>> {
        terminate(&mut self.child);
        let told = format!("\"cgroup\":{control},");
        let log: String = self
            .log()?
            .lines()
            .filter(|line| !line.contains(&told))
            .map(|line| format!("{line}\n"))
            .collect();
        Ok(read(&log, ours))
    }

    fn log(&self) -> Result<String> {
        let bytes = fs::read(self.folder.join("hemostat.log")).context("read hemostat's log")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        terminate(&mut self.child);
    }
}

fn terminate(child: &mut Child) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let patience = Instant::now() + Duration::from_secs(15);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < patience {
        thread::sleep(Duration::from_millis(20));
    }
    let _already_gone = child.kill();
    let _reaped = child.wait();
}

/// From "12 lines, 10 records, …", which a source says of itself.
fn records_told(status: &Value) -> Option<u64> {
    let told = status["hooks"].to_string();
    let (before, _) = told.split_once(" records,")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// Findings of the log, by rule and place.
fn read(log: &str, ours: &BTreeSet<u64>) -> Vec<Fired> {
    let mut fired: BTreeMap<(String, Place), Fired> = BTreeMap::new();
    // Finding id → whose, and how often so far.
    let mut known: BTreeMap<String, ((String, Place), u64)> = BTreeMap::new();
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let (fields, span) = (&line["fields"], &line["span"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match fields["message"].as_str() {
            Some("a finding came") => {
                let rule = text(&span["rule"]);
                let in_ours = fields["cgroup"].as_u64().is_some_and(|id| ours.contains(&id));
                // Nobody else speaks to that Kubernetes.
                let audited = span["node"].as_str().is_some_and(|node| node.starts_with(AUDIT));
                let key = (rule.clone(), if in_ours || audited { Place::Work } else { Place::Beside });
                let one = fired.entry(key.clone()).or_insert_with(|| Fired {
                    rule,
                    title: text(&fields["title"]),
                    level: text(&fields["level"]),
                    place: key.1,
                    findings: 0,
                    matches: 0,
                    image: text(&fields["image"]),
                    example: text(&fields["command_line"]),
                    matched: text(&fields["matched"]),
                });
                one.findings += 1;
                one.matches += 1;
                known.insert(text(&span["id"]), (key, 1));
            }
            Some("a finding came again") => {
                let count = fields["count"].as_u64().unwrap_or(0);
                if let Some((key, before)) = known.get_mut(&text(&fields["finding"]))
                    && let Some(one) = fired.get_mut(key)
                {
                    one.matches += count.saturating_sub(*before);
                    *before = count.max(*before);
                }
            }
            _ => {}
        }
    }
    let rank = |one: &Fired| {
        ["critical", "high", "medium", "low", "informational"].iter().position(|level| *level == one.level)
    };
    let mut fired: Vec<Fired> = fired.into_values().collect();
    fired.sort_by_key(|one| (one.place, rank(one), std::cmp::Reverse(one.matches)));
    fired
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_from_what_a_source_says_of_itself() {
        let status = serde_json::json!({"hooks": [{"hook": "records", "state": {"attached": {"to": "12 lines, 10 records, 0 refused, at byte 99"}}}]});
        assert_eq!(records_told(&status), Some(10));
        assert_eq!(
            records_told(&serde_json::json!({"hooks": [{"state": {"failed": {"because": "no file"}}}]})),
            None
        );
    }

    #[test]
    fn findings_are_counted_by_rule_and_place_and_repeats_added_once() {
        let came = |id: &str, rule: &str, level: &str, cgroup: u64| {
            format!(
                r#"{{"fields":{{"message":"a finding came","level":"{level}","title":"T {rule}","image":"/bin/x","command_line":"x -y","cgroup":{cgroup},"matched":"{{}}"}},"span":{{"name":"finding","id":"{id}","rule":"{rule}"}}}}"#
            )
        };
        let again = |id: &str, count: u64| {
            format!(r#"{{"fields":{{"message":"a finding came again","finding":"{id}","count":{count}}}}}"#)
        };
        let log = [
            came("f1", "a", "low", 7),
            again("f1", 5),
            again("f1", 5),
            again("f1", 9),
            came("f2", "a", "low", 8),
            came("f3", "b", "critical", 7),
            again("unknown", 3),
            "not JSON".to_owned(),
        ]
        .join("\n");
        let fired = read(&log, &BTreeSet::from([7]));
        let told: Vec<_> =
            fired.iter().map(|one| (one.rule.as_str(), one.place, one.findings, one.matches)).collect();
        assert_eq!(told, [("b", Place::Work, 1, 1), ("a", Place::Work, 1, 9), ("a", Place::Beside, 1, 1)]);
    }
}
