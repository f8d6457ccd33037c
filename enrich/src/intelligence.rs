//! All feeds in use. One is exchanged while others look things up: who looks keeps what there was until it has its answer.

use std::sync::Arc;

use arc_swap::ArcSwap;
use model::Timestamp;

use crate::{
    feed::Feed,
    index::Hit,
    observe::{Observed, Seen},
};

/// All feeds in use.
#[derive(Debug, Default)]
pub struct Intelligence {
    feeds: ArcSwap<Vec<Arc<Feed>>>,
}

/// The feeds as they stood when they were asked for.
#[derive(Debug, Clone)]
pub struct Snapshot(Arc<Vec<Arc<Feed>>>);

impl Intelligence {
    /// Feeds in use, at most (I11).
    pub const MAX_FEEDS: usize = 64;

    /// Puts a feed in the place of the one with its name.
    ///
    /// # Errors
    /// Gives it back where there are too many.
    pub fn put(&self, feed: Feed) -> Result<(), Box<Feed>> {
        let feed = Arc::new(feed);
        let mut refused = false;
        self.feeds.rcu(|known| {
            let mut next: Vec<Arc<Feed>> = known.as_ref().clone();
            let place = next.iter().position(|one| one.spec.name == feed.spec.name);
            match place.and_then(|place| next.get_mut(place)) {
                Some(known) => *known = Arc::clone(&feed),
                None => {
                    refused = next.len() >= Self::MAX_FEEDS;
                    if !refused {
                        next.push(Arc::clone(&feed));
                    }
                }
            }
            next
        });
        match Arc::try_unwrap(feed) {
            Ok(feed) if refused => Err(Box::new(feed)),
            _ => Ok(()),
        }
    }

    /// Takes a feed out.
    pub fn remove(&self, name: &str) {
        self.feeds.rcu(|known| {
            known.iter().filter(|one| one.spec.name != name).map(Arc::clone).collect::<Vec<Arc<Feed>>>()
        });
    }

    /// What stands now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.feeds.load_full())
    }
}

impl Snapshot {
    /// The feeds.
    pub fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// What fits `seen` at `now`, with the feed that says so.
    #[must_use]
    pub fn look_up(&self, seen: &Seen, now: Timestamp) -> Vec<(&Feed, Hit<'_>)> {
        let mut all = Vec::new();
        let mut hits = Vec::new();
        for feed in self.feeds() {
            match &seen.what {
                Observed::Address(addr) => feed.index.address(*addr, now, &mut hits),
                Observed::Domain(name) => feed.index.domain(name, now, &mut hits),
                Observed::Hash(bytes) => feed.index.hash(bytes, now, &mut hits),
                Observed::Url(url) => feed.index.url(url, now, &mut hits),
            }
            all.extend(hits.drain(..).map(|hit| (feed, hit)));
        }
        all
    }
}

impl Feed {
    /// Indicators in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.index.bytes()
    }
}
