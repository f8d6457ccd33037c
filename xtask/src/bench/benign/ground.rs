//! Where the work is done: the cgroup, the folder, the clock, and the packages that are installed for it and removed again.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    enclosure::{self, Enclosure},
    progress::{cache, output, say},
};

/// Failed rounds that are kept to be told.
const FAILURES: usize = 3;

/// What came of one kind of work.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) name: &'static str,
    pub(super) rounds: u64,
    /// Why it was not done at all.
    pub(super) skipped: Option<String>,
    pub(super) failures: Vec<String>,
}

/// One kind of work: begun once, then round after round.
pub(super) trait Rounds {
    /// One round, of some seconds.
    fn round(&mut self, ground: &Ground, number: u64) -> Result<()>;
    /// Between two rounds.
    fn pause(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// How a kind of work begins.
pub(super) type Begin = fn(&Ground) -> Result<Box<dyn Rounds>>;

pub(super) struct Ground {
    enclosure: Enclosure,
    cgroup: PathBuf,
    folder: PathBuf,
    stop: Arc<AtomicBool>,
    until: Instant,
    /// dpkg takes one at a time.
    packages: Mutex<Packages>,
}

impl Ground {
    pub(super) fn new(enclosure: Enclosure, folder: PathBuf, stop: Arc<AtomicBool>, time: Duration) -> Self {
        let cgroup = enclosure.cgroup().to_path_buf();
        Self { enclosure, cgroup, folder, stop, until: Instant::now() + time, packages: Mutex::default() }
    }

    /// A folder of the work's own.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.until
    }

    /// Ends every process of the work.
    pub(super) fn end(&self) {
        if let Err(error) = enclosure::end(&self.cgroup) {
            eprintln!("warning: {error:#}");
        }
    }

    /// A command within the cgroup, with its output in the log of `name`.
    pub(super) fn command(&self, name: &str, program: &str) -> Result<Command> {
        let path = self.folder.join(format!("{name}.log"));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let mut command = self.enclosure.command(program);
        command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log);
        Ok(command)
    }

    /// Runs a command to its end; the end of the work is an end, too.
    pub(super) fn run(&self, name: &str, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(name, program)?;
        command.args(arguments);
        self.wait(name, &mut command)
    }

    /// A line for the shell, as a person or a cron job would write it.
    pub(super) fn shell(&self, name: &str, line: &str) -> Result<()> {
        self.run(name, "sh", &["-c", line])
    }

    pub(super) fn wait(&self, name: &str, command: &mut Command) -> Result<()> {
        let status = command.status().with_context(|| format!("start {:?}", command.get_program()))?;
        if !status.success() && !self.is_over() {
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            // The first three are how it got into the cgroup.
            let told = words.get(3..).unwrap_or_default().join(" ");
            bail!("{told}: {status}\n{}", self.tail(name));
        }
        Ok(())
    }

