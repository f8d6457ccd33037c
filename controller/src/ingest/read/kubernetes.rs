//! The Kubernetes API server's audit log: audit.k8s.io/v1 (kubernetes.io/docs/reference/config-api/apiserver-audit.v1).
//!
//! Of request objects only what the field table names is taken: environment variables, secrets' data and tokens are never read.

mod patch;

use std::{borrow::Cow, net::IpAddr};

use detect::schema::{Field, RecordBuilder};
use model::{ObjectSight, RecordKind};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{Json, Node, at, list, parse, put, put_named, required, rfc3339, scalar, text},
    told,
};

/// Reads an `Event` or an `EventList`.
pub(super) fn read(line: &[u8], into: &mut Vec<Told>) -> Result<(), Rejected> {
    read_as::<Json<'_>>(line, into)
}

fn read_as<'a, T: Node + Deserialize<'a>>(line: &'a [u8], into: &mut Vec<Told>) -> Result<(), Rejected> {
    let value: T = parse(line)?;
    let items = value.get("items").and_then(Node::items);
    match items.filter(|_| value.get("kind").is_none_or(|kind| kind.as_str() == Some("EventList"))) {
        Some(items) => list(items, true, event, into),
        None => list(std::slice::from_ref(&value), false, event, into),
    }
}

fn event<T: Node>(value: &T) -> Result<Option<Told>, Rejected> {
    if !value.is_object() {
        return Err(Rejected::at("$", "not an object"));
    }
    if let Some(kind) = value.get("kind").filter(|kind| kind.as_str() != Some("Event")) {
        return Err(Rejected::at("kind", format!("{:.40} is not Event", kind.as_value().to_string())));
    }
    let stage = required(value, "stage")?;
    if stage == "RequestReceived" {
        // The same request comes again with its answer.
        return Ok(None);
    }
    let time = rfc3339(value, "requestReceivedTimestamp").or_else(|_| rfc3339(value, "stageTimestamp"))?;
    let mut builder = RecordBuilder::new(RecordKind::KubernetesAudit);
    let name = required(value, "user.username")?;
    // A request has one identity over all its stages: an exec that has begun and the same exec that has ended are one event (I3).
    // The audit id alone is the client's word where it sends an Audit-ID header: requests that differ must not pass for one.
    let verb = required(value, "verb")?;
    let uri = value.get("requestURI").and_then(Node::as_str).unwrap_or_default();
    let received = value.get("requestReceivedTimestamp").and_then(Node::as_str).unwrap_or_default();
    let rest = model::short_hash([received, &name, &verb, uri], 6);
    let identity = format!("{}/{rest}", required(value, "auditID")?);
    builder.id(&identity).principal("kubernetes", &name);
    use Field as F;
    let plain = [
        F::Stage,
        F::Verb,
        F::ObjectResource,
        F::ObjectSubresource,
        F::ObjectNamespace,
        F::ObjectName,
        F::ObjectApiGroup,
        F::ObjectApiVersion,
        F::RequestUser,
        F::RequestGroups,
        F::ImpersonatedUser,
        F::ImpersonatedGroups,
        F::RequestSourceIps,
        F::RequestUserAgent,
        F::RequestUri,
        F::ResponseCode,
        F::ResponseReason,
    ];
    put_named(&mut builder, value, &plain);
    annotations(&mut builder, value);
    let ips: Vec<IpAddr> =
        at(value, "sourceIPs").into_iter().filter_map(scalar).filter_map(|ip| ip.parse().ok()).collect();
    // All but the last may be made up by the client (X-Forwarded-For).
    builder.origin(ips.last().copied());
    let request = value.get("requestObject").map(Node::as_value);
    let resource = text(value, "objectRef.resource").unwrap_or_default();
    let (request, whole) = request
        .as_deref()
        .map(patch::as_object)
        .map_or((None, true), |(request, whole)| (Some(request), whole));
    if !whole {
        builder.miss("requestObject");
    }
    let named = text(value, "objectRef.name")
        .or_else(|| text(request.as_deref()?, "metadata.name").map(|name| Cow::Owned(name.into_owned())))
        .or_else(|| text(value, "responseObject.metadata.name"));
    if !resource.is_empty() {
        let namespace = text(value, "objectRef.namespace");
        builder.object(&resource, namespace.as_deref(), named.as_deref().unwrap_or(""));
        builder.sight(sight(value, &verb, uri));
        builder.maybe(F::ObjectName, named.as_deref());
    }
    if let Some(uri) = text(value, "requestURI") {
        builder.maybe(F::ExecCommand, command_of(&uri).as_deref());
    }
    if let Some(request) = request {
        object(&mut builder, &request, &resource);
    }
    Ok(Some(told(builder, time)))
}

