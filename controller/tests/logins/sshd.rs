//! A real sshd on loopback: its own log, read as the source `auth` reads it.

use std::{
    fs,
    net::TcpListener,
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

/// sshd, its keys and its log; ended with the test.
struct Sshd {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Sshd {
    /// `None`, said aloud, where there is none to be had.
    fn start() -> Option<Self> {
        let Some(program) =
            ["/usr/sbin/sshd", "/usr/bin/sshd"].iter().map(Path::new).find(|path| path.exists())
        else {
            println!("SKIPPED: there is no sshd here (apt-get install openssh-server)");
            return None;
        };
        if Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_err() {
            println!("SKIPPED: there is no ssh here");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        for name in ["host", "user", "stranger"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &file(name)])
                .status();
            assert!(made.unwrap().success());
        }
        fs::copy(file("user.pub"), file("authorized")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\nMaxAuthTries 2\n",
            file("host"),
            file("authorized")
        );
        fs::write(file("config"), config).unwrap();
        // Its folder of privilege separation is made by its package's service.
        let tests = Command::new(program).args(["-t", "-f", &file("config")]).output().unwrap();
        if !tests.status.success() {
            println!("SKIPPED: sshd does not start here: {}", String::from_utf8_lossy(&tests.stderr).trim());
            return None;
        }
        let child = Command::new(program)
            .args(["-D", "-f", &file("config"), "-E", &file("log")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self { folder, port, child };
        this.until(|log| log.contains("Server listening"));
        Some(this)
    }

    fn login(&self, user: &str, key: &str) -> bool {
        let known = self.file("known");
        Command::new("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "IdentitiesOnly=yes",
            ])
            .args(["-o", &format!("UserKnownHostsFile={}", known.display()), "-i"])
            .arg(self.file(key))
            .args(["-p", &self.port.to_string(), "-l", user, "127.0.0.1", "true"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .env_remove("SSH_AUTH_SOCK")
            .status()
            .unwrap()
            .success()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn until(&self, fits: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let log = fs::read_to_string(self.file("log")).unwrap_or_default();
            if fits(&log) {
                return log;
            }
            assert!(Instant::now() < until, "{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn what_a_real_sshd_logs_is_read() {
    let Some(sshd) = Sshd::start() else { return };
    let me =
        String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned();
    assert!(!sshd.login(&me, "stranger"), "a key that is not known");
    assert!(!sshd.login("no-such-user", "stranger"));
    // A name that imitates the end of the line.
    assert!(!sshd.login("x from 10.9.9.9 port 22 ssh2", "stranger"));
    let good = sshd.login(&me, "user");
    let log = sshd.until(|log| !good || log.contains("Disconnected from user"));
    println!("{log}");
    // With -E sshd writes its messages alone; a syslog daemon would put time, host and tag in front, as here.
    let (mut reader, mut told) = (Reader::new(Format::Auth, Zone::UTC), vec![]);
    for line in log.lines() {
        let line = format!("2026-11-22T15:04:05.000001+00:00 host sshd[7]: {line}");
        reader.read(line.as_bytes(), Place { offset: 0, now: (wall_clock())() }, &mut told).unwrap();
    }
    let logins: Vec<&Told> = told.iter().filter(|one| word(one, "AuthAction") == "login").collect();
    let failed = |user: &str| {
        logins.iter().any(|one| {
            word(one, "AuthOutcome") == "failure"
                && word(one, "TargetUserName") == user
                && word(one, "IpAddress") == "127.0.0.1"
        })
    };
    assert!(failed("no-such-user"), "{log}");
    assert!(logins.iter().all(|one| word(one, "IpAddress") != "10.9.9.9"), "nobody came from there: {log}");
    if good {
        let accepted = logins.iter().find(|one| word(one, "AuthOutcome") == "success").unwrap();
        assert_eq!(
            (word(accepted, "TargetUserName"), word(accepted, "AuthMethod"), word(accepted, "IpAddress")),
            (me, "publickey".to_owned(), "127.0.0.1".to_owned())
        );
        assert!(word(accepted, "KeyFingerprint").starts_with("SHA256:"));
        assert!(told.iter().any(|one| word(one, "AuthAction") == "logout"), "{log}");
    } else {
        println!("SKIPPED: the good login: sshd does not let {me} in here");
    }
}
