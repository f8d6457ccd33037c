//! The API server as plain JSON: every object keeps all of its fields, known or not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::http::{
    Method, Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, core::Status};
use model::{ActionFailure, ObjectRef};
use serde::Deserialize as _;
use serde_json::Value;

use crate::shown::complaint;

/// How long one request is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one object or list, all of its pages together, at most (I11).
const MAX_ANSWER: usize = 64 << 20;
/// Objects of one list, at most (I11).
pub(crate) const MAX_LIST: usize = 10_000;
/// Objects of one page of a list.
const PAGE: usize = 500;

/// Kinds of Kubernetes itself, so that the usual ones need no discovery: API version, kind, plural, whether namespaced.
const KINDS: &[(&str, &str, &str, Scope)] = &[
    ("v1", "Pod", "pods", Scope::Namespaced),
    ("v1", "Service", "services", Scope::Namespaced),
    ("v1", "ConfigMap", "configmaps", Scope::Namespaced),
    ("v1", "Secret", "secrets", Scope::Namespaced),
    ("v1", "ServiceAccount", "serviceaccounts", Scope::Namespaced),
    ("v1", "ResourceQuota", "resourcequotas", Scope::Namespaced),
    ("v1", "Event", "events", Scope::Namespaced),
    ("v1", "Namespace", "namespaces", Scope::Cluster),
    ("v1", "Node", "nodes", Scope::Cluster),
    ("apps/v1", "Deployment", "deployments", Scope::Namespaced),
    ("apps/v1", "ReplicaSet", "replicasets", Scope::Namespaced),
    ("apps/v1", "StatefulSet", "statefulsets", Scope::Namespaced),
    ("apps/v1", "DaemonSet", "daemonsets", Scope::Namespaced),
    ("apps/v1", "ControllerRevision", "controllerrevisions", Scope::Namespaced),
    ("batch/v1", "Job", "jobs", Scope::Namespaced),
    ("batch/v1", "CronJob", "cronjobs", Scope::Namespaced),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", Scope::Namespaced),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", Scope::Namespaced),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", Scope::Namespaced),
    ("rbac.authorization.k8s.io/v1", "Role", "roles", Scope::Namespaced),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", Scope::Namespaced),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", Scope::Cluster),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", Scope::Cluster),
    (
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        Scope::Cluster,
    ),
    (
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        Scope::Cluster,
    ),
    ("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", Scope::Cluster),
    ("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", Scope::Cluster),
];

/// What the server is asked to send of a list.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// How much of each object comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Metadata,
}

/// Whether objects of a kind are in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// They are.
    Namespaced,
    /// They are not.
    Cluster,
}

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiFault {
    /// There is no such object.
    #[error("{object}: not found")]
    NotFound {
        /// Which.
        object: String,
    },
    /// Somebody else was faster, or the name is taken: look again.
    #[error("{object}: {because}")]
    Conflict {
        /// Which.
        object: String,
        /// The server's word.
        because: String,
    },
    /// The server understood and says no: forbidden, refused by admission, invalid.
    #[error("{operation} {object}: the API server refuses: {because}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// The server's word.
        because: String,
    },
    /// The object of that name was made later than the one that was meant.
    #[error("{object} was made anew at {made}, after {as_of}")]
    Another {
        /// Which.
        object: String,
        /// When the one that was meant had that name.
        as_of: String,
        /// When the one that is there was made.
        made: String,
    },
    /// The server has no such kind.
    #[error("the cluster has no {kind} of {api_version}")]
    NoKind {
        /// Which.
        api_version: String,
        /// Which.
        kind: String,
    },
    /// It cannot be reached, is too busy, or broken: trying again may help.
    #[error("{operation} {object}: {because}")]
    Away {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// What was seen.
        because: String,
    },
}

impl From<ApiFault> for ActionFailure {
    fn from(fault: ApiFault) -> Self {
        match fault {
            ApiFault::NotFound { object } => Self::TargetGone { target: object },
            ApiFault::Another { object, as_of, made } => Self::TargetChanged {
                target: object,
                expected: format!("the one that had that name at {as_of}"),
                found: format!("one that was made at {made}"),
            },
            ApiFault::Refused { operation, object, because } => Self::Unsupported {
                operation: format!("{operation} {object}"),
                because: format!("the API server refuses: {because}"),
            },
            ApiFault::NoKind { .. } => {
                Self::Unsupported { operation: "looking it up".into(), because: fault.to_string() }
            }
            ApiFault::Conflict { object, because } => {
                Self::Io { operation: "change".into(), object, because }
            }
            ApiFault::Away { operation, object, because } => {
                Self::Io { operation: operation.into(), object, because }
            }
        }
    }
}

