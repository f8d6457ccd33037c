//! Feeds of threat intelligence from files: read at the start and again when they change, apart from everything else. What is broken is
//! told, and what was read of it before stays in force.

mod taxii;

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use enrich::{
    Feed, FeedSpec, Format, Intelligence, Limits,
    indicator::Private,
    intelligence::Snapshot,
    read::{FeedError, read},
};
use model::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    api::FeedView,
    config::Clock,
    health::{HealthBoard, Part},
};

/// How soon a collection is asked again that was not fetched.
const AFTER_FAILURE: Duration = Duration::from_secs(300);

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(5);

/// A feed and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSource {
    /// How it is taken; called after its file.
    pub spec: FeedSpec,
    /// Where it lies. A file that is exchanged by renaming is never seen half written. Of a collection: where it is kept, once that is known.
    pub path: PathBuf,
    /// The collection of a TAXII server that it is fetched from.
    pub collection: Option<Box<Collection>>,
}

pub use taxii::Collection;

/// `FORMAT=PATH[,confidence=N][,age=PERIOD][,private]`: format is plain, csv, misp or stix; or `taxii=https://HOST/ROOT/collections/ID/` with
/// `user=NAME`, `password=FILE`, `token=FILE`, `ca=FILE` and `every=PERIOD` besides.
impl FromStr for FeedSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, rest) = text.split_once('=').ok_or("a feed is FORMAT=PATH")?;
        let mut parts = rest.split(',');
        let place = parts.next().unwrap_or_default();
        let (path, mut collection, mut spec) = if format == "taxii" {
            if !place.starts_with("https://") {
                return Err("a collection is taxii=https://HOST/ROOT/collections/ID/".into());
            }
            let collection = Collection {
                url: place.to_owned(),
                user: None,
                password: None,
                token: None,
                ca: None,
                every: taxii::EVERY,
            };
            (PathBuf::new(), Some(Box::new(collection)), FeedSpec::new(place, Format::Stix))
        } else {
            let path = PathBuf::from(place);
            let name =
                path.file_name().and_then(|name| name.to_str()).ok_or("a feed is FORMAT=PATH, of a file")?;
            let spec = FeedSpec::new(name, format.parse::<Format>()?);
            (path, None, spec)
        };
        for part in parts {
            let one = part.split_once('=');
            if let (Some(collection), Some((key, value))) = (&mut collection, one)
                && collection.takes(key, value)?
            {
                continue;
            }
            match one {
                Some(("confidence", number)) => {
                    let most = |number: &u8| *number <= 100;
                    spec.confidence =
                        number.parse().ok().filter(most).ok_or("confidence is a number from 0 to 100")?;
                }
                Some(("age", period)) => {
                    let period: crds::Period = period.parse().map_err(|error| format!("age: {error}"))?;
                    spec.age = period.0;
                }
                Some(("name", name)) => spec.name = name.to_owned(),
                None if part == "private" => spec.private = Private::Taken,
                _ => {
                    return Err(format!(
                        "{part:?} is none of confidence=N, age=PERIOD, name=NAME and private"
                    ));
                }
            }
        }
        Ok(Self { spec, path, collection })
    }
}

/// Why a feed was not taken in.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("feed {name} ({}) cannot be read: {source}", path.display())]
    File { name: String, path: PathBuf, source: io::Error },
    #[error("feed {name}: {source}")]
    Feed { name: String, source: FeedError },
    #[error("feed {name}: at most {} feeds are taken", Intelligence::MAX_FEEDS)]
    TooMany { name: String },
}

/// What tells that a file is another one: when it was written, how long it is, which it is.
type Mark = (SystemTime, u64, u64);

/// Reads all feeds once, as they stand at `now`.
///
/// # Errors
/// The first that cannot be used, in a person's words.
pub fn take_in_all(
    sources: &[FeedSource],
    intelligence: &Intelligence,
    now: Timestamp,
) -> Result<(), String> {
    let clock: Clock = Arc::new(move || now);
    sources
        .iter()
        .try_for_each(|source| take_in(source, intelligence, &clock).map(drop))
        .map_err(|error| error.to_string())
}

/// Follows the feeds until `stop`.
pub(crate) async fn follow(
    sources: Vec<FeedSource>,
    intelligence: Arc<Intelligence>,
    (clock, health, stop): (Clock, HealthBoard, CancellationToken),
) {
    if sources.is_empty() {
        return;
    }
    let fetching = tokio_util::task::TaskTracker::new();
    for source in &sources {
        if let Some(collection) = source.collection.clone() {
            let (path, health, stop) = (source.path.clone(), health.clone(), stop.clone());
            fetching.spawn(keep_fetching(*collection, path, health, stop));
        }
    }
    fetching.close();
    follow_files(sources, intelligence, (clock, health, stop)).await;
    fetching.wait().await;
}

