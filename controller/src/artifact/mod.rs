//! Rule sets as OCI artifacts: fetched by digest, compared with it, unpacked in memory, and kept on disk.
//!
//! What a RuleSet had in force stays so until what it asks for now is there whole. Everything that a registry gives is hostile: it is bounded
//! before it is read, and only what is one SHA-256 of the reference away is looked into.

mod login;
mod manifest;
mod reference;
mod registry;
mod shelf;
mod unpack;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::body::Bytes;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::login::KEY as PULL_SECRET_KEY;
use self::{
    login::Login,
    manifest::layers,
    reference::{Digest, Reference},
    registry::{PullError, Registry},
    shelf::Shelf,
    unpack::{Files, Unpacking},
};

/// Artifacts that are fetched at once: each takes some 64 MiB while it is unpacked (I11).
const AT_ONCE: usize = 2;
/// The whole of one fetch.
const PATIENCE: Duration = Duration::from_secs(240);
/// Bytes of all rule files in force, of all RuleSets together (I11): nodes take 64 MiB in all.
const MAX_TOGETHER: usize = 64 << 20;
/// Pause after the first failure; it doubles up to [`LONGEST`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(300);

/// What stands in a RuleSet, and what it needs from elsewhere, which may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `registry/repository@sha256:…`, as written.
    pub(crate) reference: String,
    /// The pull secret's content, or why it is not to be had.
    pub(crate) login: Option<Result<Vec<u8>, String>>,
    /// Authorities in PEM to trust instead of the system's, or why they are not to be had.
    pub(crate) authorities: Option<Result<String, String>>,
}

/// What a RuleSet has of its artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The rule files in force: name and text.
    pub(crate) files: Arc<Files>,
    /// Of which artifact they are.
    pub(crate) of: Option<String>,
    /// Why they are not those that are asked for.
    pub(crate) lacks: Option<String>,
}

/// An artifact that is what its digest says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fetched {
    files: Files,
    /// Manifest and layers as they came.
    blobs: Vec<(Digest, Bytes)>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum FetchError {
    /// What it needs from elsewhere is not to be had.
    #[error("{0}")]
    Needs(String),
    /// The registry.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// It is what its digest says, and still of no use: another try would give the same.
    #[error("{0}")]
    Useless(String),
}

/// The artifacts of all RuleSets. [`Artifacts::run`] fetches them.
#[derive(Debug)]
pub(crate) struct Artifacts {
    shelf: Shelf,
    sets: Mutex<BTreeMap<String, Set>>,
    /// Something else is wanted.
    asked: Notify,
    /// How often something changed.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Set {
    wanted: Option<Wanted>,
    in_force: Option<(Reference, Arc<Files>)>,
    tries: u32,
    /// It is fetched now.
    busy: bool,
    next: Option<Instant>,
    failure: Option<String>,
}

