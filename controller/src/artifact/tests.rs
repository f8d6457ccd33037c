//! Against a registry that this test plays by TLS, as a bad one would be; tests/cluster plays it with a real one.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::{TlsAcceptor, rustls};

use super::*;

const RULE: &str =
    "title: A\nid: a\nlogsource: {product: linux}\ndetection: {s: {Image: /x}, condition: s}\n";
const TAR_GZIP: &str = "application/vnd.hemostat.rules.v1.tar+gzip";

/// What is answered to a path: status, headers, body. A path that is not there is 404.
#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Only to who shows this; others get 401 and the challenge.
    to: Option<String>,
}

#[derive(Default)]
struct Script {
    answers: BTreeMap<String, Answer>,
    challenge: String,
    /// Path and Authorization of what was asked, and the host it was asked of.
    asked: Vec<(String, Option<String>, String)>,
}

/// A registry; it ends with the test.
struct Played {
    address: SocketAddr,
    authorities: String,
    script: Arc<Mutex<Script>>,
    server: JoinHandle<()>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Played {
    async fn new() -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".into(), "localhost".into()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let (acceptor, of) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&script));
        let server = tokio::spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&of));
                links.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| {
                        let answer = answer(&mut script.lock().unwrap(), &request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let _gone = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, authorities: authority.pem(), script, server }
    }

    fn says(&self, path: &str, answer: Answer) {
        self.script.lock().unwrap().answers.insert(path.into(), answer);
    }

    fn gives(&self, path: &str, body: &[u8]) {
        self.says(path, Answer { status: 200, body: body.into(), ..Answer::default() });
    }

    /// Puts an artifact there: layers with their media types. What stands in a RuleSet to have it.
    fn publish(&self, layers: &[(&str, Vec<u8>)]) -> Wanted {
        let mut described = Vec::new();
        for (kind, bytes) in layers {
            let digest = Digest::of(bytes);
            self.gives(&format!("/v2/team/rules/blobs/{digest}"), bytes);
            described.push(json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len(),
                "annotations": {"org.opencontainers.image.title": "one.yml"}}));
        }
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest::MANIFEST, "layers": described});
        self.manifest(manifest.to_string().as_bytes())
    }

    fn manifest(&self, bytes: &[u8]) -> Wanted {
        let digest = Digest::of(bytes);
        self.gives(&format!("/v2/team/rules/manifests/{digest}"), bytes);
        self.wanted(&digest)
    }

    fn wanted(&self, digest: &Digest) -> Wanted {
        Wanted {
            reference: format!("{}/team/rules@{digest}", self.address),
            login: None,
            authorities: Some(Ok(self.authorities.clone())),
        }
    }

    fn asked(&self) -> Vec<(String, Option<String>, String)> {
        std::mem::take(&mut self.script.lock().unwrap().asked)
    }
}

fn answer(script: &mut Script, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let path = request.uri().path_and_query().unwrap().to_string();
    script.asked.push((path.clone(), header("authorization"), header("host").unwrap()));
    let missing = Answer { status: 404, ..Answer::default() };
    let found = script.answers.get(&path).cloned().unwrap_or(missing);
    let mut response = Response::builder();
    if found.to.is_some() && found.to != header("authorization") {
        response = response.status(401).header("www-authenticate", &script.challenge);
        return response.body(Full::default()).unwrap();
    }
    for (name, value) in &found.headers {
        response = response.header(*name, value);
    }
    response.status(found.status).body(Full::new(found.body.into())).unwrap()
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        // By hand: the library refuses to write what the test wants to be refused.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn linked(kind: tar::EntryType) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_path("a.yml").unwrap();
    header.set_entry_type(kind);
    header.set_link_name("/etc/shadow").unwrap();
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, &[][..]).unwrap();
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn fails(wanted: &Wanted) -> String {
    fetch(wanted).await.unwrap_err().to_string()
}

