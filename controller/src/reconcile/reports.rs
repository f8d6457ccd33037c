//! What nodes reported, in the API server, before it is acknowledged to them: Secrets of our own namespace, each with some of the reports of
//! one leadership. A leader that begins with an empty journal hears them again ([`super::again`]), so that a journal that is lost takes no
//! finding along.
//!
//! They are kept for a day, and 64 MiB of them at most (I11): the oldest go first.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use k8s_openapi::{ByteString, api::core::v1::Secret, jiff};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use model::{NodeId, Seq};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::reach::{Failure, Reach};
use crate::{
    core::{Input, LinkNumber},
    health::{HealthBoard, Part},
    ledger::Told,
};

/// What a Secret of ours is.
const TYPE: &str = "hemostat.dev/reports";
/// How all of them are called.
const NAME: &str = "hemostat-reports-";
/// By which all of them are found.
const LABEL: &str = "hemostat.dev/reports";
/// The annotation that tells how long the reports in one are.
const BYTES: &str = "hemostat.dev/bytes";
/// The key of the reports: JSON, one a line.
const LINES: &str = "reports.jsonl";
/// One that has so many bytes, or is so old, is full: each report that is added writes all of it anew.
const FULL: (usize, Duration) = (64 << 10, Duration::from_secs(3600));
/// Bytes of one. The API server takes 1 MiB in a Secret.
const LARGEST: usize = 768 << 10;
/// How long, and how many bytes of all, are kept.
const KEPT: (Duration, usize) = (Duration::from_secs(24 * 3600), 64 << 20);
/// What cannot be written now is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// Secrets asked for at a time (I11).
const PAGE: u32 = 16;

/// The Secrets, for the one who leads.
pub(crate) struct Reports {
    reach: Reach,
    home: String,
    health: HealthBoard,
    /// Number of the leadership: names of two leaders never meet.
    epoch: u64,
    number: u64,
    open: Option<Open>,
    /// Those that stand there, oldest first.
    all: VecDeque<Standing>,
}

/// The one that is added to.
struct Open {
    secret: Secret,
    lines: Vec<u8>,
    since: Instant,
}

struct Standing {
    name: String,
    bytes: usize,
    made: jiff::Timestamp,
}

impl Reports {
    pub(crate) fn new(reach: Reach, home: String, health: HealthBoard, epoch: u64) -> Self {
        Self { reach, home, health, epoch, number: 0, open: None, all: VecDeque::new() }
    }