/// Which object it was, and which version came of the request, by what the server answered: a request's own words are its client's.
fn sight<T: Node>(value: &T, verb: &str, uri: &str) -> ObjectSight {
    let answered = rfc3339(value, "stageTimestamp").or_else(|_| rfc3339(value, "requestReceivedTimestamp"));
    let mut sight = ObjectSight { answered: answered.unwrap_or_default(), ..ObjectSight::default() };
    let code = value.get("responseStatus").and_then(|status| status.get("code")?.as_u64());
    // A subresource answers with another object.
    let own = text(value, "objectRef.subresource").is_none_or(|below| below.is_empty() || below == "status");
    let Some(answer) = value.get("responseObject").filter(|_| own) else { return sight };
    if !code.is_some_and(|code| (200..300).contains(&code)) {
        return sight;
    }
    let part = |path: &str| text(answer, path).map(Cow::into_owned).unwrap_or_default();
    if answer.get("kind").is_some_and(|kind| kind.as_str() == Some("Status")) {
        // What a deletion answers.
        sight.uid = part("details.uid");
        return sight;
    }
    sight.uid = part("metadata.uid");
    let dry = uri.split_once('?').is_some_and(|(_, query)| {
        query.split('&').any(|pair| percent_decoded(pair.split('=').next().unwrap_or_default()) == "dryRun")
    });
    if matches!(verb, "create" | "update" | "patch") && !dry {
        sight.version = part("metadata.resourceVersion");
    }
    sight
}

fn annotations<T: Node>(builder: &mut RecordBuilder, value: &T) {
    let annotation = |name: &str| value.get("annotations")?.get(name)?.as_str();
    builder.maybe(Field::AuthorizationDecision, annotation("authorization.k8s.io/decision"));
    builder.maybe(Field::AuthorizationReason, annotation("authorization.k8s.io/reason"));
    let extra = value.get("user").and_then(|user| user.get("extra"));
    for (field, name) in [
        (Field::RequestPod, "authentication.kubernetes.io/pod-name"),
        (Field::RequestPodUid, "authentication.kubernetes.io/pod-uid"),
    ] {
        let told = extra.and_then(|extra| extra.get(name)?.items()).unwrap_or_default();
        builder.list(field, told.iter().filter_map(Node::as_str));
    }
}

/// What the table has of a request object.
fn object(builder: &mut RecordBuilder, request: &Value, resource: &str) {
    use Field as F;
    let of_request = |name: &'static str| name.strip_prefix("requestObject.").unwrap_or(name);
    let plain = [
        F::RoleRefName,
        F::RoleSubjects,
        F::RoleSubjectKinds,
        F::RoleVerbs,
        F::RoleResources,
        F::WebhookUrls,
        F::ServiceExternalIps,
        F::SignerName,
        F::TokenSeconds,
        F::ServiceType,
    ];
    for field in plain {
        put(builder, field, request, &[of_request(field.name())]);
    }
    // An object may hold specifications where its kind has none: the API server drops them, but they must not hide the real one.
    let own = match resource {
        "pods" => "/spec",
        "cronjobs" => "/spec/jobTemplate/spec/template/spec",
        "podtemplates" => "/template/spec",
        _ => "/spec/template/spec",
    };
    let others = ["/spec/jobTemplate/spec/template/spec", "/spec/template/spec", "/template/spec", "/spec"];
    let all = std::iter::once(own).chain(others.into_iter().filter(|path| *path != own));
    let specs: Vec<&Value> =
        all.filter_map(|path| request.pointer(path)).filter(|spec| is_pod_spec(spec)).collect();
    if !specs.is_empty() {
        pod(builder, &specs);
    }
}

