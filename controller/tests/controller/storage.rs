//! A full disk: nothing that was accepted is lost, nothing is acknowledged or done before it is stored, and it is said. A real
//! file system that is really full: a tmpfs, which needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hemostat_controller::{Controller, api::Condition};
use model::*;

use crate::{
    lab::{Lab, PATIENCE},
    support::{Faint, finding},
};

/// A small file system, unmounted at the end whatever happens.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(at).status();
        match done {
            Ok(status) if status.success() => Some(Self(at.into())),
            other => {
                println!("SKIPPED: a tmpfs cannot be mounted here ({other:?})");
                None
            }
        }
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut ballast = Vec::new();
        let file = self.0.join("ballast");
        while fs::write(&file, &ballast).is_ok() {
            ballast.resize(ballast.len() + 64 * 1024, 1);
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|s| s.success()), "the tmpfs is left behind");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_is_said() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&place.path().join("disk")) else { return };
    let mut lab = Lab::start_with("Auto", |config| {
        config.journal = disk.0.join("journal.redb");
        config.audit_log = disk.0.join("audit.jsonl");
        config.limits.request = Duration::from_secs(1);
        config.limits.audit_segment = 1024;
    })
    .await;
    disk.fill();
    for n in 1..=200 {
        let mut large = finding(n, 100, Level::High);
        large.matched.insert("CommandLine".into(), "x".repeat(8000));
        lab.spool(Report::Finding(large));
    }
    lab.connect(Faint::Never);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let problem = loop {
        let health = lab.client.health().await.unwrap();
        if let Some(problem) = health.problems.into_iter().find(|p| p.part == "storage") {
            break problem;
        }
        assert!(tokio::time::Instant::now() < deadline, "the full disk was never said");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(problem.what.contains("No space left") && problem.what.contains("make room"), "{problem:?}");
    let world = lab.node.lock().unwrap().world().clone();
    assert!(!world.spool.is_empty(), "what is not stored is not acknowledged");
    let refused = lab.client.status().await.unwrap_err().to_string();
    assert!(refused.contains("No space left"), "a request is refused with the reason: {refused}");
    disk.empty();
    lab.until_world(|w| w.spool.is_empty()).await;
    let incident = lab.until(|line| line.findings == 200 && line.waiting == 1).await;
    assert_eq!(incident.findings.len(), 200);
    assert_eq!(lab.client.health().await.unwrap().condition, Condition::Good);
    let world = lab.node.lock().unwrap().world().clone();
    let mut once = world.effects.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), world.effects.len(), "no effect twice");
    lab.stop().await;
    drop(disk);
}

/// Changes one row of a journal that nobody has open; gives what was there.
fn spoil(journal: &Path, table: &str, ends: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    use redb::{ReadableTable as _, TableDefinition};
    let database = redb::Database::create(journal).unwrap();
    let write = database.begin_write().unwrap();
    let definition: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(table);
    let mut open = write.open_table(definition).unwrap();
    let found = {
        let rows = open.iter().unwrap().map(Result::unwrap);
        let mut rows = rows.map(|(key, row)| (key.value().to_vec(), row.value().to_vec()));
        rows.find(|(key, _)| key.ends_with(ends)).unwrap()
    };
    open.insert(found.0.as_slice(), value).unwrap();
    drop(open);
    write.commit().unwrap();
    found
}

/// Findings of one process, one after the other, with a row of the journal unreadable while the second comes.
async fn a_finding_survives_a_row_that_cannot_be_read(table: &str, seen: u64) {
    let mut lab = Lab::start_with("Shadow", |config| config.limits.seen = seen).await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let dir = lab.stop().await;
    let journal = crate::lab::config(dir.path()).journal;
    let (key, row) = spoil(&journal, table, b"", b"{");
    let mut lab = Lab::start_in(dir, |config| config.limits.seen = seen).await;
    lab.spool(Report::Finding(finding(2, 100, Level::High)));
    lab.connect(Faint::Never);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !lab.client.health().await.unwrap().problems.iter().any(|problem| problem.part == "journal") {
        assert!(tokio::time::Instant::now() < deadline, "it was never said");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lab.node.lock().unwrap().world().spool.len(), 1, "it is not acknowledged");
    lab.disconnect().await;
    let dir = lab.stop().await;
    let (_, spoilt) = spoil(&journal, table, &key, &row);
    assert_eq!(spoilt, b"{", "it was left as it was");
    let mut lab = Lab::start_in(dir, |config| config.limits.seen = seen).await;
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let incident = lab.until(|line| line.findings == 2).await;
    assert_eq!(
        incident.findings.iter().map(|one| one.event.id.seq.0).collect::<Vec<_>>(),
        [1, 2],
        "each once"
    );
    lab.stop().await;
}

/// The store fails while a finding is put in its place: nothing may be remembered of it by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_store_that_fails_while_a_finding_is_taken_in_loses_nothing() {
    a_finding_survives_a_row_that_cannot_be_read("findings", 1000).await;
}

/// The store fails between that and the remembering of it: it lies in its incident once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_store_that_fails_before_a_finding_is_remembered_loses_and_doubles_nothing() {
    a_finding_survives_a_row_that_cannot_be_read("seen_order", 1).await;
}

/// A journal that is no journal any more, and one that another controller has: refused with the file and what to do.
#[tokio::test]
async fn a_journal_that_cannot_be_used_is_refused_with_its_place_and_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let config = || crate::lab::config(dir.path());
    let journal = config().journal;
    let refused = async || Controller::start(config()).await.unwrap_err().to_string();
    let running = Controller::start(config()).await.unwrap();
    let text = refused().await;
    assert!(text.contains(&journal.display().to_string()) && text.contains("another controller"), "{text}");
    running.shutdown().await;
    let whole = fs::read(&journal).unwrap();
    for broken in [&b"no journal at all, but long enough to be looked at"[..], &whole[..5000]] {
        fs::write(&journal, broken).unwrap();
        let text = refused().await;
        assert!(text.contains(&journal.display().to_string()), "{text}");
        assert!(text.contains("move the file aside") && text.contains("hemostat release"), "{text}");
        assert_eq!(fs::read(&journal).unwrap(), broken, "what can perhaps be saved is left as it is");
    }
    fs::write(&journal, &whole).unwrap();
    Controller::start(config()).await.unwrap().shutdown().await;
}
