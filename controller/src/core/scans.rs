//! What scans found in images, durably: whoever is attacked in the same image later is told of it before the gate, without another scan.

use std::collections::{BTreeMap, BTreeSet};

use enrich::join::image_digest;
use model::{ClusterAction, CommandOutcome, ImageScan, NodeAction, Outputs, PhaseDone, RunId, Timestamp};
use serde_json::Value;

use super::{Core, turn::Turn};
use crate::store::{Batch, ReadBack, Store, StoreError, Table};

/// Images of which it is remembered (I11); the longest unseen are forgotten first.
const MOST: usize = 4096;
/// Bytes of the name of a scanner or a vulnerability.
const MAX_NAME: usize = 64;

/// What scans found, by the images' digests.
#[derive(Debug, Default)]
pub(super) struct Scans {
    all: BTreeMap<String, ImageScan>,
    by_age: BTreeSet<(Timestamp, String)>,
}

impl Scans {
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let mut this = Self::default();
        for (key, scan) in store.scan::<ImageScan>(Table::Scans, b"")? {
            let digest = String::from_utf8_lossy(&key).into_owned();
            this.by_age.insert((scan.at, digest.clone()));
            this.all.insert(digest, scan);
        }
        Ok(this)
    }

    /// All of them.
    pub(super) fn all(&self) -> &BTreeMap<String, ImageScan> {
        &self.all
    }

    /// An image was looked at; a report of an older look changes nothing.
    fn learn(&mut self, digest: &str, scan: ImageScan, batch: &mut Batch) {
        if let Some(before) = self.all.get(digest) {
            if before.at > scan.at {
                return;
            }
            self.by_age.remove(&(before.at, digest.to_owned()));
        }
        batch.put(Table::Scans, digest.as_bytes().to_vec(), &scan, ReadBack::No);
        self.by_age.insert((scan.at, digest.to_owned()));
        self.all.insert(digest.to_owned(), scan);
        while self.all.len() > MOST {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            self.all.remove(&oldest);
            batch.remove(Table::Scans, oldest.into_bytes());
        }
    }
}

impl Core {
    /// Remembers what a step of `run` found in an image, and has its own incident know it before the run's next step is decided about.
    pub(super) fn note_scan(&mut self, run: &RunId, outcome: &CommandOutcome, turn: &mut Turn) {
        let Ok(PhaseDone::Applied { outputs }) = &outcome.result else { return };
        // What other actions give out says nothing of an image, and theirs are nearly all.
        let Some((digest, scan)) = found(outputs, outcome.at) else { return };
        let is_scan = self.state.runs.get(run).is_some_and(|run| {
            let mut records = run.records().into_iter();
            records.any(|record| {
                let scans = matches!(record.action, NodeAction::Cluster(ClusterAction::ScanImage(_)));
                scans && record.id == outcome.action_id
            })
        });
        if !is_scan {
            return;
        }
        self.state.scans.learn(&digest, scan, &mut turn.batch);
        let Some(incident) = self.state.runs.get(run).map(|run| run.incident().clone()) else { return };
        let incident = self.root(&incident);
        if let Err(error) = self.enrich(&incident, turn.now) {
            self.store_failed(&error);
        }
    }
}

/// What a step says that it found; nothing where it does not say in which image, by its digest.
fn found(outputs: &Outputs, at: Timestamp) -> Option<(String, ImageScan)> {
    let text = |value: &Value| -> Option<String> {
        let text = value.as_str()?;
        Some(text[..text.floor_char_boundary(MAX_NAME)].to_owned())
    };
    let number = |name: &str| outputs.get(name).and_then(Value::as_u64);
    let digest = image_digest(outputs.get("image")?.as_str()?)?;
    let ids = outputs.get("ids").and_then(Value::as_array).into_iter().flatten().filter_map(text);
    let scan = ImageScan {
        at,
        scanner: outputs.get("scanner").and_then(text).unwrap_or_default(),
        known: number("known")?,
        critical: number("critical")?,
        high: number("high")?,
        fixable: number("fixable")?,
        ids: ids.take(ImageScan::MAX_IDS).collect(),
    };
    Some((digest.to_owned(), scan))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Store;

    fn outputs(image: &str, known: u64) -> Outputs {
        let all = json!({
            "image": image, "scanner": "trivy", "vulnerable": true, "known": known, "critical": 1, "high": 2,
            "fixable": 3, "ids": ["CVE-2021-44228", 7, "CVE-2014-0160"],
        });
        serde_json::from_value(all).unwrap()
    }

    fn digest(n: usize) -> String {
        format!("sha256:{n:064x}")
    }

    #[test]
    fn only_an_image_that_is_certain_is_remembered() {
        let exact = format!("registry.example/web@{}", digest(7));
        let (found_in, scan) = found(&outputs(&exact, 9), Timestamp(5)).unwrap();
        assert_eq!((found_in.as_str(), scan.known), (digest(7).as_str(), 9));
        assert_eq!(scan.ids, ["CVE-2021-44228", "CVE-2014-0160"]);
        assert!(found(&outputs("registry.example/web:latest", 9), Timestamp(5)).is_none());
        let mut cut = outputs(&exact, 9);
        cut.remove("critical");
        assert!(found(&cut, Timestamp(5)).is_none(), "a report without its numbers is none");
    }

    #[test]
    fn i11_the_longest_unseen_are_forgotten_and_the_newest_look_counts_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("journal.redb")).unwrap();
        let mut scans = Scans::load(&store).unwrap();
        let mut batch = Batch::default();
        let scan = |known| found(&outputs(&format!("x@{}", digest(0)), known), Timestamp(0)).unwrap().1;
        for n in 0..MOST + 2 {
            let at = Timestamp(i64::try_from(n).unwrap());
            scans.learn(&digest(n), ImageScan { at, ..scan(1) }, &mut batch);
        }
        scans.learn(&digest(9), ImageScan { at: Timestamp(99_999), ..scan(4) }, &mut batch);
        scans.learn(&digest(9), ImageScan { at: Timestamp(8), ..scan(5) }, &mut batch);
        store.commit(&batch).unwrap();
        let again = Scans::load(&store).unwrap();
        assert_eq!((again.all.len(), again.by_age.len()), (MOST, MOST));
        assert_eq!(again.all, scans.all);
        assert!(!again.all.contains_key(&digest(1)) && again.all.contains_key(&digest(2)));
        assert_eq!(again.all[&digest(9)].known, 4);
    }
}