/// Whether an object is (a patch of) a pod's specification, and not another resource's.
fn is_pod_spec(spec: &Value) -> bool {
    [
        "containers",
        "initContainers",
        "ephemeralContainers",
        "volumes",
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "serviceAccountName",
        "nodeName",
    ]
    .iter()
    .any(|key| spec.get(key).is_some())
}

fn pod(builder: &mut RecordBuilder, specs: &[&Value]) {
    use Field as F;
    let of_all = |path: &str| specs.iter().flat_map(|spec| at(*spec, path)).collect::<Vec<_>>();
    let containers: Vec<&Value> = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .flat_map(|kind| of_all(kind))
        .filter(|container| container.is_object())
        .collect();
    let of_each =
        |path: &str| containers.iter().flat_map(|one| at(*one, path)).filter_map(scalar).collect::<Vec<_>>();
    let any_true = |path: &str| of_each(path).iter().any(|text| text == "true");
    let lists = [
        (F::PodImages, of_each("image")),
        (F::PodContainers, of_each("name")),
        (F::PodCapabilities, of_each("securityContext.capabilities.add")),
        (F::PodHostPaths, of_all("volumes.hostPath.path").into_iter().filter_map(scalar).collect()),
        (
            F::PodRunAsUser,
            of_all("securityContext.runAsUser")
                .into_iter()
                .filter_map(scalar)
                .chain(of_each("securityContext.runAsUser"))
                .collect(),
        ),
    ];
    for (field, texts) in &lists {
        builder.list(*field, texts.iter().map(AsRef::as_ref));
    }
    let commands: Vec<String> = containers
        .iter()
        .map(|one| {
            at(*one, "command")
                .into_iter()
                .chain(at(*one, "args"))
                .filter_map(scalar)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|command| !command.is_empty())
        .collect();
    builder.list(F::PodCommands, commands.iter().map(String::as_str));
    builder.truth(F::PodPrivileged, any_true("securityContext.privileged"));
    builder.truth(F::PodEscalation, any_true("securityContext.allowPrivilegeEscalation"));
    for (field, key) in
        [(F::PodHostNetwork, "hostNetwork"), (F::PodHostPid, "hostPID"), (F::PodHostIpc, "hostIPC")]
    {
        builder.truth(field, specs.iter().any(|spec| spec.get(key) == Some(&Value::Bool(true))));
    }
    let first = |path: &str| specs.iter().find_map(|spec| text(*spec, path));
    builder.maybe(
        F::PodServiceAccount,
        first("serviceAccountName").or_else(|| first("serviceAccount")).as_deref(),
    );
    builder.maybe(F::PodNode, first("nodeName").as_deref());
}

/// The `command=` words of an exec's or attach's request.
fn command_of(uri: &str) -> Option<String> {
    let (path, query) = uri.split_once('?')?;
    if !path.ends_with("/exec") {
        return None;
    }
    let words: Vec<String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| percent_decoded(key) == "command")
        .map(|(_, word)| percent_decoded(word))
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match (byte, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What of a line is left where each of its parts is left out, or is something else.
    fn twisted(value: &Value, take: &mut dyn FnMut(&Value)) {
        let others =
            [json!(null), json!("RequestReceived"), json!(-7), json!({"kind": "x"}), json!(["y", 1, null])];
        match value {
            Value::Object(keys) => {
                for (key, inner) in keys {
                    let with = |other: Option<Value>| {
                        let mut keys = keys.clone();
                        match other {
                            Some(other) => keys.insert(key.clone(), other),
                            None => keys.remove(key),
                        };
                        Value::Object(keys)
                    };
                    take(&with(None));
                    others.iter().for_each(|other| take(&with(Some(other.clone()))));
                    twisted(inner, &mut |inner| take(&with(Some(inner.clone()))));
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    twisted(item, &mut |item| {
                        let mut items = items.clone();
                        items[at] = item.clone();
                        take(&Value::Array(items));
                    });
                }
            }
            _ => {}
        }
    }

    #[test]
    fn a_line_says_the_same_whether_its_texts_are_copied_or_not() {
        let log = include_str!("../../../tests/ingest/kubernetes-audit.log");
        let (mut read, mut refused) = (0, 0);
        let mut compare = |line: &str| {
            let (mut copied, mut borrowed) = (Vec::new(), Vec::new());
            let of_copied = read_as::<Value>(line.as_bytes(), &mut copied);
            let of_borrowed = read_as::<Json<'_>>(line.as_bytes(), &mut borrowed);
            assert_eq!((&of_borrowed, &borrowed), (&of_copied, &copied), "{line}");
            read += borrowed.len();
            refused += usize::from(of_borrowed.is_err());
        };
        for line in log.lines() {
            compare(line);
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            twisted(&value, &mut |other| compare(&other.to_string()));
        }
        assert!(read > 1000 && refused > 100, "{read} {refused}");
    }

    /// A request and its answer at the level RequestResponse; `more` replaces parts of it.
    fn sight_of(more: &Value) -> ObjectSight {
        let mut event = json!({
            "kind": "Event", "auditID": "a", "stage": "ResponseComplete", "verb": "patch",
            "requestURI": "/apis/rbac.authorization.k8s.io/v1/namespaces/pay/rolebindings/b",
            "user": {"username": "mallory"}, "responseStatus": {"code": 200},
            "objectRef": {"resource": "rolebindings", "namespace": "pay", "name": "b", "apiGroup": "rbac.authorization.k8s.io", "uid": "made-up", "resourceVersion": "1"},
            "requestObject": {"metadata": {"uid": "made-up", "resourceVersion": "1"}},
            "responseObject": {"kind": "RoleBinding", "metadata": {"uid": "true", "resourceVersion": "42"}},
            "requestReceivedTimestamp": "2026-11-22T14:00:00.500000Z", "stageTimestamp": "2026-11-22T14:00:01.250000Z",
        });
        for (name, value) in more.as_object().unwrap() {
            event[name] = value.clone();
        }
        let mut told = Vec::new();
        read(event.to_string().as_bytes(), &mut told).unwrap();
        told.remove(0).record.sight.unwrap()
    }

    #[test]
    fn i9_an_object_and_its_version_are_what_the_server_answered_and_not_what_a_client_wrote() {
        let sight = sight_of(&json!({}));
        assert_eq!((sight.uid.as_str(), sight.version.as_str()), ("true", "42"));
        assert_eq!(sight.answered.to_string(), "2026-11-22T14:00:01.250Z");
        // At a lower level of the log there is only the client's word, which counts for nothing.
        for lower in [json!({"responseObject": null}), json!({"responseObject": null, "requestObject": null})]
        {
            let sight = sight_of(&lower);
            assert_eq!((sight.uid.as_str(), sight.version.as_str()), ("", ""), "{lower}");
        }
        let dry =
            "/apis/rbac.authorization.k8s.io/v1/namespaces/pay/rolebindings/b?fieldManager=x&dry%52un=All";
        for nothing_written in [
            json!({"verb": "get"}),
            json!({"requestURI": dry}),
            json!({"responseStatus": {"code": 409}}),
            json!({"objectRef": {"resource": "pods", "namespace": "pay", "name": "b", "subresource": "eviction"}}),
        ] {
            assert_eq!(sight_of(&nothing_written).version, "", "{nothing_written}");
        }
        let gone = json!({"kind": "Status", "status": "Success", "details": {"name": "b", "uid": "true"}});
        let sight = sight_of(&json!({"verb": "delete", "responseObject": gone}));
        assert_eq!((sight.uid.as_str(), sight.version.as_str()), ("true", ""));
    }
}