/// Whether anything may be written at present.
type Leads = Arc<dyn Fn() -> bool + Send + Sync>;

/// A client of the API server.
pub(crate) struct Api {
    client: Client,
    leads: Leads,
    /// Kinds that were asked for; those that are not there are asked for again.
    found: Mutex<BTreeMap<(String, String), (String, Scope)>>,
}

impl Api {
    pub(crate) fn new(client: Client, leads: Leads) -> Self {
        Self { client, leads, found: Mutex::new(BTreeMap::new()) }
    }

    /// Whether the server answers, and we may write to it.
    pub(crate) async fn is_there(&self) -> Result<(), ApiFault> {
        if !(self.leads)() {
            return Err(not_leading("ask", "the API server"));
        }
        let nothing = (None, Form::Whole);
        self.text(Method::GET, "/version".into(), nothing, "ask", "the API server").await.map(drop)
    }

    /// The object of that name, whatever its uid.
    pub(crate) async fn find(&self, object: &ObjectRef) -> Result<Option<Value>, ApiFault> {
        let path = self.path(object).await?;
        match self.json(Method::GET, path, None, "read", &object.to_string()).await {
            Ok(found) => Ok(Some(found)),
            Err(ApiFault::NotFound { .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The very object (I9): by its uid, or, where only its name is known, the one that had it then. A reference with neither is ours, or
    /// was read from another object: the one that is there now.
    pub(crate) async fn get(&self, object: &ObjectRef) -> Result<Value, ApiFault> {
        let gone = || ApiFault::NotFound { object: object.to_string() };
        let found = self.find(object).await?.ok_or_else(gone)?;
        let uid = text(&found, &["metadata", "uid"]).unwrap_or_default();
        if !object.uid.is_empty() {
            return if object.uid == uid { Ok(found) } else { Err(gone()) };
        }
        let Some(as_of) = object.as_of else { return Ok(found) };
        // Its time is in whole seconds, rounded down.
        match seconds(&found["metadata"]["creationTimestamp"]) {
            Some(made) if made <= as_of.unix_seconds() => Ok(found),
            _ => Err(ApiFault::Another {
                object: object.to_string(),
                as_of: as_of.to_string(),
                made: text(&found, &["metadata", "creationTimestamp"]).unwrap_or("no known time").to_owned(),
            }),
        }
    }

    /// All of a kind that a query selects, in a namespace or everywhere.
    pub(crate) async fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        query: &str,
    ) -> Result<Vec<Value>, ApiFault> {
        self.pages(api_version, kind, namespace, query, Form::Whole).await
    }

    /// The metadata of all of a kind that a query selects, where nothing else is needed of them.
    pub(crate) async fn list_metadata(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        query: &str,
    ) -> Result<Vec<Value>, ApiFault> {
        self.pages(api_version, kind, namespace, query, Form::Metadata).await
    }

    async fn pages(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        query: &str,
        form: Form,
    ) -> Result<Vec<Value>, ApiFault> {
        let base = self.collection(api_version, kind, namespace).await?;
        let what = format!("{kind}s");
        let mut all = Vec::new();
        let mut after = String::new();
        let mut room = MAX_ANSWER;
        loop {
            let mut path = format!("{base}?limit={PAGE}");
            for (name, value) in
                [("continue", after.as_str())].into_iter().filter(|(_, value)| !value.is_empty())
            {
                path.push_str(&format!("&{name}={}", percent_encoded(value)));
            }
            if !query.is_empty() {
                path.push_str(&format!("&{query}"));
            }
            let text_of_page = self.text(Method::GET, path, (None, form), "list", &what).await?;
            room = room.checked_sub(text_of_page.len()).ok_or_else(|| ApiFault::Refused {
                operation: "list",
                object: what.clone(),
                because: format!("they have more than {MAX_ANSWER} bytes"),
            })?;
            let mut page = parsed(&text_of_page, "list", &what)?;
            drop(text_of_page);
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                for mut item in items {
                    // Lists leave out what every one of their items is.
                    item["apiVersion"] = api_version.into();
                    item["kind"] = kind.into();
                    all.push(item);
                }
            }
            if all.len() > MAX_LIST {
                let because = format!("there are more than {MAX_LIST}");
                return Err(ApiFault::Refused { operation: "list", object: what, because });
            }
            match text(&page, &["metadata", "continue"]).filter(|token| !token.is_empty()) {
                Some(token) => after = token.to_owned(),
                None => return Ok(all),
            }
        }
    }

    /// One page of a collection, as the query says, for what [`Api::list`] does not do.
    pub(crate) async fn page(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        query: &str,
    ) -> Result<Value, ApiFault> {
        let base = self.collection(api_version, kind, namespace).await?;
        self.json(Method::GET, format!("{base}?{query}"), None, "list", &format!("{kind}s")).await
    }

    pub(crate) async fn create(
        &self,
        object: &ObjectRef,
        content: &Value,
        manager: &str,
    ) -> Result<Value, ApiFault> {
        let base = self.collection(&object.api_version, &object.kind, object.namespace.as_deref()).await?;
        let path = format!("{base}?fieldManager={}", percent_encoded(manager));
        let body = Some((content, "application/json"));
        self.json(Method::POST, path, body, "create", &object.to_string()).await
    }

    /// A question as an object: reviews.
    pub(crate) async fn review(
        &self,
        api_version: &str,
        kind: &str,
        content: &Value,
    ) -> Result<Value, ApiFault> {
        let path = self.collection(api_version, kind, None).await?;
        self.json(Method::POST, path, Some((content, "application/json")), "ask", kind).await
    }

    /// A JSON patch (RFC 6902).
    pub(crate) async fn patch(
        &self,
        object: &ObjectRef,
        operations: &Value,
        manager: &str,
    ) -> Result<Value, ApiFault> {
        let path = format!("{}?fieldManager={}", self.path(object).await?, percent_encoded(manager));
        let body = Some((operations, "application/json-patch+json"));
        self.json(Method::PATCH, path, body, "change", &object.to_string()).await
    }

    /// Deletes the very object.
    pub(crate) async fn delete(&self, object: &ObjectRef, grace: Option<u32>) -> Result<(), ApiFault> {
        let path = self.path(object).await?;
        let mut options = serde_json::json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": object.uid},
        });
        if let Some(grace) = grace {
            options["gracePeriodSeconds"] = grace.into();
        }
        let body = Some((&options, "application/json"));
        self.json(Method::DELETE, path, body, "delete", &object.to_string()).await.map(drop)
    }

