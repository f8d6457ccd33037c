//! An hour of ordinary work under all rules: what fires on it is noise, and a rule of level high or critical may not.
//!
//! Hemostat only observes (`--reactions off`, no playbook). The work is real: packages, compilers, a Kubernetes with pods that come and
//! go, cron, ssh logins, a database and a web server under load. All of it runs in one cgroup, so that findings of other work on the
//! machine are told apart, and ends with this process, however that ends.

mod fired;
mod ground;
mod services;
mod works;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{
    Effort,
    report::{Report, Target},
};
use crate::{
    cluster,
    demo::{self, Profile},
    enclosure::{Apart, Enclosure, cgroup2},
    progress::{is_root, say, skip},
};
use fired::{Fired, Place, Watch};
use ground::{Done, Ground, Packages};

const BENCH: &str = "benign";
/// The cgroup of the work.
const CGROUP: &str = "hemostat-benign";

pub(crate) fn run(effort: Effort, minutes: Option<u64>, json: bool, report: &mut Report) -> Result<()> {
    if !is_root() {
        bail!(
            "this loads eBPF programs and installs packages, which needs root; run: sudo -E cargo xtask bench benign"
        );
    }
    let minutes = minutes.unwrap_or(if effort == Effort::Quick { 3 } else { 60 });
    let binaries = demo::build(Profile::Release)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("listen for ^C")?;
    }
    // What an earlier run that was killed has left.
    Packages::remove_left_over()?;
    let scratch = tempfile_folder()?;
    let enclosure = Enclosure::make(CGROUP, &Apart::Nothing)?;
    let ground =
        Ground::new(enclosure, scratch.0.clone(), Arc::clone(&stop), Duration::from_secs(minutes * 60));
    let watch = Watch::start(
        &binaries.hemostat,
        &scratch.0.join("hemostat"),
        &cluster::Place::OF_BENCHES.audit_log(),
    )?;
    say(format!("ordinary work for {minutes} minutes"));
    let begun = Instant::now();
    let (done, ours, audited) = work(&ground, &watch)?;
    let worked = begun.elapsed();
    say("the work is over; what fired?");
    // Findings on their way.
    thread::sleep(Duration::from_secs(3));
    let node = watch.node()?;
    let control = watch.prove_hearing()?;
    let fired = watch.finish(&ours, control)?;
    ground.clean_up()?;
    tell(&fired, json);
    sum_up(report, &fired, &done, &node, worked);
    report.add(
        BENCH,
        "records of the Kubernetes audit log",
        number(audited),
        "records",
        Target::AtLeast(1.0),
    );
    if stop.load(Ordering::Relaxed) {
        bail!("broken off after {:.0} s; what is above is what was seen until then", worked.as_secs_f64());
    }
    Ok(())
}

/// Does everything at once until the time is over; gives what was done, the cgroups in which it was done, and how many audit records
/// were read meanwhile.
fn work(ground: &Ground, watch: &Watch) -> Result<(Vec<Done>, BTreeSet<u64>, u64)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let cgroups = scope.spawn(|| follow_cgroups(&over));
        let packages = scope.spawn(|| works::packages(ground));
        let others: Vec<_> = works::ALL
            .iter()
            .map(|(name, work)| (*name, scope.spawn(move || ground.repeat(name, *work))))
            .collect();
        let (mut audited, mut asked) = (0, Instant::now());
        while !ground.is_over() {
            thread::sleep(Duration::from_millis(200));
            // Asked while the log is there: its Kubernetes ends with the work.
            if asked.elapsed() > Duration::from_secs(5) {
                (audited, asked) = (audited.max(watch.audited()), Instant::now());
            }
        }
        // A package manager is not killed in the middle; all others are.
        let first = packages.join().map_err(|_panic| anyhow::anyhow!("the work with packages panicked"));
        ground.end();
        let mut done = vec![first?];
        for (name, thread) in others {
            done.push(thread.join().map_err(|_panic| anyhow::anyhow!("the work {name} panicked"))?);
        }
        over.store(true, Ordering::Relaxed);
        let ours = cgroups.join().map_err(|_panic| anyhow::anyhow!("looking at cgroups panicked"))?;
        Ok((done, ours, audited))
    })
}

