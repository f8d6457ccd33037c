//! All kinds of events at once for a minute: whether any is lost, and what this machine can generate at all.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Effort,
    machine::{Watcher, build, run_workload},
    report::{Report, Target},
};
use crate::progress::say;

const BENCH: &str = "loss";

pub(crate) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let programs = build()?;
    let folder = std::env::temp_dir().join(format!("hemostat-loss-{}", std::process::id()));
    let seconds = if effort == Effort::Quick { 10 } else { 60 };
    let watcher = Watcher::start(&programs)?;
    let before = watcher.fresh_node()?;
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
    for (class, generated) in
        [("file_open", "creates"), ("file_delete", "creates"), ("exec", "execs"), ("connect", "connects")]
    {
        let seen = delta(&before, &after, class, "seen");
        let generated = storm["done"][generated].as_u64().unwrap_or(0);
        if seen == 0 {
            // No loaded rule needs the class, so its hook is not attached: nothing to lose.
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of one minute")]
        let share = seen as f64 / generated.max(1) as f64;
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

fn delta(before: &Value, after: &Value, class: &str, field: &str) -> u64 {
    let read = |node: &Value| node["counts"][class][field].as_u64().unwrap_or(0);
    read(after).saturating_sub(read(before))
}
