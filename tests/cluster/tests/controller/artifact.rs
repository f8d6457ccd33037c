//! A rule set as an artifact in a real registry (distribution's), by TLS and with a pull secret.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use hemostat_cluster_tests::{cache, wait_until};
use serde_json::{Value, json};

use crate::scene::{HOME, Scene};

const TAR: &str = "application/vnd.hemostat.rules.v1.tar";

/// Killed at the end.
struct Registry {
    child: Child,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// `None`, said aloud, where there is none.
fn registry(folder: &Path, port: u16) -> Option<Registry> {
    let program = cache()?.join("cluster/bin/registry");
    if !program.exists() {
        println!("SKIPPED: artifacts in a real registry: `cargo xtask cluster build` builds one");
        return None;
    }
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(["serve", &folder.join("config.yml").display().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("registry.log")).unwrap())
        .spawn()
        .unwrap();
    let registry = Registry { child };
    wait_until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).unwrap();
    Some(registry)
}

/// Its configuration, certificate and password file; the authority in PEM.
fn prepare(folder: &Path, port: u16) -> String {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    fs::write(at("tls.crt"), certificate.pem()).unwrap();
    fs::write(at("tls.key"), key.serialize_pem()).unwrap();
    // The password is `pass`.
    fs::write(at("htpasswd"), "ada:$2b$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n").unwrap();
    let config = json!({
        "version": "0.1", "log": {"level": "warn"}, "storage": {"filesystem": {"rootdirectory": at("store")}},
        "http": {"addr": format!("127.0.0.1:{port}"), "tls": {"certificate": at("tls.crt"), "key": at("tls.key")}},
        "auth": {"htpasswd": {"realm": "rules", "path": at("htpasswd")}},
    });
    fs::write(at("config.yml"), config.to_string()).unwrap();
    authority.pem()
}

fn digest(bytes: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}

/// Puts a blob into the registry's store, as a push would; where its bytes are.
fn put(folder: &Path, bytes: &[u8], link: &str) -> (String, std::path::PathBuf) {
    let digits = digest(bytes);
    let root = folder.join("store/docker/registry/v2");
    let data = root.join(format!("blobs/sha256/{}/{digits}/data", &digits[..2]));
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    fs::write(&data, bytes).unwrap();
    let link = root.join(format!("repositories/team/rules/{link}/sha256/{digits}/link"));
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    fs::write(link, format!("sha256:{digits}")).unwrap();
    (digits, data)
}

/// An artifact of rule files: its digest, and where its layer is.
fn publish(folder: &Path, files: &[(&str, &str)]) -> (String, std::path::PathBuf) {
    let rules = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = rules.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let tar = Command::new("tar").arg("-c").arg("-C").arg(rules.path()).arg(".").output().unwrap().stdout;
    let (layer, data) = put(folder, &tar, "_layers");
    let (config, _) = put(folder, b"{}", "_layers");
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": format!("sha256:{config}"), "size": 2},
        "layers": [{"mediaType": TAR, "digest": format!("sha256:{layer}"), "size": tar.len()}]});
    (put(folder, manifest.to_string().as_bytes(), "_manifests/revisions").0, data)
}

fn rule(name: &str, n: u32, condition: &str) -> String {
    format!(
        "title: {name}\nid: 22222222-1111-4111-8111-{n:012}\nlogsource: {{product: linux, category: process_creation}}\n\
         detection:\n  s:\n    Image|endswith: /{name}\n  condition: {condition}\nlevel: high\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_come_from_a_registry_and_stay_in_force_without_it() {
    let Some(scene) = Scene::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let authority = prepare(folder.path(), port);
    let (good, _) = publish(
        folder.path(),
        &[
            ("linux/one.yml", &rule("one", 1, "s")),
            ("linux/broken.yml", &rule("two", 2, "nobody")),
            ("README.md", "no rule"),
        ],
    );
    let Some(running) = registry(folder.path(), port) else { return };
    let mut process = scene.start("one");
    let apply = |digits: &str| {
        let artifact = json!({"reference": format!("127.0.0.1:{port}/team/rules:1.0@sha256:{digits}"),
            "pullSecret": "rules-pull", "caConfigMap": "registry-ca"});
        scene.apply(
            &json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "RuleSet", "metadata": {"name": "bundle"},
                "spec": {"artifact": artifact}})
            .to_string(),
        );
    };
    let fetched = |it: &Value| {
        let all = it["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["type"] == "Fetched").unwrap_or_default()
    };
    let says = |part: &str| {
        scene.wait(&["rset", "bundle"], |it| {
            fetched(it)["message"].as_str().is_some_and(|text| text.contains(part))
        })
    };
    apply(&good);
    // What it needs is not there yet: each is told.
    says("there is no Secret rules-pull in hemostat-system");
    let auths =
        json!({"auths": {format!("127.0.0.1:{port}"): {"username": "ada", "password": "pass"}}}).to_string();
    scene.kubectl(&[
        "create",
        "secret",
        "generic",
        "rules-pull",
        "-n",
        HOME,
        "--type=kubernetes.io/dockerconfigjson",
        &format!("--from-literal=.dockerconfigjson={auths}"),
    ]);
    says("there is no ConfigMap registry-ca in hemostat-system");
    scene.kubectl(&[
        "create",
        "configmap",
        "registry-ca",
        "-n",
        HOME,
        &format!("--from-literal=ca.crt={authority}"),
    ]);
    let loaded = |it: &Value| {
        it["status"]["rules"] == 1 && it["status"]["failed"] == 1 && fetched(it)["status"] == "True"
    };
    let object = scene.wait(&["rset", "bundle"], loaded);
    assert_eq!(object["status"]["failures"][0]["file"], "linux/broken.yml", "{object:#}");
    assert!(object["status"]["artifact"].as_str().unwrap().ends_with(&good), "{object:#}");

    // The registry is gone, and the controller begins anew: from its disk.
    drop(running);
    process.kill();
    scene.kubectl(&[
        "patch",
        "rset",
        "bundle",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status": {"rules": 0}}"#,
    ]);
    let mut process = scene.start("one");
    scene.wait(&["rset", "bundle"], loaded);

    // What the registry gives next was tampered with, then is not there: what was stays in force, and is said.
    let (next, layer) = publish(folder.path(), &[("linux/three.yml", &rule("three", 3, "s"))]);
    let whole = fs::read(&layer).unwrap();
    fs::write(&layer, String::from_utf8(whole.clone()).unwrap().replace("/three", "/threw")).unwrap();
    let _running = registry(folder.path(), port).unwrap();
    apply(&next);
    let object = says("what the registry gives is something else: sha256:");
    assert!(
        object["status"]["rules"] == 1 && object["status"]["artifact"].as_str().unwrap().ends_with(&good),
        "{object:#}"
    );
    apply(&"0".repeat(64));
    says("the registry does not have it");
    fs::write(&layer, whole).unwrap();
    apply(&next);
    scene.wait(&["rset", "bundle"], |it| {
        it["status"]["artifact"].as_str().is_some_and(|of| of.ends_with(&next)) && it["status"]["failed"] == 0
    });
    process.kill();
}
