//! Objects of a cluster as `kubectl get … -A -o json` lists them, for who plays what happened there.

use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    networking::v1::Ingress,
};
use kube::core::PartialObjectMeta;
use model::{Owner, PodSource, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::{
    fact::{Fact, OwnerSeen, Version},
    read::{self, Marks},
};

/// Objects of one list, at most (I11).
const MAX_OBJECTS: usize = 500_000;

/// Why a list is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It is no JSON, or an object of it is not what its kind says.
    #[error("it is no list of objects as JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It holds too much.
    #[error("it has {0} objects, at most {MAX_OBJECTS} are taken")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

/// What a list tells of pods, their owners and namespaces, each from the time when it was made, in order of time. What may own a pod is taken
/// for an owner whatever its kind is. Of annotations those in `marks` are kept.
///
/// # Errors
/// [`ListError`].
pub fn facts(json: &[u8], marks: &Marks) -> Result<Vec<(Timestamp, Fact)>, ListError> {
    let List { items } = serde_json::from_slice(json)?;
    if items.len() > MAX_OBJECTS {
        return Err(ListError::TooMany(items.len()));
    }
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        let kind = item.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let found = match kind.as_str() {
            "Pod" => {
                let pod: Pod = serde_json::from_value(item)?;
                read::pod(&pod, marks).map(|seen| (seen.created, Fact::Pod(Box::new(seen), PodSource::List)))
            }
            "Namespace" => {
                let object: PartialObjectMeta<Namespace> = serde_json::from_value(item)?;
                read::namespace(&object, marks).map(|fact| (made(&object), fact))
            }
            "Service" => {
                let service: Service = serde_json::from_value(item)?;
                let at = service.metadata.creation_timestamp.as_ref().map_or(Timestamp(0), read::time);
                read::service(&service).map(|seen| (at, Fact::Service(seen)))
            }
            "Ingress" => {
                let ingress: Ingress = serde_json::from_value(item)?;
                let at = ingress.metadata.creation_timestamp.as_ref().map_or(Timestamp(0), read::time);
                read::ingress(&ingress).map(|seen| (at, Fact::Ingress(seen)))
            }
            _ => {
                let api_version = item.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
                owner(api_version.to_owned(), kind, serde_json::from_value(item)?)
            }
        };
        all.extend(found);
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(all)
}

fn owner(api_version: String, kind: String, object: PartialObjectMeta<Pod>) -> Option<(Timestamp, Fact)> {
    let at = made(&object);
    let metadata = object.metadata;
    let above = read::controller(&metadata);
    let version = Version(metadata.resource_version.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0));
    let owner = Owner { api_version, kind, name: metadata.name?, uid: metadata.uid? };
    Some((at, Fact::Owner(OwnerSeen { owner, version, above })))
}

fn made<K>(object: &PartialObjectMeta<K>) -> Timestamp {
    object.metadata.creation_timestamp.as_ref().map_or(Timestamp(0), read::time)
}