impl Artifacts {
    /// What is on disk below `folder` is in force until something else is there.
    pub(crate) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            shelf: Shelf::new(folder),
            sets: Mutex::default(),
            asked: Notify::new(),
            changed: watch::Sender::new(0),
        })
    }

    /// Changes whenever what is held does.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads what was in force before a restart. Takes as long as unpacking it does.
    pub(crate) fn recall(&self) {
        for (name, reference) in self.shelf.noted() {
            let Some(fetched) = self.shelf.get(&reference) else {
                tracing::warn!(set = name, %reference, "the artifact is not whole on disk; it is fetched again");
                continue;
            };
            let in_force = Some((reference, Arc::new(fetched.files)));
            self.sets().insert(name, Set { in_force, ..Set::default() });
        }
    }

    /// What `set` has of what it wants; what it lacks is fetched from now on.
    pub(crate) fn held(&self, set: &str, wanted: Wanted) -> Held {
        let mut sets = self.sets();
        let known = sets.entry(set.to_owned()).or_default();
        if known.wanted.as_ref() != Some(&wanted) {
            // Also where only the secret is another one: that may be what was lacking.
            *known = Set { wanted: Some(wanted.clone()), in_force: known.in_force.take(), ..Set::default() };
            self.asked.notify_one();
        }
        let (files, of) = match &known.in_force {
            Some((reference, files)) => (Arc::clone(files), Some(reference.to_string())),
            None => (Arc::default(), None),
        };
        if known.serves() {
            return Held { files, of, lacks: None };
        }
        let why = known.failure.clone().unwrap_or_else(|| "it is being fetched".into());
        let meanwhile = match &of {
            Some(of) => format!("; the rules of {of} stay in force"),
            None => String::new(),
        };
        Held { files, of, lacks: Some(format!("{}: {why}{meanwhile}", wanted.reference)) }
    }

    /// Forgets all sets but these.
    pub(crate) fn keep_only(&self, names: &BTreeSet<&str>) {
        let mut sets = self.sets();
        let before = sets.len();
        sets.retain(|name, _| names.contains(name.as_str()));
        if sets.len() != before {
            drop(sets);
            self.asked.notify_one();
        }
    }

    /// Forgets one set.
    pub(crate) fn forget(&self, set: &str) {
        if self.sets().remove(set).is_some() {
            self.asked.notify_one();
        }
    }

    /// Waits until each was tried, but no longer than `patience`.
    pub(crate) async fn tried(&self, patience: Duration) {
        let mut changes = self.changes();
        let all = async {
            while self.sets().values().any(|set| set.wanted.is_some() && !set.serves() && set.tries == 0) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever is late comes later.
        let _late = timeout(patience, all).await;
    }

    /// Fetches until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut fetching = JoinSet::new();
        let free = Arc::new(Semaphore::new(AT_ONCE));
        let mut noted = self.in_force();
        loop {
            for (name, wanted) in self.take_due() {
                let free = Arc::clone(&free);
                fetching.spawn(async move {
                    // Never closed.
                    let _permit = free.acquire().await;
                    let found = match timeout(PATIENCE, fetch(&wanted)).await {
                        Ok(found) => found,
                        Err(_) => Err(FetchError::Needs(format!("it did not come within {PATIENCE:?}"))),
                    };
                    (name, wanted, found)
                });
            }
            let next = self.next();
            let pause = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.asked.notified() => {}
                Some(done) = fetching.join_next() => match done {
                    Ok((name, wanted, found)) => self.take(&name, &wanted, found).await,
                    Err(error) => tracing::error!(%error, "the fetch of an artifact ended badly"),
                },
                () = pause => {}
            }
            // Here and not where things are fetched: what is not noted is removed from the disk.
            let now = self.in_force();
            if now != noted {
                self.note(now.clone()).await;
                noted = now;
            }
        }
        fetching.shutdown().await;
    }

    /// What came of a try.
    async fn take(&self, name: &str, wanted: &Wanted, found: Result<Fetched, FetchError>) {
        if let Ok(fetched) = &found {
            let (shelf, kept) = (self.shelf.clone(), fetched.clone());
            let kept = tokio::task::spawn_blocking(move || shelf.put(&kept)).await;
            if let Err(error) = kept.map_err(std::io::Error::other).and_then(|kept| kept) {
                tracing::error!(%error, set = name, "the artifact cannot be kept on disk: a restart will need the registry");
            }
        }
        let mut sets = self.sets();
        let others = sets.iter().filter(|(other, _)| other.as_str() != name);
        let others: usize = others.filter_map(|(_, set)| Some(bytes_of(&set.in_force.as_ref()?.1))).sum();
        let Some(set) = sets.get_mut(name).filter(|set| set.wanted.as_ref() == Some(wanted)) else { return };
        set.busy = false;
        set.tries = set.tries.saturating_add(1);
        match (found, Reference::parse(&wanted.reference)) {
            (Ok(fetched), Ok(_)) if others + bytes_of(&fetched.files) > MAX_TOGETHER => {
                set.failure = Some(format!("all artifacts together are longer than {MAX_TOGETHER} bytes"));
                set.next = Some(Instant::now() + LONGEST);
            }
            (Ok(fetched), Ok(reference)) => {
                tracing::info!(set = name, %reference, files = fetched.files.len(), "an artifact was fetched");
                set.in_force = Some((reference, Arc::new(fetched.files)));
                set.failure = None;
            }
            (Err(error), _) => {
                tracing::warn!(set = name, %error, tries = set.tries, "an artifact could not be fetched");
                set.next = match error {
                    // Until the object changes.
                    FetchError::Useless(_) => None,
                    _ => Some(Instant::now() + pause(set.tries)),
                };
                set.failure = Some(error.to_string());
            }
            (Ok(_), Err(because)) => set.failure = Some(because),
        }
        drop(sets);
        self.changed.send_modify(|n| *n += 1);
    }

    /// What is to be fetched now; it counts as being fetched from here on.
    fn take_due(&self) -> Vec<(String, Wanted)> {
        let now = Instant::now();
        let mut sets = self.sets();
        let due = sets.iter_mut().filter_map(|(name, set)| {
            let first = set.tries == 0 && set.next.is_none();
            let is_due = !set.busy && !set.serves() && (first || set.next.is_some_and(|next| next <= now));
            let wanted = set.wanted.clone().filter(|_| is_due)?;
            set.busy = true;
            set.next = None;
            Some((name.clone(), wanted))
        });
        due.collect()
    }

    fn next(&self) -> Option<Instant> {
        self.sets().values().filter_map(|set| set.next).min()
    }

    fn in_force(&self) -> BTreeMap<String, Reference> {
        let of = |(name, set): (&String, &Set)| Some((name.clone(), set.in_force.as_ref()?.0.clone()));
        self.sets().iter().filter_map(of).collect()
    }

    async fn note(&self, in_force: BTreeMap<String, Reference>) {
        let shelf = self.shelf.clone();
        let noted = tokio::task::spawn_blocking(move || shelf.note(&in_force)).await;
        if let Err(error) = noted.map_err(std::io::Error::other).and_then(|noted| noted) {
            tracing::error!(%error, "which artifacts are in force cannot be noted: a restart will need the registry");
        }
    }

    fn sets(&self) -> MutexGuard<'_, BTreeMap<String, Set>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    /// What is in force is what is wanted.
    fn serves(&self) -> bool {
        let wanted = self.wanted.as_ref().and_then(|wanted| Reference::parse(&wanted.reference).ok());
        match (&self.in_force, wanted) {
            (Some((reference, _)), Some(wanted)) => *reference == wanted,
            _ => false,
        }
    }
}

