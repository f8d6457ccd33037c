//! Attacks done with kubectl on a real API server, its real audit log read as the source `kubernetes-audit` reads it, and the rules that ship.

#![expect(clippy::unwrap_used, reason = "a test of its own; what cannot be done fails it")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use controller::{
    ingest::{
        Format,
        read::{Place, Reader, Zone},
    },
    wall_clock,
};
use detect::{
    load::load,
    matcher::{Options, RuleSet},
    source::SourceFile,
};
use hemostat_cluster_tests::{Xtask, state};
use model::{NodeId, Truncated};

struct Down<'a>(&'a Xtask);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _best_effort = self.0.cluster(&["down"]);
    }
}

const OBJECTS: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "pay"}},
{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot", "namespace": "pay"}},
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "pay"}, "spec": {"terminationGracePeriodSeconds": 0,
 "containers": [{"name": "w", "image": "hemostat.dev/busybox:1", "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "sleep 3600"]}]}},
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root", "namespace": "pay"}, "spec": {"hostPID": true, "terminationGracePeriodSeconds": 0,
 "containers": [{"name": "w", "image": "hemostat.dev/busybox:1", "imagePullPolicy": "Never", "securityContext": {"privileged": true},
  "command": ["/bin/sh", "-c", "nsenter -t 1 -m sh"], "volumeMounts": [{"name": "h", "mountPath": "/h"}]}],
 "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}]}"#;

/// What is done, and the title of a rule that must tell of it.
const ATTACKS: [(&[&str], &str); 6] = [
    (
        &[
            "--namespace=pay",
            "exec",
            "web",
            "--",
            "/bin/sh",
            "-c",
            "cat /var/run/secrets/kubernetes.io/serviceaccount/token",
        ],
        "exec_reads_credentials",
    ),
    (&["get", "secrets", "--all-namespaces"], "secrets_listed_in_all_namespaces"),
    (
        &["create", "clusterrolebinding", "own", "--clusterrole=cluster-admin", "--serviceaccount=pay:bot"],
        "cluster_admin_bound",
    ),
    (&["create", "clusterrole", "all", "--verb=*", "--resource=*"], "role_with_all_rights_created"),
    (
        &["get", "pods", "--all-namespaces", "--as=system:admin", "--as-group=system:masters"],
        "masters_impersonated",
    ),
    (
        &[
            "--namespace=pay",
            "debug",
            "web",
            "--image=hemostat.dev/busybox:1",
            "--target=w",
            "--",
            "sh",
            "-c",
            "true",
        ],
        "ephemeral_container_added",
    ),
];

/// Of [`OBJECTS`].
const OF_OBJECTS: [&str; 4] = [
    "privileged_container_requested",
    "host_processes_shared",
    "sensitive_host_path_mounted",
    "node_entered_from_pod",
];

#[test]
fn attacks_on_a_real_api_server_are_told_by_the_rules_that_ship() {
    let Some(xtask) = Xtask::here() else { return };
    xtask.cluster(&["down"]).unwrap();
    let _down = Down(&xtask);
    xtask.cluster(&["up"]).unwrap();
    let rules = Rules::load();
    // What a cluster does by itself is no attack.
    let quiet = rules.judge(&state().join("audit.log"));
    assert!(quiet.records > 50, "{}", quiet.records);
    let loud: BTreeSet<&String> = quiet.found.iter().filter(|found| rules.is_loud(found)).collect();
    assert!(loud.is_empty(), "{loud:?}");
    let manifest = state().join("objects.json");
    std::fs::write(&manifest, OBJECTS).unwrap();
    xtask.kubectl(&["apply", "--filename", manifest.to_str().unwrap()]).unwrap();
    xtask.kubectl(&["--namespace=pay", "wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).unwrap();
    for (words, _) in ATTACKS {
        xtask.kubectl(words).unwrap();
    }
    let expected: BTreeSet<&str> = ATTACKS.iter().map(|(_, rule)| *rule).chain(OF_OBJECTS).collect();
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let told = rules.judge(&state().join("audit.log"));
        let missing: Vec<_> = expected.iter().filter(|rule| !told.found.contains(**rule)).collect();
        if missing.is_empty() {
            println!("{} lines, {} records, rules that told: {:?}", told.lines, told.records, told.found);
            assert_eq!(told.refused, 0, "every line of the real log can be read");
            assert_eq!(told.cut, 0, "and is judged whole");
            return;
        }
        assert!(Instant::now() < until, "nothing told of {missing:?}; what was told: {:?}", told.found);
        std::thread::sleep(Duration::from_millis(200));
    }
}

struct Rules {
    set: Arc<RuleSet>,
    /// File of each rule by id.
    files: Vec<(String, String)>,
    loud: BTreeSet<String>,
}

#[derive(Default)]
struct Judged {
    lines: usize,
    records: usize,
    refused: usize,
    cut: usize,
    /// Names of the rules' files.
    found: BTreeSet<String>,
}

impl Rules {
    fn load() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../rules/kubernetes");
        let mut sources = vec![];
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with(".yml") && !name.ends_with(".test.yml") {
                sources.push(SourceFile { name, text: std::fs::read_to_string(&path).unwrap() });
            }
        }
        let loaded = load(&sources);
        assert_eq!(loaded.errors(), 0);
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        let file_of = |key: &str| {
            let of = |source: &&SourceFile| source.text.contains(&format!("id: {key}"));
            sources
                .iter()
                .find(of)
                .map(|source| source.name.trim_end_matches(".yml").to_owned())
                .unwrap_or_default()
        };
        let files: Vec<_> =
            loaded.rules.iter().map(|rule| (rule.key().to_owned(), file_of(rule.key()))).collect();
        let loud = loaded.rules.iter().filter(|rule| rule.meta.level_or_default() >= model::Level::High);
        let loud = loud.map(|rule| file_of(rule.key())).collect();
        Self { set: Arc::new(set), files, loud }
    }

    fn is_loud(&self, file: &str) -> bool {
        self.loud.contains(file)
    }

    fn judge(&self, log: &Path) -> Judged {
        let text = std::fs::read(log).unwrap();
        // The last line may be being written.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut reader = Reader::new(Format::KubernetesAudit, Zone::UTC);
        let (mut matcher, mut judged) = (self.set.matcher(), Judged::default());
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            judged.lines += 1;
            let mut told = vec![];
            let place = Place { offset: 0, now: (wall_clock())() };
            judged.refused += usize::from(reader.read(line, place, &mut told).is_err());
            for one in told {
                judged.records += 1;
                judged.cut += usize::from(one.record.facts.truncated() == Truncated::Yes);
                let mut hits = vec![];
                matcher.evaluate(&one.record.into_event(&NodeId::new("audit"), one.time), &mut hits);
                for hit in hits {
                    let id = &self.set.rule(hit).unwrap().id;
                    judged
                        .found
                        .extend(self.files.iter().find(|(key, _)| key == id).map(|(_, file)| file.clone()));
                }
            }
        }
        judged
    }
}