/// Where the collections are kept: below `state`.
pub(crate) fn place(sources: &mut [FeedSource], state: &Path) {
    for source in sources.iter_mut().filter(|source| source.path.as_os_str().is_empty()) {
        if let Some(collection) = &source.collection {
            let digest = model::short_hash([collection.url.as_str()], 8);
            source.path = state.join("feeds").join(format!("taxii-{digest}.json"));
        }
    }
}

/// Asks for what is new, again and again; sooner where it went wrong.
async fn keep_fetching(collection: Collection, path: PathBuf, health: HealthBoard, stop: CancellationToken) {
    let mut said = false;
    loop {
        let fetched = tokio::select! {
            fetched = taxii::fetch(&collection, &path) => fetched,
            () = stop.cancelled() => return,
        };
        let wait = match fetched {
            Ok(indicators) => {
                tracing::info!(collection = collection.url, indicators, "a collection was fetched");
                if std::mem::take(&mut said) {
                    health.restored(Part::Intelligence);
                }
                collection.every
            }
            Err(error) => {
                tracing::warn!(%error, "a collection is not fetched");
                health.degraded(
                    Part::Intelligence,
                    format!("{error}; what was fetched of it before stays in force"),
                );
                said = true;
                collection.every.min(AFTER_FAILURE)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Collection {
    /// Whether an option is one of a collection's own.
    fn takes(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "user" => self.user = Some(value.to_owned()),
            "password" => self.password = Some(value.into()),
            "token" => self.token = Some(value.into()),
            "ca" => self.ca = Some(value.into()),
            "every" => {
                let period: crds::Period = value.parse().map_err(|error| format!("every: {error}"))?;
                self.every = period.0.max(taxii::SOONEST);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

async fn follow_files(
    sources: Vec<FeedSource>,
    intelligence: Arc<Intelligence>,
    (clock, health, stop): (Clock, HealthBoard, CancellationToken),
) {
    let mut known: Vec<Followed> =
        sources.into_iter().map(|source| Followed { source, mark: None, problem: None }).collect();
    loop {
        let (all, clock) = (Arc::clone(&intelligence), Arc::clone(&clock));
        let looked = tokio::task::spawn_blocking(move || {
            let mut changed = false;
            for one in &mut known {
                changed |= one.look(&all, &clock);
            }
            (known, changed)
        });
        let changed;
        (known, changed) = match looked.await {
            Ok(looked) => looked,
            Err(error) => return tracing::error!(%error, "the feeds are no longer followed"),
        };
        if changed {
            let problems: Vec<&str> = known.iter().filter_map(|one| one.problem.as_deref()).collect();
            match problems.is_empty() {
                true => health.restored(Part::Intelligence),
                false => health.degraded(Part::Intelligence, problems.join("; ")),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

struct Followed {
    source: FeedSource,
    mark: Option<Mark>,
    problem: Option<String>,
}

impl Followed {
    /// Reads it if it is another one than before; whether anything is to be told.
    fn look(&mut self, intelligence: &Intelligence, clock: &Clock) -> bool {
        let mark = mark_of(&self.source.path);
        if self.source.collection.is_some()
            && mark.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            // Nothing was fetched yet; why is told by who fetches.
            return false;
        }
        if let Ok(mark) = mark
            && self.mark == Some(mark)
        {
            return false;
        }
        let before = self.problem.take();
        self.mark = mark.ok();
        let begun = std::time::Instant::now();
        match take_in(&self.source, intelligence, clock) {
            Ok(report) => tracing::info!(
                feed = self.source.spec.name,
                indicators = report.0,
                left_out = report.1,
                examples = report.2,
                milliseconds = begun.elapsed().as_millis(),
                "a feed was read"
            ),
            Err(problem) => {
                let held = intelligence.snapshot();
                let remains = if views(&held).iter().any(|feed| feed.feed == self.source.spec.name) {
                    "what was read of it before stays in force"
                } else {
                    "nothing of it is in force; it is looked for every few seconds"
                };
                self.problem = Some(format!("{problem}; {remains}"));
            }
        }
        self.problem != before
    }
}

fn take_in(
    source: &FeedSource,
    intelligence: &Intelligence,
    clock: &Clock,
) -> Result<(usize, u64, String), Unread> {
    let name = source.spec.name.clone();
    let limits = Limits::default();
    let unread = |error| Unread::File { name: name.clone(), path: source.path.clone(), source: error };
    let (bytes, written) = bytes_of(&source.path, limits.bytes).map_err(unread)?;
    let feed = read(&bytes, source.spec.clone(), &limits, written, clock())
        .map_err(|error| Unread::Feed { name: name.clone(), source: error })?;
    drop(bytes);
    let examples: Vec<String> = feed
        .report
        .examples
        .iter()
        .map(|one| format!("{}: {:?} ({})", one.at, one.what, one.because))
        .collect();
    let told = (feed.len(), feed.report.left_out(), examples.join(", "));
    intelligence.put(feed).map_err(|_| Unread::TooMany { name })?;
    Ok(told)
}

fn mark_of(path: &Path) -> io::Result<Mark> {
    use std::os::unix::fs::MetadataExt as _;
    let facts = fs::metadata(path)?;
    Ok((facts.modified()?, facts.len(), facts.ino()))
}

/// A regular file of bounded length; a pipe, of which nothing may ever come, is refused.
fn bytes_of(path: &Path, most: usize) -> io::Result<(Vec<u8>, Timestamp)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let since = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let written = Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
    let mut bytes = Vec::with_capacity(usize::try_from(facts.len()).unwrap_or(0).min(most));
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes, written))
}

/// The feeds as status shows them.
pub(crate) fn views(snapshot: &Snapshot) -> Vec<FeedView> {
    let view = |feed: &Feed| FeedView {
        feed: feed.spec.name.clone(),
        indicators: feed.len() as u64,
        left_out: feed.report.left_out(),
        written: feed.written,
    };
    snapshot.feeds().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_is_named_by_format_and_path() {
        let source: FeedSource = "csv=/feeds/a.csv,confidence=80,age=30d,private".parse().unwrap();
        assert_eq!((source.spec.name.as_str(), source.spec.format), ("a.csv", Format::Csv));
        assert_eq!((source.spec.confidence, source.spec.private), (80, Private::Taken));
        assert_eq!(source.spec.age, Duration::from_secs(30 * 86_400));
        let text = "taxii=https://h/api1/collections/c/,user=ada,password=/p,every=5m,confidence=90";
        let source: FeedSource = text.parse().unwrap();
        let collection = source.collection.as_deref().unwrap();
        assert_eq!((collection.user.as_deref(), collection.every), (Some("ada"), Duration::from_secs(300)));
        let mut all = [source.clone()];
        place(&mut all, Path::new("/state"));
        assert!(all[0].path.starts_with("/state/feeds") && source.spec.confidence == 90);
        for bad in [
            "/feeds/a",
            "taxii=/feeds/a",
            "taxii=https://h/c,every=x",
            "xml=/feeds/a",
            "csv=",
            "csv=/a,confidence=101",
            "csv=/a,age=soon",
            "csv=/a,public",
        ] {
            assert!(bad.parse::<FeedSource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_feed_that_changes_is_read_again_and_one_that_breaks_stays_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let spec = FeedSpec::new("list", Format::Plain);
        let source = FeedSource { spec, path: path.clone(), collection: None };
        let mut one = Followed { source, mark: None, problem: None };
        let (all, clock) = (Intelligence::default(), crate::wall_clock());
        assert!(one.look(&all, &clock) && one.problem.as_ref().unwrap().contains("cannot be read"));
        assert!(one.problem.as_ref().unwrap().contains("nothing of it is in force"), "{:?}", one.problem);
        fs::write(&path, "198.51.100.7\n").unwrap();
        assert!(one.look(&all, &clock), "it is mended");
        assert_eq!((views(&all.snapshot())[0].indicators, one.problem.as_ref()), (1, None));
        assert!(!one.look(&all, &clock), "nothing changed");
        fs::write(&path, "<html> an error page </html>\n").unwrap();
        assert!(one.look(&all, &clock));
        assert!(one.problem.as_ref().unwrap().contains("stays in force"), "{:?}", one.problem);
        assert_eq!(views(&all.snapshot())[0].indicators, 1);
        fs::write(&path, "198.51.100.7\n198.51.100.8\n0.0.0.0/0\n").unwrap();
        assert!(one.look(&all, &clock));
        let view = &views(&all.snapshot())[0];
        assert_eq!((view.indicators, view.left_out), (2, 1));
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert!(one.look(&all, &clock), "a pipe is refused without waiting for it");
    }
}
