//! Who leads: one of several controllers, by a Lease. kube-runtime has no election, and the crates for it know no fencing, so this is a
//! small one of our own over coordination.k8s.io/v1 as client-go does it: a Lease whose holder did not renew it for its duration, as
//! seen by our own clock, may be taken; every write carries the Lease's resourceVersion, so that of two takers one loses.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How leadership is held.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are: unique to this process.
    pub identity: String,
    /// A Lease that was not renewed for so long may be taken.
    pub duration: Duration,
    /// It is renewed this often.
    pub renew: Duration,
    /// A failed try is repeated after this.
    pub retry: Duration,
    /// So long after its lease ran out a controller that cannot renew it goes on containing on nodes; then it ends.
    pub authority: Duration,
}

impl LeaseConfig {
    /// The usual times: client-go's.
    #[must_use]
    pub fn new(namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: "hemostat-controller".into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(5),
            retry: Duration::from_secs(2),
            authority: Duration::from_secs(600),
        }
    }
}

/// One leadership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Its number: greater than that of every one before. Not the Lease's own count of transitions, which begins anew when the Lease is
    /// deleted: the time in milliseconds, and one more than the last where the clock went back.
    pub epoch: u64,
    /// The journal with which the one before worked, where it said so.
    pub journal_before: Option<String>,
}

/// The annotation that tells the leadership's number.
const EPOCH: &str = "hemostat.dev/epoch";
/// The annotation that tells the leader's journal.
const JOURNAL: &str = "hemostat.dev/journal";

/// Where we stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Somebody else leads, as far as is known.
    Following {
        /// Who.
        leader: Option<String>,
    },
    /// We lead.
    Leading,
    /// We led, and somebody else does now.
    Lost {
        /// Who.
        to: String,
    },
}

/// Our part in the election.
#[derive(Debug)]
pub struct Election {
    /// Where we stand.
    pub standing: watch::Receiver<Standing>,
    /// Until when our last renewal holds; none while we do not lead. Nothing is written to the API server after that.
    pub until: watch::Receiver<Option<Instant>>,
    /// As it was begun with.
    pub config: LeaseConfig,
    /// Our leadership, once it was won.
    pub term: watch::Receiver<Option<Term>>,
    /// Our journal, and whether the Lease tells of it.
    journal: watch::Sender<Option<String>>,
    told: watch::Receiver<Option<String>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Election {
    /// Runs for it.
    #[must_use]
    pub fn run(client: Client, config: LeaseConfig) -> Self {
        let (standing_sender, standing) = watch::channel(Standing::Following { leader: None });
        let (until_sender, until) = watch::channel(None);
        let (term_sender, term) = watch::channel(None);
        let (journal, ours) = watch::channel(None);
        let (told_sender, told) = watch::channel(None);
        let cancel = CancellationToken::new();
        let candidate = Candidate {
            api: Api::namespaced(client, &config.namespace),
            config: config.clone(),
            standing: standing_sender,
            until: until_sender,
            term: term_sender,
            journal: ours,
            told: told_sender,
            seen: None,
        };
        let task = tokio::spawn(candidate.run(cancel.clone()));
        Self { standing, until, config, term, journal, told, cancel, task }
    }

    /// Tells in the Lease with which journal we work, and waits until it stands there: whoever leads after us must know whether theirs is
    /// the same.
    pub fn tell_journal(&self, id: &str) -> impl Future<Output = ()> + use<> {
        self.journal.send_replace(Some(id.to_owned()));
        let (mut told, id) = (self.told.clone(), id.to_owned());
        async move {
            // Fails only when the election has ended, and then we do not lead.
            let _ended = told.wait_for(|told| told.as_deref() == Some(&*id)).await;
        }
    }

    /// Waits until we lead; `follows` is called once it is known that another does.
    pub async fn won(&mut self, follows: impl FnOnce()) -> bool {
        let known = |standing: &Standing| !matches!(standing, Standing::Following { leader: None });
        let leads = match self.standing.wait_for(known).await {
            Ok(standing) => *standing == Standing::Leading,
            Err(_) => return false,
        };
        if !leads {
            follows();
        }
        self.standing.wait_for(|standing| *standing == Standing::Leading).await.is_ok()
    }

    /// Waits until somebody else took the lead from us.
    pub async fn lost(&mut self) -> String {
        match self.standing.wait_for(|standing| matches!(standing, Standing::Lost { .. })).await {
            Ok(standing) => match &*standing {
                Standing::Lost { to } => to.clone(),
                _ => String::new(),
            },
            Err(_) => std::future::pending().await,
        }
    }

    /// Steps down, so that another may take over at once. Only once nothing is done any more.
    pub async fn resign(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the election ended badly");
        }
    }
}

struct Candidate {
    api: Api<Lease>,
    config: LeaseConfig,
    standing: watch::Sender<Standing>,
    until: watch::Sender<Option<Instant>>,
    term: watch::Sender<Option<Term>>,
    journal: watch::Receiver<Option<String>>,
    told: watch::Sender<Option<String>>,
    /// Version of the Lease as last seen, and when, by our clock, it was first seen so.
    seen: Option<(String, Instant)>,
}

/// What a try came to.
enum Tried {
    /// The Lease is ours; its version, and when the renewal was begun.
    Held,
    /// It is somebody else's.
    Theirs(String),
    /// The API server did not answer, or another was quicker.
    Unknown(String),
}

