//! All kinds of events at once for a minute: whether any is lost, and what this machine can generate at all.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    Effort,
    machine::{Watcher, build, run_workload},
    report::{Report, Target},
};
use crate::progress::say;

const BENCH: &str = "loss";

/// What the storm causes, by class, and which of its counts says how often.
const GENERATED: [(&str, &str); 7] = [
    ("exec", "execs"),
    ("fork", "execs"),
    ("exit", "execs"),
    ("file_open", "creates"),
    ("file_delete", "creates"),
    ("connect", "connects"),
    ("accept", "accepts"),
];

/// No shipped rule looks at every accepted connection; this one has the kernel watch them, too.
const ACCEPTED: &str = "title: accepted from nowhere\nid: 6f0b7a0e-6a5b-4f0c-9d5e-6a0d7b1f3c11\nlogsource:\n  product: linux\n  \
                        category: network_accept\ndetection:\n  from:\n    SourcePort: 0\n  condition: from\n";

pub(crate) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let programs = build()?;
    let folder = std::env::temp_dir().join(format!("hemostat-loss-{}", std::process::id()));
    let seconds = if effort == Effort::Quick { 10 } else { 60 };
    let rules = super::machine::Scratch::new("loss-rules")?;
    let rule = rules.path().join("accepted.yml");
    std::fs::write(&rule, ACCEPTED).with_context(|| format!("write {}", rule.display()))?;
    let rules_text = rules.path().to_string_lossy().into_owned();
    let watcher = Watcher::start_with(&programs, &["--rules", &rules_text])?;
    let before = watcher.fresh_node()?;
    attached(&before, report);
    say(format!("files, execs and connects together for {seconds} s"));
    let folder_text = folder.to_string_lossy().into_owned();
    let storm = run_workload(
        &programs.workload,
        &[
            "mix",
            "--seconds",
            &seconds.to_string(),
            "--files",
            "100000",
            "--execs",
            "20000",
            "--connects",
            "20000",
            "--folder",
            &folder_text,
        ],
    )?;
    let after = watcher.fresh_node()?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    #[expect(clippy::cast_precision_loss, reason = "counts of one minute")]
    let per_second = |what: &str| storm["done"][what].as_u64().unwrap_or(0) as f64 / f64::from(seconds);
    // A create is an open that creates and a delete.
    report.add(BENCH, "file events generated", per_second("creates") * 2.0, "1/s", Target::None);
    report.add(BENCH, "execs generated", per_second("execs"), "1/s", Target::None);
    report.add(BENCH, "connects generated", per_second("connects"), "1/s", Target::None);
    for (class, generated) in GENERATED {
        let seen = delta(&before, &after, class, "seen");
        let generated = storm["done"][generated].as_u64().unwrap_or(0);
        if generated == 0 {
            bail!("the storm caused nothing of the class {class}: {storm}");
        }
        // Others' events of the class are among them.
        #[expect(clippy::cast_precision_loss, reason = "counts of one minute")]
        let share = seen as f64 / generated as f64;
        report.add(BENCH, format!("{class}: seen of generated"), share, "ratio", Target::AtLeast(1.0));
    }
    let mut lost = 0;
    let mut unaccounted = 0;
    for class in after["counts"].as_object().into_iter().flatten().map(|(class, _)| class) {
        let d = |field: &str| delta(&before, &after, class, field);
        let gone = d("lost_ring") + d("lost_budget") + d("lost_read");
        lost += gone;
        unaccounted += d("seen").abs_diff(d("submitted") + d("filtered") + gone);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of one minute")]
    {
        report.add(BENCH, "lost", lost as f64, "events", Target::AtMost(0.0));
        // The counters are read one class after the other while events go on.
        report.add(
            BENCH,
            "seen − handed over − filtered − lost",
            unaccounted as f64,
            "events",
            Target::AtMost(8.0),
        );
    }
    Ok(())
}

/// Whether every hook that a generated class needs is attached, by what the node says of itself: what no hook sees cannot be lost either.
fn attached(node: &Value, report: &mut Report) {
    let hooks: Vec<&Value> = node["hooks"].as_array().into_iter().flatten().collect();
    let live = |hook: &Value| matches!(hook["state"]["state"].as_str(), Some("attached" | "fallback"));
    let mut without = 0;
    for (class, _) in GENERATED {
        let of_it: Vec<&&Value> = hooks
            .iter()
            .filter(|hook| hook["classes"].as_array().is_some_and(|all| all.iter().any(|one| one == class)))
            .collect();
        if of_it.is_empty() || !of_it.iter().all(|hook| live(hook)) {
            say(format!("{class} is not watched by all its hooks: {of_it:?}"));
            without += 1;
        }
    }
    report.add(
        BENCH,
        "classes generated that not all their hooks watch",
        f64::from(without),
        "",
        Target::AtMost(0.0),
    );
    let failed = hooks.iter().filter(|hook| hook["state"]["state"] == "failed").count();
    #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
    report.add(BENCH, "hooks that failed", failed as f64, "", Target::AtMost(0.0));
}

fn delta(before: &Value, after: &Value, class: &str, field: &str) -> u64 {
    let read = |node: &Value| node["counts"][class][field].as_u64().unwrap_or(0);
    read(after).saturating_sub(read(before))
}