    fn tail(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.join(format!("{name}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().rev().take(4).collect();
        lines.into_iter().rev().map(|line| format!("      {line}\n")).collect()
    }

    /// Begins a kind of work and does rounds of it until the time is over.
    pub(super) fn repeat(&self, name: &'static str, begin: Begin) -> Done {
        let mut done = Done { name, ..Done::default() };
        let mut rounds = match begin(self) {
            Ok(rounds) => rounds,
            Err(error) => {
                if !self.is_over() {
                    done.skipped = Some(format!("{error:#}"));
                }
                return done;
            }
        };
        while !self.is_over() {
            match rounds.round(self, done.rounds) {
                Ok(()) => done.rounds += 1,
                Err(_) if self.is_over() => {}
                Err(error) if done.failures.len() < FAILURES => done.failures.push(format!("{error:#}")),
                Err(_) => {}
            }
            self.sleep(rounds.pause());
        }
        done
    }

    pub(super) fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_over() {
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Installs what is missing of these Debian packages; they are removed when the bench ends.
    pub(super) fn need(&self, packages: &[&str]) -> Result<()> {
        let mut installed = self.packages.lock().unwrap_or_else(PoisonError::into_inner);
        installed.install(self, packages)
    }

    /// Removes packages of [`Ground::need`] again, as a person would.
    pub(super) fn drop_packages(&self, packages: &[&str]) -> Result<()> {
        let mut installed = self.packages.lock().unwrap_or_else(PoisonError::into_inner);
        installed.purge(Some(self), packages)
    }

    /// Removes everything that was installed.
    pub(super) fn clean_up(&self) -> Result<()> {
        let mut installed = self.packages.lock().unwrap_or_else(PoisonError::into_inner);
        installed.purge_all()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.end();
        if let Err(error) = self.clean_up() {
            eprintln!("warning: packages of the bench stay installed; its next run removes them: {error:#}");
        }
    }
}

/// Packages that were not there before. Noted in the cache before they are installed, so that a later run can remove what a killed one left.
#[derive(Debug, Default)]
pub(super) struct Packages {
    ours: BTreeSet<String>,
    policy: Option<Policy>,
}

impl Packages {
    /// Removes what a killed run has left.
    pub(super) fn remove_left_over() -> Result<()> {
        let text = fs::read_to_string(note()?).unwrap_or_default();
        let mut left = Self { ours: text.lines().map(str::to_owned).collect(), policy: None };
        if !left.ours.is_empty() {
            say("remove the packages that an earlier run left");
        }
        let _from_a_killed_run = fs::remove_file("/etc/cron.d/hemostat-benign");
        left.purge_all()
    }

    fn install(&mut self, ground: &Ground, packages: &[&str]) -> Result<()> {
        let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // A list that is too old names versions that are gone.
        let mut plan = simulate(&missing);
        if plan.is_err() {
            ground.run("packages", "apt-get", &["update"])?;
            plan = simulate(&missing);
        }
        self.ours.extend(plan?);
        self.write_note()?;
        if self.policy.is_none() {
            self.policy = Policy::make()?;
        }
        let mut command = ground.command("packages", "apt-get")?;
        command.env("DEBIAN_FRONTEND", "noninteractive");
        // Somebody else may be installing something just now.
        command.args(["-o", "DPkg::Lock::Timeout=120"]);
        command.args(["install", "-y", "--no-install-recommends"]).args(&missing);
        ground.wait("packages", &mut command)
    }

    /// With `ground` as part of the work, without as cleaning up.
    fn purge(&mut self, ground: Option<&Ground>, packages: &[&str]) -> Result<()> {
        let ours: Vec<&str> = packages
            .iter()
            .copied()
            .filter(|package| self.ours.contains(*package) && is_installed(package))
            .collect();
        if !ours.is_empty() {
            let mut command = match ground {
                Some(ground) => ground.command("packages", "apt-get")?,
                None => {
                    let mut command = Command::new("apt-get");
                    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    command
                }
            };
            command
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["-o", "DPkg::Lock::Timeout=120", "purge", "-y"])
                .args(&ours);
            let status = command.status().context("run apt-get")?;
            if !status.success() {
                bail!("apt-get purge {} ended with {status}", ours.join(" "));
            }
        }
        for package in packages {
            self.ours.remove(*package);
        }
        self.write_note()
    }

    fn purge_all(&mut self) -> Result<()> {
        let all: Vec<String> = self.ours.iter().cloned().collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        if !all.is_empty() {
            self.purge(None, &all)?;
        }
        self.policy = None;
        Ok(())
    }

    fn write_note(&self) -> Result<()> {
        let path = note()?;
        let text: String = self.ours.iter().map(|package| format!("{package}\n")).collect();
        if text.is_empty() {
            let _not_there = fs::remove_file(&path);
            return Ok(());
        }
        let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        std::io::Write::write_all(&mut file, text.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("write {}", path.display()))
    }
}

/// Keeps the services of packages from being started (invoke-rc.d(8)): we start our own, with our own configuration.
#[derive(Debug)]
struct Policy;

impl Policy {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    fn make() -> Result<Option<Self>> {
        use std::os::unix::fs::PermissionsExt as _;
        if Path::new(Self::PATH).exists() {
            return Ok(None);
        }
        fs::write(Self::PATH, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(Self::PATH, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {}", Self::PATH))?;
        Ok(Some(Self))
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _best_effort = fs::remove_file(Self::PATH);
    }
}

/// What `apt-get install` would install anew.
fn simulate(packages: &[&str]) -> Result<BTreeSet<String>> {
    let mut arguments = vec!["install", "--simulate", "--no-install-recommends"];
    arguments.extend(packages);
    let text = output("apt-get", &arguments)
        .with_context(|| format!("apt-get does not know {} here", packages.join(", ")))?;
    let new = new_packages(&text);
    if text.lines().any(|line| line.starts_with("Remv ")) {
        bail!("installing {} would remove something", packages.join(", "));
    }
    Ok(new)
}

/// `Inst NAME (VERSION …)` is new, `Inst NAME [OLD] (VERSION …)` an upgrade.
fn new_packages(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("Inst ")?.split(' ');
            let name = words.next()?;
            (!words.next()?.starts_with('[')).then(|| name.to_owned())
        })
        .collect()
}

fn is_installed(package: &str) -> bool {
    output("dpkg-query", &["-W", "-f=${db:Status-Status}", package]).as_deref() == Some("installed")
}

fn note() -> Result<PathBuf> {
    Ok(cache()?.join("benign-packages"))
}

/// A service of the work. It ends with the cgroup in any case; dropping it ends it gently.
pub(super) struct Service(pub(super) Child);

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let patience = Instant::now() + Duration::from_secs(3);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(20));
        }
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_packages_are_ours_to_remove() {
        let text = "NOTE: simulation\nInst libfoo [1.0] (1.1 Debian:12 [amd64])\nInst nginx (1.22 Debian:12 [amd64])\n\
                    Inst nginx-common (1.22 Debian:12 [all])\nConf nginx (1.22)\n";
        assert_eq!(new_packages(text), BTreeSet::from(["nginx".to_owned(), "nginx-common".to_owned()]));
    }
}
