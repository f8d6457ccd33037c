//! A real Keycloak: its own log, read as the source `keycloak` reads it, also of names that would be fields of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::word;
use hemostat_controller::{
    ingest::{
        Format,
        read::{Place, Reader, Told, Zone},
    },
    wall_clock,
};

const RELEASE: &str = "keycloak-26.0.7";

/// Keycloak in a folder of its own; ended with the test.
struct Keycloak {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Keycloak {
    /// `None`, said aloud, where there is none to be had.
    fn start() -> Option<Self> {
        let cache = std::env::var_os("HEMOSTAT_CACHE").map(PathBuf::from);
        let Some(release) = cache.map(|cache| cache.join(RELEASE)).filter(|path| path.is_dir()) else {
            println!(
                "SKIPPED: there is no HEMOSTAT_CACHE/{RELEASE} (Maven: org.keycloak:keycloak-quarkus-dist:26.0.7:zip, unpacked)"
            );
            return None;
        };
        if Command::new("java").arg("-version").stderr(Stdio::null()).status().is_err() {
            println!("SKIPPED: there is no java here");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // It writes into its own folder.
        assert!(Command::new("cp").arg("-r").arg(&release).arg(folder.path()).status().unwrap().success());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("sh")
            .arg(folder.path().join(RELEASE).join("bin/kc.sh"))
            .args(["start-dev", "--http-host=127.0.0.1", &format!("--http-port={port}")])
            .args(["--log=file", "--log-file-output=json", "--log-level=info"])
            .arg(format!("--log-file={}", log(folder.path()).display()))
            .arg("--spi-events-listener-jboss-logging-success-level=info")
            .env("KC_BOOTSTRAP_ADMIN_USERNAME", "admin")
            .env("KC_BOOTSTRAP_ADMIN_PASSWORD", "a password")
            .env("JAVA_OPTS_KC_HEAP", "-Xms128m -Xmx512m")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What it starts ends with it.
            .process_group(0)
            .spawn()
            .unwrap();
        let this = Self { folder, port, child };
        this.until("it answers", || this.ask("GET", "/realms/master", "").starts_with("HTTP/1.1 200"));
        Some(this)
    }

    /// An answer's head and body; nothing where there is none.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return String::new() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut answer = Vec::new();
        let asked = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        let _whole = asked.and_then(|()| stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn login(&self, user: &str, password: &str, client: &str) -> bool {
        let coded = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let body = format!(
            "grant_type=password&client_id={}&username={}&password={}",
            coded(client),
            coded(user),
            coded(password)
        );
        self.ask("POST", "/realms/master/protocol/openid-connect/token", &body).contains("access_token")
    }

    /// What its log tells, and what of it is refused.
    fn told(&self) -> (Vec<Told>, Vec<String>) {
        let (mut reader, mut told, mut refused) =
            (Reader::new(Format::Keycloak, Zone::UTC), Vec::new(), Vec::new());
        let text = fs::read_to_string(log(self.folder.path())).unwrap_or_default();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let place = Place { offset: 0, now: (wall_clock())() };
            if let Err(why) = reader.read(line.as_bytes(), place, &mut told) {
                refused.push(format!("{why}: {line}"));
            }
        }
        (told, refused)
    }

    fn until(&self, what: &str, so: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(600);
        while !so() {
            assert!(
                Instant::now() < until,
                "{what}: {}",
                fs::read_to_string(log(self.folder.path())).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn log(folder: &Path) -> PathBuf {
    folder.join("keycloak.log")
}

impl Drop for Keycloak {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        drop(Command::new("kill").args(["-s", "KILL", "--", &group]).status());
        drop(self.child.wait());
    }
}

#[test]
fn what_a_real_keycloak_logs_is_read_and_nobody_makes_up_a_field_of_it() {
    let Some(keycloak) = Keycloak::start() else { return };
    let names =
        ["dana", r#"x", ipAddress="8.8.8.8", error="y"#, r"back\", "two\nlines type=\"LOGIN\"", "a, error="];
    for name in names {
        assert!(!keycloak.login(name, "wrong", "admin-cli"), "{name}");
    }
    let clients = [r#"c", ipAddress="8.8.8.8"#, r"c\", r#"c", ipAddress="#];
    for client in clients {
        assert!(!keycloak.login("dana", "wrong", client), "{client}");
    }
    assert!(keycloak.login("admin", "a password", "admin-cli"));
    let all = names.len() + clients.len() + 1;
    keycloak.until("its log tells of all", || keycloak.told().0.len() >= all);
    let (told, refused) = keycloak.told();
    assert_eq!((told.len(), &refused[..]), (all, &[][..]), "{refused:#?}");
    for one in &told {
        assert_eq!(word(one, "IpAddress"), "127.0.0.1", "{one:#?}");
        assert_eq!(word(one, "AuthAction"), "login", "{one:#?}");
    }
    let (last, failed) = told.split_last().unwrap();
    assert_eq!((word(last, "AuthOutcome"), word(last, "TargetUserName")), ("success".into(), "admin".into()));
    assert!(failed.iter().all(|one| word(one, "AuthOutcome") == "failure"), "{failed:#?}");
    for (one, name) in failed.iter().zip(names) {
        assert_eq!(word(one, "TargetUserName"), name.replace('\n', " "), "{one:#?}");
        assert_eq!(word(one, "FailureReason"), "user_not_found", "{one:#?}");
    }
}