    /// Keeps what comes until `stop`, and tells the core what is kept.
    pub(crate) async fn keep(
        mut self,
        mut told: mpsc::Receiver<Box<Told>>,
        inbox: mpsc::WeakSender<Input>,
        stop: CancellationToken,
    ) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.learn() => {}
        }
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => return,
                told = told.recv() => told,
            };
            let Some(first) = first else { return };
            let mut lines = Vec::new();
            let mut kept: Vec<(NodeId, LinkNumber, Seq)> = Vec::new();
            let mut next = Some(first);
            while let Some(told_now) = next {
                put(&told_now, &mut lines);
                kept.push((told_now.node, told_now.link, told_now.seq));
                next = if lines.len() < LARGEST / 4 { told.try_recv().ok() } else { None };
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.add(&lines) => {}
            }
            let Some(inbox) = inbox.upgrade() else { return };
            // Fails only when the core has ended: what is not acknowledged comes again.
            let _ended = inbox.send(Input::Kept(kept)).await;
        }
    }

    /// Until they stand there. Where the API server never takes them they are kept here alone, which is said: nodes whose reports are never
    /// acknowledged would fall silent.
    async fn add(&mut self, lines: &[u8]) {
        while !lines.is_empty() {
            match self.write(lines).await {
                Ok(()) => {
                    self.health.restored(Part::Reports);
                    break;
                }
                Err(Failure::Away(_) | Failure::NotLeading) => tokio::time::sleep(AGAIN).await,
                // It was written after all, or removed by somebody: another one is begun, and what is there twice is heard once.
                Err(Failure::Conflict(_) | Failure::Missing(_)) => self.open = None,
                Err(failure) => {
                    self.health.degraded(
                        Part::Reports,
                        format!(
                            "what nodes report is kept in this controller's journal alone, and lost with it: {failure}"
                        ),
                    );
                    self.open = None;
                    break;
                }
            }
        }
        self.let_go().await;
    }

    async fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let room = |open: &Open| {
            open.lines.len() + lines.len() <= FULL.0.max(lines.len()) && open.since.elapsed() < FULL.1
        };
        if let Some(open) = self.open.as_ref().filter(|open| room(open)) {
            let whole = [open.lines.as_slice(), lines].concat();
            let mut secret = open.secret.clone();
            fill(&mut secret, &whole);
            let name = secret.name_any();
            // With the version that was written last: nobody else writes it.
            let api = api(&self.reach, &self.home);
            let written = self.reach.write(api.replace(&name, &PostParams::default(), &secret)).await?;
            if let Some(last) = self.all.back_mut() {
                last.bytes = whole.len();
            }
            if let Some(open) = &mut self.open {
                open.secret.metadata = slim(&written);
                open.lines = whole;
            }
            return Ok(());
        }
        self.number += 1;
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(format!("{NAME}{:016}-{:08}", self.epoch, self.number)),
                labels: Some(BTreeMap::from([
                    (LABEL.to_owned(), "true".to_owned()),
                    ("app.kubernetes.io/managed-by".to_owned(), "hemostat".to_owned()),
                ])),
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.into()),
            ..Secret::default()
        };
        fill(&mut secret, lines);
        let api = api(&self.reach, &self.home);
        let written = self.reach.write(api.create(&PostParams::default(), &secret)).await?;
        self.all.push_back(Standing {
            name: secret.name_any(),
            bytes: lines.len(),
            made: jiff::Timestamp::now(),
        });
        secret.metadata = slim(&written);
        secret.data = None;
        self.open = Some(Open { secret, lines: lines.to_vec(), since: Instant::now() });
        Ok(())
    }

    /// Which ones earlier leaders left.
    async fn learn(&mut self) {
        let mut params = params();
        loop {
            let api = api(&self.reach, &self.home);
            match self.reach.read(api.list_metadata(&params)).await {
                Ok(page) => {
                    self.all.extend(page.items.iter().map(|one| {
                        Standing {
                            name: one.name_any(),
                            bytes: one
                                .annotations()
                                .get(BYTES)
                                .and_then(|text| text.parse().ok())
                                .unwrap_or(LARGEST),
                            made: one
                                .metadata
                                .creation_timestamp
                                .as_ref()
                                .map_or_else(jiff::Timestamp::now, |at| at.0),
                        }
                    }));
                    match page.metadata.continue_.filter(|more| !more.is_empty()) {
                        Some(more) => params = params.continue_token(&more),
                        None => return,
                    }
                }
                Err(Failure::Away(_)) => tokio::time::sleep(AGAIN).await,
                Err(failure) => {
                    // They stay until a leader can see them.
                    tracing::warn!(%failure, "the reports that earlier leaders kept cannot be listed");
                    return;
                }
            }
        }
    }

    /// Removes what is too old, or too much.
    async fn let_go(&mut self) {
        while self.all.len() > 1 {
            let total: usize = self.all.iter().map(|one| one.bytes).sum();
            let Some(oldest) = self.all.front() else { return };
            let age = jiff::Timestamp::now().duration_since(oldest.made);
            let old = age.as_secs() > i64::try_from(KEPT.0.as_secs()).unwrap_or(i64::MAX);
            if total <= KEPT.1 && !old {
                return;
            }
            let api = api(&self.reach, &self.home);
            match self.reach.write(api.delete(&oldest.name, &DeleteParams::default())).await {
                Ok(_) | Err(Failure::Missing(_)) => drop(self.all.pop_front()),
                // The next one that is written tries again.
                Err(_) => return,
            }
        }
    }
}

