//! Resources as the API server tells of them: a reflector for each kind, which begins anew with a growing pause when it is cut off.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt as _;
use kube::{
    Api, Resource, ResourceExt as _,
    api::DynamicObject,
    core::ApiResource,
    runtime::{
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::unread::Unread;
use crate::watched::{because, events, is_blind};

/// The label that says which incident an object belongs to.
pub(crate) const INCIDENT_LABEL: &str = "hemostat.dev/incident";

/// Names that something has to be done about: each once, however often it changes (I11: as many as there are objects).
#[derive(Debug, Clone, Default)]
pub(crate) struct Due {
    names: Arc<Mutex<BTreeSet<String>>>,
    news: Arc<Notify>,
}

impl Due {
    pub(crate) fn add(&self, name: impl Into<String>) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        self.news.notify_one();
    }

    /// Waits until there is something; it may be taken already when this ends.
    pub(crate) async fn come(&self) {
        self.news.notified().await;
    }

    pub(crate) fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All objects of a kind. They are untyped: one that another version wrote must not hide the others.
#[derive(Clone)]
pub(crate) struct Known {
    store: Store<DynamicObject>,
    kind: ApiResource,
    listed: watch::Receiver<bool>,
}

impl Known {
    pub(crate) fn all(&self) -> Vec<Arc<DynamicObject>> {
        self.store.state()
    }

    pub(crate) fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<DynamicObject>> {
        let reference = ObjectRef::new_with(name, self.kind.clone());
        self.store.get(&match namespace {
            Some(namespace) => reference.within(namespace),
            None => reference,
        })
    }

    /// Those of one incident.
    pub(crate) fn of(&self, incident: &str) -> Vec<Arc<DynamicObject>> {
        let mut all = self.store.state_filter(|object| label_of(object) == Some(incident));
        all.sort_by_key(|object| object.name_any());
        all
    }

    /// Waits until all are listed. Not by the store's own word: of several that wait for it, kube-runtime 5.0 wakes one only.
    pub(crate) async fn ready(&self) {
        let mut listed = self.listed.clone();
        // Ends with an error only when the task behind it has ended, and then nobody waits any more.
        let _ended = listed.wait_for(|listed| *listed).await;
    }
}

/// What an object's label says.
pub(crate) fn label_of(object: &DynamicObject) -> Option<&str> {
    object.metadata.labels.as_ref()?.get(INCIDENT_LABEL).map(String::as_str)
}

/// Objects of one answer (I11): they come whole, and each may have a MiB.
const PAGE: u32 = 100;

/// Which objects of a kind are followed (docs/kubernetes.md tells why).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// All: whoever wrote it, it counts.
    All,
    /// Those with our label. One that loses it is taken for gone, and is shown anew.
    OfIncidents,
}

/// Follows a kind until `stop`; what changes is told to `due` under the name that `named` gives it, and whether it is told of at all to `unread`.
pub(crate) fn follow<K>(
    (api, which): (Api<DynamicObject>, Which),
    (tasks, stop): (&TaskTracker, &CancellationToken),
    (due, unread): (&Due, &Unread),
    named: impl Fn(&DynamicObject) -> Option<String> + Send + 'static,
) -> Known
where
    K: Resource<DynamicType = ()>,
{
    let kind = ApiResource::erase::<K>(&());
    let mut writer = Writer::new(kind.clone());
    let store = writer.as_reader();
    let (tell_listed, listed) = watch::channel(false);
    let (stop, due, unread, kind_name) = (stop.clone(), due.clone(), unread.clone(), kind.kind.clone());
    let (held, of_kind) = (store.clone(), kind.clone());
    tasks.spawn(async move {
        let mut config = watcher::Config::default().page_size(PAGE);
        if which == Which::OfIncidents {
            config = config.labels(INCIDENT_LABEL);
        }
        let tell = move |object: &DynamicObject| {
            if let Some(name) = named(object) {
                due.add(name);
            }
        };
        let mut stream = pin!(events(api, config));
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = stream.next() => next,
            };
            let mut event = match next {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    tracing::warn!(kind = kind_name, %error, "a kind of resources cannot be followed at present");
                    if is_blind(&error) {
                        unread.add(&kind_name, because(&error));
                    }
                    continue;
                }
                None => return,
            };
            if let Event::Apply(object) | Event::Delete(object) | Event::InitApply(object) = &mut event {
                // Who wrote which field is of no use here, and large.
                object.metadata.managed_fields = None;
            }
            // What went while nothing was told of it is in no event: the new list does not have it.
            let before = if matches!(event, Event::InitDone) { held.state() } else { Vec::new() };
            writer.apply_watcher_event(&event);
            match &event {
                Event::Apply(object) | Event::Delete(object) => {
                    tell(object);
                    unread.remove(&kind_name);
                }
                Event::InitApply(object) => tell(object),
                Event::InitDone => {
                    for object in before {
                        if held.get(&ObjectRef::from_obj_with(object.as_ref(), of_kind.clone())).is_none() {
                            tell(&object);
                        }
                    }
                    unread.remove(&kind_name);
                    tell_listed.send_replace(true);
                }
                Event::Init => {}
            }
        }
    });
    Known { store, kind, listed }
}