    /// Something to a subresource: an eviction, a scale.
    pub(crate) async fn post_below(
        &self,
        object: &ObjectRef,
        below: &str,
        content: &Value,
    ) -> Result<Value, ApiFault> {
        let path = format!("{}/{below}", self.path(object).await?);
        let body = Some((content, "application/json"));
        self.json(Method::POST, path, body, "create", &format!("{below} of {object}")).await
    }

    /// A text of a subresource: a log.
    pub(crate) async fn text_below(
        &self,
        object: &ObjectRef,
        below: &str,
        query: &str,
    ) -> Result<String, ApiFault> {
        let path = format!("{}/{below}?{query}", self.path(object).await?);
        self.text(Method::GET, path, (None, Form::Whole), "read", &format!("{below} of {object}")).await
    }

    /// Whether the cluster has a kind.
    pub(crate) async fn has(&self, api_version: &str, kind: &str) -> Result<bool, ApiFault> {
        match self.kind(api_version, kind).await {
            Ok(_) => Ok(true),
            Err(ApiFault::NoKind { .. }) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn path(&self, object: &ObjectRef) -> Result<String, ApiFault> {
        let base = self.collection(&object.api_version, &object.kind, object.namespace.as_deref()).await?;
        Ok(format!("{base}/{}", percent_encoded(&object.name)))
    }

    async fn collection(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<String, ApiFault> {
        let (plural, scope) = self.kind(api_version, kind).await?;
        let root = root(api_version);
        Ok(match namespace.filter(|_| scope == Scope::Namespaced) {
            Some(namespace) => format!("{root}/namespaces/{}/{plural}", percent_encoded(namespace)),
            None => format!("{root}/{plural}"),
        })
    }

    async fn kind(&self, api_version: &str, kind: &str) -> Result<(String, Scope), ApiFault> {
        if let Some((_, _, plural, scope)) =
            KINDS.iter().find(|(version, name, _, _)| *version == api_version && *name == kind)
        {
            return Ok(((*plural).to_owned(), *scope));
        }
        let key = (api_version.to_owned(), kind.to_owned());
        // Poisoned: what is in it is whole all the same.
        let known = self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let no_kind = || ApiFault::NoKind { api_version: api_version.into(), kind: kind.into() };
        let asked = self.json(Method::GET, root(api_version), None, "read", api_version).await;
        let resources = match asked {
            Ok(resources) => resources,
            Err(ApiFault::NotFound { .. }) => return Err(no_kind()),
            Err(fault) => return Err(fault),
        };
        let of_kind = |entry: &&Value| {
            entry["kind"] == kind && entry["name"].as_str().is_some_and(|name| !name.contains('/'))
        };
        let entry =
            resources["resources"].as_array().into_iter().flatten().find(of_kind).ok_or_else(no_kind)?;
        let scope = if entry["namespaced"] == true { Scope::Namespaced } else { Scope::Cluster };
        let found = (entry["name"].as_str().unwrap_or_default().to_owned(), scope);
        self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, found.clone());
        Ok(found)
    }

    async fn json(
        &self,
        method: Method,
        path: String,
        body: Option<(&Value, &'static str)>,
        operation: &'static str,
        object: &str,
    ) -> Result<Value, ApiFault> {
        parsed(&self.text(method, path, (body, Form::Whole), operation, object).await?, operation, object)
    }

    async fn text(
        &self,
        method: Method,
        path: String,
        (body, form): (Option<(&Value, &'static str)>, Form),
        operation: &'static str,
        object: &str,
    ) -> Result<String, ApiFault> {
        let away = |because: String| ApiFault::Away { operation, object: object.into(), because };
        if method != Method::GET && !(self.leads)() {
            return Err(not_leading(operation, object));
        }
        let mut request = Request::builder().method(method).uri(path);
        if let Some((_, kind)) = body {
            request = request.header(CONTENT_TYPE, kind);
        }
        if form == Form::Metadata {
            request = request.header(ACCEPT, METADATA);
        }
        let bytes = body.map(|(content, _)| content.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(bytes).map_err(|error| away(error.to_string()))?;
        let asked = tokio::time::timeout(PATIENCE, self.client.request_text(request)).await;
        match asked {
            Err(_) => Err(away(format!("no answer within {} s", PATIENCE.as_secs()))),
            Ok(Ok(text)) if text.len() > MAX_ANSWER => Err(ApiFault::Refused {
                operation,
                object: object.into(),
                because: format!("the answer has {} bytes, more than {MAX_ANSWER}", text.len()),
            }),
            Ok(Ok(text)) => Ok(text),
            Ok(Err(kube::Error::Api(status))) => {
                let (object, because) = (object.to_owned(), status.message.clone());
                if let Some(because) = kept_up(&status) {
                    return Err(ApiFault::Refused { operation, object, because });
                }
                Err(match status.code {
                    404 => ApiFault::NotFound { object },
                    409 => ApiFault::Conflict { object, because },
                    400..=428 | 430..=499 => {
                        ApiFault::Refused { operation, object, because: complaint(&because) }
                    }
                    _ => ApiFault::Away { operation, object, because },
                })
            }
            Ok(Err(error)) => Err(away(chain(&error))),
        }
    }
}

fn parsed(text: &str, operation: &'static str, object: &str) -> Result<Value, ApiFault> {
    serde_json::from_str(text).map_err(|error| ApiFault::Away {
        operation,
        object: object.into(),
        because: format!("the answer is no JSON: {error}"),
    })
}

fn not_leading(operation: &'static str, object: &str) -> ApiFault {
    let because = "this controller's lease has run out, so that it writes nothing".into();
    ApiFault::Away { operation, object: object.into(), because }
}

/// Where a group's objects begin.
fn root(api_version: &str) -> String {
    if api_version.contains('/') { format!("/apis/{api_version}") } else { format!("/api/{api_version}") }
}

/// A text at a path of an object.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(object, |at, part| at.get(part))?.as_str()
}

/// The reference of an object that was read.
pub(crate) fn reference(object: &Value) -> ObjectRef {
    let part = |path: &[&str]| text(object, path).unwrap_or_default().to_owned();
    ObjectRef {
        api_version: part(&["apiVersion"]),
        kind: part(&["kind"]),
        namespace: text(object, &["metadata", "namespace"]).map(str::to_owned),
        name: part(&["metadata", "name"]),
        uid: part(&["metadata", "uid"]),
        as_of: None,
    }
}

/// A time of the API server, in whole seconds since the Unix epoch.
pub(crate) fn seconds(value: &Value) -> Option<i64> {
    Time::deserialize(value).ok().map(|time| time.0.as_second())
}

/// Percent-encoding for a path's part or a query's value: all but what RFC 3986 calls unreserved.
#[must_use]
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// A disruption budget forbids an eviction: with the status by which the API server says that it is busy, but that will not pass by itself.
fn kept_up(status: &Status) -> Option<String> {
    let details = status.details.as_ref().filter(|details| details.retry_after_seconds == 0)?;
    let cause = details.causes.iter().find(|cause| cause.reason == "DisruptionBudget")?;
    Some(format!("{} {}", status.message, cause.message))
}
