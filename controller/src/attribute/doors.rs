//! From where a pod can be reached: Services and Ingresses, by what they select. Pure, as the index that it is part of.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{Door, Reach, Timestamp};

use super::fact::{IngressSeen, PodSeen, ServiceSeen};

/// Services and Ingresses that are kept together (I11); further ones are counted.
const MAX_KEPT: usize = 50_000;

/// Doors told of one pod (I11).
const MAX_DOORS: usize = 16;

/// Services and Ingresses that there are.
#[derive(Debug, Default)]
pub(super) struct Doors {
    services: HashMap<String, BTreeMap<String, (ServiceSeen, Timestamp)>>,
    ingresses: HashMap<String, BTreeMap<String, (IngressSeen, Timestamp)>>,
    /// uid → namespace.
    places: HashMap<String, String>,
}

/// Whether there was room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    None,
}

impl Doors {
    pub(super) fn service(&mut self, seen: ServiceSeen, now: Timestamp) -> Room {
        let room = self.room(&seen.uid, &seen.namespace);
        if room == Room::Enough {
            let here = self.services.entry(seen.namespace.clone()).or_default();
            let known = here.get(&seen.uid);
            if known.is_none_or(|(old, _)| old.version < seen.version) {
                let since = known.filter(|(old, _)| old.same(&seen)).map_or(now, |(_, since)| *since);
                here.insert(seen.uid.clone(), (seen, since));
            }
        }
        room
    }

    pub(super) fn ingress(&mut self, seen: IngressSeen, now: Timestamp) -> Room {
        let room = self.room(&seen.uid, &seen.namespace);
        if room == Room::Enough {
            let here = self.ingresses.entry(seen.namespace.clone()).or_default();
            let known = here.get(&seen.uid);
            if known.is_none_or(|(old, _)| old.version < seen.version) {
                let since = known.filter(|(old, _)| old.same(&seen)).map_or(now, |(_, since)| *since);
                here.insert(seen.uid.clone(), (seen, since));
            }
        }
        room
    }

    pub(super) fn gone(&mut self, uid: &str) {
        let Some(namespace) = self.places.remove(uid) else { return };
        if let Some(here) = self.services.get_mut(&namespace) {
            here.remove(uid);
        }
        if let Some(here) = self.ingresses.get_mut(&namespace) {
            here.remove(uid);
        }
    }

    /// `uids` are sorted: other Services are gone.
    pub(super) fn services_listed(&mut self, uids: &[String]) {
        let known: Vec<String> = self.services.values().flat_map(BTreeMap::keys).cloned().collect();
        known.iter().filter(|uid| uids.binary_search(uid).is_err()).for_each(|uid| self.gone(uid));
    }

    /// `uids` are sorted: other Ingresses are gone.
    pub(super) fn ingresses_listed(&mut self, uids: &[String]) {
        let known: Vec<String> = self.ingresses.values().flat_map(BTreeMap::keys).cloned().collect();
        known.iter().filter(|uid| uids.binary_search(uid).is_err()).for_each(|uid| self.gone(uid));
    }

    /// The ways by which `pod` is reached from outside of the cluster, the widest first.
    pub(super) fn of(&self, pod: &PodSeen, known: Timestamp) -> Vec<Door> {
        let mut doors: Vec<Door> = Vec::new();
        for port in &pod.host_ports {
            doors.push(Door { reach: Reach::Network, what: format!("port {port} of its node"), known });
        }
        let none = BTreeMap::new();
        let services = self.services.get(&pod.namespace).unwrap_or(&none);
        let mut behind = BTreeSet::new();
        for (service, since) in services.values().filter(|(service, _)| service.selects(pod)) {
            behind.insert(service.name.as_str());
            if let Some((reach, how)) = service.reach() {
                let what = format!("Service {}/{} {how}", service.namespace, service.name);
                doors.push(Door { reach, what, known: *since });
            }
        }
        for (ingress, since) in self.ingresses.get(&pod.namespace).into_iter().flat_map(BTreeMap::values) {
            let Some(service) = ingress.services.iter().find(|name| behind.contains(name.as_str())) else {
                continue;
            };
            let hosts = match ingress.hosts.is_empty() {
                true => "any host".to_owned(),
                false => ingress.hosts.join(", "),
            };
            let what =
                format!("Ingress {}/{} for {hosts}, by Service {service}", ingress.namespace, ingress.name);
            let reach = reach_of(&ingress.addresses);
            doors.push(Door { reach, what, known: *since });
        }
        doors.sort();
        doors.truncate(MAX_DOORS);
        doors
    }

