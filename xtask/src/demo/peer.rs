//! The attack's peer, as an onlooker: it runs outside the attack's cgroup, and what it hears is the proof.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// A running play.
pub(crate) struct Play {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

/// What the peer has heard so far.
#[derive(Default, Clone, Copy)]
struct Heard {
    pid: Option<u32>,
    bytes: u64,
    served: Option<bool>,
    /// Grows with each report, so that an onlooker can tell silence of the attack from silence of the peer.
    pulses: u64,
}

impl Play {
    pub(crate) fn start(standin: &Path, attack: &str, cgroup: &str, scratch: &Path) -> Result<Self> {
        let mut child = Command::new(standin)
            .args(["play", attack, "--cgroup", cgroup, "--scratch"])
            .arg(scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start the stand-in {}", standin.display()))?;
        let stdout = child.stdout.take().context("the stand-in has no standard output")?;
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let listener = Arc::clone(&heard);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
                if let Ok(mut heard) = listener.0.lock() {
                    heard.pulses += 1;
                    match value["seen"].as_str() {
                        Some("started") => {
                            heard.pid = value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
                        }
                        Some("bytes") => heard.bytes = value["total"].as_u64().unwrap_or(heard.bytes),
                        Some("served") => heard.served = Some(value["answered"] == "yes"),
                        _ => {}
                    }
                }
                listener.1.notify_all();
            }
        });
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, heard })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.heard.0.lock().map_or(0, |heard| heard.bytes)
    }

    /// Waits until more than `than` bytes were heard.
    pub(crate) fn hears_more(&self, than: u64, patience: Duration) -> bool {
        self.wait(patience, |heard| heard.bytes > than)
    }

    /// Whether nothing more was heard over `span`, while the peer itself went on reporting.
    pub(crate) fn is_silent_for(&self, span: Duration) -> bool {
        let before = self.heard.0.lock().map(|heard| *heard).unwrap_or_default();
        let spoke = self.hears_more(before.bytes, span);
        let after = self.heard.0.lock().map(|heard| *heard).unwrap_or_default();
        !spoke && after.pulses > before.pulses
    }

    /// Whether the web server answers a harmless visitor.
    pub(crate) fn is_served(&mut self) -> bool {
        if let Ok(mut heard) = self.heard.0.lock() {
            heard.served = None;
        }
        if let Some(stdin) = &mut self.stdin {
            let _gone_is_no_answer = stdin.write_all(b"visit\n");
        }
        self.wait(Duration::from_secs(3), |heard| heard.served.is_some())
            && self.heard.0.lock().is_ok_and(|heard| heard.served == Some(true))
    }

    fn wait(&self, patience: Duration, until: impl Fn(&Heard) -> bool) -> bool {
        let end = Instant::now() + patience;
        let Ok(mut heard) = self.heard.0.lock() else { return false };
        loop {
            if until(&heard) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            heard = match self.heard.1.wait_timeout(heard, left) {
                Ok((heard, _)) => heard,
                Err(_) => return false,
            };
        }
    }
}

/// Closing its input ends the play; it removes its cgroup itself.
impl Drop for Play {
    fn drop(&mut self) {
        self.stdin = None;
        let _ended = self.child.wait();
    }
}
