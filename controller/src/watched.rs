//! Kinds of objects as the API server tells of them, for all who follow one. A watch that cannot be begun is begun anew with a list, after a
//! growing pause: kube's own goes on from where it was and says nothing of it, so that nobody would know that the kind is told of again.

use std::{fmt::Debug, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, Error, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

/// Pauses before a list that is asked for again: they double.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the API server tells of a kind, without an end.
pub(crate) fn events<K>(api: Api<K>, config: Config) -> impl Stream<Item = Result<Event<K>, Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    begun_anew(move || watcher(api.clone(), config.clone()).default_backoff())
}

/// Whether nothing is known any more of what happens to the kind. A watch that merely ended goes on from where it was; until it does, what
/// comes is late and not unknown.
pub(crate) fn is_blind(error: &Error) -> bool {
    !matches!(error, Error::WatchError(_) | Error::WatchFailed(_))
}

/// Why, in the API server's own words where it has some.
pub(crate) fn because(error: &Error) -> String {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status)) => status.message.clone(),
        other => other.to_string(),
    }
}

fn begun_anew<K, S>(begin: impl Fn() -> S) -> impl Stream<Item = Result<Event<K>, Error>>
where
    S: Stream<Item = Result<Event<K>, Error>>,
{
    let first = Box::pin(begin());
    let state = (first, Pace::default(), None, begin);
    stream::unfold(state, |(mut told, mut pace, again, begin)| async move {
        if let Some(pause) = again {
            tokio::time::sleep(pause).await;
            told.set(begin());
        }
        let next = told.next().await?;
        let again = pace.after(&next);
        Some((next, (told, pace, again, begin)))
    })
}

/// The last pause; none after something that only a watch tells.
#[derive(Debug, Default)]
struct Pace(Duration);

impl Pace {
    /// How long to wait before it is begun anew, if it is.
    fn after<K>(&mut self, told: &Result<Event<K>, Error>) -> Option<Duration> {
        match told {
            Err(Error::WatchStartFailed(_)) => {
                self.0 = (self.0 * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                Some(self.0)
            }
            Ok(Event::Apply(_) | Event::Delete(_)) => {
                self.0 = Duration::ZERO;
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use kube::core::Status;

    use super::*;

    fn refused() -> kube::Error {
        kube::Error::Api(Status::failure("pods is forbidden", "Forbidden").with_code(403).boxed())
    }

    /// A list that is answered is no reason to ask for the next one sooner: the list is what costs.
    #[test]
    fn pauses_grow_until_a_watch_tells_something() {
        let mut pace = Pace::default();
        let mut after = |told: Result<Event<u8>, Error>| pace.after(&told).map(|pause| pause.as_secs());
        let refused = || Err(Error::WatchStartFailed(refused()));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!([after(Ok(Event::Init)), after(Ok(Event::InitDone))], [None, None]);
            pauses.extend(after(refused()));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!((after(Ok(Event::Apply(1))), after(refused())), (None, Some(1)));
    }

    #[tokio::test]
    async fn a_watch_that_cannot_be_begun_is_begun_anew_with_a_list() {
        let begun = AtomicU32::new(0);
        let told = begun_anew(|| {
            let n = begun.fetch_add(1, Ordering::Relaxed);
            let last = if n == 0 { Err(Error::WatchStartFailed(refused())) } else { Ok(Event::Apply(2)) };
            stream::iter([Ok(Event::Init), Ok(Event::InitDone), last])
        });
        let lists = told.filter(|event| std::future::ready(matches!(event, Ok(Event::InitDone))));
        assert_eq!(lists.count().await, 2);
    }

    #[tokio::test]
    async fn what_merely_ends_or_fails_goes_on_as_it_is() {
        let told = begun_anew(|| {
            stream::iter([
                Err(Error::InitialListFailed(refused())),
                Err(Error::WatchFailed(refused())),
                Ok(Event::Apply(1)),
            ])
        });
        let all: Vec<_> = told.collect().await;
        assert_eq!(all.len(), 3, "begun once");
        assert!(matches!(&all[0], Err(error) if is_blind(error) && because(error) == "pods is forbidden"));
        assert!(matches!(&all[1], Err(error) if !is_blind(error)));
    }
}