    fn room(&mut self, uid: &str, namespace: &str) -> Room {
        if !self.places.contains_key(uid) {
            if self.places.len() >= MAX_KEPT {
                return Room::None;
            }
            self.places.insert(uid.to_owned(), namespace.to_owned());
        }
        Room::Enough
    }
}

impl ServiceSeen {
    fn same(&self, other: &Self) -> bool {
        (&self.kind, &self.selector, &self.addresses, &self.ports)
            == (&other.kind, &other.selector, &other.addresses, &other.ports)
    }

    /// A Service without a selector has its ends written by hand, which are not read.
    fn selects(&self, pod: &PodSeen) -> bool {
        !self.selector.is_empty()
            && self.selector.iter().all(|(name, value)| pod.labels.get(name) == Some(value))
    }

    fn reach(&self) -> Option<(Reach, String)> {
        let ports = self.ports.join(", ");
        let at = match self.addresses.is_empty() {
            true => String::new(),
            false => format!(" at {}", self.addresses.join(", ")),
        };
        match self.kind.as_str() {
            "LoadBalancer" => {
                Some((reach_of(&self.addresses), format!("of type LoadBalancer{at} (ports {ports})")))
            }
            "NodePort" => Some((Reach::Network, format!("of type NodePort{at} (ports {ports})"))),
            _ if !self.addresses.is_empty() => {
                Some((reach_of(&self.addresses), format!("with external addresses{at} (ports {ports})")))
            }
            _ => None,
        }
    }
}

impl IngressSeen {
    fn same(&self, other: &Self) -> bool {
        (&self.hosts, &self.services, &self.addresses) == (&other.hosts, &other.services, &other.addresses)
    }
}