/// Ids (inodes) of all cgroups of the work, those that soon vanish included.
fn follow_cgroups(over: &AtomicBool) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    let Ok(root) = cgroup2() else { return seen };
    while !over.load(Ordering::Relaxed) {
        for name in [CGROUP.to_owned(), cluster::Place::OF_BENCHES.cgroup()] {
            collect(&root.join(name), &mut seen);
        }
        thread::sleep(Duration::from_millis(200));
    }
    seen
}

fn collect(cgroup: &std::path::Path, seen: &mut BTreeSet<u64>) {
    use std::os::unix::fs::MetadataExt as _;
    if let Ok(about) = std::fs::metadata(cgroup) {
        seen.insert(about.ino());
    }
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), seen);
        }
    }
}

/// Each rule that fired, with an example.
fn tell(fired: &[Fired], json: bool) {
    for one in fired {
        let place = match one.place {
            Place::Work => "work",
            Place::Beside => "beside",
        };
        if json {
            println!(
                "{}",
                json!({"bench": BENCH, "rule": one.rule, "title": one.title, "level": one.level, "where": place,
                       "findings": one.findings, "matches": one.matches, "image": one.image, "example": one.example, "matched": one.matched})
            );
        } else {
            println!("{:<13} {:<6} {:>5} {:>7}  {}", one.level, place, one.findings, one.matches, one.title);
            println!("              {}: {}", one.image, one.example);
        }
    }
}

fn sum_up(report: &mut Report, fired: &[Fired], done: &[Done], node: &serde_json::Value, worked: Duration) {
    report.add(BENCH, "ordinary work", worked.as_secs_f64() / 60.0, "min", Target::None);
    for work in done {
        report.add(BENCH, format!("{}: rounds", work.name), number(work.rounds), "rounds", Target::None);
        if let Some(why) = &work.skipped {
            skip(work.name, why);
        }
        for failure in &work.failures {
            skip(work.name, format!("a round failed: {failure}"));
        }
    }
    let seen: u64 = counts(node, &["seen"]);
    let lost = counts(node, &["lost_ring", "lost_budget", "lost_read"]);
    report.add(BENCH, "events seen in the kernel", number(seen), "events", Target::None);
    report.add(BENCH, "events lost", number(lost), "events", Target::None);
    // So few that the silence of the rules means something; `bench loss` judges losses themselves.
    report.add(BENCH, "lost of seen", number(lost) / number(seen.max(1)), "ratio", Target::AtMost(1e-5));
    report.add(
        BENCH,
        "rules loaded",
        number(node["rules"].as_u64().unwrap_or(0)),
        "rules",
        Target::AtLeast(1.0),
    );
    let of = |levels: &[&str], place: Place| {
        fired
            .iter()
            .filter(|one| one.place == place && levels.contains(&one.level.as_str()))
            .map(|one| one.findings)
            .sum::<u64>()
    };
    let quiet = ["high", "critical"];
    report.add(
        BENCH,
        "high and critical findings",
        number(of(&quiet, Place::Work)),
        "findings",
        Target::AtMost(0.0),
    );
    report.add(BENCH, "medium findings", number(of(&["medium"], Place::Work)), "findings", Target::None);
    report.add(
        BENCH,
        "low findings (raise nothing)",
        number(of(&["low", "informational"], Place::Work)),
        "findings",
        Target::None,
    );
    report.add(
        BENCH,
        "high and critical beside the work",
        number(of(&quiet, Place::Beside)),
        "findings",
        Target::None,
    );
}

#[expect(clippy::cast_precision_loss, reason = "counts of an hour")]
fn number(count: u64) -> f64 {
    count as f64
}

fn counts(node: &serde_json::Value, fields: &[&str]) -> u64 {
    let classes = node["counts"].as_object();
    classes
        .into_iter()
        .flatten()
        .flat_map(|(_, count)| fields.iter().filter_map(|field| count[*field].as_u64()))
        .sum()
}

/// Removed when it is dropped.
struct Scratch(std::path::PathBuf);

/// A folder that users of services can enter.
fn tempfile_folder() -> Result<Scratch> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::path::PathBuf::from(format!("/var/tmp/ordinary-{}", std::process::id()));
    std::fs::create_dir_all(&path)
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("make {}", path.display()))?;
    Ok(Scratch(path))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}