impl Candidate {
    async fn run(mut self, cancel: CancellationToken) {
        let mut leads = false;
        loop {
            let wait = match self.once().await {
                Tried::Held => {
                    if !leads {
                        tracing::info!(identity = self.config.identity, "this controller leads");
                    }
                    leads = true;
                    self.stand(Standing::Leading);
                    self.config.renew
                }
                Tried::Theirs(leader) if leads => {
                    tracing::error!(leader, "another controller leads now: this one stops");
                    self.until.send_replace(None);
                    self.stand(Standing::Lost { to: leader });
                    return;
                }
                Tried::Theirs(leader) => {
                    self.stand(Standing::Following { leader: Some(leader) });
                    self.config.retry
                }
                Tried::Unknown(because) => {
                    tracing::warn!(because, leads, "the lease could not be renewed");
                    self.config.retry
                }
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = sleep(wait) => {}
                // Ends only with the election.
                _ = self.journal.changed(), if leads => {}
            }
        }
        if leads {
            self.until.send_replace(None);
            self.give_back().await;
        }
    }

    /// Reads the Lease, and takes or renews it where that is allowed.
    async fn once(&mut self) -> Tried {
        let begun = Instant::now();
        let limit = self.config.duration / 3;
        match timeout(limit, self.exchange()).await {
            Ok(Ok(Tried::Held)) => {
                // From before the request: the holder's time must end no later than any other's patience.
                self.until.send_replace(Some(begun + self.config.duration));
                Tried::Held
            }
            Ok(Ok(tried)) => tried,
            Ok(Err(error)) => Tried::Unknown(error.to_string()),
            Err(_) => Tried::Unknown(format!("no answer within {limit:?}")),
        }
    }

    async fn exchange(&mut self) -> Result<Tried, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
            let mut lease = Lease {
                metadata: ObjectMeta { name: Some(self.config.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.ours(None)),
            };
            let claim = self.claim(&mut lease);
            return self.taken(self.api.create(&PostParams::default(), &lease).await, claim);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder != self.config.identity && !holder.is_empty() && !self.has_lapsed(&lease, &spec) {
            return Ok(Tried::Theirs(holder));
        }
        lease.spec = Some(self.ours(Some(&spec)));
        let claim = self.claim(&mut lease);
        // With the version that was read: whoever else writes meanwhile makes this fail.
        self.taken(self.api.replace(&self.config.name, &PostParams::default(), &lease).await, claim)
    }

    /// What a Lease of ours tells besides, and what is ours once it is written: leadership and journal.
    fn claim(&self, lease: &mut Lease) -> (Term, Option<String>) {
        let notes = lease.metadata.annotations.get_or_insert_default();
        let term = self.term.borrow().clone().unwrap_or_else(|| Term {
            epoch: next_epoch(notes.get(EPOCH).and_then(|text| text.parse().ok()), jiff::Timestamp::now()),
            journal_before: notes.get(JOURNAL).cloned(),
        });
        notes.insert(EPOCH.into(), term.epoch.to_string());
        let journal = self.journal.borrow().clone();
        if let Some(journal) = &journal {
            notes.insert(JOURNAL.into(), journal.clone());
        }
        (term, journal)
    }

    fn taken(
        &self,
        answer: Result<Lease, kube::Error>,
        (term, journal): (Term, Option<String>),
    ) -> Result<Tried, kube::Error> {
        match answer {
            Ok(_) => {
                self.term.send_if_modified(|known| known.is_none().then(|| *known = Some(term)).is_some());
                self.told.send_replace(journal);
                Ok(Tried::Held)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Tried::Unknown(status.message)),
            Err(error) => Err(error),
        }
    }

    /// By our own clock: the holder's may be wrong.
    fn has_lapsed(&mut self, lease: &Lease, spec: &LeaseSpec) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        let duration = Duration::from_secs(seconds).max(Duration::from_secs(1));
        match &self.seen {
            Some((known, since)) if *known == version => since.elapsed() >= duration,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    fn ours(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let goes_on = before.is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.config.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.duration.as_secs()).ok(),
            acquire_time: if goes_on {
                before.and_then(|spec| spec.acquire_time.clone())
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if goes_on || before.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    async fn give_back(&self) {
        let giving = async {
            let mut lease = self.api.get(&self.config.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() != Some(&self.config.identity) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.api.replace(&self.config.name, &PostParams::default(), &lease).await.map(drop)
        };
        match timeout(self.config.retry, giving).await {
            Ok(Ok(())) => tracing::info!("the lease was given back"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be given back: it runs out"),
            Err(_) => tracing::warn!("the lease could not be given back in time: it runs out"),
        }
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|known| {
            let changed = *known != standing;
            *known = standing;
            changed
        });
    }
}

fn next_epoch(before: Option<u64>, now: jiff::Timestamp) -> u64 {
    let by_clock = u64::try_from(now.as_millisecond()).unwrap_or(0).max(1);
    before.map_or(by_clock, |before| by_clock.max(before.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leadership_has_a_greater_number_also_when_the_clock_goes_back_or_the_lease_was_deleted() {
        let at = |ms| jiff::Timestamp::from_millisecond(ms).unwrap();
        let first = next_epoch(None, at(1_000));
        let second = next_epoch(Some(first), at(500));
        assert!(second > first);
        let third = next_epoch(Some(second), at(9_000));
        assert!(third > second);
        assert!(next_epoch(None, at(10_000)) > third, "the Lease was deleted, the clock goes on");
        assert!(next_epoch(None, at(-5)) > 0);
    }
}