/// All that are kept, in the order in which they came, a page at a time. What is not of our making is not believed.
pub(super) async fn page(
    reach: &Reach,
    home: &str,
    more: Option<&str>,
) -> Result<(Vec<Told>, Option<String>), Failure> {
    let mut params = params();
    if let Some(more) = more {
        params = params.continue_token(more);
    }
    // Their names are in the order of their numbers, and the API server lists by name. Secrets are never listed with what is in them: somebody
    // else's could have the label.
    let api = api(reach, home);
    let page = reach.read(api.list_metadata(&params)).await?;
    let mut told = Vec::new();
    for name in page.items.iter().map(|one| one.name_any()).filter(|name| name.starts_with(NAME)) {
        // One that is gone meanwhile was the oldest.
        let secret = reach.read(api.get_opt(&name)).await?;
        let of_ours = secret.filter(|secret| secret.type_.as_deref() == Some(TYPE));
        told.extend(of_ours.iter().flat_map(read));
    }
    Ok((told, page.metadata.continue_.filter(|more| !more.is_empty())))
}

fn read(secret: &Secret) -> Vec<Told> {
    let Some(text) = secret.data.as_ref().and_then(|data| data.get(LINES)) else { return Vec::new() };
    let lines = text.0.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let told = |line: &[u8]| match serde_json::from_slice(line) {
        Ok(told) => Some(told),
        Err(error) => {
            let name = secret.name_any();
            tracing::error!(secret = name, %error, "a report that was kept cannot be read by this version");
            None
        }
    };
    lines.filter_map(told).collect()
}

fn put(told: &Told, lines: &mut Vec<u8>) {
    match serde_json::to_vec(told) {
        Ok(line) if line.len() < LARGEST / 2 => {
            lines.extend(line);
            lines.push(b'\n');
        }
        Ok(line) => {
            tracing::warn!(node = %told.node, bytes = line.len(), "a report is too long to be kept in the API server, too");
        }
        Err(error) => tracing::error!(node = %told.node, %error, "a report cannot be written down"),
    }
}

fn fill(secret: &mut Secret, lines: &[u8]) {
    secret.data = Some(BTreeMap::from([(LINES.to_owned(), ByteString(lines.to_vec()))]));
    secret.annotations_mut().insert(BYTES.into(), lines.len().to_string());
}

/// What the next write needs of the last one.
fn slim(written: &Secret) -> ObjectMeta {
    ObjectMeta { managed_fields: None, ..written.metadata.clone() }
}

fn api(reach: &Reach, home: &str) -> Api<Secret> {
    Api::namespaced(reach.client.clone(), home)
}

fn params() -> ListParams {
    ListParams::default().labels(&format!("{LABEL}=true")).limit(PAGE)
}

#[cfg(test)]
mod tests {
    use model::{AgentEpoch, EventId, FindingId, Report, Timestamp};

    use super::*;

    fn told(seq: u64) -> Told {
        let node = NodeId::new("n1");
        let id = EventId { node: node.clone(), epoch: AgentEpoch(1), seq: Seq(seq) };
        let report = Report::Repeat {
            finding: FindingId::derive(&id, "rule"),
            count: 2,
            last: Timestamp(7),
            moments: model::Moments::default(),
        };
        Told { node, link: 0, seq: Seq(seq), incident: None, report }
    }

    #[test]
    fn what_is_kept_is_read_in_its_order_and_a_line_that_is_broken_takes_no_other_along() {
        let mut lines = Vec::new();
        put(&told(1), &mut lines);
        lines.extend(b"{\"node\": \"n\n");
        put(&told(2), &mut lines);
        let mut secret = Secret::default();
        fill(&mut secret, &lines);
        assert_eq!(read(&secret), [told(1), told(2)]);
        assert_eq!(secret.annotations()[BYTES], lines.len().to_string());
    }
}