/// Where all addresses are private the door leads to a network; a name, or an address that is not told yet, may lead anywhere (I9).
fn reach_of(addresses: &[String]) -> Reach {
    let private = |text: &String| match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(v4)) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        Ok(std::net::IpAddr::V6(v6)) => {
            v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local()
        }
        Err(_) => false,
    };
    match !addresses.is_empty() && addresses.iter().all(private) {
        true => Reach::Network,
        false => Reach::Internet,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use detect::schema::{Field, RecordBuilder};
    use model::{Direction, Reach, Record, RecordKind, Timestamp};

    use crate::attribute::{Pods, fact::Fact, index::Limits, listed};

    const OBJECTS: &str = r#"{"items": [
      {"kind": "Pod", "metadata": {"name": "web-1", "namespace": "pay", "uid": "u-web", "resourceVersion": "1", "labels": {"app": "web"}},
       "spec": {"containers": [{"name": "web", "ports": [{"containerPort": 80, "hostPort": 8080}],
                                "envFrom": [{"secretRef": {"name": "token"}}],
                                "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]}],
                "volumes": [{"name": "a", "secret": {"secretName": "tls"}},
                            {"name": "b", "projected": {"sources": [{"secret": {"name": "more"}}]}}]},
       "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.7"}]}},
      {"kind": "Pod", "metadata": {"name": "db-0", "namespace": "pay", "uid": "u-db", "resourceVersion": "2", "labels": {"app": "db"}},
       "spec": {"containers": [{"name": "db"}]}, "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.8"}]}},
      {"kind": "Service", "metadata": {"name": "web", "namespace": "pay", "uid": "s-1", "resourceVersion": "3"},
       "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 443, "nodePort": 30443}]},
       "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}},
      {"kind": "Service", "metadata": {"name": "inner", "namespace": "pay", "uid": "s-2", "resourceVersion": "4"},
       "spec": {"type": "ClusterIP", "selector": {"app": "web"}, "ports": [{"port": 80}]}},
      {"kind": "Service", "metadata": {"name": "web", "namespace": "other", "uid": "s-3", "resourceVersion": "5"},
       "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": 30080}]}},
      {"kind": "Service", "metadata": {"name": "db", "namespace": "pay", "uid": "s-4", "resourceVersion": "6"},
       "spec": {"type": "LoadBalancer", "selector": {"app": "db"}, "ports": [{"port": 5432}]},
       "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.9"}]}}},
      {"kind": "Ingress", "metadata": {"name": "shop", "namespace": "pay", "uid": "i-1", "resourceVersion": "7"},
       "spec": {"rules": [{"host": "shop.example", "http": {"paths": [{"pathType": "Prefix", "path": "/",
                "backend": {"service": {"name": "inner", "port": {"number": 80}}}}]}}]}}
    ]}"#;

    fn pods() -> Pods {
        let pods = Pods::new(Limits::default(), Arc::new(|| Timestamp(1_000)));
        listed::facts(OBJECTS.as_bytes(), &enrich::Classes::default().annotations())
            .unwrap()
            .into_iter()
            .for_each(|(_, fact)| pods.tell(fact));
        pods
    }

    #[test]
    fn from_where_a_pod_is_reached_is_told_by_services_and_ingresses() {
        let pods = pods();
        let web = pods.pod("u-web").unwrap();
        let told: Vec<(Reach, &str)> =
            web.doors.iter().map(|door| (door.reach, door.what.as_str())).collect();
        let wanted = [
            (Reach::Internet, "Ingress pay/shop for shop.example, by Service inner"),
            (Reach::Internet, "Service pay/web of type LoadBalancer at 203.0.113.7 (ports 443 (node 30443))"),
            (Reach::Network, "port 8080 of its node"),
        ];
        assert_eq!(told, wanted, "a Service of another namespace, and one within the cluster, are no doors");
        let secrets: Vec<&str> = web.secrets.iter().map(|secret| secret.name.as_str()).collect();
        assert_eq!(secrets, ["db", "more", "tls", "token"]);
        let db = pods.pod("u-db").unwrap();
        assert_eq!(
            db.doors.iter().map(|door| door.reach).collect::<Vec<_>>(),
            [Reach::Network],
            "a private balancer"
        );
        pods.tell(Fact::DoorGone { uid: "i-1".into() });
        pods.tell(Fact::ServicesListed(vec!["s-2".into(), "s-4".into()]));
        let doors = pods.pod("u-web").unwrap().doors;
        assert_eq!(doors.iter().map(|door| door.reach).collect::<Vec<_>>(), [Reach::Network], "{doors:?}");
    }

    fn flow(from: &str, to: &str, verdict: &str) -> Record {
        let mut builder = RecordBuilder::new(RecordKind::HubbleFlow);
        builder
            .address(Field::SourceIp, from.parse().unwrap())
            .address(Field::DestinationIp, to.parse().unwrap());
        builder.text(Field::FlowVerdict, verdict).text(Field::DestinationPort, "5432");
        builder.build()
    }

    #[test]
    fn who_talks_to_whom_is_told_by_flow_logs_and_what_was_refused_is_not() {
        let pods = pods();
        assert!(!pods.has_flows());
        pods.heard(&flow("10.244.0.7", "10.244.0.8", "forwarded"), Timestamp(100));
        pods.heard(&flow("10.244.0.7", "10.244.0.8", "forwarded"), Timestamp(90));
        pods.heard(&flow("198.51.100.1", "10.244.0.7", "forwarded"), Timestamp(200));
        pods.heard(&flow("10.244.0.7", "192.0.2.66", "dropped"), Timestamp(300));
        pods.heard(&flow("192.0.2.1", "192.0.2.2", "forwarded"), Timestamp(300));
        let (_, peers) = pods.surroundings("u-web").unwrap();
        let told: Vec<(Direction, &str, u64, i64)> =
            peers.iter().map(|peer| (peer.direction, peer.other.as_str(), peer.count, peer.last.0)).collect();
        assert_eq!(told, [(Direction::In, "198.51.100.1", 1, 200), (Direction::Out, "pod pay/db-0", 2, 100)]);
        let (_, peers) = pods.surroundings("u-db").unwrap();
        assert_eq!(peers[0].to_string(), "from pod pay/web-1 port 5432");
        assert_eq!(pods.talked_since("u-db", Timestamp(99)).map(|(at, _)| at), Some(Timestamp(100)));
        assert_eq!(pods.talked_since("u-db", Timestamp(100)), None);
        // The kubelet asks the pods of its node whether they are well: no policy of the network forbids it, and it is no sign of anything.
        let mut probe = RecordBuilder::new(RecordKind::HubbleFlow);
        probe.address(Field::SourceIp, "10.244.0.1".parse().unwrap());
        probe.address(Field::DestinationIp, "10.244.0.8".parse().unwrap());
        probe.text(Field::FlowVerdict, "forwarded").list(Field::FlowSourceLabels, ["reserved:host"]);
        pods.heard(&probe.build(), Timestamp(400));
        assert_eq!(pods.talked_since("u-db", Timestamp(100)), None);
    }
}