fn bytes_of(files: &Files) -> usize {
    files.iter().map(|(name, text)| name.len() + text.len()).sum()
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1).min(16))).min(LONGEST)
}

/// The whole of an artifact from its registry.
async fn fetch(wanted: &Wanted) -> Result<Fetched, FetchError> {
    let reference = Reference::parse(&wanted.reference).map_err(FetchError::Useless)?;
    let login = match &wanted.login {
        None => None,
        Some(Err(because)) => return Err(FetchError::Needs(because.clone())),
        Some(Ok(config)) => Some(
            Login::of(config, &reference)
                .map_err(|because| FetchError::Needs(format!("the pull secret: {because}")))?,
        ),
    };
    let authorities = match &wanted.authorities {
        None => None,
        Some(Err(because)) => return Err(FetchError::Needs(because.clone())),
        Some(Ok(pem)) => Some(pem.as_str()),
    };
    let mut registry = Registry::new(reference.clone(), login, authorities)?;
    let manifest = registry.manifest().await?;
    let layers = layers(&manifest).map_err(FetchError::Useless)?;
    let mut blobs = vec![(reference.digest, manifest)];
    for layer in &layers {
        blobs.push((layer.digest.clone(), registry.layer(layer).await?));
    }
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut unpacking = Unpacking::default();
        for (layer, (digest, bytes)) in layers.iter().zip(&blobs[1..]) {
            let named = |because| FetchError::Useless(format!("layer {digest}: {because}"));
            unpacking.layer(&layer.form, bytes).map_err(named)?;
        }
        Ok(Fetched { files: unpacking.done().map_err(FetchError::Useless)?, blobs })
    });
    unpacked.await.map_err(|error| FetchError::Needs(format!("it could not be unpacked: {error}")))?
}