#[tokio::test]
async fn an_artifact_is_fetched_by_its_digest_and_unpacked() {
    let played = Played::new().await;
    let entries: &[(&str, &[u8])] = &[
        ("./linux/b.yaml", RULE.as_bytes()),
        ("a.yml", RULE.as_bytes()),
        ("a_test.yaml", b"left out"),
        (".hidden.yml", b"left out"),
        ("README.md", b"left out"),
    ];
    let wanted = played.publish(&[
        (TAR_GZIP, gzip(&archive(entries))),
        ("application/vnd.hemostat.rule.v1+yaml", RULE.into()),
        ("application/vnd.oci.image.layer.v1.tar", archive(&[("c.yml", b"\xff: not text")])),
    ]);
    let names = |fetched: &Fetched| fetched.files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
    let fetched = fetch(&wanted).await.unwrap();
    assert_eq!(names(&fetched), ["a.yml", "c.yml", "linux/b.yaml", "one.yml"]);
    assert_eq!(fetched.files[0].1, RULE);
    assert!(played.asked().iter().all(|(path, proof, _)| proof.is_none() && !path.contains("latest")));
    // A tag beside the digest is for people.
    let tagged = Wanted { reference: wanted.reference.replace('@', ":1.2@"), ..wanted };
    assert_eq!(fetch(&tagged).await.unwrap(), fetched);
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_refused() {
    let played = Played::new().await;
    let bytes = gzip(&archive(&[("a.yml", RULE.as_bytes())]));
    let wanted = played.publish(&[(TAR_GZIP, bytes.clone())]);
    let blob = format!("/v2/team/rules/blobs/{}", Digest::of(&bytes));
    // A tampered layer of the same length, a shorter one, a longer one.
    let mut tampered = bytes.clone();
    tampered[20] ^= 1;
    played.gives(&blob, &tampered);
    assert!(fails(&wanted).await.contains("what the registry gives is something else: sha256:"));
    played.gives(&blob, &bytes[..bytes.len() - 1]);
    assert!(fails(&wanted).await.contains("something else"));
    played.gives(&blob, &[bytes.as_slice(), b"x"].concat());
    assert!(fails(&wanted).await.contains(&format!("longer than {} bytes", bytes.len())));
    // Another manifest under the digest that is asked for.
    let digest = Digest::of(b"not this");
    let manifest = format!("/v2/team/rules/manifests/{digest}");
    played.gives(&manifest, br#"{"schemaVersion": 2, "layers": []}"#);
    assert!(fails(&played.wanted(&digest)).await.contains("something else"));
    played.gives(&manifest, &vec![b' '; manifest::MAX_MANIFEST + 1]);
    assert!(fails(&played.wanted(&digest)).await.contains("longer than"));
    // A layer that the manifest says is shorter.
    let lying = json!({"schemaVersion": 2, "layers": [{"mediaType": TAR_GZIP, "digest": Digest::of(&bytes).to_string(), "size": 5}]});
    played.gives(&blob, &bytes);
    assert!(fails(&played.manifest(lying.to_string().as_bytes())).await.contains("longer than 5 bytes"));
    // Nothing there.
    assert!(fails(&played.wanted(&Digest::of(b"missing"))).await.contains("the registry does not have it"));
}

#[tokio::test]
async fn manifests_that_are_none_of_ours_are_refused_by_what_they_are() {
    let played = Played::new().await;
    let layer =
        |kind: &str, digest: &str, size: u64| json!({"mediaType": kind, "digest": digest, "size": size});
    let zero = format!("sha256:{}", "0".repeat(64));
    let cases = [
        (
            json!({"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}),
            "give the digest of an image manifest",
        ),
        (json!({"layers": []}), "has 0 layers"),
        (json!({"manifests": []}), "has no layers"),
        (json!([1]), "cannot be understood"),
        (json!({"layers": [layer("application/octet-stream", &zero, 1)]}), "holds no rules"),
        (json!({"layers": [layer(TAR_GZIP, &format!("sha512:{}", "0".repeat(128)), 1)]}), "only sha256"),
        (json!({"layers": [layer(TAR_GZIP, &zero, 1 << 40)]}), "longer than 16777216 bytes"),
        (
            json!({"layers": [layer(TAR_GZIP, &zero, u64::MAX), layer(TAR_GZIP, &zero, u64::MAX)]}),
            "longer than",
        ),
        (json!({"layers": vec![layer(TAR_GZIP, &zero, 1); 33]}), "33 layers"),
        (
            json!({"layers": [layer("application/vnd.hemostat.rule.v1+yaml", &zero, 1)]}),
            "has no org.opencontainers.image.title",
        ),
    ];
    for (manifest, expected) in cases {
        let error = fetch(&played.manifest(manifest.to_string().as_bytes())).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{manifest}: {error}");
        assert!(matches!(error, FetchError::Useless(_)), "another try would give the same");
    }
}

#[tokio::test]
async fn i11_bombs_and_archives_that_lead_elsewhere_are_refused() {
    let played = Played::new().await;
    let rule = RULE.as_bytes();
    // 64 MiB of zeros as one file, and as the padding of an archive without files: a few KB each.
    let zeros = vec![0_u8; 64 << 20];
    let bomb = gzip(&archive(&[("a.yml", &zeros)]));
    assert!(bomb.len() < 100_000);
    let nested = gzip(&bomb);
    let cases: [(Vec<u8>, &str); 13] = [
        (bomb, "a.yml: it is longer than 1048576 bytes"),
        (gzip(&archive(&[("a.bin", &zeros)])), "unpacks to more than is allowed"),
        (nested, "it cannot be unpacked"),
        (gzip(&archive(&[("../../etc/cron.d/x.yml", rule)])), "leads out of the archive"),
        (gzip(&archive(&[("a/../../x.yml", rule)])), "leads out of the archive"),
        (gzip(&archive(&[("/etc/x.yml", rule)])), "no relative path"),
        (gzip(&archive(&[("a\\..\\x.yml", rule)])), "no relative path"),
        (gzip(&archive(&[("a\n.yml", rule)])), "no relative path"),
        (gzip(&linked(tar::EntryType::Symlink)), "it is a link"),
        (gzip(&linked(tar::EntryType::Link)), "it is a link"),
        (gzip(&linked(tar::EntryType::Char)), "it is no file"),
        (gzip(&archive(&[("a.yml", rule), ("a.yml", rule)])), "it is there twice"),
        (b"no gzip at all".to_vec(), "it cannot be unpacked"),
    ];
    for (bytes, expected) in cases {
        let said = fails(&played.publish(&[(TAR_GZIP, bytes)])).await;
        assert!(said.contains(expected), "no {expected:?} in {said}");
    }
    let said = fails(&played.publish(&[(TAR_GZIP, gzip(&archive(&[("README.md", b"x")])))])).await;
    assert!(said.contains("no file *.yml"), "{said}");
    // Many files that are each allowed: together they are not.
    let mut unpacking = Unpacking::of_at_most(100);
    unpacking.layer(&manifest::Form::Tar, &archive(&[("a.yml", &[b'x'; 60])])).unwrap();
    let over = unpacking.layer(&manifest::Form::Tar, &archive(&[("b.yml", &[b'x'; 60])])).unwrap_err();
    assert!(over.contains("longer than 100 bytes"), "{over}");
}

#[tokio::test]
async fn a_registry_is_told_who_we_are_only_where_it_may_know() {
    let (played, other) = (Played::new().await, Played::new().await);
    let bytes = gzip(&archive(&[("a.yml", RULE.as_bytes())]));
    let mut wanted = played.publish(&[(TAR_GZIP, bytes.clone())]);
    wanted.authorities = Some(Ok(format!("{}{}", played.authorities, other.authorities)));
    let secret = json!({"auths": {played.address.to_string(): {"username": "ada", "password": "pass"}}});
    let login = Login { name: "ada".into(), password: "pass".into() }.basic();
    // A token from elsewhere, and the layer from elsewhere, too.
    let blob = format!("/v2/team/rules/blobs/{}", Digest::of(&bytes));
    other.gives("/blob", &bytes);
    {
        let mut script = played.script.lock().unwrap();
        script.challenge = format!(
            "Bearer realm=\"https://{}/token?x=1\",service=\"it is\",scope=\"repository:everything:push\"",
            other.address
        );
        script.answers.values_mut().for_each(|answer| answer.to = Some("Bearer t0ken".into()));
        let sent = Answer {
            status: 307,
            headers: vec![("location", format!("https://{}/blob", other.address))],
            to: Some("Bearer t0ken".into()),
            ..Answer::default()
        };
        script.answers.insert(blob.clone(), sent);
    }
    let token = "/token?x=1&service=it%20is&scope=repository%3Ateam%2Frules%3Apull";
    let given = Answer {
        status: 200,
        body: br#"{"token": "t0ken"}"#.into(),
        to: Some(login.clone()),
        ..Answer::default()
    };
    other.says(token, given);
    assert!(fails(&wanted).await.contains("gives none to strangers"));
    wanted.login = Some(Ok(secret.to_string().into()));
    fetch(&wanted).await.unwrap();
    let asked = other.asked();
    let of = |path: &str| asked.iter().rfind(|asked| asked.0 == path).unwrap().1.clone();
    assert_eq!(of(token), Some(login.clone()));
    assert_eq!(of("/blob"), None, "elsewhere, nothing that proves who we are");
    // A wrong password, no name, and none for this registry.
    let wrong = json!({"auths": {played.address.to_string(): {"username": "ada", "password": "x"}}});
    wanted.login = Some(Ok(wrong.to_string().into()));
    assert!(fails(&wanted).await.contains("does not know the pull secret's name"));
    wanted.login = Some(Ok(br#"{"auths": {}}"#.into()));
    assert!(fails(&wanted).await.contains("the pull secret: it says nothing of 127.0.0.1"));
    wanted.login = Some(Err("there is no Secret x".into()));
    assert_eq!(fails(&wanted).await, "there is no Secret x");
    // Name and password go by TLS only, and so do we.
    wanted.login = Some(Ok(secret.to_string().into()));
    played.script.lock().unwrap().challenge = format!("Bearer realm=\"http://{}/token\"", other.address);
    assert!(fails(&wanted).await.contains("a place without TLS"));
    played.script.lock().unwrap().answers.get_mut(&blob).unwrap().to = None;
    for to in [format!("http://{}/blob", other.address), "file:///etc/passwd".into(), "//x/blob".into()] {
        let wanted = played.publish(&[(TAR_GZIP, bytes.clone())]);
        let sent = Answer { status: 302, headers: vec![("location", to.clone())], ..Answer::default() };
        played.says(&blob, sent);
        assert!(fails(&wanted).await.contains("without TLS"), "{to}");
    }
    let round = Answer { status: 302, headers: vec![("location", blob.clone())], ..Answer::default() };
    played.says(&blob, round);
    let again = Wanted { login: None, ..wanted.clone() };
    played.script.lock().unwrap().answers.values_mut().for_each(|answer| answer.to = None);
    assert!(fails(&again).await.contains("more than 4 times"));
    // Name and password as they are.
    let wanted = Wanted { login: wanted.login, ..played.publish(&[(TAR_GZIP, bytes)]) };
    {
        let mut script = played.script.lock().unwrap();
        script.challenge = "Basic realm=\"x\"".into();
        script.answers.values_mut().for_each(|answer| answer.to = Some(login.clone()));
    }
    fetch(&wanted).await.unwrap();
    assert!(
        fails(&Wanted { login: None, ..wanted.clone() })
            .await
            .contains("spec.artifact.pullSecret names nobody")
    );
    // Who is not of a known authority is not believed.
    let strange = Wanted { authorities: Some(Ok(other.authorities.clone())), ..wanted.clone() };
    assert!(fails(&strange).await.contains("cannot be reached"), "{}", fails(&strange).await);
    let none = Wanted { authorities: Some(Ok("nothing".into())), ..wanted };
    assert!(fails(&none).await.contains("no certificate in it"));
}

/// A keeper at work, with a folder of its own.
struct Kept {
    artifacts: Arc<Artifacts>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Kept {
    fn start(folder: &std::path::Path) -> Self {
        let (artifacts, stop) = (Artifacts::new(folder.into()), CancellationToken::new());
        artifacts.recall();
        let task = tokio::spawn(Arc::clone(&artifacts).run(stop.clone()));
        Self { artifacts, stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    async fn until(&self, wanted: &Wanted, so: impl Fn(&Held) -> bool) -> Held {
        let mut changes = self.artifacts.changes();
        loop {
            let held = self.artifacts.held("set", wanted.clone());
            if so(&held) {
                return held;
            }
            timeout(Duration::from_secs(120), changes.changed()).await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn the_last_good_stays_in_force_and_outlives_a_restart_without_the_registry() {
    let folder = tempfile::tempdir().unwrap();
    let played = Played::new().await;
    let first = played.publish(&[(TAR_GZIP, gzip(&archive(&[("a.yml", RULE.as_bytes())])))]);
    let kept = Kept::start(folder.path());
    let held = kept.artifacts.held("set", first.clone());
    assert!(held.files.is_empty() && held.lacks.unwrap().contains("it is being fetched"));
    kept.artifacts.tried(Duration::from_secs(30)).await;
    let good = kept.until(&first, |held| held.lacks.is_none()).await;
    assert_eq!(good.of.as_deref(), Some(first.reference.as_str()));
    // The next one is broken: what was stays, and is said.
    let second = played.publish(&[(TAR_GZIP, gzip(&archive(&[("../a.yml", RULE.as_bytes())])))]);
    let held =
        kept.until(&second, |held| held.lacks.as_ref().is_some_and(|why| !why.contains("being"))).await;
    assert_eq!((&held.files, &held.of), (&good.files, &good.of));
    let lacks = held.lacks.unwrap();
    assert!(
        lacks.contains("leads out")
            && lacks.contains(&format!("the rules of {} stay in force", first.reference)),
        "{lacks}"
    );
    // Another RuleSet that names what this one has on disk gets it from the registry only.
    kept.end().await;
    drop(played);

    let kept = Kept::start(folder.path());
    let held = kept.artifacts.held("set", first.clone());
    assert_eq!(held, good, "from disk, at once");
    let held = kept.artifacts.held("set", second.clone());
    assert_eq!(held.files, good.files);
    let other = kept.artifacts.held("other", first.clone());
    assert!(other.files.is_empty());
    kept.until(&second, |held| held.lacks.as_ref().is_some_and(|why| why.contains("cannot be reached")))
        .await;
    kept.end().await;

    // What is on disk was changed: it is not used.
    let blobs = || std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path());
    let list = folder.path().join("in-force.json");
    assert_eq!(blobs().count(), 3, "a list, a manifest and a layer, and nothing of what was refused");
    for path in blobs().filter(|path| *path != list) {
        let mut bytes = std::fs::read(&path).unwrap();
        let whole = bytes.clone();
        bytes[10] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let artifacts = Artifacts::new(folder.path().into());
        artifacts.recall();
        assert!(artifacts.held("set", first.clone()).files.is_empty(), "{}", path.display());
        std::fs::write(&path, whole).unwrap();
    }
    for text in [&b"{"[..], br#"{"set": "../../etc/passwd"}"#, b"[]"] {
        std::fs::write(&list, text).unwrap();
        let artifacts = Artifacts::new(folder.path().into());
        artifacts.recall();
        assert!(artifacts.held("set", first.clone()).files.is_empty());
    }
}

#[tokio::test]
async fn a_registry_that_comes_back_is_asked_again_with_a_growing_pause() {
    assert_eq!([1, 2, 3, 8, 9, 40].map(pause).map(|pause| pause.as_secs()), [2, 4, 8, 256, 300, 300]);
    let folder = tempfile::tempdir().unwrap();
    let played = Played::new().await;
    let bytes = gzip(&archive(&[("a.yml", RULE.as_bytes())]));
    let wanted = played.publish(&[(TAR_GZIP, bytes.clone())]);
    let blob = format!("/v2/team/rules/blobs/{}", Digest::of(&bytes));
    played.says(&blob, Answer { status: 503, ..Answer::default() });
    let kept = Kept::start(folder.path());
    let held = kept.until(&wanted, |held| held.lacks.as_ref().is_some_and(|why| why.contains("503"))).await;
    assert!(held.files.is_empty());
    played.gives(&blob, &bytes);
    kept.until(&wanted, |held| held.lacks.is_none()).await;
    // The set is gone, and so is what is on disk of it.
    kept.artifacts.keep_only(&BTreeSet::new());
    let left = || std::fs::read_dir(folder.path()).unwrap().count();
    timeout(Duration::from_secs(120), async {
        while left() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    kept.end().await;
}
